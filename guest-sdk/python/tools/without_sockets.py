"""Takes the sockets out of a component: ``python3 without_sockets.py IN OUT``.

componentize-py links a whole C library, which imports all of ``wasi:sockets`` whether the program uses it or not. Cofferdam
has no sockets, and refuses who asks for them. So each function of them is replaced by one that traps, and the imports go. What
is left imports only what it can have; a program that opens a socket all the same ends there.

A component is a list of definitions, numbered by kind in the order in which they come. Each definition that has to do with
sockets is replaced by another of the same kind, in its place, so that no number changes:

======================================  ==========================================================
the import of an interface              an instance with nothing in it
the type of such an import              the type of such an instance
a type taken out of it                  a resource of the component's own, of which there never is one
a function taken out of it              another function, which is there to be counted
that function, made one of a module     a function of a stub
what a module gets as the interface     the instance of a stub: a module of functions that trap
======================================  ==========================================================

Needs no package, and Python 3.10 or later.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

#: The interfaces that are taken out begin so.
SOCKETS = "wasi:sockets/"

#: A function that every such component imports before its sockets, which wait with it. Taken where any function would do.
ANY_INTERFACE, ANY_FUNCTION = "wasi:io/poll@", "[method]pollable.block"

PREAMBLE = b"\0asm\x0d\0\x01\0"

# Kinds of sections.
MODULE, CORE_INSTANCE, CORE_TYPE, COMPONENT, INSTANCE, ALIAS, TYPE, CANON, START, IMPORT, EXPORT = range(1, 12)


class NotUnderstood(Exception):
    """The component is not as componentize-py makes them."""


class Reader:
    """Reads the parts of a section."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def number(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def name(self) -> str:
        length = self.number()
        self.at += length
        return self.data[self.at - length : self.at].decode()

    def expect(self, *allowed: int) -> int:
        byte = self.byte()
        if byte not in allowed:
            raise NotUnderstood(f"byte {byte:#x} where one of {', '.join(map(hex, allowed))} was expected")
        return byte

    def ended(self) -> bool:
        return self.at >= len(self.data)


