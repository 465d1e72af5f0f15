//! The gateway's variables, read once per instance.

use std::sync::OnceLock;

use innover_kit::{Result, config};

use crate::{
    cors::Origins,
    table::{BRIDGE, Callee},
    token::Issuer,
};

/// What the manifest tells the gateway.
#[derive(Debug)]
pub struct Settings {
    pub issuer: Issuer,
    pub origins: Origins,
    /// The platform's own address is https: browsers are told to stay there.
    pub https: bool,
    /// Where the bridge is, when `bridge_url` says so.
    pub bridge: Option<Bridge>,
}

/// The bridge's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    authority: String,
    https: bool,
}

impl Bridge {
    /// Reads `http://host:port`; `None` for anything else, also for a path: the bridge has its own.
    pub fn parse(url: &str) -> Option<Bridge> {
        let (scheme, authority) = url.trim().trim_end_matches('/').split_once("://")?;
        let https = match scheme {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let plain = authority.bytes().all(|b| {
            b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']')
        });
        (plain && !authority.is_empty()).then(|| Bridge {
            authority: authority.to_owned(),
            https,
        })
    }

    /// It, to be called.
    pub fn callee(&self) -> Callee<'_> {
        Callee {
            name: BRIDGE,
            authority: &self.authority,
            https: self.https,
        }
    }
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
            bridge: Bridge::parse(&config::get("bridge_url").await?),
        };
        Ok(SETTINGS.get_or_init(|| settings))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bridges_address_is_an_origin() {
        for (url, want) in [
            ("http://127.0.0.1:3001", Some(("127.0.0.1:3001", false))),
            (
                "https://bridge.innover.svc/",
                Some(("bridge.innover.svc", true)),
            ),
            ("http://[::1]:3001", Some(("[::1]:3001", false))),
            ("", None),
            ("http://", None),
            ("127.0.0.1:3001", None),
            ("http://127.0.0.1:3001/v1", None),
            ("http://user@127.0.0.1", None),
            ("redis://127.0.0.1", None),
        ] {
            let bridge = Bridge::parse(url);
            let got = bridge.as_ref().map(Bridge::callee);
            assert_eq!(got.map(|c| (c.authority, c.https)), want, "{url}");
        }
    }
}
