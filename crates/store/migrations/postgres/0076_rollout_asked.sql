-- When somebody asked for a look at once, by the clock of the instance that took the request: `due_at` is 0 then, and so due by
-- every clock. A program from before this migration writes an instant of its own clock into `due_at`, which stays right.
alter table rollout add column asked_at bigint;
