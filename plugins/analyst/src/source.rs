//! A text file of the workspace as a stream of bytes, read ahead of its reader.

use std::collections::VecDeque;
use std::io::{self, Read};

use cofferdam_sdk::{CHUNK_BYTES_MAX, Chunk, Context, Pending, ToolError};

/// Chunks of one file under way at once. Each is up to 512 KiB of the host's memory until it is waited for.
pub const AHEAD_MAX: usize = 4;

/// Below this a chunk is not made smaller to fit into an answer.
const CHUNK_BYTES_MIN: u64 = 64 * 1024;

/// Reads a file chunk by chunk, with the next ones already under way.
///
/// Where the next chunk starts is known only when its predecessor is there, since a chunk ends between characters. It
/// is asked for where it would start if nothing had to be cut off; where that turns out wrong (in a text of many
/// non-ASCII letters) what is under way is dropped and asked for again.
pub struct Source<'ctx> {
    ctx: &'ctx Context,
    path: String,
    /// Under way, with the offset each was asked for.
    ahead: VecDeque<(u64, Pending<Chunk>)>,
    /// Where the next chunk to be waited for starts; none at the end of the file.
    next_offset: Option<u64>,
    chunk_bytes: u64,
    /// Known from the first chunk on.
    size: Option<u64>,
    text: String,
    /// How much of `text` has been handed out.
    used: usize,
    handed_out: u64,
}

impl<'ctx> Source<'ctx> {
    /// Starts to read the first chunk. Whether there is such a file shows when it is read.
    pub fn open(ctx: &'ctx Context, path: &str) -> Result<Source<'ctx>, ToolError> {
        let mut source = Source {
            ctx,
            path: path.to_owned(),
            ahead: VecDeque::new(),
            next_offset: Some(0),
            chunk_bytes: CHUNK_BYTES_MAX,
            size: None,
            text: String::new(),
            used: 0,
            handed_out: 0,
        };
        source.ask_ahead()?;
        Ok(source)
    }

    /// Keeps `AHEAD_MAX` chunks under way, or one while the size of the file is not known.
    fn ask_ahead(&mut self) -> Result<(), ToolError> {
        let Some(next_offset) = self.next_offset else { return Ok(()) };
        let mut offset = self.ahead.back().map_or(next_offset, |(offset, _)| offset + self.chunk_bytes);
        while match self.size {
            Some(size) => self.ahead.len() < AHEAD_MAX && offset < size,
            None => self.ahead.is_empty(),
        } {
            let pending = self.ctx.files().start_read_chunk(&self.path, offset, self.chunk_bytes)?;
            self.ahead.push_back((offset, pending));
            offset += self.chunk_bytes;
        }
        Ok(())
    }

    /// Waits for the next chunk. None at the end.
    fn next_chunk(&mut self) -> Result<Option<Chunk>, ToolError> {
        loop {
            let Some(offset) = self.next_offset else { return Ok(None) };
            if self.ahead.front().is_some_and(|(asked, _)| *asked != offset) {
                self.ahead.clear();
            }
            self.ask_ahead()?;
            // Without a chunk under way the file has shrunk to less than it was said to have.
            let Some((_, pending)) = self.ahead.pop_front() else { return Ok(None) };
            match pending.wait() {
                Ok(chunk) => {
                    if chunk.next_offset.is_some_and(|next| next <= offset) {
                        return Err(ToolError::UnexpectedAnswer("from `file.read`: it does not go on".to_owned()));
                    }
                    self.next_offset = chunk.next_offset;
                    self.size = Some(chunk.size);
                    self.ask_ahead_from_here()?;
                    return Ok(Some(chunk));
                }
                // As JSON, a text of quotes and line ends is twice as long.
                Err(ToolError::TooLarge(_)) if self.chunk_bytes / 2 >= CHUNK_BYTES_MIN => {
                    self.chunk_bytes /= 2;
                    self.ahead.clear();
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Before the chunk at hand is looked at, so that the host reads meanwhile.
    fn ask_ahead_from_here(&mut self) -> Result<(), ToolError> {
        if self.ahead.front().map(|(asked, _)| *asked) != self.next_offset {
            self.ahead.clear();
        }
        self.ask_ahead()
    }
}

/// What a table is read from: bytes, and how far they have come.
pub trait Progressing {
    /// Bytes handed out so far, and the size of the whole.
    fn progress(&self) -> (u64, u64);
}

impl Progressing for Source<'_> {
    fn progress(&self) -> (u64, u64) {
        (self.handed_out, self.size.unwrap_or(0))
    }
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.used == self.text.len() {
            match self.next_chunk().map_err(io::Error::other)? {
                Some(chunk) => (self.text, self.used) = (chunk.text, 0),
                None => return Ok(0),
            }
        }
        let mut rest = self.text.as_bytes().get(self.used..).unwrap_or_default();
        let length = rest.read(buffer)?;
        self.used += length;
        self.handed_out += length as u64;
        Ok(length)
    }
}
