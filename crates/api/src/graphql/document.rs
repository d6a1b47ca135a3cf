//! The size of a document, before it is validated and executed: linear in its text, whatever it expands to.
//!
//! The GraphQL library validates a fragment as often as it is spread, so a few hundred bytes can expand to billions of
//! fields. Here each fragment is measured once, and its size is added wherever it is spread.

use std::collections::{HashMap, HashSet};

use async_graphql::{
    Positioned, Value as ConstValue, Variables,
    parser::types::{Directive, ExecutableDocument, Field, OperationDefinition, Selection, SelectionSet},
};
use async_graphql_value::Value;
use model::{Problem, problem::Code};

/// The most fields, spreads and directives of a document, over all operations and fragments, each fragment as often as it
/// is spread.
pub(super) const FIELDS_MAX: usize = 2000;

/// How deep fragments may spread others. Introspection of the explorers in use needs 3.
pub(super) const FRAGMENT_DEPTH_MAX: usize = 8;

/// The most values in arguments, counted as fields are, a variable with all that is in it.
pub(super) const VALUES_MAX: usize = 20_000;

/// The most pages (`jobs` and `executions`) of one operation.
pub(super) const PAGES_MAX: usize = 3;

/// The most jobs and executions that the pages of one operation may answer.
pub(super) const ROWS_MAX: usize = 12_000;

/// The most values that an operation may answer, as far as page sizes and the schema tell.
pub(super) const ANSWERS_MAX: usize = 400_000;

/// The page sizes of the schema where the query names none.
pub(super) const JOBS_DEFAULT: i64 = 20;
pub(super) const EXECUTIONS_DEFAULT: i64 = app::queries::PAGE_MAX;
pub(super) const NESTED_DEFAULT: i64 = 100;

/// The lists of introspection, each with at least as many members as most types have: they lead back to types, so that
/// nesting them multiplies.
const INTROSPECTION_LISTS: [(&str, usize); 8] = [
    ("types", 40),
    ("fields", 12),
    ("args", 6),
    ("inputFields", 8),
    ("enumValues", 8),
    ("directives", 8),
    ("locations", 8),
    ("possibleTypes", 2),
];

/// The size of a document and of its largest possible answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Size {
    /// Fields, spreads and directives.
    pub(super) fields: usize,
    /// Values in arguments.
    pub(super) values: usize,
    /// How deep fragments spread others.
    pub(super) nesting: usize,
    /// Pages of the largest operation.
    pub(super) pages: usize,
    /// Jobs and executions of the largest operation.
    pub(super) rows: usize,
    /// Values in the answer of the largest operation.
    pub(super) answers: usize,
    /// Those of them that say something of the schema.
    pub(super) introspected: usize,
}

impl Size {
    /// The cost of the document in a caller's limits: its rows and its fields.
    pub(super) fn cost(&self) -> u64 {
        u64::try_from(self.rows.saturating_add(self.fields)).unwrap_or(u64::MAX)
    }

    /// Adds the size of a neighbour.
    fn add(&mut self, other: Self) {
        self.fields = self.fields.saturating_add(other.fields);
        self.values = self.values.saturating_add(other.values);
        self.nesting = self.nesting.max(other.nesting);
        self.pages = self.pages.saturating_add(other.pages);
        self.rows = self.rows.saturating_add(other.rows);
        self.answers = self.answers.saturating_add(other.answers);
        self.introspected = self.introspected.saturating_add(other.introspected);
    }

    fn check(&self) -> Result<(), Problem> {
        for (name, measured, most) in [
            ("fields, fragments and directives", self.fields, FIELDS_MAX),
            ("values in arguments", self.values, VALUES_MAX),
            ("levels of fragments within fragments", self.nesting, FRAGMENT_DEPTH_MAX),
            ("pages (jobs and executions)", self.pages, PAGES_MAX),
            ("jobs and executions", self.rows, ROWS_MAX),
            ("values in the answer", self.answers, ANSWERS_MAX),
        ] {
            if measured > most {
                return Err(too_large(format!("The query has too many {name} (limit {most}).")));
            }
        }
        Ok(())
    }
}

fn too_large(why: String) -> Problem {
    Problem::new(Code::GraphqlQueryTooLarge, "The query was rejected.", why)
        .nothing_returned()
        .fix("Request fewer fields, smaller pages or fewer pages per query.")
}

/// Measures a document.
///
/// # Errors
/// Invalid when it is larger than a limit, or its fragments spread each other in a circle.
pub(super) fn measure(document: &ExecutableDocument, variables: &Variables) -> Result<Size, Problem> {
    Ruler::new(document, variables).measure()
}

