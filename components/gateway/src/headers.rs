//! Which of a caller's headers a service gets to see, and what the gateway reads from them.

use innover_kit::{Code, Failure, Result, context::is_request_id};

use crate::limits::HEADER_BYTES_MAX;

/// A header as the host hands it over and takes it.
pub type Header = (String, Vec<u8>);

/// What becomes of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Passed on.
    Pass,
    /// Kept from the service.
    Drop,
    /// Read by the gateway, which may write its own.
    Authorization,
    ContentLength,
    TransferEncoding,
    IdempotencyKey,
    Origin,
    PreflightMethod,
    RequestId,
    TraceParent,
    Connection,
}

/// Names that need no second look, and those the gateway reads itself. The host hands names over in
/// lower case.
pub fn fate(name: &str) -> Fate {
    match name {
        "accept" | "accept-encoding" | "accept-language" | "content-type" | "user-agent"
        | "if-match" | "if-none-match" | "range" | "tracestate" | "baggage" | "prefer"
        | "cache-control" => Fate::Pass,
        "authorization" => Fate::Authorization,
        "content-length" => Fate::ContentLength,
        "transfer-encoding" => Fate::TransferEncoding,
        "idempotency-key" => Fate::IdempotencyKey,
        "origin" => Fate::Origin,
        "access-control-request-method" => Fate::PreflightMethod,
        "x-request-id" => Fate::RequestId,
        "traceparent" => Fate::TraceParent,
        "connection" => Fate::Connection,
        // Of one connection only (RFC 9110 §7.6.1), or a browser's affair.
        "host"
        | "keep-alive"
        | "proxy-connection"
        | "te"
        | "trailer"
        | "upgrade"
        | "expect"
        | "cookie"
        | "access-control-request-headers" => Fate::Drop,
        _ if is_identity(name) => Fate::Drop,
        _ => Fate::Pass,
    }
}

/// What a service, or a framework inside one, could take for the gateway's word on who is calling.
/// Compared with case, `-`, `_` and `.` folded: CGI-like environments read `X_Sub` and `X.Sub` as
/// `X-Sub`.
const IDENTITY: &[&str] = &[
    "authorization",
    "proxyauthorization",
    "proxyauthenticate",
    "remoteuser",
    "remoteemail",
    "remotegroups",
    "httpxsub",
    "xsub",
    "xsubject",
    "xusername",
    "xroles",
    "xrole",
    "xgroups",
    "xgroup",
    "xscope",
    "xscopes",
    "xemail",
    "xclientid",
    "xclientauthorization",
    "xjwtassertion",
    "xrealip",
    "xaccesstoken",
    "xidtoken",
    "xservicetoken",
    "xcaller",
    "xroute",
    "xrequestid",
    "traceparent",
    "idempotencykey",
    "contentlength",
    "transferencoding",
    "host",
];
/// The same for whole families of names.
const IDENTITY_PREFIXES: &[&str] = &[
    "xuser",
    "xauth",
    "xforwarded",
    "xremote",
    "xwebauth",
    "xjwt",
    "xinnover",
    "spin",
    "forwarded",
    "proxy",
];

fn is_identity(name: &str) -> bool {
    let folded: String = name
        .chars()
        .filter(|c| !matches!(c, '-' | '_' | '.'))
        .map(|c| c.to_ascii_lowercase())
        .collect();
    IDENTITY.contains(&folded.as_str()) || IDENTITY_PREFIXES.iter().any(|p| folded.starts_with(p))
}

/// A request's headers, sorted out in one pass.
#[derive(Debug, Default)]
pub struct Inbound {
    /// What goes on to the service.
    pub pass: Vec<Header>,
    pub authorization: Option<Vec<u8>>,
    pub content_length: Option<u64>,
    /// The body's length is known only when it ends.
    pub chunked: bool,
    pub origin: Option<String>,
    /// A browser asks before it sends.
    pub preflight: bool,
    /// The caller's request id, where it is acceptable.
    pub request_id: Option<String>,
    pub traceparent: Option<String>,
    /// What was wrong with them.
    fault: Option<Fault>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    TooLarge,
    TwoTokens,
    TwoKeys,
}

fn text(value: Vec<u8>) -> Option<String> {
    String::from_utf8(value).ok()
}

