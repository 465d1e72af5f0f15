//! The HTTP surface: people and sign-in here, `/oauth2/*` in [`crate::oauth`], metadata in
//! [`crate::discovery`].

use axum::{
    extract::{Path, Query},
    response::{IntoResponse, Response},
};
use innover_kit::{
    Answer, Batch, Body, Code, Cx, Db, Expect, Failure, Result, batch,
    contract::time::rfc3339,
    idempotency::{IdempotencyKey, commit},
    ids,
    page::{Page, PageQuery},
    params,
};
use serde::{Deserialize, Serialize};
use utoipa::{OpenApi, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    dev, discovery,
    model::{self, User, UserState, granted, narrow},
    oauth, password,
    settings::Settings,
    signin::{self, Denied},
    store, tokens,
};

#[derive(OpenApi)]
#[openapi(
    info(title = "identity", description = "Users, clients and tokens"),
    servers((url = "/"))
)]
struct Document;

/// The routes.
pub fn routes() -> OpenApiRouter {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(oauth::token))
        .routes(routes!(oauth::introspect))
        .routes(routes!(oauth::revoke))
        .routes(routes!(oauth::userinfo))
        .routes(routes!(discovery::jwks))
        .routes(routes!(discovery::openid_configuration))
        .routes(routes!(discovery::oauth_authorization_server))
        .routes(routes!(login))
        .routes(routes!(list_users, create_user))
        .routes(routes!(get_user, change_user, delete_user))
}

/// The client that sign-in by JSON hands tokens to.
const LOGIN_CLIENT: &str = "innover-cli";

/// Name and password.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// The user name or the address.
    #[serde(alias = "email")]
    pub username: String,
    pub password: String,
    /// Left out: everything the roles grant.
    #[serde(default)]
    pub scope: Option<String>,
}

/// Signs a person in by name and password; in the dev profile only.
#[utoipa::path(post, path = "/v1/auth/login", tag = "users", request_body = Login,
    responses((status = 200, body = tokens::TokenView), (status = 401, description = "Wrong name or password"), (status = 429, description = "Too many failures")))]
pub async fn login(body: Body<Login>) -> Result<Response> {
    let settings = Settings::read().await?;
    if !settings.dev {
        return Err(Failure::new(
            Code::NotFound,
            "sign-in by password exists in the dev profile only",
        ));
    }
    let mut db = Db::open().await?;
    dev::seed(&mut db).await?;
    let Login {
        username,
        password,
        scope,
    } = body.value;
    let user = match signin::authenticate(&mut db, settings.dev, &username, &password).await {
        Ok(user) => user,
        Err(Denied::Wrong) => {
            return Err(Failure::new(
                Code::InvalidToken,
                "unknown user or wrong password",
            ));
        }
        Err(Denied::Throttled { seconds }) => {
            let text = format!("too many failures; try again in {seconds} s");
            return Err(Failure::new(Code::RateLimited, text));
        }
        Err(Denied::Failed(failure)) => return Err(failure),
    };
    let granted = granted(user.roles.iter().map(String::as_str));
    let scope = narrow(&granted, scope.as_deref()).ok_or_else(|| {
        Failure::new(
            Code::InvalidRequest,
            "the scope is unknown or none of it can be granted",
        )
        .param("/scope")
    })?;
    let refresh = tokens::start_family(&mut db, LOGIN_CLIENT, &user.id, &scope).await?;
    let answer = tokens::for_user(&settings, &user, LOGIN_CLIENT, scope).await?;
    Ok(oauth::json(
        200,
        &tokens::TokenView {
            refresh_token: Some(refresh),
            ..answer
        },
    ))
}

/// A person as others see them.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct UserView {
    #[schema(example = "usr_0192f3c2a1b37c1d8e4f5a6b7c8d9e0f")]
    pub id: String,
    pub username: String,
    pub email: String,
    pub roles: Vec<String>,
    /// `active` or `disabled`.
    pub state: &'static str,
    pub version: i64,
    /// RFC 3339.
    pub created_at: String,
    pub updated_at: String,
}

impl From<&User> for UserView {
    fn from(user: &User) -> UserView {
        UserView {
            id: user.id.clone(),
            username: user.username.clone(),
            email: user.email.clone(),
            roles: user.roles.clone(),
            state: user.state.as_str(),
            version: user.version,
            created_at: rfc3339(user.created_at),
            updated_at: rfc3339(user.updated_at),
        }
    }
}

