//! The JSON Schema of `holdfast.toml`, for editors and for the values of the Helm chart.

use serde_json::{Map, Value as Json, json};

use super::{table::SETTINGS, value::Shape};

/// The schema. It has each key with its type, and no range: the program checks values when it starts.
pub(crate) fn schema() -> Json {
    let mut root = Map::new();
    for setting in SETTINGS {
        let mut property = match setting.shape {
            Shape::Text => json!({"type": "string"}),
            Shape::Number => json!({"type": "integer"}),
            Shape::Switch => json!({"type": "boolean"}),
            Shape::List => json!({"type": "array", "items": {"type": "string"}}),
            Shape::Table => json!({"type": "object"}),
        };
        property["description"] = setting.summary().replace('`', "").into();
        match setting.key.split_once('.') {
            None => root.insert(setting.key.to_owned(), property),
            Some((table, key)) => {
                let table = root.entry(table).or_insert_with(|| closed(&Map::new()));
                table["properties"][key] = property;
                None
            }
        };
    }
    let mut schema = closed(&root);
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema
}

/// An object with no other keys than these.
fn closed(properties: &Map<String, Json>) -> Json {
    json!({"type": "object", "additionalProperties": false, "properties": properties})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_has_each_setting_with_its_type_and_admits_no_other() {
        let schema = schema();
        for setting in SETTINGS {
            let pointer = format!("/properties/{}", setting.key.replace('.', "/properties/"));
            let property = schema.pointer(&pointer).unwrap_or_else(|| panic!("{pointer}"));
            assert!(property["description"].as_str().is_some_and(|text| !text.is_empty()), "{pointer}");
        }
        assert_eq!(schema["properties"]["auth"]["properties"]["issuers"]["type"], "array");
        assert_eq!(schema["properties"]["lease_seconds"]["type"], "integer");
        assert_eq!(schema["properties"]["auth"]["additionalProperties"], false);
        assert_eq!(schema["additionalProperties"], false);
    }
}
