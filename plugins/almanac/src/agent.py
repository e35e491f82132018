"""Keeps the almanac of a place from tables of its days."""

import re
from dataclasses import dataclass
from typing import Annotated

import days as tables
import figures
import report as reports
from cofferdam import AgentError, Context, InvalidInput, Length, NotFound, Scope, StateConflict, agent
from figures import Gap, Normal, Spell, Unusual
from records import Broken, Records, told_against

# Two runs of one user may look at tables of one place at once; more often than this they do not come between each other.
TRIES_MAX = 10


@dataclass
class Input:
    path: str
    """The table: a CSV file of the workspace with a header, a column of dates, and a line for each day."""
    place: Annotated[str, Length(1, 64)] = "here"
    """Which place it is of. The records of each place are kept by themselves."""
    report: str = "almanac.md"
    """Where to write the almanac, a Markdown file of the workspace. What is there is replaced."""


@dataclass
class Output:
    report: str
    """Where the almanac is."""
    days: int
    first: str
    last: str
    missing: list[Gap]
    normals: list[Normal]
    spells: list[Spell]
    unusual: list[Unusual]
    broken: list[Broken]
    """The records of the place that this table broke."""
    records: Records
    """All records of the place, with those of this table."""


@agent(tools=["file.read", "file.write"], state="read_write")
def run(ctx: Context, input: Input) -> Output:
    """Reads a CSV table with a line for each day and writes a Markdown almanac: what is usual in each month, the longest
    spells, the days that stand out, what is missing. Keeps the records of each place in state, and tells which of them a
    table broke. Gives the same figures as its output."""
    if not input.report or input.report == input.path:
        raise InvalidInput(f"at `/report`: `{input.report}` would not be a report: name a Markdown file, such as almanac.md")
    ctx.thinking(f"Reading {input.path}")
    try:
        days = tables.read(ctx.files.read_text(input.path))
    except NotFound:
        raise InvalidInput(f"at `/path`: there is no file `{input.path}` in the workspace") from None
    except tables.NotATable as why:
        raise AgentError("not_a_table", f"{input.path}: {why}") from None
    first, last = str(days.dates[0]), str(days.dates[-1])
    ctx.progress(0.3, f"{len(days.dates)} days from {first} to {last}")

    normals, spells = figures.normals(days), figures.spells(days)
    unusual, missing = figures.unusual(days), figures.gaps(days)
    if missing:
        ctx.warn(f"{input.path}: {sum(gap.days for gap in missing)} days are missing")
    ctx.progress(0.7, "Looking for records")
    records, broken = remember(ctx, input, figures.extremes(days), first, last)
    for record in broken:
        ctx.emit("record", record)

    ctx.thinking(f"Writing {input.report}")
    text = reports.markdown(input.place, input.path, len(days.dates), normals, spells, unusual, missing, records, broken)
    ctx.files.write_text(input.report, text)
    ctx.progress(1.0, "Done")
    return Output(input.report, len(days.dates), first, last, missing, normals, spells, unusual, broken, records)


def remember(
    ctx: Context, input: Input, extremes: list[figures.Extreme], first: str, last: str
) -> tuple[Records, list[Broken]]:
    """The records of the place with those of this table, which are kept, and those that it broke."""
    state = ctx.state(Scope.USER)
    key = f"records/{key_of(input.place)}"
    for _ in range(TRIES_MAX):
        stored = state.get_json(key, Records)
        records, broken = told_against(stored.value if stored else Records(), extremes, input.path, first, last)
        try:
            state.compare_and_swap_json(key, stored.version if stored else None, records)
            return records, broken
        except StateConflict:
            # Another run was there first: its records are the ones to break.
            continue
    raise AgentError("records_busy", f"the records of {input.place} changed {TRIES_MAX} times meanwhile: run it again")


def key_of(place: str) -> str:
    """A place as a part of a key, which has printable ASCII only: any other character as its number."""
    return re.sub(r"[^A-Za-z0-9_.-]", lambda match: f"%{ord(match[0]):x}%", place)
