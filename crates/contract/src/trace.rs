//! W3C trace context, version 00: `00-<trace id>-<parent id>-<flags>`.

use std::fmt;

/// A parsed `traceparent`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceParent {
    trace_id: String,
    span_id: String,
    sampled: bool,
}

impl TraceParent {
    /// Reads a header. Malformed or all-zero ids are `None`: the trace is restarted then, as the
    /// recommendation asks (W3C Trace Context §3.2.2).
    pub fn parse(header: &str) -> Option<TraceParent> {
        let mut parts = header.trim().split('-');
        let (version, trace, span, flags) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let known = version == "00" && parts.next().is_none();
        // A later version may have more parts after the ones that are known (§4.3.5).
        let later = version.len() == 2 && !matches!(version, "00" | "ff") && is_hex(version);
        if !(known || later)
            || !id(trace, 32)
            || !id(span, 16)
            || flags.len() != 2
            || !is_hex(flags)
        {
            return None;
        }
        let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
        Some(TraceParent {
            trace_id: trace.into(),
            span_id: span.into(),
            sampled,
        })
    }

    /// Starts a trace from 24 random bytes. The bytes are the caller's, since this crate is pure.
    pub fn start(random: [u8; 24]) -> TraceParent {
        let mut hex = hex(&random);
        // All-zero ids are invalid; setting one digit costs nothing and rules them out.
        hex.replace_range(0..1, "1");
        hex.replace_range(32..33, "1");
        TraceParent {
            trace_id: hex[..32].into(),
            span_id: hex[32..].into(),
            sampled: true,
        }
    }

    /// The same trace with a new parent id, for an onward call.
    pub fn child(&self, random: [u8; 8]) -> TraceParent {
        let mut span = hex(&random);
        span.replace_range(0..1, "1");
        TraceParent {
            span_id: span,
            ..self.clone()
        }
    }

    /// The 32 hex digits that name the trace.
    pub fn trace_id(&self) -> &str {
        &self.trace_id
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("00-")?;
        f.write_str(&self.trace_id)?;
        f.write_str("-")?;
        f.write_str(&self.span_id)?;
        f.write_str(if self.sampled { "-01" } else { "-00" })
    }
}

/// Every request of every service needs a span id, so no formatter runs here.
fn hex(bytes: &[u8]) -> String {
    let digit = |n: u8| char::from(if n < 10 { b'0' + n } else { b'a' + n - 10 });
    bytes
        .iter()
        .flat_map(|b| [digit(b >> 4), digit(b & 15)])
        .collect()
}

fn is_hex(text: &str) -> bool {
    text.bytes()
        .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn id(text: &str, len: usize) -> bool {
    text.len() == len && is_hex(text) && text.bytes().any(|b| b != b'0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_valid_header_survives_and_everything_else_restarts_the_trace() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(
            TraceParent::parse(good).map(|t| t.to_string()).as_deref(),
            Some(good)
        );
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-extra",
        ] {
            assert_eq!(TraceParent::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn bytes_become_lower_case_hex() {
        let trace = TraceParent::start([0xa5; 24]).child([0x0f; 8]);
        assert_eq!(
            trace.to_string(),
            "00-15a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5-1f0f0f0f0f0f0f0f-01"
        );
    }

    #[test]
    fn a_started_trace_is_never_all_zero() {
        let started = TraceParent::start([0; 24]).to_string();
        assert!(TraceParent::parse(&started).is_some(), "{started}");
    }
}
