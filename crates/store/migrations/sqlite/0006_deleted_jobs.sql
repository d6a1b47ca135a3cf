-- What is needed to bring a deleted job back: who deleted it, and the generation that was wanted then. Jobs that a program
-- before this migration deleted come back without their deployment.
alter table data_job add column deleted_by text;
alter table data_job add column deleted_generation integer;
create index data_job_deleted_team on data_job (team, deleted_at, job_id) where deleted_at is not null;
