-- Where runs are made of an image, its name stands beside where the lock of packages stands otherwise; and what the runtime
-- needs to know an object that it made from one that somebody changed.
alter table rollout add column image text collate "C";
alter table rollout add column mark text collate "C";
alter table data_job_execution add column image text collate "C";
