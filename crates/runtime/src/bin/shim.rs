//! The supervisor of one run as a program of its own; the tests of this crate use it.
//!
//! The service's binary has the same as a hidden command, so that one file is all that has to be installed.

use std::process::ExitCode;

fn main() -> ExitCode {
    runtime::local::shim::main(std::env::args_os().skip(1))
}
