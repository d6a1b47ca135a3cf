-- Jobs of teams whose name begins so are met in the order of their own names: the index alone tells which they are, the
-- column of its condition included.
create index data_job_by_name_team on data_job (name, team_lower, deleted_at) where deleted_at is null;
