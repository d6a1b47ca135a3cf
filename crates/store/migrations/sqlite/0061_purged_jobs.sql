-- Set when the cleanup of a deleted job begins: its rows go in several transactions, and it can't be restored any more.
alter table data_job add column purge_begun_at integer;
