//! Name and password: the dev profile's way in.

use innover_kit::{Batch, BatchError, Db, Failure, db::DbError, ids};
use sha2::{Digest, Sha256};

use crate::{
    dev,
    limits::{EMAIL_BYTES_MAX, PASSWORD_BYTES_MAX, THROTTLE_ID_BYTES},
    model::{User, UserState},
    password, store,
};

/// Why somebody was not let in.
#[derive(Debug)]
pub enum Denied {
    /// Too many failures: try again in so many seconds.
    Throttled { seconds: i64 },
    /// Unknown name, wrong password or disabled account: which, nobody is told.
    Wrong,
    /// The database failed.
    Failed(Failure),
}

impl From<Failure> for Denied {
    fn from(failure: Failure) -> Denied {
        Denied::Failed(failure)
    }
}

impl From<DbError> for Denied {
    fn from(error: DbError) -> Denied {
        Denied::Failed(error.into())
    }
}

impl From<BatchError> for Denied {
    fn from(error: BatchError) -> Denied {
        Denied::Failed(error.into())
    }
}

/// The person with this name (or address) and password. Failures are counted per name, whether the
/// account exists or not, in the database. Guesses that run at the very same time are each compared
/// before any of them is counted: at most one per instance, which the cost of argon2 bounds. `dev`
/// lets the dev identities in.
///
/// # Errors
/// [`Denied`].
pub async fn authenticate(db: &mut Db, dev: bool, name: &str, given: &str) -> Result<User, Denied> {
    let name = name.trim().to_ascii_lowercase();
    if name.is_empty() || name.len() > EMAIL_BYTES_MAX || given.len() > PASSWORD_BYTES_MAX {
        return Err(Denied::Wrong);
    }
    let account = throttle_id(&name);
    let now = ids::now_us();
    let (failures, locked_until) = store::throttle(db, &account).await?.unwrap_or_default();
    if locked_until > now {
        return Err(Denied::Throttled {
            seconds: (locked_until - now) / 1_000_000 + 1,
        });
    }
    let found = store::user_by_name(db, &name).await?;
    if found.is_none() {
        password::pretend(given);
    }
    let mut batch = Batch::new();
    match found.filter(|user| is_right(user, dev, given)) {
        Some(user) if user.state == UserState::Active => {
            if user.password == dev::PASSWORD_MARKER {
                let user = User {
                    password: password::hash(given)?,
                    ..user.clone()
                };
                store::update_user(&mut batch, &user, now);
            }
            if failures > 0 {
                store::forget_failures(&mut batch, &account, now);
            }
            // Two first sign-ins at once: the other one has stored the hash.
            match batch.commit(db).await {
                Err(error) if error.step().is_none() => Err(error.into()),
                _ => Ok(user),
            }
        }
        _ => {
            store::count_failure(&mut batch, &account, now);
            batch.commit(db).await?;
            Err(Denied::Wrong)
        }
    }
}

fn is_right(user: &User, dev: bool, given: &str) -> bool {
    if user.password == dev::PASSWORD_MARKER {
        // Dev identities only, whose passwords are public: nothing to protect from timing. In
        // another profile (over a database that was a dev one) the marker matches nothing.
        return dev && dev::password_of(&user.id) == Some(given);
    }
    password::matches(&user.password, given)
}

fn throttle_id(name: &str) -> String {
    Sha256::digest(name)[..THROTTLE_ID_BYTES]
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}
