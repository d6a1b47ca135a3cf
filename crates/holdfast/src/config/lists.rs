//! The types of settings that are lists. A parsed value is valid.

use std::{collections::BTreeMap, path::PathBuf};

use api::auth::{ALGORITHMS, Algorithm};
use image::oci::Reference;
use model::python::PythonVersion;
use serde_json::Value as Json;
use url::Url;

use super::value::{Base, Raw, Shape, Value};

/// A list of entries that `T` reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct List<T: Item>(pub(crate) Vec<T::Entry>);

/// The type of the entries of a [`List`].
pub(crate) trait Item {
    /// An entry.
    type Entry;
    /// The most entries.
    const MAX: usize = usize::MAX;
    /// The error of an empty list, as a sentence about "it"; `None` if the list may be empty.
    const EMPTY: Option<&'static str> = None;

    /// The entries, after "a list of".
    fn kind() -> String;

    /// Reads an entry. The error is a sentence about "it".
    fn parse(text: &str, base: Base<'_>) -> Result<Self::Entry, String>;

    /// An entry as it is written.
    fn written(entry: &Self::Entry) -> String;

    /// Sorts the entries.
    fn arrange(_: &mut Vec<Self::Entry>) {}
}

impl<T: Item> Value for List<T> {
    const SHAPE: Shape = Shape::List;

    fn kind() -> String {
        format!("a list of {}", T::kind())
    }

    fn absent() -> Option<Self> {
        T::EMPTY.is_none().then(|| Self(Vec::new()))
    }

    fn parse(raw: &Raw, base: Base<'_>) -> Result<Self, String> {
        let parts = raw.parts(',');
        if parts.len() > T::MAX {
            return Err(format!("it has more than {} entries.", T::MAX));
        }
        let mut entries: Vec<_> = parts.iter().map(|part| T::parse(part, base)).collect::<Result<_, _>>()?;
        T::arrange(&mut entries);
        match T::EMPTY {
            Some(why) if entries.is_empty() => Err(why.into()),
            _ => Ok(Self(entries)),
        }
    }

    fn shown(&self) -> Json {
        self.0.iter().map(T::written).collect()
    }
}

/// The most entries of a list about callers.
const WORDS_MAX: usize = 100;

/// Defines a type of text entries; `$read` checks a text and returns its normal form.
macro_rules! texts {
    ($(#[$doc:meta])* $name:ident, $kind:literal, at most $max:expr, $read:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub(crate) enum $name {}

        impl Item for $name {
            type Entry = String;
            const MAX: usize = $max;

            fn kind() -> String {
                $kind.into()
            }

            fn parse(text: &str, _: Base<'_>) -> Result<String, String> {
                let read: fn(&str) -> Result<String, String> = $read;
                read(text)
            }

            fn written(entry: &String) -> String {
                entry.clone()
            }
        }
    };
}

texts!(
    /// Words.
    Word, "words", at most WORDS_MAX, |text| Ok(text.into())
);

texts!(
    /// Host names, beside the loopback ones, under which browsers and clients may address the service.
    HostName, "host names", at most usize::MAX, |text| {
        let why = if text.contains("://") {
            "a host name has no scheme and no path"
        } else if text.contains('*') {
            "each host name must be written out; there are no wild cards"
        } else {
            match url::Host::parse(text) {
                Ok(host) => return Ok(host.to_string()),
                Err(_) => "a host name has no port, no blank and no slash; an IPv6 address is in brackets",
            }
        };
        Err(format!("{} is no host name: {why}.", model::name::excerpt(text)))
    }
);

texts!(
    /// JSON pointers (RFC 6901) to fields of an object's `spec`.
    FieldOfSpec, "JSON pointers that begin with `/spec/`", at most WORDS_MAX, |text| {
        if text.strip_prefix("/spec/").is_none_or(|rest| rest.split('/').any(str::is_empty)) {
            return Err(format!("{text:?} names no field: it must begin with /spec/, as /spec/suspend does."));
        }
        Ok(text.into())
    }
);

texts!(
    /// URLs of token issuers, verbatim: a trailing slash is significant.
    IssuerUrl, "URLs with https or http", at most WORDS_MAX, |text| {
        let url = Url::parse(text).map_err(|e| format!("an entry is not a URL ({e})."))?;
        if !matches!(url.scheme(), "https" | "http") {
            Err("each entry must start with https:// or http://.".into())
        } else if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
            Err("an entry must not hold a user name, a password or a fragment.".into())
        } else {
            Ok(text.into())
        }
    }
);

/// Folders to search, in this order.
impl Item for PathBuf {
    type Entry = Self;

    fn kind() -> String {
        "folders".into()
    }

