//! One route per thing to try; parameters come from the query string, SQL from the body.

use crate::{postgres, sql};
use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full};
use spin_sdk::http::{EmptyBody, IntoResponse, Request, send};
use spin_sdk::http_service;
use std::sync::atomic::{AtomicU64, Ordering};

type Answer = Response<Full<Bytes>>;

/// Requests this instance has seen; tells the tests whether an instance was reused.
static SEEN: AtomicU64 = AtomicU64::new(0);

#[http_service]
async fn handle(request: Request) -> impl IntoResponse {
    SEEN.fetch_add(1, Ordering::Relaxed);
    match answer(request).await {
        Ok(response) => response,
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:?}")),
    }
}

async fn answer(request: Request) -> anyhow::Result<Answer> {
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let arg = |name: &str| {
        query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.to_owned())
            .unwrap_or_default()
    };
    let last = path.rsplit('/').next().unwrap_or_default();
    Ok(match last {
        "hello" => text(StatusCode::OK, "hello".into()),
        "seen" => text(StatusCode::OK, SEEN.load(Ordering::Relaxed).to_string()),
        "headers" => {
            let mut lines: Vec<String> = request
                .headers()
                .iter()
                .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap_or("?")))
                .collect();
            lines.push(format!("uri: {}", request.uri()));
            text(StatusCode::OK, lines.join("\n"))
        }
        "route" => Response::builder()
            .header("x-route", arg("label"))
            .body(Full::from("labelled"))?,
        "echo" => match request.into_body().collect().await {
            Ok(body) => text(StatusCode::OK, format!("{}", body.to_bytes().len())),
            Err(error) => text(StatusCode::BAD_REQUEST, format!("{error:?}")),
        },
        "trap" => panic!("asked to trap"),
        "loop" => loop {
            std::hint::spin_loop();
        },
        "sleep" => {
            let ms: u64 = arg("ms").parse()?;
            spin_sdk::time::sleep(std::time::Duration::from_millis(ms)).await;
            text(StatusCode::OK, "slept".into())
        }
        "allocate" => {
            let bytes = arg("mb").parse::<usize>()? << 20;
            let filled = vec![1u8; bytes];
            text(
                StatusCode::OK,
                filled
                    .iter()
                    .map(|b| u64::from(*b))
                    .sum::<u64>()
                    .to_string(),
            )
        }
        "chain" => {
            let outgoing = http::Request::get(arg("url")).body(EmptyBody::new())?;
            match send(outgoing).await {
                Ok(response) => {
                    let status = response.status();
                    let body = response.into_body().collect().await?.to_bytes();
                    Response::builder().status(status).body(Full::new(body))?
                }
                Err(error) => text(StatusCode::BAD_GATEWAY, format!("{error:?}")),
            }
        }
        "say" => {
            let line = request.into_body().collect().await?.to_bytes();
            println!("{}", String::from_utf8_lossy(&line));
            eprintln!("{}", String::from_utf8_lossy(&line));
            text(StatusCode::OK, "said".into())
        }
        "env" => {
            let lines: Vec<String> = std::env::vars().map(|(k, v)| format!("{k}={v}")).collect();
            text(StatusCode::OK, lines.join("\n"))
        }
        "file" => match std::fs::read_to_string(arg("path")) {
            Ok(content) => text(StatusCode::OK, content),
            Err(error) => text(StatusCode::FORBIDDEN, error.to_string()),
        },
        "variable" => match spin_sdk::variables::get(arg("name")).await {
            Ok(value) => text(StatusCode::OK, value),
            Err(error) => text(StatusCode::NOT_FOUND, format!("{error:?}")),
        },
        "kv" => sql::key_value(&arg("store"), &arg("key")).await?,
        "redis" => sql::redis(&arg("address"), &arg("key")).await?,
        "postgres" => {
            let body = request.into_body().collect().await?.to_bytes();
            let script = std::str::from_utf8(&body)?;
            postgres::run(script, &arg("end"), arg("mode") == "sync").await
        }
        "types" => {
            let body = request.into_body().collect().await?.to_bytes();
            postgres::types(std::str::from_utf8(&body)?).await
        }
        "open" => sql::open(&arg("label")).await,
        "exec" => {
            let body = request.into_body().collect().await?.to_bytes();
            sql::exec(
                &arg("label"),
                std::str::from_utf8(&body)?,
                arg("mode") == "sync",
            )
            .await
        }
        "transfer" => sql::transfer(&arg("label"), &arg("end")).await?,
        other => text(StatusCode::NOT_FOUND, format!("no probe named {other}")),
    })
}

pub(crate) fn text(status: StatusCode, body: String) -> Answer {
    let length = body.len().into();
    let mut response = Response::new(Full::from(body));
    response
        .headers_mut()
        .insert(http::header::CONTENT_LENGTH, length);
    *response.status_mut() = status;
    response
}
