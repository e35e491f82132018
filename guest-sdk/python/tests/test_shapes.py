"""Types as JSON Schema, and JSON by types."""

from __future__ import annotations

import enum
import json
import linecache
import unittest
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal, NewType, NotRequired, Optional, TypedDict, Union

from cofferdam.shapes import Length, Range
from cofferdam.shaping import UnsupportedType, shape_of
from cofferdam.text import Misfit, dump_json, parse_json, to_json


class Colour(enum.Enum):
    """A colour."""

    RED = "red"
    GREEN = "green"


class Note(TypedDict):
    text: str
    """What it says."""
    stars: NotRequired[Annotated[int, Range(1, 5), "How good it is."]]


@dataclass
class Node:
    label: str
    children: list[Node] = field(default_factory=list)


@dataclass
class Order:
    """An order.

    With its lines.
    """

    name: str
    """Who orders."""
    count: Annotated[int, Range(minimum=1), "How many."]
    price: float = 1.5
    colour: Colour = Colour.RED
    note: Note | None = None
    tags: list[str] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    where: tuple[float, float] = (0.0, 0.0)
    mode: Literal["fast", "slow"] = "fast"
    tree: Optional[Node] = None
    rest: Any = None
    from_: str = "here"
    """Where from."""


@dataclass
class Circle:
    kind: Literal["circle"]
    radius: float


@dataclass
class Square:
    kind: Literal["square"]
    side: float


@dataclass
class Checked:
    low: int
    high: int

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("`low` is above `high`: swap them")


UserId = NewType("UserId", str)


@dataclass
class WithTime:
    name: str
    when: datetime


@dataclass
class BadDefault:
    count: int = "three"  # type: ignore[assignment]


def schema(python: Any, **how: Any) -> Any:
    return shape_of(python).document(**how)


def misfit(python: Any, value: Any, strict: bool = True) -> str:
    try:
        read = parse_json(json.dumps(value), shape_of(python), strict=strict)
    except Misfit as why:
        return str(why)
    raise AssertionError(f"{value!r} was read as {read!r}")


class Schemas(unittest.TestCase):
    def test_a_dataclass_is_an_object_with_its_docs_defaults_and_required_fields(self) -> None:
        found = schema(Order)
        self.assertEqual(found["$schema"], "https://json-schema.org/draft/2020-12/schema")
        self.assertEqual((found["title"], found["type"]), ("Order", "object"))
        self.assertEqual(found["description"], "An order.\n\nWith its lines.")
        self.assertEqual(found["required"], ["name", "count"])
        self.assertIs(found["additionalProperties"], False)
        fields = found["properties"]
        self.assertEqual(fields["name"], {"description": "Who orders.", "type": "string"})
        self.assertEqual(fields["count"], {"description": "How many.", "type": "integer", "minimum": 1})
        self.assertEqual(fields["price"], {"type": "number", "default": 1.5})
        self.assertEqual(fields["colour"], {"$ref": "#/$defs/Colour", "default": "red"})
        self.assertEqual(fields["note"], {"anyOf": [{"$ref": "#/$defs/Note"}, {"type": "null"}], "default": None})
        self.assertEqual(fields["tags"], {"type": "array", "items": {"type": "string"}, "default": []})
        self.assertEqual(fields["sizes"], {"type": "object", "additionalProperties": {"type": "integer"}, "default": {}})
        number = {"type": "number"}
        self.assertEqual(
            fields["where"],
            {"type": "array", "prefixItems": [number, number], "minItems": 2, "maxItems": 2, "default": [0.0, 0.0]},
        )
        self.assertEqual(fields["mode"], {"enum": ["fast", "slow"], "default": "fast"})
        self.assertEqual(fields["rest"], True)
        self.assertEqual(fields["from"], {"description": "Where from.", "type": "string", "default": "here"})
        self.assertEqual(found["$defs"]["Colour"], {"description": "A colour.", "enum": ["red", "green"]})
        note = found["$defs"]["Note"]
        self.assertEqual(note["required"], ["text"])
        self.assertEqual(note["properties"]["text"], {"description": "What it says.", "type": "string"})
        self.assertEqual(
            note["properties"]["stars"], {"description": "How good it is.", "type": "integer", "minimum": 1, "maximum": 5}
        )

    def test_a_type_that_contains_itself_is_described_once(self) -> None:
        self.assertEqual(schema(Node)["properties"]["children"]["items"], {"$ref": "#"})
        within = schema(Order)["$defs"]["Node"]
        self.assertEqual(within["properties"]["children"]["items"], {"$ref": "#/$defs/Node"})

    def test_an_output_has_all_of_its_fields(self) -> None:
        found = schema(Order, output=True)
        self.assertIn("price", found["required"])
        self.assertNotIn("additionalProperties", found)

    def test_two_classes_of_one_name_are_two_definitions(self) -> None:
        def other() -> type:
            @dataclass
            class Node:
                weight: int

            return Node

        second = other()

        @dataclass
        class Both:
            first: Any
            second: Any

        Both.__annotations__ = {"first": Node, "second": second}
        found = schema(Both)
        self.assertEqual(found["properties"]["first"]["$ref"], "#/$defs/Node")
        self.assertEqual(found["properties"]["second"]["$ref"], "#/$defs/Node2")
        self.assertEqual(list(found["$defs"]["Node2"]["properties"]), ["weight"])

    def test_simple_types_are_schemas_of_their_own(self) -> None:
        self.assertEqual(schema(Any), True)
        self.assertEqual(schema(str)["type"], "string")
        self.assertEqual(schema(None)["type"], "null")
        self.assertEqual(schema(Union[str, int, None])["type"], ["string", "integer", "null"])
        self.assertEqual(schema(list)["items"], True)
        self.assertEqual(schema(dict)["type"], "object")
        self.assertEqual(schema(UserId)["type"], "string")
        self.assertEqual(schema(Annotated[list[int], Length(1, 3)])["maxItems"], 3)

    def test_a_type_that_json_does_not_have_is_named_with_file_and_line(self) -> None:
        with self.assertRaises(UnsupportedType) as raised:
            shape_of(WithTime)
        self.assertIn("WithTime.when: `datetime` has no JSON Schema", str(raised.exception))
        self.assertEqual(raised.exception.file, __file__)
        self.assertEqual(linecache.getline(__file__, raised.exception.line or 0).strip(), "when: datetime")
        for python in (set[int], dict[int, str], complex, Annotated[str, Range(1)], Literal[b"x"]):
            with self.assertRaises(UnsupportedType):
                shape_of(python)

    def test_a_default_that_does_not_fit_its_type_is_refused(self) -> None:
        with self.assertRaises(UnsupportedType) as raised:
            shape_of(BadDefault)
        self.assertIn("BadDefault.count", str(raised.exception))


