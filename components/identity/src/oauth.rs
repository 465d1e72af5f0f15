//! `/oauth2/*`: token, introspection, revocation, user info. Errors here have the form RFC 6749
//! gives them, not the problem+json of everything else.

use axum::{
    extract::Request,
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use innover_kit::{Batch, Cx, Db, Failure};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    dev,
    keys::Keys,
    model::{Client, UserState, granted, narrow},
    settings::Settings,
    signin::{self, Denied},
    store, tokens,
};

/// Where the gateway puts a client's own `Authorization: Basic`: the header itself carries the
/// service token by then.
pub const CLIENT_AUTHORIZATION: HeaderName = HeaderName::from_static("x-client-authorization");

/// The error of an OAuth endpoint (RFC 6749 §5.2).
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct OAuthError {
    /// `invalid_request`, `invalid_client`, `invalid_grant`, `invalid_scope`, …
    pub error: &'static str,
    pub error_description: String,
    #[serde(skip)]
    #[schema(ignore)]
    status: u16,
    #[serde(skip)]
    #[schema(ignore)]
    retry_after: Option<i64>,
}

impl OAuthError {
    fn new(status: u16, error: &'static str, description: impl Into<String>) -> OAuthError {
        OAuthError {
            error,
            error_description: description.into(),
            status,
            retry_after: None,
        }
    }

    fn request(description: impl Into<String>) -> OAuthError {
        OAuthError::new(400, "invalid_request", description)
    }

    fn client() -> OAuthError {
        OAuthError::new(
            401,
            "invalid_client",
            "unknown client, or its secret is wrong",
        )
    }

    fn grant(description: &str) -> OAuthError {
        OAuthError::new(400, "invalid_grant", description)
    }

    fn scope() -> OAuthError {
        OAuthError::new(
            400,
            "invalid_scope",
            "the scope is unknown or none of it can be granted",
        )
    }
}

impl<E: Into<Failure>> From<E> for OAuthError {
    fn from(error: E) -> OAuthError {
        let failure: Failure = error.into();
        let name = if failure.status() >= 503 {
            "temporarily_unavailable"
        } else {
            "server_error"
        };
        OAuthError::new(failure.status().max(500), name, failure.0.detail)
    }
}

impl IntoResponse for OAuthError {
    fn into_response(self) -> Response {
        let retry_after = self.retry_after;
        let mut response = json(self.status, &self);
        if self.status == 401 {
            let challenge =
                HeaderValue::from_static(r#"Basic realm="innover", error="invalid_client""#);
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, challenge);
        }
        if let Some(seconds) = retry_after {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// A JSON answer that no cache keeps (RFC 6749 §5.1).
pub fn json(status: u16, body: &impl Serialize) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (
        status,
        headers,
        serde_json::to_vec(body).unwrap_or_default(),
    )
        .into_response()
}

/// A form as sent: every parameter once (RFC 6749 §3.2).
struct Form(Vec<(String, String)>);

impl Form {
    fn parse(headers: &HeaderMap, body: &[u8]) -> Result<Form, OAuthError> {
        let media = headers
            .get(header::CONTENT_TYPE)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default();
        if !media.split(';').next().is_some_and(|m| {
            m.trim()
                .eq_ignore_ascii_case("application/x-www-form-urlencoded")
        }) {
            return Err(OAuthError::request(
                "send a form: application/x-www-form-urlencoded",
            ));
        }
        let mut fields: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(body) {
            if fields.iter().any(|(known, _)| *known == name) {
                return Err(OAuthError::request("a parameter is given twice"));
            }
            fields.push((name.into_owned(), value.into_owned()));
        }
        Ok(Form(fields))
    }

    /// A parameter; one without a value counts as left out (RFC 6749 §3.1).
    fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(n, v)| n == name && !v.is_empty())
            .map(|(_, v)| v.as_str())
    }

    fn need(&self, name: &str) -> Result<&str, OAuthError> {
        self.get(name)
            .ok_or_else(|| OAuthError::request(format!("`{name}` is missing")))
    }
}

/// What every endpoint starts with.
struct Call {
    form: Form,
    headers: HeaderMap,
    settings: Settings,
    db: Db,
}

