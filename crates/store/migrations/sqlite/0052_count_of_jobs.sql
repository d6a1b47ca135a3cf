-- How many live jobs there are: each page of the list of all jobs shows it.
create table job_count (
    jobs integer not null
);
insert into job_count (jobs) select count(*) from data_job where deleted_at is null;

create trigger data_job_inserted after insert on data_job when new.deleted_at is null begin
    update job_count set jobs = jobs + 1;
end;
create trigger data_job_removed after delete on data_job when old.deleted_at is null begin
    update job_count set jobs = jobs - 1;
end;
create trigger data_job_deleted after update of deleted_at on data_job
when old.deleted_at is null and new.deleted_at is not null begin
    update job_count set jobs = jobs - 1;
end;
create trigger data_job_restored after update of deleted_at on data_job
when old.deleted_at is not null and new.deleted_at is null begin
    update job_count set jobs = jobs + 1;
end;
