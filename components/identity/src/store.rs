//! SQL, nothing else.

use innover_kit::{Batch, Db, Expect, Row, Value, db::DbError, params};

use crate::{
    limits::{FAILURES_FORGOTTEN_US, FAILURES_MAX, LOCK_US},
    model::{Client, RefreshFamily, User, UserState},
};

fn words(text: &str) -> Vec<String> {
    text.split_ascii_whitespace().map(str::to_owned).collect()
}

fn user(row: &Row) -> Result<User, DbError> {
    Ok(User {
        id: row.text(0)?.into(),
        username: row.text(1)?.into(),
        email: row.text(2)?.into(),
        password: row.text(3)?.into(),
        roles: words(row.text(4)?),
        state: UserState::parse(row.text(5)?).unwrap_or(UserState::Disabled),
        version: row.int(6)?,
        created_at: row.int(7)?,
        updated_at: row.int(8)?,
    })
}

/// The person with this user name or address, in lower case.
pub async fn user_by_name(db: &Db, name: &str) -> Result<Option<User>, DbError> {
    let rows = db
        .query(
            "SELECT id, username, email, password, roles, state, version, created_at, updated_at
             FROM users WHERE username = $1 OR email = $1",
            params![name],
        )
        .await?;
    rows.first().map(user).transpose()
}

/// The person with this id.
pub async fn user_by_id(db: &Db, id: &str) -> Result<Option<User>, DbError> {
    let rows = db
        .query(
            "SELECT id, username, email, password, roles, state, version, created_at, updated_at
             FROM users WHERE id = $1",
            params![id],
        )
        .await?;
    rows.first().map(user).transpose()
}

/// Up to `limit` people after the id `after`.
pub async fn users_after(db: &Db, after: &str, limit: i64) -> Result<Vec<User>, DbError> {
    let rows = db
        .query(
            "SELECT id, username, email, password, roles, state, version, created_at, updated_at
             FROM users WHERE id > $1 ORDER BY id LIMIT $2",
            params![after, limit],
        )
        .await?;
    rows.iter().map(user).collect()
}

/// Adds people; each row has the columns of `users` in order.
pub fn insert_users(batch: &mut Batch, rows: Vec<Vec<Value>>, expect: Expect) {
    batch.step(
        "insert_user",
        "INSERT INTO users (id, username, email, password, roles, state, version, created_at, updated_at)
         SELECT r.id, r.username, r.email, r.password, r.roles, r.state, r.version, r.created_at, r.updated_at
         FROM rows($1: id TEXT, username TEXT, email TEXT, password TEXT, roles TEXT, state TEXT,
                   version BIGINT, created_at BIGINT, updated_at BIGINT) r WHERE true
         ON CONFLICT DO NOTHING",
        vec![Value::Rows(rows)],
        expect,
    );
}

/// Writes `user` over version `user.version`.
pub fn update_user(batch: &mut Batch, user: &User, now: i64) {
    batch.step(
        "update_user",
        "UPDATE users SET email = $3, password = $4, roles = $5, state = $6, version = version + 1,
                          updated_at = $7
         WHERE id = $1 AND version = $2",
        params![
            &user.id,
            user.version,
            &user.email,
            &user.password,
            user.roles.join(" "),
            user.state.as_str(),
            now
        ],
        Expect::Rows(1),
    );
}

/// Deletes a person.
pub fn delete_user(batch: &mut Batch, id: &str) {
    batch.step(
        "delete_user",
        "DELETE FROM users WHERE id = $1",
        params![id],
        Expect::Rows(1),
    );
}

/// The client with this id.
pub async fn client(db: &Db, id: &str) -> Result<Option<Client>, DbError> {
    let rows = db
        .query(
            "SELECT id, secret, grants, roles FROM clients WHERE id = $1",
            params![id],
        )
        .await?;
    let client = |row: &Row| {
        Ok(Client {
            id: row.text(0)?.into(),
            secret: row.opt_text(1)?.map(str::to_owned),
            grants: words(row.text(2)?),
            roles: words(row.text(3)?),
        })
    };
    rows.first().map(client).transpose()
}

/// Adds a client; `row` has the columns of `clients` in order.
pub fn insert_client(batch: &mut Batch, row: Vec<Value>) {
    batch.step(
        "insert_client",
        "INSERT INTO clients (id, name, secret, grants, roles, created_at)
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
        row,
        Expect::Any,
    );
}