impl Call {
    async fn open(headers: HeaderMap, body: &[u8]) -> Result<Call, OAuthError> {
        let form = Form::parse(&headers, body)?;
        let settings = Settings::read().await?;
        let mut db = Db::open().await?;
        if settings.dev {
            dev::seed(&mut db).await?;
        }
        Ok(Call {
            form,
            headers,
            settings,
            db,
        })
    }

    /// The client, by Basic (RFC 6749 §2.3.1) or in the form, not both. One that has a secret must
    /// show it.
    async fn client(&self) -> Result<Client, OAuthError> {
        let basic = self
            .headers
            .get(CLIENT_AUTHORIZATION)
            .map(|value| basic(value).ok_or_else(OAuthError::client));
        let (id, secret) = match basic.transpose()? {
            Some(_) if self.form.get("client_secret").is_some() => {
                return Err(OAuthError::request(
                    "authenticate the client in one way only",
                ));
            }
            Some((id, secret)) => (id, Some(secret)),
            None => (
                self.form.need("client_id")?.to_owned(),
                self.form.get("client_secret").map(str::to_owned),
            ),
        };
        // A database that was a dev one still has its client, whose secret everybody knows.
        let known = |client: &Client| self.settings.dev || client.id != dev::CLIENT_ID;
        let client = store::client(&self.db, &id)
            .await?
            .filter(known)
            .ok_or_else(OAuthError::client)?;
        let shown = secret.map(|secret| tokens::digest(&secret));
        // Digests of 256-bit values: comparing them takes no secret's time.
        if client.secret.is_some() && client.secret != shown {
            return Err(OAuthError::client());
        }
        Ok(client)
    }

    async fn confidential_client(&self) -> Result<Client, OAuthError> {
        self.client().await.and_then(|client| match client.secret {
            Some(_) => Ok(client),
            None => Err(OAuthError::client()),
        })
    }
}

/// `Basic <base64 of form-encoded id:secret>`.
fn basic(value: &HeaderValue) -> Option<(String, String)> {
    let (scheme, encoded) = value.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (id, secret) = decoded.split_once(':')?;
    let plain = |text: &str| {
        form_urlencoded::parse(text.as_bytes())
            .next()
            .map(|(name, _)| name.into_owned())
            .unwrap_or_default()
    };
    Some((plain(id), plain(secret)))
}

async fn read(request: Request) -> Result<(HeaderMap, Bytes), OAuthError> {
    use axum::extract::FromRequest;
    let headers = request.headers().clone();
    let body = Bytes::from_request(request, &())
        .await
        .map_err(|e| OAuthError::request(e.to_string()))?;
    Ok((headers, body))
}

/// Exchanges a grant for tokens.
#[utoipa::path(post, path = "/oauth2/token", tag = "oauth2",
    request_body(content = TokenForm, content_type = "application/x-www-form-urlencoded"),
    responses((status = 200, body = tokens::TokenView), (status = 400, body = OAuthError), (status = 401, body = OAuthError), (status = 429, body = OAuthError)))]
pub async fn token(request: Request) -> Result<Response, OAuthError> {
    let (headers, body) = read(request).await?;
    let mut call = Call::open(headers, &body).await?;
    let grant = call.form.need("grant_type")?.to_owned();
    let known = match grant.as_str() {
        "password" => call.settings.dev,
        "client_credentials" | "refresh_token" => true,
        _ => false,
    };
    if !known {
        return Err(OAuthError::new(
            400,
            "unsupported_grant_type",
            format!("`{grant}` is not offered"),
        ));
    }
    let client = call.client().await?;
    if !client.may(&grant) {
        return Err(OAuthError::new(
            400,
            "unauthorized_client",
            format!("this client may not use `{grant}`"),
        ));
    }
    let answer = match grant.as_str() {
        "password" => by_password(&mut call, &client).await?,
        "refresh_token" => by_refresh(&mut call, &client).await?,
        _ => by_client(&call, &client).await?,
    };
    Ok(json(200, &answer))
}

