//! Loads [`Settings`] from all sources.

use std::path::PathBuf;

use super::{
    environment::ProcessEnvironment,
    error::{ConfigError, Origin},
    file,
    read::Reader,
    setting::Setting,
    table::{SETTINGS, Settings},
    value::Raw,
};

/// The settings on the command line.
#[derive(Debug, Default)]
pub(crate) struct Flags {
    /// The configuration file that it names.
    pub(crate) config: Option<PathBuf>,
    /// The settings that it sets.
    pub(crate) values: Vec<(&'static Setting, Raw)>,
}

/// A configuration that is valid.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// The value of every setting.
    pub(crate) settings: Settings,
    /// Where each value came from, in the order of [`SETTINGS`].
    pub(crate) origins: Vec<Origin>,
    /// The configuration file that was read.
    pub(crate) file: Option<PathBuf>,
}

impl Loaded {
    /// Where the value of a setting came from.
    pub(crate) fn origin(&self, key: &str) -> Option<&Origin> {
        self.origins.get(SETTINGS.iter().position(|setting| setting.key == key)?)
    }

    /// Checks that the files that settings name can be read, too.
    pub(crate) fn checked(self) -> Result<Self, ConfigError> {
        let issues = [
            self.settings.database_password().err(),
            self.settings.webhook_refresh_token().err(),
            self.settings.vdk_constraints().err(),
            self.settings.vdk_options().err(),
        ];
        let issues: Vec<_> = issues.into_iter().flatten().flat_map(|ConfigError(issues)| issues).collect();
        if issues.is_empty() { Ok(self) } else { Err(ConfigError(issues)) }
    }
}

