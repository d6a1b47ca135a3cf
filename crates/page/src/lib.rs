//! The files of the web page, as `cargo xtask web` built them before this crate was compiled.

/// The name and the content of each file, sorted by name. Empty if the page was not built.
pub const FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/files.rs"));
