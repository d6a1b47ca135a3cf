//! The requirements of this project's own cluster, checked before anything is built or started.

use std::{fs, process::Command};

use anyhow::Result;

use super::products::{self, script};
use crate::command;

/// The oldest Go that fetches the version that a module asks for.
const GO_RELEASE_MIN: u32 = 21;

/// One need of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// A requirement, and how this machine meets it.
    pub what: String,
    /// Why it is not there, if it is not.
    pub missing: Option<String>,
}

/// Which control groups the machine has for a node's containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ControlGroups {
    /// A hierarchy for each controller.
    V1,
    /// One hierarchy.
    V2,
    /// None that counts memory.
    None,
}

/// Everything that is needed to build the cluster and to start it with a real node.
///
/// # Errors
/// When the sources of the cluster can't be read.
pub fn needs() -> Result<Vec<Need>> {
    let is_root = rustix::process::geteuid().is_root();
    let system = std::env::consts::OS;
    let mut needs = vec![
        need("Linux", (system != "linux").then(|| format!("this is {system}"))),
        need(
            "root, which the node needs: namespaces, network and control groups",
            (!is_root).then(|| format!("this user has the id {}", rustix::process::geteuid().as_raw())),
        ),
        match control_groups(&read("/proc/self/cgroup"), &read("/sys/fs/cgroup/cgroup.controllers")) {
            ControlGroups::V1 => need("control groups: this machine has version 1", None),
            ControlGroups::V2 => {
                need("control groups: this machine has version 2 (no whole cluster was tried with it yet)", None)
            }
            ControlGroups::None => need("control groups", Some("this machine has none that counts memory".into())),
        },
    ];
    let are_compiled = products::are_compiled()?;
    needs.push(if are_compiled {
        need("Go, to compile Kubernetes: it is compiled already", None)
    } else {
        let (found, missing) = go();
        need(&format!("Go 1.{GO_RELEASE_MIN} or later, to compile Kubernetes once{found}"), missing)
    });
    let purpose = if are_compiled { "run" } else { "build" };
    let packages = command::output(script("packages.sh").args([purpose, "list"])).unwrap_or_default();
    let packages: Vec<_> = packages.split_whitespace().collect();
    let can_install = is_root && starts(Command::new("apt-get").arg("--version"));
    needs.push(match packages.as_slice() {
        [] => need("programs such as containerd: they are installed", None),
        _ if can_install => need(&format!("programs: apt-get will install {}", packages.join(", ")), None),
        _ => need("programs", Some(format!("these packages are not installed: {}", packages.join(", ")))),
    });
    Ok(needs)
}

fn need(what: &str, missing: Option<String>) -> Need {
    Need { what: what.to_owned(), missing }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// `own` is the list of this process's groups, `unified` the controllers at the top of the one hierarchy.
fn control_groups(own: &str, unified: &str) -> ControlGroups {
    // A hierarchy of version 1 has its controllers in the second field.
    let is_v1 =
        own.lines().any(|line| line.split(':').nth(1).is_some_and(|list| list.split(',').any(|c| c == "memory")));
    if is_v1 {
        ControlGroups::V1
    } else if unified.split_whitespace().any(|controller| controller == "memory") {
        ControlGroups::V2
    } else {
        ControlGroups::None
    }
}

fn starts(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

/// The Go in PATH, as an addition to a sentence, and why it does not do.
fn go() -> (String, Option<String>) {
    let Ok(version) = command::output(Command::new("go").args(["env", "GOVERSION"])) else {
        return (String::new(), Some("there is no go in PATH".into()));
    };
    let release =
        version.trim().strip_prefix("go1.").and_then(|rest| rest.split(['.', 'r', 'b', '-']).next()?.parse().ok());
    if release.unwrap_or(0) < GO_RELEASE_MIN {
        (String::new(), Some(format!("PATH has {}", version.trim())))
    } else {
        (format!(": PATH has {}", version.trim()), None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_control_groups_is_distinguished_from_the_groups_of_a_process() {
        for (own, unified, expected) in [
            ("9:name=systemd:/\n4:memory:/a/b\n0::/\n", "", ControlGroups::V1),
            ("4:cpu,memory:/\n", "", ControlGroups::V1),
            ("0::/user.slice/session-1.scope\n", "cpuset cpu io memory pids\n", ControlGroups::V2),
            ("9:name=systemd:/\n0::/\n", "cpuset cpu\n", ControlGroups::None),
            ("", "", ControlGroups::None),
        ] {
            assert_eq!(control_groups(own, unified), expected, "{own:?} {unified:?}");
        }
    }
}