/// Whether the library has to merge what is selected of pages: two fields of an operation, or of a page, have one name in the
/// answer. The document was measured, so that its fragments end.
pub(super) fn merges(document: &ExecutableDocument) -> bool {
    document.operations.iter().any(|(_, operation)| {
        let pages = fields(document, &operation.node.selection_set.node);
        repeats(&pages) || pages.iter().any(|page| repeats(&fields(document, &page.selection_set.node)))
    })
}

fn repeats(fields: &[&Field]) -> bool {
    let mut names = HashSet::new();
    !fields.iter().all(|field| names.insert(&field.response_key().node))
}

/// The fields of a set, those of fragments included.
fn fields<'a>(document: &'a ExecutableDocument, set: &'a SelectionSet) -> Vec<&'a Field> {
    let of_one = |selected: &'a Positioned<Selection>| match &selected.node {
        Selection::Field(field) => vec![&field.node],
        Selection::InlineFragment(fragment) => fields(document, &fragment.node.selection_set.node),
        Selection::FragmentSpread(spread) => document
            .fragments
            .get(&spread.node.fragment_name.node)
            .map(|fragment| fields(document, &fragment.node.selection_set.node))
            .unwrap_or_default(),
    };
    set.items.iter().flat_map(of_one).collect()
}

/// The size of a variable's value, and its number if it is one.
#[derive(Debug, Clone, Copy)]
struct Variable {
    /// The values in it.
    values: usize,
    /// The number that it is.
    number: Option<i64>,
}

impl Variable {
    fn of(value: &ConstValue) -> Self {
        let number = if let ConstValue::Number(number) = value { number.as_i64() } else { None };
        Self { values: values_in(value), number }
    }

    /// Whichever of two makes a document larger.
    fn or(self, other: Self) -> Self {
        Self { values: self.values.max(other.values), number: self.number.max(other.number) }
    }
}

/// Measures one document.
struct Ruler<'a> {
    document: &'a ExecutableDocument,
    /// The values of the request; of what it does not name, the largest default of any operation.
    variables: HashMap<&'a str, Variable>,
    /// The fragments that were measured; `None` while one is.
    fragments: HashMap<&'a str, Option<Size>>,
    /// How often a fragment was walked.
    walks: usize,
}

impl<'a> Ruler<'a> {
    fn new(document: &'a ExecutableDocument, given: &'a Variables) -> Self {
        let mut variables: HashMap<&str, Variable> = HashMap::new();
        for (_, operation) in document.operations.iter() {
            for variable in &operation.node.variable_definitions {
                let Some(value) = &variable.node.default_value else { continue };
                let default = Variable::of(&value.node);
                let known = variables.entry(variable.node.name.node.as_str()).or_insert(default);
                *known = known.or(default);
            }
        }
        variables.extend(given.iter().map(|(name, value)| (name.as_str(), Variable::of(value))));
        Self { document, variables, fragments: HashMap::new(), walks: 0 }
    }

    /// All operations and fragments are validated, and one operation is executed.
    fn measure(&mut self) -> Result<Size, Problem> {
        let document = self.document;
        let mut size = Size::default();
        for (_, operation) in document.operations.iter() {
            let Size { fields, values, nesting, pages, rows, answers, introspected } =
                self.operation(&operation.node)?;
            size.add(Size { fields, values, nesting, ..Size::default() });
            size.pages = size.pages.max(pages);
            size.rows = size.rows.max(rows);
            size.answers = size.answers.max(answers);
            size.introspected = size.introspected.max(introspected);
            size.check()?;
        }
        for name in document.fragments.keys() {
            let Size { fields, values, nesting, .. } = self.fragment(name, 0)?;
            size.add(Size { fields, values, nesting, ..Size::default() });
            size.check()?;
        }
        Ok(size)
    }

    fn operation(&mut self, operation: &'a OperationDefinition) -> Result<Size, Problem> {
        let mut size = self.directives(&operation.directives);
        for variable in &operation.variable_definitions {
            size.add(Size { fields: 1, ..self.directives(&variable.node.directives) });
            let default = variable.node.default_value.as_ref();
            size.values = size.values.saturating_add(default.map_or(0, |value| values_in(&value.node)));
        }
        size.add(self.selection(&operation.selection_set.node, true, 0)?);
        size.check()?;
        Ok(size)
    }

