-- Jobs of teams whose name begins so are met in the order of their own names: the index, with the column of its condition, tells
-- which they are, and rows of others are not read.
create index data_job_by_name_team on data_job (name, team_lower, deleted_at) where deleted_at is null;