async fn by_password(call: &mut Call, client: &Client) -> Result<tokens::TokenView, OAuthError> {
    let name = call.form.need("username")?.to_owned();
    let password = call.form.need("password")?.to_owned();
    let user = match signin::authenticate(&mut call.db, call.settings.dev, &name, &password).await {
        Ok(user) => user,
        Err(Denied::Wrong) => return Err(OAuthError::grant("unknown user or wrong password")),
        Err(Denied::Throttled { seconds }) => {
            let text = format!("too many failures; try again in {seconds} s");
            return Err(OAuthError {
                retry_after: Some(seconds),
                ..OAuthError::new(429, "slow_down", text)
            });
        }
        Err(Denied::Failed(failure)) => return Err(failure.into()),
    };
    let granted = granted(user.roles.iter().map(String::as_str));
    let scope = narrow(&granted, call.form.get("scope")).ok_or_else(OAuthError::scope)?;
    let refresh = tokens::start_family(&mut call.db, &client.id, &user.id, &scope).await?;
    let answer = tokens::for_user(&call.settings, &user, &client.id, scope).await?;
    Ok(tokens::TokenView {
        refresh_token: Some(refresh),
        ..answer
    })
}

async fn by_client(call: &Call, client: &Client) -> Result<tokens::TokenView, OAuthError> {
    // RFC 6749 §4.4: this grant is for clients that can keep a secret.
    if client.secret.is_none() {
        return Err(OAuthError::client());
    }
    let granted = granted(client.roles.iter().map(String::as_str));
    let scope = narrow(&granted, call.form.get("scope")).ok_or_else(OAuthError::scope)?;
    Ok(tokens::for_client(&call.settings, client, scope).await?)
}

async fn by_refresh(call: &mut Call, client: &Client) -> Result<tokens::TokenView, OAuthError> {
    let refused = || OAuthError::grant("the refresh token is unknown, expired or was used before");
    let token = call.form.need("refresh_token")?.to_owned();
    let asked = call.form.get("scope").map(str::to_owned);
    let rotated = tokens::rotate(&mut call.db, &token, &client.id).await?;
    let (family, next) = rotated.ok_or_else(refused)?;
    let user = store::user_by_id(&call.db, &family.subject).await?;
    let user = user
        .filter(|user| user.state == UserState::Active)
        .ok_or_else(refused)?;
    // Roles may have changed since the sign-in: a token never outlives what grants it, and what is
    // asked for now never exceeds what was granted then (RFC 6749 §6).
    let now = granted(user.roles.iter().map(String::as_str));
    let then: Vec<&'static str> = now
        .into_iter()
        .filter(|scope| family.scope.split(' ').any(|s| s == *scope))
        .collect();
    let scope = narrow(&then, asked.as_deref()).ok_or_else(OAuthError::scope)?;
    let answer = tokens::for_user(&call.settings, &user, &client.id, scope).await?;
    Ok(tokens::TokenView {
        refresh_token: Some(next),
        ..answer
    })
}

/// The parameters of the token endpoint, for its documentation.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct TokenForm {
    /// `password` (dev profile), `client_credentials` or `refresh_token`.
    grant_type: String,
    /// Unless the client authenticates by Basic; `innover-cli` is public.
    client_id: Option<String>,
    client_secret: Option<String>,
    username: Option<String>,
    password: Option<String>,
    refresh_token: Option<String>,
    /// Left out: everything the roles grant.
    scope: Option<String>,
}

/// The parameters of introspection and revocation, for their documentation.
#[derive(ToSchema)]
#[allow(dead_code)]
pub struct TokenReference {
    token: String,
    client_id: Option<String>,
    client_secret: Option<String>,
}

/// What is known of a token (RFC 7662). Anything wrong with it: `{"active":false}` and no more.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct Introspection {
    pub active: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exp: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iat: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aud: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
}

/// Says whether a token is good and what it carries; for confidential clients.
#[utoipa::path(post, path = "/oauth2/introspect", tag = "oauth2",
    request_body(content = TokenReference, content_type = "application/x-www-form-urlencoded"),
    responses((status = 200, body = Introspection), (status = 401, body = OAuthError)))]
pub async fn introspect(request: Request) -> Result<Response, OAuthError> {
    let (headers, body) = read(request).await?;
    let call = Call::open(headers, &body).await?;
    call.confidential_client().await?;
    let token = call.form.need("token")?;
    let found = match introspect_access(&call, token).await? {
        Some(found) => found,
        None => introspect_refresh(&call, token).await?.unwrap_or_default(),
    };
    Ok(json(200, &found))
}

