//! The files of the user's workspace, through the host's file tools.

use serde::{Deserialize, Serialize};

use crate::{Context, Pending, ToolError};
use base64::{Engine as _, prelude::BASE64_STANDARD};

/// The longest piece of a file that one call reads, in bytes.
pub const CHUNK_BYTES_MAX: u64 = 512 * 1024;

/// Below this many bytes a chunk is not made smaller to fit into an answer: no text grows that much as JSON.
const CHUNK_BYTES_MIN: u64 = 64 * 1024;

/// The bytes that one call writes: as base64, with the path and the braces, they stay below the 1 MiB of a host call.
const WRITE_BYTES_MAX: usize = 512 * 1024;

/// What a directory holds.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Listing {
    /// Sorted by name, at most 1,000.
    pub entries: Vec<Entry>,
    /// Whether there are more entries than these.
    pub truncated: bool,
}

/// A file or directory.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Entry {
    /// Its name, without the path.
    pub name: String,
    /// Which of the two it is.
    pub kind: EntryKind,
    /// Size of a file in bytes; of no meaning for a directory.
    #[serde(default)]
    pub bytes: u64,
}

/// Whether an entry is a file or a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// A file.
    File,
    /// A directory.
    Directory,
}

/// A piece of a file. It never ends within a UTF-8 character.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Chunk {
    /// The piece's text.
    pub text: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// Where the next piece starts, in bytes from the start of the file; none at the end.
    pub next_offset: Option<u64>,
    /// The whole file's size in bytes.
    pub size: u64,
}

/// The files of the user's workspace, from [`Context::files`]. Needs the tools it calls: `file.list`, `file.read`,
/// `file.write`, or `file.*`.
///
/// Paths are relative to the workspace, with `/` between their parts. Every call counts as a tool call.
///
/// ```no_run
/// # fn example(ctx: &cofferdam_sdk::Context) -> Result<(), cofferdam_sdk::Error> {
/// for entry in ctx.files().list("notes")?.entries {
///     let text = ctx.files().read_to_string(&format!("notes/{}", entry.name))?;
///     ctx.files().append("all-notes.md", &text)?;
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Files<'ctx> {
    context: &'ctx Context,
}

