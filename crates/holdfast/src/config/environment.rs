//! The environment of the process.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    io,
    path::{Path, PathBuf},
};

/// The environment, the folder and the machine that the program was started in: read once, then passed on.
#[derive(Clone)]
pub(crate) struct ProcessEnvironment {
    /// Every variable of the environment.
    pub(crate) variables: BTreeMap<OsString, OsString>,
    /// The folder that the program was started in.
    pub(crate) folder: PathBuf,
    /// The user's home folder.
    pub(crate) home: Option<PathBuf>,
    /// Processor cores that the program may use.
    pub(crate) cores: usize,
}

impl ProcessEnvironment {
    /// The environment of this process.
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub(crate) fn of_process() -> io::Result<Self> {
        Ok(Self {
            variables: std::env::vars_os().collect(),
            folder: std::env::current_dir()?,
            home: std::env::home_dir().filter(|home| home.is_absolute()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
        })
    }

    /// A variable that is set and not empty.
    pub(crate) fn variable(&self, name: &str) -> Option<&OsStr> {
        self.variables.get(OsStr::new(name)).map(OsString::as_os_str).filter(|value| !value.is_empty())
    }

    /// The folders of `PATH`.
    pub(crate) fn search_path(&self) -> Vec<PathBuf> {
        self.variable("PATH").map(|path| std::env::split_paths(path).collect()).unwrap_or_default()
    }

    /// The variables that an installer may see.
    pub(crate) fn for_tools(&self) -> BTreeMap<String, String> {
        python::ENVIRONMENT
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), self.variable(name)?.to_str()?.to_owned())))
            .collect()
    }

    /// The folder for persistent data.
    pub(crate) fn data_folder(&self) -> Option<String> {
        self.of_user("XDG_DATA_HOME", ".local/share")
    }

    /// The folder for configuration.
    pub(crate) fn config_folder(&self) -> Option<PathBuf> {
        self.of_user("XDG_CONFIG_HOME", ".config").map(PathBuf::from)
    }

    /// The folder for files that can be made again.
    pub(crate) fn cache_folder(&self) -> Option<PathBuf> {
        self.of_user("XDG_CACHE_HOME", ".cache").map(PathBuf::from)
    }

    /// By the XDG Base Directory Specification, which says to ignore a path that is not absolute.
    fn of_user(&self, variable: &str, below_home: &str) -> Option<String> {
        let named = self.variable(variable).map(Path::new).filter(|path| path.is_absolute()).map(Path::to_owned);
        let folder = named.or_else(|| Some(self.home.as_ref()?.join(below_home)))?;
        folder.join("holdfast").to_str().map(str::to_owned)
    }
}

// The environment holds secrets of others.
impl std::fmt::Debug for ProcessEnvironment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProcessEnvironment")
            .field("folder", &self.folder)
            .field("home", &self.home)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> ProcessEnvironment {
        ProcessEnvironment {
            variables: variables.iter().map(|(k, v)| (k.into(), v.into())).collect(),
            folder: "/work".into(),
            home: Some("/home/me".into()),
            cores: 8,
        }
    }

    #[test]
    fn folders_of_the_user_follow_the_xdg_specification() {
        assert_eq!(with(&[]).data_folder().unwrap(), "/home/me/.local/share/holdfast");
        assert_eq!(with(&[("XDG_DATA_HOME", "/d")]).data_folder().unwrap(), "/d/holdfast");
        for ignored in ["", "relative/path"] {
            assert_eq!(with(&[("XDG_DATA_HOME", ignored)]).data_folder().unwrap(), "/home/me/.local/share/holdfast");
        }
        assert_eq!(ProcessEnvironment { home: None, ..with(&[]) }.data_folder(), None);
    }

    #[test]
    fn tools_see_the_network_and_no_secret() {
        let tools = with(&[
            ("PATH", "/bin"),
            ("https_proxy", "http://p"),
            ("CURL_CA_BUNDLE", "/c"),
            ("AWS_SECRET_ACCESS_KEY", "s"),
            ("LANG", ""),
        ]);
        let names: Vec<_> = tools.for_tools().into_keys().collect();
        assert_eq!(names, ["CURL_CA_BUNDLE", "PATH", "https_proxy"]);
        assert!(!format!("{tools:?}").contains("AWS"));
    }
}
