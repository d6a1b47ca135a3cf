-- no-transaction
-- Whether an execution ran a revision: asked before the revision goes. Concurrently, because the table may be large and the
-- version before goes on writing to it.
create index concurrently if not exists data_job_execution_by_revision on data_job_execution (job_number, generation);
