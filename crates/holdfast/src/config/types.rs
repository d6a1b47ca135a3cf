//! The types of single settings. A parsed value is valid.

use std::{
    fmt,
    marker::PhantomData,
    net::{Ipv4Addr, SocketAddr},
};

use api::Template;
use model::{python::PythonVersion, variables::PrincipalPattern};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value as Json;
use url::Url;

use super::value::{Base, Raw, Shape, Value};

/// A type that is one text, checked.
macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub(crate) struct $name(String);

        impl $name {
            /// The text.
            pub(crate) fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Value for $name {
            const SHAPE: Shape = Shape::Text;

            fn kind() -> String {
                $kind.into()
            }

            fn parse(raw: &Raw, _: Base<'_>) -> Result<Self, String> {
                let text = raw.text();
                let check: fn(&str) -> Result<(), String> = $check;
                check(&text).map(|()| Self(text))
            }

            fn shown(&self) -> Json {
                self.0.clone().into()
            }
        }
    };
}

/// A type that is one of some words.
macro_rules! one_of {
    ($(#[$doc:meta])* $name:ident { $($(#[$word_doc:meta])* $variant:ident = $word:literal),+ } $(refused $refuse:expr)?) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum $name {
            $($(#[$word_doc])* $variant),+
        }

        impl $name {
            /// The word that configuration writes.
            pub(crate) fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word),+
                }
            }
        }

        impl Value for $name {
            const SHAPE: Shape = Shape::Text;

            fn kind() -> String {
                [$(concat!("`", $word, "`")),+].join(" or ")
            }

            fn parse(raw: &Raw, _: Base<'_>) -> Result<Self, String> {
                match raw.text().as_str() {
                    $($word => Ok(Self::$variant),)+
                    other => {
                        let refuse: fn(&str) -> Option<String> = one_of!(@refuse $($refuse)?);
                        Err(refuse(other).unwrap_or_else(|| format!("it must be {}.", [$($word),+].join(" or "))))
                    }
                }
            }

            fn shown(&self) -> Json {
                self.as_str().into()
            }
        }
    };
    (@refuse $refuse:expr) => { $refuse };
    (@refuse) => { |_| None };
}

/// The address to listen on. Port 0 takes a free port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Listen(pub(crate) SocketAddr);

impl Value for Listen {
    const SHAPE: Shape = Shape::Text;

    fn kind() -> String {
        "an IP address or `localhost`, a colon and a port".into()
    }

    fn parse(raw: &Raw, _: Base<'_>) -> Result<Self, String> {
        let text = raw.text();
        let of_localhost = || text.strip_prefix("localhost:")?.parse().ok();
        text.parse()
            .ok()
            .or_else(|| of_localhost().map(|port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port))))
            .map(Self)
            .ok_or_else(|| format!("it must be {}.", Self::kind().replace('`', "")))
    }

    fn shown(&self) -> Json {
        self.0.to_string().into()
    }
}

/// The database.
#[derive(Debug, Clone)]
pub(crate) enum DatabaseUrl {
    /// In an SQLite file of the data folder.
    Sqlite,
    /// On a PostgreSQL server.
    Postgres(PostgresUrl),
}

/// The URL of a PostgreSQL database. It may hold a password, which is not shown.
#[derive(Debug, Clone)]
pub(crate) struct PostgresUrl(SecretString);

impl PostgresUrl {
    /// The URL with its password, if it has one.
    pub(crate) fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// The URL with a password from a file.
    pub(crate) fn with_password(&self, password: Option<&SecretString>) -> SecretString {
        let Some((mut url, password)) = Url::parse(self.0.expose_secret()).ok().zip(password) else {
            return self.0.clone();
        };
        // Fails only for an address without a host, which has no place for it.
        let _ = url.set_password(Some(password.expose_secret()));
        String::from(url).into()
    }
}

impl Value for PostgresUrl {
    const SHAPE: Shape = Shape::Text;
    const SECRET: bool = true;

    fn kind() -> String {
        "a URL with postgres".into()
    }

