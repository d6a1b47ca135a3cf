//! A PostgreSQL for one test process: own folder, a socket in it and, unless a test asks for it, nothing on the network; gone
//! with the process.
//!
//! A small supervisor has the server as its child and reads commands from a pipe. When the pipe ends, because the test
//! process is over however it ended, it stops the server and removes the folder.

use std::{
    fs::Permissions,
    io::{BufRead, BufReader, Write},
    net::{IpAddr, TcpListener},
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown, symlink},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use crate::install::{self, Installation};

/// The role that owns everything.
const ROLE: &str = "holdfast";

/// The user id of the server when tests run as root, which it refuses to run as.
const NOBODY: u32 = 65534;

/// The files of a server that encrypts.
const CERTIFICATE: &str = "server.crt";
const PRIVATE_KEY: &str = "server.key";

/// The access rules of a server that other machines reach.
const ACCESS: &str = "access.conf";

/// How long the server may take to start.
const START_MAX: Duration = Duration::from_secs(60);

/// Settings that tests don't need: durability, and a network.
const SETTINGS: &[&str] = &[
    "listen_addresses=",
    "fsync=off",
    "full_page_writes=off",
    "max_connections=400",
    "shared_buffers=64MB",
    "max_wal_size=256MB",
    "wal_level=minimal",
    "max_wal_senders=0",
    "log_min_messages=fatal",
    "timezone=UTC",
];

const SUPERVISOR: &str = r#"
folder=$1 programs=$2; shift 2
pid=
while read -r command; do
    case $command in
    init) "$programs/initdb" -D "$folder/data" -U holdfast -A trust -E UTF8 --locale=C --no-sync --no-instructions \
        >"$folder/log" 2>&1 || command="init failed" ;;
    start) "$programs/postgres" -D "$folder/data" -k "$folder" "$@" >>"$folder/log" 2>&1 </dev/null & pid=$! ;;
    stop) kill -INT $pid; wait $pid; pid= ;;
    crash) kill -QUIT $pid; wait $pid; pid= ;;
    esac
    echo "$command"
done
if [ -n "$pid" ]; then kill -QUIT $pid; wait $pid; fi
cd / && rm -rf "$folder"
"#;

/// A running server.
#[derive(Debug)]
pub struct Server {
    folder: PathBuf,
    programs: PathBuf,
    supervisor: Mutex<Supervisor>,
    databases: AtomicU32,
    /// The name of a database with the schema and without rows, which others are copied from.
    template: OnceLock<String>,
    network: Option<Network>,
}

/// How a server is reached beside its socket, whose name has the port as well.
#[derive(Debug)]
enum Network {
    /// From this machine, encrypted.
    Encrypted { port: u16 },
    /// At an address of this machine from wherever that is reached, with a password.
    Open { address: IpAddr, port: u16, password: String },
}

impl Network {
    fn encrypted() -> Result<Self, String> {
        Ok(Self::Encrypted { port: free_port([127, 0, 0, 1].into())? })
    }

    fn open(address: IpAddr, password: &str) -> Result<Self, String> {
        Ok(Self::Open { address, port: free_port(address)?, password: password.to_owned() })
    }

    fn port(&self) -> u16 {
        match self {
            Self::Encrypted { port } | Self::Open { port, .. } => *port,
        }
    }

    /// The settings of a server in this folder, beside those of every one. A later setting wins.
    fn settings(&self, folder: &Path, is_root: bool) -> Result<Vec<String>, String> {
        let in_folder = |name: &str, file: &str| format!("{name}={}", folder.join(file).display());
        let (address, more) = match self {
            Self::Encrypted { .. } => {
                certify(folder, is_root)?;
                let files = [in_folder("ssl_cert_file", CERTIFICATE), in_folder("ssl_key_file", PRIVATE_KEY)];
                ("localhost".to_owned(), [vec!["ssl=on".into()], files.to_vec()].concat())
            }
            Self::Open { address, .. } => {
                put(folder, ACCESS, "local all all trust\nhost all all all scram-sha-256\n", is_root)?;
                (address.to_string(), vec![in_folder("hba_file", ACCESS)])
            }
        };
        Ok([vec![format!("listen_addresses={address}"), format!("port={}", self.port())], more].concat())
    }
}

fn free_port(address: IpAddr) -> Result<u16, String> {
    let listener = TcpListener::bind((address, 0)).and_then(|listener| listener.local_addr());
    listener.map(|address| address.port()).map_err(|e| format!("{address} has no free port: {e}"))
}

#[derive(Debug)]
struct Supervisor {
    child: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Server {
    /// The server that the tests of this process share; the first to ask starts it.
    ///
    /// # Panics
    /// When there is no PostgreSQL and none can be had.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Result<Server, String>> = OnceLock::new();
        SHARED.get_or_init(Self::try_start).as_ref().unwrap_or_else(|why| panic!("{why}"))
    }

    /// A server of a test's own, to be stopped and started at will.
    ///
    /// # Panics
    /// When there is no PostgreSQL and none can be had.
    pub fn start() -> Self {
        Self::try_start().unwrap_or_else(|why| panic!("{why}"))
    }

