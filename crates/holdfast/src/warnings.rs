//! Warnings about settings that work but are a risk, logged at the start.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use url::Url;

use crate::{
    authentication,
    config::{DatabaseUrl, Loaded, Origin, ProcessEnvironment},
};

/// The values of `sslmode` with which a connection never falls back to plain text.
const ENCRYPTED: [&str; 3] = ["require", "verify-ca", "verify-full"];

/// Warnings about these settings for the operator.
pub(crate) fn warnings(environment: &ProcessEnvironment, loaded: &Loaded) -> Vec<String> {
    let settings = &loaded.settings;
    let mut found = Vec::new();
    if authentication::users_have_all_teams(settings) {
        found.push(
            "every user may read and change the jobs of all teams: neither auth.teams_claim \
                    nor auth.webhook_url is set"
                .into(),
        );
    }
    let database = match &settings.database_url {
        DatabaseUrl::Postgres(url) => Some(url),
        DatabaseUrl::Sqlite => None,
    };
    let ssl_mode = environment.variable("PGSSLMODE").and_then(|mode| mode.to_str());
    let urls = [
        ("index_url", settings.index_url.as_ref().map(|url| url.expose().to_owned()), false),
        ("database_url", database.map(|url| url.expose().to_owned()), true),
        ("database_direct_url", settings.database_direct_url.as_ref().map(|url| url.expose().to_owned()), true),
    ];
    for (key, url, is_database) in urls {
        let Some(url) = url.and_then(|url| Url::parse(&url).ok()) else { continue };
        if url.password().is_some() || url.query_pairs().any(|(name, _)| name.contains("password")) {
            match loaded.origin(key) {
                Some(Origin::Flag(flag)) => found.push(format!(
                    "the password in {flag} is visible in the list of processes of this machine: set {key} in the configuration \
                     file or in its environment variable"
                )),
                Some(Origin::File { path, .. }) => found.extend(open_to_others(key, path)),
                _ => {}
            }
        }
        if is_database && falls_back_to_plain_text(&url, ssl_mode) {
            let host = url.host_str().unwrap_or_default();
            found.push(format!(
                "connections to PostgreSQL at {host} fall back to plain text when the server offers no encryption: add \
                 sslmode=verify-full to {key}"
            ));
        }
    }
    for (key, path) in [
        ("database_password_file", &settings.database_password_file),
        ("auth.webhook_refresh_token_file", &settings.auth_webhook_refresh_token_file),
        ("vdk.options_file", &settings.vdk_options_file),
    ] {
        found.extend(path.as_ref().and_then(|path| open_to_others(key, path)));
    }
    found
}

/// Whether a connection to another machine may be without encryption.
fn falls_back_to_plain_text(url: &Url, default_mode: Option<&str>) -> bool {
    let parameter = |names: &[&str]| {
        let found = url.query_pairs().filter(|(name, _)| names.contains(&&**name)).last();
        found.map(|(_, value)| value.into_owned())
    };
    let host = parameter(&["host", "hostaddr"]).or_else(|| url.host_str().map(ToOwned::to_owned)).unwrap_or_default();
    let is_socket = host.is_empty() || host.starts_with('/') || host.starts_with("%2F") || host.starts_with("%2f");
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let is_loopback =
        bare == "localhost" || bare.parse().is_ok_and(|ip: std::net::IpAddr| ip.to_canonical().is_loopback());
    let mode = parameter(&["sslmode", "ssl-mode"]).or_else(|| default_mode.map(ToOwned::to_owned)).unwrap_or_default();
    !(is_socket || is_loopback || ENCRYPTED.contains(&mode.as_str()))
}

