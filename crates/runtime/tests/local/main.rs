//! Jobs as processes, driven through the trait against real processes.

mod house;
mod runs;
