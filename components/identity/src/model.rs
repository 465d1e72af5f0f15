//! Roles, scopes, and what becomes of a presented refresh token: pure.

use crate::limits::{EMAIL_BYTES_MAX, PASSWORD_BYTES_MAX, PASSWORD_CHARS_MIN, USERNAME_BYTES_MAX};

/// Every scope there is.
pub const SCOPES: &[&str] = &[
    "payment:read",
    "payment:write",
    "refund:read",
    "refund:write",
    "wallet:read",
    "wallet:write",
    "ledger:read",
    "ledger:write",
    "forex:read",
    "forex:write",
    "rules:read",
    "rules:write",
    "profile:read",
    "profile:write",
    "case:read",
    "case:write",
    "scoring:read",
    "scoring:write",
    "item:read",
    "item:write",
    "audit:read",
    "jobs:read",
    "jobs:write",
    "user:read",
    "user:write",
];

/// What each role grants. `payment:*` is every scope of payments, `*:read` every read but the audit
/// trail's (only those whose work it is see it), `*` everything.
pub const ROLES: &[(&str, &[&str])] = &[
    ("admin", &["*"]),
    (
        "finance",
        &["payment:*", "refund:*", "wallet:*", "ledger:*", "forex:*"],
    ),
    ("ops_user", &["jobs:*", "*:read"]),
    ("auditor", &["*:read", "audit:read"]),
    ("analyst", &["case:*", "scoring:*", "*:read"]),
    ("viewer", &["case:read", "user:read"]),
    (
        "user",
        &["profile:*", "wallet:*", "payment:*", "refund:*", "item:*"],
    ),
];

/// Whether there is such a role.
pub fn is_role(name: &str) -> bool {
    ROLES.iter().any(|(role, _)| *role == name)
}

/// The scopes `roles` grant, in the order of [`SCOPES`].
pub fn granted<'a>(roles: impl IntoIterator<Item = &'a str>) -> Vec<&'static str> {
    let patterns: Vec<&str> = roles
        .into_iter()
        .filter_map(|name| ROLES.iter().find(|(role, _)| *role == name))
        .flat_map(|(_, patterns)| patterns.iter().copied())
        .collect();
    SCOPES
        .iter()
        .copied()
        .filter(|scope| patterns.iter().any(|p| covers(p, scope)))
        .collect()
}

fn covers(pattern: &str, scope: &str) -> bool {
    match pattern {
        "*" => true,
        "*:read" => scope.ends_with(":read") && scope != "audit:read",
        _ => match pattern.strip_suffix('*') {
            Some(prefix) => scope.starts_with(prefix),
            None => pattern == scope,
        },
    }
}

/// The scope a token gets: everything granted when nothing is asked for, else what is both asked for
/// and granted. `None` when a scope is unknown or nothing is left (RFC 6749 §3.3, `invalid_scope`).
pub fn narrow(granted: &[&'static str], asked: Option<&str>) -> Option<String> {
    let Some(asked) = asked.filter(|text| !text.trim().is_empty()) else {
        return Some(granted.join(" ")).filter(|scope| !scope.is_empty());
    };
    let asked: Vec<&str> = asked.split_ascii_whitespace().collect();
    if asked.iter().any(|scope| !SCOPES.contains(scope)) {
        return None;
    }
    let both: Vec<&str> = granted
        .iter()
        .copied()
        .filter(|scope| asked.contains(scope))
        .collect();
    Some(both.join(" ")).filter(|scope| !scope.is_empty())
}

/// A person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub id: String,
    pub username: String,
    pub email: String,
    /// Argon2id in PHC form, or [`crate::dev::PASSWORD_MARKER`].
    pub password: String,
    pub roles: Vec<String>,
    pub state: UserState,
    pub version: i64,
    pub created_at: i64,
    pub updated_at: i64,
}

/// Whether a person may sign in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserState {
    Active,
    Disabled,
}

impl UserState {
    /// The text in the database and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            UserState::Active => "active",
            UserState::Disabled => "disabled",
        }
    }

    /// Reads that text.
    pub fn parse(text: &str) -> Option<UserState> {
        [UserState::Active, UserState::Disabled]
            .into_iter()
            .find(|s| s.as_str() == text)
    }
}

/// An OAuth client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    pub id: String,
    /// SHA-256 of the secret, base64url; `None` for a public client.
    pub secret: Option<String>,
    pub grants: Vec<String>,
    pub roles: Vec<String>,
}

impl Client {
    /// Whether the client may use this grant.
    pub fn may(&self, grant: &str) -> bool {
        self.grants.iter().any(|g| g == grant)
    }
}

/// A refresh token's row and its family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefreshFamily {
    pub id: String,
    pub client_id: String,
    pub subject: String,
    pub scope: String,
    pub current: String,
    pub revoked: bool,
    pub expires_at: i64,
}

/// What becomes of a presented refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresh {
    /// It is the current one: hand out its successor.
    Rotate,
    /// It was used before. Either a thief or the owner has its successor, and nobody can tell
    /// which, so the whole family ends (RFC 9700 §4.14).
    Replayed,
    /// Expired, revoked, or another client's.
    Refused,
}

