//! From requirements to an environment in which VDK runs: with the real installer and the real index.
//!
//! The cache is kept between runs (`HOLDFAST_TEST_CACHE_DIR`, else a folder in the user's cache), so that only the first
//! needs minutes.

#![allow(clippy::disallowed_methods, reason = "it waits for real things in real time")]
#![expect(clippy::print_stderr, reason = "how long each part takes is shown")]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use clock::SystemClock;
use image::LockResolver;
use model::{
    lock::ResolutionInputs,
    problem::{Fault, Problem},
};
use python::{
    BuildSandboxPolicy, Discovery, Interpreter, Launcher, SandboxPolicy, Tools, ToolsOptions, discover, usual_folders,
};

#[expect(clippy::disallowed_methods, reason = "a test is configured by the environment")]
fn environment() -> BTreeMap<String, String> {
    std::env::vars().collect()
}

fn cache_dir(environment: &BTreeMap<String, String>) -> PathBuf {
    environment
        .get("HOLDFAST_TEST_CACHE_DIR")
        .map(PathBuf::from)
        .or_else(|| Some(Path::new(environment.get("HOME")?).join(".cache/holdfast-test")))
        .expect("HOLDFAST_TEST_CACHE_DIR or HOME")
}

fn search_path(environment: &BTreeMap<String, String>) -> Vec<PathBuf> {
    let path = environment.get("PATH").map(String::as_str).unwrap_or_default();
    std::env::split_paths(path).chain(usual_folders(environment.get("HOME").map(Path::new))).collect()
}

async fn interpreters(environment: &BTreeMap<String, String>) -> Vec<Interpreter> {
    discover(&Discovery {
        search_path: search_path(environment),
        home: environment.get("HOME").map(Into::into),
        probe_timeout: Duration::from_secs(20),
        memory: None,
        clock: Arc::new(SystemClock),
    })
    .await
}

/// Packages are built as the service builds them.
fn sandbox_policy(cache_dir: &Path) -> BuildSandboxPolicy {
    let launcher = Launcher::new(env!("CARGO_BIN_EXE_confined-build"), Vec::<String>::new());
    BuildSandboxPolicy {
        launcher,
        sandbox_policy: SandboxPolicy { hidden: vec![cache_dir.to_owned()], ..SandboxPolicy::default() },
    }
}

async fn tools(cache_dir: PathBuf) -> Tools {
    let environment = environment();
    let interpreters = interpreters(&environment).await;
    assert!(!interpreters.is_empty(), "the tests need a Python");
    Tools::new(ToolsOptions {
        sandbox_policy: Some(sandbox_policy(&cache_dir)),
        cache_dir,
        uv: None,
        index_url: None,
        environment,
        interpreters,
        vdk_constraints: vdk::CONSTRAINTS.into(),
        allow_builds: true,
        build_disk_max_mib: ToolsOptions::BUILD_DISK_MAX_MIB,
        index_access: None,
        clock: Arc::new(SystemClock),
    })
}

fn inputs(tools: &Tools, requirements: &str) -> ResolutionInputs {
    ResolutionInputs {
        python_version: tools.interpreters().last().unwrap().version,
        vdk_requirement: vdk::REQUIREMENT.into(),
        constraints: vdk::CONSTRAINTS.into(),
        requirements: requirements.into(),
        platform: None,
    }
}