/// The warning about a file with secrets that others can read. The group of a file with another owner, as Kubernetes
/// mounts secrets, does not count as others if the service reads the file through it.
fn open_to_others(key: &str, path: &Path) -> Option<String> {
    let metadata = fs::metadata(path).ok()?;
    let is_own = fs::metadata("/proc/self").is_ok_and(|process| process.uid() == metadata.uid());
    let mode = metadata.mode() & 0o777;
    let who = if mode & 0o004 != 0 {
        "every user of this machine"
    } else if mode & 0o040 != 0 && is_own {
        "its group"
    } else {
        return None;
    };
    Some(format!(
        "{} ({key}) holds secrets, and {who} can read it (mode {mode:o}): make it private with chmod 600",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::{Flags, Raw, SETTINGS, load};

    fn told(variables: &[(&str, &str)], toml: &str, flags: &[(&str, &str)]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("holdfast.toml");
        fs::write(&file, toml).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let environment = ProcessEnvironment {
            variables: variables.iter().map(|(name, value)| (name.into(), value.into())).collect(),
            folder: folder.path().into(),
            home: Some(folder.path().into()),
            cores: 1,
        };
        let values = flags.iter().map(|(key, value)| {
            let setting = SETTINGS.iter().find(|setting| setting.key == *key).unwrap();
            (setting, Raw::Text((*value).into()))
        });
        let values = values.collect();
        warnings(&environment, &load(&environment, &Flags { config: None, values }).unwrap())
    }

    #[test]
    fn users_who_may_change_the_jobs_of_all_teams_are_reported() {
        let auth = "runtime = \"kubernetes\"\n[auth]\nissuers = [\"https://id.example.com\"]\n";
        assert!(told(&[], auth, &[])[0].contains("auth.teams_claim"));
        for limit in ["teams_claim = \"groups\"", "webhook_url = \"https://a.example\""] {
            assert!(told(&[], &format!("{auth}{limit}"), &[]).is_empty(), "{limit}");
        }
        assert!(told(&[], "", &[]).is_empty());
    }

    #[test]
    fn a_password_on_the_command_line_is_reported_and_not_repeated() {
        let index = ("index_url", "https://me:hunter2@index.example/simple");
        let all = told(&[], "", &[index]);
        assert!(all.len() == 1 && all[0].contains("--index-url") && !all[0].contains("hunter2"), "{all:?}");
        assert!(told(&[], &format!("index_url = \"{}\"", index.1), &[]).is_empty());
        assert!(told(&[], "", &[("index_url", "https://index.example/simple")]).is_empty());
        let database = [("database_url", "postgres://me:hunter2@localhost/x")];
        assert!(told(&[], "", &database)[0].contains("--database-url"));
    }

    #[test]
    fn a_connection_to_another_machine_that_may_be_in_plain_text_is_reported() {
        for (url, mode, is_told) in [
            ("postgres://db.example/x", "", true),
            ("postgres://db.example/x?sslmode=prefer", "", true),
            ("postgres://db.example/x?sslmode=disable", "", true),
            ("postgres://10.0.0.7/x", "", true),
            ("postgres://db.example/x?sslmode=require", "", false),
            ("postgres://db.example/x?sslmode=verify-full", "", false),
            ("postgres://db.example/x", "verify-full", false),
            ("postgres://db.example/x?sslmode=prefer", "verify-full", true),
            ("postgres://localhost/x", "", false),
            ("postgres://127.0.0.1:5433/x", "", false),
            ("postgres://[::1]/x", "", false),
            ("postgres://localhost/x?host=/var/run/postgresql", "", false),
        ] {
            let all = told(&[("PGSSLMODE", mode)], &format!("database_url = \"{url}\""), &[]);
            assert_eq!(all.iter().any(|told| told.contains("plain text")), is_told, "{url} {mode}: {all:?}");
        }
    }

    #[test]
    fn files_with_secrets_that_others_can_read_are_reported() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("options.ini");
        fs::write(&file, "[default]\nPASSWORD = hunter2\n").unwrap();
        for (mode, who) in
            [(0o644, Some("every user")), (0o604, Some("every user")), (0o640, Some("its group")), (0o600, None)]
        {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            for key in ["vdk.options_file", "auth.webhook_refresh_token_file", "database_password_file"] {
                let all = told(&[], "", &[(key, file.to_str().unwrap())]);
                assert_eq!(all.len(), usize::from(who.is_some()), "{key} {mode:o}: {all:?}");
                assert!(who.is_none_or(|who| all[0].contains(who) && all[0].contains(key)), "{all:?}");
            }
        }
    }
}
