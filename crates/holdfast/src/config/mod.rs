//! The configuration: the one place that reads flags, the environment and `holdfast.toml`.
//!
//! [`table`] declares every setting once; the flags, the variables, the keys of the file, `holdfast config` and
//! `docs/configuration.md` are derived from it. A value is parsed on input, to a type that holds only valid values, and
//! everything else takes [`Settings`] or a part of it as a parameter. To add a setting, add its lines to the
//! table and regenerate the page.

mod environment;
mod error;
mod exposure;
mod file;
mod lists;
mod load;
mod named_files;
mod options;
mod read;
mod report;
mod schema;
mod setting;
mod table;
mod types;
mod value;

pub(crate) use environment::ProcessEnvironment;
pub(crate) use error::Origin;
pub(crate) use exposure::{Callers, check_exposure};
pub(crate) use load::{Flags, Loaded, load};
pub(crate) use read::CLIENT_VARIABLES;
pub(crate) use report::markdown;
pub(crate) use schema::schema;
pub(crate) use setting::{Group, Setting};
pub(crate) use table::{SETTINGS, Settings};
pub(crate) use types::{
    ClaimName, CompressionName, ContextName, DatabaseUrl, ImageBuilderName, LogFormat, LogsDateFormat, NamespaceName,
    PostgresUrl, RegistryName, RuntimeName,
};
pub(crate) use value::{Raw, Shape, Value};
