//! The text of a lock: packages, their versions and hashes, and nothing else.

use std::{collections::BTreeMap, fmt::Write};

/// A package of a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pin<'a> {
    pub(crate) name: &'a str,
    pub(crate) version: &'a str,
    /// SHA-256 of the files that may be installed.
    pub(crate) hashes: Vec<&'a str>,
}

const HASH: &str = "--hash=sha256:";
const PACKAGES_MAX: usize = 5_000;

/// The packages of a lock, which has at least one: VDK. A line that is neither a package nor a hash is refused, for the
/// installer would obey it.
pub(crate) fn pins(lock: &str) -> Result<Vec<Pin<'_>>, String> {
    let mut all: Vec<Pin<'_>> = Vec::new();
    for line in lock.lines().filter(|line| !line.trim().is_empty()) {
        let refused =
            || format!("the line {:?} is not a package or a hash", line.chars().take(100).collect::<String>());
        let text = line.trim().trim_end_matches('\\').trim_end();
        if let Some(hash) = text.strip_prefix(HASH) {
            let pin = all.last_mut().ok_or_else(refused)?;
            if !is_sha256(hash) || !line.starts_with(' ') {
                return Err(refused());
            }
            pin.hashes.push(hash);
        } else {
            let (name, version) = text.split_once("==").ok_or_else(refused)?;
            let fine = |text: &str, more: &str| {
                text.starts_with(|c: char| c.is_ascii_alphanumeric())
                    && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
            };
            if !fine(name, "-_.") || !fine(version, ".!+-_") || all.len() >= PACKAGES_MAX {
                return Err(refused());
            }
            all.push(Pin { name, version, hashes: Vec::new() });
        }
    }
    if all.is_empty() {
        return Err("it has no package".into());
    }
    match all.iter().find(|pin| pin.hashes.is_empty()) {
        Some(pin) => Err(format!("{} has no hash", pin.name)),
        None => Ok(all),
    }
}

/// A lock that foreign code may have written, in the one form that the installer obeys in nothing but packages.
///
/// # Errors
/// When it contains anything else.
pub fn checked_lock(lock: &str) -> Result<String, String> {
    let mut text = String::with_capacity(lock.len());
    for pin in pins(lock)? {
        let _ = write!(text, "{}=={}", pin.name, pin.version);
        for hash in pin.hashes {
            let _ = write!(text, " \\\n    {HASH}{hash}");
        }
        text.push('\n');
    }
    Ok(text)
}

/// The packages of a lock by their normal names: the version, and the lines of the lock.
///
/// # Errors
/// When it is no lock.
pub fn packages_of(lock: &str) -> Result<BTreeMap<String, (String, String)>, String> {
    let mut all = BTreeMap::new();
    for pin in pins(lock)? {
        let mut text = format!("{}=={}", pin.name, pin.version);
        for hash in &pin.hashes {
            let _ = write!(text, " \\\n    {HASH}{hash}");
        }
        text.push('\n');
        all.insert(normal(pin.name), (pin.version.to_owned(), text));
    }
    Ok(all)
}

pub(crate) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The normal form of a package's name.
pub(crate) fn normal(name: &str) -> String {
    let mut out = String::new();
    for part in name.split(['-', '_', '.']).filter(|p| !p.is_empty()) {
        if !out.is_empty() {
            out.push('-');
        }
        out.push_str(&part.to_ascii_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_holds_packages_and_hashes_alone() {
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        let lock = format!("one==1.0+x \\\n    {HASH}{a} \\\n    {HASH}{b}\ntwo-b==2!1 \\\n    {HASH}{b}\n");
        assert_eq!(checked_lock(&lock).as_deref(), Ok(lock.as_str()));
        assert_eq!(pins(&lock).unwrap()[1], Pin { name: "two-b", version: "2!1", hashes: vec![&b] });
        for line in [
            "-r /etc/passwd",
            "--index-url https://evil.example",
            "--find-links /tmp",
            "x @ https://evil.example/x.whl",
            "x==1 --index-url=https://evil.example",
            "x==1 @ file:///x",
            "x==1; y",
            "/etc/x==1",
            "x==",
            "# words",
            "x==1\\\n--find-links /tmp",
            "x==1\r--find-links",
        ] {
            assert!(checked_lock(&format!("{lock}{line} \\\n    {HASH}{a}\n")).is_err(), "{line:?}");
        }
        for empty in ["", "\n \n"] {
            assert_eq!(checked_lock(empty), Err("it has no package".into()), "{empty:?}");
        }
        for bad in [format!("{HASH}{a}\n"), "x==1\n".into(), format!("x==1 \\\n    {HASH}A{}\n", &a[1..])] {
            assert!(checked_lock(&bad).is_err(), "{bad:?}");
        }
    }
}
