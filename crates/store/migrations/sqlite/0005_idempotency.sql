-- Requests that a caller gave a name, with the outcome of the first one.
create table idempotency_key (
    caller       text not null,
    key          text not null,
    request_hash text not null,
    -- JSON; empty only within the transaction that carries the request out.
    outcome      text not null,
    created_at   integer not null,
    primary key (caller, key)
);
create index idempotency_key_age on idempotency_key (created_at);
