//! Passwords: argon2id at OWASP's minimum (19 MiB, two passes, one lane).

use std::sync::OnceLock;

use argon2::{
    Argon2,
    password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString},
};
use innover_kit::{Code, Failure, Result};

use crate::{limits::PASSWORD_BYTES_MAX, tokens::random};

/// The hash of `password` with a new salt, in PHC form.
///
/// # Errors
/// When the system has no randomness.
pub fn hash(password: &str) -> Result<String> {
    let failed = |e: argon2::password_hash::Error| Failure::new(Code::Internal, e.to_string());
    let salt = SaltString::encode_b64(&random::<16>()?).map_err(failed)?;
    // `Argon2::default()` is argon2id with exactly OWASP's minimum parameters.
    let hash = Argon2::default()
        .hash_password(password.as_bytes(), &salt)
        .map_err(failed)?;
    Ok(hash.to_string())
}

/// Whether `password` is the one that was hashed.
pub fn matches(hash: &str, password: &str) -> bool {
    password.len() <= PASSWORD_BYTES_MAX
        && PasswordHash::new(hash).is_ok_and(|hash| {
            Argon2::default()
                .verify_password(password.as_bytes(), &hash)
                .is_ok()
        })
}

/// Spends the time of a comparison, so that an unknown name is as slow as a wrong password.
pub fn pretend(password: &str) {
    static DUMMY: OnceLock<String> = OnceLock::new();
    let dummy = DUMMY.get_or_init(|| hash("no account has this password").unwrap_or_default());
    let _ = matches(dummy, password);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_matches_its_password_only_and_carries_the_parameters() {
        let hashed = hash("correct horse").expect("hashed");
        assert!(
            hashed.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{hashed}"
        );
        assert!(matches(&hashed, "correct horse"));
        assert!(!matches(&hashed, "correct horsf"));
        assert_ne!(
            hashed,
            hash("correct horse").expect("hashed"),
            "salts differ"
        );
        assert!(
            !matches(crate::dev::PASSWORD_MARKER, "dev"),
            "a marker is no hash"
        );
        assert!(!matches(&hashed, &"x".repeat(PASSWORD_BYTES_MAX + 1)));
    }
}
