//! The gateway's variables, read once per instance.

use std::sync::OnceLock;

use innover_kit::{Result, config};

use crate::{cors::Origins, token::Issuer};

/// What the manifest tells the gateway.
#[derive(Debug)]
pub struct Settings {
    pub issuer: Issuer,
    pub origins: Origins,
    /// The platform's own address is https: browsers are told to stay there.
    pub https: bool,
}

impl Settings {
    /// Reads them.
    ///
    /// # Errors
    /// 503 naming the variable that is missing.
    pub async fn get() -> Result<&'static Settings> {
        static SETTINGS: OnceLock<Settings> = OnceLock::new();
        if let Some(settings) = SETTINGS.get() {
            return Ok(settings);
        }
        let issuer = config::get("issuer")
            .await?
            .trim_end_matches('/')
            .to_owned();
        let settings = Settings {
            https: issuer.starts_with("https://"),
            issuer: Issuer {
                issuer,
                audience: config::get("audience").await?,
            },
            origins: Origins::parse(&config::get("cors_origins").await?),
        };
        Ok(SETTINGS.get_or_init(|| settings))
    }
}