    /// The size of a fragment wherever it is spread.
    fn fragment(&mut self, name: &str, depth: usize) -> Result<Size, Problem> {
        let Some((name, fragment)) = self.document.fragments.get_key_value(name) else {
            // The library says that it is not known.
            return Ok(Size::default());
        };
        match self.fragments.get(name.as_str()) {
            Some(Some(size)) => return Ok(*size),
            Some(None) => {
                return Err(too_large(format!("The fragment {name} spreads itself, directly or through others.")));
            }
            None => {}
        }
        if depth > FRAGMENT_DEPTH_MAX {
            Size { nesting: depth, ..Size::default() }.check()?;
        }
        self.walks += 1;
        self.fragments.insert(name.as_str(), None);
        let mut size = self.directives(&fragment.node.directives);
        let of_query = fragment.node.type_condition.node.on.node == "Query";
        size.add(self.selection(&fragment.node.selection_set.node, of_query, depth + 1)?);
        size.nesting += 1;
        size.check()?;
        self.fragments.insert(name.as_str(), Some(size));
        Ok(size)
    }

    /// The size of a set. `of_query` says whether its fields are those of the query itself.
    fn selection(&mut self, set: &'a SelectionSet, of_query: bool, depth: usize) -> Result<Size, Problem> {
        let mut size = Size::default();
        for selected in &set.items {
            let one = match &selected.node {
                Selection::Field(field) => self.field(&field.node, of_query, depth)?,
                Selection::InlineFragment(fragment) => {
                    let mut one = self.directives(&fragment.node.directives);
                    one.add(self.selection(&fragment.node.selection_set.node, of_query, depth)?);
                    Size { fields: one.fields.saturating_add(1), ..one }
                }
                Selection::FragmentSpread(spread) => {
                    let mut one = self.directives(&spread.node.directives);
                    one.add(self.fragment(&spread.node.fragment_name.node, depth)?);
                    Size { fields: one.fields.saturating_add(1), ..one }
                }
            };
            size.add(one);
            if size.fields > FIELDS_MAX {
                size.check()?;
            }
        }
        Ok(size)
    }

    fn field(&mut self, field: &'a Field, of_query: bool, depth: usize) -> Result<Size, Problem> {
        let name = field.name.node.as_str();
        let below = self.selection(&field.selection_set.node, false, depth)?;
        let default_size = match (name, of_query) {
            ("jobs", true) => Some(JOBS_DEFAULT),
            ("executions", true) => Some(EXECUTIONS_DEFAULT),
            ("executions", false) => Some(NESTED_DEFAULT),
            _ => None,
        };
        let rows = default_size.map(|size| self.page_size(field).unwrap_or(size));
        let rows = rows.map(|rows| usize::try_from(rows.clamp(0, app::queries::PAGE_MAX)).unwrap_or_default());
        let listed = INTROSPECTION_LISTS.iter().find(|(list, _)| *list == name).map(|(_, members)| *members);
        let times = rows.or(listed).unwrap_or(1);
        let mut size = self.directives(&field.directives);
        for (_, value) in &field.arguments {
            size.values = size.values.saturating_add(self.values(&value.node));
        }
        let answers = times.saturating_mul(below.answers).saturating_add(1);
        size.add(Size {
            fields: below.fields.saturating_add(1),
            values: below.values,
            nesting: below.nesting,
            pages: usize::from(of_query && default_size.is_some()),
            rows: rows.unwrap_or_default().saturating_add(times.saturating_mul(below.rows)),
            answers,
            introspected: if matches!(name, "__schema" | "__type") { answers } else { below.introspected },
        });
        Ok(size)
    }

    /// The page size that a field asks for; `None` where the schema's default counts.
    fn page_size(&self, field: &Field) -> Option<i64> {
        match &field.get_argument("pageSize")?.node {
            Value::Number(number) => number.as_i64(),
            Value::Variable(name) => self.variables.get(name.as_str())?.number,
            _ => None,
        }
    }

    fn directives(&self, directives: &'a [Positioned<Directive>]) -> Size {
        let arguments = directives.iter().flat_map(|directive| &directive.node.arguments);
        let values = arguments.map(|(_, value)| self.values(&value.node)).fold(0, usize::saturating_add);
        Size { fields: directives.len(), values, ..Size::default() }
    }

    /// The values within an argument.
    fn values(&self, value: &Value) -> usize {
        let below: usize = match value {
            Value::Variable(name) => return self.variables.get(name.as_str()).map_or(1, |variable| variable.values),
            Value::List(values) => values.iter().map(|value| self.values(value)).fold(0, usize::saturating_add),
            Value::Object(members) => members.values().map(|value| self.values(value)).fold(0, usize::saturating_add),
            _ => 0,
        };
        below.saturating_add(1)
    }
}

