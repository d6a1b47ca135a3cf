-- Where a piece of a log begins: the bytes and the ends of lines before it. Pieces that were stored before this have neither.
alter table log_chunk add column first_byte bigint;
alter table log_chunk add column first_line bigint;
