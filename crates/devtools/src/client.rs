//! The released `vdk` client, installed once into the cache.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use crate::{cache, command::Log, progress};

/// Interpreters to look for, best known first.
const INTERPRETERS: [&str; 6] = ["python3.11", "python3.12", "python3.10", "python3.13", "python3.9", "python3"];

/// An installed client.
#[derive(Debug, Clone)]
pub struct Client {
    folder: PathBuf,
}

impl Client {
    /// The `vdk` command.
    pub fn vdk(&self) -> PathBuf {
        self.folder.join("bin/vdk")
    }

    /// The `vdk-heartbeat` command, after [`install_heartbeat`].
    pub fn heartbeat(&self) -> PathBuf {
        self.folder.join("bin/vdk-heartbeat")
    }

    /// The Python that has the generated client `taurus_datajob_api`.
    pub fn python(&self) -> PathBuf {
        self.folder.join("bin/python")
    }

    /// The folder of commands, to put first in `PATH`.
    pub fn commands(&self) -> PathBuf {
        self.folder.join("bin")
    }

    /// Variables that make the command fit for machines: no waiting on retries, no warnings of its libraries, and
    /// `home` instead of the user's own folder.
    pub fn variables(home: &Path) -> [(&'static str, PathBuf); 6] {
        [
            ("VDK_CONTROL_HTTP_TOTAL_RETRIES", "0".into()),
            ("VDK_CONTROL_HTTP_CONNECT_RETRIES", "0".into()),
            ("PYTHONWARNINGS", "ignore".into()),
            ("VDK_BASE_CONFIG_FOLDER", home.into()),
            ("HOME", home.into()),
            ("NO_PROXY", "127.0.0.1,localhost".into()),
        ]
    }
}

/// Gives the client, and installs it when the cache has none: about half a minute, once.
///
/// # Errors
/// When there is no Python with `venv`, or the installer fails; its last lines are in the message.
pub fn install() -> Result<Client> {
    installed(vdk::DISTRIBUTION, |client| (client.vdk(), "version"), |what, work| progress::during(what, work))
}

/// Returns upstream's check of an installation, and installs it if the cache has none.
///
/// # Errors
/// As [`install`].
pub fn install_heartbeat() -> Result<Client> {
    installed(vdk::HEARTBEAT, |client| (client.heartbeat(), "--help"), |what, work| progress::during(what, work))
}

/// Installs a requirement. `first` is the command that shows that it starts, and `during` shows that the installation
/// continues.
fn installed(
    requirement: &str,
    first: fn(&Client) -> (PathBuf, &'static str),
    during: fn(String, &dyn Fn() -> Result<()>) -> Result<()>,
) -> Result<Client> {
    let (python, version) = interpreter()?;
    let mut key = DefaultHasher::new();
    (requirement, vdk::CONSTRAINTS, &python, &version).hash(&mut key);
    let name = format!("vdk-{:016x}", key.finish());
    let folder = cache::folder()?.join(&name);
    let (client, complete) = (Client { folder: folder.clone() }, folder.join("complete"));
    if complete.exists() && client.python().exists() {
        return Ok(client);
    }
    let _lock = cache::lock(&name)?;
    if complete.exists() && client.python().exists() {
        return Ok(client);
    }
    during(format!("installing {requirement} with {version} (once)"), &|| {
        make(requirement, &python, &client, first(&client))
            .inspect_err(|_| {
                let _ = fs::remove_dir_all(&folder);
            })
            .with_context(|| format!("{requirement} was not installed"))
    })?;
    Ok(client)
}

fn make(requirement: &str, python: &str, client: &Client, first: (PathBuf, &str)) -> Result<()> {
    let folder = &client.folder;
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    let log = Log::begin(folder.with_extension("log"))?;
    // At its final path, because the scripts of an environment carry it; the marker comes last.
    log.run(Command::new(python).args(["-m", "venv"]).arg(folder))?;
    let constraints = folder.join("constraints.txt");
    fs::write(&constraints, vdk::CONSTRAINTS)?;
    log.run(
        Command::new(client.python())
            .args(["-m", "pip", "install", "--no-input", "--disable-pip-version-check", requirement])
            // Older installers build under the first, newer ones under the second.
            .env("PIP_CONSTRAINT", &constraints)
            .env("PIP_BUILD_CONSTRAINT", &constraints)
            .env_remove("PYTHONPATH"),
    )?;
    let home = folder.join("home");
    fs::create_dir_all(&home)?;
    log.run(Command::new(first.0).arg(first.1).envs(Client::variables(&home)))?;
    fs::write(folder.join("complete"), "")?;
    Ok(())
}

/// The first interpreter that starts and can make environments: its path, and its name and version.
pub fn interpreter() -> Result<(String, String)> {
    const PROBE: &str =
        "import ensurepip, platform, sys, venv; print(sys.executable); print(platform.python_version())";
    INTERPRETERS
        .iter()
        .find_map(|name| {
            let output = Command::new(name).args(["-c", PROBE]).stdin(Stdio::null()).output().ok()?;
            let text = String::from_utf8(output.stdout).ok()?;
            let (path, version) = text.trim().split_once('\n')?;
            output.status.success().then(|| (path.to_owned(), format!("Python {version}")))
        })
        .with_context(|| {
            format!(
                "no Python that can make environments was found (looked for: {}). Install Python with its venv module \
                 (Debian: apt install python3-venv).",
                INTERPRETERS.join(", ")
            )
        })
}
