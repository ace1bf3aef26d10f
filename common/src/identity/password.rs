//! Passwords: argon2id hashes in the PHC string format.
//!
//! One hash takes 19 MiB and some 30 ms of a processor, the parameters that OWASP recommends: guessing is slow for who has the
//! hashes. So that logins do not take the memory and the processors of everything else, few are computed at once, and a
//! bounded number waits. New passwords and those of logins have places of their own: neither can keep the others out.

use std::hint::black_box;

use argon2::password_hash::{self, PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Argon2, Params};
use tokio::sync::Semaphore;

use super::secret::Secret;
use crate::{Error, Result};

/// Bytes that a password must have.
const MIN_BYTES: usize = 8;
/// Bytes that a password may have.
const MAX_BYTES: usize = 1024;
/// Hashes that are computed at once in a process, of new passwords and of logins each: 38 MiB.
const MAX_CONCURRENT: usize = 2;
/// Hashes of new passwords that are computed or wait: two and eight.
const MAX_HASHING: usize = MAX_CONCURRENT + 8;
/// Passwords that are verified or wait: at 30 ms each, the last one waits 1.5 s.
const MAX_VERIFYING: usize = 100;
/// When a refused one should be tried again, milliseconds.
const RETRY_MS: u64 = 2_000;
const SALT_BYTES: usize = 16;
/// A stored hash may not demand more memory (KiB), passes and lanes than these, far above those of [`hash_password`].
const MAX_MEMORY_KIB: u32 = 256 << 10;
const MAX_PASSES: u32 = 16;
const MAX_LANES: u32 = 16;

static HASHING: HashingLimits = HashingLimits::new(MAX_CONCURRENT, MAX_HASHING);
static VERIFYING: HashingLimits = HashingLimits::new(MAX_CONCURRENT, MAX_VERIFYING);

/// The hash of a new password.
///
/// # Errors
/// INVALID_ARGUMENT: shorter than 8 bytes or longer than 1,024. RESOURCE_EXHAUSTED: too many others are computed.
pub async fn hash_password(password: Secret) -> Result<String> {
    check_password(&password)?;
    HASHING
        .compute(move || {
            let unusable = |e: password_hash::Error| Error::internal(format!("the password cannot be hashed: {e}"));
            let salt = SaltString::encode_b64(&rand::random::<[u8; SALT_BYTES]>()).map_err(unusable)?;
            let hash = Argon2::default().hash_password(password.expose().as_bytes(), &salt).map_err(unusable)?;
            Ok(hash.to_string())
        })
        .await
}

/// Checks that a password may be chosen.
///
/// # Errors
/// INVALID_ARGUMENT: shorter than 8 bytes or longer than 1,024.
pub fn check_password(password: &Secret) -> Result<()> {
    let length = password.expose().len();
    if !(MIN_BYTES..=MAX_BYTES).contains(&length) {
        return Err(Error::invalid(format!(
            "the password has {length} bytes: choose one of {MIN_BYTES} to {MAX_BYTES} bytes"
        )));
    }
    Ok(())
}

/// Whether a password is that of a hash. No password is that of an empty hash, which an account without a password has; it
/// is computed all the same, so that the time does not tell which users exist: give an empty hash for an unknown user.
///
/// # Errors
/// RESOURCE_EXHAUSTED: too many others are computed. INTERNAL: not a hash of [`hash_password`].
pub async fn verify_password(password: Secret, hash: String) -> Result<bool> {
    if password.expose().len() > MAX_BYTES {
        return Ok(false);
    }
    VERIFYING
        .compute(move || {
            let password = password.expose().as_bytes();
            if hash.is_empty() {
                let mut unused = [0; 32];
                let computed = Argon2::default().hash_password_into(password, &[0; SALT_BYTES], &mut unused);
                black_box(unused);
                return computed
                    .map(|()| false)
                    .map_err(|e| Error::internal(format!("a password cannot be verified: {e}")));
            }
            let unreadable = |e: password_hash::Error| {
                Error::internal(format!("the stored hash of the password cannot be used ({e}): set the password again"))
            };
            let parsed = PasswordHash::new(&hash).map_err(unreadable)?;
            let costs = Params::try_from(&parsed).map_err(unreadable)?;
            if costs.m_cost() > MAX_MEMORY_KIB || costs.t_cost() > MAX_PASSES || costs.p_cost() > MAX_LANES {
                return Err(Error::internal(
                    "the stored hash of the password would take too much memory or time: set the password again",
                ));
            }
            match Argon2::default().verify_password(password, &parsed) {
                Ok(()) => Ok(true),
                Err(password_hash::Error::Password) => Ok(false),
                Err(e) => Err(unreadable(e)),
            }
        })
        .await
}

