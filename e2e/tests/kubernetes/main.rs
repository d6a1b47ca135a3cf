//! Jobs in a real cluster, through the real binary and the released client.

mod chart;
mod convergence;
mod doctor;
mod drift;
mod fencing;
mod fixture;
mod history;
mod images;
mod in_cluster;
mod lifecycle;
mod logs;
mod orphans;
mod outage;
mod outcomes;
mod starts;
mod ticks;
