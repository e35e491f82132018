"""Times and durations as the contract has them: whole milliseconds."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from .host import U64_MAX

__all__ = ["ms_rounded_down", "ms_rounded_up", "unix_ms"]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MS = timedelta(milliseconds=1)


def _exact(duration: timedelta | float) -> timedelta:
    if isinstance(duration, timedelta):
        return duration
    try:
        return timedelta(seconds=duration)
    except OverflowError:
        # Beyond all bounds is left for the host to refuse, with a text that names them.
        return timedelta.max if duration > 0 else timedelta.min


def _within_u64(ms: int) -> int:
    return min(max(ms, 0), U64_MAX)


def ms_rounded_up(duration: timedelta | float) -> int:
    """So that nothing is over before its time."""
    ms, rest = divmod(_exact(duration), _MS)
    return _within_u64(ms + bool(rest))


def ms_rounded_down(duration: timedelta | float) -> int:
    """For what is an upper bound."""
    return _within_u64(_exact(duration) // _MS)


def unix_ms(time: datetime | float) -> int:
    """A time, to the millisecond that is not before it. A time before 1970 is past like any other.

    Raises ``ValueError`` for a datetime without a time zone, which could be anywhere in 26 hours.
    """
    if isinstance(time, datetime):
        if time.tzinfo is None:
            raise ValueError("the time has no time zone: write datetime.now(timezone.utc) + ..., or give seconds since 1970")
        return ms_rounded_up(time - _EPOCH)
    return ms_rounded_up(time)