/// The values within a value.
fn values_in(value: &ConstValue) -> usize {
    match value {
        ConstValue::List(values) => 1 + values.iter().map(values_in).sum::<usize>(),
        ConstValue::Object(members) => 1 + members.values().map(values_in).sum::<usize>(),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use async_graphql::parser::parse_query;

    use super::*;

    fn size(query: &str) -> Size {
        measure(&parse_query(query).unwrap(), &Variables::default()).unwrap()
    }

    #[test]
    fn a_document_counts_its_fields_wherever_they_are_spread() {
        let plain = Size { fields: 2, pages: 1, rows: 20, answers: 21, ..Size::default() };
        assert_eq!(size("{ jobs { totalItems } }"), plain);
        // The fragment itself, its spread, and what it spreads.
        let spread = Size { fields: 5, nesting: 1, ..plain };
        assert_eq!(size("{ ...a } fragment a on Query { jobs { totalItems } }"), spread);
        assert_eq!(size("{ jobs(pageSize: 7) { totalItems @skip(if: true) } }").fields, 3);
        let nested = size("{ jobs(pageSize: 7) { content { deployments { executions(pageSize: 3) { id } } } } }");
        assert_eq!((nested.rows, nested.values), (7 * (1 + 3), 2));
        assert_eq!(nested.answers, 1 + 7 * (1 + 1 + 1 + 3));
        assert_eq!(nested.cost(), 28 + 5);
        assert_eq!(size("{ executions { content { id } } }").rows, 1000);
        assert_eq!(size("{ jobs(pageSize: 5000) { content { jobName } } }").rows, 1000);
        assert_eq!(size("{ jobs(pageSize: -3, filter: [{property: \"a\"}, null]) { totalItems } }").rows, 0);
        assert_eq!(size("{ jobs(filter: [{property: \"a\"}, null]) { totalItems } }").values, 4);
    }

    #[test]
    fn what_is_asked_of_the_schema_counts_by_the_usual_length_of_its_lists() {
        let asked = size("{ __schema { types { name fields { name } } } jobs { totalItems } }");
        assert_eq!(asked.introspected, 1 + 1 + 40 * (1 + 1 + 12));
        assert_eq!(asked.answers, asked.introspected + 21);
        assert_eq!(size("{ jobs { totalItems } }").introspected, 0);
    }

    #[test]
    fn pages_that_are_selected_twice_under_one_name_are_merged() {
        for (merged, query) in [
            (false, "{ jobs { content { jobName jobName } totalItems } executions { totalItems } }"),
            (false, "{ jobs { content { jobName } c: content { jobName } } j: jobs { totalItems } }"),
            (true, "{ jobs { content { jobName } content { config { team } } } }"),
            (true, "{ jobs { content { jobName } ...a } } fragment a on DataJobPage { ... { content { jobName } } }"),
            (true, "{ jobs { totalItems } jobs { content { jobName } } }"),
        ] {
            assert_eq!(merges(&parse_query(query).unwrap()), merged, "{query}");
        }
    }

    #[test]
    fn each_fragment_is_walked_once() {
        let mut query = "{ ...f0 ...f0 ...f6 }".to_owned();
        for i in 0..7 {
            write!(query, " fragment f{i} on Query {{ ...f{} ...f{} }}", i + 1, i + 1).unwrap();
        }
        query.push_str(" fragment f7 on Query { __typename } fragment unused on Query { ...f3 }");
        let document = parse_query(query).unwrap();
        let variables = Variables::default();
        let mut ruler = Ruler::new(&document, &variables);
        let size = ruler.measure().unwrap();
        assert_eq!(ruler.walks, document.fragments.len());
        assert_eq!(size.nesting, 8);
        assert!((1000..FIELDS_MAX).contains(&size.fields), "{size:?}");
    }

    #[test]
    fn a_document_is_rejected_before_the_rest_of_it_is_visited() {
        let mut query = "{ ...f0 }".to_owned();
        for i in 0..400 {
            write!(query, " fragment f{i} on Query {{ ...f{} ...f{} }}", i + 1, i + 1).unwrap();
        }
        query.push_str(" fragment f400 on Query { __typename }");
        let document = parse_query(query).unwrap();
        let variables = Variables::default();
        let mut ruler = Ruler::new(&document, &variables);
        let problem = ruler.measure().unwrap_err();
        assert!(problem.why.contains("limit 8"), "{problem}");
        assert!(ruler.walks <= FRAGMENT_DEPTH_MAX + 1, "{}", ruler.walks);
    }
}
