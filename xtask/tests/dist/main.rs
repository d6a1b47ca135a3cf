//! The release files, each used as its user would.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use devtools::{
    binary::{self, Profile},
    client, cluster, command, venv,
};
use serde_json::Value;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The validator of the bill of materials.
const VALIDATOR: [&str; 1] = ["cyclonedx-python-lib[json-validation]==11.12.0"];

fn said(command: &mut Command) -> String {
    command::output(command).unwrap_or_else(|error| panic!("{error:#}"))
}

/// Makes the files of a binary, as on one day in 2026.
fn made(binary: &Path, to: &Path, key: &Path) -> BTreeMap<String, String> {
    let mut dist = Command::new(env!("CARGO_BIN_EXE_xtask"));
    dist.args(["dist", "--no-image", "--binary"]).arg(binary).arg("--to").arg(to).arg("--sign-key").arg(key);
    said(dist.env("SOURCE_DATE_EPOCH", "1795953901"));
    let sums = fs::read_to_string(to.join("SHA256SUMS")).expect("checksums");
    sums.lines()
        .map(|line| {
            let (sum, name) = line.split_once("  ").expect("two fields");
            (name.to_owned(), sum.to_owned())
        })
        .collect()
}

/// Checks the signature of the checksums, as the documents say.
fn verified(folder: &Path, signers: &Path) -> Output {
    let mut verify = Command::new("ssh-keygen");
    verify.args(["-Y", "verify", "-I", "release@example.com", "-n", "holdfast-release", "-s", "SHA256SUMS.sig", "-f"]);
    verify.arg(signers).current_dir(folder).stdin(fs::File::open(folder.join("SHA256SUMS")).expect("checksums"));
    verify.output().expect("ssh-keygen")
}

#[test]
fn release_files_install_what_they_carry_and_equal_inputs_give_equal_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let key = at("key");
    said(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"]).arg(&key));
    let binary = binary::path(Profile::Dev).expect("a binary");
    let (first, second) = (at("first"), at("second"));
    let files = made(&binary, &first, &key);
    assert_eq!(files, made(&binary, &second, &key), "equal inputs gave other files");
    let file = |end: &str| -> PathBuf {
        let names: Vec<_> = files.keys().filter(|name| name.ends_with(end)).collect();
        assert_eq!(names.len(), 1, "{end}: {files:?}");
        first.join(names[0])
    };

    // Checksums and signature.
    said(Command::new("sha256sum").args(["--check", "--strict", "--quiet", "SHA256SUMS"]).current_dir(&first));
    let signers = at("signers");
    let public = fs::read_to_string(at("key.pub")).expect("a public key");
    fs::write(&signers, format!("release@example.com {public}")).expect("a file");
    assert!(verified(&first, &signers).status.success());
    let sums = fs::read_to_string(second.join("SHA256SUMS")).expect("checksums");
    fs::write(second.join("SHA256SUMS"), sums.replacen('a', "b", 1)).expect("a file");
    assert!(!verified(&second, &signers).status.success(), "a changed file has a valid signature");

    // The archive: the program, without symbols, with completions and the licence.
    let unpacked = at("unpacked");
    fs::create_dir(&unpacked).expect("a folder");
    let archive = file("-x86_64-linux.tar.gz");
    said(Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(&unpacked));
    let root = unpacked.join(format!("holdfast-{VERSION}"));
    assert_eq!(said(Command::new(root.join("holdfast")).arg("--version")), format!("holdfast {VERSION}\n"));
    for name in ["LICENSE", "completions/holdfast.bash", "completions/_holdfast", "completions/holdfast.fish"] {
        assert!(fs::metadata(root.join(name)).is_ok_and(|file| file.len() > 1_000), "{name}");
    }
    said(Command::new("bash").arg("-n").arg(root.join("completions/holdfast.bash")));
    let program = fs::read(root.join("holdfast")).expect("a program");
    // The names of a stripped file's sections are at its end.
    let contains = |bytes: &[u8], text: &[u8]| {
        bytes[bytes.len().saturating_sub(65_536)..].windows(text.len()).any(|window| window == text)
    };
    assert!(contains(&program, b"holdfast.debug\0") && !contains(&program, b".debug_line\0"));
    said(Command::new("tar").arg("-xzf").arg(file(".debug.tar.gz")).arg("-C").arg(&unpacked));
    said(Command::new("grep").args(["-qaF", ".debug_line"]).arg(unpacked.join("holdfast.debug")));

    // The wheel, installed without an index.
    let (python, _) = client::interpreter().expect("Python");
    let environment = at("environment");
    said(Command::new(python).args(["-m", "venv"]).arg(&environment));
    let mut pip = Command::new(environment.join("bin/python"));
    said(
        pip.args(["-m", "pip", "install", "--no-input", "--no-index", "--disable-pip-version-check"]).arg(file(".whl")),
    );
    assert_eq!(said(Command::new(environment.join("bin/holdfast")).arg("--version")), format!("holdfast {VERSION}\n"));
    let shown = said(Command::new(environment.join("bin/python")).args(["-m", "pip", "show", "vdk-holdfast"]));
    assert!(shown.contains(&format!("Version: {VERSION}\n")), "{shown}");
    assert_eq!(
        fs::read(environment.join("bin/holdfast")).expect("a program"),
        program,
        "the wheel has another program"
    );
    let name = file(".whl").display().to_string();
    assert!(name.contains("/vdk_holdfast-") && name.contains("-py3-none-manylinux_2_"), "{name}");

    // The chart, and what it renders.
    let helm = cluster::helm().expect("Helm");
    let chart = said(Command::new(&helm).args(["show", "chart"]).arg(file("-chart-0.1.0.tgz")));
    assert!(
        chart.contains(&format!("version: {VERSION}\n")) && chart.contains(&format!("appVersion: {VERSION}\n")),
        "{chart}"
    );
    let manifests = fs::read_to_string(file("-manifests.yaml")).expect("manifests");
    for kind in ["Deployment", "Role", "NetworkPolicy", "PodDisruptionBudget"] {
        assert!(manifests.contains(&format!("kind: {kind}\n")), "{kind}");
    }
    assert!(!manifests.contains("helm.sh/hook"), "{manifests}");

    // The bill of materials.
    let bill = fs::read_to_string(file(".cdx.json")).expect("a bill of materials");
    let value: Value = serde_json::from_str(&bill).expect("JSON");
    let packages = value["components"].as_array().expect("components");
    let has = |name: &str| packages.iter().any(|package| package["name"] == name);
    assert!(packages.len() > 150 && has("tokio") && has("sqlx") && !has("proptest"), "{}", packages.len());
    let validator = venv::install("cyclonedx", &VALIDATOR).expect("a validator");
    let program = "import sys\nfrom cyclonedx.schema import SchemaVersion\nfrom cyclonedx.validation.json import JsonStrictValidator\n\
                   error = JsonStrictValidator(SchemaVersion.V1_5).validate_str(open(sys.argv[1]).read())\nsys.exit(str(error) if error else 0)\n";
    said(Command::new(validator.join("bin/python")).args(["-c", program]).arg(file(".cdx.json")));

    for name in ["holdfast-alerts.yaml", "holdfast-dashboard.json"] {
        assert!(files.contains_key(name), "{files:?}");
    }
}

#[test]
fn a_binary_of_another_version_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut dist = Command::new(env!("CARGO_BIN_EXE_xtask"));
    let output = dist.args(["dist", "--binary", "/bin/true", "--to"]).arg(folder.path().join("dist")).output();
    let output = output.expect("xtask");
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("and not version"), "{error}");
}
