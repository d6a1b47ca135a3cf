-- `data_job_execution_by_tick` replaces it.
drop index data_job_execution_tick;
