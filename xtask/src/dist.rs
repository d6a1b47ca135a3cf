//! `cargo xtask dist`

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use devtools::{
    binary::{self, Profile},
    command,
    environment::workspace,
    progress::{self, say},
    web,
};

/// The folder of the products.
const FOLDER: &str = "target/dist";

/// The products.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The folder for the files.
    #[arg(long, default_value = FOLDER)]
    to: PathBuf,
}

/// Compiles the binary as it is shipped: without symbols, and with its debug information in a file beside it that debuggers
/// find by the name in the binary.
pub(crate) fn run(options: &Options) -> Result<()> {
    web::build()?;
    let built = binary::build(Profile::Dist)?;
    let folder = workspace().join(to);
    fs::create_dir_all(&folder).with_context(|| format!("The folder {} can't be made.", folder.display()))?;
    let (binary, debug) = (folder.join("holdfast"), folder.join("holdfast.debug"));
    let (objcopy, libraries) = objcopy()?;
    progress::during("moving the debug information into a file of its own", || {
        let objcopy = |arguments: &[&str], from: &Path, to: &Path| {
            // The name of the file in the binary has no folder.
            let mut command = Command::new(&objcopy);
            command.current_dir(&folder).env("LD_LIBRARY_PATH", &libraries).args(arguments).args([from, to]);
            command::output(&mut command).map(drop)
        };
        objcopy(&["--only-keep-debug"], &built, &debug)?;
        objcopy(&["--strip-all", "--add-gnu-debuglink=holdfast.debug"], &built, &binary)
    })?;
    Ok([binary, debug])
}

/// The program of the Rust toolchain that edits binaries, and the folder of the libraries that it needs.
fn objcopy() -> Result<(PathBuf, PathBuf)> {
    let printed = |what: &str| command::output(Command::new("rustc").args(["--print", what]));
    let program = Path::new(printed("target-libdir")?.trim()).with_file_name("bin").join("rust-objcopy");
    if !program.is_file() {
        bail!("The Rust toolchain lacks {}. Rust 1.90 and later bring it.", program.display());
    }
    Ok((program, Path::new(printed("sysroot")?.trim()).join("lib")))
}
