"""The highest and lowest values that were ever seen of a place, over all tables."""

from dataclasses import dataclass, field

from figures import Extreme


@dataclass
class Record:
    """An extreme value, and which table it was in."""

    value: float
    date: str
    path: str


@dataclass
class Records:
    """What is kept of a place from run to run."""

    tables: int = 0
    """How many tables were looked at, a table twice counted twice."""
    first: str = ""
    last: str = ""
    """The first and last day of all of them."""
    extremes: dict[str, Record] = field(default_factory=dict)
    """By column and which of the two: `temp_max highest`."""


@dataclass
class Broken:
    """A record that a table broke."""

    column: str
    which: str
    value: float
    date: str
    before: Record
    """What it was."""


def told_against(
    records: Records, extremes: list[Extreme], path: str, first: str, last: str
) -> tuple[Records, list[Broken]]:
    """The records with a table's extremes among them, and which of them it broke. A value that equals a record breaks
    nothing, and what was never seen before has nothing to break."""
    kept = dict(records.extremes)
    broken = []
    for extreme in extremes:
        key = f"{extreme.column} {extreme.which}"
        before = kept.get(key)
        new = Record(extreme.value, extreme.date, path)
        if before is None:
            kept[key] = new
        elif new.value > before.value if extreme.which == "highest" else new.value < before.value:
            kept[key] = new
            broken.append(Broken(extreme.column, extreme.which, new.value, new.date, before))
    first = min(first, records.first) if records.first else first
    return Records(records.tables + 1, first, max(last, records.last), kept), broken
