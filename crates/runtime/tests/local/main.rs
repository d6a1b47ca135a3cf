//! Jobs as processes, driven through the trait against real processes.

#![allow(clippy::disallowed_methods, reason = "it waits for real things in real time")]

mod confinement;
mod crashes;
mod ends;
mod environments;
mod harness;
mod overhead;
mod runs;
