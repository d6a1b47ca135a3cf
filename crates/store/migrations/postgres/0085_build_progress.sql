-- How far a running build is: what it does, and the bytes that it wrote or sent in that phase.
alter table build add column phase text collate "C";
alter table build add column phase_bytes bigint;
