-- The size of each stored log and the end of its execution, so that logs are counted and the oldest found without reading
-- them. Logs that a program before this migration stored get their row from the leader.
create table execution_log (
    execution_id text primary key references data_job_execution (execution_id) on delete cascade,
    ended_at     integer not null,
    bytes        integer not null
);
create index execution_log_age on execution_log (ended_at, execution_id);
