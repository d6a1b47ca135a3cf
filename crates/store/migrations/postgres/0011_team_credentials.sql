-- The OAuth application of a team: its secret is encrypted, see the module credentials.
create table team_credential (
    team       text collate "C" primary key,
    client_id  text collate "C" not null,
    key_id     text collate "C" not null,
    nonce      bytea not null,
    ciphertext bytea not null,
    updated_at bigint not null,
    updated_by text collate "C" not null
);
create index team_credential_client on team_credential (client_id, team);
