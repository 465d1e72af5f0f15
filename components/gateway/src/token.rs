//! Access tokens: the checks of RFC 8725 and its successor, RFC 9068 for what an access token is.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use innover_kit::contract::{Identity, limits::TOKEN_BYTES_MAX};
use jwt_simple::prelude::*;
use serde::Deserialize;

use crate::limits::{CLOCK_TOLERANCE_SECONDS, TOKEN_HEADER_BYTES_MAX};

/// Why a token was refused. For logs and metrics: the caller learns that it was, not why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    TooLong,
    /// Not three parts of base64url.
    Shape,
    /// A header member that we do not know, or one that names keys or extensions.
    Header,
    /// `typ` is not `at+jwt`.
    Type,
    /// Not an algorithm we know, or not the one of the key.
    Algorithm,
    /// No key of the issuer has this `kid`.
    UnknownKey,
    /// Wrong signature, issuer, audience or time.
    Verification,
    /// A claim an access token must have is missing.
    Claims,
}

/// A token's header. `deny_unknown_fields` refuses `crit`, `jku`, `jwk`, `x5u`, `x5c`, `zip`, `b64`
/// and whatever comes next; the thumbprints are names of the key and ignored.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    kid: String,
    typ: String,
    #[serde(default, rename = "x5t")]
    _x5t: Option<String>,
    #[serde(default, rename = "x5t#S256")]
    _x5t_s256: Option<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct AccessClaims {
    #[serde(default)]
    client_id: String,
    #[serde(default)]
    scope: String,
    #[serde(default)]
    email: String,
    #[serde(default)]
    roles: Vec<String>,
    #[serde(default)]
    preferred_username: String,
}

enum Key {
    Ed25519(Box<Ed25519PublicKey>),
    Rs256(Box<RS256PublicKey>),
}

impl Key {
    /// One key, one algorithm (RFC 8725 §3.1). RFC 9864 renames `EdDSA` over this curve.
    fn takes(&self, alg: &str) -> bool {
        match self {
            Key::Ed25519(_) => matches!(alg, "EdDSA" | "Ed25519"),
            Key::Rs256(_) => alg == "RS256",
        }
    }
}

/// The keys of one issuer, by `kid`.
#[derive(Default)]
pub struct KeySet(Vec<(String, Key)>);

impl KeySet {
    /// Reads a JWK set. Keys of other kinds and those without a `kid` are left out; so is a `kid`
    /// given twice, since nobody could tell which one is meant.
    pub fn parse(text: &[u8]) -> Option<KeySet> {
        let set: serde_json::Value = serde_json::from_slice(text).ok()?;
        let mut keys: Vec<(String, Key)> = Vec::new();
        let mut twice = Vec::new();
        for jwk in set.get("keys")?.as_array()? {
            let Some(kid) = jwk.get("kid").and_then(|v| v.as_str()).map(str::to_owned) else {
                continue;
            };
            if keys.iter().any(|(known, _)| *known == kid) {
                twice.push(kid);
                continue;
            }
            let text = jwk.to_string();
            let key = match jwk.get("kty").and_then(|v| v.as_str()) {
                Some("OKP") => Ed25519PublicKey::from_jwk(&text)
                    .ok()
                    .map(|k| Key::Ed25519(Box::new(k))),
                Some("RSA") => RS256PublicKey::from_jwk(&text)
                    .ok()
                    .map(|k| Key::Rs256(Box::new(k))),
                _ => None,
            };
            keys.extend(key.map(|key| (kid, key)));
        }
        keys.retain(|(kid, _)| !twice.contains(kid));
        Some(KeySet(keys))
    }

    /// Whether it holds no key.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Whose tokens are accepted.
#[derive(Clone, Debug)]
pub struct Issuer {
    pub issuer: String,
    pub audience: String,
}

/// What a good token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Good {
    pub identity: Identity,
    /// Seconds since the epoch.
    pub expires_at: u64,
}

