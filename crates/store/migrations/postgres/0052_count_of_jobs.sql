-- How many live jobs there are: each page of the list of all jobs shows it. The rows are changes of the number since they were
-- summed up (`store::counts`): no two transactions ever wait for one row.
create table job_count (
    jobs bigint not null
);
insert into job_count (jobs) select count(*) from data_job where deleted_at is null;

create function count_jobs() returns trigger language plpgsql as $$
begin
    insert into job_count (jobs)
    select count(*) from changed where deleted_at is null having count(*) > 0;
    return null;
end
$$;
create trigger data_job_inserted after insert on data_job
    referencing new table as changed for each statement execute function count_jobs();

create function count_job_once_less() returns trigger language plpgsql as $$
begin
    insert into job_count (jobs) values (-1);
    return null;
end
$$;
create function count_job_once_more() returns trigger language plpgsql as $$
begin
    insert into job_count (jobs) values (1);
    return null;
end
$$;
create trigger data_job_removed after delete on data_job
    for each row when (old.deleted_at is null) execute function count_job_once_less();
create trigger data_job_deleted after update of deleted_at on data_job
    for each row when (old.deleted_at is null and new.deleted_at is not null) execute function count_job_once_less();
create trigger data_job_restored after update of deleted_at on data_job
    for each row when (old.deleted_at is not null and new.deleted_at is null) execute function count_job_once_more();
