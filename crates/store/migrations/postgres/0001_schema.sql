-- Times are microseconds since 1970-01-01T00:00:00Z, so that they sort alike on every database. Identifiers and JSON are
-- text. A row of a job names its job_id, which never comes back after a deletion.

create table service_state (
    name  text collate "C" primary key,
    value text collate "C" not null
);

-- A distinct pair of cron expression and time zone, with its next tick. Lists sort by it, the leader advances it.
create table schedule (
    schedule_id bigint generated always as identity primary key,
    cron        text collate "C" not null,
    zone        text collate "C" not null,
    next_tick   bigint,
    unique (cron, zone)
);
create index schedule_next_tick on schedule (next_tick) where next_tick is not null;

create table data_job (
    job_id      text collate "C" primary key,
    name        text collate "C" not null,
    team        text collate "C" not null,
    description text collate "C" not null,
    db_default_type text collate "C",
    contacts    text collate "C" not null,
    schedule_cron text collate "C",
    schedule_id bigint references schedule (schedule_id),
    generate_keytab boolean not null,
    enable_execution_notifications boolean not null,
    notification_delay_period_minutes bigint not null,
    created_at  bigint not null,
    created_by  text collate "C" not null,
    updated_at  bigint not null,
    -- A tombstone: set when the job is deleted, and cleaned up some days later.
    deleted_at  bigint,
    row_version bigint not null,
    -- Maintained in the transaction that changes what they speak of, so that a page of a list costs the page.
    deployment_status  text collate "C" not null,
    deployment_enabled boolean,
    last_execution_id  text collate "C",
    last_execution_status text collate "C",
    last_execution_start bigint,
    last_execution_end bigint,
    last_execution_duration_seconds bigint,
    successful_executions bigint not null,
    failed_executions bigint not null
);
create unique index data_job_live_name on data_job (name) where deleted_at is null;
create index data_job_live_team on data_job (team, name) where deleted_at is null;
create index data_job_schedule on data_job (schedule_id);
create index data_job_deleted on data_job (deleted_at) where deleted_at is not null;

-- One sequence a job name, which survives the job: a namesake must not start below what was reached.
create table job_generation (
    name       text collate "C" primary key,
    generation bigint not null
);

-- Archives by content, in pieces of at most 1 MiB.
create table archive_chunk (
    archive_hash text collate "C" not null,
    chunk        bigint not null,
    content      bytea not null,
    primary key (archive_hash, chunk)
);

create table source_version (
    job_id       text collate "C" not null references data_job (job_id),
    version      text collate "C" not null,
    archive_hash text collate "C" not null,
    archive_bytes bigint not null,
    requirements text collate "C" not null,
    reason       text collate "C" not null,
    uploaded_by  text collate "C" not null,
    uploaded_at  bigint not null,
    -- Counts the uploads of a job: the latest has the highest, also when old content comes again.
    upload       bigint not null,
    primary key (job_id, version)
);
create unique index source_version_upload on source_version (job_id, upload);
create index source_version_archive on source_version (archive_hash);

-- The packages that follow from a set of inputs: the same inputs give the same packages, also in a year.
create table dependency_lock (
    lock_key       text collate "C" primary key,
    python_version text collate "C" not null,
    content        text collate "C" not null,
    created_at     bigint not null
);

