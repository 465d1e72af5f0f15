//! An answer on its way out, by hand on WASI's own types. A body that is there as a whole needs one
//! stream and no trailers to wait for; the general way through `http` types costs twice as much,
//! which a health check notices.

use axum::body::Body;
use http::{Response, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use spin_sdk::{
    http::IntoResponse,
    wasip3::{
        self,
        http::types::{ErrorCode, Fields, Response as WasiResponse},
        wit_future, wit_stream,
    },
};

/// What [`crate::serve`] returns to the component's entry.
pub enum Served {
    /// Everything is there.
    Whole(http::response::Parts, Vec<u8>),
    /// Frames follow.
    Streamed(Response<Body>),
}

impl Served {
    pub(crate) async fn new(response: Response<Body>) -> Served {
        if response.body().size_hint().exact().is_none() {
            return Served::Streamed(response);
        }
        let (parts, body) = response.into_parts();
        // A body of known length is in memory: this neither waits nor fails.
        let bytes = body
            .collect()
            .await
            .map(|b| b.to_bytes())
            .unwrap_or_default();
        Served::Whole(parts, bytes.into())
    }
}

impl IntoResponse for Served {
    fn into_response(self) -> Result<WasiResponse, ErrorCode> {
        let (parts, body) = match self {
            Served::Streamed(response) => return response.into_response(),
            Served::Whole(parts, body) => (parts, body),
        };
        let mut fields: Vec<(String, Vec<u8>)> = parts
            .headers
            .iter()
            .map(|(n, v)| (n.as_str().to_owned(), v.as_bytes().to_vec()))
            .collect();
        if !body.is_empty() && !parts.headers.contains_key(header::CONTENT_LENGTH) {
            fields.push(("content-length".into(), body.len().to_string().into_bytes()));
        }
        let fields = Fields::from_list(&fields)
            .map_err(|e| ErrorCode::InternalError(Some(format!("a header was refused: {e:?}"))))?;
        let contents = (!body.is_empty()).then(|| {
            let (mut writer, reader) = wit_stream::new();
            wasip3::spawn(async move {
                // Nobody to tell when the reader went away.
                let _ = writer.write_all(body).await;
            });
            reader
        });
        // Dropping the writer writes its default: no trailers.
        let (_, trailers) = wit_future::new(|| Ok(None));
        let (response, _sent) = WasiResponse::new(fields, contents, trailers);
        // The status is one `http` has checked.
        let _ = response.set_status_code(parts.status.as_u16());
        Ok(response)
    }
}
