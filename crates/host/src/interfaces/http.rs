//! Outbound HTTP: the manifest's allowed hosts, calls to other components in process, and the real
//! network for the rest.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use wasmtime::component::Linker;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks, default_send_request};

use super::Interface;
use crate::database::Seen;
use crate::guest::Guest;
use crate::hold::hold;
use crate::limits;
use crate::load::App;
use crate::service::Via;
use crate::shared::Shared;

pub(crate) struct OutboundHttp;

impl Interface for OutboundHttp {
    fn imports(&self) -> &'static [&'static str] {
        &["wasi:http/types@0.3", "wasi:http/client@0.3"]
    }

    fn link(&self, linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
        wasmtime_wasi_http::p3::add_to_linker(linker)
    }
}

/// What a guest sends goes through here.
pub(crate) struct Outbound {
    pub(crate) shared: Arc<Shared>,
    pub(crate) app: Arc<App>,
    seen: Arc<Seen>,
}

type Io = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Sent = Result<(Response<WasiBody>, Io), Error>;

impl Outbound {
    pub(crate) fn new(shared: Arc<Shared>, app: Arc<App>, seen: Arc<Seen>) -> Self {
        Self { shared, app, seen }
    }
}

impl WasiHttpHooks for Outbound {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Io,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        let seen = Arc::clone(&self.seen);
        let request = request.map(|body| hold(body, &seen));
        let uri = request.uri();
        let (Some(scheme), Some(host)) = (uri.scheme_str(), uri.host()) else {
            return Box::new(async { Err(Error::HttpRequestUriInvalid) });
        };
        if let Some(component) = host.strip_suffix(".spin.internal") {
            if !self.app.chain_targets.contains(component) {
                denied(&self.app, scheme, host, uri.port_u16());
                return Box::new(async { Err(Error::HttpRequestDenied) });
            }
            let component = component.to_owned();
            let answer = chain(Arc::clone(&self.shared), component, request, options);
            return Box::new(async move {
                seen.on_disk().await;
                answer.await
            });
        }
        if !self.app.hosts.allows(scheme, host, uri.port_u16()) {
            denied(&self.app, scheme, host, uri.port_u16());
            return Box::new(async { Err(Error::HttpRequestDenied) });
        }
        Box::new(async move {
            seen.on_disk().await;
            let (response, io) = default_send_request(request, Some(bounded(options))).await?;
            Ok((response.map(BodyExt::boxed_unsync), Box::new(io) as Io))
        })
    }
}

fn denied(app: &App, scheme: &str, host: &str, port: Option<u16>) {
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    tracing::warn!(
        service_name = %app.service,
        "request to {scheme}://{host}{port} denied: add it to allowed_outbound_hosts of component {}",
        app.id
    );
}

/// Calls another component. What goes wrong there is an answer (503, 504, 500), as it would be from
/// a server of its own.
async fn chain(
    shared: Arc<Shared>,
    component: String,
    request: Request<WasiBody>,
    options: Option<RequestOptions>,
) -> Sent {
    let service = shared
        .service(&component)
        .ok_or(Error::DestinationNotFound)?;
    let asked = options
        .and_then(|options| options.first_byte_timeout)
        .unwrap_or(Duration::MAX);
    let deadline = service.app.deadline.min(asked);
    let response = match service.call(request, deadline, Via::Chain, "/...").await {
        Ok(response) => response,
        Err(problem) => problem.response(None),
    };
    Ok((response, Box::new(std::future::ready(Ok(())))))
}

/// No outbound wait is without a bound, whatever the guest asks for.
fn bounded(options: Option<RequestOptions>) -> RequestOptions {
    let asked = options.unwrap_or_default();
    let at_most =
        |asked: Option<Duration>, bound: Duration| Some(asked.unwrap_or(bound).min(bound));
    RequestOptions {
        connect_timeout: at_most(asked.connect_timeout, limits::OUTBOUND_CONNECT),
        first_byte_timeout: at_most(asked.first_byte_timeout, limits::OUTBOUND_READ),
        between_bytes_timeout: at_most(asked.between_bytes_timeout, limits::OUTBOUND_READ),
    }
}
