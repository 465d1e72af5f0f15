//! A component's configuration: the variables its manifest gives it, read once per instance.

use std::{collections::BTreeMap, sync::Mutex};

use innover_contract::Code;

use crate::{Failure, Result};

static READ: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());

/// The value of a variable of this component.
///
/// # Errors
/// 503 `not_ready` naming the variable when the manifest or the platform does not give it.
pub async fn get(name: &str) -> Result<String> {
    if let Some(known) = READ.lock().ok().and_then(|r| r.get(name).cloned()) {
        return Ok(known);
    }
    let value = read(name).await.map_err(|e| {
        Failure::new(
            Code::NotReady,
            format!("the variable `{name}` cannot be read: {e}"),
        )
    })?;
    if let Ok(mut read) = READ.lock() {
        read.insert(name.into(), value.clone());
    }
    Ok(value)
}

/// A variable that is a whole number.
///
/// # Errors
/// As [`get`], and when the value is not a number.
pub async fn get_number(name: &str) -> Result<i64> {
    let text = get(name).await?;
    text.trim().parse().map_err(|_| {
        Failure::new(
            Code::NotReady,
            format!("the variable `{name}` must be a whole number, not `{text}`"),
        )
    })
}

#[cfg(target_family = "wasm")]
async fn read(name: &str) -> std::result::Result<String, String> {
    send_wrapper::SendWrapper::new(spin_sdk::variables::get(name))
        .await
        .map_err(|e| e.to_string())
}

/// Natively there is no manifest: tests set what they need with [`set`].
#[cfg(not(target_family = "wasm"))]
async fn read(_name: &str) -> std::result::Result<String, String> {
    Err("not set".into())
}

/// Sets a variable for a native test.
#[cfg(not(target_family = "wasm"))]
pub fn set(name: &str, value: &str) {
    if let Ok(mut read) = READ.lock() {
        read.insert(name.into(), value.into());
    }
}
