-- A client id belongs to one team: two rows that hold theirs can't have the same one. Rows that shared one before keep it; the
-- one that was stored first holds it.
alter table team_credential add column holds_client integer not null default 0;
update team_credential as mine set holds_client = 1
    where not exists (
        select 1 from team_credential other
        where other.client_id = mine.client_id and (other.updated_at, other.team) < (mine.updated_at, mine.team));
create unique index team_credential_one_team on team_credential (client_id) where holds_client = 1;
