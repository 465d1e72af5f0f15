//! The keys access tokens are signed with, from the variable `signing_keys`:
//! `{"keys":[<private JWK>,…]}`. The first one signs; the others still verify, so that a key is
//! replaced by putting the new one first. Keys are made natively by `innover keys`: in wasm an RSA
//! key would take minutes.

use std::sync::OnceLock;

use innover_kit::{Code, Failure, Result, config};
use jwt_simple::prelude::*;
use serde::Deserialize;
use serde_json::Value as Json;

use crate::{
    limits::{ACCESS_TOKEN_SECONDS, CLOCK_TOLERANCE_SECONDS},
    settings::Settings,
};

/// RFC 9068 §2.1: an access token says that it is one, so that no other JWT passes for it.
const ACCESS_TOKEN_TYPE: &str = "at+jwt";

/// The claims of an access token beyond the registered ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessClaims {
    pub client_id: String,
    pub scope: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub email: String,
    #[serde(default)]
    pub email_verified: bool,
    #[serde(default)]
    pub groups: Vec<String>,
    #[serde(default)]
    pub roles: Vec<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub preferred_username: String,
}

enum Pair {
    Ed25519(Box<Ed25519KeyPair>),
    Rsa(Box<RS256KeyPair>),
}

/// The signing keys.
pub struct Keys {
    pairs: Vec<Pair>,
    jwks: String,
}

/// An RSA key may come as PKCS#8 PEM beside its public members, since that is what makes it.
#[derive(Deserialize)]
struct Source {
    kty: String,
    kid: String,
    #[serde(default)]
    pem: Option<String>,
}

impl Keys {
    /// This component's keys.
    ///
    /// # Errors
    /// 503 when the variable is missing or holds no usable key.
    pub async fn read() -> Result<&'static Keys> {
        static KEYS: OnceLock<Keys> = OnceLock::new();
        if let Some(keys) = KEYS.get() {
            return Ok(keys);
        }
        let keys = Keys::parse(&config::get("signing_keys").await?)
            .map_err(|reason| Failure::new(Code::NotReady, reason))?;
        Ok(KEYS.get_or_init(|| keys))
    }

    /// Reads the variable's text.
    ///
    /// # Errors
    /// A sentence that names the key at fault by number, never its content.
    pub fn parse(text: &str) -> Result<Keys, String> {
        let set: Json = serde_json::from_str(text)
            .map_err(|_| "`signing_keys` is not JSON; run `innover keys`".to_owned())?;
        let sources = set
            .get("keys")
            .and_then(Json::as_array)
            .filter(|keys| !keys.is_empty());
        let sources = sources.ok_or("`signing_keys` has no keys; run `innover keys`")?;
        let pairs = sources
            .iter()
            .enumerate()
            .map(|(i, source)| {
                pair(source).map_err(|why| format!("`signing_keys`, key {i}: {why}"))
            })
            .collect::<Result<Vec<Pair>, String>>()?;
        let public = pairs
            .iter()
            .map(|pair| match pair {
                Pair::Ed25519(pair) => {
                    let mut key = pair.public_key();
                    if let Some(id) = EdDSAKeyPairLike::key_id(pair.as_ref()) {
                        key = key.with_key_id(id);
                    }
                    key.to_jwk()
                }
                Pair::Rsa(pair) => {
                    let mut key = pair.public_key();
                    if let Some(id) = RSAKeyPairLike::key_id(pair.as_ref()) {
                        key = key.with_key_id(id);
                    }
                    key.to_jwk()
                }
            })
            .collect::<Vec<_>>();
        Ok(Keys {
            pairs,
            jwks: format!(r#"{{"keys":[{}]}}"#, public.join(",")),
        })
    }

    /// The public keys (RFC 7517 §5).
    pub fn jwks(&self) -> &str {
        &self.jwks
    }

    /// Signs an access token for `sub`; `jti` makes it revocable.
    ///
    /// # Errors
    /// When signing fails.
    pub fn sign(
        &self,
        settings: &Settings,
        sub: &str,
        jti: &str,
        claims: AccessClaims,
    ) -> Result<String> {
        let mut claims =
            Claims::with_custom_claims(claims, Duration::from_secs(ACCESS_TOKEN_SECONDS))
                .with_issuer(&settings.issuer)
                .with_audience(&settings.audience)
                .with_subject(sub)
                .with_jwt_id(jti);
        claims.invalid_before = None;
        let options = HeaderOptions {
            signature_type: Some(ACCESS_TOKEN_TYPE.into()),
            ..HeaderOptions::default()
        };
        match self.pairs.first() {
            Some(Pair::Ed25519(pair)) => pair.sign_with_options(claims, &options),
            Some(Pair::Rsa(pair)) => pair.sign_with_options(claims, &options),
            None => return Err(Failure::new(Code::NotReady, "there is no signing key")),
        }
        .map_err(|e| Failure::new(Code::Internal, e.to_string()))
    }

    /// The claims of an access token of ours that is in its time; `None` for anything else.
    pub fn verify(&self, settings: &Settings, token: &str) -> Option<JWTClaims<AccessClaims>> {
        let options = || VerificationOptions {
            required_signature_type: Some(ACCESS_TOKEN_TYPE.into()),
            allowed_issuers: Some([settings.issuer.clone()].into()),
            allowed_audiences: Some([settings.audience.clone()].into()),
            time_tolerance: Some(Duration::from_secs(CLOCK_TOLERANCE_SECONDS)),
            max_token_length: Some(innover_kit::contract::limits::TOKEN_BYTES_MAX),
            ..VerificationOptions::default()
        };
        let verified = self.pairs.iter().find_map(|pair| {
            match pair {
                Pair::Ed25519(pair) => pair.public_key().verify_token(token, Some(options())),
                Pair::Rsa(pair) => pair.public_key().verify_token(token, Some(options())),
            }
            .ok()
        });
        verified.filter(|claims: &JWTClaims<AccessClaims>| claims.expires_at.is_some())
    }
}

fn pair(source: &Json) -> Result<Pair, &'static str> {
    let head = Source::deserialize(source).map_err(|_| "it needs `kty` and `kid`")?;
    match (head.kty.as_str(), head.pem) {
        ("OKP", _) => Ed25519KeyPair::from_jwk(&source.to_string())
            .map(|pair| Pair::Ed25519(Box::new(pair.with_key_id(&head.kid))))
            .map_err(|_| "it is not a private Ed25519 JWK"),
        ("RSA", Some(pem)) => RS256KeyPair::from_pem(&pem)
            .map(|pair| Pair::Rsa(Box::new(pair.with_key_id(&head.kid))))
            .map_err(|_| "its `pem` is not an RSA key of 2048 to 4096 bits"),
        ("RSA", None) => RS256KeyPair::from_jwk(&source.to_string())
            .map(|pair| Pair::Rsa(Box::new(pair.with_key_id(&head.kid))))
            .map_err(|_| "it is not a private RSA JWK of 2048 to 4096 bits"),
        _ => Err("its `kty` is neither OKP nor RSA"),
    }
}
