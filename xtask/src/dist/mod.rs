//! `cargo xtask dist`: the files by which Holdfast is installed.

mod archive;
mod sbom;
mod wheel;

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use devtools::{
    binary, chart, cluster, command,
    environment::{variable, workspace},
    image,
    progress::{self, say},
    venv, web,
};

/// The version of the workspace: the one place of it. `Chart.yaml` repeats it, which is checked.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The oldest glibc that the binary runs with, as the target of cargo-zigbuild names it, and the platform of the wheel.
const TARGET: &str = "x86_64-unknown-linux-gnu.2.28";
const PLATFORM: &str = "manylinux_2_28_x86_64";

/// The compiler's programs. Other versions can make other bytes.
const COMPILER: [&str; 2] = ["cargo-zigbuild==0.24.1", "ziglang==0.17.1"];

/// The programs that make and check the wheel.
const PACKAGING: [&str; 2] = ["auditwheel==6.8.2", "wheel==0.48.0"];

/// The shells with a completion script.
const SHELLS: [(&str, &str); 3] = [("bash", "holdfast.bash"), ("zsh", "_holdfast"), ("fish", "holdfast.fish")];

/// The namespace of the signature of the checksums, which `ssh-keygen -Y verify` asks for.
const SIGNATURE_NAMESPACE: &str = "holdfast-release";

/// The products.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The folder for the files. Former ones in it are removed.
    #[arg(long, default_value = "target/dist")]
    to: PathBuf,
    /// Package this binary instead of compiling one. Its wheel may need a newer glibc.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Leave the container image out, whose packages are fetched from Debian's archive.
    #[arg(long)]
    no_image: bool,
    /// Sign the checksums with this SSH private key. Without one, they are not signed.
    #[arg(long)]
    sign_key: Option<PathBuf>,
}

/// The inputs that the parts share.
struct Dist {
    /// The folder of the files.
    to: PathBuf,
    /// A folder for work, which is removed at the end.
    work: tempfile::TempDir,
    /// The time of all files, in seconds since 1970, so that equal sources give equal bytes.
    time: String,
    /// The environment of the programs in [`PACKAGING`].
    packaging: PathBuf,
}

/// Makes all files.
pub(crate) fn run(options: &Options) -> Result<()> {
    if chart::version()? != VERSION {
        bail!("Chart.yaml has the version {}, and Cargo.toml {VERSION}", chart::version()?);
    }
    let to = workspace().join(&options.to);
    if to.exists() {
        fs::remove_dir_all(&to)?;
    }
    fs::create_dir_all(&to).with_context(|| format!("The folder {} can't be made.", to.display()))?;
    let packaging = venv::install("packaging", &PACKAGING)?;
    let dist = Dist { to, work: tempfile::tempdir()?, time: time()?, packaging };
    let built = match &options.binary {
        Some(given) => fs::canonicalize(given).with_context(|| given.display().to_string())?,
        None => compiled()?,
    };
    let root = dist.work.path().join(format!("holdfast-{VERSION}"));
    fs::create_dir_all(&root)?;
    let debug = dist.work.path().join("holdfast.debug");
    let program = root.join("holdfast");
    progress::during("moving the debug information into a file of its own", || split(&built, &program, &debug))?;
    check_version(&program)?;

    progress::during("packing archives, wheel and chart", || {
        completions(&program, &root.join("completions"))?;
        fs::copy(workspace().join("LICENSE"), root.join("LICENSE"))?;
        let name = format!("holdfast-{VERSION}-x86_64-linux");
        archive::pack(&dist, &root, &dist.to.join(format!("{name}.tar.gz")))?;
        archive::pack(&dist, &debug, &dist.to.join(format!("{name}.debug.tar.gz")))?;
        let platform = wheel::make(&dist, &program)?;
        if options.binary.is_none() && !wheel::is_covered_by(&platform, PLATFORM) {
            bail!("the wheel is for {platform}, and not for {PLATFORM}: the binary needs a newer glibc");
        }
        chart_files(&dist)?;
        fs::write(dist.to.join(format!("holdfast-{VERSION}.cdx.json")), sbom::document(VERSION)?)?;
        Ok(())
    })?;
    if !options.no_image {
        image::assemble(&image::Options {
            program,
            packages: None,
            name: format!("holdfast:{VERSION}"),
            archive: Some(dist.to.join(format!("holdfast-{VERSION}-image.tar"))),
            push: false,
            plain_http: false,
            credentials: None,
        })?;
    }
    checksums(&dist.to, options.sign_key.as_deref())?;
    for file in files(&dist.to)? {
        #[expect(clippy::cast_precision_loss, reason = "megabytes for people")]
        let megabytes = fs::metadata(dist.to.join(&file))?.len() as f64 / 1e6;
        say(format_args!("{megabytes:8.1} MB  {}", file.to_string_lossy()));
    }
    Ok(())
}