/// A new person.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewUser {
    /// Lower-case letters, digits, `.`, `_`, `-`.
    pub username: String,
    pub email: String,
    /// At least 8 characters.
    pub password: String,
    /// `user` when left out.
    #[serde(default)]
    pub roles: Option<Vec<String>>,
}

/// What may change.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserChange {
    #[serde(default)]
    pub email: Option<String>,
    #[serde(default)]
    pub password: Option<String>,
    #[serde(default)]
    pub roles: Option<Vec<String>>,
    /// `active` or `disabled`; a disabled person's refresh tokens end at once.
    #[serde(default)]
    pub state: Option<String>,
}

/// The key of a request, without the password: a digest of it would be a fast hash to guess against.
fn key_of<T>(cx: &Cx, body: &mut Body<T>) -> Result<Option<IdempotencyKey>> {
    body.fields.remove("password");
    cx.idempotency(&body.fields)
}

async fn open() -> Result<Db> {
    let mut db = Db::open().await?;
    if Settings::read().await?.dev {
        dev::seed(&mut db).await?;
    }
    Ok(db)
}

fn not_found(id: &str) -> Failure {
    Failure::new(Code::UserNotFound, format!("user `{id}` does not exist"))
}

/// Lists people.
#[utoipa::path(get, path = "/v1/users", tag = "users", params(PageQuery),
    responses((status = 200, body = Page<UserView>)))]
pub async fn list_users(cx: Cx, Query(page): Query<PageQuery>) -> Result<Answer> {
    cx.require("user:read")?;
    let (limit, after) = (page.limit()?, page.after()?);
    let users = store::users_after(&open().await?, &after, i64::from(limit) + 1).await?;
    let views = users.iter().map(UserView::from).collect();
    Answer::json(200, &Page::new(views, limit, |view: &UserView| &view.id))
}

/// Adds a person.
#[utoipa::path(post, path = "/v1/users", tag = "users", request_body = NewUser,
    responses((status = 201, body = UserView), (status = 409, description = "The name or address is taken")))]
pub async fn create_user(cx: Cx, mut body: Body<NewUser>) -> Result<Answer> {
    cx.require("user:write")?;
    let key = key_of(&cx, &mut body)?;
    let mut db = open().await?;
    if let Some(key) = &key
        && let Some(answer) = key.replay(&db).await?
    {
        return Ok(answer);
    }
    let NewUser {
        username,
        email,
        password,
        roles,
    } = body.value;
    let email = email.to_ascii_lowercase();
    check(
        model::is_username(&username),
        "/username",
        "1 to 64 of a-z, 0-9, `.`, `_`, `-`",
    )?;
    check(
        model::is_email(&email),
        "/email",
        "an address such as ana@example.com",
    )?;
    check(
        model::is_password(&password),
        "/password",
        "at least 8 characters",
    )?;
    let roles = checked_roles(roles.unwrap_or_else(|| vec!["user".into()]))?;
    let now = ids::now_us();
    let user = User {
        id: ids::new_id("usr"),
        username,
        email,
        password: password::hash(&password)?,
        roles,
        state: UserState::Active,
        version: 1,
        created_at: now,
        updated_at: now,
    };
    let mut batch = Batch::new();
    let row = params![
        &user.id,
        &user.username,
        &user.email,
        &user.password,
        user.roles.join(" "),
        user.state.as_str(),
        user.version,
        now,
        now
    ];
    store::insert_users(&mut batch, vec![row], Expect::Rows(1));
    let answer = Answer::json(201, &UserView::from(&user))?;
    commit(&mut db, batch, key.as_ref(), answer)
        .await
        .map_err(|error| match error {
            innover_kit::idempotency::CommitError::Batch(e) if e.step() == Some("insert_user") => {
                Failure::new(Code::AlreadyExists, "the user name or the address is taken")
            }
            error => error.into(),
        })
}

/// Shows a person; everyone may see themselves.
#[utoipa::path(get, path = "/v1/users/{id}", tag = "users", params(("id" = String, Path)),
    responses((status = 200, body = UserView), (status = 404, description = "No such user")))]
