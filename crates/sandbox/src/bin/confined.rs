//! The hidden command `confined` as a program of its own; the tests of this crate use it.

use std::process::ExitCode;

fn main() -> ExitCode {
    sandbox::main(std::env::args_os().skip(1))
}
