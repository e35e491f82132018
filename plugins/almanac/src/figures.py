"""What the days of a table say together."""

import statistics
from collections import Counter
from dataclasses import dataclass
from datetime import date, timedelta

from days import Days

# A day this many standard deviations from the mean of its month stands out.
UNUSUAL_SIGMAS = 3.0

# Below so many values a month has no deviation worth the name.
UNUSUAL_VALUES_MIN = 20

# More days than this stand out to nobody.
UNUSUAL_MAX = 12

# A column that is zero on at least one day in so many has spells without and with.
ZEROS_ONE_IN = 10


@dataclass
class Gap:
    """Days that are missing."""

    first: str
    last: str
    days: int


@dataclass
class Normal:
    """What is usual in a month, over all years of the table."""

    month: int
    days: int
    means: dict[str, float]
    """Of each column of numbers."""
    spreads: dict[str, tuple[float, float]]
    """What nine in ten values lie within; missing below 20 values."""
    usual: dict[str, str]
    """The most frequent value of each other column."""


@dataclass
class Spell:
    """Days in a row that are alike."""

    column: str
    what: str
    """`none` (zero), `some` (not zero), or the value of a column of words."""
    first: str
    days: int


@dataclass
class Unusual:
    """A day that stands out in its month."""

    date: str
    column: str
    value: float
    sigmas: float
    """How many standard deviations from the mean of its month."""


@dataclass
class Extreme:
    """The highest or lowest value of a column, and the first day that had it."""

    column: str
    which: str
    """`highest` or `lowest`."""
    value: float
    date: str


def gaps(days: Days) -> list[Gap]:
    """The days that are missing between the first and the last."""
    one = timedelta(days=1)
    return [
        Gap(str(before + one), str(after - one), (after - before).days - 1)
        for before, after in zip(days.dates, days.dates[1:])
        if after - before > one
    ]


def normals(days: Days) -> list[Normal]:
    """What is usual in each month that the table has."""
    found = []
    for month in sorted({day.month for day in days.dates}):
        at = [index for index, day in enumerate(days.dates) if day.month == month]
        means, spreads = {}, {}
        for name, column in days.numbers.items():
            values = [value for index in at if (value := column[index]) is not None]
            if values:
                means[name] = round(statistics.fmean(values), 2)
            if len(values) >= UNUSUAL_VALUES_MIN:
                cuts = statistics.quantiles(values, n=20, method="inclusive")
                spreads[name] = (round(cuts[0], 2), round(cuts[-1], 2))
        usual = {}
        for name, words in days.words.items():
            counted = Counter(word for index in at if (word := words[index]) is not None)
            if counted:
                # Of equals the first by name, so that it does not depend on the order of the days.
                usual[name] = min(counted, key=lambda word: (-counted[word], word))
        found.append(Normal(month, len(at), means, spreads, usual))
    return found


def spells(days: Days) -> list[Spell]:
    """The longest spell of each kind; of equals the earliest."""
    longest: dict[tuple[str, str], Spell] = {}
    for name, column in _kinds(days).items():
        first, length = 0, 0
        for index, what in enumerate(column):
            goes_on = (
                length > 0 and what == column[first] and days.dates[index] - days.dates[index - 1] == timedelta(days=1)
            )
            first, length = (first, length + 1) if goes_on else (index, 1)
            if what is None:
                length = 0
            elif (name, what) not in longest or length > longest[name, what].days:
                longest[name, what] = Spell(name, what, str(days.dates[first]), length)
    return list(longest.values())


def _kinds(days: Days) -> dict[str, list[str | None]]:
    """Of each column that has spells, what each day is."""
    kinds = dict(days.words)
    for name, column in days.numbers.items():
        zeros = sum(value == 0 for value in column)
        if zeros * ZEROS_ONE_IN >= len(column) and zeros < len(column):
            kinds[name] = [None if value is None else "some" if value else "none" for value in column]
    return kinds


def unusual(days: Days) -> list[Unusual]:
    """The days that stand out most."""
    found = []
    for name, column in days.numbers.items():
        of_month: dict[int, list[float]] = {}
        for day, value in zip(days.dates, column):
            if value is not None:
                of_month.setdefault(day.month, []).append(value)
        usual = {
            month: (statistics.fmean(values), statistics.stdev(values))
            for month, values in of_month.items()
            if len(values) >= UNUSUAL_VALUES_MIN
        }
        for day, value in zip(days.dates, column):
            mean, deviation = usual.get(day.month, (0.0, 0.0))
            if value is not None and deviation > 0 and abs(value - mean) >= UNUSUAL_SIGMAS * deviation:
                found.append(Unusual(str(day), name, value, round((value - mean) / deviation, 1)))
    found.sort(key=lambda day: (-abs(day.sigmas), day.date))
    return found[:UNUSUAL_MAX]


def extremes(days: Days) -> list[Extreme]:
    """The highest and the lowest value of each column of numbers."""
    found = []
    for name, column in days.numbers.items():
        values = [(value, day) for value, day in zip(column, days.dates) if value is not None]
        for which, best in (("highest", max(value for value, _ in values)), ("lowest", min(value for value, _ in values))):
            day: date = next(day for value, day in values if value == best)
            found.append(Extreme(name, which, best, str(day)))
    return found
