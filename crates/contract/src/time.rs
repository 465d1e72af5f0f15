//! Times are microseconds since the Unix epoch in UTC; on the wire RFC 3339.

use jiff::Timestamp;

/// Renders microseconds as RFC 3339 with six digits, e.g. `2026-10-30T15:04:05.120000Z`, so that
/// times sort as text.
pub fn rfc3339(micros: i64) -> String {
    Timestamp::from_microsecond(micros)
        .map(|t| format!("{t:.6}"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_six_digits_and_are_read_back() {
        assert_eq!(
            rfc3339(1_793_361_600_120_000),
            "2026-10-30T12:00:00.120000Z"
        );
        assert_eq!(
            rfc3339(1_793_361_600_000_000),
            "2026-10-30T12:00:00.000000Z"
        );
        assert_eq!(
            parse_rfc3339("2026-10-30T12:00:00.12Z"),
            Ok(1_793_361_600_120_000)
        );
        assert_eq!(date(1_793_361_600_120_000), "2026-10-30");
    }
}
