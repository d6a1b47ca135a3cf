-- Jobs of teams whose name begins so are met in the order of their own names: the index tells which they are, and rows of others
-- are not read.
create index data_job_by_name_team on data_job (name, team_lower) where deleted_at is null;
