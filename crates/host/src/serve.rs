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
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use wasmtime_wasi_http::WasiBody;

use crate::limits;

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
    let builder = Arc::new(builder);
    loop {
        let next = async {
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

async fn connection<A, F>(
    builder: Arc<auto::Builder<TokioExecutor>>,
    stream: TcpStream,
    handler: A,
    mut stopped: watch::Receiver<bool>,
    _place: OwnedSemaphorePermit,
) where
    A: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<WasiBody>> + Send + 'static,
{
    // Without it small answers wait for the client's delayed acknowledgement: 40 ms per gRPC call.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let service = service_fn(move |request| {
        let answer = handler(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
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
