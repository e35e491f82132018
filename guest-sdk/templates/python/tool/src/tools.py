"""Counts the words of a text."""

from dataclasses import dataclass

from cofferdam import ToolContext, tool


@dataclass
class Arguments:
    text: str
    """What to count."""


@dataclass
class Counted:
    words: int
    lines: int
    characters: int


# A second call does no harm, so a run that was cut off may call it again.
@tool(name="word-count", idempotent=True)
def count(ctx: ToolContext, arguments: Arguments) -> Counted:
    """Counts the words, lines and characters of a text."""
    text = arguments.text
    return Counted(len(text.split()), text.count("\n") + (not text.endswith("\n") and text != ""), len(text))
