//! Attacks of a hostile package that is built or started, with the real installer and an index of the tests' own.
//!
//! Where the kernel has no sandbox there is nothing to test about it.

#![allow(clippy::disallowed_methods, reason = "it waits for real things in real time")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use clients::index_proxy::{IndexProxy, Session};
use clock::SystemClock;
use image::LockResolver;
use model::{
    BoxFuture, Problem,
    clock::Clock,
    lock::{Lock, ResolutionInputs},
    problem::{Fault, Kind},
};
use python::{
    BuildSandboxPolicy, Discovery, IndexAccess, IndexSession, Interpreter, Launcher, SandboxPolicy, Tools,
    ToolsOptions, discover, usual_folders,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use testing::{IndexServer, index};

const PASSWORD: &str = "hunter2-of-the-index";
const VDK: &str = "fake-vdk==1.0";
/// As the real one, it runs code of the packages beside it.
const MAIN: &str = "def main():
    import importlib
    for name in ('plugin', 'good'):
        try:
            plugin = importlib.import_module(name)
        except ImportError:
            continue
        plugin.main()
";

#[expect(clippy::disallowed_methods, reason = "a test is configured by the environment")]
fn environment() -> BTreeMap<String, String> {
    std::env::vars().filter(|(name, _)| !name.starts_with("UV_")).collect()
}

fn search_path(environment: &BTreeMap<String, String>) -> Vec<PathBuf> {
    let path = environment.get("PATH").map(String::as_str).unwrap_or_default();
    std::env::split_paths(path).chain(usual_folders(environment.get("HOME").map(Path::new))).collect()
}

/// The installer and a Python, from the cache that all tests share.
async fn machine() -> (PathBuf, Vec<Interpreter>) {
    let environment = environment();
    let cache = environment.get("HOLDFAST_TEST_CACHE_DIR").map(PathBuf::from);
    let home = || Some(Path::new(environment.get("HOME")?).join(".cache/holdfast-test"));
    let cache_dir = cache.or_else(home).expect("HOLDFAST_TEST_CACHE_DIR or HOME");
    let interpreters = discover(&Discovery {
        search_path: search_path(&environment),
        home: environment.get("HOME").map(Into::into),
        probe_timeout: Duration::from_secs(20),
        memory: Some(cache_dir.join("interpreters.json")),
        clock: Arc::new(SystemClock),
    })
    .await;
    let options = ToolsOptions { cache_dir, environment, interpreters: interpreters.clone(), ..options() };
    (Tools::new(options).uv().await.unwrap(), interpreters)
}

fn options() -> ToolsOptions {
    ToolsOptions {
        cache_dir: PathBuf::new(),
        uv: None,
        index_url: None,
        environment: BTreeMap::new(),
        interpreters: Vec::new(),
        vdk_constraints: String::new(),
        allow_builds: true,
        build_disk_max_mib: 256,
        sandbox_policy: None,
        index_access: None,
        clock: Arc::new(SystemClock),
    }
}

/// Those of jobs.
fn sandbox_policy(data: &Path) -> SandboxPolicy {
    SandboxPolicy { hidden: vec![data.to_owned()], private: vec!["/dev/shm".into()], ..SandboxPolicy::default() }
}

#[derive(Debug)]
struct Access(IndexProxy);

#[derive(Debug)]
struct Open(Session);

impl IndexAccess for Access {
    fn open(&self) -> BoxFuture<'_, Result<Box<dyn IndexSession>, Problem>> {
        Box::pin(async {
            let session = self.0.open(&SystemClock.new_id().simple().to_string()).await.unwrap();
            Ok(Box::new(Open(session)) as Box<dyn IndexSession>)
        })
    }
}

impl IndexSession for Open {
    fn index_url(&self) -> &str {
        self.0.index_url()
    }

    fn without_session(&self, text: &str) -> String {
        self.0.without_proxy(text)
    }
}

/// A data folder with secrets, and an index with credentials.
struct Harness {
    folder: tempfile::TempDir,
    index: IndexServer,
    uv: PathBuf,
    interpreter: Interpreter,
}

