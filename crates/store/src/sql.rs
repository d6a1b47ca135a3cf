//! Statements that are put together from parts, in the dialect of each database.

use std::fmt::{self, Display, Write};

use sea_query::{
    Expr, IntoLikeExpr, LikeExpr, PostgresQueryBuilder, QueryBuilder, SelectStatement, SqlWriter, SqliteQueryBuilder,
    Value,
};

use crate::{codec::storable, dialect::Dialect, error::Result};

/// A value for a place in a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Bound {
    Text(String),
    Int(i64),
}

/// A statement, and the values that are bound to its placeholders in order from `$1`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Statement {
    pub(crate) sql: String,
    pub(crate) values: Vec<Bound>,
}

impl Statement {
    /// The statement of a `select` alone.
    pub(crate) fn of(dialect: Dialect, select: &SelectStatement) -> Self {
        let mut writer = Writer::new(dialect);
        writer.select(select);
        writer.finish()
    }

    /// Refuses text that only one of the databases could hold.
    pub(crate) fn storable(self) -> Result<Self> {
        let texts = self.values.iter().filter_map(|value| match value {
            Bound::Text(text) => Some(text.as_str()),
            Bound::Int(_) => None,
        });
        storable(texts)?;
        Ok(self)
    }
}

/// Writes a statement of several parts; their values are numbered through.
#[derive(Debug)]
pub(crate) struct Writer {
    dialect: Dialect,
    statement: Statement,
}

impl Writer {
    pub(crate) fn new(dialect: Dialect) -> Self {
        Self { dialect, statement: Statement::default() }
    }

    /// The dialect that it writes.
    pub(crate) fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Writes a part as it is.
    pub(crate) fn text(&mut self, text: &str) {
        self.statement.sql.push_str(text);
    }

    /// Writes a `select`.
    pub(crate) fn select(&mut self, select: &SelectStatement) {
        match self.dialect {
            Dialect::Sqlite => select.build_collect_into(SqliteQueryBuilder, self),
            Dialect::Postgres => select.build_collect_into(PostgresQueryBuilder, self),
        }
    }

    pub(crate) fn finish(self) -> Statement {
        self.statement
    }
}

impl Write for Writer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.statement.sql.push_str(text);
        Ok(())
    }
}

impl Display for Writer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.statement.sql)
    }
}

impl SqlWriter for Writer {
    /// Limits and offsets, the only unsigned numbers, become a part of the text on PostgreSQL: a plan for any limit would
    /// read more than one for a page. SQLite's plans do not depend on them, and it keeps few statements.
    fn push_param<T: QueryBuilder>(&mut self, value: Value, _: &T) {
        let value = match value {
            Value::BigUnsigned(Some(number)) if self.dialect == Dialect::Sqlite => {
                Bound::Int(i64::try_from(number).unwrap_or(i64::MAX))
            }
            Value::BigUnsigned(Some(number)) => {
                write!(self.statement.sql, "{number}").expect("a string takes everything");
                return;
            }
            Value::String(Some(text)) => Bound::Text(text),
            Value::BigInt(Some(number)) => Bound::Int(number),
            other => unreachable!("lists compare texts and numbers alone, not {other:?}"),
        };
        self.statement.values.push(value);
        write!(self.statement.sql, "${}", self.statement.values.len()).expect("a string takes everything");
    }

    fn as_writer(&mut self) -> &mut dyn Write {
        self
    }
}

/// A text that follows `like`.
pub(crate) fn like(pattern: String) -> impl IntoLikeExpr {
    LikeExpr::new(pattern).escape('\\')
}

/// A column of a table, `table.column`.
pub(crate) fn column(name: &'static str) -> Expr {
    match name.split_once('.') {
        Some((table, column)) => Expr::col((table, column)),
        None => Expr::col(name),
    }
}

/// A column that has one of these values; any where there are none.
pub(crate) fn any_of(column: Expr, values: Vec<String>) -> Option<Expr> {
    use sea_query::ExprTrait;
    (!values.is_empty()).then(|| column.is_in(values))
}

impl Dialect {
    /// A column that SQLite uses no index for. PostgreSQL decides that by its statistics.
    pub(crate) fn without_index(self, name: &'static str) -> Expr {
        match self {
            Self::Sqlite => Expr::cust(format!("+{name}")),
            Self::Postgres => column(name),
        }
    }

    /// A column, for which an index may be used if `indexed`.
    pub(crate) fn column(self, indexed: bool, name: &'static str) -> Expr {
        if indexed { column(name) } else { self.without_index(name) }
    }
}

/// How many rows a page or a list has at most, or come before it; none for a number below zero.
pub(crate) fn rows(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// The placeholders of this number of values, from `$1`.
pub(crate) fn places(values: usize) -> String {
    let places: Vec<_> = (1..=values).map(|place| format!("${place}")).collect();
    places.join(", ")
}

/// Binds the values of a statement.
macro_rules! bind_all {
    ($statement:expr, $values:expr) => {{
        let mut statement = $statement;
        for value in $values {
            statement = match value {
                $crate::sql::Bound::Text(text) => statement.bind(text),
                $crate::sql::Bound::Int(number) => statement.bind(number),
            };
        }
        statement
    }};
}
pub(crate) use bind_all;
