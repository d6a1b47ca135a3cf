-- Whether an execution ran a revision: asked before the revision goes.
create index data_job_execution_by_revision on data_job_execution (job_number, generation);