impl Harness {
    async fn new() -> Self {
        let (uv, interpreters) = machine().await;
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().canonicalize().unwrap().join("data");
        for (path, text) in [
            ("secret.key", "the key"),
            ("holdfast.db", "rows"),
            ("runs/some-job-1/spec.json", "{}"),
            ("environments/other/module.py", "other = 1"),
            ("cache/uv/shared", "shared"),
        ] {
            fs::create_dir_all(data.join(path).parent().unwrap()).unwrap();
            fs::write(data.join(path), text).unwrap();
        }
        let index = IndexServer::start(Some(("user", PASSWORD)));
        let (file, content) = index::wheel_with("fake_vdk", "1.0", MAIN, Some("vdk"));
        index.add("fake-vdk", &file, content);
        index.answer("/api/token", "text/plain", PASSWORD);
        Self { folder, index, uv, interpreter: interpreters.last().expect("the tests need a Python").clone() }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join("data")
    }

    fn at(&self) -> PathBuf {
        self.data().join("environments/own")
    }

    fn tools(&self, change: impl FnOnce(&mut ToolsOptions)) -> Arc<Tools> {
        let access = IndexProxy::of(&self.index.url(), &BTreeMap::new(), Arc::new(SystemClock)).unwrap().unwrap();
        let mut options = ToolsOptions {
            cache_dir: self.data().join("cache"),
            uv: Some(self.uv.clone()),
            index_url: Some(self.index.url()),
            environment: [("PATH".to_owned(), "/usr/bin:/bin".to_owned())].into(),
            interpreters: vec![self.interpreter.clone()],
            sandbox_policy: Some(BuildSandboxPolicy {
                launcher: Launcher::new(env!("CARGO_BIN_EXE_confined-build"), Vec::<String>::new()),
                sandbox_policy: sandbox_policy(&self.data()),
            }),
            index_access: Some(Arc::new(Access(access))),
            ..options()
        };
        change(&mut options);
        Arc::new(Tools::new(options))
    }

    async fn lock(&self, tools: &Arc<Tools>, requirements: &str) -> Result<Lock, Problem> {
        let inputs = ResolutionInputs {
            python_version: self.interpreter.version,
            vdk_requirement: VDK.into(),
            constraints: String::new(),
            requirements: requirements.into(),
            platform: None,
        };
        LockResolver::new(tools.clone()).lock(&inputs).await
    }

    async fn install(&self, tools: &Arc<Tools>, lock: &Lock) -> Result<(), Problem> {
        tools.create_environment(&self.interpreter, lock, VDK, &self.at()).await
    }

