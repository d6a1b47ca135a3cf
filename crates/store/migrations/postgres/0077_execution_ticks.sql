-- no-transaction
-- One execution per job and scheduled time, as `data_job_execution_tick` ensures, with the time first: entries are added at the
-- end of the index, which takes a quarter less space. Concurrently, because the table may be large and the version before
-- continues to write to it.
create unique index concurrently if not exists data_job_execution_by_tick on data_job_execution (scheduled_tick, job_number)
    where scheduled_tick is not null;