impl<'ctx> Files<'ctx> {
    pub(crate) fn of(context: &'ctx Context) -> Files<'ctx> {
        Files { context }
    }

    /// What a directory holds; `""` is the workspace itself.
    ///
    /// # Errors
    ///
    /// [`ToolError::NotFound`] if there is no such directory, and as [`Context::call`].
    pub fn list(&self, directory: &str) -> Result<Listing, ToolError> {
        self.context.call("file.list", &ListArguments { path: directory })
    }

    /// A piece of a text file: up to `length` bytes (at most [`CHUNK_BYTES_MAX`]) from `offset`. It may be shorter.
    ///
    /// # Errors
    ///
    /// [`ToolError::NotFound`] if there is no such file, [`ToolError::Failed`] if it is not UTF-8,
    /// [`ToolError::TooLarge`] if the piece is too large as JSON, where most of it is escaped; and as
    /// [`Context::call`].
    pub fn read_chunk(&self, path: &str, offset: u64, length: u64) -> Result<Chunk, ToolError> {
        self.context.call("file.read", &ReadArguments::text(path, offset, length))
    }

    /// As [`read_chunk`](Files::read_chunk), without waiting for it.
    ///
    /// # Errors
    ///
    /// As [`Context::start`].
    pub fn start_read_chunk(&self, path: &str, offset: u64, length: u64) -> Result<Pending<Chunk>, ToolError> {
        self.context.start("file.read", &ReadArguments::text(path, offset, length))
    }

    /// A text file as a whole, read in chunks. It must fit into the run's memory.
    ///
    /// # Errors
    ///
    /// As [`read_chunk`](Files::read_chunk).
    pub fn read_to_string(&self, path: &str) -> Result<String, ToolError> {
        let mut whole = String::new();
        read_all(|offset, length| {
            let chunk = self.read_chunk(path, offset, length)?;
            whole.push_str(&chunk.text);
            Ok(chunk.next_offset)
        })?;
        Ok(whole)
    }

    /// A file of any kind as a whole, read in chunks. It must fit into the run's memory.
    ///
    /// # Errors
    ///
    /// As [`read_chunk`](Files::read_chunk), but a file need not be UTF-8.
    pub fn read_to_bytes(&self, path: &str) -> Result<Vec<u8>, ToolError> {
        let mut whole = Vec::new();
        read_all(|offset, length| {
            let chunk: BytesChunk = self.context.call("file.read", &ReadArguments::base64(path, offset, length))?;
            let bytes = BASE64_STANDARD
                .decode(&chunk.base64)
                .map_err(|_| ToolError::UnexpectedAnswer("from `file.read`: not base64".to_owned()))?;
            whole.extend_from_slice(&bytes);
            Ok(chunk.next_offset)
        })?;
        Ok(whole)
    }

    /// Makes a file with this text, or replaces the file that is there, and gives its size in bytes. Directories on
    /// the way are made.
    ///
    /// A text larger than 512 KiB is written in several calls, so another run can see it half written.
    ///
    /// # Errors
    ///
    /// [`ToolError::Exhausted`] if the workspace is full, and as [`Context::call`].
    pub fn write(&self, path: &str, text: &str) -> Result<u64, ToolError> {
        self.write_pieces(path, text, false)
    }

    /// Adds text to the end of a file, which is made if it is not there, and gives its size in bytes.
    ///
    /// # Errors
    ///
    /// As [`write`](Files::write).
    pub fn append(&self, path: &str, text: &str) -> Result<u64, ToolError> {
        self.write_pieces(path, text, true)
    }

    /// As [`write`](Files::write), for a file of any kind.
    ///
    /// # Errors
    ///
    /// As [`write`](Files::write).
    pub fn write_bytes(&self, path: &str, bytes: &[u8]) -> Result<u64, ToolError> {
        self.write_byte_pieces(path, bytes, false)
    }

    /// As [`append`](Files::append), for a file of any kind.
    ///
    /// # Errors
    ///
    /// As [`write`](Files::write).
    pub fn append_bytes(&self, path: &str, bytes: &[u8]) -> Result<u64, ToolError> {
        self.write_byte_pieces(path, bytes, true)
    }

    fn write_pieces(&self, path: &str, text: &str, mut append: bool) -> Result<u64, ToolError> {
        let mut rest = text;
        loop {
            let (piece, after) = rest.split_at(fitting_prefix(rest));
            let written: Written = self.context.call("file.write", &WriteArguments::text(path, piece, append))?;
            if after.is_empty() {
                return Ok(written.bytes);
            }
            (rest, append) = (after, true);
        }
    }

    fn write_byte_pieces(&self, path: &str, bytes: &[u8], mut append: bool) -> Result<u64, ToolError> {
        let mut rest = bytes;
        loop {
            let (piece, after) = rest.split_at(rest.len().min(WRITE_BYTES_MAX));
            let text = BASE64_STANDARD.encode(piece);
            let written: Written = self.context.call("file.write", &WriteArguments::base64(path, &text, append))?;
            if after.is_empty() {
                return Ok(written.bytes);
            }
            (rest, append) = (after, true);
        }
    }
}

/// Reads from the start to the end; `read` takes an offset and a length and gives the next offset.
///
/// JSON writes some characters as two or six, so a chunk within its own limit may not fit into an answer. Then it is
/// halved, and stays so: the rest of the file is likely to be of the same kind.
fn read_all(mut read: impl FnMut(u64, u64) -> Result<Option<u64>, ToolError>) -> Result<(), ToolError> {
    let (mut offset, mut length) = (0, CHUNK_BYTES_MAX);
    loop {
        match read(offset, length) {
            Ok(None) => return Ok(()),
            Ok(Some(next)) if next > offset => offset = next,
            Ok(Some(_)) => return Err(ToolError::UnexpectedAnswer("from `file.read`: it does not go on".to_owned())),
            Err(ToolError::TooLarge(_)) if length / 2 >= CHUNK_BYTES_MIN => length /= 2,
            Err(other) => return Err(other),
        }
    }
}

/// How many bytes from the start of a text fit into one call, as whole characters.
fn fitting_prefix(text: &str) -> usize {
    let mut as_json = 0;
    for (at, character) in text.char_indices() {
        as_json += match character {
            '"' | '\\' | '\n' | '\r' | '\t' => 2,
            '\0'..='\u{1f}' => 6,
            other => other.len_utf8(),
        };
        if as_json > WRITE_BYTES_MAX {
            return at;
        }
    }
    text.len()
}

#[derive(Serialize)]
struct ListArguments<'a> {
    path: &'a str,
}

#[derive(Serialize)]
struct ReadArguments<'a> {
    path: &'a str,
    offset: u64,
    length: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'a str>,
}

impl<'a> ReadArguments<'a> {
    fn text(path: &'a str, offset: u64, length: u64) -> Self {
        ReadArguments { path, offset, length, encoding: None }
    }

