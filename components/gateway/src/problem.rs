//! The gateway's own answers.

use innover_kit::{
    Failure,
    contract::{Problem, problem::PROBLEM_JSON},
};

/// A whole answer: what the gateway says by itself.
#[derive(Debug, PartialEq, Eq)]
pub struct Own {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

impl Own {
    /// JSON.
    pub fn json(status: u16, body: impl Into<Vec<u8>>) -> Own {
        Own {
            status,
            headers: vec![("content-type", "application/json".into())],
            body: body.into(),
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Own {
        self.headers.push((name, value.into()));
        self
    }

    /// A problem about the public path `path`.
    pub fn problem(failure: Failure, path: &str, request_id: &str) -> Own {
        let mut problem = *failure.0;
        problem.instance = Some(path.into());
        problem.request_id = Some(request_id.into());
        let Problem { status, scope, .. } = &problem;
        let mut headers = vec![("content-type", PROBLEM_JSON.to_owned())];
        match (status, scope) {
            (401, _) => {
                headers.push(("www-authenticate", r#"Bearer error="invalid_token""#.into()))
            }
            (403, Some(scope)) => headers.push((
                "www-authenticate",
                format!(r#"Bearer error="insufficient_scope", scope="{scope}""#),
            )),
            (429 | 503, _) => headers.push(("retry-after", "1".into())),
            _ => {}
        }
        Own {
            status: *status,
            headers,
            body: serde_json::to_vec(&problem).unwrap_or_default(),
        }
    }
}
