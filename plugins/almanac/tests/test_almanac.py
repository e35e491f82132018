"""What is read, calculated, kept and written."""

import os
import unittest
from datetime import date, timedelta

import agent
import figures
import report
from cofferdam.shaping import shape_of
from cofferdam.text import dump_json, parse_json
from days import Days, NotATable, read
from figures import Extreme, Gap, Spell
from records import Record, Records, told_against

SEATTLE = os.path.join(os.path.dirname(__file__), "../../analyst/data/seattle-weather.csv")


def seattle() -> Days:
    with open(SEATTLE, encoding="utf-8") as file:
        return read(file.read())


def daily(first: date, values: list[float | None], name: str = "x") -> Days:
    return Days([first + timedelta(days=at) for at in range(len(values))], {name: values})


class Tables(unittest.TestCase):
    def test_days_are_put_in_order_and_columns_told_apart(self) -> None:
        table = read('\ufeffname,day,rain,note\na,2020/1/3,0.5,"x, y"\nb,2020-01-01,,\n\nc,2020-01-02,3,z\n')
        self.assertEqual(table.dates, [date(2020, 1, 1), date(2020, 1, 2), date(2020, 1, 3)])
        self.assertEqual(table.numbers, {"rain": [None, 3.0, 0.5]})
        self.assertEqual(table.words, {"name": ["b", "c", "a"], "note": [None, "z", "x, y"]})

    def test_what_is_no_table_of_days_is_told_with_its_line(self) -> None:
        for text, told in [
            ("", "it is empty"),
            ("day,rain\n", "no line below the header"),
            ("a,b\n1,2\n", "no column has a date in every line"),
            ("day,rain\n2020-01-01,1\n2020-01-02\n", "line 3: 1 cells where the header has 2"),
            ('day,note\n2020-01-01,"two\nlines"\n2020-13-02,x\n', "line 4: `2020-13-02` is no date"),
            ("day,rain\n2020-01-01,1\n2020-01-01,2\n", "2020-01-01 is there twice"),
            ("day,x,x\n2020-01-01,1,2\n", "line 1: two columns have one name"),
            ('day,x\n2020-01-01,"' + "y" * 200_000 + '"\n', "line 2: field larger than field limit"),
        ]:
            with self.assertRaises(NotATable) as raised:
                read(text)
            self.assertIn(told, str(raised.exception))

    def test_words_that_only_python_takes_for_numbers_are_words(self) -> None:
        table = read("day,x,y\n2020-01-01,nan,1_000\n2020-01-02,1,2\n")
        self.assertEqual((list(table.numbers), list(table.words)), ([], ["x", "y"]))


class Figures(unittest.TestCase):
    def test_gaps(self) -> None:
        days = Days([date(2020, 2, 27), date(2020, 2, 28), date(2020, 3, 2)])
        self.assertEqual(figures.gaps(days), [Gap("2020-02-29", "2020-03-01", 2)])

    def test_spells_end_at_gaps_and_at_days_without_a_value(self) -> None:
        days = daily(date(2020, 1, 1), [0.0, 0.0, 1.0, None, 0.0, 0.0, 0.0, 2.0, 3.0])
        self.assertEqual(figures.spells(days), [Spell("x", "none", "2020-01-05", 3), Spell("x", "some", "2020-01-08", 2)])
        # A day is missing in the middle.
        del days.dates[5], days.numbers["x"][5]
        self.assertEqual(figures.spells(days)[0], Spell("x", "none", "2020-01-01", 2))

    def test_a_month_has_its_mean_and_what_is_usual(self) -> None:
        days = daily(date(2020, 1, 1), [float(value) for value in range(31)])
        days.words["sky"] = ["sun", "fog"] * 15 + [None]
        (normal,) = figures.normals(days)
        self.assertEqual((normal.month, normal.days, normal.means, normal.spreads), (1, 31, {"x": 15.0}, {"x": (1.5, 28.5)}))
        self.assertEqual(normal.usual, {"sky": "fog"})

    def test_a_day_far_from_its_month_stands_out(self) -> None:
        days = daily(date(2020, 1, 1), [1.0, 2.0] * 15 + [50.0])
        (day,) = figures.unusual(days)
        self.assertEqual((day.date, day.value, day.sigmas), ("2020-01-31", 50.0, 5.4))
        self.assertEqual(figures.unusual(daily(date(2020, 1, 1), [1.0] * 31)), [])

    def test_four_years_of_seattle(self) -> None:
        # Counted with other tools: `sort -t, -k3 -n`, `awk` over the same file.
        days = seattle()
        self.assertEqual((len(days.dates), str(days.dates[0]), str(days.dates[-1])), (1461, "2012-01-01", "2015-12-31"))
        self.assertEqual(figures.gaps(days), [])
        found = {(extreme.column, extreme.which): (extreme.value, extreme.date) for extreme in figures.extremes(days)}
        self.assertEqual(found["temp_max", "highest"], (35.6, "2014-08-11"))
        self.assertEqual(found["temp_min", "lowest"], (-7.1, "2013-12-07"))
        self.assertEqual(found["precipitation", "highest"], (55.9, "2015-03-15"))
        self.assertEqual(found["wind", "highest"], (9.5, "2012-12-17"))
        longest = {(spell.column, spell.what): spell for spell in figures.spells(days)}
        self.assertEqual(longest["precipitation", "none"], Spell("precipitation", "none", "2012-07-23", 48))


class Keeping(unittest.TestCase):
    def test_a_record_is_broken_by_what_is_beyond_it(self) -> None:
        first = [Extreme("t", "highest", 30.0, "2012-07-01"), Extreme("t", "lowest", -5.0, "2012-01-01")]
        records, broken = told_against(Records(), first, "2012.csv", "2012-01-01", "2012-12-31")
        self.assertEqual(broken, [])
        second = [Extreme("t", "highest", 30.0, "2013-07-01"), Extreme("t", "lowest", -6.0, "2013-01-01")]
        records, broken = told_against(records, second, "2013.csv", "2013-01-01", "2013-12-31")
        self.assertEqual([(record.which, record.value, record.before.value) for record in broken], [("lowest", -6.0, -5.0)])
        self.assertEqual((records.tables, records.first, records.last), (2, "2012-01-01", "2013-12-31"))
        self.assertEqual(records.extremes["t highest"], Record(30.0, "2012-07-01", "2012.csv"))
        # The same table again breaks nothing.
        self.assertEqual(told_against(records, second, "2013.csv", "2013-01-01", "2013-12-31")[1], [])
        shape = shape_of(Records)
        self.assertEqual(parse_json(dump_json(shape.write(records, "")), shape), records)

    def test_a_place_of_any_name_is_a_key(self) -> None:
        self.assertEqual(agent.key_of("São Paulo/2"), "S%e3%o%20%Paulo%2f%2")
        self.assertNotEqual(agent.key_of("a%20%b"), agent.key_of("a b"))


class Report(unittest.TestCase):
    def test_an_almanac_has_a_section_for_what_there_is(self) -> None:
        days = seattle()
        records, _ = told_against(Records(), figures.extremes(days), "a|b.csv", "2012-01-01", "2015-12-31")
        text = report.markdown(
            "Seattle", "a|b.csv", 1461, figures.normals(days), figures.spells(days), figures.unusual(days), [], records, []
        )
        self.assertIn("| January | 124 |", text)
        self.assertIn("| temp_max | highest | 35.6 | 2014-08-11 | a\\|b.csv |", text)
        self.assertIn("## Longest spells", text)
        self.assertNotIn("missing", text)
        self.assertNotIn("broke", text)


if __name__ == "__main__":
    unittest.main()
