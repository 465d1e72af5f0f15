//! Times are microseconds since the Unix epoch in UTC; on the wire RFC 3339.

use jiff::Timestamp;

/// Renders microseconds as RFC 3339, e.g. `2026-10-30T15:04:05.123456Z`.
pub fn rfc3339(micros: i64) -> String {
    Timestamp::from_microsecond(micros)
        .map(|t| t.to_string())
        .unwrap_or_else(|_| format!("{micros}us"))
}

/// Reads RFC 3339 into microseconds.
///
/// # Errors
/// A sentence naming what was wrong with the text.
pub fn parse_rfc3339(text: &str) -> Result<i64, String> {
    text.parse::<Timestamp>()
        .map(|t| t.as_microsecond())
        .map_err(|e| format!("`{text}` is not an RFC 3339 time: {e}"))
}

/// The UTC calendar date of a time, e.g. `2026-10-30`.
pub fn date(micros: i64) -> String {
    let mut text = rfc3339(micros);
    text.truncate(10);
    text
}
