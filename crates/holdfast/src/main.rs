//! Holdfast: a Control Service for data jobs. This crate is the program: commands, configuration and wiring.

mod authentication;
mod cluster;
mod commands;
mod config;
mod data_folder;
mod database;
mod keys;
mod modes;
mod package_index;
mod serve;
mod telemetry;
mod warnings;
mod watchdog;

use std::{io::Write, process::ExitCode};

use commands::{Hidden, Invocation};

fn main() -> ExitCode {
    // Every local execution waits for its supervisor, so nothing is set up before it.
    match commands::hidden(std::env::args_os()) {
        Some(Hidden::Shim(arguments)) => return runtime::local::shim::main(arguments.into_iter()),
        Some(Hidden::Confined(arguments)) => return sandbox::main(arguments),
        None => {}
    }
    let invocation = commands::parse(std::env::args_os()).unwrap_or_else(|error| error.exit());
    match run(invocation) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A closed standard error can't be reported.
            let _ = writeln!(std::io::stderr(), "{}", commands::describe(&error));
            ExitCode::from(2)
        }
    }
}

fn run(invocation: Invocation) -> anyhow::Result<()> {
    let environment = config::ProcessEnvironment::of_process()?;
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
        Invocation::Serve(flags) => {
            let loaded = config::load(&environment, &flags)?;
            telemetry::init(loaded.settings.log_format, loaded.settings.log.as_str())?;
            tasks()?.block_on(serve::run(environment, loaded))
        }
    }
}

fn tasks() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}
