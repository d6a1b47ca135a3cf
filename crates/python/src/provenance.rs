//! The inputs of wheels.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// In a complete folder: the inputs of each wheel.
pub(crate) const NOTE: &str = "wheels.json";

/// A wheel, and the source that it was made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Provenance {
    pub(crate) name: String,
    pub(crate) source_sha256: String,
    pub(crate) wheel: String,
    pub(crate) wheel_sha256: String,
}

impl Provenance {
    /// Whether the wheel is in this folder with the content that was noted. A power cut or a failing disk may have left less.
    pub(crate) fn is_whole(&self, folder: &Path) -> bool {
        let hash = File::open(folder.join(&self.wheel)).and_then(|file| copied(file, &mut io::sink()));
        hash.is_ok_and(|hash| hash == self.wheel_sha256)
    }
}

/// Copies to the end, and takes the SHA-256.
pub(crate) fn copied(mut from: impl Read, to: &mut impl Write) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut piece = vec![0; 1 << 16];
    loop {
        match from.read(&mut piece)? {
            0 => return Ok(hex::encode(hash.finalize())),
            n => {
                hash.update(&piece[..n]);
                to.write_all(&piece[..n])?;
            }
        }
    }
}