/// The family of the refresh token with this digest.
pub async fn family_of(db: &Db, token: &str) -> Result<Option<RefreshFamily>, DbError> {
    let rows = db
        .query(
            "SELECT f.id, f.client_id, f.subject, f.scope, f.current, f.revoked_at, f.expires_at
             FROM refresh_tokens t JOIN refresh_families f ON f.id = t.family WHERE t.id = $1",
            params![token],
        )
        .await?;
    let family = |row: &Row| {
        Ok(RefreshFamily {
            id: row.text(0)?.into(),
            client_id: row.text(1)?.into(),
            subject: row.text(2)?.into(),
            scope: row.text(3)?.into(),
            current: row.text(4)?.into(),
            revoked: row.opt_int(5)?.is_some(),
            expires_at: row.int(6)?,
        })
    };
    rows.first().map(family).transpose()
}

/// Starts a family with its first token.
pub fn insert_family(batch: &mut Batch, family: &RefreshFamily, now: i64) {
    batch.step(
        "insert_family",
        "INSERT INTO refresh_families (id, client_id, subject, scope, current, version, expires_at, created_at)
         VALUES ($1, $2, $3, $4, $5, 1, $6, $7) ON CONFLICT DO NOTHING",
        params![
            &family.id,
            &family.client_id,
            &family.subject,
            &family.scope,
            &family.current,
            family.expires_at,
            now
        ],
        Expect::Rows(1),
    );
    insert_refresh_token(batch, &family.current, &family.id, now);
}

/// The step that fails when a twin rotated the same token first.
pub const ROTATE: &str = "rotate_family";

/// Replaces the current token by `next`.
pub fn rotate_family(batch: &mut Batch, family: &RefreshFamily, next: &str, now: i64) {
    batch.step(
        ROTATE,
        "UPDATE refresh_families SET current = $3, version = version + 1
         WHERE id = $1 AND current = $2 AND revoked_at IS NULL",
        params![&family.id, &family.current, next],
        Expect::Rows(1),
    );
    insert_refresh_token(batch, next, &family.id, now);
}

fn insert_refresh_token(batch: &mut Batch, token: &str, family: &str, now: i64) {
    batch.step(
        "insert_refresh_token",
        "INSERT INTO refresh_tokens (id, family, created_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        params![token, family, now],
        Expect::Rows(1),
    );
}

/// Ends a family.
pub fn revoke_family(batch: &mut Batch, id: &str, now: i64) {
    batch.step(
        "revoke_family",
        "UPDATE refresh_families SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL",
        params![id, now],
        Expect::Any,
    );
}

/// Ends every family of a person.
pub fn revoke_families_of(batch: &mut Batch, subject: &str, now: i64) {
    batch.step(
        "revoke_families",
        "UPDATE refresh_families SET revoked_at = $2 WHERE subject = $1 AND revoked_at IS NULL",
        params![subject, now],
        Expect::Any,
    );
}

/// Notes that an access token was revoked.
pub fn revoke_access_token(batch: &mut Batch, jti: &str, expires_at: i64) {
    batch.step(
        "revoke_access_token",
        "INSERT INTO revoked_tokens (jti, expires_at) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        params![jti, expires_at],
        Expect::Any,
    );
}

/// Whether an access token was revoked.
pub async fn is_revoked(db: &Db, jti: &str) -> Result<bool, DbError> {
    let rows = db
        .query("SELECT 1 FROM revoked_tokens WHERE jti = $1", params![jti])
        .await?;
    Ok(!rows.is_empty())
}

/// Failures counted and the time the account is locked until.
pub async fn throttle(db: &Db, id: &str) -> Result<Option<(i64, i64)>, DbError> {
    let rows = db
        .query(
            "SELECT failures, locked_until FROM throttle WHERE id = $1",
            params![id],
        )
        .await?;
    rows.first()
        .map(|row| Ok((row.int(0)?, row.int(1)?)))
        .transpose()
}

/// Counts a failed sign-in, and locks the account for a while from the fifth in a row on. Counting
/// happens in the row itself: of two failures at once none is lost.
pub fn count_failure(batch: &mut Batch, id: &str, now: i64) {
    batch.step(
        "count_failure",
        "INSERT INTO throttle (id, failures, locked_until, updated_at) VALUES ($1, 1, 0, $2)
         ON CONFLICT (id) DO UPDATE SET
             failures = CASE WHEN throttle.updated_at < $3 THEN 1 ELSE throttle.failures + 1 END,
             locked_until = CASE WHEN throttle.updated_at >= $3 AND throttle.failures + 1 >= $4
                                 THEN $5 ELSE 0 END,
             updated_at = excluded.updated_at",
        params![
            id,
            now,
            now - FAILURES_FORGOTTEN_US,
            FAILURES_MAX,
            now + LOCK_US
        ],
        Expect::Rows(1),
    );
}

/// Forgets the failures of an account that signed in.
pub fn forget_failures(batch: &mut Batch, id: &str, now: i64) {
    batch.step(
        "forget_failures",
        "UPDATE throttle SET failures = 0, locked_until = 0, updated_at = $2 WHERE id = $1",
        params![id, now],
        Expect::Any,
    );
}
