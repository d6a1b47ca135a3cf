//! Parts of a response that need no waiting.
//!
//! A page has thousands of fields, and all of them are known when its rows are read. The library would resolve each field in a
//! future of its own and create a value of it, which costs more than reading the rows. Here a selection is read once, and the JSON
//! of each object is written in its order. The library's response contains a placeholder for the text, see [`super::answer::Parts`].

use std::{borrow::Cow, collections::HashMap, io::Write};

use async_graphql::{
    ContextSelectionSet, Name, OutputType, Positioned, ServerResult, Value,
    parser::types::{Field, FragmentDefinition, Selection as Selected, SelectionSet},
    registry::Registry,
    resolver_utils::EnumType,
};
use jiff::Timestamp;
use serde::Serialize;

use super::{RequestData, answer::Chunks};

/// Memory of a value of the library: itself, and its place in a list or an object.
pub(super) const VALUE_BYTES: usize = 128;

/// How many times more memory values take than their JSON.
const VALUES_TO_JSON: usize = 8;

/// The JSON of a part of an answer. Once it is too large, nothing more is written.
pub(super) struct Json<'a>(Chunks<'a>);

impl Json<'_> {
    #[inline]
    fn raw(&mut self, text: &str) {
        self.0.put(text.as_bytes());
    }

    pub(super) fn null(&mut self) {
        self.raw("null");
    }

    /// Writes the name of an enumeration's value.
    pub(super) fn name<T: EnumType>(&mut self, value: T) {
        let item = T::items().iter().find(|item| item.value == value).expect("the derived list has all values");
        self.string(item.name);
    }

    fn value(&mut self, value: &impl Serialize) {
        let _ = serde_json::to_writer(&mut self.0, value);
    }

    fn string(&mut self, text: &str) {
        if text.bytes().any(|byte| byte < b' ' || byte == b'"' || byte == b'\\') {
            return self.value(&text);
        }
        self.raw("\"");
        self.raw(text);
        self.raw("\"");
    }
}

/// The selected fields of an object, each with its key in the response and its own selection.
#[derive(Debug, Default)]
pub(super) struct Selection(Vec<(Name, Name, Selection)>);

impl Selection {
    fn of(ctx: &ContextSelectionSet<'_>) -> Self {
        let mut selection = Self::default();
        selection.add(&ctx.item.node, &ctx.query_env.fragments);
        selection
    }

    /// Adds a set. Fragments have the object's own type, because the schema has neither interfaces nor unions. A field that is
    /// selected twice under one key is one field with the selections of both.
    fn add(&mut self, set: &SelectionSet, fragments: &HashMap<Name, Positioned<FragmentDefinition>>) {
        for selected in &set.items {
            match &selected.node {
                Selected::Field(field) => {
                    let (key, name) = (&field.node.response_key().node, &field.node.name.node);
                    let known = self.0.iter().position(|(other, _, _)| other == key);
                    let at = known.unwrap_or_else(|| {
                        self.0.push((key.clone(), name.clone(), Self::default()));
                        self.0.len() - 1
                    });
                    if let Some((_, _, below)) = self.0.get_mut(at) {
                        below.add(&field.node.selection_set.node, fragments);
                    }
                }
                Selected::FragmentSpread(spread) => {
                    if let Some(fragment) = fragments.get(&spread.node.fragment_name.node) {
                        self.add(&fragment.node.selection_set.node, fragments);
                    }
                }
                Selected::InlineFragment(fragment) => self.add(&fragment.node.selection_set.node, fragments),
            }
        }
    }

