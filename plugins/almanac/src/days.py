"""Reads a table with a line for each day."""

import csv
import io
import math
import re
from dataclasses import dataclass, field
from datetime import date

# 2012-01-31 or 2012/1/31.
DATE = re.compile(r"(\d{4})([-/])(\d{1,2})\2(\d{1,2})")

# A table with more days than 300 years have is not one of days.
DAYS_MAX = 110_000


class NotATable(Exception):
    """The text is not a table of days. Says what and in which line."""


@dataclass
class Days:
    """A table: its days in order, and for each a value, or none, in each column."""

    dates: list[date] = field(default_factory=list)
    numbers: dict[str, list[float | None]] = field(default_factory=dict)
    """The columns that have nothing but numbers."""
    words: dict[str, list[str | None]] = field(default_factory=dict)
    """The other columns."""


def read(text: str) -> Days:
    """A CSV table with a header, whose first column with nothing but dates has its days.

    Raises :class:`NotATable`.
    """
    names, rows = _rows(text)
    found = next((at for at in range(len(names)) if all(DATE.fullmatch(row[at].strip()) for _, row in rows)), None)
    if found is None:
        raise NotATable(f"no column has a date in every line, such as 2012-01-31: the columns are {', '.join(names)}")
    days = []
    for line, row in rows:
        match = DATE.fullmatch(row[found].strip())
        try:
            # It matched above.
            days.append(date(int(match[1]), int(match[3]), int(match[4])))  # type: ignore[index]
        except ValueError as why:
            raise NotATable(f"line {line}: `{row[found]}` is no date: {why}") from None
    order = sorted(range(len(days)), key=days.__getitem__)
    table = Days([days[at] for at in order])
    for before, after in zip(table.dates, table.dates[1:]):
        if before == after:
            raise NotATable(f"{after} is there twice: give a table with one line for each day")
    for at, name in enumerate(names):
        if at == found:
            continue
        cells = [rows[row][1][at].strip() or None for row in order]
        numbers = [None if cell is None else _number(cell) for cell in cells]
        if all((cell is None) == (number is None) for cell, number in zip(cells, numbers)) and any(cells):
            table.numbers[name] = numbers
        elif any(cells):
            table.words[name] = cells
    return table


def _rows(text: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The names of the columns, and the rows with the lines they begin in."""
    reader = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""))
    names: list[str] = []
    rows: list[tuple[int, list[str]]] = []
    line = 1
    try:
        for row in reader:
            if row and not names:
                names = [name.strip() for name in row]
                if len(set(names)) < len(names):
                    raise NotATable(f"line {line}: two columns have one name: {', '.join(names)}")
            elif row:
                if len(row) != len(names):
                    raise NotATable(f"line {line}: {len(row)} cells where the header has {len(names)}")
                rows.append((line, row))
                if len(rows) > DAYS_MAX:
                    raise NotATable(f"there are more than {DAYS_MAX} lines: give a table with one line for each day")
            line = reader.line_num + 1
    except csv.Error as why:
        raise NotATable(f"line {line}: {why}") from None
    if not rows:
        raise NotATable("there is no line below the header" if names else "it is empty")
    return names, rows


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in cell else None
