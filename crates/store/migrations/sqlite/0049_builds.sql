-- One row per build. Deployments with equal inputs share it. `lock_key` and `image` are the artifact of one that ended well,
-- `problem` is why one failed.
create table build (
    build_key    text primary key,
    builder      text not null,
    inputs       text not null,
    team         text not null,
    state        text not null check (state in ('QUEUED', 'RUNNING', 'BUILT', 'FAILED')),
    lock_key     text,
    image        text,
    problem      text,
    attempts     integer not null,
    leader_epoch integer not null,
    queued_at    integer not null,
    started_at   integer,
    ended_at     integer
);
create index build_open on build (state, queued_at) where state in ('QUEUED', 'RUNNING');

-- The build that a rollout of this generation waits for.
alter table rollout add column build_key text;
alter table rollout add column build_generation integer;
create index rollout_build on rollout (build_key) where build_key is not null;