    /// A server of a test's own that encrypts connections over the network, with a certificate for `localhost` that it
    /// signed itself: see [`Server::certificate`].
    ///
    /// # Panics
    /// When there is no PostgreSQL and none can be had.
    pub fn start_encrypted() -> Self {
        let network = Network::encrypted();
        network.and_then(|network| Self::try_start_with(Some(network))).unwrap_or_else(|why| panic!("{why}"))
    }

    /// A server of a test's own that the pods of a cluster reach, at an address of this machine and with a password of letters
    /// and digits.
    ///
    /// # Panics
    /// When there is no PostgreSQL and none can be had, or the address is not this machine's.
    pub fn start_at(address: IpAddr, password: &str) -> Self {
        let network = Network::open(address, password);
        let started = network.and_then(|network| Self::try_start_with(Some(network)));
        let server = started.unwrap_or_else(|why| panic!("{why}"));
        let sql = format!("alter role {ROLE} password '{password}'");
        let done =
            server.client("psql").args(["-XAtq", "-d", "postgres", "-c", &sql]).output().expect("psql can be run");
        assert!(done.status.success(), "psql: {}", String::from_utf8_lossy(&done.stderr));
        server
    }

    /// The certificate of a server that encrypts.
    pub fn certificate(&self) -> PathBuf {
        self.folder.join(CERTIFICATE)
    }

    /// Another self-signed certificate for the same name, which no server has.
    ///
    /// # Panics
    /// When it can't be made.
    pub fn strange_certificate(&self) -> PathBuf {
        let path = self.folder.join("strange.crt");
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        std::fs::write(&path, made.cert.pem()).expect("a file");
        path
    }

    /// A new, empty database of a server that listens: its URL over the network.
    ///
    /// # Panics
    /// When the server refuses, or does not listen.
    pub fn database_over_network(&self) -> String {
        let url = self.database();
        let name = url.split('?').next().and_then(|url| url.rsplit('/').next()).expect("a name");
        match self.network.as_ref().expect("a server that listens") {
            Network::Encrypted { port } => format!("postgres://{ROLE}@localhost:{port}/{name}"),
            Network::Open { address, port, password } => {
                format!("postgres://{ROLE}:{password}@{address}:{port}/{name}?sslmode=disable")
            }
        }
    }

    fn try_start() -> Result<Self, String> {
        Self::try_start_with(None)
    }

