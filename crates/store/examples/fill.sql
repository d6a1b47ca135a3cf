-- A fleet of {jobs} jobs, nine in ten of them deployed and with {runs} runs each, as of {now} (seconds since 1970). For
-- benchmarks and tests of lists: one text for both databases, into an empty one.

insert into schedule (cron, zone, next_tick)
with recursive n(i) as (select 0 union all select i + 1 from n where i + 1 < {schedules})
select cast(i % 60 as text) || ' ' || cast(i / 60 % 24 as text) || ' ' || cast(1 + i / 1440 as text) || ' * *', 'UTC',
    (cast({now} as bigint) + 60 * (1 + i % 500)) * 1000000
from n;

insert into data_job (job_id, name, team, description, contacts, schedule_cron, schedule_id, generate_keytab,
    enable_execution_notifications, notification_delay_period_minutes, created_at, created_by, updated_at, row_version,
    deployment_status, deployment_enabled, last_execution_id, last_execution_status, last_execution_start,
    last_execution_end, last_execution_duration_seconds, successful_executions, failed_executions, team_lower,
    contacts_present, deployment_python)
with recursive n(i) as (select 0 union all select i + 1 from n where i + 1 < {jobs}),
named(i, id, name, start) as (
    select i, '00000000-0000-4000-8000-' || substr(cast(1000000000000 + i * cast(982451653 as bigint) % 1000000000000 as text), 2),
        case i % 5 when 0 then 'daily' when 1 then 'weekly' when 2 then 'hourly' when 3 then 'ingest' else 'report' end || '-'
            || case i / 5 % 7 when 0 then 'sales' when 1 then 'orders' when 2 then 'costs' when 3 then 'stock'
                when 4 then 'payments' when 5 then 'returns' else 'customers' end
            || '-' || substr(cast(1000000 + i as text), 2),
        (cast({now} as bigint) - 60 - i * cast(7919 as bigint) % 86400) * 1000000
    from n)
select id, name, 'Team ' || substr(cast(10000 + i / 100 as text), 2),
    'Loads the ' || name || ' figures of region ' || cast(i % 97 as text) || ' into the warehouse every so often.',
    case when i % 3 = 0 then '{"notified_on_job_failure_user_error":[],"notified_on_job_failure_platform_error":[],"notified_on_job_success":[],"notified_on_job_deploy":[]}'
        else '{"notified_on_job_failure_user_error":["team@example.com"],"notified_on_job_failure_platform_error":[],"notified_on_job_success":[],"notified_on_job_deploy":["team@example.com"]}' end,
    case when i % 4 > 0 then (select cron from schedule where schedule_id = 1 + i % {schedules}) end,
    case when i % 4 > 0 then 1 + i % {schedules} end, true, true, 240, start, 'someone', start, 1,
    case when i % 10 = 9 then 'NONE' when i % 23 = 0 then 'USER_ERROR' else 'SUCCESS' end,
    case when i % 10 = 9 then null else i % 20 <> 3 end,
    case when i % 10 < 9 then name || '-' || cast(start / 60000000 as text) end,
    case when i % 10 = 9 then null when i % 7 = 0 then 'USER_ERROR' when i % 31 = 0 then 'PLATFORM_ERROR' else 'SUCCEEDED' end,
    case when i % 10 < 9 then start end, case when i % 10 < 9 then start + (20 + i % 300) * 1000000 end,
    case when i % 10 < 9 then 20 + i % 300 end,
    case when i % 10 = 9 then 0 when i % 7 = 0 or i % 31 = 0 then {runs} - 1 else {runs} end,
    case when i % 10 < 9 and (i % 7 = 0 or i % 31 = 0) then 1 else 0 end,
    'team ' || substr(cast(10000 + i / 100 as text), 2), i % 3 > 0,
    case when i % 10 = 9 then null when i % 6 = 0 then '3.12' else '3.11' end
from named;

insert into data_job_text (job_id, name, team, description, cron, python)
select job_id, name, team_lower, lower(description), coalesce(schedule_cron, ''), coalesce(deployment_python, '')
from data_job;

insert into deployment (job_id, generation, job_version, python_version_asked, python_version, vdk_version, enabled, mode,
    cpu_request, memory_limit_mi, schedule_cron, schedule_since, contacts, enable_execution_notifications, deployed_by,
    deployed_at)
select job_id, 1, '0123456789abcdef0123456789abcdef01234567', deployment_python, deployment_python, '0.3.1466514302',
    deployment_enabled, 'release', 0.5, 1000, schedule_cron, created_at, contacts, true, 'someone', created_at
from data_job where deployment_enabled is not null;

insert into deployment_revision (job_id, generation, content, created_at, created_by)
select job_id, 1, '{"job_id":"' || job_id || '","generation":1,"job_version":"' || job_version || '","python_version_asked":"'
        || python_version || '","python_version":"' || python_version || '","vdk_version_asked":null,"vdk_version":"'
        || vdk_version || '","enabled":' || case when enabled then 'true' else 'false' end
        || ',"mode":"release","resources":{"cpu_request":0.5,"cpu_limit":null,"memory_request":null,"memory_limit":1000},"schedule_cron":'
        || coalesce('"' || schedule_cron || '"', 'null')
        || ',"schedule_since":"2024-11-01T00:00:00Z","contacts":' || contacts
        || ',"db_default_type":null,"enable_execution_notifications":true,"deployed_by":"someone","deployed_at":"2024-11-01T00:00:00Z"}',
    deployed_at, deployed_by
from deployment;

insert into job_generation (name, generation)
select j.name, d.generation from deployment d join data_job j on j.job_id = d.job_id;

insert into rollout (job_id, reached_generation, inputs_hash, lock_key, reached_at, status, tried_generation,
    tried_inputs_hash, attempts, leader_epoch, row_version)
select d.job_id, 1, 'filled', 'filled', d.deployed_at, j.deployment_status, 1, 'filled', 0, 0, 1
from deployment d join data_job j on j.job_id = d.job_id;

insert into data_job_execution (execution_id, job_number, type, status, submitted_at, started_at, ended_at, started_by, op_id,
    message, scheduled_tick, holds_slot, generation, leader_epoch)
with recursive k(i) as (select 0 union all select i + 1 from k where i + 1 < {runs})
select j.name || '-' || cast(j.last_execution_start / 60000000 - 60 * k.i as text), j.number,
    case when k.i % 4 = 3 then 'MANUAL' else 'SCHEDULED' end,
    case when k.i > 0 then 'SUCCEEDED' else j.last_execution_status end,
    j.last_execution_start - k.i * cast(3600000000 as bigint) as submitted_at,
    j.last_execution_start - k.i * cast(3600000000 as bigint),
    j.last_execution_end - k.i * cast(3600000000 as bigint), 'scheduled/' || j.name,
    j.name || '-' || cast(k.i as text), 'Success', j.last_execution_start - k.i * cast(3600000000 as bigint), false, 1,
    cast(null as bigint)
from data_job j join deployment d on d.job_id = j.job_id cross join k
-- In the order of a real life: those of one minute are together, those of one job are not.
order by submitted_at;
