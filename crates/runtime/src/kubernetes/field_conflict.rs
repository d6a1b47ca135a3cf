//! Fields with other writers: those that others own, and field conflicts.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// The period in which reverts of a field are counted.
const WINDOW: SignedDuration = SignedDuration::from_mins(10);

/// The most reverts of a field in that period. One more change means that another writer owns the field.
const PUT_BACK_MAX: usize = 3;

/// The most fields that are remembered; of a larger change only the first ones are.
const FIELDS_MAX: usize = 16;

/// The reverted fields of an object, and the instants of the reverts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reverts(BTreeMap<String, Field>);

/// A field by its JSON pointer (RFC 6901).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Field {
    /// In seconds since 1970, ascending.
    at_seconds: Vec<i64>,
    /// Of the value after the revert.
    value_hash: String,
}

impl Reverts {
    /// Returns the field that reached the most reverts and was changed again, in the form `spec.schedule`.
    pub(crate) fn field_conflict(&self, live: &Value, now: Timestamp) -> Option<String> {
        let since = (now - WINDOW).as_second();
        self.0
            .iter()
            .find(|(pointer, field)| {
                let recent = field.at_seconds.iter().filter(|at| **at > since).count();
                recent >= PUT_BACK_MAX && value_hash(live.pointer(pointer)) != field.value_hash
            })
            .map(|(pointer, _)| format!("spec{}", pointer.replace('/', ".")))
    }

    /// Remembers the fields that a write reverted, and forgets old reverts.
    pub(crate) fn add(&mut self, before: &Value, after: &Value, now: Timestamp) {
        let since = (now - WINDOW).as_second();
        for field in self.0.values_mut() {
            field.at_seconds.retain(|at| *at > since);
        }
        self.0.retain(|_, field| !field.at_seconds.is_empty());
        let mut pointers = Vec::new();
        differences(before, after, String::new(), &mut pointers);
        for pointer in pointers {
            let value_hash = value_hash(after.pointer(&pointer));
            if !self.0.contains_key(&pointer) && self.0.len() >= FIELDS_MAX {
                continue;
            }
            let field = self.0.entry(pointer).or_insert(Field { at_seconds: Vec::new(), value_hash: String::new() });
            field.value_hash = value_hash;
            field.at_seconds.push(now.as_second());
        }
    }
}

fn value_hash(value: Option<&Value>) -> String {
    let text = value.map(ToString::to_string).unwrap_or_default();
    hex::encode(&Sha256::digest(text)[..8])
}

/// The deepest fields in which two values differ. Lists of different lengths differ as a whole.
fn differences(before: &Value, after: &Value, pointer: String, found: &mut Vec<String>) {
    if before == after || found.len() >= FIELDS_MAX {
        return;
    }
    match (before, after) {
        (Value::Object(one), Value::Object(other)) => {
            let mut names: Vec<_> = one.keys().chain(other.keys()).collect();
            names.sort_unstable();
            names.dedup();
            for name in names {
                let of = |map: &serde_json::Map<String, Value>| map.get(name).cloned().unwrap_or(Value::Null);
                let escaped = name.replace('~', "~0").replace('/', "~1");
                differences(&of(one), &of(other), format!("{pointer}/{escaped}"), found);
            }
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            for (index, (one, other)) in one.iter().zip(other).enumerate() {
                differences(one, other, format!("{pointer}/{index}"), found);
            }
        }
        _ => found.push(pointer),
    }
}

/// Copies these fields from `live`, and removes those that `live` lacks.
pub(crate) fn carry_over(wanted: &mut Value, live: &Value, pointers: &[String]) {
    for pointer in pointers {
        let Some((parent, name)) = pointer.rsplit_once('/') else { continue };
        let name = name.replace("~1", "/").replace("~0", "~");
        match (wanted.pointer_mut(parent), live.pointer(pointer)) {
            (Some(Value::Object(fields)), Some(value)) => drop(fields.insert(name, value.clone())),
            (Some(Value::Object(fields)), None) => drop(fields.remove(&name)),
            (Some(Value::Array(entries)), Some(value)) => {
                if let Some(entry) = name.parse().ok().and_then(|index: usize| entries.get_mut(index)) {
                    *entry = value.clone();
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: Timestamp = Timestamp::constant(1_900_000_000, 0);

    fn minutes(count: i64) -> Timestamp {
        NOW + SignedDuration::from_mins(count)
    }

    #[test]
    fn a_field_is_reverted_three_times_in_ten_minutes() {
        let (ours, theirs) = (json!({"schedule": "0 1 * * *", "suspend": false}), json!({"schedule": "* * * * *"}));
        let mut reverts = Reverts::default();
        for minute in 0..3 {
            assert_eq!(reverts.field_conflict(&theirs, minutes(minute)), None);
            reverts.add(&theirs, &ours, minutes(minute));
        }
        assert_eq!(reverts.field_conflict(&theirs, minutes(3)).as_deref(), Some("spec.schedule"));
        assert_eq!(reverts.field_conflict(&ours, minutes(3)), None, "it was not changed again");
        let other = json!({"schedule": "0 1 * * *", "suspend": false, "startingDeadlineSeconds": 5});
        assert_eq!(reverts.field_conflict(&other, minutes(3)), None, "another field is reverted");
        assert_eq!(reverts.field_conflict(&theirs, minutes(10)), None, "the first time is long ago");
        reverts.add(&theirs, &ours, minutes(10));
        assert_eq!(reverts.field_conflict(&theirs, minutes(10)).as_deref(), Some("spec.schedule"));
    }

    #[test]
    fn fields_are_reported_by_the_deepest_that_differs() {
        let find = |before: Value, after: Value| {
            let mut found = Vec::new();
            differences(&before, &after, String::new(), &mut found);
            found
        };
        assert_eq!(
            find(json!({"a": {"b/c": [{"d": 1}, 2]}}), json!({"a": {"b/c": [{"d": 3}, 2]}, "e": 1})),
            ["/a/b~1c/0/d", "/e"]
        );
        assert_eq!(find(json!({"a": [1]}), json!({"a": [1, 2]})), ["/a"]);
        let many: Value = (0..100).map(|n| (n.to_string(), Value::from(n))).collect::<serde_json::Map<_, _>>().into();
        assert_eq!(find(json!({}), many).len(), FIELDS_MAX);
    }

    #[test]
    fn what_others_may_keep_is_theirs_whether_it_is_there_or_not() {
        let mut wanted = json!({"suspend": false, "template": {"containers": [{"image": "ours"}]}});
        let live = json!({"template": {"node": "theirs", "containers": [{"image": "theirs"}]}});
        let pointers =
            ["/suspend", "/template/node", "/template/containers/0/image", "/template/containers/7/image", "/no/way"]
                .map(String::from);
        carry_over(&mut wanted, &live, &pointers);
        assert_eq!(wanted, json!({"template": {"node": "theirs", "containers": [{"image": "theirs"}]}}));
    }
}
