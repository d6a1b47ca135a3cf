//! How a value is written, and how it is read to a type.

use std::path::{Path, PathBuf};

use serde_json::Value as Json;

/// How a value is written in `holdfast.toml`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// `"in quotes"`
    Text,
    /// `32`
    Number,
    /// `true` or `false`
    Switch,
    /// `["one", "two"]`
    List,
    /// `{ "one" = "two" }`
    Table,
}

/// A value as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Raw {
    /// One text; of a list, its parts with the separator of its type between them.
    Text(String),
    /// The parts of a list.
    Parts(Vec<String>),
}

impl Raw {
    /// As one text, for messages and for types that are not lists.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Parts(parts) => parts.join(","),
        }
    }

    /// The parts of a list, without blanks around them and without empty ones.
    pub(crate) fn parts(&self, separator: char) -> Vec<String> {
        let clean = |parts: &mut dyn Iterator<Item = &str>| {
            parts.map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
        };
        match self {
            Self::Text(text) => clean(&mut text.split(separator)),
            Self::Parts(parts) => clean(&mut parts.iter().map(String::as_str)),
        }
    }
}

/// The folder that relative paths are relative to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Base<'a> {
    /// The folder of the file, or the current folder.
    pub(crate) folder: &'a Path,
    /// The home folder, for paths that begin with `~/`.
    pub(crate) home: Option<&'a Path>,
}

/// The type of a setting.
pub(crate) trait Value: Sized {
    /// How it is written.
    const SHAPE: Shape;
    /// Whether it may hold a secret.
    const SECRET: bool = false;

    /// The accepted values, as part of a sentence: "a whole number from 1 to 10".
    fn kind() -> String;

    /// The value of a setting that is not set and has no default.
    fn absent() -> Option<Self> {
        None
    }

    /// Reads it. The error is a sentence about "it", and doesn't repeat the value.
    fn parse(raw: &Raw, base: Base<'_>) -> Result<Self, String>;

    /// The value without secrets, for people.
    fn shown(&self) -> Json;
}

impl<T: Value> Value for Option<T> {
    const SHAPE: Shape = T::SHAPE;
    const SECRET: bool = T::SECRET;

    fn kind() -> String {
        T::kind()
    }

    fn absent() -> Option<Self> {
        Some(None)
    }

    fn parse(raw: &Raw, base: Base<'_>) -> Result<Self, String> {
        T::parse(raw, base).map(Some)
    }

    fn shown(&self) -> Json {
        self.as_ref().map_or(Json::Null, Value::shown)
    }
}

impl Value for bool {
    const SHAPE: Shape = Shape::Switch;

    fn kind() -> String {
        "`true` or `false`".into()
    }

    fn parse(raw: &Raw, _: Base<'_>) -> Result<Self, String> {
        raw.text().parse().map_err(|_| "it must be true or false.".into())
    }

    fn shown(&self) -> Json {
        Json::Bool(*self)
    }
}

/// A whole number within limits. The name of the setting ends in its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Whole<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Whole<MIN, MAX> {
    /// The number.
    pub(crate) fn get(self) -> u64 {
        self.0
    }

    /// The number as `usize`.
    pub(crate) fn count(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// The number as `i64`, as the database takes it.
    pub(crate) fn signed(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }

    /// The number as a time, if its unit is seconds.
    pub(crate) fn seconds(self) -> std::time::Duration {
        std::time::Duration::from_secs(self.0)
    }
}

impl<const MIN: u64, const MAX: u64> Value for Whole<MIN, MAX> {
    const SHAPE: Shape = Shape::Number;

    fn kind() -> String {
        format!("a whole number from {MIN} to {MAX}")
    }

    fn parse(raw: &Raw, _: Base<'_>) -> Result<Self, String> {
        let text = raw.text();
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match text.parse() {
            Ok(number) if digits && (MIN..=MAX).contains(&number) => Ok(Self(number)),
            _ => Err(format!("it must be {}.", Self::kind())),
        }
    }

    fn shown(&self) -> Json {
        self.0.into()
    }
}

/// A whole number within limits that may be negative. The name of the setting ends in its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Signed<const MIN: i64, const MAX: i64>(pub(crate) i64);

impl<const MIN: i64, const MAX: i64> Value for Signed<MIN, MAX> {
    const SHAPE: Shape = Shape::Number;

    fn kind() -> String {
        format!("a whole number from {MIN} to {MAX}")
    }

    fn parse(raw: &Raw, _: Base<'_>) -> Result<Self, String> {
        match raw.text().parse() {
            Ok(number) if (MIN..=MAX).contains(&number) => Ok(Self(number)),
            _ => Err(format!("it must be {}.", Self::kind())),
        }
    }

    fn shown(&self) -> Json {
        self.0.into()
    }
}

impl Value for PathBuf {
    const SHAPE: Shape = Shape::Text;

    fn kind() -> String {
        "a path".into()
    }

    fn parse(raw: &Raw, base: Base<'_>) -> Result<Self, String> {
        let text = raw.text();
        if text.is_empty() {
            return Err("it must not be empty.".into());
        }
        if text.contains('\0') {
            return Err("it has a zero byte.".into());
        }
        let path = match text.strip_prefix('~') {
            Some("") => base.home.map(Path::to_owned).ok_or(NO_HOME)?,
            Some(rest) if rest.starts_with('/') => base.home.ok_or(NO_HOME)?.join(rest.trim_start_matches('/')),
            Some(_) => return Err("another user's home folder must be written out.".into()),
            None => base.folder.join(text),
        };
        // Only for reading well: `..` stays, because a link may precede it.
        Ok(path.components().collect())
    }

    fn shown(&self) -> Json {
        self.display().to_string().into()
    }
}

const NO_HOME: &str = "it starts with ~ and there is no home folder (HOME is not set).";

#[cfg(test)]
mod tests {
    use super::*;

    fn homeless() -> Base<'static> {
        Base { folder: Path::new("/etc/holdfast"), home: None }
    }

    #[test]
    fn a_whole_number_has_limits_and_only_digits() {
        let parse = |text: &str| Whole::<1, 10>::parse(&Raw::Text(text.into()), homeless());
        assert_eq!(parse("1").map(Whole::get), Ok(1));
        assert_eq!(parse("10").map(Whole::get), Ok(10));
        for bad in ["", "0", "11", "+5", "-1", " 5", "5s", "1e1", "99999999999999999999999"] {
            assert_eq!(parse(bad), Err("it must be a whole number from 1 to 10.".into()), "{bad:?}");
        }
    }

    #[test]
    fn a_path_is_relative_to_where_it_is_written() {
        let base = Base { home: Some(Path::new("/home/me")), ..homeless() };
        for (given, path) in [
            ("/data", "/data"),
            ("data", "/etc/holdfast/data"),
            ("./data/", "/etc/holdfast/data"),
            ("../data", "/etc/holdfast/../data"),
            ("~/data", "/home/me/data"),
            ("~", "/home/me"),
        ] {
            assert_eq!(PathBuf::parse(&Raw::Text(given.into()), base), Ok(path.into()), "{given}");
        }
        for bad in ["", "~root/x", "a\0b"] {
            assert!(PathBuf::parse(&Raw::Text(bad.into()), base).is_err(), "{bad:?}");
        }
        assert!(PathBuf::parse(&Raw::Text("~/data".into()), homeless()).is_err());
    }
}
