//! Descriptions of the API are read alone, in a page or in a generated client: each says what it speaks of.

use serde_json::Value;

/// Words that are in place of a noun of another sentence.
const PRONOUNS: [&str; 8] = ["It", "Its", "They", "Them", "Their", "He", "She", "The one"];

/// Words that are so when a verb follows.
const DEMONSTRATIVES: [&str; 4] = ["This", "That", "These", "Those"];
const VERBS: [&str; 8] = ["is", "was", "are", "were", "has", "have", "does", "that"];

#[test]
fn no_description_of_the_api_begins_with_a_pronoun() {
    let document: Value = serde_json::from_str(api::openapi_document()).unwrap();
    let mut all = Vec::new();
    descriptions(&document, "", &mut all);
    all.extend(descriptions_of_schema(&api::graphql::sdl()));
    assert!(all.len() > 300, "only {} descriptions were read", all.len());
    let bad: Vec<_> =
        all.iter().filter(|(_, text)| begins_with_pronoun(text)).map(|(at, t)| format!("{at}: {t}")).collect();
    assert!(bad.is_empty(), "{} descriptions begin with a pronoun:\n  {}", bad.len(), bad.join("\n  "));
}

#[test]
fn a_description_with_a_pronoun_is_found_wherever_it_is() {
    let document = serde_json::json!({
        "paths": {"/x": {"get": {"summary": "Reads it.", "responses": {"200": {"description": "It is stored."}}}}},
        "components": {"schemas": {"A": {"description": "The ones that run.", "properties": {
            "description": {"type": "string", "description": "Its text."}}}}},
    });
    let mut all = Vec::new();
    descriptions(&document, "", &mut all);
    let mut bad: Vec<_> =
        all.iter().filter(|(_, text)| begins_with_pronoun(text)).map(|(_, text)| text.as_str()).collect();
    bad.sort_unstable();
    assert_eq!(bad, ["It is stored.", "Its text."]);
    let schema = "\"\"\"\nThis is a job.\n\"\"\"\ntype A {\n\t\"\"\"\n\tThe name\n\t\"\"\"\n\tname: String\n}\n";
    let texts: Vec<_> = descriptions_of_schema(schema).into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, ["This is a job.", "The name"]);
    for (text, expected) in [
        ("This is a job.", true),
        ("The one that runs.", true),
        ("Items.", false),
        ("This service", false),
        ("Those that run.", true),
    ] {
        assert_eq!(begins_with_pronoun(text), expected, "{text}");
    }
}

/// Every `description` and `summary` of a document that is a text, with where it is.
fn descriptions(value: &Value, at: &str, all: &mut Vec<(String, String)>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let at = format!("{at}/{name}");
                match member {
                    Value::String(text) if name == "description" || name == "summary" => all.push((at, text.clone())),
                    _ => descriptions(member, &at, all),
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                descriptions(item, &format!("{at}/{index}"), all);
            }
        }
        _ => {}
    }
}

/// The descriptions of a GraphQL schema: texts between three quotes.
fn descriptions_of_schema(sdl: &str) -> Vec<(String, String)> {
    let mut texts = sdl.split("\"\"\"").skip(1).step_by(2);
    std::iter::from_fn(|| Some(("schema".to_owned(), texts.next()?.trim().to_owned()))).collect()
}

fn begins_with_pronoun(text: &str) -> bool {
    let after = |word: &str| {
        text.strip_prefix(word).filter(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '-'))
    };
    PRONOUNS.iter().any(|pronoun| after(pronoun).is_some())
        || DEMONSTRATIVES
            .iter()
            .filter_map(|word| after(word))
            .any(|rest| VERBS.contains(&rest.split_whitespace().next().unwrap_or_default()))
}
