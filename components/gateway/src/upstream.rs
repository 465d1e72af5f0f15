//! Calls of services by hand on WASI's own types: no copy between `http` types and back, and a body
//! that passes through is handed on as it is, which the host turns into no work at all.

use innover_kit::{Code, Failure, Result};
use spin_sdk::wasip3::{
    http::{
        client,
        types::{ErrorCode, Fields, Method, Request, RequestOptions, Response, Scheme, Trailers},
    },
    spawn,
    wit_bindgen::{FutureReader, StreamReader, StreamResult},
    wit_future, wit_stream,
};

use crate::{headers::Header, limits::DRAIN_BYTES_MAX, problem::Own, table::Callee};

type TrailersFuture = FutureReader<Result<Option<Trailers>, ErrorCode>>;

/// What goes with a request.
pub enum Body {
    None,
    /// The caller's own, unread.
    Stream(StreamReader<u8>, TrailersFuture),
    Bytes(Vec<u8>),
}

/// Calls `callee` and waits `timeout_ms` for the head of its answer.
pub async fn call(
    callee: Callee<'_>,
    method: &Method,
    path: &str,
    headers: &[Header],
    body: Body,
    timeout_ms: u64,
) -> Result<Response> {
    let fields = Fields::from_list(headers).map_err(|e| internal(&format!("{e:?}")))?;
    let options = RequestOptions::new();
    // A fresh set of options takes every option; the platform bounds the wait by itself as well.
    let _ = options.set_first_byte_timeout(Some(timeout_ms.saturating_mul(1_000_000)));
    let (contents, trailers) = parts(body);
    let (request, _sent) = Request::new(fields, contents, trailers, Some(options));
    // A new request is a GET already.
    let named = if matches!(method, Method::Get) {
        Ok(())
    } else {
        request.set_method(method)
    };
    let scheme = if callee.https {
        Scheme::Https
    } else {
        Scheme::Http
    };
    let set = named
        .and_then(|()| request.set_scheme(Some(&scheme)))
        .and_then(|()| request.set_authority(Some(callee.authority)))
        .and_then(|()| request.set_path_with_query(Some(path)));
    set.map_err(|()| Failure::new(Code::NotFound, "the path or the method is malformed"))?;
    client::send(request)
        .await
        .map_err(|error| failed(callee.name, error))
}

fn parts(body: Body) -> (Option<StreamReader<u8>>, TrailersFuture) {
    match body {
        Body::Stream(stream, trailers) => (Some(stream), trailers),
        Body::None => (None, no_trailers()),
        Body::Bytes(bytes) => {
            let (stream, trailers) = written(bytes);
            (Some(stream), trailers)
        }
    }
}

/// Dropping the writer writes its default: no trailers.
fn no_trailers() -> TrailersFuture {
    wit_future::new(|| Ok(None)).1
}

fn written(bytes: Vec<u8>) -> (StreamReader<u8>, TrailersFuture) {
    let (mut writer, stream) = wit_stream::new();
    spawn(async move {
        // Nobody to tell when the reader went away.
        let _ = writer.write_all(bytes).await;
    });
    (stream, no_trailers())
}

fn failed(name: &str, error: ErrorCode) -> Failure {
    let line = serde_json::json!({"level": "error", "service_name": "gateway", "msg": "upstream",
        "upstream": name, "error": format!("{error:?}")});
    println!("{line}");
    match error {
        ErrorCode::HttpResponseTimeout
        | ErrorCode::ConnectionReadTimeout
        | ErrorCode::ConnectionTimeout => late(name),
        _ => Failure::new(Code::UpstreamError, format!("`{name}` did not answer")),
    }
}

/// 504: the work may still finish.
pub fn late(name: &str) -> Failure {
    Failure::new(
        Code::DeadlineExceeded,
        format!("`{name}` did not answer in time; ask again with the same Idempotency-Key"),
    )
}

fn internal(error: &str) -> Failure {
    println!(
        "{}",
        serde_json::json!({"level": "error", "service_name": "gateway", "msg": error})
    );
    Failure::new(Code::Internal, "the log has the reason")
}

/// The body of a caller's request, unread.
pub fn body_of(request: Request) -> (StreamReader<u8>, TrailersFuture) {
    Request::consume_body(request, wit_future::new(|| Ok(())).1)
}

/// The body of a service's answer, unread.
fn body_of_answer(response: Response) -> (StreamReader<u8>, TrailersFuture) {
    Response::consume_body(response, wit_future::new(|| Ok(())).1)
}

/// As much as a stream hands over at once in practice.
const CHUNK: usize = 16 << 10;

/// Reads a body of `limit` bytes at most; gives the rest of it back when it is longer.
pub async fn read(mut stream: StreamReader<u8>, limit: usize) -> Result<Vec<u8>, StreamReader<u8>> {
    let mut all = Vec::new();
    let mut chunk = Vec::with_capacity(CHUNK);
    loop {
        let (result, read) = stream.read(chunk).await;
        if all.len() + read.len() > limit {
            return Err(stream);
        }
        all.extend_from_slice(&read);
        if !matches!(result, StreamResult::Complete(_)) {
            return Ok(all);
        }
        chunk = read;
        chunk.clear();
    }
}

/// Reads on and throws away. A client that is still sending when the answer is written and the
/// connection closed sees a reset, not the answer.
pub async fn drain(mut stream: StreamReader<u8>) {
    let mut left = DRAIN_BYTES_MAX;
    let mut chunk = Vec::with_capacity(CHUNK);
    while left > 0 {
        chunk.clear();
        let (result, read) = stream.read(chunk).await;
        if !matches!(result, StreamResult::Complete(_)) {
            return;
        }
        left = left.saturating_sub(read.len());
        chunk = read;
    }
}

/// Asks a service for something small with a service token.
pub async fn get(
    callee: Callee<'_>,
    path: &str,
    bearer: &[u8],
    timeout_ms: u64,
    limit: usize,
) -> Result<(u16, Vec<u8>)> {
    let headers = [("authorization".to_owned(), bearer.to_vec())];
    let response = call(callee, &Method::Get, path, &headers, Body::None, timeout_ms).await?;
    let status = response.get_status_code();
    let (stream, _trailers) = body_of_answer(response);
    let body = read(stream, limit).await;
    let body = body.map_err(|_| Failure::new(Code::UpstreamError, "the answer is too large"))?;
    Ok((status, body))
}

/// The answer of a service under other headers; its body passes through.
pub fn pass(response: Response, status: u16, headers: &[Header]) -> Result<Response, ErrorCode> {
    let fields = Fields::from_list(headers).map_err(broken)?;
    let (stream, trailers) = body_of_answer(response);
    let (answer, _sent) = Response::new(fields, Some(stream), trailers);
    let _ = answer.set_status_code(status);
    Ok(answer)
}

/// An answer of the gateway's own.
pub fn own(own: Own, mut headers: Vec<Header>) -> Result<Response, ErrorCode> {
    headers.extend(
        own.headers
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.into_bytes())),
    );
    headers.push((
        "content-length".to_owned(),
        own.body.len().to_string().into_bytes(),
    ));
    let fields = Fields::from_list(&headers).map_err(broken)?;
    let (contents, trailers) = if own.body.is_empty() {
        (None, no_trailers())
    } else {
        parts(Body::Bytes(own.body))
    };
    let (answer, _sent) = Response::new(fields, contents, trailers);
    let _ = answer.set_status_code(own.status);
    Ok(answer)
}

fn broken(error: impl std::fmt::Debug) -> ErrorCode {
    ErrorCode::InternalError(Some(format!("a header was refused: {error:?}")))
}
