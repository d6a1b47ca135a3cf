//! Attacks of a job on what it must not reach. The attacks on each layer are in the tests of the crate `sandbox`.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use model::{execution::EndCause, runtime::Runtime};
use runtime::local::Confine;
use sandbox::Support;

use crate::harness::{Harness, hung_up};

/// Tries each expression and prints "name: ok" or the name of the error.
fn attempts(of: &[(&str, String)]) -> String {
    let mut step = String::from(
        "import errno, os, resource, signal, socket, subprocess, tempfile\ndef connect(at):\n  socket.socket(socket.AF_UNIX).connect(at)\n",
    );
    for (name, expression) in of {
        let shown = ["try:\n  ", expression, "\n  print('", name, ": ok')\nexcept OSError as e:\n  print('", name];
        step.extend(shown);
        step.push_str(":', errno.errorcode[e.errno])\n");
    }
    step
}

fn quoted(path: &Path) -> String {
    format!("{:?}", path.to_str().unwrap())
}

#[tokio::test]
async fn a_job_reaches_its_own_folders_and_the_machine_but_not_the_services_data() {
    reaches(Confine::Fully).await;
}

#[tokio::test]
async fn the_same_holds_for_content_where_there_are_no_user_namespaces() {
    reaches(Confine::WithoutNamespaces).await;
}

async fn reaches(confine: Confine) {
    let harness = Harness::with(|o| o.confine = confine).await;
    let support = harness.runtime.confinement().clone();
    if !support.hides_files() || (confine == Confine::Fully && !support.namespaces.is_enforced()) {
        return;
    }
    fs::write(harness.data().join("key"), "secret").unwrap();
    fs::write(harness.data().join("holdfast.db"), "rows").unwrap();
    fs::create_dir(harness.folder.path().join("beside")).unwrap();
    fs::write(harness.folder.path().join("file-beside"), "").unwrap();

    harness.runtime.start(&harness.run(1, "print('private', flush=True); meet().recv(1)")).await.unwrap();
    let (_, other) = harness.meet().await;
    let [supervisor] = harness.supervisors(1)[..] else { panic!("not one supervisor") };
    let supervisor = supervisor.as_raw_nonzero();

    let data = harness.data().canonicalize().unwrap();
    let (own, others) = (data.join("runs/some-job-2"), data.join("runs/some-job-1"));
    let top = harness.folder.path();
    let mut denied = vec![
        ("key", format!("open({})", quoted(&data.join("key")))),
        ("database", format!("open({}, 'r+b')", quoted(&data.join("holdfast.db")))),
        ("by-link", format!("os.symlink({}, 'l'); open('l/key')", quoted(&data))),
        ("by-proc", "open('/proc/self/cwd/../../../../key')".to_owned()),
        ("by-hard-link", format!("os.link({}, 'h'); open('h')", quoted(&data.join("key")))),
        ("by-move", format!("os.rename({}, 'm')", quoted(&data.join("key")))),
        ("new-file-in-data", format!("open({}, 'w')", quoted(&data.join("new")))),
        ("others-spec", format!("open({})", quoted(&others.join("spec.json")))),
        ("others-source", format!("open({})", quoted(&others.join("job/work/some-job/step.py")))),
        ("others-log", format!("open({})", quoted(&others.join("log.00000000000000000000")))),
        ("others-end", format!("open({}, 'w')", quoted(&others.join("exit.json")))),
        ("own-spec", format!("open({})", quoted(&own.join("spec.json")))),
        ("own-end", format!("open({}, 'w')", quoted(&own.join("exit.json")))),
        ("own-out-replaced", format!("os.rmdir({})", quoted(&own.join("job/out")))),
        ("environment", "open(os.environ['VIRTUAL_ENV'] + '/bin/vdk', 'a')".to_owned()),
        ("supervisors-memory", format!("open('/proc/{supervisor}/mem', 'rb')")),
        ("supervisors-folder", format!("os.listdir('/proc/{supervisor}/cwd/')")),
        ("supervisor-signalled", format!("os.kill({supervisor}, signal.SIGKILL)")),
        ("own-supervisor-signalled", "os.kill(os.getppid(), signal.SIGKILL)".to_owned()),
    ];
    // The kernel lets the superuser do this whatever Landlock says (CAP_PERFMON).
    if !rustix::process::geteuid().is_root() {
        let stranger = std::process::id();
        denied.push(("strangers-environment", format!("open('/proc/{stranger}/environ', 'rb').read(1)")));
    }
    let allowed = [
        ("work", "open('file', 'w').write('x'); os.rename('file', 'some-job/file'); os.mkdir('d')".to_owned()),
        ("home", "open(os.path.expanduser('~/file'), 'w')".to_owned()),
        ("temporary", "tempfile.TemporaryFile().write(b'x')".to_owned()),
        ("across", "open('a', 'w'); os.rename('a', os.environ['TMPDIR'] + '/a')".to_owned()),
        ("source", "open('some-job/step.py').read()".to_owned()),
        ("environment", "open(os.environ['VIRTUAL_ENV'] + '/bin/vdk').read()".to_owned()),
        ("program", "subprocess.run(['/bin/sh', '-c', 'true'], check=True)".to_owned()),
        ("null", "open('/dev/null', 'w').write('x')".to_owned()),
        ("beside", format!("open({}, 'w')", quoted(&top.join("beside/file")))),
        ("file-beside", format!("open({}, 'r+')", quoted(&top.join("file-beside")))),
        ("list", "os.listdir('/')".to_owned()),
        ("child", "p = subprocess.Popen(['sleep', '600']); p.kill(); p.wait()".to_owned()),
    ];
    let step = attempts(&[denied.as_slice(), allowed.as_slice()].concat());
    let end = harness.run_to_end(&harness.run(2, &step)).await;
    let log = harness.log(2).await;
    assert_eq!(end.cause, EndCause::Exited(0), "{log}");
    // A file that namespaces hide is missing, or on another, read-only file system.
    let refusals: &[&str] = if support.namespaces.is_enforced() {
        &["EACCES", "EPERM", "ENOENT", "EROFS", "EXDEV"]
    } else {
        &["EACCES", "EPERM", "EXDEV"]
    };
    let said: Vec<(&str, &str)> = log.lines().filter_map(|line| line.split_once(": ")).collect();
    let asked: Vec<&str> = denied.iter().chain(&allowed).map(|(name, _)| *name).collect();
    assert_eq!(said.iter().map(|(name, _)| *name).collect::<Vec<_>>(), asked, "{log}");
    for (n, (name, how)) in said.into_iter().enumerate() {
        let fits = if n < denied.len() { refusals.contains(&how) } else { how == "ok" };
        assert!(fits, "{name}: {how}");
    }
    drop(other);
    assert_eq!(harness.end(1).await.cause, EndCause::Exited(0));
}

