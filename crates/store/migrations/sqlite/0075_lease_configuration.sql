-- The fingerprint of the holder's configuration, and the term that it belongs to: a program from before this migration takes
-- the lease without it.
alter table lease add column configuration text;
alter table lease add column configuration_epoch integer;