    fn parse(raw: &Raw, _: Base<'_>) -> Result<Self, String> {
        let text = raw.text();
        let url = Url::parse(&text).map_err(|e| format!("it is not a URL ({e})."))?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err("it must start with postgres://.".into());
        }
        if !url.has_host() {
            return Err("it must name a host; the folder of a socket follows it, as ?host=/run/postgresql.".into());
        }
        Ok(Self(text.into()))
    }

    fn shown(&self) -> Json {
        let Ok(mut url) = Url::parse(self.0.expose_secret()) else { return HIDDEN.into() };
        if url.password().is_some() {
            let _ = url.set_password(Some(HIDDEN));
        }
        let clean: Vec<(String, String)> = url
            .query_pairs()
            .map(|(name, value)| {
                let value = if name.contains("password") { HIDDEN.into() } else { value.into_owned() };
                (name.into_owned(), value)
            })
            .collect();
        if !clean.is_empty() {
            url.query_pairs_mut().clear().extend_pairs(clean);
        }
        String::from(url).into()
    }
}

impl Value for DatabaseUrl {
    const SHAPE: Shape = Shape::Text;
    const SECRET: bool = true;

    fn kind() -> String {
        "`sqlite` (a file in the data folder) or a URL with postgres".into()
    }

    fn parse(raw: &Raw, base: Base<'_>) -> Result<Self, String> {
        let text = raw.text();
        if text == "sqlite" {
            return Ok(Self::Sqlite);
        }
        Err(match text.split_once(':') {
            Some(("postgres" | "postgresql", _)) => return PostgresUrl::parse(raw, base).map(Self::Postgres),
            Some(("sqlite", _)) => {
                "the SQLite file is always in the data folder; write sqlite, and set data_dir to move it.".into()
            }
            _ => "it must be sqlite, or start with postgres://.".into(),
        })
    }

    fn shown(&self) -> Json {
        match self {
            Self::Sqlite => "sqlite".into(),
            Self::Postgres(url) => url.shown(),
        }
    }
}

impl Value for PrincipalPattern {
    const SHAPE: Shape = Shape::Text;

    fn kind() -> String {
        "a text with `{job}`".into()
    }

    fn parse(raw: &Raw, _: Base<'_>) -> Result<Self, String> {
        Self::parse(&raw.text()).map_err(Into::into)
    }

    fn shown(&self) -> Json {
        self.as_str().into()
    }
}

one_of!(
    /// Where jobs run.
    RuntimeName {
        /// As processes of this machine.
        Local = "local",
        /// As Jobs of a cluster.
        Kubernetes = "kubernetes"
    }
);

one_of!(
    /// How times are written in the URL of a log.
    LogsDateFormat {
        /// Milliseconds since 1970.
        Unix = "unix",
        /// RFC 3339.
        Iso = "iso"
    }
);

one_of!(
    /// Where the images of jobs come from.
    ImageBuilderName {
        /// Assembled by this service from a base image, packages and source.
        Embedded = "embedded",
        /// From elsewhere, under a name of a known form.
        Prebuilt = "prebuilt"
    }
    refused |other| matches!(other, "job" | "command").then(|| {
        format!("{other} is not in this version, which has embedded and prebuilt.")
    })
);

one_of!(
    /// How layers of images are compressed.
    CompressionName {
        /// Zstandard.
        Zstd = "zstd",
        /// For registries and container runtimes that do not know Zstandard.
        Gzip = "gzip"
    }
);

one_of!(
    /// When the nodes of a cluster pull an image.
    PullPolicy {
        /// If they have no image of this name.
        IfNotPresent = "IfNotPresent",
        /// Before each execution.
        Always = "Always",
        /// Never: the nodes have it.
        Never = "Never"
    }
);

checked_text!(
    /// The name of a namespace of a cluster.
    NamespaceName,
    "the name of a namespace",
    |text| {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if (1..=63).contains(&text.len()) && text.chars().all(plain) && !text.starts_with('-') && !text.ends_with('-') {
            Ok(())
        } else {
            Err("it has 1 to 63 lower-case letters, digits and dashes, and no dash at its ends.".into())
        }
    }
);

checked_text!(
    /// The name of a context in a kubeconfig.
    ContextName,
    "the name of a context in the kubeconfig",
    |text| if text.is_empty() { Err("it is empty.".into()) } else { Ok(()) }
);

checked_text!(
    /// The form of the names of images; see [`image::prebuilt::ImageTemplate`]. `{registry}` stands for the registry.
    ImageForm,
    "the name of an image with places in braces",
    |text| image::prebuilt::ImageTemplate::parse(&text.replace("{registry}", "registry")).map(drop).map_err(|p| p.why)
);

