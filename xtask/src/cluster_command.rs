//! `cargo xtask cluster`

use std::{io::Write as _, path::PathBuf};

use anyhow::Result;
use devtools::{cluster, progress::say};

/// The action on a cluster.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Build its products, without starting it.
    Build,
    /// Start it, or its missing parts, and print the path of its KUBECONFIG.
    Up {
        /// Its folder [default: this checkout's, in the cache].
        #[arg(long)]
        state: Option<PathBuf>,
        /// The first of its ten ports [default: free ones].
        #[arg(long)]
        port_base: Option<u16>,
        /// Leave out the real node: pods run in name only, and root is not needed.
        #[arg(long)]
        no_node: bool,
    },
    /// Take it down: nothing of it is left.
    Down {
        /// Its folder [default: this checkout's, in the cache].
        #[arg(long)]
        state: Option<PathBuf>,
    },
    /// Break it; `up` restarts the killed processes.
    Fault {
        /// Its folder [default: this checkout's, in the cache].
        #[arg(long)]
        state: Option<PathBuf>,
        /// One of those that testcluster/fault.sh lists, such as api-kill.
        fault: String,
    },
}

pub(crate) fn run(options: Options) -> Result<()> {
    let folder = |state: Option<PathBuf>| match state {
        Some(state) => Ok(std::path::absolute(state)?),
        None => cluster::default_state(),
    };
    match options.what {
        What::Build => cluster::build(),
        What::Up { state, port_base, no_node } => {
            let cluster = cluster::up(&cluster::Options { state, port_base, no_node })?;
            writeln!(std::io::stdout(), "{}", cluster.kubeconfig.display())?;
            Ok(())
        }
        What::Down { state } => {
            cluster::down(&folder(state)?)?;
            say("✓ the test cluster is gone");
            Ok(())
        }
        What::Fault { state, fault } => cluster::fault(&folder(state)?, &fault),
    }
}
