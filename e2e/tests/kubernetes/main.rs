//! Jobs in a real cluster, through the real binary and the released client.

mod drift;
mod fencing;
mod inside;
mod lifecycle;
mod outcomes;
mod place;
mod starts;
