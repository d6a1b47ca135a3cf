//! The command line.

pub(crate) mod client;
pub(crate) mod completions;
pub(crate) mod config;
mod connection;
pub(crate) mod demo;
pub(crate) mod dev;
pub(crate) mod errors;
pub(crate) mod explain;
pub(crate) mod keys;
pub(crate) mod orphans;
mod outcome;
mod record;
pub(crate) mod rollout;
pub(crate) mod support_bundle;
pub(crate) mod take_over;

use std::{ffi::OsString, path::PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::config::{Flags, Group, Raw, SETTINGS, Setting, Shape};

/// A command with its arguments.
#[derive(Debug)]
pub(crate) enum Invocation {
    /// `holdfast serve`
    Serve(Flags),
    /// `holdfast take-over`
    TakeOver(Flags),
    /// `holdfast config`
    Config {
        /// The settings, as for `serve`.
        flags: Flags,
        /// The output format.
        format: config::Format,
    },
    /// `holdfast config from-upstream`
    FromUpstream(config::from_upstream::Asked),
    /// `holdfast completions`
    Completions(clap_complete::Shell),
    /// `holdfast keys …`
    Keys {
        /// The settings, as for `serve`.
        flags: Flags,
        /// The task.
        task: keys::Task,
    },
    /// `holdfast orphans …`
    Orphans {
        /// The settings, as for `serve`.
        flags: Flags,
        /// The task.
        task: orphans::Task,
    },
    /// `holdfast errors`
    Errors {
        /// The code to explain; all of them without one.
        code: Option<String>,
    },
    /// `holdfast openapi`
    Openapi,
    /// `holdfast doctor`
    Doctor {
        /// The settings, as for `serve`.
        flags: Flags,
        /// Whether the output is JSON.
        json: bool,
    },
    /// `holdfast support-bundle`
    SupportBundle {
        /// The settings, as for `serve`.
        flags: Flags,
        /// The parts of the archive.
        bundle: support_bundle::Bundle,
    },
    /// `holdfast demo`
    Demo(demo::Demo),
    /// `holdfast client install`
    ClientInstall {
        /// The settings, as for `serve`.
        flags: Flags,
        /// The folder and the URL.
        install: client::Install,
    },
    /// `holdfast rollout wait`
    RolloutWait(rollout::Wait),
    /// `holdfast explain`
    Explain(explain::Explain),
    /// `holdfast dev`
    Dev(dev::Dev),
}

/// Internal commands, with their arguments.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Hidden {
    /// `holdfast shim`: supervises one local execution.
    Shim(Vec<OsString>),
    /// `holdfast confined`: enters the sandbox and executes another program.
    Confined(Vec<OsString>),
}

/// The internal command, if the arguments name one.
///
/// Checked before anything else is set up, because every execution waits for it.
pub(crate) fn hidden(args: impl IntoIterator<Item = OsString>) -> Option<Hidden> {
    let mut args = args.into_iter().skip(1);
    match args.next()?.to_str()? {
        "shim" => Some(Hidden::Shim(args.collect())),
        "confined" => Some(Hidden::Confined(args.collect())),
        _ => None,
    }
}

