//! Schemathesis, installed once into the cache: it generates requests from an OpenAPI document and checks the responses.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::{environment::workspace, venv};

/// The requirements: the program, and the packages that decide which requests it makes.
const REQUIREMENTS: [&str; 4] =
    ["schemathesis==4.32.5", "hypothesis==6.170.17", "hypothesis-graphql==0.13.5", "jsonschema-rs==0.60.3"];

/// Its name in messages.
const NAME: &str = "schemathesis";

/// An installed schemathesis.
#[derive(Debug, Clone)]
pub struct Schemathesis {
    folder: PathBuf,
}

impl Schemathesis {
    /// Its command, with the project's configuration, in a folder for its files.
    ///
    /// # Errors
    /// When the folder can't be written to.
    pub fn command(&self, folder: &Path) -> Result<Command> {
        let file = "schemathesis.toml";
        fs::copy(workspace().join("crates/devtools/schemathesis").join(file), folder.join(file))?;
        let mut command = Command::new(self.folder.join("bin/schemathesis"));
        command
            .args(["--no-color", "--config-file", "schemathesis.toml"])
            .current_dir(folder)
            .env("NO_PROXY", "127.0.0.1,localhost");
        Ok(command)
    }
}

/// Gives it, and installs it when the cache has none.
///
/// # Errors
/// When there is no Python with `venv`, or the installer fails; its last lines are in the message.
pub fn install() -> Result<Schemathesis> {
    Ok(Schemathesis { folder: venv::install(NAME, &REQUIREMENTS)? })
}