checked_text!(
    /// A registry of images: a host, perhaps with a port and a path.
    RegistryName,
    "the host of a registry, perhaps with a port and a path",
    |text| {
        if text.contains("://") {
            Err("it has no scheme in front.".into())
        } else if text.is_empty() || text.ends_with('/') || text.chars().any(char::is_whitespace) {
            Err("it is a host, perhaps with a port and a path, without a slash at its end.".into())
        } else {
            Ok(())
        }
    }
);

one_of!(
    /// How the service's own log is written.
    LogFormat {
        /// For people.
        Text = "text",
        /// One JSON object per line.
        Json = "json"
    }
);

impl Value for PythonVersion {
    const SHAPE: Shape = Shape::Text;

    fn kind() -> String {
        "a Python version of two numbers".into()
    }

    fn parse(raw: &Raw, _: Base<'_>) -> Result<Self, String> {
        raw.text().parse().map_err(|_| "it must be major and minor number of a Python version.".into())
    }

    fn shown(&self) -> Json {
        self.to_string().into()
    }
}

/// The URL of a package index. It may hold a user name and a password, which are not shown.
#[derive(Debug, Clone)]
pub(crate) struct IndexUrl(SecretString);

impl IndexUrl {
    /// The URL with its credentials.
    pub(crate) fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl Value for IndexUrl {
    const SHAPE: Shape = Shape::Text;
    const SECRET: bool = true;

    fn kind() -> String {
        "a URL with https, http or file".into()
    }

    fn parse(raw: &Raw, _: Base<'_>) -> Result<Self, String> {
        let url = Url::parse(&raw.text()).map_err(|e| format!("it is not a URL ({e})."))?;
        if !matches!(url.scheme(), "https" | "http" | "file") {
            return Err("it must start with https://, http:// or file://.".into());
        }
        Ok(Self(raw.text().into()))
    }

    fn shown(&self) -> Json {
        Url::parse(self.expose()).map_or(HIDDEN.into(), |url| redacted(url).into())
    }
}

/// The replacement of a secret.
const HIDDEN: &str = "***";

/// A URL without user name, password and query.
fn redacted(mut url: Url) -> String {
    // Both fail only for addresses that can't have credentials.
    if !url.username().is_empty() || url.password().is_some() {
        let _ = url.set_password(None);
        let _ = url.set_username(HIDDEN);
    }
    if url.query().is_some() {
        url.set_query(Some(HIDDEN));
    }
    if url.fragment().is_some() {
        url.set_fragment(Some(HIDDEN));
    }
    url.into()
}

checked_text!(
    /// The URL of a web service, without a trailing slash.
    HttpUrl,
    "a URL with http or https",
    |text| {
        let url = Url::parse(text).map_err(|e| format!("it is not a URL ({e})."))?;
        if !matches!(url.scheme(), "https" | "http") {
            Err("it must start with http:// or https://.".into())
        } else if !url.username().is_empty() || url.password().is_some() {
            Err("it must not hold a user name or a password: every job sees it.".into())
        } else if url.query().is_some() || url.fragment().is_some() {
            Err("it must end with its path: clients add theirs.".into())
        } else if text.ends_with('/') {
            Err("it must not end with a slash: clients add their path.".into())
        } else {
            Ok(())
        }
    }
);

checked_text!(
    /// The name of a claim in a token.
    ClaimName,
    "the name of a claim",
    |text| {
        if (1..=200).contains(&text.len()) && !text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            Ok(())
        } else {
            Err("the name of a claim has 1 to 200 characters without blanks.".into())
        }
    }
);

checked_text!(
    /// The name of a Python package.
    PackageName,
    "the name of a Python package",
    |text| {
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        let inside = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if text.len() <= 100 && edge(text.chars().next()) && edge(text.chars().last()) && text.chars().all(inside) {
            Ok(())
        } else {
            Err("a package name has letters, digits, dots, hyphens and underscores, and no version.".into())
        }
    }
);

checked_text!(
    /// One version of a Python package.
    PackageVersion,
    "the version of a Python package",
    |text| {
        let inside = |c: char| c.is_ascii_alphanumeric() || ".!+-_".contains(c);
        if text.len() <= 100 && text.starts_with(|c: char| c.is_ascii_digit()) && text.chars().all(inside) {
            Ok(())
        } else {
            Err("it must be one whole version, without a comparison in front of it.".into())
        }
    }
);

