-- Removed deployments that are not gone yet: few, and counted before each removal.
create index deployment_removed on deployment (removed_at) where removed_at is not null;
