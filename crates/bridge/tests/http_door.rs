//! The door over HTTP: what the gateway sees, and what its answers mean.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use innover_bridge::{Delivery, Door, DoorError, HttpDoor, TASKS_PATH};
use innover_contract::{Keyring, service_token};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

fn rings() -> (Keyring, Keyring) {
    let secrets: BTreeMap<_, _> = [
        ("gateway".to_owned(), [7; 32]),
        ("bridge".to_owned(), [8; 32]),
    ]
    .into();
    (
        Keyring::build("bridge", &["gateway".into()], &secrets),
        Keyring::build("gateway", &[], &secrets),
    )
}

fn delivery(deadline: Duration) -> Delivery<'static> {
    Delivery {
        service: "wallet",
        path: TASKS_PATH,
        content_type: "application/json",
        body: Bytes::from_static(b"{\"jobs\":[]}"),
        traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
        deadline,
    }
}

/// Answers each connection with `answer` (or never) and returns what it was sent.
async fn gateway(
    answer: Option<&'static str>,
) -> (String, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/", listener.local_addr().unwrap());
    let (sender, requests) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = String::new();
            let mut buffer = [0; 4096];
            while !request.ends_with("{\"jobs\":[]}") {
                let n = stream.read(&mut buffer).await.unwrap();
                request.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
            }
            sender.send(request).unwrap();
            match answer {
                Some(answer) => stream.write_all(answer.as_bytes()).await.unwrap(),
                None => std::future::pending().await,
            }
        }
    });
    (address, requests)
}

#[tokio::test]
async fn a_delivery_is_a_post_with_a_deliver_token_the_gateway_accepts() {
    let (bridge, gateway_ring) = rings();
    let (address, mut requests) = gateway(Some(
        "HTTP/1.1 207 Multi\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}",
    ))
    .await;
    let door = HttpDoor::new(&address, bridge).unwrap();
    let answer = door.deliver(delivery(Duration::from_secs(5))).await;
    assert_eq!(answer, Ok((207, Bytes::from_static(b"{}"))));
    let request = requests.recv().await.unwrap();
    assert!(
        request.starts_with("POST /_deliver/wallet/tasks HTTP/1.1\r\n"),
        "{request}"
    );
    assert!(
        request
            .contains("traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n"),
        "{request}"
    );
    let token = request
        .lines()
        .find_map(|l| l.strip_prefix("authorization: Bearer "))
        .unwrap();
    let claims = service_token::verify(&gateway_ring, "gateway", token).unwrap();
    assert_eq!(
        (claims.caller.as_str(), claims.identity.scope.as_str()),
        ("bridge", "deliver")
    );
}

#[tokio::test]
async fn a_gateway_that_is_down_is_unavailable_and_a_silent_one_is_a_timeout() {
    let (bridge, _) = rings();
    let nobody = HttpDoor::new("http://127.0.0.1:9", bridge.clone()).unwrap();
    let error = nobody
        .deliver(delivery(Duration::from_secs(5)))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, DoorError::Unavailable(text) if text.contains("refused")),
        "{error}"
    );
    let (address, _requests) = gateway(None).await;
    let silent = HttpDoor::new(&address, bridge).unwrap();
    let error = silent
        .deliver(delivery(Duration::from_millis(100)))
        .await
        .unwrap_err();
    assert_eq!(error, DoorError::Timeout(Duration::from_millis(100)));
}
