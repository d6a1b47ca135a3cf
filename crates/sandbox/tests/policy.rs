//! Python programs in a sandbox: which accesses to files and processes of their own user fail, and which succeed.
//!
//! Run by root, each test is done twice: as root and as `nobody`.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, geteuid, getpriority_process};
use sandbox::{Launcher, Layers, SandboxPolicy, Support};

const NOBODY: u32 = 65534;

/// A data folder with secrets, a run's folder in it, and a process of the same user outside of the sandbox.
struct Harness {
    dir: tempfile::TempDir,
    user: u32,
    launcher: Launcher,
    victim: Child,
}

impl Harness {
    fn new(user: u32) -> Self {
        let dir = tempfile::Builder::new().prefix("walls-").tempdir().unwrap();
        let program = dir.path().join("confined");
        fs::copy(env!("CARGO_BIN_EXE_confined"), &program).unwrap();
        let mut as_user = Vec::new();
        if user != geteuid().as_raw() {
            as_user = vec![format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".into(), "--".into()];
        }
        let launcher = if as_user.is_empty() {
            Launcher::new(&program, Vec::<String>::new())
        } else {
            let leading = as_user.iter().cloned().chain([program.to_str().unwrap().to_owned()]);
            Launcher::new("setpriv", leading)
        };
        let sleep = ["sleep".to_owned(), "600".to_owned()];
        let mut victim = if as_user.is_empty() { Command::new("env") } else { Command::new("setpriv") };
        let victim = victim.args(&as_user).args(sleep).stdout(Stdio::null()).process_group(0).spawn().unwrap();
        let harness = Self { dir, user, launcher, victim };
        for folder in ["", "data", "data/runs", "data/runs/2", "data/runs/1", "data/runs/1/job", "data/environment"] {
            harness.own(folder, |path| {
                if !path.exists() {
                    fs::create_dir(path).unwrap();
                }
            });
            fs::set_permissions(harness.path(folder), fs::Permissions::from_mode(0o700)).unwrap();
        }
        for folder in ["data/runs/1/job/work", "data/runs/1/job/tmp"] {
            harness.own(folder, |path| fs::create_dir(path).unwrap());
        }
        for file in ["data/secret.key", "data/holdfast.db", "data/runs/2/spec.json", "data/environment/vdk"] {
            harness.own(file, |path| fs::write(path, "content").unwrap());
            fs::set_permissions(harness.path(file), fs::Permissions::from_mode(0o600)).unwrap();
        }
        harness
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn own(&self, name: &str, make: impl Fn(&Path)) {
        make(&self.path(name));
        if self.user != geteuid().as_raw() {
            chown(self.path(name), Some(self.user), Some(self.user)).unwrap();
        }
    }

    fn sandbox_policy(&self) -> SandboxPolicy {
        SandboxPolicy {
            hidden: vec![self.path("data")],
            read: vec![self.path("data/environment")],
            write: vec![self.path("data/runs/1/job/work"), self.path("data/runs/1/job/tmp")],
            one_mount: vec![self.path("data/runs/1/job")],
            private: vec!["/dev/shm".into()],
            ..SandboxPolicy::default()
        }
    }

    fn support(&self) -> Support {
        self.launcher.support(&self.sandbox_policy())
    }

    /// Runs Python code in a sandbox of these layers and returns its output.
    fn python(&self, layers: Layers, code: &str) -> String {
        let mut command = self.launcher.command(&SandboxPolicy { layers, ..self.sandbox_policy() }, "python3");
        let out = command
            .args(["-ISc", code])
            .current_dir(self.path("data/runs/1/job/work"))
            .env("DATA", self.path("data"))
            .env("VICTIM", self.victim.id().to_string())
            .env("TMPDIR", self.path("data/runs/1/job/tmp"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let (said, complained) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        assert!(out.status.success(), "{}\n{said}\n{complained}", out.status);
        said.into_owned()
    }

    /// Tries each expression and returns the name of the error it ended with, or "ok".
    fn attempts(&self, layers: Layers, of: &[(&str, &str)]) -> BTreeMap<String, String> {
        let mut code = PRELUDE.to_owned();
        for (name, expression) in of {
            let lines = ["try:\n  ", expression, "\n  print('", name, "|ok')\nexcept OSError as e:\n  print('", name];
            code.extend(lines);
            code.push_str("|' + errno.errorcode[e.errno])\n");
        }
        let said = self.python(layers, &code);
        let said: BTreeMap<_, _> =
            said.lines().map(|line| line.split_once('|').unwrap()).map(|(a, b)| (a.to_owned(), b.to_owned())).collect();
        assert_eq!(said.len(), of.len());
        said
    }

    /// The state that an attack would change.
    fn state(&self) -> Vec<String> {
        let mut all = Vec::new();
        for name in ["data", "data/secret.key", "data/holdfast.db", "data/runs", "data/runs/2/spec.json"] {
            let m = fs::symlink_metadata(self.path(name)).unwrap();
            all.push(format!("{name} {:o} {} {} {}", m.mode(), m.uid(), m.mtime(), m.mtime_nsec()));
            let mut names = [0; 256];
            all.push(format!("{:?}", rustix::fs::listxattr(self.path(name), &mut names).ok()));
        }
        let pid = Pid::from_raw(i32::try_from(self.victim.id()).unwrap());
        for kind in ["limits", "status", "sched", "oom_score_adj"] {
            let text = fs::read_to_string(format!("/proc/{}/{kind}", self.victim.id())).unwrap();
            let kept = |line: &&str| {
                kind == "limits"
                    || kind == "oom_score_adj"
                    || line.starts_with("Cpus_allowed")
                    || line.starts_with("policy")
                    || line.starts_with("prio")
            };
            all.extend(text.lines().filter(kept).map(ToOwned::to_owned));
        }
        all.push(format!("{:?}", getpriority_process(pid)));
        all
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        let _ = self.victim.kill();
        let _ = self.victim.wait();
    }
}

/// The users to try it as.
fn users() -> Vec<u32> {
    if geteuid().is_root() { vec![0, NOBODY] } else { vec![geteuid().as_raw()] }
}

/// Numbers of system calls are those of x86_64 and aarch64.
const PRELUDE: &str = r#"
import ctypes, errno, mmap, os, platform, resource, signal, struct, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
data, victim = os.environ["DATA"], int(os.environ["VICTIM"])
x86 = platform.machine() == "x86_64"
NUMBERS = {"sched_setparam": (142, 118), "sched_setattr": (314, 274), "ioprio_set": (251, 30), "tgkill": (234, 131),
  "tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424),
  "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
  "kcmp": (312, 272), "ptrace": (101, 117), "move_pages": (279, 239), "migrate_pages": (256, 238), "bpf": (321, 280),
  "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "open_tree": (428, 428),
  "fsopen": (430, 430), "mount_setattr": (442, 442), "fchmodat2": (452, 452), "prlimit64": (302, 261)}
def call(name, *args, number=None):
  number = NUMBERS[name][0 if x86 else 1] if number is None else number
  ctypes.set_errno(0)
  args = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
  result = libc.syscall(ctypes.c_long(number), *args)
  if result == -1: raise OSError(ctypes.get_errno(), name)
  return result
def c(function, *args):
  ctypes.set_errno(0)
  result = function(*args)
  if result == -1: raise OSError(ctypes.get_errno(), "call")
  return result
limit = struct.pack("QQ", 10, 10)
info = ctypes.create_string_buffer(struct.pack("iii", signal.SIGTERM, 0, -1), 128)
word = ctypes.create_string_buffer(8)
vector = struct.pack("PN", ctypes.addressof(word), 8)
def path(name): return os.path.join(data, name)
"#;

/// The names of attempts with other outcomes than these.
fn unexpected(said: &BTreeMap<String, String>, fine: &[&str]) -> Vec<String> {
    said.iter().filter(|(_, how)| !fine.contains(&how.as_str())).map(|(name, how)| format!("{name}: {how}")).collect()
}

const PROCESSES: &[(&str, &str)] = &[
    ("prlimit files", "resource.prlimit(victim, resource.RLIMIT_NOFILE, (10, 10))"),
    ("prlimit time", "resource.prlimit(victim, resource.RLIMIT_CPU, (1, 1))"),
    ("prlimit parent", "resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (10, 10))"),
    ("priority", "os.setpriority(os.PRIO_PROCESS, victim, 19)"),
    ("priority of user", "os.setpriority(os.PRIO_USER, os.getuid(), 19)"),
    ("priority of own user", "os.setpriority(os.PRIO_USER, 0, 19)"),
    ("priority of group", "os.setpriority(os.PRIO_PGRP, os.getpgid(victim), 19)"),
    ("affinity", "os.sched_setaffinity(victim, {0})"),
    ("scheduler", "os.sched_setscheduler(victim, os.SCHED_IDLE, os.sched_param(0))"),
    ("parameters of the scheduler", "call('sched_setparam', victim, struct.pack('i', 0))"),
    (
        "attributes of the scheduler",
        "call('sched_setattr', victim, struct.pack('IIQiIQQQ', 48, 3, 0, 10, 0, 0, 0, 0), 0)",
    ),
    ("ioprio", "call('ioprio_set', 1, victim, 3 << 13)"),
    ("ioprio of user", "call('ioprio_set', 3, os.getuid(), 3 << 13)"),
    ("upper half of the argument", "call('ioprio_set', 1 | 1 << 32, victim | 1 << 32, 3 << 13)"),
    ("migrate pages", "call('migrate_pages', victim, 8, b'\\1' * 8, b'\\1' * 8)"),
    ("move pages", "call('move_pages', victim, 0, 0, 0, 0, 0)"),
    ("all at once", "os.kill(-1, signal.SIGTERM)"),
];

const SIGNALS: &[(&str, &str)] = &[
    ("kill", "os.kill(victim, signal.SIGTERM)"),
    ("kill nothing", "os.kill(victim, 0)"),
    ("tkill", "call('tkill', victim, signal.SIGTERM)"),
    ("tgkill", "call('tgkill', victim, victim, signal.SIGTERM)"),
    ("queued", "call('rt_sigqueueinfo', victim, signal.SIGTERM, info)"),
    ("queued to thread", "call('rt_tgsigqueueinfo', victim, victim, signal.SIGTERM, info)"),
    ("by descriptor", "call('pidfd_send_signal', call('pidfd_open', victim, 0), signal.SIGTERM, 0, 0)"),
    ("group", "os.killpg(os.getpgid(victim), signal.SIGCONT)"),
];

const KERNELS_FILES: &[(&str, &str)] = &[
    ("memory score", "open(f'/proc/{victim}/oom_score_adj', 'w').write('1000')"),
    ("scheduling group", "open(f'/proc/{victim}/autogroup', 'w').write('19')"),
    ("referenced pages", "open(f'/proc/{victim}/clear_refs', 'w').write('1')"),
    ("system requests", "os.open('/proc/sysrq-trigger', os.O_WRONLY)"),
    ("settings of the kernel", "os.open('/proc/sys/kernel/panic', os.O_WRONLY)"),
    // Root may open these without any capability, because it owns them.
    ("profiling", "os.open('/sys/kernel/profiling', os.O_WRONLY)"),
    ("large pages", "os.open('/sys/kernel/mm/transparent_hugepage/enabled', os.O_WRONLY)"),
    ("control groups", "[os.mkdir(f'/sys/fs/cgroup{each}/walls') for each in ('/unified', '')]"),
];

const MEMORY: &[(&str, &str)] = &[
    ("attach", "call('ptrace', 16, victim, 0, 0)"),
    ("seize", "call('ptrace', 0x4206, victim, 0, 0)"),
    ("read", "call('process_vm_readv', victim, vector, 1, vector, 1, 0)"),
    ("write", "call('process_vm_writev', victim, vector, 1, vector, 1, 0)"),
    ("compare", "call('kcmp', os.getpid(), victim, 2, 0, 0)"),
    ("descriptor", "call('pidfd_getfd', call('pidfd_open', victim, 0), 0, 0)"),
    ("mem", "open(f'/proc/{victim}/mem', 'rb')"),
    ("environ", "open(f'/proc/{victim}/environ', 'rb').read(1)"),
    ("folder", "os.listdir(f'/proc/{victim}/cwd/')"),
    ("root", "os.listdir(f'/proc/{victim}/root/')"),
    ("descriptors", "os.readlink(f'/proc/{victim}/fd/0')"),
    ("mounts", "os.open(f'/proc/{victim}/ns/mnt', os.O_RDONLY)"),
];

const FILES: &[(&str, &str)] = &[
    ("list", "os.listdir(path('runs/2'))"),
    ("read key", "open(path('secret.key'))"),
    ("write database", "open(path('holdfast.db'), 'r+b')"),
    ("create", "open(path('new'), 'w')"),
    ("remove", "os.unlink(path('secret.key'))"),
    ("rename", "os.rename(path('secret.key'), 'key')"),
    ("link", "os.link(path('secret.key'), 'key')"),
    ("truncate", "os.truncate(path('holdfast.db'), 0)"),
    ("chmod key", "os.chmod(path('secret.key'), 0o644)"),
    ("chmod database", "os.chmod(path('holdfast.db'), 0)"),
    ("chmod runs", "os.chmod(path('runs'), 0)"),
    ("chmod other run", "os.chmod(path('runs/2'), 0)"),
    ("chmod file of other run", "os.chmod(path('runs/2/spec.json'), 0o777)"),
    ("chmod own run", "os.chmod(path('runs/1'), 0)"),
    ("chmod environment", "os.chmod(path('environment/vdk'), 0o777)"),
    ("chmod data", "os.chmod(data, 0o777)"),
    ("chmod by its newest call", "call('fchmodat2', -100, data.encode(), 0o777, 0)"),
    ("chown data", "os.chown(data, os.getuid(), os.getgid())"),
    ("chown key", "os.chown(path('secret.key'), os.getuid(), os.getgid())"),
    ("times of data", "os.utime(data, (1, 1))"),
    ("times of key", "os.utime(path('secret.key'), (1, 1))"),
    ("times of environment", "os.utime(path('environment'), (1, 1))"),
    ("attribute of data", "os.setxattr(data, 'user.x', b'1')"),
    ("attribute of key", "os.setxattr(path('secret.key'), 'user.x', b'1')"),
    ("move data", "os.rename(data, data + '-moved')"),
    ("write environment", "open(path('environment/vdk'), 'a')"),
    ("uncover", "c(libc.umount2, data.encode(), 2)"),
    ("remount", "c(libc.mount, None, data.encode(), None, 4096 | 32, None)"),
    ("mount", "c(libc.mount, b'none', b'/mnt', b'tmpfs', 0, None)"),
];

const KERNEL: &[(&str, &str)] = &[
    ("bpf", "call('bpf', 0, 0, 0)"),
    ("perf", "call('perf_event_open', 0, 0, -1, -1, 0)"),
    ("userfaultfd", "call('userfaultfd', 1)"),
    ("io_uring", "call('io_uring_setup', 1, ctypes.create_string_buffer(120))"),
    ("open_tree", "call('open_tree', -100, b'/', 1)"),
    ("fsopen", "call('fsopen', b'tmpfs', 0)"),
    ("mount_setattr", "call('mount_setattr', -100, b'/', 0, ctypes.create_string_buffer(32), 32)"),
    ("setns", "c(libc.setns, os.open('/proc/self/ns/mnt', os.O_RDONLY), 0)"),
];

#[test]
fn files_and_processes_of_the_same_user_are_out_of_reach() {
    for user in users() {
        let harness = Harness::new(user);
        let support = harness.support();
        let before = harness.state();
        let layers = support.layers();
        assert!(layers.calls, "{support:?}");

        assert_eq!(unexpected(&harness.attempts(layers, PROCESSES), &["EPERM"]), Vec::<String>::new(), "{user}");
        assert_eq!(unexpected(&harness.attempts(layers, KERNEL), &["EPERM"]), Vec::<String>::new(), "{user}");
        if support.hides_files() {
            let refused = ["EPERM", "EACCES", "ESRCH"];
            assert_eq!(unexpected(&harness.attempts(layers, MEMORY), &refused), Vec::<String>::new(), "{user}");
        }
        if layers.landlock {
            let refused = ["EACCES", "ENOENT", "EPERM"];
            let said = harness.attempts(layers, KERNELS_FILES);
            assert_eq!(unexpected(&said, &refused), Vec::<String>::new(), "{user}");
            assert_eq!(said["memory score"], "EACCES");
        }
        if support.signals.is_enforced() {
            assert_eq!(unexpected(&harness.attempts(layers, SIGNALS), &["EPERM"]), Vec::<String>::new(), "{user}");
        }
        if support.namespaces.is_enforced() {
            let refused = ["ENOENT", "EROFS", "EPERM", "EACCES", "EBUSY", "EXDEV"];
            let said = harness.attempts(layers, FILES);
            assert_eq!(unexpected(&said, &refused), Vec::<String>::new(), "{user}");
            assert_eq!((said["chmod key"].as_str(), said["chmod data"].as_str()), ("ENOENT", "EROFS"));
            // Namespaces alone hold as well, with neither Landlock nor a filter.
            let alone = Layers { namespaces: true, ..Layers::default() };
            let said = harness.attempts(alone, FILES);
            assert_eq!(unexpected(&said, &[refused.as_slice(), &["EINVAL"]].concat()), Vec::<String>::new(), "{user}");
        }
        assert_eq!(harness.state(), before);
    }
}

/// Without this layer the attack succeeds: the test above would not notice a victim that is out of reach anyway.
#[test]
fn without_a_sandbox_the_same_attempts_succeed() {
    // The kernel spares processes of root from root without capabilities.
    for user in users().into_iter().filter(|user| *user != 0) {
        let harness = Harness::new(user);
        let tried: Vec<(&str, &str)> = [PROCESSES, FILES]
            .concat()
            .into_iter()
            .filter(|(name, _)| ["prlimit files", "affinity", "ioprio", "chmod key", "times of key"].contains(name))
            .collect();
        let said = harness.attempts(Layers::default(), &tried);
        assert_eq!(unexpected(&said, &["ok"]), Vec::<String>::new(), "{user}");
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn system_calls_by_the_numbers_of_other_architectures_are_refused() {
    // Calls by the gate of 32-bit programs, in a child: the kernel ends the process.
    const GATE: &str = r#"
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")  # mov eax, 20 (getpid); int 0x80; ret
getpid = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
child = os.fork()
if child == 0: os._exit(0 if getpid() == os.getpid() else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"#;
    for user in users() {
        let harness = Harness::new(user);
        let layers = Layers { calls: true, ..Layers::default() };
        let of = [
            ("prlimit64", "call('x32', victim, 7, limit, 0, number=0x40000000 | 302)"),
            ("setpriority", "call('x32', 0, victim, 19, number=0x40000000 | 141)"),
            ("ptrace", "call('x32', 16, victim, 0, 0, number=0x40000000 | 521)"),
            ("getpid", "call('x32', number=0x40000000 | 39)"),
        ];
        assert_eq!(unexpected(&harness.attempts(layers, &of), &["EPERM"]), Vec::<String>::new(), "{user}");
        let said = harness.python(layers, &format!("{PRELUDE}{GATE}"));
        assert_eq!(said.trim(), format!("-{}", libc::SIGSYS), "{user}");
    }
}

#[test]
fn a_user_namespace_of_its_own_does_not_uncover_the_data() {
    const NESTED: &str = r#"
user, group = os.getuid(), os.getgid()
NEWUSER, NEWNS = 0x10000000, 0x20000
made = libc.unshare(NEWUSER | NEWNS) == 0
for file, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
  try:
    with open("/proc/self/" + file, "w") as f: f.write(text)
  except OSError: pass  # Root without CAP_SETFCAP may not; it has all capabilities in its new namespace anyway.
print("namespace", made)
def tried(name, result): print(name, "ok" if result != -1 else "refused")
for target in (data, path("runs/1/job"), "/dev/shm"):
  tried("uncover", libc.umount2(target.encode(), 2))
  tried("uncover", libc.umount2(target.encode(), 0))
tried("remount", libc.mount(None, data.encode(), None, 4096 | 32, None))
tried("bind", libc.mount(os.path.dirname(data).encode(), b"/mnt", None, 4096, None))
print("key", os.path.exists(path("secret.key")), os.path.exists("/mnt/data/secret.key"))
"#;
    for user in users() {
        let harness = Harness::new(user);
        let support = harness.support();
        if !support.namespaces.is_enforced() {
            continue;
        }
        for layers in [support.layers(), Layers { namespaces: true, ..Layers::default() }] {
            let said = harness.python(layers, &format!("{PRELUDE}{NESTED}"));
            assert!(said.contains("namespace True"), "{said}");
            assert!(!said.contains("ok"), "{said}");
            assert!(said.contains("key False False"), "{said}");
        }
    }
}

#[test]
fn ordinary_programs_work() {
    const ORDINARY: &str = r#"
import asyncio, multiprocessing, sqlite3, socket, subprocess, tempfile, time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import shared_memory
def square(x): return x * x
def main():
  with multiprocessing.get_context("fork").Pool(2) as pool: assert pool.map(square, range(4)) == [0, 1, 4, 9]
  with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool: assert list(pool.map(square, [3])) == [9]
  with ThreadPoolExecutor(4) as pool: assert list(pool.map(square, [3])) == [9]
  memory = shared_memory.SharedMemory(create=True, size=16); memory.close(); memory.unlink()
  lock = multiprocessing.get_context("fork").Lock()
  with lock: pass
  async def child():
    process = await asyncio.create_subprocess_exec("sleep", "600")
    process.terminate(); assert await process.wait() == -signal.SIGTERM
  asyncio.run(child())
  process = subprocess.Popen(["sleep", "600"], start_new_session=True)
  os.killpg(process.pid, signal.SIGKILL); assert process.wait() == -signal.SIGKILL
  assert subprocess.run(["sh", "-c", "ulimit -n 100; nice -n 1 echo said"], capture_output=True).stdout == b"said\n"
  nice = os.nice(1); os.setpriority(os.PRIO_PROCESS, 0, nice + 1); os.setpriority(os.PRIO_PROCESS, os.getpid(), nice + 2)
  resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
  resource.prlimit(os.getpid(), resource.RLIMIT_NOFILE, (128, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
  resource.prlimit(victim, resource.RLIMIT_NOFILE)
  os.sched_setaffinity(0, os.sched_getaffinity(0)); os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
  os.sched_getaffinity(victim); os.getpriority(os.PRIO_PROCESS, victim)
  call("ioprio_set", 1, 0, 2 << 13 | 7)
  signal.setitimer(signal.ITIMER_REAL, 600); signal.alarm(0); signal.raise_signal(signal.SIGCONT)
  threading.Thread(target=lambda: None).start()
  with tempfile.TemporaryDirectory() as folder:
    with sqlite3.connect(folder + "/db") as db: db.execute("pragma journal_mode=wal"); db.execute("create table t (a)")
    with open(folder + "/file", "w") as file: file.write("x")
    os.chmod(folder + "/file", 0o640); os.utime(folder + "/file", (1, 1))
    os.rename(folder + "/file", "moved"); os.link("moved", os.environ["TMPDIR"] + "/linked")
  server = socket.create_server(("127.0.0.1", 0))
  client = socket.create_connection(server.getsockname()); server.accept()[0].sendall(b"x"); assert client.recv(1) == b"x"
  os.close(os.openpty()[0]); mmap.mmap(-1, 4096).close()
  open("/dev/null", "w").write("x"); open(f"/dev/fd/{os.pipe()[1]}", "w").write("x"); open(path("environment/vdk")).read()
  assert sorted(os.listdir(data)) == ["environment", "runs"] and os.listdir(path("runs")) == ["1"], os.listdir(data)
  assert os.getcwd() == path("runs/1/job/work") and os.listdir("/dev/shm") == []
  assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
  assert "CapEff:\t0000000000000000" in open("/proc/self/status").read()
main(); print("worked")
"#;
    for user in users() {
        let harness = Harness::new(user);
        let support = harness.support();
        if !support.namespaces.is_enforced() {
            continue;
        }
        assert_eq!(harness.python(support.layers(), &format!("{PRELUDE}{ORDINARY}")), "worked\n", "{user}");
    }
}

#[test]
fn where_user_namespaces_are_forbidden_the_other_layers_remain_and_the_gap_is_reported() {
    let harness = Harness::new(geteuid().as_raw());
    if !harness.support().namespaces.is_enforced() {
        return;
    }
    // A user namespace that allows none within it; its owner may say so.
    let code =
        "echo 0 > /proc/sys/user/max_user_namespaces && echo 0 > /proc/sys/user/max_mnt_namespaces && exec \"$@\"";
    let leading = ["-Ur", "sh", "-c", code, "-"];
    let program = harness.path("confined");
    let leading = leading.into_iter().map(ToOwned::to_owned).chain([program.to_str().unwrap().to_owned()]);
    let (launcher, before) = (Launcher::new("unshare", leading), harness.support());
    let support = launcher.support(&harness.sandbox_policy());
    assert!(!support.namespaces.is_enforced() && support.layers().calls, "{support:?}");
    assert_eq!(support.landlock, before.landlock);
    let gaps = support.gaps().join(" ");
    assert!(gaps.contains("modes, owners and times") && gaps.contains("user namespace can't be made"), "{gaps}");
}
