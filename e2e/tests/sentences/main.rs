//! What Holdfast promises to those who use the stock client, each promise a test against the real binary.

mod bad_input;
mod commands;
mod crashes;
mod lifecycle;
mod outcomes;
mod starts;