class Reading(unittest.TestCase):
    def test_json_is_read_as_what_the_types_say(self) -> None:
        text = """{"name":"Ada","count":2.0,"price":3,"colour":"green","note":{"text":"quick"},"where":[1,2.5],
                   "tree":{"label":"root","children":[{"label":"leaf"}]},"from":"there","rest":[null,{"a":1}]}"""
        order = parse_json(text, shape_of(Order), strict=True)
        self.assertEqual((order.name, order.count, order.price, order.colour), ("Ada", 2, 3.0, Colour.GREEN))
        self.assertIsInstance(order.count, int)
        self.assertIsInstance(order.price, float)
        self.assertEqual((order.note, order.where, order.from_), ({"text": "quick"}, (1.0, 2.5), "there"))
        self.assertEqual(order.tree, Node("root", [Node("leaf")]))
        self.assertEqual((order.tags, order.mode, order.rest), ([], "fast", [None, {"a": 1}]))

    def test_what_does_not_fit_is_told_with_its_json_pointer(self) -> None:
        good = {"name": "Ada", "count": 1}
        for change, place in [
            ({"name": 7}, "at `/name`: expected a string, found 7"),
            ({"count": True}, "at `/count`: expected an integer, found true"),
            ({"count": 1.5}, "at `/count`: expected an integer, found 1.5"),
            ({"count": 0}, "at `/count`: expected at least 1, found 0"),
            ({"price": "3"}, 'at `/price`: expected a number, found "3"'),
            ({"colour": "blue"}, 'at `/colour`: expected one of `"red"`, `"green"`, found "blue"'),
            ({"note": {"text": None}}, "at `/note/text`: expected a string, found null"),
            ({"note": {}}, "at `/note`: missing field `text`"),
            ({"tags": ["a", 2]}, "at `/tags/1`: expected a string, found 2"),
            ({"sizes": {"a/b~c": "x"}}, 'at `/sizes/a~1b~0c`: expected an integer, found "x"'),
            ({"where": [1]}, "at `/where`: expected an array of 2, found an array"),
            ({"tree": {"label": "x", "children": [{"lable": "y"}]}}, "at `/tree/children/0/lable`: unknown field `lable`"),
            ({"tree": []}, "at `/tree`: expected an object (Node) or null, found an array"),
            ({"nmae": 1}, "at `/nmae`: unknown field `nmae`: the fields are `name`, `count`, `price`"),
            ({"name": "x" * 200, "count": "y" * 200}, "found \"yyy"),
        ]:
            text = misfit(Order, {**good, **change})
            self.assertIn(place, text)
            self.assertLess(len(text), 300)
        self.assertEqual(misfit(Order, {"name": "Ada"}), "missing field `count`")
        self.assertEqual(misfit(Order, [1]), "expected an object (Order), found an array")

    def test_fields_that_a_type_does_not_have_are_left_out_where_it_is_not_strict(self) -> None:
        read = parse_json('{"label":"x","more":1}', shape_of(Node))
        self.assertEqual(read, Node("x"))

    def test_what_is_not_json_is_told_with_its_line(self) -> None:
        for text, place in [('{"a":', "line 1 column 6"), ("[1] x", "Extra data"), ("[NaN]", "NaN"), ("", "line 1 column 1")]:
            with self.assertRaises(Misfit) as raised:
                parse_json(text, shape_of(Any))
            self.assertIn(place, str(raised.exception))

    def test_a_union_reads_the_first_that_fits_and_tells_what_was_meant(self) -> None:
        either = Union[Circle, Square]
        self.assertEqual(parse_json('{"kind":"square","side":2}', shape_of(either)), Square("square", 2.0))
        # Told apart by the tag, so that only the one that was meant is told about.
        self.assertEqual(misfit(either, {"kind": "square", "side": "2"}), 'at `/side`: expected a number, found "2"')
        self.assertIn("fits none of its types", misfit(either, {"kind": "line"}))
        self.assertEqual(misfit(Union[int, str], None), "expected an integer or a string, found null")
        self.assertIs(type(parse_json("3", shape_of(Union[float, int]))), int)
        self.assertIs(type(parse_json("3.5", shape_of(Union[int, float]))), float)

    def test_one_is_not_true(self) -> None:
        self.assertIn("found true", misfit(Literal[1, 2], True))
        self.assertIs(parse_json("true", shape_of(Literal[True, "auto"])), True)

    def test_the_authors_own_check_is_told_with_its_place(self) -> None:
        self.assertEqual(misfit(list[Checked], [{"low": 2, "high": 1}]), "at `/0`: `low` is above `high`: swap them")


