//! Checks of this machine.

use std::{
    fs,
    io::ErrorKind,
    net::SocketAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use clients::control_service::ControlService;
use jiff::Timestamp;
use model::{clock::SharedClock, python::default_python};
use tokio::net::TcpListener;

use super::verdict::Verdict;
use crate::{
    authentication, cluster,
    config::{ProcessEnvironment, RuntimeName, Settings, check_exposure},
    packages,
};

const MIB: u64 = 1024 * 1024;
/// Below this much free disk, packages do not fit.
const DISK_MIN_MIB: u64 = 512;
/// Below this much, a few environments fill it.
const DISK_WARNING_MIB: u64 = 4 * 1024;
/// Below this many free inodes, an environment does not fit.
const INODES_MIN: u64 = 20_000;
/// No clock that is right shows a time before this one.
const CLOCK_MIN: &str = "2026-01-01T00:00:00Z";
/// The difference between two clocks that tokens and leases tolerate.
const CLOCK_DIFFERENCE_MAX_SECONDS: i64 = 30;
/// The largest page of a probe.
const PROBE_MAX_BYTES: usize = 64 * 1024;

/// Whether there is a Python that can run VDK.
pub(super) async fn python(environment: &ProcessEnvironment, settings: &Settings, clock: &SharedClock) -> Verdict {
    if settings.runtime == RuntimeName::Kubernetes && !cluster::is_embedded(settings) {
        return Verdict::skipped("jobs run in prebuilt images");
    }
    // Without the file of known interpreters, which would be written into the cache folder.
    let discovery = python::Discovery { memory: None, ..packages::discovery(environment, settings, clock.clone()) };
    let found = python::discover(&discovery).await;
    let offered: Vec<_> = found.iter().map(|interpreter| interpreter.version).collect();
    let listed = offered.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let (oldest, newest) = python::SUPPORTED;
    match (default_python(&offered, settings.python_version), settings.python_version) {
        (None, _) => Verdict::wrong(
            format!("no Python from {oldest} to {newest} with the modules venv and ssl was found"),
            "apt install python3 python3-venv, or add the folder of one to python.search_path",
        ),
        (Some(_), Some(wanted)) if !offered.contains(&wanted) => Verdict::wrong(
            format!("Python {wanted} (setting python.version) was not found; found: {listed}"),
            format!("install Python {wanted}, or set python.version to one of these"),
        ),
        (Some(default), _) => Verdict::ok(format!("{listed} (default {default})")),
    }
}

/// Whether the disks of these folders have room.
pub(super) fn disk(folders: &[&Path]) -> Verdict {
    let mut least: Option<(u64, u64, PathBuf)> = None;
    for folder in folders {
        let existing = existing(folder);
        let Ok(disk) = rustix::fs::statvfs(&existing) else {
            return Verdict::wrong(
                format!("the disk of {} can't be examined", existing.display()),
                format!("ls -ld {}", existing.display()),
            );
        };
        let free = disk.f_bavail.saturating_mul(disk.f_frsize) / MIB;
        // Some file systems have no limit of inodes, and report none.
        let inodes = if disk.f_files == 0 { u64::MAX } else { disk.f_favail };
        if least.as_ref().is_none_or(|(least, ..)| free < *least) {
            least = Some((free, inodes, existing));
        }
    }
    let Some((free, inodes, folder)) = least else { return Verdict::skipped("no folder is used") };
    room(free, inodes, &folder)
}

fn room(free_mib: u64, inodes: u64, folder: &Path) -> Verdict {
    let found = format!("{free_mib} MiB are free in {}", folder.display());
    let fix = format!(
        "free some (`du -xh {} | sort -h | tail`), or set data_dir and cache_dir to another disk",
        folder.display()
    );
    if free_mib < DISK_MIN_MIB {
        Verdict::wrong(found, fix)
    } else if inodes < INODES_MIN {
        Verdict::wrong(format!("only {inodes} inodes are free in {}", folder.display()), fix)
    } else if free_mib < DISK_WARNING_MIB {
        Verdict::warning(found, fix)
    } else {
        Verdict::ok(found)
    }
}

/// The nearest folder at or above this path that exists.
fn existing(path: &Path) -> PathBuf {
    path.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

/// Whether the clock is right, as far as another one tells.
pub(super) fn clock(now: Timestamp, server: Option<Timestamp>) -> Verdict {
    const FIX: &str = "timedatectl set-ntp true";
    if CLOCK_MIN.parse::<Timestamp>().is_ok_and(|earliest| now < earliest) {
        return Verdict::wrong(format!("the clock shows {now}, which is in the past"), FIX);
    }
    let Some(server) = server else { return Verdict::ok(format!("{now} (no other clock to compare it with)")) };
    let difference = now.duration_since(server).as_secs();
    if difference.abs() > CLOCK_DIFFERENCE_MAX_SECONDS {
        return Verdict::wrong(
            format!("the clock differs by {difference} s from that of the database server ({server})"),
            format!("{FIX} (on both machines)"),
        );
    }
    Verdict::ok(format!("{now}, as the database server's"))
}

/// Whether the data folder belongs to this user alone and can be written to.
pub(super) fn permissions(folder: &Path) -> Verdict {
    let user = rustix::process::geteuid().as_raw();
    let shown = folder.display();
    let Ok(found) = fs::metadata(folder) else {
        let parent = folder.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        return if parent.is_dir() && rustix::fs::access(parent, rustix::fs::Access::WRITE_OK).is_ok() {
            Verdict::ok(format!("{shown} will be created"))
        } else {
            Verdict::wrong(
                format!("{shown} does not exist and can't be created"),
                format!("install -d -m 700 -o {user} {shown}, or set data_dir"),
            )
        };
    };
    if !found.is_dir() {
        return Verdict::wrong(format!("{shown} is not a folder"), "set data_dir to a folder");
    }
    if rustix::fs::access(folder, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_err() {
        return Verdict::wrong(
            format!("the user {user} can't write to {shown}"),
            format!("chown -R {user} {shown} && chmod 700 {shown}"),
        );
    }
    // A volume of a pod belongs to root and is open to the group of the pod.
    if found.uid() != user && user != 0 {
        return Verdict::warning(
            format!("{shown} belongs to the user {}, not to {user}", found.uid()),
            format!("chown -R {user} {shown}"),
        );
    }
    let open: Vec<_> = std::iter::once(folder.to_owned())
        .chain(["secret.key", "keys", "holdfast.db"].map(|name| folder.join(name)))
        .filter(|path| fs::symlink_metadata(path).is_ok_and(|found| found.mode() & 0o077 != 0))
        .map(|path| path.display().to_string())
        .collect();
    if open.is_empty() {
        Verdict::ok(format!("{shown} is private"))
    } else {
        Verdict::warning(
            format!("other users can access {}", open.join(", ")),
            format!("chmod go-rwx {}", open.join(" ")),
        )
    }
}

/// Whether the address can be listened on, and is safe.
pub(super) async fn port(settings: &Settings) -> Verdict {
    let address = settings.listen.0;
    if let Err(problem) =
        check_exposure(settings.listen, settings.runtime, authentication::callers(settings), settings.insecure)
    {
        return Verdict::wrong(format!("{} {}", problem.what, problem.why), problem.countermeasures);
    }
    listening(address).await
}

async fn listening(address: SocketAddr) -> Verdict {
    match TcpListener::bind(address).await {
        Ok(_) => Verdict::ok(format!("{address} is free")),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            let service = ControlService::new(&format!("http://{address}"), None);
            let probe = match service {
                Ok(service) => service.page(&["readyz"], PROBE_MAX_BYTES).await.ok(),
                Err(_) => None,
            };
            match probe {
                Some((200, _)) => Verdict::ok(format!("a service is ready at {address}")),
                Some((503, body)) => Verdict::warning(
                    format!("a service is up at {address}, and not ready: {}", String::from_utf8_lossy(&body).trim()),
                    "see the log of the service; docs/operations/troubleshooting.md explains each component",
                ),
                _ => Verdict::wrong(
                    format!("another program uses {address}"),
                    format!(
                        "ss -ltnp 'sport = :{}' shows it; end it, or choose another address with --listen",
                        address.port()
                    ),
                ),
            }
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Verdict::wrong(
            format!("this user may not listen on {address}"),
            "choose a port from 1024 with --listen, or give the unit AmbientCapabilities=CAP_NET_BIND_SERVICE",
        ),
        Err(error) => Verdict::wrong(
            format!("{address} can't be listened on: {error}"),
            "`ip address` lists the addresses of this machine; choose one of them with --listen",
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt as _, sync::Arc};

    use ::clock::SystemClock;

    use super::*;
    use crate::config::{Flags, load};

    fn is_wrong(verdict: &Verdict, found: &str, fix: &str) {
        let Verdict::Wrong { found: is, fix: by } = verdict else { panic!("{verdict:?}") };
        assert!(is.contains(found) && by.contains(fix), "{verdict:?}");
    }

    fn settings(home: &Path, variables: &[(&str, &str)]) -> (ProcessEnvironment, Settings) {
        let environment = ProcessEnvironment {
            variables: variables.iter().map(|(k, v)| (k.into(), v.into())).collect(),
            folder: home.into(),
            home: Some(home.into()),
            cores: 1,
        };
        let settings = load(&environment, &Flags::default()).unwrap().settings;
        (environment, settings)
    }

    #[tokio::test]
    async fn a_python_that_is_named_and_not_there_is_wrong() {
        let home = tempfile::tempdir().unwrap();
        let clock: SharedClock = Arc::new(SystemClock);
        let path = std::env::split_paths("/usr/bin:/usr/local/bin").find(|path| path.join("python3").exists());
        let path = path.map(|path| path.display().to_string()).unwrap_or_default();
        let (environment, named) = settings(home.path(), &[("HOLDFAST_PYTHON_VERSION", "3.99"), ("PATH", &path)]);
        let verdict = python(&environment, &named, &clock).await;
        assert!(matches!(verdict, Verdict::Wrong { .. }), "{verdict:?}");
        let prebuilt = [("HOLDFAST_RUNTIME", "kubernetes"), ("HOLDFAST_IMAGE_BUILDER", "prebuilt")];
        let (environment, prebuilt) = settings(home.path(), &prebuilt);
        assert!(matches!(python(&environment, &prebuilt, &clock).await, Verdict::Skipped { .. }));
    }

    #[test]
    fn a_full_disk_is_wrong_and_a_small_one_a_warning() {
        let folder = Path::new("/data");
        is_wrong(&room(DISK_MIN_MIB - 1, u64::MAX, folder), "511 MiB are free in /data", "du -xh /data");
        is_wrong(&room(DISK_WARNING_MIB, INODES_MIN - 1, folder), "only 19999 inodes", "du -xh /data");
        assert!(matches!(room(DISK_WARNING_MIB - 1, u64::MAX, folder), Verdict::Warning { .. }));
        assert!(matches!(room(DISK_WARNING_MIB, u64::MAX, folder), Verdict::Ok { .. }));
        let home = tempfile::tempdir().unwrap();
        assert!(!matches!(disk(&[&home.path().join("not/there")]), Verdict::Skipped { .. }));
    }

    #[test]
    fn a_clock_that_differs_is_wrong() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        is_wrong(&clock(at("1970-01-01T00:10:00Z"), None), "in the past", "timedatectl");
        let now = at("2026-11-29T12:00:00Z");
        is_wrong(&clock(now, Some(at("2026-11-29T12:00:31Z"))), "differs by -31 s", "timedatectl");
        assert!(matches!(clock(now, Some(at("2026-11-29T12:00:30Z"))), Verdict::Ok { .. }));
        assert!(matches!(clock(now, None), Verdict::Ok { .. }));
    }

    #[test]
    fn a_folder_that_others_can_read_or_that_is_a_file_is_named() {
        let home = tempfile::tempdir().unwrap();
        let data = home.path().join("data");
        assert!(matches!(permissions(&data), Verdict::Ok { .. }), "it will be created");
        fs::create_dir(&data).unwrap();
        fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).unwrap();
        assert!(matches!(permissions(&data), Verdict::Ok { .. }));
        fs::write(data.join("secret.key"), "").unwrap();
        fs::set_permissions(data.join("secret.key"), fs::Permissions::from_mode(0o644)).unwrap();
        let Verdict::Warning { found, fix } = permissions(&data) else { panic!("it is open") };
        let key = data.join("secret.key").display().to_string();
        assert_eq!((found, fix), (format!("other users can access {key}"), format!("chmod go-rwx {key}")));
        is_wrong(&permissions(&data.join("secret.key")), "is not a folder", "data_dir");
        is_wrong(&permissions(&data.join("secret.key/below")), "can't be created", "install -d -m 700");
    }

    #[tokio::test]
    async fn a_port_that_another_program_uses_and_an_unsafe_address_are_wrong() {
        let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = other.local_addr().unwrap();
        let refuse = tokio::spawn(async move {
            while let Ok((stream, _)) = other.accept().await {
                drop(stream);
            }
        });
        is_wrong(&listening(address).await, "another program uses 127.0.0.1:", "ss -ltnp 'sport = :");
        refuse.abort();
        // An address of documentation, which no machine has.
        is_wrong(&listening("192.0.2.1:8092".parse().unwrap()).await, "192.0.2.1:8092 can't be", "ip address");
        let home = tempfile::tempdir().unwrap();
        let (_, exposed) = settings(home.path(), &[("HOLDFAST_LISTEN", "0.0.0.0:0")]);
        assert!(matches!(port(&exposed).await, Verdict::Wrong { .. }));
        let (_, free) = settings(home.path(), &[("HOLDFAST_LISTEN", "127.0.0.1:0")]);
        assert!(matches!(port(&free).await, Verdict::Ok { .. }));
    }
}
