"""What is told of an exception that the author did not catch. Not for authors."""

from __future__ import annotations

import linecache
import os
import sys
import traceback
from typing import Any, Final

from .building import Project

__all__ = ["account", "bindings_error", "place", "remember_sources"]

#: As much of an account as the host keeps.
ACCOUNT_BYTES_MAX: Final = 4096

#: As much of what an exception says about itself stands before its place.
WHAT_CHARS_MAX: Final = 500

#: As many of the innermost calls are told.
FRAMES_MAX: Final = 20

_SDK: Final = os.path.dirname(__file__)


def bindings_error() -> Any:
    """The exception by which a component gives an error back."""
    return sys.modules["componentize_py_types"].Err


def remember_sources(project: Project) -> None:
    """Keeps the lines of the author's code, so that a traceback can show them: a run has no files to read them from."""
    for _, file in project.modules():
        if project.has(file):
            linecache.getlines(file)
            entry = linecache.cache.get(file)
            if entry is not None and len(entry) == 4:
                # Without a time of change: what has one is looked up on the disk again, and forgotten.
                linecache.cache[file] = (entry[0], None, entry[2], entry[3])


def place(project: Project, error: BaseException) -> str:
    """Where an exception came from: the innermost line of the author's own code."""
    found = "at a line that is not known"
    traceback = error.__traceback__
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        if project.has(file):
            found = f"at {project.shown(file)} line {traceback.tb_lineno}"
        traceback = traceback.tb_next
    return found


def account(project: Project, error: BaseException) -> str:
    """What happened and where, then the traceback from the author's code on, in at most 4 KiB."""
    what = "".join(traceback.format_exception_only(error)).strip()
    if len(what) > WHAT_CHARS_MAX:
        what = f"{what[:WHAT_CHARS_MAX]}..."
    head = f"{what}, {place(project, error)}"
    if isinstance(error, ModuleNotFoundError):
        head += f"; a run has no files to import from: put `import {error.name}` at the top of the module"
    inner = error.__traceback__
    # The way to the author's code is the same for every run.
    while inner is not None and inner.tb_frame.f_code.co_filename.startswith(_SDK):
        inner = inner.tb_next
    # Each call costs as much as a small run, and of an endless recursion there are a thousand.
    lines = traceback.format_exception(type(error), error, inner, limit=-FRAMES_MAX)
    text = "".join(lines).replace(f'File "{project.base}/', f'File "{project.source}/' if project.source else 'File "')
    whole = f"{head}\n{text}".rstrip().encode("utf-8", "backslashreplace")
    if len(whole) > ACCOUNT_BYTES_MAX:
        # The first lines say what it was, the last where it was.
        cut = b"\n  [...]\n"
        half = (ACCOUNT_BYTES_MAX - len(cut)) // 2
        whole = whole[:half] + cut + whole[-half:]
    return whole.decode("utf-8", "ignore")
