"""Checks a CSV file of the user's workspace, sums up its columns, and writes a report beside it."""

import csv
import io
import math
from dataclasses import dataclass
from typing import Literal

from cofferdam import AgentError, Context, agent


@dataclass
class Input:
    path: str
    """The CSV file, in the user's workspace. Its first line has the names of the columns."""
    report: str = "report.md"
    """Where the report goes."""


@dataclass
class Column:
    name: str
    kind: Literal["number", "text"]
    missing: int
    """Fields without a value."""
    min: float | None
    max: float | None
    mean: float | None
    distinct: int
    """Different values."""


@dataclass
class Output:
    rows: int
    columns: list[Column]
    report: str
    """Where the report is."""


@agent(tools=["file.read", "file.write"])
def run(ctx: Context, input: Input) -> Output:
    """Checks a CSV file and reports what is in its columns."""
    ctx.progress(0.1, f"reading {input.path}")
    names, rows = table(input.path, ctx.files.read_text(input.path))
    ctx.progress(0.6, f"{len(rows)} rows checked")
    columns = [summary(name, [row[at] for row in rows]) for at, name in enumerate(names)]
    ctx.files.write_text(input.report, markdown(input.path, len(rows), columns))
    ctx.progress(1.0, f"{input.report} written")
    return Output(len(rows), columns, input.report)


def table(path: str, text: str) -> tuple[list[str], list[list[str]]]:
    """The names of the columns, and the rows, each as long as the header."""
    # Which line a row starts in is told by where the one before it ended.
    reader = csv.reader(io.StringIO(text, newline=""))
    names: list[str] = []
    rows = []
    line = 1
    for fields in reader:
        if fields and not names:
            names = fields
        elif fields:
            if len(fields) != len(names):
                why = f"has {len(fields)} fields, but the header has {len(names)}"
                raise AgentError("bad_table", f"{path} line {line} {why}")
            rows.append(fields)
        line = reader.line_num + 1
    if not names:
        raise AgentError("bad_table", f"{path} is empty")
    return names, rows


def summary(name: str, fields: list[str]) -> Column:
    """What is in a column."""
    values = [value for value in fields if value]
    missing, distinct = len(fields) - len(values), len(set(values))
    numbers = [number(value) for value in values]
    if not numbers or None in numbers:
        return Column(name, "text", missing, None, None, None, distinct)
    known = [value for value in numbers if value is not None]
    return Column(name, "number", missing, min(known), max(known), sum(known) / len(known), distinct)


def number(value: str) -> float | None:
    """A number, if it is one. What only Python takes for one is none: 1_000."""
    try:
        found = float(value)
    except ValueError:
        return None
    return found if math.isfinite(found) and "_" not in value else None


def markdown(path: str, rows: int, columns: list[Column]) -> str:
    """The report."""
    head = "| column | kind | missing | distinct | min | max | mean |\n|---|---|--:|--:|--:|--:|--:|\n"
    lines = []
    for column in columns:
        mean = "" if column.mean is None else f"{column.mean:.2f}"
        figures = f"{plain(column.min)} | {plain(column.max)} | {mean}"
        lines.append(f"| {column.name} | {column.kind} | {column.missing} | {column.distinct} | {figures} |\n")
    return f"# {path}\n\n{rows} rows\n\n{head}{''.join(lines)}"


def plain(value: float | None) -> str:
    """A number without needless digits."""
    return "" if value is None else repr(value).removesuffix(".0")
