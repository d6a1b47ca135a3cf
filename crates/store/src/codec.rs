//! Values as rows have them.

use crate::error::{Result, StoreError, corrupt};

/// An instant as rows have it: microseconds since 1970.
pub(crate) fn micros(at: jiff::Timestamp) -> i64 {
    at.as_microsecond()
}

/// An instant from a row.
pub(crate) fn instant(micros: i64) -> Result<jiff::Timestamp> {
    jiff::Timestamp::from_microsecond(micros).map_err(|_| corrupt("an instant out of range"))
}

/// An optional instant from a row.
pub(crate) fn instant_opt(micros: Option<i64>) -> Result<Option<jiff::Timestamp>> {
    micros.map(instant).transpose()
}

/// A value that a row holds as JSON.
pub(crate) fn from_json<T: serde::de::DeserializeOwned>(what: &str, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|_| corrupt(what))
}

/// A value as a row holds it.
pub(crate) fn to_json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("the model's types have string keys and finite numbers")
}

/// Refuses text that only one of the databases could hold.
pub(crate) fn storable<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<()> {
    if texts.into_iter().any(|text| text.contains('\0')) { Err(StoreError::Unstorable) } else { Ok(()) }
}

/// The job id that a row names.
pub(crate) fn job_id(text: &str) -> Result<model::name::JobId> {
    uuid::Uuid::parse_str(text).map(model::name::JobId).map_err(|_| corrupt("a job id"))
}