pub async fn get_user(cx: Cx, Path(id): Path<String>) -> Result<Answer> {
    if cx.identity()?.sub != id {
        cx.require("user:read")?;
    }
    let user = store::user_by_id(&open().await?, &id)
        .await?
        .ok_or_else(|| not_found(&id))?;
    Answer::json(200, &UserView::from(&user))
}

/// Changes a person. New roles count from the next token on.
#[utoipa::path(patch, path = "/v1/users/{id}", tag = "users", params(("id" = String, Path)), request_body = UserChange,
    responses((status = 200, body = UserView), (status = 404, description = "No such user"), (status = 409, description = "The address is taken, or somebody was faster")))]
pub async fn change_user(
    cx: Cx,
    Path(id): Path<String>,
    mut body: Body<UserChange>,
) -> Result<Answer> {
    cx.require("user:write")?;
    let key = key_of(&cx, &mut body)?;
    let mut db = open().await?;
    if let Some(key) = &key
        && let Some(answer) = key.replay(&db).await?
    {
        return Ok(answer);
    }
    let mut user = store::user_by_id(&db, &id)
        .await?
        .ok_or_else(|| not_found(&id))?;
    let change = body.value;
    let ends_sessions = change.password.is_some() || change.state.as_deref() == Some("disabled");
    if let Some(email) = change.email.map(|e| e.to_ascii_lowercase()) {
        check(
            model::is_email(&email),
            "/email",
            "an address such as ana@example.com",
        )?;
        let taken = store::user_by_name(&db, &email)
            .await?
            .is_some_and(|other| other.id != id);
        if taken {
            return Err(Failure::new(Code::AlreadyExists, "the address is taken").param("/email"));
        }
        user.email = email;
    }
    if let Some(password) = change.password {
        check(
            model::is_password(&password),
            "/password",
            "at least 8 characters",
        )?;
        user.password = password::hash(&password)?;
    }
    if let Some(roles) = change.roles {
        user.roles = checked_roles(roles)?;
    }
    if let Some(state) = change.state {
        let state = UserState::parse(&state);
        check(state.is_some(), "/state", "`active` or `disabled`")?;
        user.state = state.unwrap_or(user.state);
    }
    let now = ids::now_us();
    let mut batch = Batch::new();
    store::update_user(&mut batch, &user, now);
    if ends_sessions {
        store::revoke_families_of(&mut batch, &id, now);
    }
    let after = User {
        version: user.version + 1,
        updated_at: now,
        ..user
    };
    let answer = Answer::json(200, &UserView::from(&after))?;
    Ok(commit(&mut db, batch, key.as_ref(), answer).await?)
}

/// Deletes a person and ends their sessions.
#[utoipa::path(delete, path = "/v1/users/{id}", tag = "users", params(("id" = String, Path)),
    responses((status = 204, description = "Deleted"), (status = 404, description = "No such user")))]
pub async fn delete_user(cx: Cx, Path(id): Path<String>) -> Result<Response> {
    cx.require("user:write")?;
    let mut db = open().await?;
    let mut batch = Batch::new();
    store::delete_user(&mut batch, &id);
    store::revoke_families_of(&mut batch, &id, ids::now_us());
    batch
        .commit(&mut db)
        .await
        .map_err(|error: batch::BatchError| match error.step() {
            Some(_) => not_found(&id),
            None => error.into(),
        })?;
    Ok(http::StatusCode::NO_CONTENT.into_response())
}

fn check(holds: bool, pointer: &str, what: &str) -> Result<()> {
    if holds {
        Ok(())
    } else {
        Err(Failure::new(Code::InvalidRequest, format!("must be {what}")).param(pointer))
    }
}

fn checked_roles(roles: Vec<String>) -> Result<Vec<String>> {
    match roles.iter().position(|role| !model::is_role(role)) {
        None if !roles.is_empty() => Ok(roles),
        None => Err(Failure::new(Code::InvalidRequest, "name at least one role").param("/roles")),
        Some(i) => {
            let known: Vec<&str> = model::ROLES.iter().map(|(name, _)| *name).collect();
            let text = format!("there is no such role; there are {}", known.join(", "));
            Err(Failure::new(Code::InvalidRequest, text).param(format!("/roles/{i}")))
        }
    }
}
