//! Values of upstream's chart as values of Holdfast's.

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value as Json, json};

/// The conversion of a value: values with their paths below the target; a blank path is the target.
pub(super) type Converted = Result<Vec<(&'static str, Json)>>;

/// How a value is converted.
pub(super) type Convert = fn(&Json) -> Converted;

#[expect(clippy::unnecessary_wraps, reason = "conversions return it")]
fn one(value: impl Into<Json>) -> Converted {
    Ok(vec![("", value.into())])
}

/// A value as text: YAML numbers may be meant as texts.
fn text(value: &Json) -> Result<String> {
    match value {
        Json::String(text) => Ok(text.trim().to_owned()),
        Json::Number(number) => Ok(number.to_string()),
        other => bail!("{other} is not a text"),
    }
}

pub(super) fn same(value: &Json) -> Converted {
    one(value.clone())
}

pub(super) fn as_text(value: &Json) -> Converted {
    one(text(value)?)
}

pub(super) fn lower_case(value: &Json) -> Converted {
    one(text(value)?.to_lowercase())
}

pub(super) fn number(value: &Json) -> Converted {
    one(text(value)?.parse::<i64>().context("it is not a whole number")?)
}

/// A list with commas, or a YAML list, as a list.
pub(super) fn list(value: &Json) -> Converted {
    let parts: Vec<String> = match value {
        Json::Array(parts) => parts.iter().map(text).collect::<Result<_>>()?,
        other => text(other)?.split(',').map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect(),
    };
    one(json!(parts))
}

pub(super) fn switch(value: &Json) -> Converted {
    match value {
        Json::Bool(on) => one(*on),
        Json::String(text) if text == "true" || text == "false" => one(text == "true"),
        other => bail!("{other} is neither true nor false"),
    }
}

/// A quantity of CPU as thousandths of a core.
pub(super) fn millicores(value: &Json) -> Converted {
    let text = text(value)?;
    let number = |text: &str| text.parse::<f64>().ok().filter(|number| number.is_finite() && *number > 0.0);
    let millicores = match text.strip_suffix('m') {
        Some(text) => number(text),
        None => number(&text).map(|cores| cores * 1000.0),
    };
    whole(millicores.with_context(|| format!("{text} is not a quantity of CPU"))?)
}

/// A quantity of memory as mebibytes, rounded up.
pub(super) fn mebibytes(value: &Json) -> Converted {
    const UNITS: [(&str, f64); 9] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("", 1.0),
    ];
    let text = text(value)?;
    let bytes = UNITS.iter().find_map(|(unit, bytes)| {
        let number = text.strip_suffix(unit)?.parse::<f64>().ok()?;
        (number.is_finite() && number > 0.0).then_some(number * bytes)
    });
    whole((bytes.with_context(|| format!("{text} is not a quantity of memory"))? / 1_048_576.0).ceil())
}

#[expect(clippy::cast_possible_truncation, reason = "the range is checked")]
fn whole(number: f64) -> Converted {
    if !(1.0..1e9).contains(&number) {
        bail!("{number} is out of range");
    }
    one(number.round() as i64)
}

/// Seconds as days, rounded up.
pub(super) fn days(value: &Json) -> Converted {
    let seconds: u64 = text(value)?.parse().context("it is not a number of seconds")?;
    one(seconds.div_ceil(86_400).max(1))
}

/// A template with `{{name}}` as one with `{name}`.
pub(super) fn url_template(value: &Json) -> Converted {
    one(text(value)?.replace("{{", "{").replace("}}", "}"))
}

pub(super) fn principal_pattern(value: &Json) -> Converted {
    one(text(value)?.replace("%(data_job)", "{job}"))
}

/// Images per Python version, without those of builders.
pub(super) fn base_images(value: &Json) -> Converted {
    let versions = value.as_object().context("it is not a map of Python versions")?;
    let mut images = Map::new();
    for (version, given) in versions {
        let mut kept = Map::new();
        for key in ["baseImage", "vdkImage"] {
            if let Some(image) = given.get(key) {
                kept.insert(key.into(), image.clone());
            }
        }
        images.insert(version.clone(), kept.into());
    }
    one(images)
}

/// The first host and its certificate.
pub(super) fn first_host(value: &Json) -> Converted {
    let first = value.get(0).context("it is not a list of hosts")?;
    let mut converted = vec![("host", text(&first["name"]).context("a host has no name")?.into())];
    if let Some(secret) = first.get("tlsSecretName") {
        converted.push(("tlsSecret", secret.clone()));
    }
    Ok(converted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_of_kubernetes_become_numbers_in_the_unit_of_the_setting() {
        for (given, expected) in [(json!("500m"), 500), (json!(2), 2000), (json!("0.25"), 250)] {
            assert_eq!(millicores(&given).unwrap()[0].1, json!(expected), "{given}");
        }
        for (given, expected) in [
            (json!("1G"), 954),
            (json!("1000Mi"), 1000),
            (json!("2Gi"), 2048),
            (json!(1_048_577), 2),
            (json!("1Ki"), 1),
        ] {
            assert_eq!(mebibytes(&given).unwrap()[0].1, json!(expected), "{given}");
        }
        for bad in [json!(""), json!("8gi"), json!("-1"), json!([]), json!("inf")] {
            assert!(mebibytes(&bad).is_err() && millicores(&bad).is_err(), "{bad}");
        }
    }
}