#[tokio::test]
async fn a_job_runs_with_an_interpreter_that_is_kept_in_the_data_folder() {
    let mut kept = PathBuf::new();
    let harness = Harness::with(|o| {
        kept = o.data_dir.join("pythons");
        fs::create_dir_all(kept.join("bin")).unwrap();
        let python = kept.join("bin/python3");
        fs::copy(&o.interpreters[0].executable, &python).unwrap();
        o.interpreters[0].executable = python;
    })
    .await;
    fs::write(kept.join("file"), "content").unwrap();
    let step = format!("print(open({}).read())", quoted(&kept.join("file")));
    let end = harness.run_to_end(&harness.run(1, &step)).await;
    assert_eq!(end.cause, EndCause::Exited(0), "{}", harness.log(1).await);
}

/// Modes, owners and times below a folder, and the limits and priorities of processes.
fn state(folder: &Path, processes: &[i32]) -> Vec<String> {
    let paths = ["", "key", "holdfast.db", "runs", "runs/some-job-1", "runs/some-job-1/spec.json", "environments"];
    let files = paths.map(|name| {
        let m = fs::symlink_metadata(folder.join(name)).unwrap();
        // The job would have it at one second after the epoch; other runs change the time of their parent folder.
        format!("{name} {:o} {} {} {}", m.mode(), m.uid(), m.gid(), m.mtime() == 1)
    });
    let processes = processes.iter().flat_map(|pid| {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
        let allowed = read("status").lines().filter(|l| l.starts_with("Cpus_allowed")).collect::<Vec<_>>().join(" ");
        let priority =
            read("stat").rsplit(')').next().unwrap().split(' ').skip(16).take(2).collect::<Vec<_>>().join(" ");
        [read("limits"), allowed, priority, read("oom_score_adj")]
    });
    files.into_iter().chain(processes).collect()
}

