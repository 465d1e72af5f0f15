//! Who may call whom. Each service has one secret. The key with which A calls B is
//! `HMAC-SHA-256(secret of B, "A")`: B derives it from its own secret for any caller, A holds just
//! that key, so a compromised B can neither speak as A to C nor read what A holds for C.
//!
//! A component gets one variable: `self:<secret>,<callee>:<key>,…`, base64url without padding.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::limits::SERVICE_NAME_BYTES_MAX;

/// The length of a service's secret and of every derived key.
pub const KEY_BYTES: usize = 32;

/// What one component holds: its own secret and one key per service it may call.
#[derive(Clone)]
pub struct Keyring {
    own: Option<[u8; KEY_BYTES]>,
    callees: BTreeMap<String, [u8; KEY_BYTES]>,
}

/// Why a keyring text was refused. The text itself is secret and never repeated.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the keyring variable is malformed at entry {entry}: {reason}; run `innover keys`")]
pub struct KeyringError {
    entry: usize,
    reason: &'static str,
}

/// The key with which `caller` calls the service that has `secret`.
pub fn derive(secret: &[u8; KEY_BYTES], caller: &str) -> [u8; KEY_BYTES] {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
    mac.update(caller.as_bytes());
    mac.finalize().into_bytes().into()
}

impl Keyring {
    /// Builds the keyring of `name` from every service's secret, for `innover keys`.
    /// A callee that has no secret is left out.
    pub fn build(
        name: &str,
        callees: &[String],
        secrets: &BTreeMap<String, [u8; KEY_BYTES]>,
    ) -> Keyring {
        Keyring {
            own: secrets.get(name).copied(),
            callees: callees
                .iter()
                .filter_map(|c| Some((c.clone(), derive(secrets.get(c)?, name))))
                .collect(),
        }
    }

    /// Reads the variable's text.
    ///
    /// # Errors
    /// [`KeyringError`] names the entry's number, never its content.
    pub fn parse(text: &str) -> Result<Keyring, KeyringError> {
        let mut ring = Keyring {
            own: None,
            callees: BTreeMap::new(),
        };
        for (entry, part) in text.split(',').filter(|p| !p.is_empty()).enumerate() {
            let fail = |reason| KeyringError { entry, reason };
            let (name, key) = part.split_once(':').ok_or(fail("no `:`"))?;
            let mut bytes = [0; KEY_BYTES];
            let n = URL_SAFE_NO_PAD
                .decode_slice(key, &mut bytes)
                .map_err(|_| fail("not base64url of 32 bytes"))?;
            if n != KEY_BYTES {
                return Err(fail("not base64url of 32 bytes"));
            }
            match name {
                "self" => ring.own = Some(bytes),
                _ => drop(ring.callees.insert(name.into(), bytes)),
            }
        }
        Ok(ring)
    }

    /// The variable's text.
    pub fn encode(&self) -> String {
        let own = self
            .own
            .iter()
            .map(|k| format!("self:{}", URL_SAFE_NO_PAD.encode(k)));
        let callees = self
            .callees
            .iter()
            .map(|(n, k)| format!("{n}:{}", URL_SAFE_NO_PAD.encode(k)));
        own.chain(callees).collect::<Vec<_>>().join(",")
    }

    /// The key for calls to `callee`; `None` when this component may not call it.
    pub fn key_for(&self, callee: &str) -> Option<&[u8; KEY_BYTES]> {
        self.callees.get(callee)
    }

    /// The key with which `caller` signs its calls to this component.
    pub fn key_of(&self, caller: &str) -> Option<[u8; KEY_BYTES]> {
        if caller.is_empty() || caller.len() > SERVICE_NAME_BYTES_MAX {
            return None;
        }
        self.own.as_ref().map(|own| derive(own, caller))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets() -> BTreeMap<String, [u8; KEY_BYTES]> {
        [("wallet", 1), ("ledger", 2), ("payment", 3)]
            .map(|(n, b)| (n.to_owned(), [b; KEY_BYTES]))
            .into()
    }

    #[test]
    fn a_caller_holds_the_key_its_callee_derives_and_no_other() {
        let payment = Keyring::build("payment", &["wallet".into()], &secrets());
        let wallet = Keyring::build("wallet", &[], &secrets());
        assert_eq!(payment.key_for("wallet").copied(), wallet.key_of("payment"));
        assert_ne!(payment.key_for("wallet").copied(), wallet.key_of("ledger"));
        assert_eq!(payment.key_for("ledger"), None);
    }

    #[test]
    fn the_text_survives_and_bad_text_is_refused_without_showing_it() {
        let ring = Keyring::build("payment", &["wallet".into()], &secrets());
        let again = Keyring::parse(&ring.encode()).expect("own text parses");
        assert_eq!(again.key_for("wallet"), ring.key_for("wallet"));
        let error = Keyring::parse("self:AAAA")
            .err()
            .expect("short key refused")
            .to_string();
        assert!(!error.contains("AAAA"), "{error}");
    }
}
