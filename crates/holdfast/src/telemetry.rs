//! Log lines: for people by default, JSON for machines.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::LogFormat;

/// Sends log lines to standard error.
///
/// # Errors
/// If the filter is not valid.
pub(crate) fn init(format: LogFormat, filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        anyhow::anyhow!("The log filter {filter:?} is not valid ({error}). Write it like \"info,sync=debug\".")
    })?;
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Text => {
            registry.with(fmt::layer().with_writer(stderr).with_ansi(stderr().is_terminal()).with_target(false)).init();
        }
        // The request, deployment or execution of a line is in its `span`. Only statements of the database, at the level
        // debug, are in a nested span.
        LogFormat::Json => {
            registry.with(fmt::layer().json().with_writer(stderr).flatten_event(true).with_span_list(false)).init();
        }
    }
    Ok(())
}
