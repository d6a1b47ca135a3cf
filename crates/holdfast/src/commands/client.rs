//! `holdfast client install`: the `vdk` client in a virtual environment.

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use clap::{Arg, ArgMatches, Command, value_parser};
use model::clock::SharedClock;

use crate::{
    config::{Loaded, ProcessEnvironment},
    packages,
    progress::during,
};

/// The service whose URL the client gets, if no other is named.
const DEFAULT_URL: &str = "http://127.0.0.1:8092";

/// Marks a folder that this command made, so that it never replaces another one.
const MARKER: &str = "holdfast-client";

/// Where the client goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Install {
    folder: Option<PathBuf>,
    url: String,
}

/// The command line of `client`.
pub(super) fn command(with_settings: impl Fn(Command) -> Command) -> Command {
    Command::new("client")
        .about("Install the vdk client.")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            with_settings(Command::new("install"))
                .about("Install the vdk client into a virtual environment, with constraints that work and the service's URL.")
                .long_about(
                    "Install the vdk client into a virtual environment, with constraints that work and the service's URL. A plain \
                     `pip install` of it gives a command that does not start. Packages come from `index_url` if it is set, and \
                     through the proxy of the environment.",
                )
                .arg(
                    Arg::new("folder")
                        .long("into")
                        .value_name("DIR")
                        .value_parser(value_parser!(PathBuf))
                        .help("The folder of the virtual environment [default: client, in the data folder]"),
                )
                .arg(
                    Arg::new("url")
                        .long("url")
                        .value_name("URL")
                        .default_value(DEFAULT_URL)
                        .help("The URL of the service"),
                )
                .after_help("Example:\n  holdfast client install --into ~/vdk --url https://jobs.example.com"),
        )
}

impl Install {
    /// The installation, and the arguments that hold the settings.
    pub(super) fn of(matches: &ArgMatches) -> (Self, &ArgMatches) {
        let matches = matches.subcommand().map_or(matches, |(_, matches)| matches);
        let url = matches.get_one::<String>("url").map_or(DEFAULT_URL, String::as_str).trim_end_matches('/');
        (Self { folder: matches.get_one("folder").cloned(), url: url.to_owned() }, matches)
    }
}

/// Installs the client and prints how to use it.
///
/// # Errors
/// If the folder has other content, or the packages can't be installed.
pub(crate) async fn run(
    environment: &ProcessEnvironment,
    loaded: &Loaded,
    install: &Install,
    clock: &SharedClock,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let folder = install.folder.clone().unwrap_or_else(|| loaded.settings.data_dir.join("client"));
    let folder = environment.folder.join(folder);
    let commands = install_into(environment, loaded, &folder, &install.url, clock).await?;
    writeln!(out, "export PATH={}:$PATH", commands.display())?;
    Ok(out.flush()?)
}

/// Installs the client with a command that has the service's URL, and returns the folder of that command.
///
/// # Errors
/// As [`run`].
pub(super) async fn install_into(
    environment: &ProcessEnvironment,
    loaded: &Loaded,
    folder: &Path,
    url: &str,
    clock: &SharedClock,
) -> anyhow::Result<PathBuf> {
    let is_empty = fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_none());
    if !is_empty && !folder.join(MARKER).is_file() {
        bail!("The folder {} has other content. Name another one with --into.", folder.display());
    }
    let settings = &loaded.settings;
    let (distribution, version) = (settings.vdk_distribution.as_str(), settings.vdk_version.as_str());
    fs::create_dir_all(folder).with_context(|| format!("The folder {} can't be created.", folder.display()))?;
    let folder = folder.canonicalize()?;
    fs::write(folder.join(MARKER), "").with_context(|| format!("The folder {} can't be written.", folder.display()))?;
    let what = format!("installing {distribution} {version} (the vdk client)");
    during(clock, what, packages::install_client(environment, loaded, &folder.join("env"), clock)).await?;
    let commands = folder.join("bin");
    fs::create_dir_all(&commands)?;
    let command = commands.join("vdk");
    fs::write(&command, launcher(&folder.join("env/bin/vdk"), url))?;
    fs::set_permissions(&command, fs::Permissions::from_mode(0o755))?;
    Ok(commands)
}

/// A command that starts the client with the service's URL, unless the environment has another one.
fn launcher(vdk: &Path, url: &str) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
    format!(
        "#!/bin/sh\n\
         # Made by `holdfast client install`.\n\
         [ -n \"$VDK_CONTROL_SERVICE_REST_API_URL\" ] || VDK_CONTROL_SERVICE_REST_API_URL={}\n\
         export VDK_CONTROL_SERVICE_REST_API_URL PYTHONWARNINGS=\"${{PYTHONWARNINGS:-ignore}}\"\n\
         exec {} \"$@\"\n",
        quoted(url),
        quoted(&vdk.to_string_lossy())
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_launcher_passes_arguments_and_the_url_unless_there_is_another() {
        let folder = tempfile::tempdir().unwrap();
        let (vdk, command) = (folder.path().join("it's vdk"), folder.path().join("vdk"));
        fs::write(&vdk, "#!/bin/sh\necho \"$VDK_CONTROL_SERVICE_REST_API_URL\" \"$1\" \"$2\"\n").unwrap();
        fs::write(&command, launcher(&vdk, "http://a'b:1")).unwrap();
        for file in [&vdk, &command] {
            fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let printed = |url: Option<&str>| {
            let mut run = std::process::Command::new(&command);
            run.args(["deploy", "two words"]).env_remove("VDK_CONTROL_SERVICE_REST_API_URL");
            if let Some(url) = url {
                run.env("VDK_CONTROL_SERVICE_REST_API_URL", url);
            }
            String::from_utf8(run.output().unwrap().stdout).unwrap()
        };
        assert_eq!(printed(None), "http://a'b:1 deploy two words\n");
        assert_eq!(printed(Some("http://other")), "http://other deploy two words\n");
    }
}
