//! Tokens this instance has verified, and the service tokens it minted for them. Checking a
//! signature costs a quarter of a millisecond in wasm, forty times the rest of a request.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use innover_kit::contract::{Identity, Keyring, service_token};

use crate::{
    limits::{MINTED_US, VERIFIED_MAX, VERIFIED_US},
    token::Good,
};

/// A caller whose token was good.
#[derive(Debug)]
pub struct Caller {
    pub identity: Identity,
    /// `sub` and user name where a header may hold them.
    pub sub: Option<Vec<u8>>,
    pub username: Option<Vec<u8>>,
    good_until_us: i64,
    /// `Bearer <service token>` per service of the table, and until when it is used again.
    minted: Mutex<Vec<(i64, Arc<[u8]>)>>,
}

impl Caller {
    /// A caller who is good until this time.
    pub fn new(identity: Identity, good_until_us: i64) -> Caller {
        let header = |text: &str| {
            let fits = !text.is_empty() && text.bytes().all(|b| (0x21..0x7f).contains(&b));
            fits.then(|| text.as_bytes().to_vec())
        };
        Caller {
            sub: header(&identity.sub),
            username: header(&identity.preferred_username),
            identity,
            good_until_us,
            minted: Mutex::default(),
        }
    }

    /// `Bearer <token>` for a call of service number `index`. The token carries no request id of
    /// its own, so that it serves several requests: the id travels in `x-request-id`.
    ///
    /// # Errors
    /// When the keyring has no key for the service.
    pub fn bearer(
        &self,
        keyring: &Keyring,
        service: &str,
        index: usize,
        now_us: i64,
    ) -> Result<Arc<[u8]>, service_token::TokenError> {
        if let Ok(minted) = self.minted.lock()
            && let Some((until, bearer)) = minted.get(index)
            && *until > now_us
        {
            return Ok(Arc::clone(bearer));
        }
        let token = service_token::mint(keyring, "gateway", service, &self.identity, "")?;
        let bearer: Arc<[u8]> = format!("Bearer {token}").into_bytes().into();
        if let Ok(mut minted) = self.minted.lock() {
            if minted.len() <= index {
                minted.resize(index + 1, (0, Arc::from([])));
            }
            minted[index] = (now_us + MINTED_US, Arc::clone(&bearer));
        }
        Ok(bearer)
    }
}

static VERIFIED: Mutex<Option<HashMap<String, Arc<Caller>>>> = Mutex::new(None);

/// The caller of a token that was verified less than a minute ago and has not expired.
pub fn lookup(token: &str, now_us: i64) -> Option<Arc<Caller>> {
    let all = VERIFIED.lock().ok()?;
    all.as_ref()?
        .get(token)
        .filter(|caller| caller.good_until_us > now_us)
        .cloned()
}

/// Remembers a good token. When the store is full the stale ones go, and if none is, all do: a
/// flood of tokens costs their verification again, not memory.
pub fn remember(token: &str, good: Good, now_us: i64) -> Arc<Caller> {
    let expires_us = i64::try_from(good.expires_at)
        .unwrap_or(i64::MAX)
        .saturating_mul(1_000_000);
    let caller = Arc::new(Caller::new(
        good.identity,
        expires_us.min(now_us + VERIFIED_US),
    ));
    if let Ok(mut all) = VERIFIED.lock() {
        let all = all.get_or_insert_default();
        if all.len() >= VERIFIED_MAX {
            all.retain(|_, caller| caller.good_until_us > now_us);
            if all.len() >= VERIFIED_MAX {
                all.clear();
            }
        }
        all.insert(token.to_owned(), Arc::clone(&caller));
    }
    caller
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good(expires_at: u64) -> Good {
        Good {
            identity: Identity {
                sub: "usr_1".into(),
                ..Identity::default()
            },
            expires_at,
        }
    }

    #[test]
    fn a_verified_token_is_forgotten_after_a_minute_or_when_it_expires() {
        remember("a", good(10_000), 0);
        assert!(lookup("a", VERIFIED_US - 1).is_some());
        assert!(lookup("a", VERIFIED_US).is_none(), "a minute is over");
        remember("b", good(5), 0);
        assert!(lookup("b", 4_999_999).is_some());
        assert!(lookup("b", 5_000_000).is_none(), "expired");
        assert!(lookup("never seen", 0).is_none());
        for i in 0..2 * VERIFIED_MAX {
            remember(&format!("flood {i}"), good(10_000), 1);
        }
        let all = VERIFIED.lock().expect("lock");
        assert!(
            all.as_ref().is_some_and(|all| all.len() <= VERIFIED_MAX),
            "bounded"
        );
    }

    #[test]
    fn a_minted_token_serves_again_for_its_service_only_and_for_a_while() {
        let secrets = [("wallet", 1), ("ledger", 2)]
            .map(|(n, b)| (n.to_owned(), [b; 32]))
            .into();
        let ring = Keyring::build("gateway", &["wallet".into(), "ledger".into()], &secrets);
        let caller = Caller::new(good(1).identity, 0);
        let bearer =
            |service, index, now| caller.bearer(&ring, service, index, now).expect("minted");
        let first = bearer("wallet", 1, 0);
        assert!(Arc::ptr_eq(&first, &bearer("wallet", 1, MINTED_US - 1)));
        assert!(!Arc::ptr_eq(&first, &bearer("wallet", 1, MINTED_US)));
        assert_ne!(first, bearer("ledger", 0, 0));
        let wallet = Keyring::build("wallet", &[], &secrets);
        let token = String::from_utf8(first.to_vec()).expect("text");
        let token = token.strip_prefix("Bearer ").expect("a bearer");
        let claims = service_token::verify(&wallet, "wallet", token).expect("wallet takes it");
        assert_eq!(
            (claims.caller.as_str(), claims.identity.sub.as_str()),
            ("gateway", "usr_1")
        );
        assert!(
            caller.bearer(&ring, "forex", 5, 0).is_err(),
            "no key, no token"
        );
    }

    #[test]
    fn a_name_that_no_header_can_hold_is_left_out() {
        let who = Identity {
            sub: "usr\r\nx: y".into(),
            preferred_username: "jösé".into(),
            ..Identity::default()
        };
        let caller = Caller::new(who, 0);
        assert_eq!((&caller.sub, &caller.username), (&None, &None));
    }
}