class Writing(unittest.TestCase):
    def written(self, python: Any, value: Any) -> str:
        return dump_json(shape_of(python).write(value, ""))

    def test_values_are_written_as_their_types_say(self) -> None:
        order = Order("Ada", 1, note={"text": "é"}, tree=Node("r", [Node("l")]))
        text = self.written(Order, order)
        self.assertIn('"note":{"text":"é"}', text)
        self.assertIn('"from":"here"', text)
        self.assertEqual(parse_json(text, shape_of(Order), strict=True), order)
        self.assertEqual(self.written(None, None), "null")
        self.assertEqual(self.written(float, 2), "2")

    def test_a_value_of_another_type_is_told_with_its_place(self) -> None:
        for python, value, place in [
            (Order, {"name": "Ada"}, "expected a Order, got dict"),
            (Node, Node("x", [Node(3)]), "at `/children/0/label`: expected a string, got int"),  # type: ignore[arg-type]
            (Note, {"text": "x", "star": 1}, "`star` is no field of Note"),
            (Note, {}, "missing field `text` of Note"),
            (list[int], [1, None], "at `/1`: expected an integer, got NoneType"),
            (float, float("nan"), "nan is no number in JSON"),
            (dict[str, int], {1: 1}, "JSON has no keys but strings"),
            (Literal["a"], "b", 'expected `"a"`'),
            (Any, {"x": [object()]}, "at `/x/0`: a object cannot be written as JSON"),
        ]:
            with self.assertRaises(Misfit) as raised:
                self.written(python, value)
            self.assertIn(place, str(raised.exception))

    def test_what_no_type_is_said_for_is_written_as_it_is(self) -> None:
        value = {"a": (1, 2.5, None, True), "n": Node("x"), "c": Colour.RED, Colour.GREEN: []}
        self.assertEqual(
            dump_json(to_json(value)), '{"a":[1,2.5,null,true],"n":{"label":"x","children":[]},"c":"red","green":[]}'
        )

    def test_half_a_character_and_a_value_within_itself_are_refused(self) -> None:
        with self.assertRaises(Misfit):
            dump_json(to_json("\ud800"))
        endless: list[Any] = []
        endless.append(endless)
        with self.assertRaises(Misfit) as raised:
            to_json(endless)
        self.assertIn("128", str(raised.exception))


if __name__ == "__main__":
    unittest.main()
