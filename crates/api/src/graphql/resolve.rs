//! Answers that are there at once.
//!
//! A page has thousands of fields, and all of them are known when its rows are read. The library would wait for each of
//! them by itself, which costs more than reading the rows; here a selection is read once and walked for each object.

use std::{
    borrow::Cow,
    cell::{Cell, OnceCell},
    collections::HashMap,
};

use app::memory::RequestMemory;
use async_graphql::{
    ContextSelectionSet, Name, OutputType, Positioned, ServerResult, Value,
    indexmap::IndexMap,
    parser::types::{Field, FragmentDefinition, Selection as Selected, SelectionSet},
    registry::Registry,
};
use jiff::Timestamp;
use model::Problem;

use super::RequestData;

/// Memory of a value: itself, and its place in a list or an object.
pub(super) const VALUE_BYTES: usize = 128;

/// The bytes that are counted before they are reserved.
const STEP_BYTES: usize = 32 * 1024;

/// Counts the bytes of an answer while it is made. Once they are too many, the rest of the answer is null.
pub(super) struct Meter<'a> {
    memory: &'a RequestMemory,
    pending_bytes: Cell<usize>,
    refused: OnceCell<Problem>,
}

impl<'a> Meter<'a> {
    pub(super) fn new(memory: &'a RequestMemory) -> Self {
        Self { memory, pending_bytes: Cell::new(0), refused: OnceCell::new() }
    }

    /// Counts so many values with the bytes of their texts. `false` when they are too many.
    fn holds(&self, values: usize, text_bytes: usize) -> bool {
        let pending_bytes = self.pending_bytes.get() + values * VALUE_BYTES + text_bytes;
        self.pending_bytes.set(pending_bytes);
        pending_bytes < STEP_BYTES && self.refused.get().is_none() || self.reserve()
    }

    fn reserve(&self) -> bool {
        if self.refused.get().is_some() {
            return false;
        }
        match self.memory.add(self.pending_bytes.take()) {
            Ok(()) => true,
            Err(problem) => {
                let _ = self.refused.set(problem);
                false
            }
        }
    }

    /// Why the answer is not whole.
    pub(super) fn refused(self) -> Option<Problem> {
        self.reserve();
        self.refused.into_inner()
    }
}

/// What is selected of an object: the key of the answer, the field, and what is selected below it.
#[derive(Debug, Default)]
pub(super) struct Selection(Vec<(Name, Name, Selection)>);

impl Selection {
    fn of(ctx: &ContextSelectionSet<'_>) -> Self {
        let mut selection = Self::default();
        selection.add(&ctx.item.node, &ctx.query_env.fragments);
        selection
    }

    /// Adds a set. Fragments are of the object's own type, for there are neither interfaces nor unions here. What is
    /// selected twice under one key is one field with all that is selected below it.
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

    /// The answer of an object with this name, field by field.
    pub(super) fn object(&self, type_name: &str, meter: &Meter<'_>, field: impl Fn(&str, &Self) -> Value) -> Value {
        if self.0.is_empty() || !meter.holds(self.0.len(), 0) {
            return Value::Null;
        }
        let mut object = IndexMap::with_capacity(self.0.len());
        for (key, name, below) in &self.0 {
            let value =
                if name == "__typename" { Value::String(type_name.into()) } else { field(name.as_str(), below) };
            object.insert(key.clone(), value);
        }
        Value::Object(object)
    }
}

/// What can be answered without waiting.
pub(super) trait ResolveSync {
    /// The answer to a selection; scalars have none.
    fn answer(&self, selection: &Selection, meter: &Meter<'_>) -> Value;
}

/// Has the fields of an object answered from its members, under the names that the schema has.
macro_rules! resolve {
    ($object:ident { $($name:literal: $member:ident),+ $(,)? }) => {
        impl $crate::graphql::resolve::ResolveSync for $object {
            fn answer(
                &self,
                selection: &$crate::graphql::resolve::Selection,
                meter: &$crate::graphql::resolve::Meter<'_>,
            ) -> async_graphql::Value {
                selection.object(stringify!($object), meter, |name, below| match name {
                    $($name => self.$member.answer(below, meter),)+
                    _ => async_graphql::Value::Null,
                })
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
    fn answer(&self, _: &Selection, meter: &Meter<'_>) -> Value {
        if meter.holds(0, self.len()) { Value::String(self.clone()) } else { Value::Null }
    }
}

macro_rules! scalars {
    ($($scalar:ty),+) => {
        $(impl ResolveSync for $scalar {
            fn answer(&self, _: &Selection, _: &Meter<'_>) -> Value {
                Value::from(*self)
            }
        })+
    };
}
scalars!(bool, i32, i64, f64);

impl<T: ResolveSync> ResolveSync for Option<T> {
    fn answer(&self, selection: &Selection, meter: &Meter<'_>) -> Value {
        self.as_ref().map_or(Value::Null, |present| present.answer(selection, meter))
    }
}

impl<T: ResolveSync> ResolveSync for Box<T> {
    fn answer(&self, selection: &Selection, meter: &Meter<'_>) -> Value {
        T::answer(self, selection, meter)
    }
}

impl<T: ResolveSync> ResolveSync for Vec<T> {
    fn answer(&self, selection: &Selection, meter: &Meter<'_>) -> Value {
        if !meter.holds(self.len(), 0) {
            return Value::Null;
        }
        Value::List(self.iter().map(|element| element.answer(selection, meter)).collect())
    }
}

/// An instant that is written when it is selected.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rfc3339(pub(super) Timestamp);

impl ResolveSync for Rfc3339 {
    fn answer(&self, _: &Selection, _: &Meter<'_>) -> Value {
        Value::String(self.0.to_string())
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
        let meter = Meter::new(&ctx.data_unchecked::<RequestData>().memory);
        let answer = self.0.answer(&Selection::of(ctx), &meter);
        match meter.refused() {
            None => Ok(answer),
            Some(problem) => Err(async_graphql::Error::new_with_source(problem).into_server_error(field.pos)),
        }
    }
}

#[cfg(test)]
mod tests {
    use async_graphql::parser::{
        parse_schema,
        types::{TypeKind, TypeSystemDefinition},
    };

    use crate::graphql::{executions, jobs, types};

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
