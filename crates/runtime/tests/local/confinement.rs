//! What a job is kept out of. Where the kernel has no Landlock there is nothing to test.

use std::{fs, path::Path};

use model::{execution::EndCause, runtime::Runtime};
use runtime::local::Confinement;

use crate::house::{House, hung_up};

/// Tries each expression and prints "name: ok" or the name of the error.
fn attempts(of: &[(&str, String)]) -> String {
    let mut step = String::from(
        "import os, signal, socket, subprocess, tempfile\ndef connect(at):\n  socket.socket(socket.AF_UNIX).connect(at)\n",
    );
    for (name, expression) in of {
        let shown = ["try:\n  ", expression, "\n  print('", name, ": ok')\nexcept OSError as e:\n  print('", name];
        step.extend(shown);
        step.push_str(":', type(e).__name__)\n");
    }
    step
}

fn quoted(path: &Path) -> String {
    format!("{:?}", path.to_str().unwrap())
}

#[tokio::test]
async fn a_job_reaches_its_own_folders_and_the_machine_but_not_the_services_data() {
    let house = House::new().await;
    if *house.runtime.confinement() != Confinement::Enforced {
        return;
    }
    fs::write(house.data().join("key"), "secret").unwrap();
    fs::write(house.data().join("holdfast.db"), "rows").unwrap();
    fs::create_dir(house.folder.path().join("beside")).unwrap();
    fs::write(house.folder.path().join("file-beside"), "").unwrap();

    house.runtime.start(&house.run(1, "print('private', flush=True); meet().recv(1)")).await.unwrap();
    let (_, other) = house.meet().await;
    let [supervisor] = house.supervisors(1)[..] else { panic!("not one supervisor") };
    let supervisor = supervisor.as_raw_nonzero();

    let data = house.data().canonicalize().unwrap();
    let (own, others) = (data.join("runs/some-job-2"), data.join("runs/some-job-1"));
    let top = house.folder.path();
    let mut denied = vec![
        ("key", format!("open({})", quoted(&data.join("key")))),
        ("database", format!("open({}, 'r+b')", quoted(&data.join("holdfast.db")))),
        ("by-link", format!("os.symlink({}, 'l'); open('l/key')", quoted(&data))),
        ("by-proc", "open('/proc/self/cwd/../../../key')".to_owned()),
        ("by-hard-link", format!("os.link({}, 'h'); open('h')", quoted(&data.join("key")))),
        ("by-move", format!("os.rename({}, 'm')", quoted(&data.join("key")))),
        ("new-file-in-data", format!("open({}, 'w')", quoted(&data.join("new")))),
        ("others-spec", format!("open({})", quoted(&others.join("spec.json")))),
        ("others-source", format!("open({})", quoted(&others.join("work/some-job/step.py")))),
        ("others-log", format!("open({})", quoted(&others.join("log.00000000000000000000")))),
        ("others-end", format!("open({}, 'w')", quoted(&others.join("exit.json")))),
        ("own-spec", format!("open({})", quoted(&own.join("spec.json")))),
        ("own-end", format!("open({}, 'w')", quoted(&own.join("exit.json")))),
        ("own-out-replaced", format!("os.rmdir({})", quoted(&own.join("out")))),
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
    let end = house.run_to_end(&house.run(2, &step)).await;
    let log = house.log(2).await;
    assert_eq!(end.cause, EndCause::Exited(0), "{log}");
    let expected: Vec<String> = denied
        .iter()
        .map(|(name, _)| format!("{name}: PermissionError"))
        .chain(allowed.iter().map(|(name, _)| format!("{name}: ok")))
        .collect();
    // EXDEV, which Python has no name for: what it may not link it finds on another file system.
    let log = log.replace("by-hard-link: OSError", "by-hard-link: PermissionError");
    assert_eq!(log.lines().collect::<Vec<_>>(), expected);
    drop(other);
    assert_eq!(house.end(1).await.cause, EndCause::Exited(0));
}

#[tokio::test]
async fn a_folder_within_the_data_folder_can_be_opened_to_jobs() {
    let mut shared = std::path::PathBuf::new();
    let house = House::with(|o| {
        shared = o.data_dir.join("pythons");
        o.job_read_paths = vec![shared.clone()];
    })
    .await;
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("file"), "content").unwrap();
    let step = format!("print(open({}).read())", quoted(&shared.join("file")));
    let end = house.run_to_end(&house.run(1, &step)).await;
    assert_eq!(end.cause, EndCause::Exited(0), "{}", house.log(1).await);
}

#[tokio::test]
async fn switched_off_it_is_said_to_be_off() {
    let house = House::with(|o| o.deny_data_folder = false).await;
    assert_eq!(*house.runtime.confinement(), Confinement::Unavailable("it is switched off".into()));
    fs::write(house.data().join("key"), "secret").unwrap();
    house
        .runtime
        .start(&house.run(1, &format!("print(open({}).read()); meet()", quoted(&house.data().join("key")))))
        .await
        .unwrap();
    hung_up(house.meet().await.1).await;
    assert_eq!(house.end(1).await.cause, EndCause::Exited(0), "{}", house.log(1).await);
}
