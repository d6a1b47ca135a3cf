//! Starts package builds in their sandbox, for tests: production has it as a hidden command of the service's binary.

fn main() -> std::process::ExitCode {
    python::confined(std::env::args_os().skip(1))
}
