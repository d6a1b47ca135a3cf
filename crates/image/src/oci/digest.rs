//! SHA-256 digests, and a writer that computes one.

use std::{
    fmt,
    io::{self, Write},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

const PREFIX: &str = "sha256:";

/// A digest: `sha256:` and 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Digest(String);

impl Digest {
    /// Reads a digest. Other algorithms than SHA-256 are not supported.
    pub fn parse(raw: &str) -> Option<Self> {
        let digits = raw.strip_prefix(PREFIX)?;
        let valid = digits.len() == 64 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        valid.then(|| Self(raw.to_owned()))
    }

    /// The digest of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self::finished(Sha256::new_with_prefix(bytes))
    }

    /// The digest that a hash ends with.
    pub fn finished(hash: Sha256) -> Self {
        Self(format!("{PREFIX}{}", hex::encode(hash.finalize())))
    }

    /// The digest as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The 64 hexadecimal digits.
    pub fn hex(&self) -> &str {
        &self.0[PREFIX.len()..]
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(raw: String) -> Result<Self, String> {
        Self::parse(&raw).ok_or_else(|| "a digest is sha256: and 64 hexadecimal digits".to_owned())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A writer that hashes and counts the bytes that pass through.
#[derive(Debug)]
pub struct Hashing<W> {
    inner: W,
    hash: Sha256,
    bytes: u64,
}

impl<W: Write> Hashing<W> {
    /// A writer in front of `inner`.
    pub fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::new(), bytes: 0 }
    }

    /// The inner writer, the digest and the number of the bytes that passed.
    pub fn finish(self) -> (W, Digest, u64) {
        (self.inner, Digest::finished(self.hash), self.bytes)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_sha256_digest_is_one() {
        let good = format!("sha256:{}", "a0".repeat(32));
        assert_eq!(Digest::parse(&good).unwrap().hex(), "a0".repeat(32));
        for bad in ["", "sha256:", &good[..good.len() - 1], &good.to_uppercase(), &good.replace("256", "512")] {
            assert_eq!(Digest::parse(bad), None, "{bad}");
        }
        assert!(serde_json::from_str::<Digest>("\"latest\"").is_err());
    }

    #[test]
    fn a_hashing_writer_counts_what_the_inner_writer_took() {
        let mut writer = Hashing::new(Vec::new());
        writer.write_all(b"ab").unwrap();
        writer.write_all(b"c").unwrap();
        let (inner, digest, bytes) = writer.finish();
        assert_eq!((inner.as_slice(), bytes), (b"abc".as_slice(), 3));
        assert_eq!(digest, Digest::of(b"abc"));
    }
}