/// Reads the command line, the program's name first. The error holds the output, also of `--help` and `--version`;
/// [`clap::Error::exit`] does that.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Invocation, clap::Error> {
    let matches = command().try_get_matches_from(args)?;
    match matches.subcommand() {
        Some(("config", matches)) => {
            if let Some((_, matches)) = matches.subcommand() {
                return Ok(Invocation::FromUpstream(config::from_upstream::Asked::of(matches)));
            }
            Ok(Invocation::Config { flags: flags(matches), format: config::Format::of(matches) })
        }
        Some(("keys", matches)) => {
            let (task, matches) = keys::Task::of(matches);
            Ok(Invocation::Keys { flags: flags(matches), task })
        }
        Some(("orphans", matches)) => {
            let (task, matches) = orphans::Task::of(matches);
            Ok(Invocation::Orphans { flags: flags(matches), task })
        }
        Some(("take-over", matches)) => Ok(Invocation::TakeOver(flags(matches))),
        Some(("errors", matches)) => Ok(Invocation::Errors { code: errors::asked(matches) }),
        Some(("completions", matches)) => Ok(Invocation::Completions(completions::asked(matches))),
        Some(("openapi", _)) => Ok(Invocation::Openapi),
        Some(("doctor", matches)) => Ok(Invocation::Doctor { flags: flags(matches), json: matches.get_flag("json") }),
        Some(("support-bundle", matches)) => {
            Ok(Invocation::SupportBundle { flags: flags(matches), bundle: support_bundle::Bundle::of(matches) })
        }
        Some(("demo", matches)) => Ok(Invocation::Demo(demo::Demo::of(matches))),
        Some(("client", matches)) => {
            let (install, matches) = client::Install::of(matches);
            Ok(Invocation::ClientInstall { flags: flags(matches), install })
        }
        Some(("rollout", matches)) => Ok(Invocation::RolloutWait(rollout::Wait::of(matches))),
        Some(("explain", matches)) => Ok(Invocation::Explain(explain::Explain::of(matches))),
        Some(("dev", matches)) => Ok(Invocation::Dev(dev::Dev::of(matches))),
        Some((_, matches)) => Ok(Invocation::Serve(flags(matches))),
        None => Err(command().error(clap::error::ErrorKind::MissingSubcommand, "no command was given")),
    }
}

/// An error with all its causes, as it is printed: `error:` first, as clap begins its own.
pub(crate) fn describe(error: &anyhow::Error) -> String {
    let mut lines = vec![format!("error: {error}")];
    lines.extend(error.chain().skip(1).map(|cause| format!("  because: {cause}")));
    lines.join("\n")
}

fn command() -> Command {
    Command::new("holdfast")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Keeps, deploys and runs data jobs of the Versatile Data Kit.")
        .after_help(
            "Examples:\n  \
             holdfast demo                   see a sample job deployed and run\n  \
             holdfast serve                  start on this machine, with the defaults\n  \
             holdfast serve --listen localhost:0\n                                  \
             start on a free port; the start-up message says which\n  \
             holdfast config                 print every setting and where its value comes from\n  \
             holdfast keys rotate            encrypt secrets with a new key, while the service runs",
        )
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .subcommand(
            with_settings(Command::new("serve"))
                .about("Start the service: API, pages, synchronizer and runs.")
                .after_help(
                    "Every setting can also be in holdfast.toml or in the environment; `holdfast config` prints \
                     what is in force.\n\nExamples:\n  \
                     holdfast serve\n  \
                     holdfast serve --data-dir ./data --listen localhost:9000\n  \
                     HOLDFAST_LOG=debug holdfast serve --config /etc/holdfast/holdfast.toml",
                ),
        )
        .subcommand(
            with_settings(Command::new("take-over"))
                .about("Make this data folder the host of local executions, because the machine of the former host is lost.")
                .long_about(
                    "Make this data folder the host of local executions, because the machine of the former host is lost. With \
                     PostgreSQL, all local executions of a database are in the data folder of one machine. Executions in \
                     progress on the former host end as platform errors and are not repeated. The command fails while an \
                     instance leads there. It takes the flags of `serve`.",
                )
                .after_help(
                    "Example:\n  \
                     HOLDFAST_DATABASE_URL=postgres://… holdfast take-over --data-dir /var/lib/holdfast",
                ),
        )
        .subcommand(
            with_settings(Command::new("config"))
                .about("Print every setting, its value and where the value comes from.")
                .long_about(
                    "Print every setting, its value and where the value comes from. Takes the flags of `serve`, to show \
                     what they would change. Secrets are not shown.",
                )
                .args(config::Format::args())
                .subcommand(config::from_upstream::command())
                .args_conflicts_with_subcommands(true)
                .after_help(
                    "Examples:\n  \
                     holdfast config\n  \
                     holdfast config --json\n  \
                     HOLDFAST_LISTEN=localhost:9000 holdfast config",
                ),
        )
        .subcommand(
            with_settings(Command::new("doctor"))
                .about("Check what the service needs, and print the command that fixes what is wrong.")
                .long_about(
                    "Check what the service needs, and print the command that fixes what is wrong: Python, disk, clock, \
                     permissions, port, database, rights in the cluster, registry and issuers. Takes the flags of `serve` and \
                     changes nothing. The exit code is 1 if something is wrong; warnings do not count.",
                )
                .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print JSON"))
                .after_help("Examples:\n  holdfast doctor\n  holdfast doctor --config /etc/holdfast/holdfast.toml --json"),
        )
        .subcommand(support_bundle::command(|command| with_settings_of("support-bundle", command)))
        .subcommand(demo::command())
        .subcommand(client::command(|command| with_settings_of("client", command)))
        .subcommand(dev::command())
        .subcommand(explain::command())
        .subcommand(rollout::command())
        .subcommand(keys::command(|command| with_settings_of("keys", command)))
        .subcommand(orphans::command(|command| with_settings_of("orphans", command)))
        .subcommand(errors::command())
        .subcommand(completions::command())
        .subcommand(
            Command::new("openapi")
                .about("Print the description of the API as OpenAPI 3.1 (JSON).")
                .after_help("Example:\n  holdfast openapi > openapi.json"),
        )
}

