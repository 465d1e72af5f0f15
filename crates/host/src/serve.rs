//! The listener: HTTP/1.1 and HTTP/2 with prior knowledge on one port.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;
use wasmtime_wasi_http::WasiBody;

use crate::limits;
use crate::opening::Opening;

/// A running listener.
pub(crate) struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    connections: Arc<Semaphore>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Server {
    /// Binds `address` and serves with a handler made per connection.
    pub(crate) async fn start<H, A, F>(address: SocketAddr, handler: H) -> std::io::Result<Self>
    where
        H: Fn(SocketAddr) -> A + Send + 'static,
        A: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
        F: Future<Output = Response<WasiBody>> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (stop, stopped) = watch::channel(false);
        let connections = Arc::new(Semaphore::new(limits::CONNECTIONS_MAX));
        let accepting = tokio::spawn(accept(listener, handler, stopped, Arc::clone(&connections)));
        Ok(Self {
            address,
            stop,
            connections,
            accepting,
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting, lets each connection finish the requests it began, and returns when all are
    /// closed or `grace` is over.
    pub(crate) async fn stop(self, grace: Duration) {
        self.stop.send_replace(true);
        // The listener closes when the accepting task ends; it cannot have failed otherwise.
        let _ = self.accepting.await;
        let all = u32::try_from(limits::CONNECTIONS_MAX).unwrap_or(u32::MAX);
        if tokio::time::timeout(grace, self.connections.acquire_many(all))
            .await
            .is_err()
        {
            tracing::warn!("connections were still open when the host stopped");
        }
    }
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HEADER_READ)
        .max_buf_size(limits::READ_BUFFER_BYTES)
        .pipeline_flush(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(limits::HEADER_READ))
        .max_header_list_size(u32::try_from(limits::HEADER_BYTES_MAX).unwrap_or(u32::MAX))
        .max_concurrent_streams(limits::H2_STREAMS_MAX);
    builder
}

async fn accept<H, A, F>(
    listener: TcpListener,
    handler: H,
    mut stopped: watch::Receiver<bool>,
    connections: Arc<Semaphore>,
) where
    H: Fn(SocketAddr) -> A,
    A: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<WasiBody>> + Send + 'static,
{
    let builder = Arc::new(builder());
    let mut full = false;
    loop {
        let next = async {
            // Once until there is room again, not once per client that has to wait.
            match connections.available_permits() {
                0 if !full => {
                    full = true;
                    tracing::warn!(
                        connections = limits::CONNECTIONS_MAX,
                        "all connections are taken; further clients wait until some are closed"
                    );
                }
                free if free > limits::CONNECTIONS_MAX / 10 => full = false,
                _ => {}
            }
            let place = Arc::clone(&connections).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = told_to_stop(&mut stopped) => return,
            next = next => next,
        };
        // The semaphore is never closed.
        let Ok(place) = place else { return };
        match accepted {
            Ok((stream, address)) => {
                // Without it small answers wait for the client's delayed acknowledgement: 40 ms per
                // gRPC call.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "cannot set TCP_NODELAY");
                }
                let handler = handler(address);
                tokio::spawn(connection(
                    Arc::clone(&builder),
                    stream,
                    handler,
                    stopped.clone(),
                    place,
                ));
            }
            Err(error) => {
                // Out of file descriptors, mostly: waiting lets connections close.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection<S, A, F>(
    builder: Arc<auto::Builder<TokioExecutor>>,
    stream: S,
    handler: A,
    mut stopped: watch::Receiver<bool>,
    _place: OwnedSemaphorePermit,
) where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    A: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<WasiBody>> + Send + 'static,
{
    let service = service_fn(move |request| {
        let answer = handler(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let stream = Opening::new(stream, Instant::now() + limits::HEADER_READ);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = told_to_stop(&mut stopped) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        // Clients go away in the middle all the time.
        tracing::debug!(error = %error, "connection ended");
    }
}

/// Returns when the flag is set, or when whoever would set it is gone.
pub(crate) async fn told_to_stop(stopped: &mut watch::Receiver<bool>) {
    // Either outcome means the same.
    let _ = stopped.wait_for(|stop| *stop).await;
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod tests {
    use std::sync::Mutex;

    use bytes::Bytes;
    use http_body_util::{BodyExt, Empty};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::time::{sleep, timeout};

    use super::*;

    async fn empty(_: Request<Incoming>) -> Response<WasiBody> {
        Response::new(Empty::<Bytes>::new().map_err(|e| match e {}).boxed_unsync())
    }

    /// The client's end of a connection that is served.
    fn connect() -> DuplexStream {
        let (client, server) = tokio::io::duplex(64 << 10);
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        // Dropped, it would stop the connection.
        let (stop, stopped) = watch::channel(false);
        let builder = Arc::new(builder());
        tokio::spawn(async move {
            connection(builder, server, empty, stopped, place).await;
            drop(stop);
        });
        client
    }

    /// How long it takes the server to close a connection on which nothing more is sent.
    async fn closed_after(client: &mut DuplexStream) -> Duration {
        let since = Instant::now();
        let mut rest = Vec::new();
        // A connection that is gone may say so in either way.
        let _ = timeout(limits::HEADER_READ * 10, client.read_to_end(&mut rest)).await;
        since.elapsed()
    }

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_nothing_or_half_a_preface_is_sent_away() {
        let soon = limits::HEADER_READ + Duration::from_secs(1);
        for said in [&b""[..], b"P", &PREFACE[..12], &PREFACE[..23]] {
            let mut client = connect();
            client.write_all(said).await.unwrap();
            let after = closed_after(&mut client).await;
            assert!(after < soon, "{said:?}: {after:?}");
        }
        // One byte now and then gains no time.
        let mut client = connect();
        let since = Instant::now();
        for byte in &PREFACE[..6] {
            if client.write_all(&[*byte]).await.is_err() {
                break;
            }
            sleep(limits::HEADER_READ / 4).await;
        }
        closed_after(&mut client).await;
        assert!(since.elapsed() < limits::HEADER_READ * 2, "{since:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_whose_version_is_known_is_still_sent_away_when_it_says_no_more() {
        for said in [&b"GET / HTT"[..], PREFACE] {
            let mut client = connect();
            client.write_all(said).await.unwrap();
            let after = closed_after(&mut client).await;
            assert!(after < limits::HEADER_READ * 3, "{said:?}: {after:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_client_is_served_and_may_stay_idle_in_between() {
        let mut client = connect();
        let pause = limits::HEADER_READ - Duration::from_secs(1);
        for _ in 0..3 {
            // The version within its time, the headers within theirs.
            sleep(pause).await;
            client.write_all(b"PUT / HTTP/1.1\r\n").await.unwrap();
            sleep(Duration::from_millis(900)).await;
            client.write_all(b"host: x\r\n\r\n").await.unwrap();
            let mut answer = [0; 1024];
            let read = client.read(&mut answer).await.unwrap();
            assert!(answer[..read].starts_with(b"HTTP/1.1 200 OK\r\n"));
        }
    }

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_host_whose_places_are_all_taken_says_so_once() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone());
        let _here = tracing::subscriber::set_default(subscriber.finish());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_stop, stopped) = watch::channel(false);
        let places = Arc::new(Semaphore::new(1));
        tokio::spawn(accept(listener, |_| empty, stopped, places));
        for _ in 0..3 {
            // Each waits for the one before it.
            let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
            client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
            let mut answer = [0; 1024];
            assert!(client.read(&mut answer).await.unwrap() > 0);
        }
        let logged = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(logged.matches("WARN").count(), 1, "{logged}");
    }
}
