-- One row per build. Deployments with equal inputs share it. `lock_key` and `image` are the artifact of one that ended well,
-- `problem` is why one failed.
create table build (
    build_key    text collate "C" primary key,
    builder      text collate "C" not null,
    inputs       text collate "C" not null,
    team         text collate "C" not null,
    state        text collate "C" not null check (state in ('QUEUED', 'RUNNING', 'BUILT', 'FAILED')),
    lock_key     text collate "C",
    image        text collate "C",
    problem      text collate "C",
    attempts     bigint not null,
    leader_epoch bigint not null,
    queued_at    bigint not null,
    started_at   bigint,
    ended_at     bigint
);
create index build_open on build (state, queued_at) where state in ('QUEUED', 'RUNNING');

-- The build that a rollout of this generation waits for.
alter table rollout add column build_key text collate "C";
alter table rollout add column build_generation bigint;
create index rollout_build on rollout (build_key) where build_key is not null;