    fn try_start_with(network: Option<Network>) -> Result<Self, String> {
        let mut installation = install::find()?;
        // A socket's path is short, wherever temporary files are.
        let folder = tempfile::Builder::new().prefix("holdfast-pg-").tempdir_in("/tmp").map_err(|e| e.to_string())?;
        let mut supervisor = Command::new("/bin/sh");
        let is_root = folder.path().metadata().is_ok_and(|m| m.uid() == 0);
        if is_root {
            supervisor.uid(NOBODY).gid(NOBODY);
            if !reachable(&installation.programs) {
                installation = linked(&installation, folder.path())?;
            }
            chown(folder.path(), Some(NOBODY), Some(NOBODY)).map_err(|e| e.to_string())?;
        }
        let mut settings: Vec<String> = SETTINGS.iter().map(ToString::to_string).collect();
        if let Some(network) = &network {
            settings.extend(network.settings(folder.path(), is_root)?);
        }
        let (folder, programs) = (folder.keep(), installation.programs);
        let mut child = supervisor
            .args(["-c", SUPERVISOR, "supervisor"])
            .args([&folder, &programs])
            .args(settings.iter().flat_map(|setting| ["-c", setting]))
            .current_dir(&folder)
            // Ctrl-C is for the tests; this one goes after them.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| format!("the supervisor can't be started: {e}"))?;
        let commands = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().ok_or("the supervisor has no output")?);
        let supervisor = Mutex::new(Supervisor { child, commands, answers });
        let server =
            Self { folder, programs, supervisor, databases: AtomicU32::default(), template: OnceLock::new(), network };
        server.command("init")?;
        server.try_start_again()?;
        Ok(server)
    }

    /// A new, empty database: its URL.
    ///
    /// # Panics
    /// When the server refuses.
    pub fn database(&self) -> String {
        self.url_of(&self.create(&[]))
    }

    /// A new database that has the schema and no rows: its URL. The first one is a template of all others.
    ///
    /// # Panics
    /// When the server refuses.
    pub fn database_with_schema(&self) -> String {
        let template = self.template.get_or_init(|| {
            let name = self.create(&[]);
            let url = self.url_of(&name);
            // The caller may be within a runtime of its own. Nothing may be connected to what is copied.
            let made = std::thread::spawn(move || {
                crate::run(async move {
                    let db =
                        store::Db::open(&url, &crate::options(), crate::clock()).await.expect("the schema can be made");
                    db.close().await;
                });
            });
            made.join().expect("the template is made");
            name
        });
        self.url_of(&self.create(&["--template", template]))
    }

    /// Creates a database: its name.
    fn create(&self, options: &[&str]) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let done = self.client("createdb").args(options).arg(&name).output().expect("createdb can be run");
        assert!(done.status.success(), "createdb: {}", String::from_utf8_lossy(&done.stderr));
        name
    }

    fn url_of(&self, database: &str) -> String {
        let port = self.network.as_ref().map_or(String::new(), |network| format!(":{}", network.port()));
        format!("postgres://{ROLE}@localhost{port}/{database}?host={}", self.folder.display())
    }

    pub(crate) fn psql(url: &str, sql: &str) -> String {
        let done = Command::new(Self::shared().programs.join("psql")).args(["-XAt", "-c", sql, url]).output();
        let done = done.expect("psql can be run");
        assert!(done.status.success(), "psql: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).trim_end().to_owned()
    }

    /// Stops it as an operator does: connections are notified and cut.
    pub fn stop(&self) {
        self.command("stop").unwrap_or_else(|why| panic!("{why}"));
    }

    /// Ends it as a crash does; it recovers when it is started again.
    pub fn crash(&self) {
        self.command("crash").unwrap_or_else(|why| panic!("{why}"));
    }

    /// Starts it again after a stop or a crash, and waits until it answers.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start_again(&self) {
        self.try_start_again().unwrap_or_else(|why| panic!("{why}"));
    }

    fn try_start_again(&self) -> Result<(), String> {
        self.command("start")?;
        let begun = Instant::now();
        while !self.client("pg_isready").arg("-q").status().is_ok_and(|status| status.success()) {
            if begun.elapsed() > START_MAX {
                return Err(format!("PostgreSQL does not start:\n{}", self.log()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// The id of the supervisor's process.
    pub fn supervisor_id(&self) -> u32 {
        self.lock().child.id()
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn client(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.arg("-h").arg(&self.folder).args(["-U", ROLE]);
        if let Some(network) = &self.network {
            command.args(["-p", &network.port().to_string()]);
        }
        command
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Supervisor> {
        self.supervisor.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn command(&self, command: &str) -> Result<(), String> {
        let mut supervisor = self.lock();
        let Some(commands) = supervisor.commands.as_mut() else { return Err("the supervisor has ended".into()) };
        let mut answer = String::new();
        writeln!(commands, "{command}")
            .and_then(|()| supervisor.answers.read_line(&mut answer))
            .map_err(|e| format!("the supervisor of PostgreSQL does not answer: {e}"))?;
        let done = answer.trim_end() == command;
        if done { Ok(()) } else { Err(format!("PostgreSQL's supervisor can't {command}:\n{}", self.log())) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut supervisor = self.lock();
        drop(supervisor.commands.take());
        let _ = supervisor.child.wait();
    }
}

/// Makes a certificate and its key in a folder.
fn certify(folder: &Path, is_root: bool) -> Result<(), String> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).map_err(|e| e.to_string())?;
    for (name, text) in [(CERTIFICATE, made.cert.pem()), (PRIVATE_KEY, made.signing_key.serialize_pem())] {
        put(folder, name, &text, is_root)?;
    }
    Ok(())
}

/// Makes a file for a server, which has an unprivileged user where tests run as root.
fn put(folder: &Path, name: &str, text: &str, is_root: bool) -> Result<(), String> {
    let path = folder.join(name);
    std::fs::write(&path, text)
        .and_then(|()| std::fs::set_permissions(&path, Permissions::from_mode(0o600)))
        .and_then(|()| if is_root { chown(&path, Some(NOBODY), Some(NOBODY)) } else { Ok(()) })
        .map_err(|e| format!("{}: {e}", path.display()))
}

/// Whether every user may run the programs of a folder.
fn reachable(folder: &Path) -> bool {
    folder.ancestors().all(|part| part.metadata().is_ok_and(|m| m.permissions().mode() & 0o001 != 0))
}

/// The same installation where the server's user reaches it, gone with the server's folder.
fn linked(installation: &Installation, folder: &Path) -> Result<Installation, String> {
    let copy = folder.join("installation");
    let programs = installation.programs.strip_prefix(&installation.folder).map_err(|e| e.to_string())?;
    link_all(&installation.folder, &copy).map_err(|e| format!("{} can't be copied: {e}", copy.display()))?;
    Ok(Installation { programs: copy.join(programs), folder: copy })
}

/// Folders are the server's own, so that its supervisor can remove them; files are links where that is possible.
fn link_all(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir(to)?;
    chown(to, Some(NOBODY), Some(NOBODY))?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (source, target, kind) = (entry.path(), to.join(entry.file_name()), entry.file_type()?);
        if kind.is_dir() {
            link_all(&source, &target)?;
        } else if kind.is_symlink() {
            symlink(std::fs::read_link(&source)?, &target)?;
        } else if std::fs::hard_link(&source, &target).is_err() {
            std::fs::copy(&source, &target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_can_be_stopped_and_crashed_and_leaves_nothing_behind() {
        let server = Server::start();
        let (folder, supervisor) = (server.folder().to_owned(), server.supervisor_id());
        server.database();
        server.stop();
        server.start_again();
        server.crash();
        server.start_again();
        server.database();
        drop(server);
        assert!(!folder.exists());
        assert!(!Path::new(&format!("/proc/{supervisor}")).exists());
    }
}
