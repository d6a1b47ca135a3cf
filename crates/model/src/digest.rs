//! Digests of several texts.

use sha2::{Digest, Sha256};

/// Returns the SHA-256 digest of `head` and of all parts. The length of each part comes before it, so that no part runs into
/// the next one.
///
/// `length` gives the bytes of a length. Digests are stored and compared with later ones, so that no caller may change it.
pub(crate) fn of_parts<P: AsRef<[u8]>>(
    head: &[u8],
    length: fn(u64) -> [u8; 8],
    parts: impl IntoIterator<Item = P>,
) -> [u8; 32] {
    let mut digest = Sha256::new();
    digest.update(head);
    for part in parts {
        let part = part.as_ref();
        digest.update(length(part.len() as u64));
        digest.update(part);
    }
    digest.finalize().into()
}

#[cfg(test)]
mod tests {
    use crate::{
        lock::ResolutionInputs, plan::configuration_hash, preconditions::PendingIdempotencyKey, python::PythonVersion,
    };

    /// Computed by another program: a stored digest must be the same after an upgrade.
    #[test]
    fn stored_digests_keep_their_values() {
        let inputs = ResolutionInputs {
            python_version: PythonVersion { major: 3, minor: 11 },
            vdk_requirement: "quickstart-vdk==0.2".into(),
            constraints: "a<2".into(),
            requirements: "b==1".into(),
            platform: None,
        };
        assert_eq!(inputs.key().as_str(), "80407e3bdf8e0a1a2f15a193ea581fea5345ce13fa86df286c22bb39a2514446");
        assert_eq!(
            configuration_hash(["one".into(), String::new(), "three".into()]),
            "f5fd41ef842bd471750e359c67fcb9454683d035671a87a5a59064f0d8f86bf8"
        );
        let request = PendingIdempotencyKey::new("k".into(), "POST", "/a?b=c").with_body(b"body");
        assert_eq!(request.request_hash, "1a0d4696c58ded7ca22a1c5e1761f78c3947029e62b150fdedfbec3d345737d6");
    }
}
