-- Which rows a key is needed by: read by the rotation of keys, and before a key is removed.
create index job_secret_key on job_secret (key_id, job_id);
create index team_credential_key on team_credential (key_id, team);