/// The command with a flag for each setting.
fn with_settings(command: Command) -> Command {
    let name = command.get_name().to_owned();
    with_settings_of(&name, command)
}

/// A command with a flag for each setting. `-h` shows the flags that `of` often needs.
fn with_settings_of(of: &str, command: Command) -> Command {
    let config = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .value_parser(clap::value_parser!(PathBuf))
        .help("The configuration file [env: HOLDFAST_CONFIG] [default: ./holdfast.toml, or that of the user]");
    let often = often_used(of);
    command.arg(config).args(
        Group::ALL
            .into_iter()
            .flat_map(|group| SETTINGS.iter().filter(move |setting| setting.group == group))
            .map(move |setting| flag(setting).hide_short_help(!often.contains(&setting.key))),
    )
}

/// The settings that `-h` shows for a command; `--help` shows all.
fn often_used(command: &str) -> &'static [&'static str] {
    match command {
        "serve" => &["listen", "insecure", "data_dir", "database_url", "runtime", "parallel_runs", "log"],
        "config" => &["data_dir"],
        "client" => &["cache_dir", "index_url", "python.version"],
        "orphans" => &["data_dir", "database_url", "kubernetes.context", "kubernetes.namespace"],
        _ => &["data_dir", "database_url"],
    }
}

fn flag(setting: &'static Setting) -> Arg {
    let default = setting.default.describe().replace('`', "");
    let arg = Arg::new(setting.key)
        .long(setting.flag)
        .help(format!("{} [env: {}] [default: {default}]", setting.summary().trim().replace('`', ""), setting.env))
        .long_help(format!("{} [env: {}] [default: {default}]", setting.doc.trim().replace('`', ""), setting.env))
        .help_heading(setting.group.title())
        .value_name(match (setting.shape, setting.unit()) {
            (_, Some("seconds")) => "SECONDS",
            (_, Some("days")) => "DAYS",
            (_, Some("bytes")) => "BYTES",
            (Shape::Number, _) => "NUMBER",
            (Shape::List, _) => "LIST",
            (Shape::Table, _) => "TABLE",
            (Shape::Switch, _) => "true|false",
            (Shape::Text, _) => "VALUE",
        });
    match setting.shape {
        Shape::Text | Shape::Table => arg,
        Shape::Number => arg.allow_negative_numbers(true),
        Shape::Switch => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
        Shape::List => arg.action(ArgAction::Append),
    }
}

