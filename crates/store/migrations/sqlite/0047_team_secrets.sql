-- The name of the secret with each team's OAuth application in a cluster. A name is never given to another team, also when
-- its team has nothing any more: the secret may still be there.
create table team_secret (
    team       text primary key,
    name       text not null unique,
    claimed_at integer not null
);
