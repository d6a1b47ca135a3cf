//! `cargo xtask web`

use anyhow::Result;
use devtools::{progress::say, web};

/// The web page.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Options {}

/// Builds the page into `web/dist`, from where the next compilation embeds it.
pub(crate) fn run(_: Options) -> Result<()> {
    web::build()?;
    say(format_args!("✓ {}: the next `cargo build` embeds it", web::folder().join("dist").display()));
    Ok(())
}
