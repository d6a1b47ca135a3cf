-- Times are microseconds since 1970-01-01T00:00:00Z, so that they sort alike on every database. Identifiers and JSON are
-- text. A row of a job names its job_id, which never comes back after a deletion.

create table service_state (
    name  text primary key,
    value text not null
);

-- A distinct pair of cron expression and time zone, with its next tick. Lists sort by it, the leader advances it.
create table schedule (
    schedule_id integer primary key autoincrement,
    cron        text not null,
    zone        text not null,
    next_tick   integer,
    unique (cron, zone)
);
create index schedule_next_tick on schedule (next_tick) where next_tick is not null;

create table data_job (
    job_id      text primary key,
    name        text not null,
    team        text not null,
    description text not null,
    db_default_type text,
    contacts    text not null,
    schedule_cron text,
    schedule_id integer references schedule (schedule_id),
    generate_keytab boolean not null,
    enable_execution_notifications boolean not null,
    notification_delay_period_minutes integer not null,
    created_at  integer not null,
    created_by  text not null,
    updated_at  integer not null,
    -- A tombstone: set when the job is deleted, and cleaned up some days later.
    deleted_at  integer,
    row_version integer not null,
    -- Maintained in the transaction that changes what they speak of, so that a page of a list costs the page.
    deployment_status  text not null,
    deployment_enabled boolean,
    last_execution_id  text,
    last_execution_status text,
    last_execution_start integer,
    last_execution_end integer,
    last_execution_duration_seconds integer,
    successful_executions integer not null,
    failed_executions integer not null
);
create unique index data_job_live_name on data_job (name) where deleted_at is null;
create index data_job_live_team on data_job (team, name) where deleted_at is null;
create index data_job_schedule on data_job (schedule_id);
create index data_job_deleted on data_job (deleted_at) where deleted_at is not null;

-- One sequence a job name, which survives the job: a namesake must not start below what was reached.
create table job_generation (
    name       text primary key,
    generation integer not null
);

-- Archives by content, in pieces of at most 1 MiB.
create table archive_chunk (
    archive_hash text not null,
    chunk        integer not null,
    content      blob not null,
    primary key (archive_hash, chunk)
);

create table source_version (
    job_id       text not null references data_job (job_id),
    version      text not null,
    archive_hash text not null,
    archive_bytes integer not null,
    requirements text not null,
    reason       text not null,
    uploaded_by  text not null,
    uploaded_at  integer not null,
    -- Counts the uploads of a job: the latest has the highest, also when old content comes again.
    upload       integer not null,
    primary key (job_id, version)
);
create unique index source_version_upload on source_version (job_id, upload);
create index source_version_archive on source_version (archive_hash);

-- The packages that follow from a set of inputs: the same inputs give the same packages, also in a year.
create table dependency_lock (
    lock_key       text primary key,
    python_version text not null,
    content        text not null,
    created_at     integer not null
);

create table deployment (
    job_id      text primary key references data_job (job_id),
    generation  integer not null,
    job_version text not null,
    python_version_asked text,
    python_version text not null,
    vdk_version_asked text,
    vdk_version text not null,
    enabled     boolean not null,
    mode        text not null,
    cpu_request real,
    cpu_limit   real,
    memory_request_mi integer,
    memory_limit_mi integer,
    schedule_cron text,
    schedule_since integer not null,
    contacts    text not null,
    db_default_type text,
    enable_execution_notifications boolean not null,
    deployed_by text not null,
    deployed_at integer not null,
    -- A tombstone: it was removed, and what exists of it has to go.
    removed_at  integer,
    -- A tick that fired and waits for its run to be started (runtimes that don't fire ticks by themselves).
    pending_tick integer
);
create index deployment_pending_tick on deployment (pending_tick) where pending_tick is not null;

create table deployment_revision (
    job_id     text not null references data_job (job_id),
    generation integer not null,
    content    text not null,
    created_at integer not null,
    created_by text not null,
    primary key (job_id, generation)
);

create table rollout (
    job_id      text primary key references data_job (job_id),
    reached_generation integer,
    inputs_hash text,
    lock_key    text,
    reached_at  integer,
    status      text not null,
    tried_generation integer,
    tried_inputs_hash text,
    problem     text,
    attempts    integer not null,
    retry_at    integer,
    -- When the synchronizer has to look at it; absent when all is done or a change is awaited.
    due_at      integer,
    leader_epoch integer not null,
    row_version integer not null
);
create index rollout_due on rollout (due_at) where due_at is not null;

create table data_job_execution (
    execution_id text primary key,
    job_id      text not null references data_job (job_id),
    type        text not null,
    status      text not null,
    submitted_at integer not null,
    started_at  integer,
    ended_at    integer,
    started_by  text not null,
    op_id       text not null,
    message     text,
    arguments   text,
    scheduled_tick integer,
    -- Whether it is the one active run of its job. The unique index below is what refuses a second.
    holds_slot  boolean not null,
    cancel_requested_at integer,
    generation  integer,
    revision    text,
    lock_key    text,
    leader_epoch integer not null
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
    execution_id text not null references data_job_execution (execution_id) on delete cascade,
    chunk        integer not null,
    content      text not null,
    primary key (execution_id, chunk)
);

create table job_properties (
    job_id     text primary key references data_job (job_id),
    content    text not null,
    updated_at integer not null,
    updated_by text not null
);

-- Encrypted: see the module secrets.
create table job_secret (
    job_id     text primary key references data_job (job_id),
    key_id     text not null,
    nonce      blob not null,
    ciphertext blob not null,
    updated_at integer not null,
    updated_by text not null
);

create table lease (
    name     text primary key,
    holder   text not null,
    epoch    integer not null,
    renewals integer not null
);

create table audit_event (
    event_id integer primary key autoincrement,
    at       integer not null,
    by       text not null,
    op_id    text not null,
    action   text not null,
    job_id   text,
    job_name text,
    team     text,
    generation integer,
    detail   text
);
create index audit_event_job on audit_event (job_id, event_id);
create index audit_event_at on audit_event (at);
