//! The image of the service: Debian packages by a list with their hashes, the installer of Python packages, and the program.
//!
//! The program `service-image` of this workspace assembles it; here is what it needs from the machine: `apt-get`, `apt-cache`,
//! `dpkg-deb`, and a Python with `venv`.

use std::{
    fmt::Write as _,
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::{
    binary, cache, client,
    command::{self, Log},
    environment::{variable, workspace},
    progress::{self, say},
};

/// The packages of the image, which the list of each processor has with a version and a hash.
const PACKAGES: [&str; 19] = [
    "base-files",
    "ca-certificates",
    "libbz2-1.0",
    "libc6",
    "libexpat1",
    "libffi8",
    "libgcc-s1",
    "liblzma5",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "libsqlite3-0",
    "libssl3",
    "libuuid1",
    "media-types",
    "python3-pip-whl",
    "python3.11-minimal",
    "python3.11-venv",
    "tzdata",
    "zlib1g",
];

/// The content of the image and its targets.
#[derive(Debug, Clone)]
pub struct Options {
    /// The program of the service.
    pub program: PathBuf,
    /// The list of packages; that of this checkout and this machine's processor when there is none.
    pub packages: Option<PathBuf>,
    /// The name of the image, with a tag.
    pub name: String,
    /// The archive in OCI layout to write.
    pub archive: Option<PathBuf>,
    /// Whether it is pushed under its name.
    pub push: bool,
    /// Whether its registry is spoken to without TLS.
    pub plain_http: bool,
    /// A Docker configuration file with credentials for the registry.
    pub credentials: Option<PathBuf>,
}

/// An image that was assembled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The digest of its manifest.
    pub digest: String,
    /// The bytes of its layers as they are sent.
    pub bytes: u64,
}

/// Assembles the image.
///
/// # Errors
/// When Debian's archive no longer has a package of the list: [`renew`] makes a new list. When a program is missing, or the
/// registry refuses.
pub fn assemble(options: &Options) -> Result<Image> {
    let packages = match &options.packages {
        Some(list) => list.clone(),
        None => list()?,
    };
    let text = fs::read_to_string(&packages).with_context(|| format!("cannot read {}", packages.display()))?;
    let (debs, uv) = (debs(&text, &packages)?, uv()?);
    let assembler = assembler()?;
    let scratch = tempfile::tempdir()?;
    let request = json!({
        "architecture": architecture()?,
        "packages": packages,
        "debs": debs,
        "uv": uv,
        "program": options.program,
        "version": version()?,
        "revision": revision(),
        "name": options.name,
        "archive": options.archive,
        "push": options.push,
        "plain_http": options.plain_http,
        "credentials": options.credentials,
        "scratch": scratch.path(),
    });
    let printed = progress::during(format!("assembling the image {}", options.name), || {
        let mut child = Command::new(&assembler)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", assembler.display()))?;
        child.stdin.take().context("no input")?.write_all(request.to_string().as_bytes())?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(output.stdout)
    })?;
    let printed: Value = serde_json::from_slice(&printed)?;
    let digest = printed["digest"].as_str().context("no digest")?.to_owned();
    Ok(Image { digest, bytes: printed["bytes"].as_u64().context("no size")? })
}

/// Assembles the image with the list of this checkout, or with a new list if Debian's archive no longer has the packages of that
/// one: for tests, which are about the program.
///
/// # Errors
/// As [`assemble`] and [`renew`].
pub fn assemble_with_any_list(mut options: Options) -> Result<Image> {
    let pinned = list()?;
    let text = fs::read_to_string(&pinned).with_context(|| format!("cannot read {}", pinned.display()))?;
    if let Err(error) = debs(&text, &pinned) {
        let renewed = cache::folder()?.join("debs/renewed.txt");
        say(format_args!("{error:#}"));
        renew(&renewed)?;
        options.packages = Some(renewed);
    }
    assemble(&options)
}

/// The list of packages for this machine's processor.
///
/// # Errors
/// When the processor has no name in images.
pub fn list() -> Result<PathBuf> {
    Ok(workspace().join(format!("deploy/image/packages-{}.txt", architecture()?)))
}

/// Writes a list of the packages as Debian's archive has them now.
///
/// # Errors
/// When `apt-cache` is missing or does not know a package.
pub fn renew(to: &Path) -> Result<()> {
    let mut text = String::from(
        "# The Debian packages of the service's image: name, version, SHA-256, path in Debian's archive.\n\
         # Written by `cargo xtask image --renew`.\n",
    );
    for package in PACKAGES {
        let about = apt("apt-cache", &["show", "--no-all-versions", package])?;
        let field = |name: &str| {
            about
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                .with_context(|| format!("apt-cache shows no {name} of {package}"))
        };
        let _ = writeln!(text, "{package} {} {} {}", field("Version")?, field("SHA256")?, field("Filename")?);
    }
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(to, text).with_context(|| format!("cannot write {}", to.display()))
}

