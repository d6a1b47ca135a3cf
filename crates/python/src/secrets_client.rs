//! Registers the client of the secrets API that `vdk-plugin-control-cli` contains, and that no release of it registers: a
//! job's `get_secret` fails without it. VDK finds plugins by entry points, so a distribution with nothing else is written
//! into the environment.

use std::{fs, io, path::Path};

use crate::Interpreter;

const MODULE: &str = "vdk/plugin/control_cli_plugin/secrets_plugin.py";
const DISTRIBUTION: &str = "holdfast_vdk_secrets-1.0.dist-info";
const FILES: [(&str, &str); 4] = [
    ("METADATA", "Metadata-Version: 2.1\nName: holdfast-vdk-secrets\nVersion: 1.0\n"),
    ("INSTALLER", "holdfast\n"),
    ("entry_points.txt", "[vdk.plugin.run]\nholdfast-secrets = vdk.plugin.control_cli_plugin.secrets_plugin\n"),
    (
        "RECORD",
        "holdfast_vdk_secrets-1.0.dist-info/METADATA,,\n\
         holdfast_vdk_secrets-1.0.dist-info/INSTALLER,,\n\
         holdfast_vdk_secrets-1.0.dist-info/entry_points.txt,,\n\
         holdfast_vdk_secrets-1.0.dist-info/RECORD,,\n",
    ),
];

/// Registers the client in an environment, unless it has none or registers it itself.
pub(crate) fn register(interpreter: &Interpreter, environment: &Path) -> io::Result<()> {
    let packages = environment.join("lib").join(format!("python{}", interpreter.version)).join("site-packages");
    if !packages.join(MODULE).is_file() {
        return Ok(());
    }
    for entry in fs::read_dir(&packages)? {
        let points = entry?.path().join("entry_points.txt");
        if fs::read_to_string(points).is_ok_and(|text| text.contains("control_cli_plugin.secrets_plugin")) {
            return Ok(());
        }
    }
    let folder = packages.join(DISTRIBUTION);
    fs::create_dir(&folder)?;
    FILES.iter().try_for_each(|(name, text)| fs::write(folder.join(name), text))
}
