"""Writes the almanac as Markdown."""

from collections.abc import Iterable, Sequence

from figures import Gap, Normal, Spell, Unusual
from records import Broken, Records

MONTHS = "January February March April May June July August September October November December".split()


def markdown(
    place: str,
    path: str,
    days: int,
    normals: Sequence[Normal],
    spells: Sequence[Spell],
    unusual: Sequence[Unusual],
    missing: Sequence[Gap],
    records: Records,
    broken: Sequence[Broken],
) -> str:
    """The report. What there is none of has no section."""
    parts = [f"# Almanac of {place}", f"{days:,} days of `{path}`; {records.tables:,} table{'' if records.tables == 1 else 's'} so far, "
             f"from {records.first} to {records.last}."]
    rows: list[Sequence[object]]
    if broken:
        rows = [(b.column, b.which, b.value, b.date, f"{b.before.value:g} on {b.before.date}") for b in broken]
        parts += ["## Records that this table broke", table(("column", "", "value", "day", "before"), rows)]
    numbers = list(dict.fromkeys(name for normal in normals for name in normal.means))
    words = list(dict.fromkeys(name for normal in normals for name in normal.usual))
    rows = [
        (MONTHS[normal.month - 1], normal.days, *(shown(normal, name) for name in numbers),
         *(normal.usual.get(name, "") for name in words))
        for normal in normals
    ]
    parts += ["## What is usual", "The mean, and what nine in ten days lie within.",
              table(("month", "days", *numbers, *words), rows)]
    rows = [(*key.rsplit(" ", 1), record.value, record.date, record.path) for key, record in records.extremes.items()]
    parts += ["## Records", table(("column", "", "value", "day", "table"), rows)]
    if spells:
        rows = [(spell.column, spell.what, spell.days, spell.first) for spell in spells]
        parts += ["## Longest spells", table(("column", "of", "days", "from"), rows)]
    if unusual:
        rows = [(day.date, day.column, day.value, f"{day.sigmas:+.1f}") for day in unusual]
        parts += ["## Days that stand out", table(("day", "column", "value", "deviations"), rows)]
    if missing:
        rows = [(gap.first, gap.last, gap.days) for gap in missing]
        parts += ["## Days that are missing", table(("from", "to", "days"), rows)]
    return "\n\n".join(parts) + "\n"


def shown(normal: Normal, name: str) -> str:
    """The mean of a column and what is usual around it."""
    if name not in normal.means:
        return ""
    spread = normal.spreads.get(name)
    return f"{normal.means[name]:g}" + (f" ({spread[0]:g} to {spread[1]:g})" if spread else "")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table, whose cells cannot break out of it."""
    lines = [list(head), ["---"] * len(head), *([cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
