"""The files of the user's workspace, through the host's file tools."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from . import calls
from .calls import Pending
from .errors import ToolTooLarge, UnexpectedAnswer
from .shaping import shape_of

__all__ = ["CHUNK_BYTES_MAX", "Chunk", "Entry", "Files", "Listing"]

#: The longest piece of a file that one call reads, in bytes.
CHUNK_BYTES_MAX: Final = 512 * 1024

#: Below this many bytes a chunk is not made smaller to fit into an answer: no text grows that much as JSON.
_CHUNK_BYTES_MIN: Final = 64 * 1024

#: The bytes that one call writes: as JSON or base64, with the path and the braces, they stay below the 1 MiB of a host call.
_WRITE_BYTES_MAX: Final = 512 * 1024


@dataclass(frozen=True)
class Entry:
    """A file or directory."""

    name: str
    """Its name, without the path."""
    kind: Literal["file", "directory"]
    """Which of the two it is."""
    bytes: int = 0
    """Size of a file in bytes; of no meaning for a directory."""


@dataclass(frozen=True)
class Listing:
    """What a directory holds."""

    entries: list[Entry]
    """Sorted by name, at most 1,000."""
    truncated: bool
    """Whether there are more entries than these."""


@dataclass(frozen=True)
class Chunk:
    """A piece of a file. It never ends within a UTF-8 character."""

    text: str
    """The piece's text."""
    bytes: int
    """Its length in bytes."""
    next_offset: int | None
    """Where the next piece starts, in bytes from the start of the file; ``None`` at the end."""
    size: int
    """The whole file's size in bytes."""


@dataclass(frozen=True)
class _BytesChunk:
    base64: str
    next_offset: int | None


@dataclass(frozen=True)
class _Written:
    bytes: int


_LISTING: Final = shape_of(Listing)
_CHUNK: Final = shape_of(Chunk)
_BYTES_CHUNK: Final = shape_of(_BytesChunk)
_WRITTEN: Final = shape_of(_Written)


class Files:
    """The files of the user's workspace, from :attr:`Context.files`. Needs the tools that it calls: ``file.list``,
    ``file.read``, ``file.write``, or ``file.*``.

    Paths are relative to the workspace, with ``/`` between their parts. Every call counts as a tool call, and raises a
    :class:`ToolError`: :class:`NotFound` if there is no such file, :class:`ToolExhausted` if the workspace is full. ::

        for entry in ctx.files.list("notes").entries:
            ctx.files.append_text("all-notes.md", ctx.files.read_text(f"notes/{entry.name}"))
    """

    __slots__ = ()

    def list(self, directory: str = "") -> Listing:
        """What a directory holds; ``""`` is the workspace itself."""
        return calls.call("file.list", {"path": directory}, _LISTING)

    def read_chunk(self, path: str, offset: int = 0, length: int = CHUNK_BYTES_MAX) -> Chunk:
        """A piece of a text file: up to ``length`` bytes (at most :data:`CHUNK_BYTES_MAX`) from ``offset``. It may be
        shorter.

        :class:`ToolFailed` if it is not UTF-8, :class:`ToolTooLarge` if the piece is too large as JSON, where most of it is
        escaped.
        """
        return calls.call("file.read", {"path": path, "offset": offset, "length": length}, _CHUNK)

    def start_read_chunk(self, path: str, offset: int = 0, length: int = CHUNK_BYTES_MAX) -> Pending[Chunk]:
        """As :meth:`read_chunk`, without waiting for it."""
        return calls.start("file.read", {"path": path, "offset": offset, "length": length}, _CHUNK)

    def read_text(self, path: str) -> str:
        """A text file as a whole, read in chunks. It must fit into the run's memory."""
        pieces = []

        def read(offset: int, length: int) -> int | None:
            chunk = self.read_chunk(path, offset, length)
            pieces.append(chunk.text)
            return chunk.next_offset

        _read_all(read)
        return "".join(pieces)

    def read_bytes(self, path: str) -> bytes:
        """A file of any kind as a whole, read in chunks. It must fit into the run's memory."""
        pieces = []

        def read(offset: int, length: int) -> int | None:
            arguments = {"path": path, "offset": offset, "length": length, "encoding": "base64"}
            chunk = calls.call("file.read", arguments, _BYTES_CHUNK)
            try:
                pieces.append(base64.b64decode(chunk.base64, validate=True))
            except binascii.Error:
                raise UnexpectedAnswer("from `file.read`: not base64") from None
            return chunk.next_offset

        _read_all(read)
        return b"".join(pieces)

    def write_text(self, path: str, text: str) -> int:
        """Makes a file with this text, or replaces the file that is there, and gives its size in bytes. Directories on the
        way are made.

        A text larger than 512 KiB is written in several calls, so another run can see it half written.
        """
        return _write("text", path, _text_pieces(text), False)

    def append_text(self, path: str, text: str) -> int:
        """Adds text to the end of a file, which is made if it is not there, and gives its size in bytes."""
        return _write("text", path, _text_pieces(text), True)

    def write_bytes(self, path: str, data: bytes) -> int:
        """As :meth:`write_text`, for a file of any kind."""
        return _write("base64", path, _byte_pieces(data), False)

    def append_bytes(self, path: str, data: bytes) -> int:
        """As :meth:`append_text`, for a file of any kind."""
        return _write("base64", path, _byte_pieces(data), True)


def _write(encoding: str, path: str, pieces: list[str], append: bool) -> int:
    size = 0
    for piece in pieces:
        size = calls.call("file.write", {"path": path, encoding: piece, "append": append}, _WRITTEN).bytes
        append = True
    return size


def _read_all(read: Callable[[int, int], int | None]) -> None:
    """Reads from the start to the end; ``read`` takes an offset and a length and gives the next offset.

    JSON writes some characters as two or six, so a chunk within its own limit may not fit into an answer. Then it is
    halved, and stays so: the rest of the file is likely to be of the same kind.
    """
    offset, length = 0, CHUNK_BYTES_MAX
    while True:
        try:
            after = read(offset, length)
        except ToolTooLarge:
            if length // 2 < _CHUNK_BYTES_MIN:
                raise
            length //= 2
            continue
        if after is None:
            return
        if after <= offset:
            raise UnexpectedAnswer("from `file.read`: it does not go on")
        offset = after


def _byte_pieces(data: bytes) -> list[str]:
    """Pieces that fit into one call each; one at least, so that an empty file is written, too."""
    starts = range(0, max(len(data), 1), _WRITE_BYTES_MAX)
    return [base64.b64encode(data[start : start + _WRITE_BYTES_MAX]).decode("ascii") for start in starts]


def _text_pieces(text: str) -> list[str]:
    pieces = []
    start = 0
    while True:
        # As many characters as bytes are the most that can fit, so the first cut is never too short.
        piece = text[start : start + _WRITE_BYTES_MAX]
        size = _json_bytes(piece)
        while size > _WRITE_BYTES_MAX:
            # What is too large by a factor is cut by it, and a little more, until it fits.
            piece = piece[: min(len(piece) - 1, len(piece) * _WRITE_BYTES_MAX // size)]
            size = _json_bytes(piece)
        pieces.append(piece)
        start += len(piece)
        if start >= len(text):
            return pieces


def _json_bytes(text: str) -> int:
    """How many bytes a text has as JSON, without its quotes. Half of a surrogate pair is refused when it is written."""
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    escaped_short = sum(map(text.count, '"\\\n\r\t\b\f'))
    escaped_long = sum(text.count(chr(code)) for code in range(0x20) if chr(code) not in "\n\r\t\b\f")
    return size + escaped_short + 5 * escaped_long

