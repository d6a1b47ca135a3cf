-- Requests that a caller gave a name, with the outcome of the first one.
create table idempotency_key (
    caller       text collate "C" not null,
    key          text collate "C" not null,
    request_hash text collate "C" not null,
    -- JSON; empty only within the transaction that carries the request out.
    outcome      text collate "C" not null,
    created_at   bigint not null,
    primary key (caller, key)
);
create index idempotency_key_age on idempotency_key (created_at);