impl Inbound {
    /// Sorts them out.
    pub fn read(all: Vec<Header>) -> Inbound {
        let mut inbound = Inbound {
            pass: Vec::with_capacity(all.len() + 8),
            ..Inbound::default()
        };
        let mut bytes = 0;
        let mut keys = 0;
        let mut named_by_connection: Vec<String> = Vec::new();
        for (name, value) in all {
            bytes += name.len() + value.len();
            match fate(&name) {
                Fate::Pass => inbound.pass.push((name, value)),
                Fate::Drop => {}
                Fate::Authorization => {
                    if inbound.authorization.replace(value).is_some() {
                        inbound.fault = Some(Fault::TwoTokens);
                    }
                }
                Fate::IdempotencyKey => {
                    keys += 1;
                    inbound.pass.push((name, value));
                }
                Fate::ContentLength => {
                    inbound.content_length = text(value).and_then(|v| v.parse().ok())
                }
                Fate::TransferEncoding => inbound.chunked = true,
                Fate::Origin => inbound.origin = text(value),
                Fate::PreflightMethod => inbound.preflight = true,
                Fate::RequestId => inbound.request_id = text(value).filter(|id| is_request_id(id)),
                Fate::TraceParent => inbound.traceparent = text(value),
                Fate::Connection => named_by_connection.extend(
                    text(value)
                        .unwrap_or_default()
                        .split(',')
                        .map(|n| n.trim().to_ascii_lowercase()),
                ),
            }
        }
        // What `Connection` names is of this connection only as well.
        if named_by_connection
            .iter()
            .any(|n| !matches!(n.as_str(), "keep-alive" | "close"))
        {
            inbound
                .pass
                .retain(|(name, _)| !named_by_connection.contains(name));
        }
        if keys > 1 {
            inbound.fault = Some(Fault::TwoKeys);
        }
        if bytes > HEADER_BYTES_MAX {
            inbound.fault = Some(Fault::TooLarge);
        }
        inbound
    }

    /// Refuses headers that are too large or say two things.
    ///
    /// # Errors
    /// 431; 401 for two tokens; 400 for two idempotency keys.
    pub fn check(&self) -> Result<()> {
        match self.fault {
            None => Ok(()),
            Some(Fault::TooLarge) => Err(Failure::new(
                Code::HeadersTooLarge,
                format!("the headers are larger than {HEADER_BYTES_MAX} bytes"),
            )),
            Some(Fault::TwoTokens) => Err(Failure::new(
                Code::InvalidToken,
                "send one Authorization header",
            )),
            Some(Fault::TwoKeys) => Err(Failure::new(
                Code::InvalidIdempotencyKey,
                "send one Idempotency-Key header",
            )),
        }
    }

    /// The bearer token.
    ///
    /// # Errors
    /// 401 when there is none.
    pub fn bearer(&self) -> Result<&str> {
        let value = self
            .authorization
            .as_deref()
            .and_then(|v| std::str::from_utf8(v).ok());
        // RFC 9110 §11.1: the scheme's name has no case.
        let token = value
            .and_then(|v| v.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim_matches(' '));
        token.filter(|t| !t.is_empty()).ok_or_else(|| {
            Failure::new(
                Code::InvalidToken,
                "send `Authorization: Bearer <access token>`; POST /oauth2/token hands one out",
            )
        })
    }

    /// The client's own credentials (RFC 6749 §2.3.1), for identity.
    pub fn basic(&self) -> Option<&[u8]> {
        let value = self.authorization.as_deref()?;
        let scheme = value.get(..6)?;
        scheme.eq_ignore_ascii_case(b"basic ").then_some(value)
    }
}