/// How many hashes are computed at once, and how many may wait for that or be computed.
struct HashingLimits {
    computing: Semaphore,
    waiting: Semaphore,
}

impl HashingLimits {
    const fn new(computing: usize, waiting: usize) -> Self {
        HashingLimits { computing: Semaphore::const_new(computing), waiting: Semaphore::const_new(waiting) }
    }

    /// Does the work on a blocking thread. A caller that goes away does not end it, so the thread holds the permit.
    async fn compute<T: Send + 'static>(&'static self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let _place = self.waiting.try_acquire().map_err(|_| {
            Error::exhausted("too many passwords are being set or verified at this member: retry in a few seconds")
                .retry_after(RETRY_MS)
        })?;
        let permit = self.computing.acquire().await.map_err(|e| Error::internal(e.to_string()))?;
        let computing = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(permit);
            result
        });
        computing.await.map_err(|e| Error::internal(format!("the computation of a password's hash failed: {e}")))?
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::Code;

    #[tokio::test]
    async fn computations_beyond_the_limits_wait_or_are_refused() {
        static ONE_OF_TWO: HashingLimits = HashingLimits::new(1, 2);
        let (release, released) = oneshot::channel();
        let first = tokio::spawn(ONE_OF_TWO.compute(move || {
            let _ = released.blocking_recv();
            Ok(1)
        }));
        let second = tokio::spawn(ONE_OF_TWO.compute(|| Ok(2)));
        while ONE_OF_TWO.waiting.available_permits() > 0 || ONE_OF_TWO.computing.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let refused = ONE_OF_TWO.compute(|| Ok(3)).await.unwrap_err();
        assert_eq!((refused.code, refused.retry_after_ms), (Code::ResourceExhausted, Some(RETRY_MS)));
        // The caller goes away, its computation does not.
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        assert_eq!(ONE_OF_TWO.computing.available_permits(), 0);
        assert!(!second.is_finished());
        release.send(()).unwrap();
        assert_eq!(second.await.unwrap(), Ok(2));
    }

    #[tokio::test]
    async fn password_is_verified_by_its_hash() {
        let hash = hash_password(Secret::new("correct horse")).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert_eq!(verify_password(Secret::new("correct horse"), hash.clone()).await, Ok(true));
        for wrong in ["Correct horse", "correct hors", "correct horse ", ""] {
            assert_eq!(verify_password(Secret::new(wrong), hash.clone()).await, Ok(false), "{wrong:?}");
        }
        assert_ne!(hash_password(Secret::new("correct horse")).await.unwrap(), hash, "each has its own salt");
    }

    #[tokio::test]
    async fn password_of_a_wrong_length_is_refused() {
        for bad in ["1234567".to_string(), "x".repeat(1025)] {
            let error = hash_password(Secret::new(bad.clone())).await.unwrap_err();
            assert_eq!((error.code, error.message.contains(&bad)), (Code::InvalidArgument, false));
        }
        let longest = "x".repeat(1024);
        let hash = hash_password(Secret::new(longest.clone())).await.unwrap();
        assert_eq!(verify_password(Secret::new(longest.clone()), hash.clone()).await, Ok(true));
        assert_eq!(verify_password(Secret::new(longest + "x"), hash).await, Ok(false));
    }

    #[tokio::test]
    async fn empty_hash_has_no_password_and_a_bad_one_is_an_error() {
        assert_eq!(verify_password(Secret::new(""), String::new()).await, Ok(false));
        for bad in ["x", "$argon2id$v=19$m=19456,t=2,p=1$", "$5$rounds=5000$abcdefgh$abc"] {
            let result = verify_password(Secret::new("correct horse"), bad.into()).await;
            assert!(result != Ok(true), "{bad}");
        }
        let hash = hash_password(Secret::new("correct horse")).await.unwrap();
        for costs in ["m=4294967295,t=2,p=1", "m=19456,t=4294967295,p=1"] {
            let costly = hash.replace("m=19456,t=2,p=1", costs);
            let error = verify_password(Secret::new("correct horse"), costly).await.unwrap_err();
            assert_eq!(error.code, Code::Internal, "{costs}");
        }
        let error = verify_password(Secret::new("correct horse"), "x".into()).await.unwrap_err();
        assert_eq!(error.code, Code::Internal);
    }
}
