//! The Python wheel that carries the binary: `pip install vdk-holdfast`.
//!
//! The name `holdfast` belongs to another project on the Python index. The wheel has the same binary as the archive.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};
use devtools::{command, environment::workspace};

use super::{Dist, VERSION};

/// The name of the distribution, as files spell it.
const FILE_NAME: &str = "vdk_holdfast";

/// Makes the wheel, and gives the platform that it is for: the oldest one that `auditwheel` finds.
pub(super) fn make(dist: &Dist, program: &Path) -> Result<String> {
    let unpacked = dist.work.path().join(FILE_NAME);
    let scripts = unpacked.join(format!("{FILE_NAME}-{VERSION}.data/scripts"));
    let info = unpacked.join(format!("{FILE_NAME}-{VERSION}.dist-info"));
    fs::create_dir_all(&scripts)?;
    fs::create_dir_all(info.join("licenses"))?;
    fs::copy(program, scripts.join("holdfast"))?;
    fs::copy(workspace().join("LICENSE"), info.join("licenses/LICENSE"))?;
    fs::write(info.join("METADATA"), metadata())?;
    fs::write(
        info.join("WHEEL"),
        "Wheel-Version: 1.0\nGenerator: holdfast\nRoot-Is-Purelib: false\nTag: py3-none-linux_x86_64\n",
    )?;
    let wheel = |arguments: &[&str]| {
        let mut command = Command::new(dist.packaging.join("bin/python"));
        command.args(["-m", "wheel"]).args(arguments).current_dir(dist.work.path());
        command::output(command.env("SOURCE_DATE_EPOCH", &dist.time))
    };
    let folder = dist.to.display().to_string();
    wheel(&["pack", FILE_NAME, "--dest-dir", &folder])?;
    let made = dist.to.join(format!("{FILE_NAME}-{VERSION}-py3-none-linux_x86_64.whl"));
    let shown = command::output(Command::new(dist.packaging.join("bin/auditwheel")).arg("show").arg(&made))?;
    let platform = platform(&shown).with_context(|| format!("auditwheel names no platform: {shown}"))?;
    wheel(&["tags", "--remove", "--platform-tag", &platform, &made.display().to_string()])?;
    Ok(platform)
}

/// The platform in the output of `auditwheel show`.
fn platform(shown: &str) -> Option<String> {
    // Its lines are broken at a width.
    let text = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    let words = text.split_once("platform tag:")?.1;
    Some(words.split('"').nth(1)?.to_owned())
}

/// Whether a machine of the second platform can use a wheel for the first: both are `manylinux_<major>_<minor>_<arch>`.
pub(super) fn is_covered_by(wheel: &str, machine: &str) -> bool {
    let version = |platform: &str| -> Option<(u32, u32)> {
        let mut parts = platform.strip_prefix("manylinux_")?.split('_');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    };
    version(wheel).zip(version(machine)).is_some_and(|(wheel, machine)| wheel <= machine)
}

fn metadata() -> String {
    format!(
        "Metadata-Version: 2.4\n\
         Name: vdk-holdfast\n\
         Version: {VERSION}\n\
         Summary: Holdfast, a Control Service for data jobs of the Versatile Data Kit\n\
         License-Expression: Apache-2.0\n\
         License-File: LICENSE\n\
         Classifier: Operating System :: POSIX :: Linux\n\
         Requires-Python: >=3.7\n\
         Description-Content-Type: text/markdown\n\
         \n\
         The command `holdfast`: one program that stores, deploys, schedules and runs data jobs of the Versatile Data Kit.\n\
         `holdfast serve` starts it on this machine.\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_platform_is_read_and_compared_by_its_version() {
        let shown =
            "\nx.whl is consistent with the\nfollowing platform\ntag: \"manylinux_2_28_x86_64\".\n\nThe wheel \"a\"";
        assert_eq!(platform(shown).as_deref(), Some("manylinux_2_28_x86_64"));
        assert_eq!(platform("nothing"), None);
        for (wheel, covered) in [
            ("manylinux_2_17_x86_64", true),
            ("manylinux_2_28_x86_64", true),
            ("manylinux_2_34_x86_64", false),
            ("linux_x86_64", false),
        ] {
            assert_eq!(is_covered_by(wheel, super::super::PLATFORM), covered, "{wheel}");
        }
    }
}