#[tokio::test]
async fn a_job_changes_nothing_of_the_service_and_of_other_executions() {
    let harness = Harness::new().await;
    let support = harness.runtime.confinement().clone();
    fs::write(harness.data().join("key"), "secret").unwrap();
    fs::write(harness.data().join("holdfast.db"), "rows").unwrap();
    harness.runtime.start(&harness.run(1, "import os; meet(str(os.getpid())).recv(1)")).await.unwrap();
    let (word, other) = harness.meet().await;
    let [supervisor] = harness.supervisors(1)[..] else { panic!("not one supervisor") };
    let (job, supervisor) = (word.parse::<i32>().unwrap(), supervisor.as_raw_nonzero().get());
    let data = harness.data().canonicalize().unwrap();
    let at = |name: &str| quoted(&data.join(name));
    let mut tried = Vec::new();
    for pid in [job, supervisor] {
        for (name, expression) in [
            ("prlimit files", "resource.prlimit(PID, resource.RLIMIT_NOFILE, (10, 10))"),
            ("prlimit time", "resource.prlimit(PID, resource.RLIMIT_CPU, (1, 1))"),
            ("priority", "os.setpriority(os.PRIO_PROCESS, PID, 19)"),
            ("affinity", "os.sched_setaffinity(PID, {0})"),
            ("scheduler", "os.sched_setscheduler(PID, os.SCHED_IDLE, os.sched_param(0))"),
        ] {
            tried.push((name, expression.replace("PID", &pid.to_string())));
        }
        if support.landlock.is_enforced() {
            tried.push(("memory score", format!("open('/proc/{pid}/oom_score_adj', 'w').write('1000')")));
            tried.push(("scheduling group", format!("open('/proc/{pid}/autogroup', 'w').write('19')")));
        }
        if support.signals.is_enforced() {
            tried.push(("signal", format!("os.kill({pid}, signal.SIGKILL)")));
        }
    }
    if support.landlock.is_enforced() {
        for file in ["/proc/sys/kernel/panic", "/sys/kernel/profiling", "/sys/kernel/mm/transparent_hugepage/enabled"] {
            tried.push(("kernel", format!("os.open('{file}', os.O_WRONLY)")));
        }
    }
    if support.namespaces.is_enforced() {
        for path in ["", "key", "holdfast.db", "runs", "runs/some-job-1", "runs/some-job-1/spec.json", "environments"] {
            tried.push(("mode", format!("os.chmod({}, 0o777)", at(path))));
            tried.push(("owner", format!("os.chown({}, os.getuid(), os.getgid())", at(path))));
            tried.push(("times", format!("os.utime({}, (1, 1))", at(path))));
            tried.push(("attribute", format!("os.setxattr({}, 'user.x', b'1')", at(path))));
        }
        tried.push(("own spec", format!("os.chmod({}, 0o777)", at("runs/some-job-2/spec.json"))));
        tried.push(("environment", "os.chmod(os.environ['VIRTUAL_ENV'] + '/bin/vdk', 0o777)".to_owned()));
    }
    let before = state(&data, &[job, supervisor]);
    let end = harness.run_to_end(&harness.run(2, &attempts(&tried))).await;
    let log = harness.log(2).await;
    assert_eq!(end.cause, EndCause::Exited(0), "{log}");
    assert_eq!(log.lines().count(), tried.len(), "{log}");
    let succeeded: Vec<&str> = log.lines().filter(|line| line.ends_with(": ok")).collect();
    assert_eq!(succeeded, Vec::<&str>::new());
    assert_eq!(state(&data, &[job, supervisor]), before);
    drop(other);
    assert_eq!(harness.end(1).await.cause, EndCause::Exited(0));
}

#[tokio::test]
async fn without_user_namespaces_the_gap_is_reported() {
    let harness = Harness::with(|o| o.confine = Confine::WithoutNamespaces).await;
    fs::write(harness.data().join("key"), "secret").unwrap();
    let step = format!("import os; os.chmod({}, 0o644)", quoted(&harness.data().join("key")));
    assert_eq!(harness.run_to_end(&harness.run(1, &step)).await.cause, EndCause::Exited(0));
    let warnings = harness.runtime.warnings().join(" ");
    assert!(warnings.contains("modes, owners and times of the service's files"), "{warnings}");
}

#[tokio::test]
async fn folders_and_files_of_the_service_elsewhere_are_out_of_reach() {
    let (mut cache, mut password) = (PathBuf::new(), PathBuf::new());
    let harness = Harness::with(|o| {
        let top = o.data_dir.parent().unwrap();
        (cache, password) = (top.join("cache"), top.join("password"));
        fs::create_dir(&cache).unwrap();
        fs::write(cache.join("wheel"), "").unwrap();
        fs::write(&password, "secret").unwrap();
        o.job_hidden_paths = vec![cache.clone()];
        o.job_covered_files = vec![password.clone()];
        o.job_open_files = Some(99);
    })
    .await;
    let support = harness.runtime.confinement();
    let tried = [
        ("cache", format!("open({})", quoted(&cache.join("wheel")))),
        ("mode of cache", format!("os.chmod({}, 0o777)", quoted(&cache))),
        ("password", format!("len(open({}).read()) == 0 or print('read')", quoted(&password))),
        ("files", "resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 99 or print('wrong')".to_owned()),
    ];
    let end = harness.run_to_end(&harness.run(1, &attempts(&tried))).await;
    let log = harness.log(1).await;
    assert_eq!(end.cause, EndCause::Exited(0), "{log}");
    if support.namespaces.is_enforced() {
        assert!(!log.contains("cache: ok") && !log.contains("mode of cache: ok") && !log.contains("read"), "{log}");
    }
    assert!(log.ends_with("files: ok\n") && !log.contains("wrong"), "{log}");
}

#[tokio::test]
async fn switched_off_it_is_said_to_be_off() {
    let harness = Harness::with(|o| o.confine = Confine::Off).await;
    assert_eq!(*harness.runtime.confinement(), Support::none("it is switched off"));
    fs::write(harness.data().join("key"), "secret").unwrap();
    harness
        .runtime
        .start(&harness.run(1, &format!("print(open({}).read()); meet()", quoted(&harness.data().join("key")))))
        .await
        .unwrap();
    hung_up(harness.meet().await.1).await;
    assert_eq!(harness.end(1).await.cause, EndCause::Exited(0), "{}", harness.log(1).await);
}
