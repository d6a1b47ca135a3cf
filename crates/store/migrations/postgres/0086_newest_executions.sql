-- The newest executions of each job, packed into one text as `store::executions::packed` packs them with the fewest fields: a page
-- of the list of jobs finds 10 executions of each of its jobs in one row instead of 10. The triggers keep it, whichever program
-- and whatever statement changes executions. A job without a row, and one whose text is absent because it is too long, has its
-- executions looked up.
create table newest_executions (
    job_number bigint primary key references data_job (number) on delete cascade,
    packed     text collate "C"
);

create function packed_newest_executions(job bigint) returns text language plpgsql stable as $$
begin
    return (select case when octet_length(l.packed) <= 4096 then l.packed end from (
        select array_to_string(array(
            select case when substr(e.execution_id, 1, length(j.name) + 1) = j.name || '-'
                    then substr(e.execution_id, length(j.name) + 2) else '/' || e.execution_id end
                || case when e.status = 'SUCCEEDED' and e.message = 'Success' then '.'
                    else ' ' || e.status || ' ' || coalesce(octet_length(e.message) || ':' || e.message, '~') end
            from data_job_execution e where e.job_number = j.number
            order by e.start_at desc, e.execution_id desc limit 10), '') as packed
        from data_job j where j.number = job) l);
end
$$;

-- Transactions that change executions of one job take turns at its row. The last statement sees the changes of all that had their
-- turn before, because a statement sees what is committed when it begins. A row that a transaction adds has nothing to see: one
-- that changed executions of the job before would have added it.
create function update_newest_executions(job bigint) returns void language plpgsql as $$
begin
    perform 1 from newest_executions n where n.job_number = job for update;
    if not found then
        insert into newest_executions (job_number, packed) values (job, packed_newest_executions(job))
            on conflict (job_number) do nothing;
        if found then
            return;
        end if;
        perform 1 from newest_executions n where n.job_number = job for update;
    end if;
    update newest_executions set packed = packed_newest_executions(job) where job_number = job;
end
$$;

create function update_newest_executions_of_changed() returns trigger language plpgsql as $$
declare
    job bigint;
begin
    for job in select distinct job_number from changed order by job_number loop
        perform update_newest_executions(job);
    end loop;
    return null;
end
$$;
create trigger data_job_execution_newest_inserted after insert on data_job_execution
    referencing new table as changed for each statement execute function update_newest_executions_of_changed();
create trigger data_job_execution_newest_deleted after delete on data_job_execution
    referencing old table as changed for each statement execute function update_newest_executions_of_changed();

create function update_newest_executions_of_row() returns trigger language plpgsql as $$
begin
    perform update_newest_executions(new.job_number);
    return null;
end
$$;
create trigger data_job_execution_newest_updated
    after update of status, message, started_at, submitted_at on data_job_execution
    for each row when (old.status <> new.status or old.start_at <> new.start_at or old.message is distinct from new.message)
    execute function update_newest_executions_of_row();
