//! The installer.

use std::{collections::BTreeMap, path::PathBuf};

use crate::Interpreter;

/// The VDK distribution that a deployment gets when nothing else is set.
pub const DEFAULT_VDK_REQUIREMENT: &str = "quickstart-vdk==0.2.1810444937";

/// The constraints with which [`DEFAULT_VDK_REQUIREMENT`] installs and works.
pub const DEFAULT_CONSTRAINTS: &str = "";

/// What the tools need to know.
#[derive(Debug, Clone)]
pub struct ToolsOptions {
    /// Where tools, wheels and packages are kept. All of it can be deleted at any time.
    pub cache_dir: PathBuf,
    /// The `uv` to use; without it one is looked for in `PATH`, and installed when there is none.
    pub uv: Option<PathBuf>,
    /// The package index; without it the tool's own default.
    pub index_url: Option<String>,
    /// Variables that the tool may see: its search path, proxies, certificates. Others are dropped.
    pub environment: BTreeMap<String, String>,
    /// The interpreters of this machine.
    pub interpreters: Vec<Interpreter>,
    /// Constraints for VDK's packages and their dependencies, one a line.
    pub vdk_constraints: String,
}

/// The installer and its caches.
#[derive(Debug)]
pub struct Tools {
    pub(crate) options: ToolsOptions,
}

impl Tools {
    /// Tools that look for nothing and install nothing until they are used.
    pub fn new(options: ToolsOptions) -> Self {
        Self { options }
    }

    /// The interpreters that environments can be made of.
    pub fn interpreters(&self) -> &[Interpreter] {
        &self.options.interpreters
    }
}
