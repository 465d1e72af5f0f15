//! Bodies that wait for the disk: see [`crate::database::Seen`].

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, SizeHint};
use wasmtime_wasi_http::{Error, WasiBody};

use crate::database::Seen;

/// The body of something an instance says: each part goes out when all that the instance had seen by
/// then is on disk.
pub(crate) fn hold(body: WasiBody, seen: &Arc<Seen>) -> WasiBody {
    if body.is_end_stream() {
        return body;
    }
    Held {
        body,
        seen: Arc::clone(seen),
        waiting: None,
    }
    .boxed_unsync()
}

struct Held {
    body: WasiBody,
    seen: Arc<Seen>,
    waiting: Option<(Frame<Bytes>, OnDisk)>,
}

type OnDisk = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Body for Held {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.waiting.is_none() {
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                end => return Poll::Ready(end),
            };
            if self.seen.is_on_disk() {
                return Poll::Ready(Some(Ok(frame)));
            }
            let seen = Arc::clone(&self.seen);
            self.waiting = Some((frame, Box::pin(async move { seen.on_disk().await })));
        }
        if let Some((_, on_disk)) = &mut self.waiting {
            ready!(on_disk.as_mut().poll(cx));
        }
        Poll::Ready(self.waiting.take().map(|(frame, _)| Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.waiting.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.waiting {
            // The frame in hand is no longer counted by the body.
            Some(_) => SizeHint::default(),
            None => self.body.size_hint(),
        }
    }
}
