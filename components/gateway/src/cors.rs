//! Which web pages may call the platform: variable `cors_origins`, addresses separated by commas,
//! or `*` for any page without credentials.

/// The configured origins.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Origins {
    any: bool,
    listed: Vec<String>,
}

/// What the answer to a page says.
#[derive(Debug, PartialEq, Eq)]
pub struct Allowed<'a> {
    /// `Access-Control-Allow-Origin`.
    pub origin: &'a str,
    /// `Access-Control-Allow-Credentials`, which `*` never has (Fetch §3.2.5).
    pub credentials: bool,
}

/// Headers a page may send.
pub const ALLOW_HEADERS: &str = "authorization, content-type, idempotency-key, if-match, if-none-match, traceparent, x-request-id";
/// Headers a page may read.
pub const EXPOSE_HEADERS: &str = "x-request-id, idempotency-replayed, etag, retry-after, ratelimit, ratelimit-policy, deprecation, sunset";

impl Origins {
    /// Reads the variable.
    pub fn parse(text: &str) -> Origins {
        let listed: Vec<String> = text
            .split(',')
            .map(|o| o.trim().trim_end_matches('/').to_owned())
            .filter(|o| !o.is_empty())
            .collect();
        Origins {
            any: listed.iter().any(|o| o == "*"),
            listed,
        }
    }

    /// Whether no page may.
    pub fn is_empty(&self) -> bool {
        self.listed.is_empty()
    }

    /// What a page of this origin is told; `None` when it may not.
    pub fn allow<'a>(&self, origin: &'a str) -> Option<Allowed<'a>> {
        if self.listed.iter().any(|o| o == origin && o != "*") {
            return Some(Allowed {
                origin,
                credentials: true,
            });
        }
        self.any.then_some(Allowed {
            origin: "*",
            credentials: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_pages_get_credentials_and_a_star_never_gives_them() {
        let listed = Origins::parse("https://a.example, https://b.example/");
        assert_eq!(
            listed.allow("https://b.example"),
            Some(Allowed {
                origin: "https://b.example",
                credentials: true
            })
        );
        assert_eq!(listed.allow("https://a.example.evil"), None);
        assert_eq!(listed.allow("*"), None);
        let any = Origins::parse("*");
        assert_eq!(
            any.allow("https://x.example"),
            Some(Allowed {
                origin: "*",
                credentials: false
            })
        );
        assert_eq!(
            any.allow("*"),
            Some(Allowed {
                origin: "*",
                credentials: false
            })
        );
        assert_eq!(Origins::parse(" ").allow("https://a.example"), None);
    }
}