    fn parse(text: &str, base: Base<'_>) -> Result<Self, String> {
        Value::parse(&Raw::Text(text.to_owned()), base)
    }

    fn written(entry: &Self) -> String {
        entry.display().to_string()
    }
}

impl Item for PythonVersion {
    type Entry = Self;
    const EMPTY: Option<&'static str> = Some("it names none.");

    fn kind() -> String {
        "Python versions of two numbers".into()
    }

    fn parse(text: &str, _: Base<'_>) -> Result<Self, String> {
        text.parse().map_err(|p: model::Problem| p.why)
    }

    fn written(entry: &Self) -> String {
        entry.to_string()
    }

    fn arrange(entries: &mut Vec<Self>) {
        entries.sort_unstable();
        entries.dedup();
    }
}

/// Images by Python version. If a version has two, the last one is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum VdkImage {}

impl Item for VdkImage {
    type Entry = (PythonVersion, String);

    fn kind() -> String {
        "Python versions with an image each".into()
    }

    fn parse(text: &str, _: Base<'_>) -> Result<Self::Entry, String> {
        let (version, image) =
            text.split_once('=').ok_or("each entry is a version, an equals sign and an image.".to_owned())?;
        let version = version.trim().parse().map_err(|p: model::Problem| p.why)?;
        Ok((version, image.trim().to_owned()))
    }

    fn written((version, image): &Self::Entry) -> String {
        format!("{version}={image}")
    }

    fn arrange(entries: &mut Vec<Self::Entry>) {
        entries.reverse();
        entries.sort_by_key(|(version, _)| *version);
        entries.dedup_by_key(|(version, _)| *version);
    }
}

/// The error of a list of algorithms that is empty or has an unsafe one.
const SIGNED_WRONG: &str = "it must have one algorithm or more, each by a pair of keys: with a shared secret, or without \
     a signature, anybody could make a token.";

/// Signature algorithms of tokens.
impl Item for Algorithm {
    type Entry = Self;
    const EMPTY: Option<&'static str> = Some(SIGNED_WRONG);

    fn kind() -> String {
        ALGORITHMS.map(|known| format!("`{known:?}`")).join(", ")
    }

    fn parse(text: &str, _: Base<'_>) -> Result<Self, String> {
        ALGORITHMS.into_iter().find(|known| format!("{known:?}") == text).ok_or_else(|| SIGNED_WRONG.into())
    }

    fn written(entry: &Self) -> String {
        format!("{entry:?}")
    }
}

/// Base images by Python version, in Holdfast's form or in that of upstream's chart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct BaseImages(pub(crate) BTreeMap<PythonVersion, BaseImage>);

/// A base image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BaseImage {
    /// Its name.
    pub(crate) base: Reference,
    /// The image that brings VDK, where it is not installed into the job's.
    pub(crate) vdk: Option<String>,
}

impl BaseImages {
    fn of_pairs(pairs: &[String]) -> Result<Vec<(String, Json)>, String> {
        let pair = |text: &String| {
            let (version, image) =
                text.split_once('=').ok_or("each entry is a version, an equals sign and an image.".to_owned())?;
            Ok((version.trim().trim_matches('"').to_owned(), Json::from(image.trim().trim_matches('"'))))
        };
        pairs.iter().map(pair).collect()
    }

    fn image(version: &str, value: &Json) -> Result<BaseImage, String> {
        let text = |name: &str| value[name].as_str().map(str::to_owned);
        let (base, vdk) = match value {
            Json::String(base) => (base.clone(), None),
            Json::Object(fields) => {
                // Upstream's chart has builderImage as well, which nothing here needs.
                let known = ["baseImage", "vdkImage", "builderImage"];
                if let Some(other) = fields.keys().find(|name| !known.contains(&name.as_str())) {
                    return Err(format!("{version} has {other:?}; there are {}.", known.join(", ")));
                }
                (text("baseImage").ok_or_else(|| format!("{version} has no baseImage."))?, text("vdkImage"))
            }
            _ => return Err(format!("{version} must have the name of an image, or baseImage and vdkImage.")),
        };
        let base = Reference::parse(&base)
            .map_err(|why| format!("{} is no name of an image: {why}.", model::name::excerpt(&base)))?;
        Ok(BaseImage { base, vdk })
    }
}

impl Value for BaseImages {
    const SHAPE: Shape = Shape::Table;

    fn kind() -> String {
        "a table of Python versions with a base image each; in a variable JSON, or `3.11=image` with commas between"
            .into()
    }

    fn absent() -> Option<Self> {
        Some(Self::default())
    }

