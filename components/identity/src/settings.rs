//! The component's variables.

use innover_kit::{Result, config};

/// What the manifest tells this service.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `iss` of every token, and the base of every address in discovery.
    pub issuer: String,
    /// `aud` of every access token.
    pub audience: String,
    /// The dev profile: password grant and dev identities.
    pub dev: bool,
}

impl Settings {
    /// Reads them.
    ///
    /// # Errors
    /// 503 naming the variable that is missing.
    pub async fn read() -> Result<Settings> {
        Ok(Settings {
            issuer: config::get("issuer")
                .await?
                .trim_end_matches('/')
                .to_owned(),
            audience: config::get("audience").await?,
            dev: config::get("profile").await? == "dev",
        })
    }
}
