-- What pages of lists are found and sorted by, so that a page costs the page. Rows that a program before this migration
-- wrote have no lower-case text; they are completed at the next start.

alter table data_job add column team_lower text collate "C";
alter table data_job add column contacts_present boolean;
alter table data_job add column deployment_python text collate "C";

-- The words of live jobs in lower case, for searches of a part of them. Lower case comes from the program: databases
-- differ in it.
create table data_job_text (
    text_id     bigint generated always as identity primary key,
    job_id      text collate "C" not null unique references data_job (job_id) on delete cascade,
    name        text collate "C" not null,
    team        text collate "C" not null,
    description text collate "C" not null,
    cron        text collate "C" not null,
    python      text collate "C" not null
);

-- Where the server has no trigrams, or this role may not install them, searches of a part go through all rows.
do $$
begin
    create extension if not exists pg_trgm;
    create index data_job_text_words on data_job_text using gin
        (name gin_trgm_ops, team gin_trgm_ops, description gin_trgm_ops, cron gin_trgm_ops, python gin_trgm_ops);
exception
    when insufficient_privilege or undefined_file or feature_not_supported or undefined_object then
        raise notice 'searches go without an index: pg_trgm is not available';
end
$$;

create index data_job_incomplete on data_job (job_id) where team_lower is null and deleted_at is null;
create index data_job_by_team_lower on data_job (team_lower, name) where deleted_at is null;
create index data_job_by_description on data_job (substr(description, 1, 100), name) where deleted_at is null;
create index data_job_by_contacts on data_job (contacts_present, name) where deleted_at is null;
create index data_job_by_schedule on data_job (schedule_id, name) where deleted_at is null;
create index data_job_by_status on data_job (deployment_status, name) where deleted_at is null;
create index data_job_by_enabled on data_job (deployment_enabled, name) where deleted_at is null;
create index data_job_by_enabled_down on data_job (deployment_enabled desc nulls last, name desc) where deleted_at is null;
create index data_job_by_python on data_job (deployment_python, name) where deleted_at is null;
create index data_job_by_python_down on data_job (deployment_python desc nulls last, name desc) where deleted_at is null;
create index data_job_by_last_status on data_job (last_execution_status, name) where deleted_at is null;
create index data_job_by_last_status_down on data_job (last_execution_status desc nulls last, name desc) where deleted_at is null;
create index data_job_by_last_end on data_job (last_execution_end, name) where deleted_at is null;
create index data_job_by_last_end_down on data_job (last_execution_end desc nulls last, name desc) where deleted_at is null;
create index data_job_by_last_duration on data_job (last_execution_duration_seconds, name) where deleted_at is null;
create index data_job_by_last_duration_down on data_job (last_execution_duration_seconds desc nulls last, name desc) where deleted_at is null;
create index data_job_by_successes on data_job (successful_executions, name) where deleted_at is null;
create index data_job_by_failures on data_job (failed_executions, name) where deleted_at is null;

create index schedule_by_next_tick on schedule (next_tick, schedule_id);
create index schedule_by_next_tick_down on schedule (next_tick desc nulls last, schedule_id desc);

create index data_job_execution_starts on data_job_execution (coalesce(started_at, submitted_at), execution_id);
create index data_job_execution_job_starts
    on data_job_execution (job_id, coalesce(started_at, submitted_at), execution_id);
create index data_job_execution_ends on data_job_execution (ended_at, execution_id);
create index data_job_execution_ends_down on data_job_execution (ended_at desc nulls last, execution_id desc);
create index data_job_execution_statuses
    on data_job_execution (status, coalesce(started_at, submitted_at), execution_id);
