//! WASI 0.2 (Rust's std imports it) and 0.3: clocks, random, and an environment that holds only what
//! the manifest says. There are no folders, no arguments, no standard input, and no raw sockets:
//! `allowed_outbound_hosts` opens HTTP and Redis, not TCP.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;
use wasmtime::component::Linker;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder};

use super::Interface;
use crate::guest::Guest;
use crate::limits;
use crate::log::{Log, guest_line};

pub(crate) struct Wasi;

impl Interface for Wasi {
    fn imports(&self) -> &'static [&'static str] {
        &[
            "wasi:cli/",
            "wasi:clocks/",
            "wasi:filesystem/",
            "wasi:io/",
            "wasi:random/",
            "wasi:sockets/",
        ]
    }

    fn link(&self, linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
        wasmtime_wasi::p2::add_to_linker_async(linker)?;
        wasmtime_wasi::p3::add_to_linker(linker)
    }
}

/// The world as the guest sees it.
pub(crate) fn context(service: &Arc<str>, environment: &[(String, String)], log: &Log) -> WasiCtx {
    let output = |stream| Output {
        service: Arc::clone(service),
        stream,
        log: log.clone(),
    };
    WasiCtxBuilder::new()
        .envs(environment)
        .stdout(output("stdout"))
        .stderr(output("stderr"))
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .build()
}

/// A guest's stdout or stderr: complete lines go to the log under the service's name.
#[derive(Clone)]
struct Output {
    service: Arc<str>,
    stream: &'static str,
    log: Log,
}

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(Lines {
            output: self.clone(),
            pending: Vec::new(),
        })
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(Lines {
            output: self.clone(),
            pending: Vec::new(),
        })
    }
}

/// Splits what is written into lines. A rest without a line end is written when the stream closes.
struct Lines {
    output: Output,
    pending: Vec<u8>,
}

impl Lines {
    fn push(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|b| *b == b'\n') {
            self.pending.extend_from_slice(part);
            if part.ends_with(b"\n") || self.pending.len() >= limits::GUEST_LINE_BYTES_MAX {
                self.emit();
            }
        }
    }

    fn emit(&mut self) {
        let text = String::from_utf8_lossy(&self.pending);
        if !text.trim().is_empty() {
            self.output
                .log
                .line(guest_line(&self.output.service, self.output.stream, &text));
        }
        self.pending.clear();
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.emit();
    }
}

impl AsyncWrite for Lines {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.push(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Lines {
    async fn ready(&mut self) {}
}

impl OutputStream for Lines {
    fn write(&mut self, bytes: bytes::Bytes) -> Result<(), StreamError> {
        self.push(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StreamError> {
        Ok(())
    }

    fn check_write(&mut self) -> Result<usize, StreamError> {
        Ok(limits::GUEST_LINE_BYTES_MAX)
    }
}