create table deployment (
    job_id      text collate "C" primary key references data_job (job_id),
    generation  bigint not null,
    job_version text collate "C" not null,
    python_version_asked text collate "C",
    python_version text collate "C" not null,
    vdk_version_asked text collate "C",
    vdk_version text collate "C" not null,
    enabled     boolean not null,
    mode        text collate "C" not null,
    cpu_request double precision,
    cpu_limit   double precision,
    memory_request_mi bigint,
    memory_limit_mi bigint,
    schedule_cron text collate "C",
    schedule_since bigint not null,
    contacts    text collate "C" not null,
    db_default_type text collate "C",
    enable_execution_notifications boolean not null,
    deployed_by text collate "C" not null,
    deployed_at bigint not null,
    -- A tombstone: it was removed, and what exists of it has to go.
    removed_at  bigint,
    -- A tick that fired and waits for its run to be started (runtimes that don't fire ticks by themselves).
    pending_tick bigint
);
create index deployment_pending_tick on deployment (pending_tick) where pending_tick is not null;

create table deployment_revision (
    job_id     text collate "C" not null references data_job (job_id),
    generation bigint not null,
    content    text collate "C" not null,
    created_at bigint not null,
    created_by text collate "C" not null,
    primary key (job_id, generation)
);

create table rollout (
    job_id      text collate "C" primary key references data_job (job_id),
    reached_generation bigint,
    inputs_hash text collate "C",
    lock_key    text collate "C",
    reached_at  bigint,
    status      text collate "C" not null,
    tried_generation bigint,
    tried_inputs_hash text collate "C",
    problem     text collate "C",
    attempts    bigint not null,
    retry_at    bigint,
    -- When the synchronizer has to look at it; absent when all is done or a change is awaited.
    due_at      bigint,
    leader_epoch bigint not null,
    row_version bigint not null
);
create index rollout_due on rollout (due_at) where due_at is not null;

create table data_job_execution (
    execution_id text collate "C" primary key,
    job_id      text collate "C" not null references data_job (job_id),
    type        text collate "C" not null,
    status      text collate "C" not null,
    submitted_at bigint not null,
    started_at  bigint,
    ended_at    bigint,
    started_by  text collate "C" not null,
    op_id       text collate "C" not null,
    message     text collate "C",
    arguments   text collate "C",
    scheduled_tick bigint,
    -- Whether it is the one active run of its job. The unique index below is what refuses a second.
    holds_slot  boolean not null,
    cancel_requested_at bigint,
    generation  bigint,
    revision    text collate "C",
    lock_key    text collate "C",
    leader_epoch bigint not null
);
create unique index data_job_execution_slot on data_job_execution (job_id) where holds_slot;
create unique index data_job_execution_tick on data_job_execution (job_id, scheduled_tick)
    where scheduled_tick is not null;
create index data_job_execution_by_job on data_job_execution (job_id, submitted_at);
create index data_job_execution_by_time on data_job_execution (submitted_at);
create index data_job_execution_active on data_job_execution (submitted_at)
    where status in ('SUBMITTED', 'RUNNING');
create index data_job_execution_cancel on data_job_execution (cancel_requested_at)
    where status in ('SUBMITTED', 'RUNNING') and cancel_requested_at is not null;

create table log_chunk (
    execution_id text collate "C" not null references data_job_execution (execution_id) on delete cascade,
    chunk        bigint not null,
    content      text collate "C" not null,
    primary key (execution_id, chunk)
);

create table job_properties (
    job_id     text collate "C" primary key references data_job (job_id),
    content    text collate "C" not null,
    updated_at bigint not null,
    updated_by text collate "C" not null
);

-- Encrypted: see the module secrets.
create table job_secret (
    job_id     text collate "C" primary key references data_job (job_id),
    key_id     text collate "C" not null,
    nonce      bytea not null,
    ciphertext bytea not null,
    updated_at bigint not null,
    updated_by text collate "C" not null
);

create table lease (
    name     text collate "C" primary key,
    holder   text collate "C" not null,
    epoch    bigint not null,
    renewals bigint not null
);
-- Makes the epoch a part of a key: a leader's write that holds the key holds up a take-over and no renewal.
create unique index lease_epoch on lease (name, epoch);

create table audit_event (
    event_id bigint generated always as identity primary key,
    at       bigint not null,
    by       text collate "C" not null,
    op_id    text collate "C" not null,
    action   text collate "C" not null,
    job_id   text collate "C",
    job_name text collate "C",
    team     text collate "C",
    generation bigint,
    detail   text collate "C"
);
create index audit_event_job on audit_event (job_id, event_id);
create index audit_event_at on audit_event (at);
