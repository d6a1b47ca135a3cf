//! `holdfast config`: every setting, its value and where it came from.

pub(crate) mod from_upstream;

use std::io::Write;

use clap::{Arg, ArgAction, ArgMatches};

use crate::config::{Flags, ProcessEnvironment, load, markdown, schema};

/// The output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// A table for people.
    Text,
    /// JSON.
    Json,
    /// The page `docs/configuration.md`: every setting, without values of this machine.
    Markdown,
    /// The JSON Schema of `holdfast.toml`.
    Schema,
}

impl Format {
    pub(super) fn args() -> [Arg; 3] {
        [
            Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print JSON"),
            Arg::new("markdown")
                .long("markdown")
                .action(ArgAction::SetTrue)
                .conflicts_with("json")
                .help("Print the page that describes every setting"),
            Arg::new("json-schema")
                .long("json-schema")
                .action(ArgAction::SetTrue)
                .conflicts_with_all(["json", "markdown"])
                .help("Print the JSON Schema of holdfast.toml"),
        ]
    }

    pub(super) fn of(matches: &ArgMatches) -> Self {
        if matches.get_flag("json") {
            Self::Json
        } else if matches.get_flag("markdown") {
            Self::Markdown
        } else if matches.get_flag("json-schema") {
            Self::Schema
        } else {
            Self::Text
        }
    }
}

/// Prints the settings. The files that they name are read as well, so that it reports the errors that `serve` would report.
pub(crate) fn run(
    environment: &ProcessEnvironment,
    flags: &Flags,
    format: Format,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let text = match format {
        Format::Markdown => markdown(),
        Format::Schema => format!("{:#}\n", schema()),
        Format::Text => load(environment, flags)?.checked()?.as_text(),
        Format::Json => format!("{:#}\n", load(environment, flags)?.checked()?.as_json()),
    };
    written(&text, out)
}

/// Prints a text. A reader such as `head` may close the pipe early.
fn written(text: &str, out: &mut dyn Write) -> anyhow::Result<()> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Raw;

    fn environment(folder: &std::path::Path) -> ProcessEnvironment {
        ProcessEnvironment {
            variables: std::collections::BTreeMap::new(),
            folder: folder.into(),
            home: Some("/home/me".into()),
            cores: 2,
        }
    }

    fn printed(folder: &std::path::Path, flags: &Flags, format: Format) -> anyhow::Result<String> {
        let mut out = Vec::new();
        run(&environment(folder), flags, format, &mut out)?;
        Ok(String::from_utf8(out)?)
    }

    #[test]
    fn each_format_is_printed() {
        let folder = tempfile::tempdir().unwrap();
        let print = |format| printed(folder.path(), &Flags::default(), format).unwrap();
        assert!(print(Format::Text).contains("SETTING"));
        assert!(print(Format::Json).parse::<serde_json::Value>().unwrap()["settings"].is_array());
        assert!(print(Format::Markdown).starts_with("# Configuration"));
        assert!(print(Format::Schema).parse::<serde_json::Value>().unwrap()["properties"]["listen"].is_object());
    }

    #[test]
    fn an_options_file_that_is_wrong_or_missing_shows() {
        let folder = tempfile::tempdir().unwrap();
        let setting = crate::config::SETTINGS.iter().find(|s| s.key == "vdk.options_file").unwrap();
        let flags = Flags { config: None, values: vec![(setting, Raw::Text("o.ini".into()))] };
        let error = printed(folder.path(), &flags, Format::Text).unwrap_err().to_string();
        assert!(error.contains("vdk.options_file") && error.contains("can't be read"), "{error}");
        std::fs::write(folder.path().join("o.ini"), "[default]\nA").unwrap();
        let error = printed(folder.path(), &flags, Format::Text).unwrap_err().to_string();
        assert!(error.contains("o.ini:2"), "{error}");
        std::fs::write(folder.path().join("o.ini"), "[default]\nA=1").unwrap();
        assert!(printed(folder.path(), &flags, Format::Text).is_ok());
    }
}
