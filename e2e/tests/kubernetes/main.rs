//! Jobs in a real cluster, through the real binary and the released client.

mod convergence;
mod drift;
mod fencing;
mod history;
mod inside;
mod lifecycle;
mod logs;
mod orphans;
mod outage;
mod outcomes;
mod place;
mod starts;
mod ticks;