fn pins(lock: &str) -> BTreeMap<&str, &str> {
    lock.lines().filter_map(|l| l.split_once("==")).map(|(n, v)| (n, v.trim_end_matches([' ', '\\']))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_installs_into_an_environment_in_which_vdk_runs() {
    let tools = Arc::new(tools(cache_dir(&environment())).await);
    let locker = LockResolver::new(tools.clone());
    let started = Instant::now();
    let alone = locker.lock(&inputs(&tools, "")).await.unwrap();
    eprintln!("lock of VDK: {:?}", started.elapsed());
    let started = Instant::now();
    let lock = locker.lock(&inputs(&tools, "docopt\nhumanize==4.9.0\n")).await.unwrap();
    eprintln!("lock with requirements: {:?}", started.elapsed());

    let (before, after) = (pins(&alone.text), pins(&lock.text));
    assert!(before.len() > 40, "{}", alone.text);
    assert_eq!(after.get("humanize"), Some(&"4.9.0"));
    assert!(before.iter().all(|(name, version)| after.get(name) == Some(version)), "VDK's packages stay");
    assert!(!lock.text.contains(['/', '#']), "no path and no comment: {}", lock.text);
    assert_eq!(
        lock,
        LockResolver::new(tools.clone()).lock(&inputs(&tools, "docopt\nhumanize==4.9.0\n")).await.unwrap()
    );

    let folder = tempfile::tempdir_in(tools.cache_dir()).unwrap();
    let at = folder.path().join("environment");
    let interpreter = tools.interpreters().last().unwrap();
    let offline = Tools::new(ToolsOptions {
        cache_dir: tools.cache_dir().into(),
        uv: Some(tools.uv().await.unwrap()),
        index_url: None,
        environment: [("HTTPS_PROXY".to_owned(), "http://127.0.0.1:9".to_owned())].into(),
        interpreters: tools.interpreters().to_vec(),
        vdk_constraints: vdk::CONSTRAINTS.into(),
        allow_builds: true,
        build_disk_max_mib: ToolsOptions::BUILD_DISK_MAX_MIB,
        sandbox_policy: None,
        index_access: None,
        clock: Arc::new(SystemClock),
    });
    for (what, tools) in [("environment", &*tools), ("environment again, without a network", &offline)] {
        let started = Instant::now();
        tools.create_environment(interpreter, &lock, vdk::REQUIREMENT, &at).await.unwrap();
        eprintln!("{what}: {:?}", started.elapsed());
    }
    let vdk = Command::new(at.join("bin/vdk")).arg("version").env_clear().env("HOME", folder.path()).output().unwrap();
    let said = String::from_utf8_lossy(&[vdk.stdout, vdk.stderr].concat()).into_owned();
    assert!(vdk.status.success() && said.contains("Version: 0.3.1466514302"), "{said}");
    let import = Command::new(at.join("bin/python")).args(["-c", "import docopt, humanize"]).status().unwrap();
    assert!(import.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_requirement_that_cannot_be_met_is_the_users_and_the_installer_says_why() {
    let tools = Arc::new(tools(cache_dir(&environment())).await);
    let locker = LockResolver::new(tools.clone());
    let fail = async |requirements: &str| -> Problem { locker.lock(&inputs(&tools, requirements)).await.unwrap_err() };

    let none = fail("requests==99.0\n").await;
    assert_eq!(none.fault, Fault::User);
    assert!(none.why.contains("there is no version of requests==99.0"), "{}", none.why);

    let conflict = fail("click<7\n").await;
    assert_eq!(conflict.fault, Fault::User);
    assert!(conflict.why.contains("click<7") && conflict.why.contains("depends on click"), "{}", conflict.why);
    assert!(!conflict.why.contains(&*tools.cache_dir().to_string_lossy()), "{}", conflict.why);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_cannot_be_reached_is_the_platforms() {
    let good = tools(cache_dir(&environment())).await;
    let uv = good.uv().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let tools = Arc::new(Tools::new(ToolsOptions {
        cache_dir: folder.path().into(),
        uv: Some(uv),
        index_url: Some("http://user:secret@127.0.0.1:9/simple".into()),
        environment: BTreeMap::new(),
        interpreters: good.interpreters().to_vec(),
        vdk_constraints: vdk::CONSTRAINTS.into(),
        allow_builds: true,
        build_disk_max_mib: ToolsOptions::BUILD_DISK_MAX_MIB,
        sandbox_policy: None,
        index_access: None,
        clock: Arc::new(SystemClock),
    }));
    let problem = LockResolver::new(tools.clone()).lock(&inputs(&tools, "")).await.unwrap_err();
    assert_eq!(problem.fault, Fault::Platform);
    assert!(problem.why.contains("refused") && !problem.why.contains("secret"), "{}", problem.why);
}

/// Two sets of tools know nothing of each other, as two processes do: only the files of the cache connect them.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_wheels_made_twice_at_once_are_made_once() {
    let folder = tempfile::tempdir().unwrap();
    let shared = Arc::new(tools(cache_dir(&environment())).await);
    let uv = shared.uv().await.unwrap();
    let another = || {
        Tools::new(ToolsOptions {
            cache_dir: folder.path().into(),
            uv: Some(uv.clone()),
            index_url: None,
            environment: environment(),
            interpreters: shared.interpreters().to_vec(),
            vdk_constraints: vdk::CONSTRAINTS.into(),
            allow_builds: true,
            build_disk_max_mib: ToolsOptions::BUILD_DISK_MAX_MIB,
            sandbox_policy: Some(sandbox_policy(folder.path())),
            index_access: None,
            clock: Arc::new(SystemClock),
        })
    };
    let (one, two) = (another(), another());
    let interpreter = shared.interpreters().last().unwrap();
    let requirement = "vdk-control-cli==1.3.1711238791";
    let started = Instant::now();
    let (first, second) =
        tokio::join!(one.wheels_for(interpreter, requirement), two.wheels_for(interpreter, requirement));
    eprintln!("wheels of {requirement}: {:?}", started.elapsed());
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!(first.folder(), second.folder());
    let names = |folder: &Path, last: &str| {
        let all = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        all.filter(|n| n.ends_with(last)).collect::<Vec<_>>()
    };
    assert!(names(first.folder(), ".whl").len() >= 3);

    // A lock that was made beside other wheels, as on another machine, is installed with these.
    let inputs = ResolutionInputs { vdk_requirement: requirement.into(), ..inputs(&shared, "") };
    let lock = LockResolver::new(shared.clone()).lock(&inputs).await.unwrap();
    let at = folder.path().join("environment");
    let made = one.create_environment(interpreter, &lock, requirement, &at).await;
    assert!(at.join("bin/vdkcli").is_file());
    let missing = made.unwrap_err();
    assert!(missing.why.contains("none of its packages has the command `vdk`"), "{missing}");

    drop((one, two));
    assert_eq!(names(&folder.path().join("tmp"), ""), ["lock"], "nothing is left behind");
}

/// Run it when the default VDK, its constraints or `python::SUPPORTED` change.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute and more: it runs a job with every Python of the machine"]
async fn a_job_runs_with_every_supported_python() {
    let tools = Arc::new(tools(cache_dir(&environment())).await);
    let folder = tempfile::tempdir_in(tools.cache_dir()).unwrap();
    let job = folder.path().join("some-job");
    std::fs::create_dir(&job).unwrap();
    std::fs::write(job.join("config.ini"), "[owner]\nteam = some\n").unwrap();
    std::fs::write(job.join("10_step.py"), "def run(job_input):\n    print('a step of', job_input.get_name())\n")
        .unwrap();
    for interpreter in tools.interpreters() {
        let started = Instant::now();
        let inputs = ResolutionInputs { python_version: interpreter.version, ..inputs(&tools, "") };
        let lock = LockResolver::new(tools.clone()).lock(&inputs).await.unwrap();
        let (locked, started) = (started.elapsed(), Instant::now());
        let at = folder.path().join(format!("environment-{}", interpreter.version));
        tools.create_environment(interpreter, &lock, vdk::REQUIREMENT, &at).await.unwrap();
        let (made, started) = (started.elapsed(), Instant::now());
        let run = Command::new(at.join("bin/vdk"))
            .arg("run")
            .arg(&job)
            .env_clear()
            .env("HOME", folder.path())
            .env("VDK_TERMINATION_MESSAGE_WRITER_OUTPUT_FILE", folder.path().join("end"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&[run.stdout, run.stderr].concat()).into_owned();
        assert!(run.status.success() && said.contains("a step of some-job"), "{}: {said}", interpreter.full_version);
        let (version, ran) = (&interpreter.full_version, started.elapsed());
        eprintln!("{version}: lock {locked:?}, environment {made:?}, run {ran:?}");
    }
}
