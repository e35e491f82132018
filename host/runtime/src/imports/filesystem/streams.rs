//! Files as streams: a chunk at a time, read ahead or written behind in the user's turn, and no more than one.

use super::{Descriptor, ErrorCode};
use crate::{meter::HeldBytes, tree::At};
use bytes::Bytes;
use cofferdam_core::UserExecutionContext;
use std::sync::Arc;
use tokio_util::task::AbortOnDropHandle;
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

/// What is read ahead, or written behind, of one stream, in bytes. Held on the run's account while the stream is open.
pub const CHUNK_BYTES: usize = 64 << 10;

fn failed(code: ErrorCode) -> StreamError {
    StreamError::LastOperationFailed(wasmtime::Error::new(code))
}

/// A file, from an offset on.
pub struct Reader {
    ctx: Arc<UserExecutionContext>,
    file: Descriptor,
    offset: u64,
    state: Reading,
    _held: HeldBytes,
}

enum Reading {
    /// Nothing was asked for yet.
    Idle,
    Underway(AbortOnDropHandle<Result<(Vec<u8>, bool), ErrorCode>>),
    There(Bytes),
    Failed(ErrorCode),
    Ended,
}

impl Reader {
    pub const fn new(ctx: Arc<UserExecutionContext>, file: Descriptor, offset: u64, held: HeldBytes) -> Self {
        Self { ctx, file, offset, state: Reading::Idle, _held: held }
    }

    fn begin(&mut self) {
        let (file, offset) = (self.file.clone(), self.offset);
        self.state = Reading::Underway(self.ctx.spawn(async move {
            let (path, of) = (file.path, file.file);
            file.mount.turn(move |tree| tree.read_at(&path, &of, offset, CHUNK_BYTES as u64)).await
        }));
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Reader {
    async fn ready(&mut self) {
        if matches!(self.state, Reading::Idle) {
            self.begin();
        }
        // The work stays where it is if nobody waits here any more.
        if let Reading::Underway(work) = &mut self.state {
            self.state = match work.await {
                Ok(Ok((bytes, _))) if bytes.is_empty() => Reading::Ended,
                Ok(Ok((bytes, _))) => {
                    self.offset += bytes.len() as u64;
                    Reading::There(bytes.into())
                }
                Ok(Err(code)) => Reading::Failed(code),
                Err(_) => Reading::Failed(ErrorCode::Io),
            };
        }
    }
}

impl InputStream for Reader {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        match &mut self.state {
            Reading::Idle => {
                self.begin();
                Ok(Bytes::new())
            }
            Reading::Underway(_) => Ok(Bytes::new()),
            Reading::There(bytes) => {
                let read = bytes.split_to(size.min(bytes.len()));
                if bytes.is_empty() {
                    self.state = Reading::Idle;
                }
                Ok(read)
            }
            Reading::Failed(code) => {
                let code = *code;
                self.state = Reading::Ended;
                Err(failed(code))
            }
            Reading::Ended => Err(StreamError::Closed),
        }
    }
}

/// A file, written from an offset on, or always at its end.
pub struct Writer {
    ctx: Arc<UserExecutionContext>,
    file: Descriptor,
    at: At,
    state: Writing,
    /// Bytes that the guest was told it may write.
    permitted: usize,
    _held: HeldBytes,
}

enum Writing {
    Idle,
    Underway(AbortOnDropHandle<Result<u64, ErrorCode>>),
    Failed(ErrorCode),
    Closed,
}

impl Writer {
    pub const fn new(ctx: Arc<UserExecutionContext>, file: Descriptor, at: At, held: HeldBytes) -> Self {
        Self { ctx, file, at, state: Writing::Idle, permitted: 0, _held: held }
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Writer {
    async fn ready(&mut self) {
        if let Writing::Underway(work) = &mut self.state {
            self.state = match work.await {
                Ok(Ok(end)) => {
                    if let At::Offset(offset) = &mut self.at {
                        *offset = end;
                    }
                    Writing::Idle
                }
                Ok(Err(code)) => Writing::Failed(code),
                Err(_) => Writing::Failed(ErrorCode::Io),
            };
        }
    }
}

impl Writer {
    fn check(&mut self) -> StreamResult<bool> {
        match self.state {
            Writing::Idle => Ok(true),
            Writing::Underway(_) => Ok(false),
            Writing::Failed(code) => {
                self.state = Writing::Closed;
                Err(failed(code))
            }
            Writing::Closed => Err(StreamError::Closed),
        }
    }
}

impl OutputStream for Writer {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if !self.check()? || bytes.len() > self.permitted {
            return Err(StreamError::Trap(wasmtime::Error::msg("wrote more to a file than check-write had permitted")));
        }
        self.permitted = 0;
        if bytes.is_empty() {
            return Ok(());
        }
        self.ctx.written().add(bytes.len());
        let (file, at) = (self.file.clone(), self.at);
        self.state = Writing::Underway(self.ctx.spawn(async move {
            let (path, of) = (file.path, file.file);
            file.mount.turn(move |tree| tree.write_at(&path, &of, at, &bytes)).await
        }));
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.check().map(drop)
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.permitted = if self.check()? { CHUNK_BYTES } else { 0 };
        Ok(self.permitted)
    }
}
