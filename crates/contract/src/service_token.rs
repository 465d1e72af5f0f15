//! The token of a call from one service to another: HS256, at most 60 s, `iss` the caller and
//! `aud` the called service, carrying the person on whose behalf the call is made.

use jwt_simple::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    keyring::Keyring,
    limits::{CLOCK_SKEW_SECONDS, SERVICE_TOKEN_SECONDS, TOKEN_BYTES_MAX},
};

/// The scope that lets the bridge hand over events and jobs.
pub const SCOPE_DELIVER: &str = "deliver";

/// The person or client on whose behalf a call is made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The subject: a user id or a client id.
    pub sub: String,
    /// The user's name; empty for clients.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub preferred_username: String,
    /// The user's address; empty for clients.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub email: String,
    /// Roles, e.g. `finance`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// Scopes, separated by one space (RFC 6749 §3.3).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub scope: String,
    /// The OAuth client the token was issued to.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub client_id: String,
}

impl Identity {
    /// Whether `scope` was granted.
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scope.split(' ').any(|s| s == scope)
    }

    /// Whether the caller has `role`.
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|r| r == role)
    }
}

/// A verified service token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceClaims {
    /// The calling service (`iss`).
    pub caller: String,
    /// On whose behalf.
    pub identity: Identity,
    /// The request this call belongs to.
    pub request_id: String,
}

#[derive(Clone, Serialize, Deserialize)]
struct Custom {
    #[serde(default)]
    preferred_username: String,
    #[serde(default)]
    email: String,
    #[serde(default)]
    roles: Vec<String>,
    #[serde(default)]
    scope: String,
    #[serde(default)]
    client_id: String,
    #[serde(default)]
    request_id: String,
}

/// Why a service token was not made or not accepted. The texts are for logs; a caller is told 401.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TokenError {
    /// The keyring holds no key for this callee: the manifest's `calls` does not name it.
    #[error("no key to call `{0}`: name it under `calls` in spin.toml and run `innover keys`")]
    NoKey(String),
    /// The token is not three base64url parts with an issuer.
    #[error("the service token is malformed")]
    Malformed,
    /// Wrong signature, issuer, audience, or out of its time.
    #[error("the service token was refused: {0}")]
    Refused(String),
}

/// Mints a token for a call from `caller` to `callee`. `now` is seconds since the epoch.
///
/// # Errors
/// [`TokenError::NoKey`] when the caller holds no key for the callee.
pub fn mint(
    keyring: &Keyring,
    caller: &str,
    callee: &str,
    identity: &Identity,
    request_id: &str,
) -> Result<String, TokenError> {
    let key = keyring
        .key_for(callee)
        .ok_or_else(|| TokenError::NoKey(callee.into()))?;
    let custom = Custom {
        preferred_username: identity.preferred_username.clone(),
        email: identity.email.clone(),
        roles: identity.roles.clone(),
        scope: identity.scope.clone(),
        client_id: identity.client_id.clone(),
        request_id: request_id.into(),
    };
    let claims = Claims::with_custom_claims(custom, Duration::from_secs(SERVICE_TOKEN_SECONDS))
        .with_issuer(caller)
        .with_audience(callee)
        .with_subject(&identity.sub);
    HS256Key::from_bytes(key)
        .authenticate(claims)
        .map_err(|e| TokenError::Refused(e.to_string()))
}

