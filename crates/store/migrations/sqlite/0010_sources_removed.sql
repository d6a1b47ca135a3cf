-- When somebody removed the upload: it is offered no more, and its bytes go when nothing that is deployed needs them.
alter table source_version add column removed_at integer;
create index source_version_removed on source_version (removed_at) where removed_at is not null;
