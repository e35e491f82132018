"""The way to the host: the only module that knows the bindings.

The bindings, ``wit_world``, exist in a component only. They are looked up when something is asked of the host, so that an
author's code is imported, checked and tested by any Python.
"""

from __future__ import annotations

import importlib
from typing import Any

from . import errors
from .text import Misfit

__all__ = ["U64_MAX", "call", "call_text", "interface", "method"]

#: The largest number that the contract's ``u64`` has. What is beyond all bounds is left for the host to refuse.
U64_MAX = 2**64 - 1


def interface(name: str) -> Any:
    """The bindings of an interface of the contract: ``context``, ``events``, ``tools`` and so on."""
    try:
        return importlib.import_module(f"wit_world.imports.{name}")
    except ModuleNotFoundError as why:
        raise RuntimeError(
            f"there is no host to ask for `{name}`: the context works in a component only, built with `cofferdam build` "
            "and run with `cofferdam run` or `cofferdam test`"
        ) from why


def call(name: str, function: str, *arguments: Any) -> Any:
    """Calls a function of an interface. What the host refuses is raised as the exception of its kind."""
    return _answer(getattr(interface(name), function), *arguments)


def method(bound: Any, *arguments: Any) -> Any:
    """Calls a method of a handle in the same way."""
    return _answer(bound, *arguments)


def _answer(function: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except Exception as error:
        # `Err` of the bindings; its case is a class of theirs.
        if type(error).__name__ != "Err":
            raise
        refusal = errors.of_binding(error.value)  # type: ignore[attr-defined]
    raise refusal


def call_text(text: str) -> str:
    """A text that the host can be handed. Half of a surrogate pair is no character, and has no UTF-8. Raises
    :class:`~cofferdam.text.Misfit`."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise Misfit("", "the text has half of a surrogate pair, which is no character") from None
    return text
