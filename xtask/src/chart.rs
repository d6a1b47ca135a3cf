//! `cargo xtask chart`

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};
use devtools::{
    binary::{self, Profile},
    chart, command,
    progress::say,
};

/// Renews the generated parts of the chart: the table of README.md, and the settings in the schema of the values.
pub(crate) fn run() -> Result<()> {
    let folder = chart::folder();
    let read = |name: &str| fs::read_to_string(folder.join(name)).with_context(|| name.to_owned());
    renew(&folder.join("README.md"), &chart::readme(&read("README.md")?, &read("values.yaml")?)?)?;
    let settings = command::output(Command::new(binary::path(Profile::Dev)?).args(["config", "--json-schema"]))?;
    renew(&folder.join("values.schema.json"), &chart::schema(&read("values.schema.json")?, &settings)?)
}

fn renew(file: &Path, text: &str) -> Result<()> {
    if fs::read_to_string(file).unwrap_or_default() == text {
        return Ok(());
    }
    fs::write(file, text)?;
    say(format_args!("renewed {}", file.display()));
    Ok(())
}
