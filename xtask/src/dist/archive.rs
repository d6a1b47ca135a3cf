//! Archives that are equal if their files are.

use std::{
    fs::{self, File},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result};
use devtools::command;

use super::Dist;

/// Packs a file or a folder, by its name, into a compressed archive.
pub(super) fn pack(dist: &Dist, from: &Path, to: &Path) -> Result<()> {
    let (folder, name) = (from.parent().context("a folder")?, from.file_name().context("a name")?);
    let tar = dist.work.path().join("archive.tar");
    let mut command = Command::new("tar");
    command.args(["--create", "--format=gnu", "--sort=name", "--owner=0", "--group=0", "--numeric-owner"]);
    command.arg("--mode=u=rwX,go=rX").arg(format!("--mtime=@{}", dist.time));
    command::output(command.arg("--file").arg(&tar).arg("--directory").arg(folder).arg(name))?;
    // Without the name and the time of the tar file.
    let packed = File::create(to)?;
    let status = Command::new("gzip").args(["--no-name", "--stdout"]).arg(&tar).stdout(packed).status()?;
    anyhow::ensure!(status.success(), "gzip ended with {status}");
    fs::remove_file(tar)?;
    Ok(())
}
