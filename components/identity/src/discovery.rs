//! What clients find by themselves: the public keys and the metadata of RFC 8414 and OIDC.

use axum::response::{IntoResponse, Response};
use http::header;
use innover_kit::Result;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{keys::Keys, model::SCOPES, settings::Settings};

/// Keys change rarely; five minutes bound how long a removed one lives on in caches.
const CACHE: &str = "public, max-age=300";

/// The public keys access tokens are checked with (RFC 7517).
#[utoipa::path(get, path = "/oauth2/jwks", tag = "discovery",
    responses((status = 200, description = "A JWK set", content_type = "application/json")))]
pub async fn jwks() -> Result<Response> {
    Ok(cached(Keys::read().await?.jwks().to_owned()))
}

fn cached(body: String) -> Response {
    (
        [
            (header::CONTENT_TYPE, "application/json"),
            (header::CACHE_CONTROL, CACHE),
        ],
        body,
    )
        .into_response()
}

/// The server's metadata. The authorization endpoint is not offered yet, so it is not named.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Metadata {
    pub issuer: String,
    pub token_endpoint: String,
    pub jwks_uri: String,
    pub introspection_endpoint: String,
    pub revocation_endpoint: String,
    pub userinfo_endpoint: String,
    pub scopes_supported: &'static [&'static str],
    pub response_types_supported: &'static [&'static str],
    pub grant_types_supported: &'static [&'static str],
    pub subject_types_supported: &'static [&'static str],
    pub id_token_signing_alg_values_supported: &'static [&'static str],
    pub token_endpoint_auth_methods_supported: &'static [&'static str],
    pub introspection_endpoint_auth_methods_supported: &'static [&'static str],
    pub revocation_endpoint_auth_methods_supported: &'static [&'static str],
    pub claims_supported: &'static [&'static str],
}

impl Metadata {
    /// The metadata under these settings.
    pub fn new(settings: &Settings) -> Metadata {
        let at = |path: &str| format!("{}{path}", settings.issuer);
        Metadata {
            issuer: settings.issuer.clone(),
            token_endpoint: at("/oauth2/token"),
            jwks_uri: at("/oauth2/jwks"),
            introspection_endpoint: at("/oauth2/introspect"),
            revocation_endpoint: at("/oauth2/revoke"),
            userinfo_endpoint: at("/oauth2/userinfo"),
            scopes_supported: SCOPES,
            response_types_supported: &[],
            grant_types_supported: if settings.dev {
                &["client_credentials", "refresh_token", "password"]
            } else {
                &["client_credentials", "refresh_token"]
            },
            subject_types_supported: &["public"],
            id_token_signing_alg_values_supported: &["EdDSA", "RS256"],
            token_endpoint_auth_methods_supported: &[
                "client_secret_basic",
                "client_secret_post",
                "none",
            ],
            introspection_endpoint_auth_methods_supported: &[
                "client_secret_basic",
                "client_secret_post",
            ],
            revocation_endpoint_auth_methods_supported: &[
                "client_secret_basic",
                "client_secret_post",
                "none",
            ],
            claims_supported: &[
                "iss",
                "sub",
                "aud",
                "exp",
                "iat",
                "jti",
                "client_id",
                "scope",
                "email",
                "email_verified",
                "groups",
                "roles",
                "preferred_username",
            ],
        }
    }
}

/// The metadata where OIDC clients look for it.
#[utoipa::path(get, path = "/.well-known/openid-configuration", tag = "discovery",
    responses((status = 200, body = Metadata)))]
pub async fn openid_configuration() -> Result<Response> {
    let settings = Settings::read().await?;
    Ok(cached(
        serde_json::to_string(&Metadata::new(&settings)).unwrap_or_default(),
    ))
}

/// The metadata where OAuth clients look for it (RFC 8414).
#[utoipa::path(get, path = "/.well-known/oauth-authorization-server", tag = "discovery",
    responses((status = 200, body = Metadata)))]
pub async fn oauth_authorization_server() -> Result<Response> {
    openid_configuration().await
}
