//! What a guest may not do with SQL: reach another file, weaken durability, or change what the next
//! user of a pooled connection would inherit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;

use crate::limits;

/// Puts the policy in place. The returned flag is set once the guest made something temporary, which
/// would outlive its connection in the pool.
pub(super) fn apply(sqlite: &mut rusqlite::Connection) -> rusqlite::Result<Arc<AtomicBool>> {
    sqlite.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    sqlite.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    // ATTACH is refused below; this also stops VACUUM INTO, which attaches behind the scenes.
    sqlite.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    sqlite.set_limit(Limit::SQLITE_LIMIT_LENGTH, limits::SQLITE_VALUE_BYTES_MAX)?;
    let personal = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&personal);
    sqlite.authorizer(Some(move |context: AuthContext<'_>| {
        if is_temporary(&context.action) {
            flag.store(true, Ordering::Relaxed);
        }
        decide(&context.action)
    }))?;
    Ok(personal)
}

fn is_temporary(action: &AuthAction<'_>) -> bool {
    matches!(
        action,
        AuthAction::CreateTempIndex { .. }
            | AuthAction::CreateTempTable { .. }
            | AuthAction::CreateTempTrigger { .. }
            | AuthAction::CreateTempView { .. }
    )
}

fn decide(action: &AuthAction<'_>) -> Authorization {
    match action {
        AuthAction::Attach { .. } | AuthAction::Detach { .. } | AuthAction::Unknown { .. } => {
            Authorization::Deny
        }
        AuthAction::Function { function_name }
            if function_name.eq_ignore_ascii_case("load_extension") =>
        {
            Authorization::Deny
        }
        AuthAction::Pragma {
            pragma_name,
            pragma_value,
        } => pragma(pragma_name, *pragma_value),
        _ => Authorization::Allow,
    }
}

/// Pragmas that only look, with or without an argument.
const READING: [&str; 12] = [
    "table_info",
    "table_xinfo",
    "table_list",
    "index_list",
    "index_info",
    "index_xinfo",
    "foreign_key_list",
    "foreign_key_check",
    "integrity_check",
    "quick_check",
    "function_list",
    "compile_options",
];

fn pragma(name: &str, value: Option<&str>) -> Authorization {
    let name = name.to_ascii_lowercase();
    if READING.contains(&name.as_str()) {
        return Authorization::Allow;
    }
    let value = value.map(str::to_ascii_lowercase);
    match (name.as_str(), value.as_deref()) {
        // Waiting is the host's: `PRAGMA busy_timeout` is accepted so that a guest that sets it for
        // stock Spin runs here, and changes nothing.
        ("busy_timeout", _) => Authorization::Ignore,
        // Already so; a guest may ask for what it needs, not for less.
        ("foreign_keys", Some("on" | "1" | "true" | "yes")) => Authorization::Ignore,
        ("synchronous", Some("full" | "2")) => Authorization::Ignore,
        ("journal_mode", Some("wal")) => Authorization::Allow,
        // Ends with the transaction.
        ("defer_foreign_keys", _) => Authorization::Allow,
        // Part of the database itself.
        ("user_version" | "application_id", _) => Authorization::Allow,
        ("optimize", None) => Authorization::Allow,
        // These act without an argument.
        ("incremental_vacuum" | "wal_checkpoint" | "shrink_memory", _) => Authorization::Deny,
        (_, None) => Authorization::Allow,
        (_, Some(_)) => Authorization::Deny,
    }
}