async fn introspect_access(call: &Call, token: &str) -> Result<Option<Introspection>, OAuthError> {
    let Some(claims) = Keys::read().await?.verify(&call.settings, token) else {
        return Ok(None);
    };
    let jti = claims.jwt_id.unwrap_or_default();
    let sub = claims.subject.unwrap_or_default();
    if store::is_revoked(&call.db, &jti).await? {
        return Ok(None);
    }
    let custom = claims.custom;
    if sub != custom.client_id {
        let user = store::user_by_id(&call.db, &sub).await?;
        if user.is_none_or(|user| user.state != UserState::Active) {
            return Ok(None);
        }
    }
    let seconds = |time: Option<jwt_simple::prelude::UnixTimeStamp>| {
        time.and_then(|t| i64::try_from(t.as_secs()).ok())
    };
    Ok(Some(Introspection {
        active: true,
        scope: Some(custom.scope),
        client_id: Some(custom.client_id),
        username: Some(custom.preferred_username).filter(|name| !name.is_empty()),
        token_type: Some("Bearer"),
        exp: seconds(claims.expires_at),
        iat: seconds(claims.issued_at),
        sub: Some(sub),
        aud: Some(call.settings.audience.clone()),
        iss: Some(call.settings.issuer.clone()),
        jti: Some(jti),
    }))
}

async fn introspect_refresh(call: &Call, token: &str) -> Result<Option<Introspection>, OAuthError> {
    let used = tokens::digest(token);
    let family = store::family_of(&call.db, &used).await?;
    let good = family
        .filter(|f| !f.revoked && f.current == used && f.expires_at > innover_kit::ids::now_us());
    Ok(good.map(|family| Introspection {
        active: true,
        exp: Some(family.expires_at / 1_000_000),
        scope: Some(family.scope),
        client_id: Some(family.client_id),
        sub: Some(family.subject),
        iss: Some(call.settings.issuer.clone()),
        ..Introspection::default()
    }))
}

/// Revokes a token (RFC 7009). A refresh token takes its whole family along. An access token is
/// inactive for introspection from then on; services that check its signature alone learn of it when
/// it expires. 200 for a token nobody knows.
#[utoipa::path(post, path = "/oauth2/revoke", tag = "oauth2",
    request_body(content = TokenReference, content_type = "application/x-www-form-urlencoded"),
    responses((status = 200, description = "It is good for nothing now"), (status = 401, body = OAuthError)))]
pub async fn revoke(request: Request) -> Result<Response, OAuthError> {
    let (headers, body) = read(request).await?;
    let mut call = Call::open(headers, &body).await?;
    let client = call.client().await?;
    let token = call.form.need("token")?;
    let family = store::family_of(&call.db, &tokens::digest(token)).await?;
    if let Some(family) = family.filter(|family| family.client_id == client.id) {
        tokens::end_family(&mut call.db, &family.id).await?;
    } else if let Some(claims) = Keys::read().await?.verify(&call.settings, token)
        && claims.custom.client_id == client.id
        && let (Some(jti), Some(expires)) = (claims.jwt_id, claims.expires_at)
    {
        let mut batch = Batch::new();
        let expires_at = i64::try_from(expires.as_secs())
            .unwrap_or(i64::MAX)
            .saturating_mul(1_000_000);
        store::revoke_access_token(&mut batch, &jti, expires_at);
        batch.commit(&mut call.db).await?;
    }
    Ok(json(200, &serde_json::json!({})))
}

/// Who the token speaks for (OIDC Core §5.3).
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct UserInfo {
    pub sub: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub preferred_username: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub email: String,
    pub email_verified: bool,
    pub groups: Vec<String>,
    pub roles: Vec<String>,
}

/// Tells the bearer of an access token who it speaks for.
#[utoipa::path(get, path = "/oauth2/userinfo", tag = "oauth2",
    responses((status = 200, body = UserInfo), (status = 401, description = "No valid access token")))]
pub async fn userinfo(cx: Cx) -> innover_kit::Result<Response> {
    let who = cx.identity()?;
    if who.sub.is_empty() {
        return Err(Failure::new(
            innover_kit::Code::InvalidToken,
            "send an access token",
        ));
    }
    Ok(json(
        200,
        &UserInfo {
            sub: who.sub.clone(),
            preferred_username: who.preferred_username.clone(),
            email: who.email.clone(),
            email_verified: false,
            groups: who.roles.clone(),
            roles: who.roles.clone(),
        },
    ))
}