/// Checks a token against the keys of its issuer.
///
/// # Errors
/// [`Refusal`]; [`Refusal::UnknownKey`] is worth fetching the keys again for.
pub fn check(token: &str, issuer: &Issuer, keys: &KeySet) -> Result<Good, Refusal> {
    let header = header(token)?;
    let (_, key) = keys
        .0
        .iter()
        .find(|(kid, _)| *kid == header.kid)
        .ok_or(Refusal::UnknownKey)?;
    if !key.takes(&header.alg) {
        return Err(Refusal::Algorithm);
    }
    let options = VerificationOptions {
        allowed_issuers: Some([issuer.issuer.clone()].into()),
        allowed_audiences: Some([issuer.audience.clone()].into()),
        // jwt-simple's default tolerates 900 s.
        time_tolerance: Some(Duration::from_secs(CLOCK_TOLERANCE_SECONDS)),
        max_token_length: Some(TOKEN_BYTES_MAX),
        max_header_length: Some(TOKEN_HEADER_BYTES_MAX),
        // `typ` was checked: jwt-simple compares it literally and knows no `application/`.
        required_signature_type: Some(header.typ),
        ..VerificationOptions::default()
    };
    let claims: JWTClaims<AccessClaims> = match key {
        Key::Ed25519(key) => key.verify_token(token, Some(options)),
        Key::Rs256(key) => key.verify_token(token, Some(options)),
    }
    .map_err(|_| Refusal::Verification)?;
    // RFC 9068 §2.2: these are required. jwt-simple accepts a token without `exp`.
    let (Some(expires_at), Some(_), Some(_)) = (claims.expires_at, claims.issued_at, claims.jwt_id)
    else {
        return Err(Refusal::Claims);
    };
    // jwt-simple clamps numbers it cannot hold: such a token would never end.
    if expires_at.as_secs() >= u64::from(u32::MAX) {
        return Err(Refusal::Claims);
    }
    let sub = claims
        .subject
        .filter(|sub| !sub.is_empty())
        .ok_or(Refusal::Claims)?;
    let AccessClaims {
        client_id,
        scope,
        email,
        roles,
        preferred_username,
    } = claims.custom;
    if client_id.is_empty() {
        return Err(Refusal::Claims);
    }
    let identity = Identity {
        sub,
        preferred_username,
        email,
        roles,
        scope,
        client_id,
    };
    Ok(Good {
        identity,
        expires_at: expires_at.as_secs(),
    })
}

/// Everything that can be said before a key is looked up.
fn header(token: &str) -> Result<Header, Refusal> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(Refusal::TooLong);
    }
    if !token
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    {
        return Err(Refusal::Shape);
    }
    // Five parts are a JWE (RFC 8725 §3.3), and an empty signature is nobody's.
    let mut parts = token.split('.');
    let (head, claims, signature) = (parts.next(), parts.next(), parts.next());
    let (Some(head), Some(claims), Some(signature), None) = (head, claims, signature, parts.next())
    else {
        return Err(Refusal::Shape);
    };
    if head.is_empty()
        || claims.is_empty()
        || signature.is_empty()
        || head.len() > TOKEN_HEADER_BYTES_MAX
    {
        return Err(Refusal::Shape);
    }
    let json = URL_SAFE_NO_PAD.decode(head).map_err(|_| Refusal::Shape)?;
    let header: Header = serde_json::from_slice(&json).map_err(|_| Refusal::Header)?;
    // RFC 9068 §4: either form, in any case (media types have none).
    let typ = header.typ.to_ascii_lowercase();
    if !matches!(typ.as_str(), "at+jwt" | "application/at+jwt") {
        return Err(Refusal::Type);
    }
    if !matches!(header.alg.as_str(), "EdDSA" | "Ed25519" | "RS256") {
        return Err(Refusal::Algorithm);
    }
    Ok(header)
}
