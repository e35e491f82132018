"""What a plugin asks to be granted."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

__all__ = ["Access", "AccessLike", "Needs"]


class Access(enum.Enum):
    """How far a permission goes."""

    NONE = "none"
    """Nothing."""
    READ = "read"
    """Look, but not change."""
    READ_WRITE = "read_write"
    """Look and change."""


#: An access, or its name.
AccessLike = Access | Literal["none", "read", "read_write"]

_ORDER = [Access.NONE, Access.READ, Access.READ_WRITE]


def access_of(what: str, access: AccessLike) -> Access:
    """The access that an author named."""
    try:
        return Access(access)
    except ValueError:
        raise ValueError(f"{what}={access!r}: an access is \"none\", \"read\" or \"read_write\"") from None


def widest(accesses: Iterable[Access]) -> Access:
    """The access that goes furthest."""
    return max(accesses, key=_ORDER.index, default=Access.NONE)


@dataclass(frozen=True, slots=True)
class Needs:
    """What an agent asks to be granted: a request, which the platform team answers with a grant for each user.

    What a run may do is what stands in both. What is not named here is denied, whatever is granted.
    """

    tools: tuple[str, ...] = ()
    """Tools that it calls: a tool's full name (``file.read``), or a family (``file.*``). At most 64."""
    state: Access = Access.NONE
    """The user's key-value data for this plugin."""
    workspace: Access = Access.NONE
    """The user's files below ``/workspace``, with ``open`` and ``pathlib``. A durable run has no such directory."""
    agents: tuple[str, ...] = ()
    """Agents that it starts, by the names they were pushed under, or ``*`` for any. At most 64."""
    human: bool = False
    """Questions to people. Makes an agent without a workspace durable as well."""
    durable: bool = False
    """Its runs go on after the end of a host, by executing them again from their journal. Granted by nobody."""


def names_of(what: str, names: Iterable[str]) -> tuple[str, ...]:
    """The names that an author gave."""
    if isinstance(names, str):
        raise TypeError(f"{what}={names!r} is one text: write [{names!r}]")
    return tuple(names)
