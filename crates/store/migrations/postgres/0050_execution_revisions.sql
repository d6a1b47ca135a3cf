-- An execution refers to its job by a number and to its revision by a generation. Before, each row had the identifier of its
-- job, a text that four indexes repeated, and a copy of its revision.
--
-- The column `revision` keeps what is known of a revision that is in no row of `deployment_revision`, or is there otherwise.
-- The artifact of an execution is needed as long as it is active. A program before this migration can't work with these
-- tables.
insert into service_state (name, value) values ('schema.oldest_program', '50')
    on conflict (name) do update set value = excluded.value;

alter table data_job add column number bigint generated always as identity;
create unique index data_job_number on data_job (number);

-- The columns of eight bytes come first: no space is lost between them.
create table data_job_execution_new (
    submitted_at bigint not null,
    started_at  bigint,
    ended_at    bigint,
    -- By what lists are sorted and limited. A count reads it from an index alone, which an expression would not allow.
    start_at    bigint not null generated always as (coalesce(started_at, submitted_at)) stored,
    scheduled_tick bigint,
    cancel_requested_at bigint,
    job_number  bigint not null references data_job (number),
    generation  bigint,
    -- Of the leader that moved it on last, as long as it is active.
    leader_epoch bigint,
    -- Whether it is the one active execution of its job. The unique index below is what refuses a second.
    holds_slot  boolean not null,
    execution_id text collate "C" primary key,
    type        text collate "C" not null,
    status      text collate "C" not null,
    started_by  text collate "C" not null,
    op_id       text collate "C" not null,
    message     text collate "C",
    arguments   text collate "C",
    revision    text collate "C",
    lock_key    text collate "C",
    image       text collate "C"
);
insert into data_job_execution_new (submitted_at, started_at, ended_at, scheduled_tick, cancel_requested_at, job_number,
    generation, leader_epoch, holds_slot, execution_id, type, status, started_by, op_id, message, arguments, revision, lock_key,
    image)
select e.submitted_at, e.started_at, e.ended_at, e.scheduled_tick, e.cancel_requested_at, j.number, e.generation,
    case when e.ended_at is null then e.leader_epoch end, e.holds_slot, e.execution_id, e.type, e.status, e.started_by, e.op_id, e.message, e.arguments,
    case when v.content = e.revision then null else e.revision end,
    case when e.ended_at is null then e.lock_key end, case when e.ended_at is null then e.image end
from data_job_execution e join data_job j on j.job_id = e.job_id
    left join deployment_revision v on v.job_id = e.job_id and v.generation = e.generation
order by e.submitted_at;
alter table log_chunk drop constraint log_chunk_execution_id_fkey;
drop table data_job_execution;
alter table data_job_execution_new rename to data_job_execution;
alter index data_job_execution_new_pkey rename to data_job_execution_pkey;
alter table data_job_execution
    rename constraint data_job_execution_new_job_number_fkey to data_job_execution_job_number_fkey;
alter table log_chunk add constraint log_chunk_execution_id_fkey
    foreign key (execution_id) references data_job_execution (execution_id) on delete cascade;

create unique index data_job_execution_slot on data_job_execution (job_number) where holds_slot;
create unique index data_job_execution_tick on data_job_execution (job_number, scheduled_tick)
    where scheduled_tick is not null;
create index data_job_execution_active on data_job_execution (submitted_at)
    where status in ('SUBMITTED', 'RUNNING');
-- The identifier settles the order of what is equal; equal times are few, so it is not in these indexes.
create index data_job_execution_job_starts on data_job_execution (job_number, start_at);
create index data_job_execution_starts on data_job_execution (start_at);
-- Nearly all have succeeded: those are met along their starts.
create index data_job_execution_unsuccessful on data_job_execution (status, start_at) where status <> 'SUCCEEDED';
create index data_job_execution_ends on data_job_execution (ended_at);

-- An order that turns an index round is read without what is absent first, and no more where that fills the page.
drop index data_job_by_enabled_down;
drop index data_job_by_python_down;
drop index data_job_by_last_status_down;
drop index data_job_by_last_end_down;
drop index data_job_by_last_duration_down;

-- How many executions that are over started in each hour, so that a total does not count them one by one. An hour has as many
-- rows as changes of its count since these were summed up (`store::counts`): no two transactions ever wait for one row.
create table execution_count (
    hour       bigint not null,
    executions bigint not null
);
create index execution_count_hour on execution_count (hour);
insert into execution_count (hour, executions)
select start_at / 3600000000, count(*) from data_job_execution
where status not in ('SUBMITTED', 'RUNNING') group by 1;

-- Those that are stored when they are over, such as imported ones: many at once.
create function count_inserted_executions() returns trigger language plpgsql as $$
begin
    insert into execution_count (hour, executions)
    select start_at / 3600000000, count(*) from changed where status not in ('SUBMITTED', 'RUNNING') group by 1;
    return null;
end
$$;
create trigger data_job_execution_inserted after insert on data_job_execution
    referencing new table as changed for each statement execute function count_inserted_executions();

create function count_deleted_executions() returns trigger language plpgsql as $$
begin
    insert into execution_count (hour, executions)
    select start_at / 3600000000, -count(*) from changed where status not in ('SUBMITTED', 'RUNNING') group by 1;
    return null;
end
$$;
create trigger data_job_execution_deleted after delete on data_job_execution
    referencing old table as changed for each statement execute function count_deleted_executions();

create function count_ended_execution() returns trigger language plpgsql as $$
begin
    if old.status not in ('SUBMITTED', 'RUNNING') then
        insert into execution_count (hour, executions) values (old.start_at / 3600000000, -1);
    end if;
    if new.status not in ('SUBMITTED', 'RUNNING') then
        insert into execution_count (hour, executions) values (new.start_at / 3600000000, 1);
    end if;
    return null;
end
$$;
create trigger data_job_execution_ended after update of status, started_at, submitted_at on data_job_execution
    for each row when (new.status not in ('SUBMITTED', 'RUNNING') or old.status not in ('SUBMITTED', 'RUNNING'))
    execute function count_ended_execution();