    /// The value of an expression about a module of the environment.
    fn value(&self, expression: &str) -> Value {
        let module = expression.split('.').next().unwrap();
        let code = format!("import json, {module}; print(json.dumps({expression}))");
        let output = Command::new(self.at().join("bin/python")).args(["-c", &code]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn add_source(&self, name: &str, hooks: &str) -> String {
        let (file, content) = index::source(name, "1.0", hooks);
        let hash = hex::encode(Sha256::digest(&content));
        self.index.add(name, &file, content);
        hash
    }

    /// The wheel in the store.
    fn stored(&self, name: &str) -> PathBuf {
        let sources = fs::read_dir(self.data().join("cache/wheels/sources")).unwrap();
        let files = sources.flatten().filter_map(|e| fs::read_dir(e.path()).ok()).flatten().flatten();
        let mut found: Vec<_> = files.map(|e| e.path()).filter(|p| p.extension().is_some_and(|x| x == "whl")).collect();
        found.retain(|p| p.file_name().unwrap().to_str().unwrap().starts_with(name));
        let [wheel] = found.as_slice() else { panic!("not one wheel of {name}: {found:?}") };
        wheel.clone()
    }

    fn scratch_is_empty(&self) -> bool {
        let left = fs::read_dir(self.data().join("cache/tmp")).unwrap().flatten();
        left.filter(|e| e.path().is_dir()).flat_map(|e| fs::read_dir(e.path()).unwrap().flatten()).count() <= 1
    }
}

/// Python that tries things, and keeps what became of each in REPORT: a value, or the name of the exception.
fn attempts(harness: &Harness) -> String {
    let data = harness.data();
    format!(
        r#"
import glob, os, resource, signal, urllib.error, urllib.request
DATA, SERVICE, SECRET, ORIGIN = {data:?}, {service}, {secret:?}, {origin:?}
REPORT = {{}}

def attempt(name, what):
    try:
        REPORT[name] = what()
    except Exception as e:
        REPORT[name] = getattr(e, "code", None) or type(e).__name__

def get(url):
    with urllib.request.urlopen(url, timeout=20) as answer:
        text = answer.read().decode()
        return [answer.status, SECRET in text + str(answer.headers)]

def told(of):
    found = 0
    for path in glob.glob("/proc/[0-9]*/" + of):
        try:
            found += SECRET.encode() in open(path, "rb").read()
        except OSError:
            pass
    return found

def attack():
    at = lambda *path: os.path.join(DATA, *path)
    attempt("key", lambda: open(at("secret.key")).read())
    attempt("database", lambda: open(at("holdfast.db"), "r+").read())
    attempt("runs", lambda: open(at("runs", "some-job-1", "spec.json")).read())
    attempt("key-mode", lambda: os.chmod(at("secret.key"), 0o644))
    attempt("cache", lambda: open(at("cache", "uv", "shared"), "a").write("x"))
    attempt("cache-new", lambda: open(at("cache", "uv", "new"), "w").write("x"))
    attempt("environment", lambda: open(at("environments", "other", "module.py"), "a").write("x"))
    attempt("link", lambda: (os.symlink(DATA, "l"), open("l/secret.key").read()))
    attempt("service-environment", lambda: len(open("/proc/%d/environ" % SERVICE, "rb").read()))
    attempt("service-folder", lambda: os.listdir("/proc/%d/root" % SERVICE))
    attempt("kill", lambda: os.kill(SERVICE, signal.SIGCONT))
    attempt("limit", lambda: resource.prlimit(SERVICE, resource.RLIMIT_CORE, (0, 0)))
    attempt("priority", lambda: os.setpriority(os.PRIO_PROCESS, SERVICE, 19))
    attempt("own-environment", lambda: sorted(n for n, v in os.environ.items() if SECRET in v))
    attempt("all-environments", lambda: told("environ"))
    attempt("all-command-lines", lambda: told("cmdline"))
    index = os.environ.get("UV_DEFAULT_INDEX", "")
    attempt("index", lambda: get(index + "/fake-vdk/"))
    attempt("token", lambda: get(index[:-len("/simple")] + "/api/token"))
    attempt("index-itself", lambda: get(ORIGIN + "/simple/fake-vdk/"))
"#,
        data = data.to_str().unwrap(),
        service = std::process::id(),
        secret = PASSWORD,
        origin = harness.index.origin(),
    )
}

/// The expected outcomes. Hidden files are absent with namespaces, and refused with Landlock alone.
fn held(report: &Value) -> Vec<String> {
    let hidden = [json!("FileNotFoundError"), json!("PermissionError")];
    let refused = [json!("PermissionError")];
    let mut wrong = Vec::new();
    let mut check = |name: &str, allowed: &[Value]| {
        if !allowed.contains(&report[name]) {
            wrong.push(format!("{name}: {}", report[name]));
        }
    };
    for name in ["key", "database", "runs", "key-mode", "cache", "cache-new", "environment", "link"] {
        check(name, &hidden);
    }
    for name in ["service-environment", "service-folder", "kill", "limit", "priority"] {
        check(name, &refused);
    }
    check("own-environment", &[json!([])]);
    for name in ["all-environments", "all-command-lines"] {
        check(name, &[json!(0)]);
    }
    check("index", &[json!([200, false])]);
    check("token", &[json!(404)]);
    check("index-itself", &[json!(401)]);
    wrong
}

fn is_whole(harness: &Harness) {
    let read = |path: &str| fs::read_to_string(harness.data().join(path)).unwrap();
    assert_eq!(read("secret.key"), "the key");
    assert_eq!(read("cache/uv/shared"), "shared");
    assert_eq!(read("environments/other/module.py"), "other = 1");
    assert!(!harness.data().join("cache/uv/new").exists());
    assert!(harness.index.requests().iter().all(|r| r.path != "/api/token"), "{:?}", harness.index.requests());
}

fn has_sandbox(harness: &Harness) -> bool {
    let launcher = Launcher::new(env!("CARGO_BIN_EXE_confined-build"), Vec::<String>::new());
    let sandbox_policy = BuildSandboxPolicy { launcher, sandbox_policy: sandbox_policy(&harness.data()) };
    let support = sandbox_policy.support();
    support.namespaces.is_enforced() && support.landlock.is_enforced() && support.calls.is_enforced()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_build_gets_packages_and_neither_secrets_nor_a_way_to_the_service() {
    let harness = Harness::new().await;
    if !has_sandbox(&harness) {
        return;
    }
    let hooks = format!(
        "{}\ndef build_wheel(directory, config_settings=None, metadata_directory=None):\n    attack()\n    \
         return wheel(directory, 'REPORT = %r' % REPORT)\n",
        attempts(&harness)
    );
    let hash = harness.add_source("evil", &hooks);
    let tools = harness.tools(|_| {});
    let lock = harness.lock(&tools, "evil\n").await.unwrap();
    assert!(lock.text.contains(&format!("evil==1.0 \\\n    --hash=sha256:{hash}\n")), "{}", lock.text);
    harness.install(&tools, &lock).await.unwrap();

    let report = harness.value("evil.REPORT");
    assert_eq!(held(&report), Vec::<String>::new(), "{report:#}");
    is_whole(&harness);
    assert!(harness.scratch_is_empty());
    let walk =
        Command::new("find").arg(harness.data().join("cache/uv")).args(["-path", "*/sdists-*/[!.]*"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&walk.stdout), "", "no build used the shared cache");
}

#[tokio::test(flavor = "multi_thread")]
async fn vdk_starts_in_the_sandbox_and_its_compiled_files_are_kept() {
    let harness = Harness::new().await;
    if !has_sandbox(&harness) {
        return;
    }
    let main = format!(
        "{}\nimport json, sys\ndef main():\n    attack()\n    \
         attempt('own', lambda: open(__file__, 'a').write('x'))\n    sys.exit('REPORT' + json.dumps(REPORT))\n",
        attempts(&harness)
    );
    let (file, content) = index::wheel_with("plugin", "1.0", &main, None);
    harness.index.add("plugin", &file, content);
    let tools = harness.tools(|_| {});
    let lock = harness.lock(&tools, "plugin\n").await.unwrap();
    let problem = harness.install(&tools, &lock).await.unwrap_err();
    let report = problem.why.split_once("REPORT").expect(&problem.why).1;
    let report: Value = serde_json::from_str(report).unwrap_or_else(|e| panic!("{e}: {report}"));
    assert_eq!(held(&report), Vec::<String>::new(), "{report:#}");
    assert!(["OSError", "PermissionError"].map(|e| json!(e)).contains(&report["own"]), "{report:#}");
    is_whole(&harness);

    let (file, content) = index::wheel_with("good", "1.0", "def main():\n    print('vdk')\n", None);
    harness.index.add("good", &file, content);
    let lock = harness.lock(&tools, "good\n").await.unwrap();
    harness.install(&tools, &lock).await.unwrap();
    let package = harness.value("good.__file__");
    let compiled = Path::new(package.as_str().unwrap()).parent().unwrap().join("__pycache__");
    assert_eq!(fs::read_dir(compiled).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_builds_a_package_that_has_no_wheel_is_the_users_and_vdks_own_is_built() {
    let harness = Harness::new().await;
    harness.add_source("evil", "raise SystemExit('its hooks run')");
    let tools = harness.tools(|options| options.allow_builds = false);
    let problem = harness.lock(&tools, "evil\n").await.unwrap_err();
    assert_eq!((problem.kind, problem.fault), (Kind::Invalid, Fault::User));
    let why = format!(
        "evil has no wheel for Python {} on {}, and package builds are off.",
        harness.interpreter.version, harness.interpreter.platform
    );
    assert!(problem.why.starts_with(&why), "{}", problem.why);

    harness.add_source("ownvdk", "");
    let inputs = ResolutionInputs {
        python_version: harness.interpreter.version,
        vdk_requirement: "ownvdk==1.0".into(),
        constraints: String::new(),
        requirements: "fake-vdk\n".into(),
        platform: None,
    };
    let lock = LockResolver::new(tools.clone()).lock(&inputs).await.unwrap();
    tools.create_environment(&harness.interpreter, &lock, "ownvdk==1.0", &harness.at()).await.unwrap();
    assert!(harness.at().join("bin/python").exists());
    let other = harness.lock(&harness.tools(|_| {}), "evil\n").await.unwrap_err();
    assert!(other.fault == Fault::User && other.why.contains("its hooks run"), "{}", other.why);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_was_kept_for_other_wheels_is_not_taken() {
    let harness = Harness::new().await;
    let source = harness.add_source("ownvdk", "");
    let inputs = ResolutionInputs {
        python_version: harness.interpreter.version,
        vdk_requirement: "ownvdk==1.0".into(),
        constraints: String::new(),
        requirements: String::new(),
        platform: None,
    };
    // As a former version left it beside wheels of its own.
    let locks = harness.data().join("cache/locks");
    fs::create_dir_all(&locks).unwrap();
    let stale = format!("ownvdk==1.0 \\\n    --hash=sha256:{}\n", "0".repeat(64));
    fs::write(locks.join(format!("{}.txt", inputs.key())), stale).unwrap();

    let lock = LockResolver::new(harness.tools(|_| {})).lock(&inputs).await.unwrap();
    assert_eq!(lock.text, format!("ownvdk==1.0 \\\n    --hash=sha256:{source}\n"));
    fs::remove_dir_all(harness.data().join("cache/wheels")).unwrap();
    let tools = harness.tools(|_| {});
    assert_eq!(LockResolver::new(tools.clone()).lock(&inputs).await.unwrap().text, lock.text);
    let made = tools.create_environment(&harness.interpreter, &lock, "ownvdk==1.0", &harness.at()).await;
    assert!(harness.at().join("bin/python").exists());
    let missing = made.unwrap_err();
    assert!(missing.why.contains("none of its packages has the command `vdk`"), "{missing}");
    assert_eq!(missing.fault, Fault::Platform);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wheel_that_was_changed_in_the_cache_is_not_installed() {
    let harness = Harness::new().await;
    harness.add_source("plain", "");
    let tools = harness.tools(|_| {});
    let lock = harness.lock(&tools, "plain\n").await.unwrap();
    harness.install(&tools, &lock).await.unwrap();
    assert_eq!(harness.value("plain.VERSION"), json!("1.0"));
    let wheel = harness.stored("plain");
    let built = fs::read(&wheel).unwrap();
    let requests = harness.index.requests().len();
    harness.install(&tools, &lock).await.unwrap();
    assert_eq!(harness.index.requests().len(), requests, "built once, and nothing is fetched again");

    let (_, content) = index::wheel_with("plain", "1.0", "VERSION = 'changed'", None);
    fs::write(&wheel, &content).unwrap();
    let careful = harness.tools(|options| options.allow_builds = false);
    let refused = harness.install(&careful, &lock).await.unwrap_err();
    assert!(refused.fault == Fault::User && refused.why.starts_with("plain has no wheel"), "{}", refused.why);
    assert!(!wheel.exists(), "it is removed");
    harness.install(&tools, &lock).await.unwrap();
    assert_eq!(harness.value("plain.VERSION"), json!("1.0"));
    assert_ne!(fs::read(harness.stored("plain")).unwrap(), content);
    assert!(!built.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_fills_the_disk_is_ended_however_it_nests_folders() {
    let harness = Harness::new().await;
    let head = "def build_wheel(directory, config_settings=None, metadata_directory=None):\n    import time\n";
    let down = |levels: usize, name: &str| {
        format!("    for n in range({levels}):\n        os.mkdir({name})\n        os.chdir({name})\n")
    };
    let fill = "    for n in range(64):\n        open('f%d' % n, 'wb').write(bytes(1 << 20))\n    time.sleep(600)\n";
    let tools = harness.tools(|options| options.build_disk_max_mib = 32);
    let too_large = "The build used more than 32 MiB of disk (`python.build_disk_max_mib`).";
    for (name, hooks, why) in [
        ("large", format!("{head}{fill}"), too_large),
        // No path leads there.
        ("long", format!("{head}{}{fill}", down(20, "'x' * 250")), too_large),
        ("shut", format!("{head}{}    os.chmod('.', 0o300)\n{fill}", down(1, "'d'")), too_large),
        (
            "deep",
            format!("{head}{}    time.sleep(600)\n", down(200, "'d'")),
            "The build nested folders deeper than 128 levels.",
        ),
    ] {
        harness.add_source(name, &hooks);
        let started = Instant::now();
        let problem = harness.lock(&tools, &format!("{name}\n")).await.unwrap_err();
        assert_eq!((problem.kind, problem.fault), (Kind::TooLarge, Fault::User), "{name}: {problem}");
        assert_eq!(problem.why, why, "{name}");
        assert!(started.elapsed() < Duration::from_secs(120));
        assert!(harness.scratch_is_empty(), "{name}");
    }
}

/// Python that adds a GiB of zeros to a wheel.
const BLOW_UP: &str = "    with zipfile.ZipFile(os.path.join(directory, file), 'a', zipfile.ZIP_DEFLATED, compresslevel=1) as out:\n        \
                       for n in range(16): out.writestr('bomb/f%d' % n, bytes(64 << 20))\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_wheel_that_is_too_large_once_it_is_unpacked_is_not_installed() {
    let harness = Harness::new().await;
    // One that the index has, and one that is built here.
    let (file, content) = index::wheel("bomb", "1.0");
    fs::write(harness.folder.path().join(&file), content).unwrap();
    let code = format!("import os, zipfile\nif True:\n    directory, file = '.', {file:?}\n{BLOW_UP}");
    let blown_up = Command::new(&harness.interpreter.executable)
        .args(["-c", &code])
        .current_dir(harness.folder.path())
        .output()
        .unwrap();
    assert!(blown_up.status.success(), "{}", String::from_utf8_lossy(&blown_up.stderr));
    harness.index.add("bomb", &file, fs::read(harness.folder.path().join(&file)).unwrap());
    harness.add_source(
        "builtbomb",
        &format!(
            "def build_wheel(directory, config_settings=None, metadata_directory=None):\n    file = wheel(directory)\n\
             {BLOW_UP}    return file\n"
        ),
    );
    let tools = harness.tools(|options| options.build_disk_max_mib = 32);
    for name in ["bomb", "builtbomb"] {
        let made = match harness.lock(&tools, &format!("{name}\n")).await {
            Ok(lock) => harness.install(&tools, &lock).await,
            Err(problem) => Err(problem),
        };
        let problem = made.unwrap_err();
        assert_eq!((problem.kind, problem.fault), (Kind::TooLarge, Fault::User), "{name}: {problem}");
        assert!(
            problem.why.contains("32 MiB") && problem.why.contains("`python.build_disk_max_mib`"),
            "{}",
            problem.why
        );
        let cache = fs::read_dir(harness.data().join("cache/uv")).unwrap().flatten();
        let left: Vec<_> =
            cache.map(|e| e.file_name()).filter(|name| name.as_encoded_bytes().starts_with(b".tmp")).collect();
        assert!(left.is_empty(), "{name}: {left:?}");
    }
    let lock = harness.lock(&tools, "").await.unwrap();
    harness.install(&tools, &lock).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_detached_itself_from_a_build_is_ended() {
    let harness = Harness::new().await;
    let meeting = std::os::unix::net::UnixListener::bind(harness.folder.path().join("meet")).unwrap();
    let hooks = format!(
        "import socket, time\nif not os.fork():\n    os.setsid()\n    s = socket.socket(socket.AF_UNIX)\n    \
         s.connect({:?})\n    s.sendall(b'x')\n    os.closerange(0, 3)\n    time.sleep(600)\n    os._exit(0)\n",
        harness.folder.path().canonicalize().unwrap().join("meet").to_str().unwrap()
    );
    harness.add_source("daemon", &hooks);
    let tools = harness.tools(|_| {});
    harness.lock(&tools, "daemon\n").await.unwrap();
    let (mut process, _) = meeting.accept().unwrap();
    process.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut said = String::new();
    std::io::Read::read_to_string(&mut process, &mut said).unwrap();
    assert_eq!(said, "x", "its end of the connection is closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_leaves_a_wheel_of_another_package_or_a_link_fails() {
    let harness = Harness::new().await;
    let head = "def build_wheel(directory, config_settings=None, metadata_directory=None):\n";
    harness.add_source("liar", &format!("{head}    return wheel(directory, '', 'fake_vdk')\n"));
    harness.add_source(
        "linker",
        &format!(
            "{head}    file = wheel(directory)\n    p = os.path.join(directory, file)\n    os.rename(p, p + '.real')\n    os.symlink(p + '.real', p)\n    return file\n"
        ),
    );
    let tools = harness.tools(|_| {});
    for name in ["liar", "linker"] {
        let made = match harness.lock(&tools, &format!("{name}\n")).await {
            Ok(lock) => harness.install(&tools, &lock).await,
            Err(problem) => Err(problem),
        };
        let problem = made.unwrap_err();
        assert_eq!(problem.fault, Fault::User, "{}", problem.why);
        assert!(problem.why.contains(name), "{}", problem.why);
    }
    assert_eq!(
        fs::read_dir(harness.data().join("cache/wheels/sources"))
            .unwrap()
            .flatten()
            .filter(|e| e.path().is_dir())
            .count(),
        0
    );
}
