-- One execution per job and scheduled time, as `data_job_execution_tick` ensures, with the time first: entries are added at the
-- end of the index, which takes less space.
create unique index data_job_execution_by_tick on data_job_execution (scheduled_tick, job_number)
    where scheduled_tick is not null;