def number(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def name(text: str) -> bytes:
    return number(len(text.encode())) + text.encode()


def vector(entries: list[bytes]) -> bytes:
    return number(len(entries)) + b"".join(entries)


def sections(data: bytes) -> Iterator[tuple[int, bytes]]:
    reader = Reader(data)
    reader.at = 8
    while not reader.ended():
        kind, length = reader.byte(), reader.number()
        reader.at += length
        yield kind, data[reader.at - length : reader.at]


# ---- the entries of sections, each as what it is and its bytes


@dataclass
class Import:
    name: str
    kind: int
    index: int
    data: bytes


@dataclass
class Alias:
    """``sort`` is 1 for a function, 3 for a type, 5 for an instance; 0 for what modules export, whose sort is ``core``."""

    sort: int
    core: int
    target: int
    instance: int
    name: str
    data: bytes


@dataclass
class Canon:
    """``what`` is 0 for a function that is lifted, 1 for one that is lowered, more for resources."""

    what: int
    function: int
    data: bytes


@dataclass
class CoreInstance:
    """Of a module with what it gets by name, or (no module) of things that are there."""

    module: int | None
    gets: dict[str, int]
    data: bytes


def imports(payload: bytes) -> list[Import]:
    reader, found = Reader(payload), []
    for _ in range(reader.number()):
        start = reader.at
        reader.expect(0, 1)
        called, kind = reader.name(), reader.byte()
        if kind == 3 and reader.expect(0, 1) == 1:
            index = 0
        else:
            index = reader.number()
        found.append(Import(called, kind, index, payload[start : reader.at]))
    return found


def aliases(payload: bytes) -> list[Alias]:
    reader, found = Reader(payload), []
    for _ in range(reader.number()):
        start = reader.at
        sort = reader.byte()
        core = reader.byte() if sort == 0 else 0
        target = reader.expect(0, 1, 2)
        instance = reader.number()
        called = ""
        if target == 2:
            reader.number()
        else:
            called = reader.name()
        found.append(Alias(sort, core, target, instance, called, payload[start : reader.at]))
    return found


def canons(payload: bytes) -> list[Canon]:
    reader, found = Reader(payload), []
    for _ in range(reader.number()):
        start = reader.at
        what = reader.expect(0, 1, 2, 3, 4)
        if what <= 1:
            reader.expect(0)
        function = reader.number()
        if what <= 1:
            for _ in range(reader.number()):
                if reader.expect(0, 1, 2, 3, 4, 5) >= 3:
                    reader.number()
        if what == 0:
            reader.number()
        found.append(Canon(what, function, payload[start : reader.at]))
    return found


def core_instances(payload: bytes) -> list[CoreInstance]:
    reader, found = Reader(payload), []
    for _ in range(reader.number()):
        start = reader.at
        if reader.expect(0, 1) == 0:
            module, gets = reader.number(), {}
            for _ in range(reader.number()):
                called = reader.name()
                reader.expect(0x12)
                gets[called] = reader.number()
            found.append(CoreInstance(module, gets, payload[start : reader.at]))
        else:
            for _ in range(reader.number()):
                reader.name()
                reader.byte()
                reader.number()
            found.append(CoreInstance(None, {}, payload[start : reader.at]))
    return found


# ---- modules

#: A function's type: what it takes and gives, a byte each.
Signature = tuple[bytes, bytes]


def wanted(module: bytes) -> dict[str, dict[str, Signature]]:
    """The functions that a module imports of each interface of sockets."""
    types: list[Signature] = []
    found: dict[str, dict[str, Signature]] = {}
    for kind, payload in sections(module):
        reader = Reader(payload)
        if kind == 1:
            for _ in range(reader.number()):
                reader.expect(0x60)
                both = []
                for _ in range(2):
                    length = reader.number()
                    reader.at += length
                    both.append(payload[reader.at - length : reader.at])
                types.append((both[0], both[1]))
        if kind == 2:
            for _ in range(reader.number()):
                interface, called, sort = reader.name(), reader.name(), reader.expect(0, 1, 2, 3)
                if sort == 0:
                    index = reader.number()
                    if interface.startswith(SOCKETS):
                        found.setdefault(interface, {})[called] = types[index]
                    continue
                if sort in (1, 3):
                    # The type of a table's entries, or of a global.
                    reader.byte()
                if sort == 3:
                    reader.byte()
                elif reader.number() & 1:
                    reader.number()
                    reader.number()
                else:
                    reader.number()
            break
    return found


def stub(functions: dict[str, Signature]) -> bytes:
    """A module that exports functions, each of which traps."""
    types = [b"\x60" + number(len(takes)) + takes + number(len(gives)) + gives for takes, gives in functions.values()]
    exports = [name(called) + b"\x00" + number(index) for index, called in enumerate(functions)]
    parts = [
        (1, vector(types)),
        (3, vector([number(index) for index in range(len(types))])),
        (7, vector(exports)),
        # No locals, then `unreachable`, then `end`.
        (10, vector([b"\x03\x00\x00\x0b"] * len(types))),
    ]
    return b"\0asm\1\0\0\0" + b"".join(bytes([kind]) + number(len(payload)) + payload for kind, payload in parts)


# ---- the whole


@dataclass
class Found:
    """What of a component has to do with sockets, by its numbers."""

    modules: list[bytes] = field(default_factory=list)
    #: The type of the import of each interface.
    types: set[int] = field(default_factory=set)
    #: What a core instance must have to be what a module gets as an interface of sockets.
    stubs: dict[int, dict[str, Signature]] = field(default_factory=dict)


def looked_at(data: bytes) -> Found:
    found = Found()
    instances: list[CoreInstance] = []
    for kind, payload in sections(data):
        if kind == MODULE:
            if instances:
                raise NotUnderstood("a module comes after an instance")
            found.modules.append(payload)
        elif kind == IMPORT:
            found.types.update(entry.index for entry in imports(payload) if is_sockets(entry))
        elif kind == CORE_INSTANCE:
            instances.extend(core_instances(payload))
    for instance in instances:
        for called, index in instance.gets.items():
            if called.startswith(SOCKETS):
                if instances[index].module is not None:
                    raise NotUnderstood(f"{called} is not made of functions that are there")
                functions = wanted(found.modules[instance.module or 0]).get(called, {})
                found.stubs.setdefault(index, {}).update(functions)
    return found


def is_sockets(entry: Import) -> bool:
    return entry.kind == 5 and entry.name.startswith(SOCKETS)


def without_sockets(data: bytes) -> bytes:
    """A component without imports of sockets. One that has none is given back as it is.

    Raises :class:`NotUnderstood`.
    """
    if not data.startswith(PREAMBLE):
        raise NotUnderstood("this is not a component")
    found = looked_at(data)
    if not found.types:
        return data
    # Which module each stub will be, and the instances of stubs that are there already.
    modules = {index: len(found.modules) + at for at, index in enumerate(found.stubs)}
    by_function: dict[str, int] = {}

    out = [PREAMBLE]

    def put(kind: int, entries: list[bytes]) -> None:
        if entries:
            payload = vector(entries)
            out.append(bytes([kind]) + number(len(payload)) + payload)

    types = instances = core = seen_modules = 0
    sockets: set[int] = set()
    any_function: bytes | None = None
    #: The functions of the component: those of sockets by name.
    functions: list[str | None] = []

    for kind, payload in sections(data):
        whole = bytes([kind]) + number(len(payload)) + payload
        if kind == MODULE:
            out.append(whole)
            seen_modules += 1
            if seen_modules == len(found.modules):
                for stubbed in found.stubs.values():
                    module = stub(stubbed)
                    out.append(bytes([MODULE]) + number(len(module)) + module)
        elif kind == TYPE:
            count = Reader(payload).number()
            if found.types.intersection(range(types, types + count)):
                if count != 1:
                    raise NotUnderstood("the type of an import of sockets has others beside it")
                put(TYPE, [b"\x42\x00"])
            else:
                out.append(whole)
            types += count
        elif kind == IMPORT:
            for entry in imports(payload):
                if is_sockets(entry):
                    sockets.add(instances)
                    put(INSTANCE, [b"\x01\x00"])
                else:
                    put(IMPORT, [entry.data])
                    if entry.name.startswith(ANY_INTERFACE) and entry.kind == 5:
                        any_function = b"\x01\x00" + number(instances) + name(ANY_FUNCTION)
                instances += entry.kind == 5
                types += entry.kind == 3
                if entry.kind == 1:
                    functions.append(None)
        elif kind == ALIAS:
            for alias in aliases(payload):
                of_sockets = alias.sort != 0 and alias.target == 0 and alias.instance in sockets
                if of_sockets and alias.sort == 3:
                    put(TYPE, [b"\x3f\x7f\x00"])
                elif of_sockets and alias.sort == 1:
                    if any_function is None:
                        raise NotUnderstood(f"no import of {ANY_INTERFACE} comes before the sockets")
                    put(ALIAS, [any_function])
                elif of_sockets:
                    raise NotUnderstood(f"`{alias.name}` is taken out of sockets")
                else:
                    put(ALIAS, [alias.data])
                types += alias.sort == 3
                instances += alias.sort == 5
                if alias.sort == 1:
                    functions.append(alias.name if of_sockets else None)
        elif kind == CANON:
            for canon in canons(payload):
                lowered = functions[canon.function] if canon.what == 1 else None
                if canon.what == 0:
                    functions.append(None)
                if lowered is None:
                    put(CANON, [canon.data])
                elif lowered in by_function:
                    put(ALIAS, [b"\x00\x00\x01" + number(by_function[lowered]) + name(lowered)])
                else:
                    # Only what a module gets would have it, and that is a stub.
                    put(CANON, [b"\x01\x00" + number(canon.function) + b"\x00"])
        elif kind == CORE_INSTANCE:
            for instance in core_instances(payload):
                if core in modules:
                    put(CORE_INSTANCE, [b"\x00" + number(modules[core]) + b"\x00"])
                    by_function.update(dict.fromkeys(found.stubs[core], core))
                else:
                    put(CORE_INSTANCE, [instance.data])
                core += 1
        elif kind in (COMPONENT, INSTANCE, START):
            # These come at the end, if at all, where everything else is there.
            instances += Reader(payload).number() if kind == INSTANCE else 0
            out.append(whole)
        else:
            out.append(whole)
    return b"".join(out)


def main() -> int:
    if len(sys.argv) != 3:
        print("usage: python3 without_sockets.py IN OUT", file=sys.stderr)
        return 2
    with open(sys.argv[1], "rb") as file:
        data = file.read()
    try:
        data = without_sockets(data)
    except (NotUnderstood, IndexError, UnicodeDecodeError) as why:
        print(f"cannot take the sockets out of {sys.argv[1]}: {why}; was it made by the pinned componentize-py?", file=sys.stderr)
        return 1
    with open(sys.argv[2], "wb") as file:
        file.write(data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