    /// Writes an object with this name, field by field.
    pub(super) fn object(
        &self,
        type_name: &str,
        json: &mut Json<'_>,
        mut field: impl FnMut(&str, &Self, &mut Json<'_>),
    ) {
        if self.0.is_empty() {
            return json.raw("null");
        }
        let mut before = "{\"";
        for (key, name, below) in &self.0 {
            json.raw(before);
            // Names of GraphQL have nothing that JSON escapes.
            json.raw(key);
            json.raw("\":");
            if name == "__typename" {
                json.string(type_name);
            } else {
                field(name.as_str(), below, json);
            }
            before = ",\"";
        }
        json.raw("}");
    }
}

/// A value that can be written without waiting.
pub(super) trait ResolveSync {
    /// Writes the answer to a selection; scalars have none.
    fn answer(&self, selection: &Selection, json: &mut Json<'_>);
}

/// Has the fields of an object answered from its members, under the names that the schema has.
macro_rules! resolve {
    ($object:ident { $($name:literal: $member:ident),+ $(,)? }) => {
        impl $crate::graphql::resolve::ResolveSync for $object {
            fn answer(
                &self,
                selection: &$crate::graphql::resolve::Selection,
                json: &mut $crate::graphql::resolve::Json<'_>,
            ) {
                selection.object(stringify!($object), json, |name, below, json| match name {
                    $($name => self.$member.answer(below, json),)+
                    _ => json.null(),
                });
            }
        }

        #[cfg(test)]
        impl $object {
            /// The fields that are answered.
            pub(super) const FIELDS: &'static [&'static str] = &[$($name),+];
        }
    };
}
pub(super) use resolve;

impl ResolveSync for String {
    fn answer(&self, _: &Selection, json: &mut Json<'_>) {
        json.string(self);
    }
}

macro_rules! scalars {
    ($($scalar:ty),+) => {
        $(impl ResolveSync for $scalar {
            fn answer(&self, _: &Selection, json: &mut Json<'_>) {
                json.value(self);
            }
        })+
    };
}
scalars!(bool, i32, i64, f64);

/// Has an enumeration answered by the names that the schema has.
macro_rules! ready_names {
    ($($object:ident),+) => {
        $(impl $crate::graphql::resolve::ResolveSync for $object {
            fn answer(&self, _: &$crate::graphql::resolve::Selection, json: &mut $crate::graphql::resolve::Json<'_>) {
                json.name(*self);
            }
        })+
    };
}
pub(super) use ready_names;

impl<T: ResolveSync> ResolveSync for Option<T> {
    fn answer(&self, selection: &Selection, json: &mut Json<'_>) {
        match self {
            Some(present) => present.answer(selection, json),
            None => json.null(),
        }
    }
}

impl<T: ResolveSync> ResolveSync for Box<T> {
    fn answer(&self, selection: &Selection, json: &mut Json<'_>) {
        T::answer(self, selection, json);
    }
}

impl<T: ResolveSync> ResolveSync for Vec<T> {
    fn answer(&self, selection: &Selection, json: &mut Json<'_>) {
        json.raw("[");
        for (place, element) in self.iter().enumerate() {
            if place > 0 {
                json.raw(",");
            }
            element.answer(selection, json);
        }
        json.raw("]");
    }
}

/// An instant that is written when it is selected.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rfc3339(pub(super) Timestamp);

impl ResolveSync for Rfc3339 {
    fn answer(&self, _: &Selection, json: &mut Json<'_>) {
        // An error stays in the chunks.
        let _ = write!(json.0, "\"{}\"", self.0);
    }
}

impl OutputType for Rfc3339 {
    fn type_name() -> Cow<'static, str> {
        <String as OutputType>::type_name()
    }

    fn create_type_info(registry: &mut Registry) -> String {
        <String as OutputType>::create_type_info(registry)
    }

    async fn resolve(&self, _: &ContextSelectionSet<'_>, _: &Positioned<Field>) -> ServerResult<Value> {
        Ok(Value::String(self.0.to_string()))
    }
}

/// A part of the schema that is answered at once, with all that is below it.
pub(super) struct Eager<T>(pub(super) T);

impl<T: OutputType + ResolveSync> OutputType for Eager<T> {
    fn type_name() -> Cow<'static, str> {
        T::type_name()
    }

    fn qualified_type_name() -> String {
        T::qualified_type_name()
    }

    fn create_type_info(registry: &mut Registry) -> String {
        T::create_type_info(registry)
    }

    async fn resolve(&self, ctx: &ContextSelectionSet<'_>, field: &Positioned<Field>) -> ServerResult<Value> {
        let asked = ctx.data_unchecked::<RequestData>();
        let mut json = Json(Chunks::new(&asked.memory));
        self.0.answer(&Selection::of(ctx), &mut json);
        let failed = |problem| async_graphql::Error::new_with_source(problem).into_server_error(field.pos);
        let part = json.0.finish().map_err(failed)?;
        if !asked.merges {
            return Ok(asked.parts.add(part));
        }
        // The library merges what is selected twice under one name.
        let text = part.concat();
        asked.memory.add(text.len().saturating_mul(VALUES_TO_JSON)).map_err(failed)?;
        Ok(serde_json::from_slice(&text).expect("it is JSON"))
    }
}

#[cfg(test)]
mod tests {
    use app::memory::MemoryBudget;
    use async_graphql::parser::{
        parse_schema,
        types::{TypeKind, TypeSystemDefinition},
    };

    use super::*;
    use crate::graphql::{executions, jobs, types};

    #[test]
    fn texts_are_escaped_as_json_has_it() {
        let memory = MemoryBudget::new(1).for_request(usize::MAX);
        for text in ["", "plain", "grüße \u{1F600}", "a \"quote\"", "C:\\path", "line\nfeed\t\u{1}\u{1f}\u{7f}"] {
            let mut json = Json(Chunks::new(&memory));
            json.string(text);
            assert_eq!(json.0.finish().unwrap().concat(), serde_json::to_vec(text).unwrap(), "{text:?}");
        }
    }

    #[test]
    fn each_field_of_the_schema_is_answered() {
        let schema = parse_schema(crate::graphql::sdl()).unwrap();
        let known = [jobs::FIELDS, executions::FIELDS, types::FIELDS].concat();
        let mut checked = 0;
        for definition in schema.definitions {
            let TypeSystemDefinition::Type(definition) = definition else { continue };
            let TypeKind::Object(object) = &definition.node.kind else { continue };
            let Some((_, fields)) = known.iter().find(|(name, _)| *name == definition.node.name.node) else { continue };
            let asked: Vec<_> = object.fields.iter().map(|field| field.node.name.node.to_string()).collect();
            let mut missing = asked.clone();
            missing.retain(|name| !fields.contains(&name.as_str()));
            assert_eq!(missing, Vec::<String>::new(), "{}", definition.node.name);
            assert_eq!(asked.len(), fields.len(), "{}", definition.node.name);
            checked += 1;
        }
        assert_eq!(checked, known.len());
    }
}
