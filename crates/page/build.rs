//! Embeds the files of `web/dist`, if `cargo xtask web` built them.

use std::{env, fmt::Write as _, fs, path::PathBuf};

/// The file without which the folder holds no page.
const SHELL: &str = "shell.html";

#[expect(clippy::disallowed_methods, reason = "cargo names the folders in the environment")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dist = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../web/dist");
    println!("cargo::rerun-if-changed={}", dist.display());
    let mut files = Vec::new();
    if dist.join(SHELL).is_file() {
        for entry in fs::read_dir(&dist)? {
            let path = fs::canonicalize(entry?.path())?;
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_file() && !name.starts_with('.') {
                files.push((name, path));
            }
        }
    }
    files.sort();
    let mut source = String::from("&[\n");
    for (name, path) in files {
        writeln!(source, "    ({name:?}, include_bytes!({:?})),", path.display().to_string())?;
    }
    source.push_str("]\n");
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("files.rs"), source)?;
    Ok(())
}
