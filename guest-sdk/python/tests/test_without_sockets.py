"""What is left of a component when its sockets are taken out: the same definitions, counted by kind."""

from __future__ import annotations

import importlib.util
import os
import sys
import unittest
from typing import Any

_FILE = os.path.join(os.path.dirname(__file__), "../tools/without_sockets.py")
_SPEC = importlib.util.spec_from_file_location("without_sockets", _FILE)
tool: Any = importlib.util.module_from_spec(_SPEC)  # type: ignore[arg-type]

sys.modules["without_sockets"] = tool
_SPEC.loader.exec_module(tool)  # type: ignore[union-attr]


def section(kind: int, *entries: bytes) -> bytes:
    payload = tool.vector(list(entries))
    return bytes([kind]) + tool.number(len(payload)) + payload


def module(*parts: tuple[int, bytes]) -> bytes:
    data = b"\0asm\1\0\0\0" + b"".join(bytes([kind]) + tool.number(len(payload)) + payload for kind, payload in parts)
    return bytes([tool.MODULE]) + tool.number(len(data)) + data


def imported(name: str, index: int) -> bytes:
    return section(tool.IMPORT, b"\x00" + tool.name(name) + b"\x05" + tool.number(index))


CREATE = "create-tcp-socket"
INTERFACE = "wasi:sockets/tcp@0.2.9"
#: (i32, i32) -> (), imported twice: as what it is, and by a number.
USER = module(
    (1, tool.vector([b"\x60\x02\x7f\x7f\x00", b"\x60\x01\x7e\x01\x7f"])),
    (
        2,
        tool.vector(
            [
                tool.name("env") + tool.name("memory") + b"\x02\x00\x01",
                tool.name(INTERFACE) + tool.name(CREATE) + b"\x00\x00",
                tool.name(INTERFACE) + tool.name("[resource-drop]tcp-socket") + b"\x00\x01",
            ]
        ),
    ),
)
COMPONENT = b"".join(
    [
        tool.PREAMBLE,
        section(tool.TYPE, b"\x42\x00"),
        imported("wasi:io/poll@0.2.9", 0),
        section(tool.TYPE, b"\x42\x00"),
        imported(INTERFACE, 1),
        section(tool.ALIAS, b"\x03\x00" + tool.number(1) + tool.name("tcp-socket")),
        section(tool.ALIAS, b"\x01\x00" + tool.number(1) + tool.name(CREATE)),
        USER,
        section(tool.CANON, b"\x03\x02", b"\x01\x00\x00\x01\x00"),
        section(tool.CORE_INSTANCE, b"\x01" + tool.vector([tool.name(CREATE) + b"\x00\x01"])),
        section(tool.CORE_INSTANCE, b"\x00\x00" + tool.vector([tool.name(INTERFACE) + b"\x12\x00"])),
        section(tool.CANON, b"\x01\x00\x00\x01\x00"),
    ]
)


class WithoutSockets(unittest.TestCase):
    def setUp(self) -> None:
        self.sections = list(tool.sections(tool.without_sockets(COMPONENT)))

    def of(self, kind: int, parse: Any) -> list[Any]:
        return [entry for found, payload in self.sections if found == kind for entry in parse(payload)]

    def test_imports_no_sockets(self) -> None:
        self.assertEqual([entry.name for entry in self.of(tool.IMPORT, tool.imports)], ["wasi:io/poll@0.2.9"])
        self.assertNotIn(b"wasi:sockets", b"".join(payload for kind, payload in self.sections if kind in (tool.IMPORT, tool.ALIAS)))

    def test_has_as_many_definitions_of_each_kind_as_before(self) -> None:
        # Types: the poll's, the emptied one, and a resource in place of the alias.
        self.assertEqual(sum(tool.Reader(payload).number() for kind, payload in self.sections if kind == tool.TYPE), 3)
        self.assertEqual(sum(kind == tool.INSTANCE for kind, _ in self.sections), 1)
        functions = [alias for alias in self.of(tool.ALIAS, tool.aliases) if alias.sort == 1]
        self.assertEqual([(alias.instance, alias.name) for alias in functions], [(0, "[method]pollable.block")])
        # Functions of modules: one dropped resource, one lowered, and one of the stub in place of the second that was lowered.
        lowered = self.of(tool.CANON, tool.canons)
        core = [alias for alias in self.of(tool.ALIAS, tool.aliases) if alias.sort == 0]
        self.assertEqual([canon.what for canon in lowered], [3, 1])
        self.assertEqual([(alias.instance, alias.name) for alias in core], [(0, CREATE)])

    def test_gives_the_module_a_stub_of_the_functions_that_it_wants(self) -> None:
        modules = [payload for kind, payload in self.sections if kind == tool.MODULE]
        self.assertEqual(len(modules), 2)
        instances = self.of(tool.CORE_INSTANCE, tool.core_instances)
        self.assertEqual([(instance.module, instance.gets) for instance in instances], [(1, {}), (0, {INTERFACE: 0})])
        stub = dict(tool.sections(modules[1]))
        self.assertEqual(stub[1], tool.vector([b"\x60\x02\x7f\x7f\x00", b"\x60\x01\x7e\x01\x7f"]))
        self.assertIn(tool.name(CREATE), stub[7])
        self.assertIn(tool.name("[resource-drop]tcp-socket"), stub[7])

    def test_leaves_a_component_without_sockets_as_it_is_and_refuses_what_is_none(self) -> None:
        plain = tool.PREAMBLE + section(tool.TYPE, b"\x42\x00") + imported("wasi:io/poll@0.2.9", 0)
        self.assertIs(tool.without_sockets(plain), plain)
        with self.assertRaises(tool.NotUnderstood):
            tool.without_sockets(b"\0asm\1\0\0\0")
        late = COMPONENT + USER
        with self.assertRaises(tool.NotUnderstood):
            tool.without_sockets(late)


if __name__ == "__main__":
    unittest.main()
