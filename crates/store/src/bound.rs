//! Values of a statement that is put together from parts.

/// A value for a place in a statement.
#[derive(Debug, Clone)]
pub(crate) enum Bound {
    Text(String),
    Int(i64),
}

/// The conditions of a statement, and what is bound to them in order from `$1`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Conditions {
    pub(crate) sql: String,
    pub(crate) bound: Vec<Bound>,
}

impl Conditions {
    /// Takes a value and answers its place.
    pub(crate) fn bind(&mut self, value: Bound) -> String {
        self.bound.push(value);
        format!("${}", self.bound.len())
    }

    /// Takes a text and answers its place.
    pub(crate) fn text(&mut self, text: impl Into<String>) -> String {
        self.bind(Bound::Text(text.into()))
    }

    /// Adds a condition.
    pub(crate) fn and(&mut self, condition: &str) {
        self.sql.push_str(" and ");
        self.sql.push_str(condition);
    }

    /// The texts among the values.
    pub(crate) fn texts(&self) -> impl Iterator<Item = &str> {
        self.bound.iter().filter_map(|value| match value {
            Bound::Text(text) => Some(text.as_str()),
            Bound::Int(_) => None,
        })
    }
}

/// Binds values to a statement.
macro_rules! bind_all {
    ($statement:expr, $values:expr) => {{
        let mut statement = $statement;
        for value in $values {
            statement = match value {
                $crate::bound::Bound::Text(text) => statement.bind(text),
                $crate::bound::Bound::Int(number) => statement.bind(number),
            };
        }
        statement
    }};
}
pub(crate) use bind_all;
