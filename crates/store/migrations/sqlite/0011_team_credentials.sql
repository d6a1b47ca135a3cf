-- The OAuth application of a team: its secret is encrypted, see the module credentials.
create table team_credential (
    team       text primary key,
    client_id  text not null,
    key_id     text not null,
    nonce      blob not null,
    ciphertext blob not null,
    updated_at integer not null,
    updated_by text not null
);
create index team_credential_client on team_credential (client_id, team);