    fn parse(raw: &Raw, _: Base<'_>) -> Result<Self, String> {
        let text = raw.text();
        let entries: Vec<(String, Json)> = if text.trim_start().starts_with('{') {
            let map: serde_json::Map<String, Json> =
                serde_json::from_str(&text).map_err(|error| format!("it is not valid JSON: {error}."))?;
            map.into_iter().collect()
        } else {
            Self::of_pairs(&raw.parts(','))?
        };
        let mut all = BTreeMap::new();
        for (version, value) in entries {
            let image = Self::image(&version, &value)?;
            let version: PythonVersion = version.parse().map_err(|problem: model::Problem| problem.why)?;
            all.insert(version, image);
        }
        Ok(Self(all))
    }

    fn shown(&self) -> Json {
        let shown = self.0.iter().map(|(version, image)| {
            let value = match &image.vdk {
                None => Json::from(image.base.to_string()),
                Some(vdk) => serde_json::json!({ "baseImage": image.base.to_string(), "vdkImage": vdk }),
            };
            (version.to_string(), value)
        });
        Json::Object(shown.collect())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn parse<T: Value>(text: &str) -> Result<T, String> {
        T::parse(&Raw::Text(text.into()), Base { folder: Path::new("/"), home: None })
    }

    #[test]
    fn host_names_have_no_scheme_port_or_wild_card() {
        let good = parse::<List<HostName>>("Jobs.Example.com, 10.0.0.7,,[::1]").unwrap();
        assert_eq!(good.0, ["jobs.example.com", "10.0.0.7", "[::1]"]);
        for bad in ["http://a.b", "a.b:80", "*.a.b", "a b", "a/b"] {
            assert!(parse::<List<HostName>>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn lists_of_issuers_algorithms_and_fields_are_checked_when_they_are_read() {
        assert_eq!(parse::<List<IssuerUrl>>("https://a.b/, http://localhost:1/x").unwrap().0.len(), 2);
        for bad in ["a.b", "ftp://a.b", "https://u:p@a.b", "https://a.b#c"] {
            assert!(parse::<List<IssuerUrl>>(bad).is_err(), "{bad}");
        }
        assert_eq!(parse::<List<FieldOfSpec>>("/spec/suspend").unwrap().0, ["/spec/suspend"]);
        for bad in ["spec/suspend", "/metadata/labels", "/spec", "/spec/", "/spec//suspend"] {
            assert!(parse::<List<FieldOfSpec>>(bad).is_err(), "{bad}");
        }
        assert_eq!(parse::<List<Algorithm>>("RS256, EdDSA").unwrap().0, [Algorithm::RS256, Algorithm::EdDSA]);
        for bad in ["", "none", "HS256", "RS256,HS512", "rs256"] {
            assert!(parse::<List<Algorithm>>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn base_images_are_read_in_three_forms() {
        let hash = format!("sha256:{}", "a".repeat(64));
        let plain = format!("3.11=r.example.com/python:3.11@{hash}, 3.12=python:3.12");
        let images = parse::<BaseImages>(&plain).unwrap();
        assert_eq!(images.0.len(), 2);
        let json = serde_json::json!({
            "3.11": format!("r.example.com/python:3.11@{hash}"),
            "3.12": { "baseImage": "python:3.12", "builderImage": "builder" },
        });
        assert_eq!(parse::<BaseImages>(&json.to_string()), Ok(images));
        let upstream = r#"{"3.9": {"baseImage": "python:3.9", "vdkImage": "vdk:1"}}"#;
        let apart = parse::<BaseImages>(upstream).unwrap();
        assert_eq!(apart.0.values().next().unwrap().vdk.as_deref(), Some("vdk:1"));
        assert_eq!(parse::<BaseImages>(&apart.shown().to_string()), Ok(apart));
        for bad in [
            "3.11",
            "x=python",
            "3.11=A b",
            r#"{"3.11": 1}"#,
            r#"{"3.11": {"vdkImage": "x"}}"#,
            "{",
            r#"{"3.11": {"baseImage": "x", "baseimage": "y"}}"#,
        ] {
            assert!(parse::<BaseImages>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn versions_are_sorted_and_of_two_images_for_one_the_last_counts() {
        assert_eq!(parse::<List<PythonVersion>>("3.12,3.9,3.12").unwrap().shown(), Json::from(vec!["3.9", "3.12"]));
        assert_eq!(parse::<List<PythonVersion>>(" ,"), Err("it names none.".into()));
        let images = parse::<List<VdkImage>>("3.12=a, 3.11 = b, 3.12=c").unwrap();
        assert_eq!(images.shown(), Json::from(vec!["3.11=b", "3.12=c"]));
        assert_eq!(parse::<List<Word>>(&"a,".repeat(101)), Err("it has more than 100 entries.".into()));
    }
}
