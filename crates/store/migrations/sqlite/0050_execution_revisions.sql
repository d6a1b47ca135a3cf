-- An execution refers to its job by a number and to its revision by a generation. Before, each row had the identifier of its
-- job, a text that four indexes repeated, and a copy of its revision.
--
-- The column `revision` keeps what is known of a revision that is in no row of `deployment_revision`, or is there otherwise.
-- The artifact of an execution is needed as long as it is active. A program before this migration can't work with these
-- tables.
insert into service_state (name, value) values ('schema.oldest_program', '50')
    on conflict (name) do update set value = excluded.value;

alter table data_job add column number integer;
update data_job set number = rowid;
create unique index data_job_number on data_job (number);
create trigger data_job_numbered after insert on data_job when new.number is null begin
    update data_job set number = (select coalesce(max(number), 0) + 1 from data_job) where job_id = new.job_id;
end;

create table data_job_execution_new (
    execution_id text primary key,
    job_number  integer not null references data_job (number),
    type        text not null,
    status      text not null,
    submitted_at integer not null,
    started_at  integer,
    ended_at    integer,
    -- By what lists are sorted and limited. A count reads it from an index alone.
    start_at    integer not null generated always as (coalesce(started_at, submitted_at)) virtual,
    scheduled_tick integer,
    cancel_requested_at integer,
    generation  integer,
    -- Of the leader that moved it on last, as long as it is active.
    leader_epoch integer,
    -- Whether it is the one active execution of its job. The unique index below is what refuses a second.
    holds_slot  boolean not null,
    started_by  text not null,
    op_id       text not null,
    message     text,
    arguments   text,
    revision    text,
    lock_key    text,
    image       text
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
-- A table that is dropped takes rows along that refer to its rows: the logs go over first.
create table log_chunk_new (
    execution_id text not null references data_job_execution_new (execution_id) on delete cascade,
    chunk        integer not null,
    content      text not null,
    primary key (execution_id, chunk)
);
insert into log_chunk_new (execution_id, chunk, content) select execution_id, chunk, content from log_chunk;
drop table log_chunk;
drop table data_job_execution;
alter table data_job_execution_new rename to data_job_execution;
alter table log_chunk_new rename to log_chunk;

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

-- How many executions that are over started in each hour, so that a total does not count them one by one.
create table execution_count (
    hour       integer primary key,
    executions integer not null
);
insert into execution_count (hour, executions)
select start_at / 3600000000, count(*) from data_job_execution
where status not in ('SUBMITTED', 'RUNNING') group by 1;

create trigger data_job_execution_inserted after insert on data_job_execution
when new.status not in ('SUBMITTED', 'RUNNING') begin
    insert into execution_count (hour, executions) values (new.start_at / 3600000000, 1)
    on conflict (hour) do update set executions = executions + 1;
end;
create trigger data_job_execution_ended after update of status, started_at, submitted_at on data_job_execution
when new.status not in ('SUBMITTED', 'RUNNING') or old.status not in ('SUBMITTED', 'RUNNING') begin
    update execution_count set executions = executions - 1
    where old.status not in ('SUBMITTED', 'RUNNING') and hour = old.start_at / 3600000000;
    insert into execution_count (hour, executions)
    select new.start_at / 3600000000, 1 where new.status not in ('SUBMITTED', 'RUNNING')
    on conflict (hour) do update set executions = executions + 1;
    delete from execution_count where hour = old.start_at / 3600000000 and executions = 0;
end;
create trigger data_job_execution_deleted after delete on data_job_execution
when old.status not in ('SUBMITTED', 'RUNNING') begin
    update execution_count set executions = executions - 1 where hour = old.start_at / 3600000000;
    delete from execution_count where hour = old.start_at / 3600000000 and executions = 0;
end;
