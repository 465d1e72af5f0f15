//! The issuer's public keys, fetched from identity and kept per instance.

use std::sync::{Arc, Mutex};

use innover_kit::{Code, Failure, Result, call, ids};

use crate::{
    limits::{KEYS_COOL_DOWN_US, KEYS_FRESH_US, KEYS_TIMEOUT_MS},
    table::Table,
    token::{self, Good, Issuer, KeySet, Refusal},
    upstream,
    verified::Caller,
};

/// Only `jwks` of an issuer whose keys are few.
const JWKS_BYTES_MAX: usize = 64 << 10;
const IDENTITY: &str = "identity";

#[derive(Clone, Default)]
struct Known {
    keys: Option<Arc<KeySet>>,
    fetched_us: i64,
    tried_us: i64,
}

static KNOWN: Mutex<Known> = Mutex::new(Known {
    keys: None,
    fetched_us: 0,
    tried_us: 0,
});

fn known() -> Known {
    KNOWN.lock().map(|known| known.clone()).unwrap_or_default()
}

/// Checks an access token. Stale keys are fetched again first, and once more for a `kid` nobody
/// knows, both at most every ten seconds; while identity does not answer, the keys at hand count on.
///
/// # Errors
/// 401 for a token that is refused, 503 while there are no keys at all.
pub async fn check(token: &str, issuer: &Issuer, anonymous: &Caller) -> Result<Good> {
    let now = ids::now_us();
    let mut known = known();
    let may_fetch = now - known.tried_us >= KEYS_COOL_DOWN_US;
    if known.keys.is_none() || (now - known.fetched_us >= KEYS_FRESH_US && may_fetch) {
        known = fetch(anonymous, now).await;
    }
    let keys = known.keys.ok_or_else(|| {
        Failure::new(
            Code::Unavailable,
            "the keys that tokens are checked with cannot be fetched now",
        )
    })?;
    let mut checked = token::check(token, issuer, &keys);
    if checked == Err(Refusal::UnknownKey)
        && now - known.tried_us >= KEYS_COOL_DOWN_US
        && let Some(keys) = fetch(anonymous, now).await.keys
    {
        checked = token::check(token, issuer, &keys);
    }
    checked.map_err(|refusal| {
        let line = serde_json::json!({"level": "warn", "service_name": "gateway",
            "msg": "access token refused", "reason": format!("{refusal:?}")});
        println!("{line}");
        Failure::new(
            Code::InvalidToken,
            "the access token was refused: expired, or not one for this platform",
        )
    })
}

async fn fetch(anonymous: &Caller, now: i64) -> Known {
    let mut known = known();
    known.tried_us = now;
    store(&known);
    match fetched(anonymous, now).await {
        Ok(keys) => {
            known = Known {
                keys: Some(Arc::new(keys)),
                fetched_us: now,
                tried_us: now,
            };
            store(&known);
        }
        Err(failure) => {
            let line = serde_json::json!({"level": "error", "service_name": "gateway",
                "msg": "the key set cannot be fetched", "error": failure.to_string()});
            println!("{line}");
        }
    }
    known
}

fn store(known: &Known) {
    if let Ok(mut stored) = KNOWN.lock() {
        *stored = known.clone();
    }
}

async fn fetched(anonymous: &Caller, now: i64) -> Result<KeySet> {
    let unavailable = || Failure::new(Code::UpstreamError, "identity has no usable key set");
    let table = Table::get();
    let index = table
        .services
        .iter()
        .position(|s| s.name == IDENTITY)
        .ok_or_else(unavailable)?;
    let identity = &table.services[index];
    let bearer = anonymous
        .bearer(call::keyring().await?, &identity.name, index, now)
        .map_err(|e| Failure::new(Code::NotReady, e.to_string()))?;
    let (status, body) = upstream::get(
        identity.callee(),
        "/oauth2/jwks",
        &bearer,
        KEYS_TIMEOUT_MS,
        JWKS_BYTES_MAX,
    )
    .await?;
    let keys = KeySet::parse(&body).filter(|keys| status == 200 && !keys.is_empty());
    keys.ok_or_else(unavailable)
}