/// Reads defaults, the file, the environment and flags; later sources override earlier ones. All errors are reported at once.
pub(crate) fn load(environment: &ProcessEnvironment, flags: &Flags) -> Result<Loaded, ConfigError> {
    let mut reader = Reader::new(SETTINGS, environment);
    let file = file::find(environment, flags.config.as_deref());
    if let Some(path) = &file {
        reader.file(path);
    }
    reader.environment();
    for (setting, raw) in &flags.values {
        reader.put(setting, raw.clone(), Origin::Flag(format!("--{}", setting.flag)));
    }
    let settings = Settings::read(&mut reader);
    let (origins, issues) = reader.finish();
    match settings {
        Some(settings) if issues.is_empty() => Ok(Loaded { settings, origins, file }),
        _ => Err(ConfigError(issues)),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn environment(folder: &Path, variables: &[(&str, &str)]) -> ProcessEnvironment {
        ProcessEnvironment {
            variables: variables.iter().map(|(k, v)| (k.into(), v.into())).collect(),
            folder: folder.into(),
            home: Some("/home/me".into()),
            cores: 4,
        }
    }

    fn setting(key: &str) -> &'static Setting {
        SETTINGS.iter().find(|s| s.key == key).unwrap()
    }

    fn flags(values: &[(&str, &str)]) -> Flags {
        let values = values.iter().map(|(key, value)| (setting(key), Raw::Text((*value).into()))).collect();
        Flags { config: None, values }
    }

    fn origin(loaded: &Loaded, key: &str) -> String {
        loaded.origins[SETTINGS.iter().position(|s| s.key == key).unwrap()].to_string()
    }

    /// The result of loading this file.
    fn refused(toml: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(file::NAME), toml).unwrap();
        let error = load(&environment(folder.path(), &[]), &Flags::default()).unwrap_err();
        error.to_string().replace(&format!("{}/", folder.path().display()), "")
    }

    #[test]
    fn without_any_source_every_setting_has_its_default() {
        let empty = tempfile::tempdir().unwrap();
        let loaded = load(&environment(empty.path(), &[]), &Flags::default()).unwrap();
        assert!(loaded.origins.iter().all(|o| *o == Origin::Default));
        assert_eq!(loaded.origins.len(), SETTINGS.len());
        assert_eq!(loaded.file, None);
        let settings = loaded.settings;
        assert_eq!(settings.listen.0.to_string(), "127.0.0.1:8092");
        assert_eq!(settings.data_dir, Path::new("/home/me/.local/share/holdfast"));
        assert_eq!(settings.cache_folder(), settings.data_dir.join("cache"));
        assert_eq!(settings.parallel_runs.get(), 4);
        assert_eq!(settings.sync_sweep_interval_seconds.get(), 300);
        assert_eq!(settings.sync_parallelism.get(), 32);
        assert_eq!(settings.lease_seconds.get(), 15);
        assert_eq!(settings.vdk_distribution.as_str(), "quickstart-vdk");
    }

    #[test]
    fn a_flag_wins_over_the_environment_over_the_file_over_the_default() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(file::NAME);
        let env = [("HOLDFAST_SYNC_PARALLELISM", "3")];
        let flag = [("sync.parallelism", "4")];
        for (toml, env, flag, value, from) in [
            ("", &[][..], &[][..], 32, "default".to_owned()),
            ("\n[sync]\nparallelism = 2\n", &[], &[], 2, format!("{}:3", file.display())),
            ("sync.parallelism = 2", &[], &[], 2, format!("{}:1", file.display())),
            ("sync.parallelism = 2", &env, &[], 3, "HOLDFAST_SYNC_PARALLELISM".into()),
            ("sync.parallelism = 2", &env, &flag, 4, "--sync-parallelism".into()),
            ("", &[], &flag, 4, "--sync-parallelism".into()),
            ("", &[("HOLDFAST_SYNC_PARALLELISM", "")], &[], 32, "default".into()),
        ] {
            std::fs::write(&file, toml).unwrap();
            let loaded = load(&environment(folder.path(), env), &flags(flag)).unwrap();
            assert_eq!(loaded.settings.sync_parallelism.get(), value, "{toml}");
            assert_eq!(origin(&loaded, "sync.parallelism"), from);
        }
    }

    #[test]
    fn the_file_is_the_one_named_by_flag_then_by_variable_then_here_then_of_the_user() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, port: u16| {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, format!("listen = \"127.0.0.1:{port}\"")).unwrap();
            path
        };
        let here = root.path().join("here");
        std::fs::create_dir(&here).unwrap();
        let config_home = root.path().join("config");
        let xdg = ("XDG_CONFIG_HOME", config_home.to_str().unwrap());
        let port = |variables: &[(&str, &str)], config: Option<&str>| {
            let flags = Flags { config: config.map(PathBuf::from), values: vec![] };
            load(&environment(&here, variables), &flags).unwrap().settings.listen.0.port()
        };
        assert_eq!(port(&[xdg], None), 8092);
        write("config/holdfast/holdfast.toml", 1);
        assert_eq!(port(&[xdg], None), 1);
        write("here/holdfast.toml", 2);
        assert_eq!(port(&[xdg], None), 2);
        let by_variable = write("by-variable.toml", 3);
        let variable = ("HOLDFAST_CONFIG", by_variable.to_str().unwrap());
        assert_eq!(port(&[xdg, variable], None), 3);
        write("here/by-flag.toml", 4);
        assert_eq!(port(&[xdg, variable], Some("by-flag.toml")), 4);
    }

    #[test]
    fn a_named_file_that_is_not_there_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let flags = Flags { config: Some("none.toml".into()), values: vec![] };
        let error = load(&environment(folder.path(), &[]), &flags).unwrap_err().to_string();
        assert!(error.contains("none.toml\n    The file can't be read: No such file"), "{error}");
    }

    #[test]
    fn a_path_in_the_file_is_relative_to_the_file() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("etc")).unwrap();
        std::fs::write(root.path().join("etc/h.toml"), "data_dir = \"data\"").unwrap();
        let flags = Flags { config: Some("etc/h.toml".into()), values: flags(&[("cache_dir", "cache")]).values };
        let settings = load(&environment(root.path(), &[]), &flags).unwrap().settings;
        assert_eq!(settings.data_dir, root.path().join("etc/data"));
        assert_eq!(settings.cache_dir, Some(root.path().join("cache")));
    }

    #[test]
    fn an_unknown_key_names_file_and_line_and_the_key_that_was_meant() {
        for (toml, place, wrong, hint) in [
            ("listn = \"x\"", "holdfast.toml:1", "There is no setting \"listn\".", "Did you mean listen?"),
            (
                "# a\n\n[sync]\nparalelism = 3",
                "holdfast.toml:4",
                "There is no setting \"sync.paralelism\".",
                "Did you mean parallelism under [sync]?",
            ),
            (
                "sync_parallelism = 3",
                "holdfast.toml:1",
                "There is no setting \"sync_parallelism\".",
                "Did you mean parallelism under [sync]?",
            ),
            (
                "[synk]\nparallelism = 3",
                "holdfast.toml:2",
                "There is no setting \"synk.parallelism\".",
                "Did you mean parallelism under [sync]?",
            ),
            (
                "colour = 1",
                "holdfast.toml:1",
                "There is no setting \"colour\".",
                "`holdfast config` lists the settings.",
            ),
        ] {
            assert_eq!(refused(toml), format!("The configuration is not valid.\n\n  {place}\n    {wrong}\n    {hint}"));
        }
    }

    #[test]
    fn a_wrong_value_in_the_file_says_where_why_and_how() {
        for (toml, place, why) in [
            ("listen = 8092", "listen (holdfast.toml:1)", "it must be text in quotes."),
            ("[python]\nversion = 3.11", "python.version (holdfast.toml:2)", "it must be text in quotes."),
            ("[sync]\nparallelism = \"3\"", "sync.parallelism (holdfast.toml:2)", "without quotes."),
            ("[sync]\nparallelism = 0", "sync.parallelism (holdfast.toml:2)", "\"0\" is not accepted"),
            ("lease_seconds = 1.5", "lease_seconds (holdfast.toml:1)", "it must be a whole number"),
            ("insecure = \"yes\"", "insecure (holdfast.toml:1)", "it must be true or false"),
            ("allowed_hosts = \"a\"", "allowed_hosts (holdfast.toml:1)", "it must be a list"),
            ("allowed_hosts = [1]", "allowed_hosts (holdfast.toml:1)", "a list of texts"),
            ("sync = 3", "holdfast.toml:1", "There is no setting \"sync\""),
            ("listen = ", "holdfast.toml:1", "not valid TOML"),
            ("uv = \"a\"\nuv = \"b\"", "holdfast.toml:2", "not valid TOML"),
        ] {
            let error = refused(toml);
            assert!(error.contains(&format!("\n  {place}\n")) && error.contains(why), "{toml}\n{error}");
        }
        assert!(refused("[sync]\nparallelism = 0").ends_with("For example: parallelism = 32 (under [sync])"));
    }

    #[test]
    fn numbers_may_be_written_as_toml_writes_them() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(file::NAME), "max_upload_bytes = 1_048_576\nlog_max_bytes = 0x10_0000")
            .unwrap();
        let settings = load(&environment(folder.path(), &[]), &Flags::default()).unwrap().settings;
        assert_eq!((settings.max_upload_bytes.get(), settings.log_max_bytes.get()), (1_048_576, 1_048_576));
    }

    #[test]
    fn a_wrong_value_names_its_variable_or_its_flag_and_all_are_reported_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let variables = [("HOLDFAST_LEASE_SECONDS", "soon"), ("HOLDFAST_LISTN", "x")];
        let error = load(&environment(folder.path(), &variables), &flags(&[("runtime", "docker")])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "The configuration is not valid in 3 places.\n\n  \
             HOLDFAST_LISTN\n    There is no setting with the variable \"HOLDFAST_LISTN\".\n    \
             Did you mean HOLDFAST_LISTEN?\n\n  \
             runtime (--runtime)\n    \"docker\" is not accepted: it must be local or kubernetes.\n    For example: --runtime=local\n\n  \
             lease_seconds (HOLDFAST_LEASE_SECONDS)\n    \"soon\" is not accepted: it must be a whole number from 3 to \
             300.\n    For example: HOLDFAST_LEASE_SECONDS=15"
        );
    }

    #[test]
    fn an_error_does_not_repeat_a_secret() {
        let folder = tempfile::tempdir().unwrap();
        for (name, value) in
            [("HOLDFAST_DATABASE_URL", "mysql://me:hunter2@db/x"), ("HOLDFAST_INDEX_URL", "ftp://hunter2@host")]
        {
            let error = load(&environment(folder.path(), &[(name, value)]), &Flags::default()).unwrap_err();
            assert!(!error.to_string().contains("hunter2"), "{error}");
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn without_a_home_folder_the_data_folder_has_to_be_set() {
        let folder = tempfile::tempdir().unwrap();
        let homeless = ProcessEnvironment { home: None, ..environment(folder.path(), &[]) };
        let error = load(&homeless, &Flags::default()).unwrap_err().to_string();
        assert!(error.contains("data_dir\n    It has to be set"), "{error}");
        assert!(error.contains("HOLDFAST_DATA_DIR=/var/lib/holdfast"), "{error}");
        let set = flags(&[("data_dir", "/d"), ("cache_dir", "/c")]);
        assert!(load(&homeless, &set).is_ok());
    }

    #[test]
    fn every_default_and_every_example_is_valid() {
        let folder = tempfile::tempdir().unwrap();
        for setting in SETTINGS {
            let loaded = load(&environment(folder.path(), &[(setting.env, setting.example)]), &Flags::default());
            assert!(loaded.is_ok(), "{}: {}", setting.key, loaded.unwrap_err());
        }
    }

    #[test]
    fn packages_are_built_by_default_only_while_authentication_is_off() {
        let folder = tempfile::tempdir().unwrap();
        let allowed = |values: &[(&str, &str)]| {
            load(&environment(folder.path(), &[]), &flags(values)).unwrap().settings.allow_builds()
        };
        let issuer = ("auth.issuers", "https://id.example.com");
        assert_eq!(
            [
                allowed(&[]),
                allowed(&[issuer]),
                allowed(&[("python.allow_builds", "false")]),
                allowed(&[issuer, ("python.allow_builds", "true")]),
            ],
            [true, false, false, true]
        );
    }

    #[test]
    fn jobs_reach_the_service_where_it_listens_unless_configured_otherwise() {
        let folder = tempfile::tempdir().unwrap();
        let url = |values: &[(&str, &str)], bound: &str| {
            let settings = load(&environment(folder.path(), &[]), &flags(values)).unwrap().settings;
            settings.rest_api_url(bound.parse().unwrap())
        };
        assert_eq!(url(&[], "127.0.0.1:41234"), "http://127.0.0.1:41234");
        assert_eq!(url(&[], "0.0.0.0:8092"), "http://127.0.0.1:8092");
        assert_eq!(url(&[], "[::]:8092"), "http://[::1]:8092");
        assert_eq!(url(&[("rest_api_url", "https://a.b")], "127.0.0.1:1"), "https://a.b");
    }
}
