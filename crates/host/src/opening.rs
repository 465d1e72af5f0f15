//! The first bytes of a connection, which say whether it speaks HTTP/1.1 or HTTP/2. hyper-util reads
//! them without a timer, so a client that never sends them would keep its place for ever.

use std::io::{Error, ErrorKind, Result};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// What a client sends first that speaks HTTP/2 (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A stream that fails when the version it speaks is not known in time. From then on it is the stream
/// itself: HTTP/1.1 has a timer for each head, HTTP/2 asks with pings.
pub(crate) struct Opening<S> {
    stream: S,
    /// `None` once the version is known.
    unknown: Option<Unknown>,
}

struct Unknown {
    /// How much of the preface has come.
    seen: usize,
    until: Pin<Box<Sleep>>,
}

impl<S> Opening<S> {
    pub(crate) fn new(stream: S, until: Instant) -> Self {
        let until = Box::pin(sleep_until(until));
        Self {
            stream,
            unknown: Some(Unknown { seen: 0, until }),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Opening<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        let Some(unknown) = &mut self.unknown else {
            return read;
        };
        if read.is_pending() {
            return unknown.until.as_mut().poll(cx).map(|()| {
                let text = "the client did not say which version of HTTP it speaks";
                Err(Error::new(ErrorKind::TimedOut, text))
            });
        }
        let new = &buf.filled()[before..];
        // As hyper-util decides it: HTTP/2 by the whole preface, HTTP/1.1 by the first other byte or the
        // stream's end.
        let expected = &PREFACE[unknown.seen..];
        unknown.seen += new.len();
        if new.is_empty() || new.len() >= expected.len() || !expected.starts_with(new) {
            self.unknown = None;
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Opening<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
}
