//! Removes secrets, addresses and names of machines from texts that leave the operator's hands.
//!
//! The same value always gets the same name, such as `[host-2]`, so that lines can still be related to each other.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use regex::{Captures, Regex};

/// The shortest text that is removed wherever it occurs. Shorter ones would change half of the text.
const KNOWN_MIN_CHARS: usize = 4;

/// Texts that look like a secret.
static SECRETS: LazyLock<[Regex; 4]> = LazyLock::new(|| {
    [
        r"(?i)\b(bearer|authorization:\s*basic)\s+[A-Za-z0-9._~+/=-]{6,}",
        r"\beyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*",
        r#"(?i)\b([a-z0-9_-]*(?:password|passwd|secret|token|api_?key)[a-z0-9_]*)("?\s*[=:]\s*"?)[^\s",;&{}\[\]]+"#,
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*-----END [A-Z ]*PRIVATE KEY-----",
    ]
    .map(|pattern| Regex::new(pattern).expect("a valid pattern"))
});

static USER_OF_URL: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\b([a-z][a-z0-9+.-]*://)[^\s/@?#]+@").expect("a valid pattern"));
static HOST_OF_URL: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"\b([a-z][a-z0-9+.-]*://)(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)").expect("a valid pattern")
});
static MAIL: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\b[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+\b").expect("a valid pattern"));
static IPV4: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\b(?:\d{1,3}\.){3}\d{1,3}\b").expect("a valid pattern"));
static IPV6: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)\b(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4}\b|\b(?:[0-9a-f]{1,4}:){1,6}(?::[0-9a-f]{1,4}){1,6}\b")
        .expect("a valid pattern")
});

/// Addresses that say nothing about a machine.
const COMMON: [&str; 6] = ["localhost", "127.0.0.1", "0.0.0.0", "[::1]", "[::]", "::1"];

/// Redacts texts, with the same names for the same values in each of them.
#[derive(Debug, Default)]
pub(crate) struct Redaction {
    secrets: BTreeSet<String>,
    hosts: BTreeSet<String>,
    names: BTreeMap<String, String>,
}

impl Redaction {
    /// Removes this secret wherever it occurs.
    pub(crate) fn secret(&mut self, secret: &str) {
        let secret = secret.trim();
        if secret.chars().count() >= KNOWN_MIN_CHARS {
            self.secrets.insert(secret.to_owned());
        }
    }

    /// Removes the hosts of the URLs in a text wherever they occur, also outside of URLs.
    pub(crate) fn hosts_of(&mut self, text: &str) {
        for found in HOST_OF_URL.captures_iter(&USER_OF_URL.replace_all(text, "$1")) {
            let host = found[2].to_owned();
            if !COMMON.contains(&host.as_str()) && host.chars().count() >= KNOWN_MIN_CHARS {
                self.hosts.insert(host);
            }
        }
    }

    /// The text without secrets, addresses and hosts.
    pub(crate) fn apply(&mut self, text: &str) -> String {
        self.hosts_of(text);
        let mut text = text.to_owned();
        // Longer ones first, because one may contain another.
        let mut secrets: Vec<_> = self.secrets.iter().cloned().collect();
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        for secret in secrets {
            text = text.replace(&secret, "[secret]");
        }
        let [bearer, jwt, named, key] = &*SECRETS;
        let text = bearer.replace_all(&text, "$1 [secret]");
        let text = jwt.replace_all(&text, "[secret]");
        let text = key.replace_all(&text, "[secret]");
        let text = named.replace_all(&text, |found: &Captures<'_>| {
            // Names of settings and of files are no secrets; nor are numbers of metrics.
            let value = &found[0][found[1].len() + found[2].len()..];
            let is_plain = found[1].to_ascii_lowercase().ends_with("_file")
                || value.parse::<f64>().is_ok()
                || matches!(value, "null" | "true" | "false" | "none" | "***" | "[secret]");
            if is_plain { found[0].to_owned() } else { format!("{}{}[secret]", &found[1], &found[2]) }
        });
        let text = USER_OF_URL.replace_all(&text, "$1").into_owned();
        let mut text = MAIL.replace_all(&text, |found: &Captures<'_>| self.named("mail", &found[0])).into_owned();
        let mut hosts: Vec<_> = self.hosts.iter().cloned().collect();
        hosts.sort_by_key(|host| std::cmp::Reverse(host.len()));
        for host in hosts {
            if text.contains(&host) {
                let name = self.named("host", &host);
                text = text.replace(&host, &name);
            }
        }
        let text = IPV4.replace_all(&text, |found: &Captures<'_>| self.named("address", &found[0])).into_owned();
        IPV6.replace_all(&text, |found: &Captures<'_>| self.named("address", &found[0])).into_owned()
    }

    fn named(&mut self, kind: &str, value: &str) -> String {
        if COMMON.contains(&value) {
            return value.to_owned();
        }
        let next = self.names.len() + 1;
        self.names.entry(value.to_owned()).or_insert_with(|| format!("[{kind}-{next}]")).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_removed_in_every_form() {
        let mut redaction = Redaction::default();
        redaction.secret("hunter2\n");
        for text in [
            "the password hunter2 is here",
            "Authorization: Bearer abcdef.hunter3",
            "token eyJhbGciOi.eyJzdWIiOiJ4.c2lnbmF0dXJl end",
            "postgres://me:hunter3@db/x",
            "password=hunter3&x=1",
            "{\"client_secret\": \"hunter3\"}",
            "VDK_API_TOKEN=hunter3",
            "-----BEGIN PRIVATE KEY-----\nhunter3\n-----END PRIVATE KEY-----",
        ] {
            let redacted = redaction.apply(text);
            for secret in ["hunter", "abcdef", "eyJ"] {
                assert!(!redacted.contains(secret), "{text} → {redacted}");
            }
        }
        for kept in
            ["database_password_file = /etc/holdfast/password", "holdfast_tokens_issued_total 7", "a token of a team"]
        {
            assert_eq!(redaction.apply(kept), kept);
        }
    }

    #[test]
    fn addresses_and_hosts_keep_one_name_each() {
        let mut redaction = Redaction::default();
        redaction.hosts_of("postgres://me:x@db.example.com:5432/jobs");
        let text = redaction.apply("db.example.com (10.1.2.3) and 10.1.2.4, ann@example.org, http://127.0.0.1:8092/x");
        assert_eq!(text, "[host-2] ([address-3]) and [address-4], [mail-1], http://127.0.0.1:8092/x");
        assert_eq!(
            redaction.apply("again 10.1.2.3, https://db.example.com/y"),
            "again [address-3], https://[host-2]/y"
        );
        assert_eq!(redaction.apply("fe80:1::7 at 12:05:13 in v0.2.1810"), "[address-5] at 12:05:13 in v0.2.1810");
    }
}
