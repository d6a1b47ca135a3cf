//! `holdfast completions`: scripts by which shells complete commands and flags.

use std::io::Write;

use clap::{Arg, ArgMatches, Command};
use clap_complete::Shell;

pub(super) fn command() -> Command {
    Command::new("completions")
        .about("Print a script by which a shell completes commands and flags.")
        .arg(Arg::new("shell").value_name("SHELL").required(true).value_parser(clap::value_parser!(Shell)))
        .after_help("Example:\n  holdfast completions bash > ~/.local/share/bash-completion/completions/holdfast")
}

/// The shell.
pub(super) fn asked(matches: &ArgMatches) -> Shell {
    *matches.get_one("shell").expect("clap requires it")
}

/// Prints the script.
pub(crate) fn run(shell: Shell, out: &mut dyn Write) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut super::command(), "holdfast", &mut script);
    match out.write_all(&script).and_then(|()| out.flush()) {
        // A reader such as `head` may close the pipe early.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shell_completes_commands_and_flags_and_no_internal_command() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::Elvish, Shell::PowerShell] {
            let mut script = Vec::new();
            run(shell, &mut script).unwrap();
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("take-over") && script.contains("database-url"), "{shell}");
            assert!(!script.contains("confined"), "{shell}");
        }
    }
}