/// The settings that were given as flags.
fn flags(matches: &ArgMatches) -> Flags {
    let raw = |setting: &'static Setting| {
        let given = matches.get_many::<String>(setting.key)?.cloned().collect::<Vec<_>>();
        Some((setting, Raw::Text(given.join(","))))
    };
    Flags { config: matches.get_one("config").cloned(), values: SETTINGS.iter().filter_map(raw).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Invocation, clap::Error> {
        parse(line.split(' ').map(OsString::from))
    }

    fn serve(line: &str) -> Vec<(&'static str, String)> {
        let Ok(Invocation::Serve(flags)) = parsed(line) else { panic!("{line}") };
        flags.values.into_iter().map(|(setting, raw)| (setting.key, raw.text())).collect()
    }

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn serve_needs_no_flags() {
        assert_eq!(serve("holdfast serve"), []);
    }

    #[test]
    fn a_flag_stands_for_its_setting() {
        assert_eq!(
            serve(
                "holdfast serve --listen=localhost:0 --insecure --sync-parallelism 3 \
                        --allowed-hosts a --allowed-hosts b"
            ),
            [
                ("listen", "localhost:0".into()),
                ("insecure", "true".into()),
                ("allowed_hosts", "a,b".into()),
                ("sync.parallelism", "3".to_owned()),
            ]
        );
        assert_eq!(serve("holdfast serve --insecure=false"), [("insecure", "false".to_owned())]);
        assert_eq!(serve("holdfast serve --lease-seconds -1"), [("lease_seconds", "-1".to_owned())]);
    }

    #[test]
    fn the_description_of_the_api_needs_nothing() {
        assert!(matches!(parsed("holdfast openapi"), Ok(Invocation::Openapi)));
        assert_eq!(parsed("holdfast openapi --listen x").unwrap_err().exit_code(), 2);
    }

    #[test]
    fn an_unknown_flag_or_command_is_refused_with_a_suggestion() {
        for (line, suggestion) in [
            ("holdfast serve --listn x", "'--listen'"),
            ("holdfast serve --data-dri x", "'--data-dir'"),
            ("holdfast config --jsn", "'--json'"),
            ("holdfast serv", "'serve'"),
        ] {
            let error = parsed(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(suggestion), "{line}\n{error}");
        }
        for line in ["holdfast explain", "holdfast serve extra", "holdfast serve --uv a --uv b", "holdfast"] {
            assert_eq!(parsed(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn version_and_help_are_printed_and_end_well() {
        let version = parsed("holdfast --version").unwrap_err();
        assert_eq!(
            (version.exit_code(), version.to_string()),
            (0, format!("holdfast {}\n", env!("CARGO_PKG_VERSION")))
        );
        let help = parsed("holdfast serve --help").unwrap_err();
        assert_eq!(help.exit_code(), 0);
        let help = help.to_string();
        for setting in SETTINGS {
            assert!(help.contains(&format!("--{}", setting.flag)) && help.contains(setting.env), "{}", setting.key);
        }
        let help = parsed("holdfast --help").unwrap_err().to_string();
        assert!(!help.contains("shim") && !help.contains("confined"));
    }

    #[test]
    fn the_short_help_of_each_command_shows_few_settings_and_names_the_long_one() {
        for (line, shown, most) in [
            ("holdfast serve -h", "--listen", 8),
            ("holdfast config -h", "--data-dir", 2),
            ("holdfast keys list -h", "--database-url", 3),
            ("holdfast orphans list -h", "--kubernetes-context", 5),
            ("holdfast take-over -h", "--database-url", 3),
        ] {
            let help = parsed(line).unwrap_err().to_string();
            let settings = SETTINGS.iter().filter(|s| help.contains(&format!("--{} ", s.flag))).count();
            assert!(help.contains(shown) && settings <= most, "{line}: {settings}\n{help}");
            assert!(help.contains("--help"), "{line}");
            assert!(help.lines().count() < 45, "{line}: {}", help.lines().count());
        }
    }

    #[test]
    fn an_error_begins_with_a_word_that_tells_it_from_log_lines_and_has_its_causes_below() {
        let error = anyhow::anyhow!("connection refused").context("the database can't be reached");
        assert_eq!(describe(&error), "error: the database can't be reached\n  because: connection refused");
    }

    #[test]
    fn hidden_commands_are_known_by_the_first_argument_alone() {
        let asked = |line: &str| hidden(line.split(' ').map(OsString::from));
        assert_eq!(asked("holdfast shim a --b"), Some(Hidden::Shim(vec!["a".into(), "--b".into()])));
        assert_eq!(asked("holdfast shim"), Some(Hidden::Shim(vec![])));
        assert_eq!(asked("holdfast confined try {}"), Some(Hidden::Confined(vec!["try".into(), "{}".into()])));
        assert_eq!(asked("holdfast serve shim"), None);
        assert_eq!(asked("shim"), None);
    }
}