/// Whether a header of a service's answer goes to the caller.
pub fn goes_out(name: &str) -> bool {
    !matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "x-route"
            | "x-request-id"
            | "server"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_spelling_of_an_identity_header_gets_through() {
        for name in [
            "x-sub",
            "x_sub",
            "x.sub",
            "X-Sub",
            "x-username",
            "x_username",
            "x-user-name",
            "x-user-id",
            "x-user",
            "x-userid",
            "x.user.id",
            "x-jwt-assertion",
            "x_jwt_assertion",
            "x-auth-user",
            "x_auth_user",
            "x.auth.user",
            "x-auth-request-email",
            "x-forwarded-user",
            "x-forwarded-path",
            "x-forwarded-for",
            "x-forwarded-access-token",
            "forwarded",
            "remote-user",
            "remote_user",
            "x-remote-user",
            "x-roles",
            "x-groups",
            "x-email",
            "x-scope",
            "x-client-authorization",
            "x-client_authorization",
            "proxy-authorization",
            "proxy_authorization",
            "authorization_",
            "auth-orization",
            "x-request_id",
            "trace_parent",
            "idempotency_key",
            "spin-path-info",
            "spin_full_url",
            "spin-client-addr",
            "host",
            "keep-alive",
            "te",
            "trailer",
            "upgrade",
            "cookie",
            "content_length",
            "transfer_encoding",
        ] {
            assert_eq!(fate(name), Fate::Drop, "{name}");
        }
    }

    #[test]
    fn ordinary_headers_get_through() {
        for name in [
            "accept",
            "content-type",
            "if-none-match",
            "user-agent",
            "x-correlation-id",
            "grpc-timeout",
            "x-b3-traceid",
        ] {
            assert_eq!(fate(name), Fate::Pass, "{name}");
        }
    }

    fn read(headers: &[(&str, &str)]) -> Inbound {
        Inbound::read(
            headers
                .iter()
                .map(|(n, v)| ((*n).to_owned(), v.as_bytes().to_vec()))
                .collect(),
        )
    }

    #[test]
    fn a_token_is_read_from_one_authorization_header_only() {
        for (headers, want) in [
            (&[("authorization", "Bearer a.b.c")][..], Some("a.b.c")),
            (&[("authorization", "bearer  a.b.c ")], Some("a.b.c")),
            (&[("authorization", "Basic YTpi")], None),
            (&[("authorization", "Bearer")], None),
            (&[("authorization", "Bearer ")], None),
            (&[("x-authorization", "Bearer a.b.c")], None),
            (&[], None),
        ] {
            let inbound = read(headers);
            assert_eq!(inbound.bearer().ok(), want, "{headers:?}");
            assert!(inbound.check().is_ok());
        }
        let two = read(&[
            ("authorization", "Bearer a.b.c"),
            ("authorization", "Bearer a.b.c"),
        ]);
        assert_eq!(two.check().map_err(|f| f.code()), Err(Code::InvalidToken));
        assert_eq!(
            read(&[("authorization", "Basic YTpi")]).basic(),
            Some(&b"Basic YTpi"[..])
        );
    }

    #[test]
    fn headers_that_are_too_large_or_ambiguous_are_refused() {
        let long = "x".repeat(HEADER_BYTES_MAX);
        let large = read(&[("accept", &long)]);
        assert_eq!(
            large.check().map_err(|f| f.code()),
            Err(Code::HeadersTooLarge)
        );
        let keys = read(&[("idempotency-key", "a"), ("idempotency-key", "b")]);
        assert_eq!(
            keys.check().map_err(|f| f.code()),
            Err(Code::InvalidIdempotencyKey)
        );
    }

    #[test]
    fn what_connection_names_stays_on_the_connection() {
        let inbound = read(&[("x-a", "1"), ("x-b", "2"), ("connection", "close, X-A")]);
        assert_eq!(inbound.pass, [("x-b".to_owned(), b"2".to_vec())]);
    }

    #[test]
    fn a_request_id_is_kept_only_when_it_is_harmless() {
        for (id, kept) in [
            ("abc-1.2_3", true),
            ("", false),
            ("a b", false),
            ("a\n", false),
            ("é", false),
        ] {
            assert_eq!(
                read(&[("x-request-id", id)]).request_id.is_some(),
                kept,
                "{id}"
            );
        }
        let (longest, longer) = ("x".repeat(128), "x".repeat(129));
        assert!(read(&[("x-request-id", &longest)]).request_id.is_some());
        assert!(read(&[("x-request-id", &longer)]).request_id.is_none());
    }

    #[test]
    fn a_services_inner_headers_stay_inside() {
        for name in ["x-route", "transfer-encoding", "connection", "x-request-id"] {
            assert!(!goes_out(name), "{name}");
        }
        for name in [
            "content-type",
            "idempotency-replayed",
            "retry-after",
            "www-authenticate",
            "etag",
        ] {
            assert!(goes_out(name), "{name}");
        }
    }
}
