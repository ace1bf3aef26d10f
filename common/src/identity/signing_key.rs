//! The keys that sign session tokens: Ed25519. The catalog has both halves of each, nodes know the public one only.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, ParsedPublicKey};
use bytes::Bytes;

use crate::wire::catalog::SigningKey;
use crate::{Error, Result};

/// A new key is created when the newest one is older than this: 30 days.
pub const SIGNING_KEY_MS: u64 = 30 * 86_400_000;

/// A new key with a random id.
///
/// # Errors
/// INTERNAL: the library cannot create one.
pub fn new_signing_key(now_ms: u64) -> Result<SigningKey> {
    let unusable = |_| Error::internal("a key that signs session tokens cannot be created");
    let pair = Ed25519KeyPair::generate().map_err(unusable)?;
    let private = pair.to_pkcs8().map_err(unusable)?;
    Ok(SigningKey {
        id: format!("{:016x}", rand::random::<u64>()),
        private_key: Bytes::copy_from_slice(private.as_ref()),
        public_key: Bytes::copy_from_slice(pair.public_key().as_ref()),
        created_ms: now_ms,
    })
}

/// The public half of a signing key, decoded.
#[derive(Clone, Debug)]
pub struct VerifyingKey {
    id: String,
    key: ParsedPublicKey,
}

impl VerifyingKey {
    /// Decodes the public half of a key.
    ///
    /// # Errors
    /// INTERNAL: it is no Ed25519 key.
    pub fn new(key: &SigningKey) -> Result<Self> {
        let parsed = ParsedPublicKey::new(&ED25519, &key.public_key)
            .map_err(|e| Error::internal(format!("the signing key {} cannot be used: {e}", key.id)))?;
        Ok(VerifyingKey { id: key.id.clone(), key: parsed })
    }

    /// The key's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether a signature of a message is this key's.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.key.verify_sig(message, signature).is_ok()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::Code;

    #[test]
    fn new_keys_differ_and_verify_only_their_own_signatures() {
        let (one, other) = (new_signing_key(7).unwrap(), new_signing_key(7).unwrap());
        assert_eq!((one.created_ms, one.public_key.len(), one.id.len()), (7, 32, 16));
        assert!(one.id != other.id && one.public_key != other.public_key && one.private_key != other.private_key);
        let signature = Ed25519KeyPair::from_pkcs8(&one.private_key).unwrap().sign(b"message");
        let [one, other] = [one, other].map(|key| VerifyingKey::new(&key).unwrap());
        assert!(one.verifies(b"message", signature.as_ref()));
        assert!(!one.verifies(b"massage", signature.as_ref()));
        assert!(!one.verifies(b"message", b""));
        assert!(!other.verifies(b"message", signature.as_ref()));
    }

    #[test]
    fn damaged_key_is_an_error() {
        for bytes in [&b""[..], &[7; 31], &[7; 33]] {
            let row = SigningKey { id: "k".into(), public_key: Bytes::copy_from_slice(bytes), ..SigningKey::default() };
            assert_eq!(VerifyingKey::new(&row).unwrap_err().code, Code::Internal);
        }
    }
}