/// Decides about the refresh token with digest `token`, presented by `client_id` at `now`.
pub fn judge_refresh(family: &RefreshFamily, token: &str, client_id: &str, now: i64) -> Refresh {
    if family.revoked || family.expires_at <= now || family.client_id != client_id {
        Refresh::Refused
    } else if family.current != token {
        Refresh::Replayed
    } else {
        Refresh::Rotate
    }
}

/// Whether a user name is acceptable. It holds no `@`, so that it never equals another's address:
/// people sign in with either.
pub fn is_username(name: &str) -> bool {
    (1..=USERNAME_BYTES_MAX).contains(&name.len())
        && name
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
}

/// Whether an address has the shape of one. Only a message to it shows that it works.
pub fn is_email(email: &str) -> bool {
    let shape = email.split_once('@').is_some_and(|(local, domain)| {
        !local.is_empty() && !domain.is_empty() && !domain.contains('@') && domain.contains('.')
    });
    shape
        && email.len() <= EMAIL_BYTES_MAX
        && email
            .bytes()
            .all(|b| b.is_ascii_graphic() && !b.is_ascii_uppercase())
}

/// Whether a password may be set.
pub fn is_password(password: &str) -> bool {
    password.chars().count() >= PASSWORD_CHARS_MIN && password.len() <= PASSWORD_BYTES_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes(role: &str) -> String {
        granted([role]).join(" ")
    }

    #[test]
    fn roles_grant_what_the_specification_says() {
        assert_eq!(granted(["admin"]), SCOPES);
        assert_eq!(
            scopes("finance"),
            "payment:read payment:write refund:read refund:write wallet:read wallet:write \
             ledger:read ledger:write forex:read forex:write"
        );
        assert_eq!(
            scopes("ops_user"),
            "payment:read refund:read wallet:read ledger:read forex:read rules:read profile:read \
             case:read scoring:read item:read jobs:read jobs:write user:read"
        );
        assert_eq!(
            scopes("auditor"),
            "payment:read refund:read wallet:read ledger:read forex:read rules:read profile:read \
             case:read scoring:read item:read audit:read jobs:read user:read"
        );
        assert_eq!(
            scopes("analyst"),
            "payment:read refund:read wallet:read ledger:read forex:read rules:read profile:read \
             case:read case:write scoring:read scoring:write item:read jobs:read user:read"
        );
        assert_eq!(scopes("viewer"), "case:read user:read");
        assert_eq!(
            scopes("user"),
            "payment:read payment:write refund:read refund:write wallet:read wallet:write \
             profile:read profile:write item:read item:write"
        );
        assert_eq!(scopes("nobody"), "");
    }

    #[test]
    fn nobody_but_admin_and_finance_puts_money_into_a_wallet() {
        for (role, _) in ROLES {
            let may = granted([*role]).contains(&"ledger:write");
            assert_eq!(may, matches!(*role, "admin" | "finance"), "{role}");
        }
    }

    #[test]
    fn an_asked_scope_narrows_and_never_widens() {
        let user = granted(["user"]);
        for (asked, got) in [
            (Some("wallet:read"), Some("wallet:read")),
            (Some("wallet:read ledger:write"), Some("wallet:read")),
            (Some("ledger:write"), None),
            (Some("wallet:everything"), None),
            (
                Some("wallet:read  payment:read"),
                Some("payment:read wallet:read"),
            ),
        ] {
            assert_eq!(narrow(&user, asked).as_deref(), got, "{asked:?}");
        }
        assert_eq!(narrow(&user, None), Some(user.join(" ")));
        assert_eq!(narrow(&user, Some(" ")), Some(user.join(" ")));
        assert_eq!(narrow(&[], None), None);
    }

    #[test]
    fn a_used_refresh_token_ends_its_family_and_a_foreign_client_learns_nothing() {
        let family = RefreshFamily {
            id: "rfa_1".into(),
            client_id: "cli".into(),
            subject: "usr_1".into(),
            scope: String::new(),
            current: "new".into(),
            revoked: false,
            expires_at: 100,
        };
        let revoked = RefreshFamily {
            revoked: true,
            ..family.clone()
        };
        for (family, token, client, now, want) in [
            (&family, "new", "cli", 1, Refresh::Rotate),
            (&family, "old", "cli", 1, Refresh::Replayed),
            (&family, "new", "other", 1, Refresh::Refused),
            (&family, "old", "other", 1, Refresh::Refused),
            (&family, "new", "cli", 100, Refresh::Refused),
            (&revoked, "new", "cli", 1, Refresh::Refused),
        ] {
            assert_eq!(
                judge_refresh(family, token, client, now),
                want,
                "{token} {client} {now}"
            );
        }
    }

    #[test]
    fn names_and_addresses_never_meet() {
        for (name, good) in [
            ("ana", true),
            ("a.b-c_1", true),
            ("Ana", false),
            ("a@b.c", false),
            ("", false),
            ("a b", false),
        ] {
            assert_eq!(is_username(name), good, "{name}");
        }
        for (email, good) in [
            ("a@b.c", true),
            ("a@b", false),
            ("@b.c", false),
            ("a@b@c.d", false),
            ("A@b.c", false),
            ("a b@c.d", false),
        ] {
            assert_eq!(is_email(email), good, "{email}");
            assert!(!is_username(email), "{email}");
        }
    }
}
