-- The newest executions of each job, packed into one text as `store::executions::packed` packs them with the fewest fields: a page
-- of the list of jobs finds 10 executions of each of its jobs in one row instead of 10. The triggers keep it, whichever program
-- and whatever statement changes executions. A job without a row, and one whose text is absent because it is too long, has its
-- executions looked up. Only what SQLite 3.25 knows is used: older programs than this one open the file, too.
create table newest_executions (
    job_number integer primary key references data_job (number) on delete cascade,
    packed     text
);

create trigger data_job_execution_newest_inserted after insert on data_job_execution begin
    insert into newest_executions (job_number, packed) values (new.job_number, (
        select case when length(cast(l.packed as blob)) <= 4096 then l.packed end from (
            select group_concat(r.run, '') over (order by r.start_at desc, r.execution_id desc
                rows between unbounded preceding and unbounded following) as packed from (
                select e.start_at, e.execution_id,
                    case when substr(e.execution_id, 1, length(j.name) + 1) = j.name || '-'
                        then substr(e.execution_id, length(j.name) + 2) else '/' || e.execution_id end
                    || case when e.status = 'SUCCEEDED' and e.message = 'Success' then '.'
                        else ' ' || e.status || ' ' || coalesce(length(cast(e.message as blob)) || ':' || e.message, '~') end as run
                from data_job_execution e join data_job j on j.number = e.job_number where e.job_number = new.job_number
                order by e.start_at desc, e.execution_id desc limit 10) r limit 1) l))
    on conflict (job_number) do update set packed = excluded.packed;
end;

create trigger data_job_execution_newest_updated
after update of status, message, started_at, submitted_at on data_job_execution
when old.status <> new.status or old.start_at <> new.start_at or old.message is not new.message begin
    insert into newest_executions (job_number, packed) values (new.job_number, (
        select case when length(cast(l.packed as blob)) <= 4096 then l.packed end from (
            select group_concat(r.run, '') over (order by r.start_at desc, r.execution_id desc
                rows between unbounded preceding and unbounded following) as packed from (
                select e.start_at, e.execution_id,
                    case when substr(e.execution_id, 1, length(j.name) + 1) = j.name || '-'
                        then substr(e.execution_id, length(j.name) + 2) else '/' || e.execution_id end
                    || case when e.status = 'SUCCEEDED' and e.message = 'Success' then '.'
                        else ' ' || e.status || ' ' || coalesce(length(cast(e.message as blob)) || ':' || e.message, '~') end as run
                from data_job_execution e join data_job j on j.number = e.job_number where e.job_number = new.job_number
                order by e.start_at desc, e.execution_id desc limit 10) r limit 1) l))
    on conflict (job_number) do update set packed = excluded.packed;
end;

-- Retention deletes many old ones: one that has 10 newer ones beside it was not among the newest.
create trigger data_job_execution_newest_deleted after delete on data_job_execution
when (select count(*) from (
    select 1 from data_job_execution e where e.job_number = old.job_number and e.start_at > old.start_at limit 10)) < 10 begin
    insert into newest_executions (job_number, packed) values (old.job_number, (
        select case when length(cast(l.packed as blob)) <= 4096 then l.packed end from (
            select group_concat(r.run, '') over (order by r.start_at desc, r.execution_id desc
                rows between unbounded preceding and unbounded following) as packed from (
                select e.start_at, e.execution_id,
                    case when substr(e.execution_id, 1, length(j.name) + 1) = j.name || '-'
                        then substr(e.execution_id, length(j.name) + 2) else '/' || e.execution_id end
                    || case when e.status = 'SUCCEEDED' and e.message = 'Success' then '.'
                        else ' ' || e.status || ' ' || coalesce(length(cast(e.message as blob)) || ':' || e.message, '~') end as run
                from data_job_execution e join data_job j on j.number = e.job_number where e.job_number = old.job_number
                order by e.start_at desc, e.execution_id desc limit 10) r limit 1) l))
    on conflict (job_number) do update set packed = excluded.packed;
end;
