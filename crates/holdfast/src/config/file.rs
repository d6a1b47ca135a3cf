//! `holdfast.toml`.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use toml::de::{DeTable, DeValue};

use super::{
    environment::ProcessEnvironment,
    error::{ConfigIssue, Origin},
    setting::Setting,
    value::{Raw, Shape},
};

/// The name of the file.
pub(crate) const NAME: &str = "holdfast.toml";

/// The largest file that the configuration may name.
const BYTES_MAX: u64 = 1024 * 1024;

/// The file to read: the named one, or the first of the usual ones that exists.
pub(super) fn find(environment: &ProcessEnvironment, named: Option<&Path>) -> Option<PathBuf> {
    let named = named.or_else(|| environment.variable("HOLDFAST_CONFIG").map(Path::new));
    if let Some(named) = named {
        return Some(environment.folder.join(named));
    }
    let usual = [Some(environment.folder.join(NAME)), environment.config_folder().map(|folder| folder.join(NAME))];
    // One that exists and can't be read is an error later on, and not passed over.
    usual.into_iter().flatten().find(|path| !matches!(path.try_exists(), Ok(false)))
}

/// The text of a file, or a sentence that says why there is none.
pub(super) fn text(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|e| format!("The file can't be read: {e}."))?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(format!("The file has more than {BYTES_MAX} bytes."));
    }
    String::from_utf8(bytes).map_err(|_| "The file is not text in UTF-8.".into())
}

/// A value that was found, and where.
pub(super) type Found = (&'static Setting, Raw, Origin);

/// The values of a file for `settings`, and its errors.
pub(super) fn values(settings: &'static [Setting], path: &Path, text: &str) -> (Vec<Found>, Vec<ConfigIssue>) {
    let mut reading = Reading { settings, path, text, found: Vec::new(), issues: Vec::new() };
    match DeTable::parse(text) {
        Ok(table) => reading.table("", table.get_ref()),
        Err(e) => {
            let origin = reading.origin(e.span().map_or(0, |span| span.start));
            let wrong = format!("The file is not valid TOML: {}.", e.message().replace('\n', "; "));
            let hint = "Texts are in quotes; numbers, true and false are not.".into();
            reading.issues.push(ConfigIssue { place: origin.to_string(), wrong, hint });
        }
    }
    (reading.found, reading.issues)
}

struct Reading<'a> {
    settings: &'static [Setting],
    path: &'a Path,
    text: &'a str,
    found: Vec<Found>,
    issues: Vec<ConfigIssue>,
}

impl Reading<'_> {
    fn origin(&self, offset: usize) -> Origin {
        let before = self.text.get(..offset).unwrap_or(self.text);
        Origin::File { path: self.path.to_owned(), line: 1 + before.matches('\n').count() }
    }

    fn table(&mut self, prefix: &str, table: &DeTable<'_>) {
        // A table is sorted by name; people read a file from above.
        let mut lines: Vec<_> = table.iter().collect();
        lines.sort_by_key(|(name, _)| name.span().start);
        for (name, value) in lines {
            let key = format!("{prefix}{}", name.get_ref());
            let origin = self.origin(name.span().start);
            if let Some(setting) = self.settings.iter().find(|s| s.key == key) {
                match raw(setting.shape, value.get_ref()) {
                    Ok(raw) => self.found.push((setting, raw, origin)),
                    Err(why) => self.issues.push(ConfigIssue::value(setting, &origin, None, why)),
                }
                continue;
            }
            let inner = format!("{key}.");
            match value.get_ref() {
                DeValue::Table(table) if self.settings.iter().any(|s| s.key.starts_with(&inner)) => {
                    self.table(&inner, table);
                }
                DeValue::Table(table) if !table.is_empty() => self.unknown_table(&key, table),
                _ => self.issues.push(ConfigIssue::unknown(self.settings, &origin, "setting", &key, spelled)),
            }
        }
    }

    /// Reports each key of an unknown table, because each may belong to another table.
    fn unknown_table(&mut self, key: &str, table: &DeTable<'_>) {
        for name in table.keys() {
            let origin = self.origin(name.span().start);
            let key = format!("{key}.{}", name.get_ref());
            self.issues.push(ConfigIssue::unknown(self.settings, &origin, "setting", &key, spelled));
        }
    }
}

/// How the file writes the name of a setting.
fn spelled(setting: &Setting) -> String {
    match setting.key.split_once('.') {
        Some((table, key)) => format!("{key} under [{table}]"),
        None => setting.key.into(),
    }
}

/// A table of texts, or of such tables, as JSON.
fn json(table: &DeTable<'_>) -> Option<serde_json::Value> {
    let fields = table.iter().map(|(name, value)| {
        let value = match value.get_ref() {
            DeValue::String(text) => serde_json::Value::from(text.as_ref()),
            DeValue::Table(table) => json(table)?,
            _ => return None,
        };
        Some((name.get_ref().to_string(), value))
    });
    fields.collect::<Option<serde_json::Map<_, _>>>().map(serde_json::Value::Object)
}

/// A value as it was written, or why it has the wrong shape.
fn raw(shape: Shape, value: &DeValue<'_>) -> Result<Raw, &'static str> {
    match (shape, value) {
        (Shape::Text, DeValue::String(text)) => Ok(Raw::Text(text.to_string())),
        (Shape::Text, _) => Err("it must be text in quotes."),
        (Shape::Number, DeValue::Integer(number)) => i128::from_str_radix(number.as_str(), number.radix())
            .map(|number| Raw::Text(number.to_string()))
            .map_err(|_| "it must be a smaller number."),
        (Shape::Number, _) => Err("it must be a whole number without quotes."),
        (Shape::Switch, DeValue::Boolean(on)) => Ok(Raw::Text(on.to_string())),
        (Shape::Switch, _) => Err("it must be true or false, without quotes."),
        (Shape::List, DeValue::Array(parts)) => parts
            .iter()
            .map(|part| part.get_ref().as_str().map(str::to_owned))
            .collect::<Option<_>>()
            .map(Raw::Parts)
            .ok_or("it must be a list of texts in quotes."),
        (Shape::Table, DeValue::Table(table)) => {
            Ok(Raw::Text(json(table).ok_or("it must have texts, or tables of texts.")?.to_string()))
        }
        (Shape::Table, _) => Err("it must be a table, such as { \"3.11\" = \"…\" }."),
        (Shape::List, _) => Err("it must be a list: texts in quotes, with commas between them, in brackets."),
    }
}
