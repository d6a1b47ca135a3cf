-- Jobs of teams whose name begins so are met in the order of their own names: the index alone tells which they are.
create index data_job_by_name_team on data_job (name, team_lower) where deleted_at is null;
