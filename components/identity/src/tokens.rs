//! Handing tokens out: the access token, and the refresh token with its family.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use innover_kit::{Batch, Code, Db, Failure, Result, ids};
use serde::Serialize;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::{
    keys::{AccessClaims, Keys},
    limits::{ACCESS_TOKEN_SECONDS, REFRESH_FAMILY_US, REFRESH_TOKEN_BYTES},
    model::{Client, Refresh, RefreshFamily, User, judge_refresh},
    settings::Settings,
    store,
};

/// The answer of the token endpoint (RFC 6749 §5.1).
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TokenView {
    pub access_token: String,
    #[schema(example = "Bearer")]
    pub token_type: &'static str,
    /// Seconds.
    #[schema(example = 3600)]
    pub expires_in: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<String>,
    /// Separated by one space.
    pub scope: String,
}

/// `N` random bytes.
///
/// # Errors
/// When the system has none.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| Failure::new(Code::Internal, e.to_string()))?;
    Ok(bytes)
}

/// How refresh tokens and client secrets are stored: SHA-256, base64url. They are random, so there
/// is nothing to guess and nothing to slow down.
pub fn digest(secret: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(secret))
}

fn new_refresh_token() -> Result<String> {
    Ok(URL_SAFE_NO_PAD.encode(random::<REFRESH_TOKEN_BYTES>()?))
}

/// An access token for a person.
///
/// # Errors
/// 503 without a signing key.
pub async fn for_user(
    settings: &Settings,
    user: &User,
    client_id: &str,
    scope: String,
) -> Result<TokenView> {
    let claims = AccessClaims {
        client_id: client_id.into(),
        scope: scope.clone(),
        email: user.email.clone(),
        // Addresses are set by an administrator and nothing is mailed to them yet.
        email_verified: false,
        groups: user.roles.clone(),
        roles: user.roles.clone(),
        preferred_username: user.username.clone(),
    };
    access(settings, &user.id, claims, scope).await
}

/// An access token for a client itself. It has no user name, which is how services tell.
///
/// # Errors
/// 503 without a signing key.
pub async fn for_client(settings: &Settings, client: &Client, scope: String) -> Result<TokenView> {
    let claims = AccessClaims {
        client_id: client.id.clone(),
        scope: scope.clone(),
        groups: client.roles.clone(),
        roles: client.roles.clone(),
        ..AccessClaims::default()
    };
    access(settings, &client.id, claims, scope).await
}

async fn access(
    settings: &Settings,
    sub: &str,
    claims: AccessClaims,
    scope: String,
) -> Result<TokenView> {
    let access_token = Keys::read()
        .await?
        .sign(settings, sub, &ids::new_uuid(), claims)?;
    Ok(TokenView {
        access_token,
        token_type: "Bearer",
        expires_in: ACCESS_TOKEN_SECONDS,
        refresh_token: None,
        scope,
    })
}

/// Starts a refresh family and returns its first token.
///
/// # Errors
/// When the database fails.
pub async fn start_family(
    db: &mut Db,
    client_id: &str,
    subject: &str,
    scope: &str,
) -> Result<String> {
    let token = new_refresh_token()?;
    let now = ids::now_us();
    let family = RefreshFamily {
        id: ids::new_id("rfa"),
        client_id: client_id.into(),
        subject: subject.into(),
        scope: scope.into(),
        current: digest(&token),
        revoked: false,
        expires_at: now + REFRESH_FAMILY_US,
    };
    let mut batch = Batch::new();
    store::insert_family(&mut batch, &family, now);
    batch.commit(db).await?;
    Ok(token)
}

/// Exchanges a refresh token for its successor; `None` when it is good for nothing. A token that was
/// used before ends its family.
///
/// # Errors
/// When the database fails.
pub async fn rotate(
    db: &mut Db,
    token: &str,
    client_id: &str,
) -> Result<Option<(RefreshFamily, String)>> {
    let used = digest(token);
    let Some(family) = store::family_of(db, &used).await? else {
        return Ok(None);
    };
    let now = ids::now_us();
    match judge_refresh(&family, &used, client_id, now) {
        Refresh::Refused => return Ok(None),
        Refresh::Replayed => {
            end_family(db, &family.id).await?;
            return Ok(None);
        }
        Refresh::Rotate => {}
    }
    let next = new_refresh_token()?;
    let mut batch = Batch::new();
    store::rotate_family(&mut batch, &family, &digest(&next), now);
    match batch.commit(db).await {
        Ok(()) => Ok(Some((family, next))),
        // The same token at the same time is a replay as well.
        Err(error) if error.step() == Some(store::ROTATE) => {
            end_family(db, &family.id).await?;
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Ends a family.
///
/// # Errors
/// When the database fails.
pub async fn end_family(db: &mut Db, id: &str) -> Result<()> {
    let mut batch = Batch::new();
    store::revoke_family(&mut batch, id, ids::now_us());
    Ok(batch.commit(db).await?)
}
