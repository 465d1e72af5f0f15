//! Whether a Redis answers, without keeping anything open.

use std::time::Duration;

/// A server on this machine answers within a millisecond; a start must not wait for a distant one.
const ANSWER_MAX: Duration = Duration::from_millis(500);

/// `Ok` when the server at `url` takes a PING. The error never shows the URL's password.
pub async fn ping(url: &str) -> Result<(), String> {
    let client =
        redis::Client::open(url).map_err(|error| format!("REDIS_URL is no Redis URL: {error}"))?;
    let asked = async {
        let mut connection = client.get_multiplexed_async_connection().await?;
        redis::cmd("PING").query_async::<()>(&mut connection).await
    };
    match tokio::time::timeout(ANSWER_MAX, asked).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} ms", ANSWER_MAX.as_millis())),
    }
}

/// The URL as it may be shown: without user and password.
pub fn shown(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://{rest}"),
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        for (url, expected) in [
            ("redis://127.0.0.1:6379", "redis://127.0.0.1:6379"),
            ("redis://:s3cret@cache:6379/1", "redis://cache:6379/1"),
            ("redis://u:p@ss@cache:6379", "redis://cache:6379"),
        ] {
            assert_eq!(shown(url), expected);
        }
    }
}
