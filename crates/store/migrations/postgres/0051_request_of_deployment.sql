-- By which request the desired generation came to be. It is asked before each rollout, and audit events are not kept for ever.
alter table deployment add column op_id text collate "C";
update deployment set op_id = (
    select a.op_id from audit_event a where a.job_id = deployment.job_id and a.generation = deployment.generation
    order by a.event_id desc limit 1);
