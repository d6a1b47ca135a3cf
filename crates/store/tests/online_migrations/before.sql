-- {jobs} jobs with {runs} executions each, as the program before the first online migration stored them, on both databases.

insert into data_job (job_id, name, team, description, contacts, generate_keytab, enable_execution_notifications,
    notification_delay_period_minutes, created_at, created_by, updated_at, row_version, deployment_status,
    successful_executions, failed_executions, team_lower, contacts_present)
with recursive n(i) as (select 0 union all select i + 1 from n where i + 1 < {jobs})
select '00000000-0000-4000-8000-' || substr(cast(1000000000000 + i as text), 2), 'some-job-' || cast(i as text), 'a team', '',
    '{"notified_on_job_failure_user_error":[],"notified_on_job_failure_platform_error":[],"notified_on_job_success":[],"notified_on_job_deploy":[]}',
    true, true, 240, 0, 'someone', 0, 1, 'NONE', {runs}, 0, 'a team', false
from n;

insert into data_job_text (job_id, name, team, description, cron, python)
select job_id, name, team_lower, '', '', '' from data_job;

insert into deployment_revision (job_id, generation, content, created_at, created_by)
select job_id, 1, '{"job_id":"' || job_id || '","generation":1,"job_version":"0123456789abcdef0123456789abcdef01234567","python_version_asked":null,"python_version":"3.11","vdk_version_asked":null,"vdk_version":"1","enabled":true,"mode":"release","resources":{"cpu_request":null,"cpu_limit":null,"memory_request":null,"memory_limit":null},"schedule_cron":null,"schedule_since":"2024-11-01T00:00:00Z","contacts":' || contacts || ',"db_default_type":null,"enable_execution_notifications":true,"deployed_by":"someone","deployed_at":"2024-11-01T00:00:00Z"}', 0, 'someone'
from data_job;

insert into data_job_execution (execution_id, job_number, type, status, submitted_at, started_at, ended_at, started_by, op_id,
    message, holds_slot, generation, leader_epoch)
with recursive k(i) as (select 0 union all select i + 1 from k where i + 1 < {runs})
select j.name || '-' || cast(k.i as text), j.number, 'MANUAL', 'SUCCEEDED', k.i * cast(60000000 as bigint), k.i * cast(60000000 as bigint),
    k.i * cast(60000000 as bigint) + 1, 'someone', 'op', 'Success', false, 1, 0
from data_job j cross join k;

insert into log_chunk (execution_id, chunk, content)
select execution_id, 0, 'the log of ' || execution_id from data_job_execution where submitted_at < 600000000;