    fn base64(path: &'a str, offset: u64, length: u64) -> Self {
        ReadArguments { path, offset, length, encoding: Some("base64") }
    }
}

#[derive(Deserialize)]
struct BytesChunk {
    base64: String,
    next_offset: Option<u64>,
}

#[derive(Serialize)]
struct WriteArguments<'a> {
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<&'a str>,
    append: bool,
}

impl<'a> WriteArguments<'a> {
    fn text(path: &'a str, text: &'a str, append: bool) -> Self {
        WriteArguments { path, text: Some(text), base64: None, append }
    }

    fn base64(path: &'a str, base64: &'a str, append: bool) -> Self {
        WriteArguments { path, text: None, base64: Some(base64), append }
    }
}

#[derive(Deserialize)]
struct Written {
    bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_written_as_the_tools_read_them() {
        let written = |arguments: &dyn Fn() -> serde_json::Result<String>| arguments().unwrap();
        assert_eq!(written(&|| serde_json::to_string(&ListArguments { path: "" })), r#"{"path":""}"#);
        assert_eq!(
            written(&|| serde_json::to_string(&ReadArguments::text("a/b.csv", 0, 10))),
            r#"{"path":"a/b.csv","offset":0,"length":10}"#
        );
        assert_eq!(
            written(&|| serde_json::to_string(&ReadArguments::base64("a", 5, 10))),
            r#"{"path":"a","offset":5,"length":10,"encoding":"base64"}"#
        );
        assert_eq!(
            written(&|| serde_json::to_string(&WriteArguments::text("a", "t", true))),
            r#"{"path":"a","text":"t","append":true}"#
        );
        assert_eq!(
            written(&|| serde_json::to_string(&WriteArguments::base64("a", "Zg==", false))),
            r#"{"path":"a","base64":"Zg==","append":false}"#
        );
    }

    #[test]
    fn answers_are_read_as_the_tools_write_them() {
        let listing: Listing = serde_json::from_str(
            r#"{"entries":[{"name":"w.csv","kind":"file","bytes":123},{"name":"d","kind":"directory"}],"truncated":false}"#,
        )
        .unwrap();
        assert_eq!(listing.entries[0], Entry { name: "w.csv".into(), kind: EntryKind::File, bytes: 123 });
        assert_eq!(listing.entries[1].kind, EntryKind::Directory);
        let chunk: Chunk = serde_json::from_str(r#"{"text":"é","bytes":2,"next_offset":null,"size":2}"#).unwrap();
        assert_eq!(chunk.next_offset, None);
    }

    #[test]
    fn a_file_is_read_chunk_by_chunk_to_its_end() {
        let mut asked = Vec::new();
        read_all(|offset, length| {
            asked.push((offset, length));
            Ok((offset < 1_000_000).then_some(offset + length))
        })
        .unwrap();
        assert_eq!(asked, [(0, 524_288), (524_288, 524_288), (1_048_576, 524_288)]);
    }

    #[test]
    fn a_chunk_too_large_for_an_answer_is_halved_down_to_a_bound() {
        let mut lengths = Vec::new();
        let outcome = read_all(|_, length| {
            lengths.push(length);
            Err(ToolError::TooLarge(1 << 20))
        });
        assert_eq!(outcome, Err(ToolError::TooLarge(1 << 20)));
        assert_eq!(lengths, [524_288, 262_144, 131_072, 65_536]);
    }

    #[test]
    fn a_host_that_does_not_go_on_cannot_hold_the_guest_in_a_loop() {
        assert!(matches!(read_all(|offset, _| Ok(Some(offset))), Err(ToolError::UnexpectedAnswer(_))));
    }

    #[test]
    fn a_long_text_is_cut_between_characters_and_by_its_length_as_json() {
        assert_eq!(fitting_prefix(""), 0);
        assert_eq!(fitting_prefix("short"), 5);
        assert_eq!(fitting_prefix(&"a".repeat(WRITE_BYTES_MAX)), WRITE_BYTES_MAX);
        assert_eq!(fitting_prefix(&"a".repeat(WRITE_BYTES_MAX + 1)), WRITE_BYTES_MAX);
        assert_eq!(fitting_prefix(&"\n".repeat(WRITE_BYTES_MAX)), WRITE_BYTES_MAX / 2);
        // Three bytes each, of which a third of the limit is no whole number.
        assert_eq!(fitting_prefix(&"€".repeat(WRITE_BYTES_MAX)), WRITE_BYTES_MAX / 3 * 3);
    }
}
