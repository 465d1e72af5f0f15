//! `innover token`: an access token on standard output and nothing else, for `$(innover token)`.

use anyhow::Result;

use crate::{client::Platform, print};

pub async fn run(url: &str, user: &str, password: Option<&str>, scope: Option<&str>) -> Result<()> {
    // Dev users have their name as password.
    let token = Platform::new(url)?
        .token(user, password.unwrap_or(user), scope)
        .await?;
    print::line(token);
    Ok(())
}
