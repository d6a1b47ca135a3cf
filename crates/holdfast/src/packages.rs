//! The installer of packages and the interpreters of this machine, as the settings describe them.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, anyhow};
use image::LockResolver;
use model::{clock::SharedClock, lock::ResolutionInputs};
use python::{BuildSandboxPolicy, Discovery, Interpreter, Tools, ToolsOptions};

use crate::{
    config::{Loaded, ProcessEnvironment, Settings},
    package_index,
};

/// Time limit for an interpreter to report its version.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// The search for interpreters.
pub(crate) fn discovery(environment: &ProcessEnvironment, settings: &Settings, clock: SharedClock) -> Discovery {
    let mut search_path = settings.python_search_path.0.clone();
    search_path.extend(environment.search_path());
    search_path.extend(python::usual_folders(environment.home.as_deref()));
    Discovery {
        search_path,
        home: environment.home.clone(),
        probe_timeout: PROBE_TIMEOUT,
        memory: Some(settings.cache_folder().join("interpreters.json")),
        clock,
    }
}

/// The installer. `data_dir` is hidden from builds of packages.
pub(crate) fn tools(
    environment: &ProcessEnvironment,
    loaded: &Loaded,
    data_dir: &Path,
    interpreters: Vec<Interpreter>,
    vdk_constraints: &str,
    clock: &SharedClock,
) -> anyhow::Result<Tools> {
    let settings = &loaded.settings;
    let program = std::env::current_exe().context("The program's own file can't be found.")?;
    Ok(Tools::new(ToolsOptions {
        cache_dir: settings.cache_folder(),
        uv: settings.uv.clone(),
        index_url: settings.index_url.as_ref().map(|url| url.expose().to_owned()),
        environment: environment.for_tools(),
        interpreters,
        vdk_constraints: vdk_constraints.to_owned(),
        allow_builds: settings.allow_builds(),
        build_disk_max_mib: settings.python_build_disk_max_mib.get(),
        sandbox_policy: Some(BuildSandboxPolicy {
            launcher: sandbox::Launcher::new(program, ["confined"]),
            sandbox_policy: runtime::local::common_policy(
                data_dir,
                &[settings.cache_folder()],
                &covered_files(loaded),
                python::open_files_of_children(),
            ),
        }),
        index_access: package_index::access(settings, environment, clock)?,
        clock: clock.clone(),
    }))
}

/// Files of the service that may hold passwords, outside of its folders.
pub(crate) fn covered_files(loaded: &Loaded) -> Vec<PathBuf> {
    let settings = &loaded.settings;
    let files = [
        settings.database_password_file.clone(),
        settings.auth_webhook_refresh_token_file.clone(),
        settings.vdk_options_file.clone(),
        settings.image_registry_credentials_file.clone(),
        settings.image_pull_credentials_file.clone(),
        loaded.file.clone(),
    ];
    files.into_iter().flatten().collect()
}

/// Installs the `vdk` client into a virtual environment at `at`, with the packages that executions have.
///
/// # Errors
/// If there is no Python for it, or the packages can't be installed.
pub(crate) async fn install_client(
    environment: &ProcessEnvironment,
    loaded: &Loaded,
    at: &Path,
    clock: &SharedClock,
) -> anyhow::Result<()> {
    let settings = &loaded.settings;
    let (cache, parent) = (settings.cache_folder(), at.parent().unwrap_or(at));
    for folder in [&cache, parent] {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("The folder {} can't be created.", folder.display()))?;
    }
    let interpreters = python::discover(&discovery(environment, settings, clock.clone())).await;
    let offered: Vec<_> = interpreters.iter().map(|interpreter| interpreter.version).collect();
    let version = model::python::default_python(&offered, settings.python_version).with_context(|| {
        let (oldest, newest) = python::SUPPORTED;
        format!(
            "No Python was found that can run VDK. Install one from {oldest} to {newest} with its venv and ssl modules (Debian: \
             apt install python3-venv), or add its folder to python.search_path."
        )
    })?;
    let interpreter = interpreters
        .iter()
        .find(|interpreter| interpreter.version == version)
        .with_context(|| format!("Python {version} (setting python.version) was not found."))?
        .clone();
    let vdk_constraints = settings.vdk_constraints()?.unwrap_or_else(|| vdk::CONSTRAINTS.to_owned());
    let vdk_requirement = format!("{}=={}", settings.vdk_distribution.as_str(), settings.vdk_version.as_str());
    let tools = tools(environment, loaded, parent, interpreters, &vdk_constraints, clock)?;
    let tools = Arc::new(tools);
    let inputs = ResolutionInputs {
        python_version: version,
        vdk_requirement: vdk_requirement.clone(),
        constraints: vdk_constraints.clone(),
        requirements: String::new(),
        platform: None,
    };
    let failed = |problem: model::Problem| anyhow!(problem.sentences().join("\n  "));
    let lock = LockResolver::new(Arc::clone(&tools)).lock(&inputs).await.map_err(failed)?;
    tools.create_environment(&interpreter, &lock, &vdk_requirement, at).await.map_err(failed)
}
