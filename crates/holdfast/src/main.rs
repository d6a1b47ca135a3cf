//! Holdfast: a Control Service for data jobs. This crate is the program: commands, configuration and wiring.

mod authentication;
mod cluster;
mod commands;
mod config;
mod data_folder;
mod database;
mod doctor;
mod keys;
mod modes;
mod package_index;
mod packages;
mod progress;
mod redaction;
mod serve;
mod telemetry;
mod warnings;
mod watchdog;

use std::{io::Write, process::ExitCode, sync::Arc};

use clock::SystemClock;
use commands::{Hidden, Invocation};
use model::clock::SharedClock;

fn main() -> ExitCode {
    // Every local execution waits for its supervisor, so nothing is set up before it.
    match commands::hidden(std::env::args_os()) {
        Some(Hidden::Shim(arguments)) => return runtime::local::shim::main(arguments.into_iter()),
        Some(Hidden::Confined(arguments)) => return sandbox::main(arguments),
        None => {}
    }
    let invocation = commands::parse(std::env::args_os()).unwrap_or_else(|error| error.exit());
    match run(invocation) {
        Ok(code) => code,
        Err(error) => {
            // A closed standard error can't be reported.
            let _ = writeln!(std::io::stderr(), "{}", commands::describe(&error));
            ExitCode::from(2)
        }
    }
}

fn run(invocation: Invocation) -> anyhow::Result<ExitCode> {
    let environment = config::ProcessEnvironment::of_process()?;
    let clock: SharedClock = Arc::new(SystemClock);
    match invocation {
        Invocation::Errors { code } => commands::errors::run(code.as_deref(), &mut std::io::stdout().lock()),
        Invocation::Openapi => {
            // A reader such as `head` may close the pipe early.
            let _ = writeln!(std::io::stdout(), "{}", api::openapi_document());
            Ok(())
        }
        Invocation::Config { flags, format } => {
            commands::config::run(&environment, &flags, format, &mut std::io::stdout().lock())
        }
        Invocation::FromUpstream(asked) => commands::config::from_upstream::run(
            &asked,
            &mut std::io::stdin().lock(),
            &mut std::io::stdout().lock(),
            &mut std::io::stderr().lock(),
        ),
        Invocation::Completions(shell) => commands::completions::run(shell, &mut std::io::stdout().lock()),
        Invocation::Keys { flags, task } => {
            let loaded = config::load(&environment, &flags)?;
            let mut out = std::io::stdout();
            let work = commands::keys::run(&loaded.settings, &task, &mut out);
            tasks()?.block_on(work)
        }
        Invocation::Orphans { flags, task } => {
            let loaded = config::load(&environment, &flags)?;
            telemetry::init(loaded.settings.log_format, loaded.settings.log.as_str())?;
            let mut out = std::io::stdout();
            let work = commands::orphans::run(&loaded.settings, &task, &mut out);
            tasks()?.block_on(work)
        }
        Invocation::TakeOver(flags) => {
            let loaded = config::load(&environment, &flags)?;
            telemetry::init(loaded.settings.log_format, loaded.settings.log.as_str())?;
            let mut out = std::io::stdout().lock();
            tasks()?.block_on(commands::take_over::run(&loaded.settings, &mut out))
        }
        Invocation::Doctor { flags, json } => {
            let findings = match config::load(&environment, &flags) {
                Ok(loaded) => tasks()?.block_on(doctor::examine(&environment, &loaded, &clock)),
                Err(error) => doctor::unreadable_configuration(&error),
            };
            let mut out = std::io::stdout().lock();
            if json {
                writeln!(out, "{}", serde_json::to_string_pretty(&findings)?)?;
            } else {
                doctor::print(&findings, &mut out)?;
            }
            return Ok(if doctor::is_well(&findings) { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Invocation::SupportBundle { flags, bundle } => {
            let loaded = config::load(&environment, &flags)?;
            let mut out = std::io::stdout();
            tasks()?.block_on(commands::support_bundle::run(&environment, &loaded, &bundle, &clock, &mut out))
        }
        Invocation::Demo(demo) => tasks()?.block_on(commands::demo::run(&environment, &demo, &clock)),
        Invocation::ClientInstall { flags, install } => {
            let loaded = config::load(&environment, &flags)?;
            let mut out = std::io::stdout();
            tasks()?.block_on(commands::client::run(&environment, &loaded, &install, &clock, &mut out))
        }
        Invocation::RolloutWait(wait) => {
            return Ok(tasks()?.block_on(commands::rollout::run(&environment, &wait, &clock))?.into());
        }
        Invocation::Explain(explain) => {
            let mut out = std::io::stdout();
            tasks()?.block_on(commands::explain::run(&environment, &explain, &clock, &mut out))
        }
        Invocation::Dev(dev) => {
            let mut out = std::io::stdout();
            return Ok(tasks()?.block_on(commands::dev::run(&environment, &dev, &clock, &mut out))?.into());
        }
        Invocation::Serve(flags) => {
            let loaded = config::load(&environment, &flags)?;
            telemetry::init(loaded.settings.log_format, loaded.settings.log.as_str())?;
            tasks()?.block_on(serve::run(environment, loaded))
        }
    }
    .map(|()| ExitCode::SUCCESS)
}

fn tasks() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}
