//! `innover token`: an access token on standard output and nothing else, for `$(innover token)`.

use anyhow::Result;

use crate::{
    client::{Access, Platform},
    print,
};

pub async fn run(access: &Access, scope: Option<&str>) -> Result<()> {
    let platform = Platform::new(&access.url)?;
    print::line(platform.token(&access.caller, scope).await?);
    Ok(())
}
