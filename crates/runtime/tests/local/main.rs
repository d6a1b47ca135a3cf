//! Jobs as processes, driven through the trait against real processes.

mod confinement;
mod crashes;
mod ends;
mod environments;
mod house;
mod overhead;
mod runs;