checked_text!(
    /// The name of an IANA time zone.
    ZoneName,
    "the name of an IANA time zone",
    |text| jiff::tz::TimeZone::get(text).map(|_| ()).map_err(|_| "no time zone has this name.".into())
);

checked_text!(
    /// The filter of the service's log.
    LogFilter,
    "a level (`error`, `warn`, `info`, `debug`, `trace`, `off`) or directives by part, with commas",
    |text| {
        let parsed = tracing_subscriber::EnvFilter::builder().parse(text);
        parsed.map(|_| ()).map_err(|e| format!("it is not a log filter ({e})."))
    }
);

/// The URL of a page, with names in braces that are replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UrlTemplate<P>(pub(crate) Template, PhantomData<P>);

/// The names that a [`UrlTemplate`] may have.
pub(crate) trait Placeholders {
    /// Without braces.
    const NAMES: &'static [&'static str];
}

/// The names in the URL of an execution's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OfExecution;

impl Placeholders for OfExecution {
    const NAMES: &'static [&'static str] = Template::OF_EXECUTION;
}

/// The names in the URL of a job's sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OfJob;

impl Placeholders for OfJob {
    const NAMES: &'static [&'static str] = Template::OF_JOB;
}

impl<P: Placeholders> Value for UrlTemplate<P> {
    const SHAPE: Shape = Shape::Text;

    fn kind() -> String {
        format!("a URL with any of {}", Braced(P::NAMES))
    }

    fn parse(raw: &Raw, _: Base<'_>) -> Result<Self, String> {
        let text = raw.text();
        if !text.starts_with("https://") && !text.starts_with("http://") {
            return Err("it must start with http:// or https://.".into());
        }
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err("a URL has no blanks.".into());
        }
        Ok(Self(Template::parse(&text, P::NAMES)?, PhantomData))
    }

    fn shown(&self) -> Json {
        self.0.as_str().into()
    }
}

/// Names in braces, as a page shows them.
struct Braced(&'static [&'static str]);