/// Checks a token that reached `service`: signed by its issuer's key for this service, addressed to
/// it, and in its time (30 s tolerance).
///
/// # Errors
/// [`TokenError`]; the caller is told 401 whatever the reason.
pub fn verify(keyring: &Keyring, service: &str, token: &str) -> Result<ServiceClaims, TokenError> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(TokenError::Malformed);
    }
    let caller = issuer(token).ok_or(TokenError::Malformed)?;
    let key = keyring.key_of(&caller).ok_or(TokenError::Malformed)?;
    let options = VerificationOptions {
        allowed_issuers: Some([caller.clone()].into()),
        allowed_audiences: Some([service.to_owned()].into()),
        // jwt-simple's default tolerance is 900 s; ours is what http.md states.
        time_tolerance: Some(Duration::from_secs(CLOCK_SKEW_SECONDS)),
        max_validity: Some(Duration::from_secs(
            SERVICE_TOKEN_SECONDS + CLOCK_SKEW_SECONDS,
        )),
        max_token_length: Some(TOKEN_BYTES_MAX),
        ..Default::default()
    };
    let claims = HS256Key::from_bytes(&key)
        .verify_token::<Custom>(token, Some(options))
        .map_err(|e| TokenError::Refused(e.to_string()))?;
    // jwt-simple accepts a token without `exp`; ours must end.
    if claims.expires_at.is_none() {
        return Err(TokenError::Refused("no exp".into()));
    }
    let Custom {
        preferred_username,
        email,
        roles,
        scope,
        client_id,
        request_id,
    } = claims.custom;
    let sub = claims.subject.unwrap_or_default();
    Ok(ServiceClaims {
        caller,
        identity: Identity {
            sub,
            preferred_username,
            email,
            roles,
            scope,
            client_id,
        },
        request_id,
    })
}

/// The unverified `iss`: it chooses the key, and the signature is then checked with that key.
fn issuer(token: &str) -> Option<String> {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    #[derive(Deserialize)]
    struct Issuer {
        iss: String,
    }
    let mut parts = token.split('.');
    let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(payload).ok()?;
    Some(serde_json::from_slice::<Issuer>(&bytes).ok()?.iss)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn rings() -> (Keyring, Keyring, Keyring) {
        let secrets: BTreeMap<_, _> = [("payment", 1), ("wallet", 2), ("ledger", 3)]
            .map(|(n, b)| (n.to_owned(), [b; 32]))
            .into();
        let all = ["payment".to_owned(), "wallet".into(), "ledger".into()];
        (
            Keyring::build("payment", &all, &secrets),
            Keyring::build("wallet", &all, &secrets),
            Keyring::build("ledger", &all, &secrets),
        )
    }

    #[test]
    fn a_token_is_good_for_its_audience_only() {
        let (payment, wallet, ledger) = rings();
        let who = Identity {
            sub: "usr_1".into(),
            scope: "wallet:read".into(),
            ..Default::default()
        };
        let token =
            mint(&payment, "payment", "wallet", &who, "req-1").expect("payment may call wallet");
        let claims = verify(&wallet, "wallet", &token).expect("wallet accepts it");
        assert_eq!((claims.caller.as_str(), claims.identity), ("payment", who));
        assert!(
            verify(&ledger, "ledger", &token).is_err(),
            "another service's token"
        );
    }

    #[test]
    fn a_callee_cannot_speak_as_its_caller_to_a_third() {
        let (_, wallet, ledger) = rings();
        // wallet holds a key for ledger, as wallet; it signs a token that claims to be payment's.
        let forged = mint(&wallet, "payment", "ledger", &Identity::default(), "r").expect("signed");
        assert!(verify(&ledger, "ledger", &forged).is_err());
    }

    #[test]
    fn an_expired_or_unbounded_token_is_refused() {
        let (payment, wallet, _) = rings();
        let key = HS256Key::from_bytes(payment.key_for("wallet").expect("key"));
        let custom = || Custom {
            preferred_username: String::new(),
            email: String::new(),
            roles: vec![],
            scope: String::new(),
            client_id: String::new(),
            request_id: String::new(),
        };
        let mut old = Claims::with_custom_claims(custom(), Duration::from_secs(60))
            .with_issuer("payment")
            .with_audience("wallet");
        let hour_ago = Clock::now_since_epoch() - Duration::from_hours(1);
        old.issued_at = Some(hour_ago);
        old.expires_at = Some(hour_ago + Duration::from_secs(60));
        old.invalid_before = None;
        let token = key.authenticate(old.clone()).expect("signed");
        assert!(verify(&wallet, "wallet", &token).is_err(), "expired");
        old.issued_at = None;
        old.expires_at = None;
        let token = key.authenticate(old).expect("signed");
        assert!(verify(&wallet, "wallet", &token).is_err(), "no exp");
    }
}
