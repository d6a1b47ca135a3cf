//! `cargo xtask image`

use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;
use devtools::{
    binary::{self, Profile},
    environment::workspace,
    image::{self, assemble},
    progress::say,
};

/// The image and its program.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How the program is compiled.
    #[arg(long, value_enum, default_value_t = Build::Dist)]
    profile: Build,
    /// A program that was compiled before, such as that of `cargo xtask dist`.
    #[arg(long, conflicts_with = "profile")]
    binary: Option<PathBuf>,
    /// The name of the image, with its registry and a tag. Without it: `holdfast` with the version as the tag.
    #[arg(long)]
    name: Option<String>,
    /// The archive in OCI layout.
    #[arg(long, default_value = "target/dist/holdfast-image.tar")]
    to: PathBuf,
    /// Push the image under its name, too.
    #[arg(long, requires = "name")]
    push: bool,
    /// The registry has no TLS.
    #[arg(long)]
    plain_http: bool,
    /// A Docker configuration file with credentials for the registry.
    #[arg(long)]
    credentials: Option<PathBuf>,
    /// List the Debian packages as Debian's archive has them now, and assemble nothing.
    #[arg(long)]
    renew: bool,
}

/// How the program is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Build {
    /// As tests use it.
    Dev,
    /// As it is measured.
    Release,
    /// As it is shipped.
    Dist,
}

/// Assembles the image of the service.
pub(crate) fn run(options: &Options) -> Result<()> {
    if options.renew {
        let list = image::list()?;
        image::renew(&list)?;
        say(format_args!("{}", list.display()));
        return Ok(());
    }
    let program = match &options.binary {
        Some(given) => workspace().join(given),
        None => match options.profile {
            Build::Dev => binary::build(Profile::Dev)?,
            Build::Release => binary::build(Profile::Release)?,
            // Without symbols, as it is shipped.
            Build::Dist => super::dist::stripped()?,
        },
    };
    let name =
        options.name.clone().map_or_else(|| image::version().map(|version| format!("holdfast:{version}")), Ok)?;
    let archive = workspace().join(&options.to);
    if let Some(folder) = archive.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let assembled = assemble(&image::Options {
        program,
        packages: None,
        name: name.clone(),
        archive: Some(archive.clone()),
        push: options.push,
        plain_http: options.plain_http,
        credentials: options.credentials.clone(),
    })?;
    #[expect(clippy::cast_precision_loss, reason = "megabytes for people")]
    let megabytes = assembled.bytes as f64 / 1e6;
    say(format_args!("{name}@{}: {megabytes:.1} MB compressed, in {}", assembled.digest, archive.display()));
    Ok(())
}