impl fmt::Display for Braced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, name) in self.0.iter().enumerate() {
            write!(f, "{}`{{{name}}}`", if at == 0 { "" } else { ", " })?;
        }
        Ok(())
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
    fn an_address_to_listen_on_is_an_ip_address_or_localhost_with_a_port() {
        for (given, shown) in [
            ("127.0.0.1:8092", "127.0.0.1:8092"),
            ("localhost:0", "127.0.0.1:0"),
            ("[::1]:80", "[::1]:80"),
            ("0.0.0.0:65535", "0.0.0.0:65535"),
        ] {
            assert_eq!(parse::<Listen>(given).map(|l| l.shown()), Ok(shown.into()));
        }
        for bad in
            ["", "8092", ":8092", "127.0.0.1", "example.com:80", "127.0.0.1:65536", "::1:80", "http://localhost:1"]
        {
            assert!(parse::<Listen>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_database_is_shown_without_its_password() {
        for (given, shown) in [
            ("sqlite", "sqlite"),
            ("postgres://me:hunter2@db:5433/x?sslmode=verify-full", "postgres://me:***@db:5433/x?sslmode=verify-full"),
            ("postgresql://db/x", "postgresql://db/x"),
            ("postgres://me@db/x?password=hunter2", "postgres://me@db/x?password=***"),
        ] {
            let url = parse::<DatabaseUrl>(given).unwrap();
            assert_eq!(url.shown(), Json::from(shown));
            assert!(!format!("{url:?}").contains("hunter2"));
        }
        for bad in ["", "sqlite:///tmp/x", "mysql://me:hunter2@x", "postgres:x", "postgres://me:hunter2@h:port/x"] {
            let wrong = parse::<DatabaseUrl>(bad).unwrap_err();
            assert!(!wrong.contains("hunter2"), "{bad}: {wrong}");
        }
    }

    #[test]
    fn a_password_in_a_file_goes_into_the_url() {
        let url = parse::<PostgresUrl>("postgres://me@db/x?host=/run/pg").unwrap();
        let whole = url.with_password(Some(&"p@ss/w:rd".into()));
        assert_eq!(whole.expose_secret(), "postgres://me:p%40ss%2Fw%3Ard@db/x?host=/run/pg");
        assert_eq!(url.with_password(None).expose_secret(), "postgres://me@db/x?host=/run/pg");
    }

    #[test]
    fn where_jobs_run_and_what_makes_images_is_one_of_some_words() {
        assert_eq!(parse::<RuntimeName>("kubernetes"), Ok(RuntimeName::Kubernetes));
        assert_eq!(parse::<RuntimeName>("docker"), Err("it must be local or kubernetes.".into()));
        assert!(parse::<ImageBuilderName>("job").unwrap_err().contains("not in this version"));
        for bad in ["", "-a", "A", "a_b", &"a".repeat(64)] {
            assert!(parse::<NamespaceName>(bad).is_err(), "{bad}");
        }
        assert!(parse::<ImageForm>("{registry}/{job}:{version}").is_ok());
        assert!(parse::<ImageForm>("{registry}/jobs:{version}").unwrap_err().contains("{job}"));
        assert!(parse::<RegistryName>("https://registry.example.com").is_err());
    }

    #[test]
    fn an_index_address_is_shown_without_its_credentials() {
        for (given, shown) in [
            ("https://packages.example.com/simple", "https://packages.example.com/simple"),
            ("https://me:hunter2@host:8443/simple", "https://***@host:8443/simple"),
            ("https://hunter2@host/simple", "https://***@host/simple"),
            ("https://:hunter2@host/simple", "https://***@host/simple"),
            ("https://host/simple?token=hunter2#hunter2", "https://host/simple?***#***"),
        ] {
            let url = parse::<IndexUrl>(given).unwrap();
            assert_eq!(url.shown(), Json::from(shown));
            assert_eq!(url.expose(), given);
            assert!(!format!("{url:?}").contains("hunter2"));
        }
        for bad in ["packages.example.com", "ftp://hunter2@host", "https://"] {
            assert!(!parse::<IndexUrl>(bad).unwrap_err().contains("hunter2"));
        }
    }

    #[test]
    fn texts_are_checked_where_they_come_in() {
        assert!(parse::<HttpUrl>("http://127.0.0.1:8092").is_ok());
        assert!(parse::<HttpUrl>("https://a.b/holdfast").is_ok());
        for bad in ["", "a.b", "http://a.b/", "https://u:p@a.b", "https://a.b?x=1", "ftp://a.b"] {
            assert!(parse::<HttpUrl>(bad).is_err(), "{bad}");
        }
        assert!(parse::<PackageName>("quickstart-vdk").is_ok());
        for bad in ["", "-a", "a==1", "a b", "a-", "git+https://x"] {
            assert!(parse::<PackageName>(bad).is_err(), "{bad}");
        }
        assert!(parse::<PackageVersion>("0.2.1810444937").is_ok());
        for bad in ["", "==1", ">=1", "latest", "1 2", "1,2"] {
            assert!(parse::<PackageVersion>(bad).is_err(), "{bad}");
        }
        assert!(parse::<ClaimName>("https://a.b/groups").is_ok() && parse::<ClaimName>("two words").is_err());
        assert!(parse::<ZoneName>("Europe/Sofia").is_ok());
        assert!(parse::<ZoneName>("Europe/Sofa").is_err());
        assert!(parse::<LogFilter>("info,sync=debug").is_ok());
        assert!(parse::<LogFilter>("sync=loud").is_err());
        assert_eq!(parse::<PythonVersion>("3.11"), Ok(PythonVersion { major: 3, minor: 11 }));
        assert!(parse::<PythonVersion>("3").is_err());
    }

    #[test]
    fn a_template_has_only_names_that_are_filled_in() {
        assert!(parse::<UrlTemplate<OfExecution>>("https://logs/?q={execution_id}&t={start_time}").is_ok());
        for bad in ["https://logs/{exec}", "https://logs/{execution_id", "logs/{execution_id}", "https://a b"] {
            assert!(parse::<UrlTemplate<OfExecution>>(bad).is_err(), "{bad}");
        }
        assert!(parse::<UrlTemplate<OfJob>>("https://git/{team_name}/{job_name}").is_ok());
        assert!(parse::<UrlTemplate<OfJob>>("https://git/{execution_id}").is_err());
    }
}
