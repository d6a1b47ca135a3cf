//! User names and passwords from a Docker configuration file (`config.json`, `.dockerconfigjson`).
//!
//! The file is read whenever it is needed, so that a rotated password counts at once. Credential helpers are programs and
//! are not run.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;

/// Keys under which Docker keeps what is for Docker Hub.
const DOCKER_HUB_NAMES: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];
const FILE_MAX_BYTES: u64 = 1024 * 1024;

/// The credentials for a registry.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A user name and a password.
    Password {
        /// The user name.
        user: String,
        /// The password.
        password: String,
    },
    /// A token that is exchanged for others.
    IdentityToken(String),
    /// A token that is shown as it is.
    RegistryToken(String),
}

/// Without anything that is secret.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password { .. } => "Password",
            Self::IdentityToken(_) => "IdentityToken",
            Self::RegistryToken(_) => "RegistryToken",
        })
    }
}

/// A Docker configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialsFile(pub PathBuf);

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default, rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(default, rename = "credsStore")]
    store: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    #[serde(rename = "auth")]
    pair: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

impl CredentialsFile {
    /// The credentials in the file for a repository of a registry.
    ///
    /// # Errors
    /// Why the file can't be used; nothing of its content is in the message.
    pub fn find(&self, host: &str, repository: &str) -> Result<Option<Credentials>, String> {
        let path = self.0.display();
        let size = std::fs::metadata(&self.0).map_err(|error| format!("{path} can't be read: {error}"))?.len();
        if size > FILE_MAX_BYTES {
            return Err(format!("{path} has more than {FILE_MAX_BYTES} bytes"));
        }
        let text = std::fs::read(&self.0).map_err(|error| format!("{path} can't be read: {error}"))?;
        // The parser would show a part of the file.
        let config: Config =
            serde_json::from_slice(&text).map_err(|_| format!("{path} is no Docker configuration file"))?;
        let wanted = format!("{}/{repository}", normal(host));
        let of = |key: &&String| {
            let key = normal(key);
            wanted == key || wanted.starts_with(&format!("{key}/"))
        };
        let best = config.auths.keys().filter(of).max_by_key(|key| normal(key).len());
        let Some(auth) = best.and_then(|key| config.auths.get(key)) else {
            return match config.helpers.keys().find(of) {
                Some(_) => Err(helper(host)),
                None => Ok(None),
            };
        };
        if !auth.registrytoken.is_empty() {
            return Ok(Some(Credentials::RegistryToken(auth.registrytoken.clone())));
        }
        if !auth.identitytoken.is_empty() {
            return Ok(Some(Credentials::IdentityToken(auth.identitytoken.clone())));
        }
        if !auth.pair.is_empty() {
            let decoded = STANDARD.decode(auth.pair.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let pair = decoded.as_deref().and_then(|text| text.trim_end_matches('\0').split_once(':'));
            let (user, password) = pair.ok_or_else(|| format!("{path} has an entry for {host} that can't be read"))?;
            return Ok(Some(Credentials::Password { user: user.into(), password: password.into() }));
        }
        match (auth.username.as_str(), auth.password.as_str()) {
            ("", _) | (_, "") if !config.store.is_empty() => Err(helper(host)),
            ("", _) | (_, "") => Ok(None),
            (user, password) => Ok(Some(Credentials::Password { user: user.into(), password: password.into() })),
        }
    }
}

fn helper(host: &str) -> String {
    format!(
        "the configuration file keeps the credentials of {host} in a credential helper, which is a program and is not run"
    )
}

/// A key without its scheme and without the path of Docker's old API.
fn normal(key: &str) -> String {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let key = key.trim_end_matches('/');
    let key = key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key);
    let (host, path) = key.split_once('/').map_or((key, None), |(host, path)| (host, Some(path)));
    let host = if DOCKER_HUB_NAMES.contains(&host) { "docker.io" } else { host };
    path.map_or_else(|| host.to_owned(), |path| format!("{host}/{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, CredentialsFile) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        (folder, CredentialsFile(path))
    }

    #[test]
    fn the_most_exact_entry_for_a_repository_counts() {
        let (_folder, file) = file(
            r#"{"auths": {
                "https://index.docker.io/v1/": {"auth": "aHViOnNlY3JldA=="},
                "r.example.com:5000": {"username": "u", "password": "p:q"},
                "r.example.com:5000/team": {"identitytoken": "identity"},
                "http://t.example.com": {"registrytoken": "token"},
                "empty.example.com": {}
            }}"#,
        );
        let password =
            |user: &str, password: &str| Credentials::Password { user: user.into(), password: password.into() };
        for (host, repository, expected) in [
            ("registry-1.docker.io", "library/python", Some(password("hub", "secret"))),
            ("r.example.com:5000", "a", Some(password("u", "p:q"))),
            ("r.example.com:5000", "team/a", Some(Credentials::IdentityToken("identity".into()))),
            ("r.example.com:5000", "teams", Some(password("u", "p:q"))),
            ("r.example.com", "a", None),
            ("t.example.com", "a", Some(Credentials::RegistryToken("token".into()))),
            ("empty.example.com", "a", None),
        ] {
            assert_eq!(file.find(host, repository), Ok(expected), "{host}/{repository}");
        }
    }

    #[test]
    fn a_file_that_can_not_be_used_is_named_and_its_content_is_not() {
        let (_folder, broken) = file(r#"{"auths": {"r": {"auth": 17, "password": "secret"}}}"#);
        let why = broken.find("r", "a").unwrap_err();
        assert!(why.contains("config.json is no Docker configuration file") && !why.contains("secret"), "{why}");
        let (_folder, broken) = file(r#"{"auths": {"r": {"auth": "c2VjcmV0"}}}"#);
        assert!(broken.find("r", "a").unwrap_err().ends_with("has an entry for r that can't be read"));
        let (_folder, helper) =
            file(r#"{"auths": {"r": {}}, "credsStore": "desktop", "credHelpers": {"s": "ecr-login"}}"#);
        for host in ["r", "s"] {
            assert!(helper.find(host, "a").unwrap_err().contains("credential helper"), "{host}");
        }
        assert!(CredentialsFile("/none".into()).find("r", "a").is_err());
        assert_eq!(format!("{:?}", Credentials::RegistryToken("secret".into())), "RegistryToken");
    }
}
