-- no-transaction
-- `data_job_execution_by_tick` replaces it.
drop index concurrently if exists data_job_execution_tick;