/// Compiles the binary as it is shipped, without symbols, into a folder of its own.
pub(crate) fn stripped() -> Result<PathBuf> {
    let folder = workspace().join("target/dist-program");
    fs::create_dir_all(&folder).with_context(|| format!("The folder {} can't be made.", folder.display()))?;
    let program = folder.join("holdfast");
    split(&compiled()?, &program, &folder.join("holdfast.debug"))?;
    Ok(program)
}

/// The time of the last commit, or the one in SOURCE_DATE_EPOCH.
fn time() -> Result<String> {
    if let Some(given) = variable("SOURCE_DATE_EPOCH") {
        return Ok(given.to_string_lossy().into_owned());
    }
    let time = command::output(Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(workspace()));
    Ok(time.context("the time of the last commit, or SOURCE_DATE_EPOCH, is needed")?.trim().to_owned())
}

/// Compiles the binary for old distributions, without the paths of this machine in it.
fn compiled() -> Result<PathBuf> {
    web::build()?;
    let tools = venv::install("portable-compiler", &COMPILER)?;
    let mut path = vec![tools.join("bin")];
    path.extend(env::split_paths(&variable("PATH").unwrap_or_default()));
    let cargo_home = match variable("CARGO_HOME") {
        Some(given) => PathBuf::from(given),
        None => PathBuf::from(variable("HOME").context("neither CARGO_HOME nor HOME is set")?).join(".cargo"),
    };
    let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    let flags = [remap(&workspace(), "holdfast"), remap(&cargo_home, "cargo")].join("\u{1f}");
    binary::build_portable(&tools.join("bin/cargo-zigbuild"), &env::join_paths(path)?, TARGET, &flags)
}

/// Splits a binary into one without symbols and its debug information, which debuggers find by its name in the binary.
fn split(built: &Path, program: &Path, debug: &Path) -> Result<()> {
    let (objcopy, libraries) = objcopy()?;
    let objcopy = |arguments: &[&str], from: &Path, to: &Path| {
        let mut command = Command::new(&objcopy);
        // The name of the file in the binary has no folder.
        command.current_dir(debug.parent().unwrap_or(debug));
        command.env("LD_LIBRARY_PATH", &libraries).args(arguments).args([from, to]);
        command::output(&mut command).map(drop)
    };
    objcopy(&["--only-keep-debug"], built, debug)?;
    objcopy(&["--strip-all", "--add-gnu-debuglink=holdfast.debug"], built, program)
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

/// A binary of another version would be packed under a wrong name.
fn check_version(program: &Path) -> Result<()> {
    let said = command::output(Command::new(program).arg("--version"))?;
    if said.trim() != format!("holdfast {VERSION}") {
        bail!("{} is {}, and not version {VERSION}", program.display(), said.trim());
    }
    Ok(())
}

fn completions(program: &Path, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    for (shell, file) in SHELLS {
        fs::write(folder.join(file), command::output(Command::new(program).args(["completions", shell]))?)?;
    }
    Ok(())
}

/// The chart, the plain manifests that it renders, the alert rules and the dashboard.
fn chart_files(dist: &Dist) -> Result<()> {
    let package = chart::package(dist.work.path())?;
    let unpacked = dist.work.path().join("chart");
    fs::create_dir_all(&unpacked)?;
    command::output(Command::new("tar").arg("-xzf").arg(&package).arg("-C").arg(&unpacked))?;
    // Helm packs the present time.
    archive::pack(dist, &unpacked.join("holdfast"), &dist.to.join(format!("holdfast-chart-{VERSION}.tgz")))?;
    let mut helm = Command::new(cluster::helm()?);
    helm.args(["template", "holdfast"]).arg(chart::folder()).args(["--namespace", "holdfast"]);
    helm.arg("--values").arg(chart::folder().join("examples/plain.yaml")).args(["--skip-tests"]);
    let head = "# Plain manifests of the chart's example plain.yaml: change the image, the names of job images and the issuer to yours.\n";
    fs::write(
        dist.to.join(format!("holdfast-{VERSION}-manifests.yaml")),
        format!("{head}{}", command::output(&mut helm)?),
    )?;
    fs::copy(chart::folder().join("files/alerts.yaml"), dist.to.join("holdfast-alerts.yaml"))?;
    fs::copy(chart::folder().join("files/dashboard.json"), dist.to.join("holdfast-dashboard.json"))?;
    Ok(())
}

/// The names of the files, sorted.
fn files(folder: &Path) -> Result<Vec<OsString>> {
    let mut names = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

/// Writes the checksums of all files, and signs them.
fn checksums(folder: &Path, key: Option<&Path>) -> Result<()> {
    let sums = command::output(Command::new("sha256sum").args(files(folder)?).current_dir(folder))?;
    let file = folder.join("SHA256SUMS");
    fs::write(&file, sums)?;
    match key {
        Some(key) => {
            let mut sign = Command::new("ssh-keygen");
            sign.args(["-q", "-Y", "sign", "-n", SIGNATURE_NAMESPACE, "-f"]).arg(key).arg(&file);
            command::output(&mut sign).context("the checksums can't be signed")?;
        }
        None => say("! the checksums are not signed: no --sign-key was given"),
    }
    Ok(())
}