/// The folder with the packages of a list, fetched where the cache lacks them. The assembler checks their hashes.
fn debs(list: &str, path: &Path) -> Result<PathBuf> {
    let folder = cache::folder()?.join("debs");
    fs::create_dir_all(&folder)?;
    let _lock = cache::lock("debs")?;
    let lines = list.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    for line in lines {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [package, version, sha256, _] = fields.as_slice() else {
            bail!("{} has a line with other fields than name, version, SHA-256 and path: {line}", path.display());
        };
        let deb = folder.join(format!("{sha256}.deb"));
        if deb.exists() {
            continue;
        }
        progress::during(format!("fetching {package} {version}"), || {
            let scratch = tempfile::tempdir_in(&folder)?;
            let mut fetch = Command::new("apt-get");
            fetch.args(["--quiet", "download", &format!("{package}={version}")]).current_dir(scratch.path());
            command::output(fetch.stdin(Stdio::null())).with_context(|| {
                format!(
                    "Debian's archive has no {package} {version}, which {} names. After `apt-get update`, \
                     `cargo xtask image --renew` lists the versions that it has now",
                    path.display()
                )
            })?;
            let fetched = fs::read_dir(scratch.path())?.next().context("apt-get left no file")??.path();
            fs::rename(fetched, &deb)?;
            Ok(())
        })?;
    }
    Ok(folder)
}

/// The installer of Python packages, in the version and with the hashes that the service uses.
fn uv() -> Result<PathBuf> {
    let requirement = workspace().join("crates/python/src/uv.txt");
    let text = fs::read(&requirement).with_context(|| format!("cannot read {}", requirement.display()))?;
    let mut key = DefaultHasher::new();
    text.hash(&mut key);
    let name = format!("uv-{:016x}", key.finish());
    let folder = cache::folder()?.join(&name);
    let uv = folder.join("bin/uv");
    let _lock = cache::lock(&name)?;
    if uv.exists() {
        return Ok(uv);
    }
    progress::during("fetching uv", || {
        let scratch = tempfile::tempdir_in(cache::folder()?)?;
        let log = Log::begin(cache::folder()?.join(format!("{name}.log")))?;
        let (python, _) = client::interpreter()?;
        let (environment, target) = (scratch.path().join("venv"), scratch.path().join("uv"));
        log.run(Command::new(python).args(["-m", "venv"]).arg(&environment))?;
        log.run(
            Command::new(environment.join("bin/python"))
                .args(["-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--no-deps"])
                .args(["--only-binary", ":all:", "--require-hashes", "--target"])
                .args([target.as_os_str(), "-r".as_ref(), requirement.as_os_str()])
                .env_remove("PYTHONPATH"),
        )?;
        fs::rename(&target, &folder)?;
        Ok(())
    })?;
    Ok(uv)
}

/// The program that assembles: the one beside the program that `HOLDFAST_BIN` names, else cargo builds it.
fn assembler() -> Result<PathBuf> {
    if let Some(given) = variable("HOLDFAST_BIN") {
        let beside = workspace().join(given).with_file_name("service-image");
        if beside.is_file() {
            return Ok(beside);
        }
    }
    let built = binary::compile(&["build", "--workspace", "--bin", "service-image"])?;
    let built = built.into_iter().find(|built| built.target == "service-image");
    built.map(|built| built.path).context("cargo built no program service-image")
}

fn apt(program: &str, arguments: &[&str]) -> Result<String> {
    command::output(Command::new(program).args(arguments).stdin(Stdio::null()))
        .context("The packages of the image come from Debian's archive by apt-get, on a machine with Debian 12")
}

/// This machine's processor, as images and Debian name it.
fn architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("there is no image for the processor {other}"),
    }
}

/// The version of the workspace.
///
/// # Errors
/// When its manifest has none.
pub fn version() -> Result<String> {
    let manifest = fs::read_to_string(workspace().join("Cargo.toml"))?;
    let version = manifest.lines().find_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"'));
    Ok(version.context("Cargo.toml has no version")?.to_owned())
}

/// The commit of the checkout, with `-dirty` when files were changed; nothing outside of a checkout.
fn revision() -> String {
    let mut describe = Command::new("git");
    describe.args(["describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]).current_dir(workspace());
    command::output(describe.stdin(Stdio::null())).map(|text| text.trim().to_owned()).unwrap_or_default()
}
