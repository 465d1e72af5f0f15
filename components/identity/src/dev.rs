//! The identities of the dev profile. Nothing of this exists in any other profile.

use innover_kit::{Batch, Db, Expect, Result, Value, ids, params};

use crate::{store, tokens::digest};

/// Stands in `users.password` until a dev identity signs in for the first time: hashing all of them
/// at start would cost a fifth of a second. It is not in PHC form, so it matches no password.
pub const PASSWORD_MARKER: &str = "dev";

/// A dev identity. The id is fixed, so that data survives a new identity database.
pub struct DevUser {
    pub id: &'static str,
    pub username: &'static str,
    pub email: &'static str,
    pub password: &'static str,
    pub role: &'static str,
}

const fn named(id: &'static str, name: &'static str, email: &'static str) -> DevUser {
    DevUser {
        id,
        username: name,
        email,
        password: name,
        role: name,
    }
}

/// The people of the dev profile.
pub const USERS: &[DevUser] = &[
    named("usr_admin", "admin", "admin@innover.local"),
    named("usr_ops_user", "ops_user", "ops_user@innover.local"),
    named("usr_finance", "finance", "finance@innover.local"),
    named("usr_auditor", "auditor", "auditor@innover.local"),
    named("usr_user", "user", "user@innover.local"),
    named("usr_analyst", "analyst", "analyst@innover.local"),
    named("usr_viewer", "viewer", "viewer@innover.local"),
    DevUser {
        id: "usr_admin_example",
        username: "admin@example.com",
        email: "admin@example.com",
        password: "admin123",
        role: "admin",
    },
];

/// The confidential client of the dev profile, for the client credentials grant.
pub const CLIENT_ID: &str = "innover-service";
/// Its secret.
pub const CLIENT_SECRET: &str = "innover-service-secret";
const CLIENT_GRANTS: &str = "client_credentials";
const CLIENT_ROLES: &str = "finance ops_user";

/// The password of a dev identity that was never used.
pub fn password_of(id: &str) -> Option<&'static str> {
    USERS
        .iter()
        .find(|user| user.id == id)
        .map(|user| user.password)
}

/// Puts the dev identities into an empty database, once.
///
/// # Errors
/// When the database fails.
pub async fn seed(db: &mut Db) -> Result<()> {
    use std::sync::atomic::{AtomicBool, Ordering};
    static SEEDED: AtomicBool = AtomicBool::new(false);
    if SEEDED.load(Ordering::Relaxed) {
        return Ok(());
    }
    if store::client(db, CLIENT_ID).await?.is_none() {
        let now = ids::now_us();
        let users: Vec<Vec<Value>> = USERS
            .iter()
            .map(|u| {
                params![
                    u.id,
                    u.username,
                    u.email,
                    PASSWORD_MARKER,
                    u.role,
                    "active",
                    1,
                    now,
                    now
                ]
            })
            .collect();
        let mut batch = Batch::new();
        store::insert_users(&mut batch, users, Expect::Any);
        store::insert_client(
            &mut batch,
            params![
                CLIENT_ID,
                "A service of the dev profile",
                digest(CLIENT_SECRET),
                CLIENT_GRANTS,
                CLIENT_ROLES,
                now
            ],
        );
        batch.commit(db).await?;
    }
    SEEDED.store(true, Ordering::Relaxed);
    Ok(())
}
