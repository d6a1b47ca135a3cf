-- What pages of lists are found and sorted by, so that a page costs the page. Rows that a program before this migration
-- wrote have no lower-case text; they are completed at the next start.

alter table data_job add column team_lower text;
alter table data_job add column contacts_present boolean;
alter table data_job add column deployment_python text;

-- The words of live jobs in lower case, for searches of a part of them. Lower case comes from the program: databases
-- differ in it.
create table data_job_text (
    text_id     integer primary key,
    job_id      text not null unique references data_job (job_id) on delete cascade,
    name        text not null,
    team        text not null,
    description text not null,
    cron        text not null,
    python      text not null
);

create virtual table data_job_words using fts5 (
    name, team, description, cron, python,
    content = 'data_job_text', content_rowid = 'text_id', tokenize = 'trigram case_sensitive 1', columnsize = 0
);
create trigger data_job_text_insert after insert on data_job_text begin
    insert into data_job_words (rowid, name, team, description, cron, python)
    values (new.text_id, new.name, new.team, new.description, new.cron, new.python);
end;
create trigger data_job_text_delete after delete on data_job_text begin
    insert into data_job_words (data_job_words, rowid, name, team, description, cron, python)
    values ('delete', old.text_id, old.name, old.team, old.description, old.cron, old.python);
end;
create trigger data_job_text_update after update on data_job_text begin
    insert into data_job_words (data_job_words, rowid, name, team, description, cron, python)
    values ('delete', old.text_id, old.name, old.team, old.description, old.cron, old.python);
    insert into data_job_words (rowid, name, team, description, cron, python)
    values (new.text_id, new.name, new.team, new.description, new.cron, new.python);
end;

create index data_job_incomplete on data_job (job_id) where team_lower is null and deleted_at is null;
create index data_job_by_team_lower on data_job (team_lower, name) where deleted_at is null;
create index data_job_by_description on data_job (substr(description, 1, 100), name) where deleted_at is null;
create index data_job_by_contacts on data_job (contacts_present, name) where deleted_at is null;
create index data_job_by_schedule on data_job (schedule_id, name) where deleted_at is null;
create index data_job_by_status on data_job (deployment_status, name) where deleted_at is null;
create index data_job_by_enabled on data_job (deployment_enabled, name) where deleted_at is null;
create index data_job_by_python on data_job (deployment_python, name) where deleted_at is null;
create index data_job_by_last_status on data_job (last_execution_status, name) where deleted_at is null;
create index data_job_by_last_end on data_job (last_execution_end, name) where deleted_at is null;
create index data_job_by_last_duration on data_job (last_execution_duration_seconds, name) where deleted_at is null;
create index data_job_by_successes on data_job (successful_executions, name) where deleted_at is null;
create index data_job_by_failures on data_job (failed_executions, name) where deleted_at is null;

create index schedule_by_next_tick on schedule (next_tick, schedule_id);

create index data_job_execution_starts on data_job_execution (coalesce(started_at, submitted_at), execution_id);
create index data_job_execution_job_starts
    on data_job_execution (job_id, coalesce(started_at, submitted_at), execution_id);
create index data_job_execution_ends on data_job_execution (ended_at, execution_id);
create index data_job_execution_statuses
    on data_job_execution (status, coalesce(started_at, submitted_at), execution_id);
