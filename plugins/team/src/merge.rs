//! What several analysts found, as one.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What an analyst gives: of it, what is merged. What else it gives is left where it is.
#[derive(Debug, Deserialize)]
pub struct Found {
    /// The table that it looked at, which it is told and does not tell.
    #[serde(skip)]
    pub path: String,
    /// Where its own report is.
    pub report: String,
    tables: Vec<Table>,
}

impl Found {
    /// Of this table.
    pub fn of(self, path: &str) -> Found {
        Found { path: path.to_owned(), ..self }
    }

    /// Rows of its tables together.
    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|table| table.rows).sum()
    }
}

#[derive(Debug, Deserialize)]
struct Table {
    rows: u64,
    columns: Vec<Column>,
}

#[derive(Debug, Deserialize)]
struct Column {
    name: String,
    /// Cells with a value, unreadable ones included.
    count: u64,
    unreadable: u64,
    #[serde(flatten)]
    content: Content,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Content {
    Number {
        min: f64,
        max: f64,
        mean: f64,
    },
    #[serde(other)]
    Other,
}

/// What the tables say together.
#[derive(Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct Merged {
    /// Tables that are in it.
    pub tables: u64,
    pub rows: u64,
    /// Columns of numbers that are in every table, by their names, in the order of the first table.
    pub columns: Vec<MergedColumn>,
    /// Names of columns of numbers that are not in every table, and are left out.
    pub left_out: Vec<String>,
}

/// A column of numbers over all tables.
#[derive(Debug, PartialEq, Serialize, JsonSchema)]
pub struct MergedColumn {
    pub name: String,
    /// Numbers in it.
    pub count: u64,
    pub min: f64,
    pub max: f64,
    pub mean: f64,
}

impl Merged {
    pub fn of(found: &[&Found]) -> Merged {
        let tables: Vec<_> = found.iter().flat_map(|found| &found.tables).collect();
        let mut names: Vec<&str> = Vec::new();
        for (name, _) in tables.iter().flat_map(|table| table.numbers()) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let mut merged = Merged {
            tables: tables.len() as u64,
            rows: tables.iter().map(|table| table.rows).sum(),
            ..Merged::default()
        };
        for name in names {
            let of_each: Option<Vec<_>> = tables.iter().map(|table| table.column(name)).collect();
            match of_each.and_then(|columns| columns.into_iter().reduce(MergedColumn::and)) {
                Some(column) => merged.columns.push(column),
                None => merged.left_out.push(name.to_owned()),
            }
        }
        merged
    }
}

impl Table {
    /// Its columns of numbers.
    fn numbers(&self) -> impl Iterator<Item = (&str, MergedColumn)> {
        self.columns.iter().filter_map(|column| match column.content {
            Content::Number { min, max, mean } => {
                let (name, count) = (column.name.clone(), column.count.saturating_sub(column.unreadable));
                Some((column.name.as_str(), MergedColumn { name, count, min, max, mean }))
            }
            Content::Other => None,
        })
    }

    fn column(&self, name: &str) -> Option<MergedColumn> {
        self.numbers().find(|(of, _)| *of == name).map(|(_, column)| column)
    }
}

impl MergedColumn {
    /// Both as one. Each mean weighs as much as there are numbers in it.
    fn and(self, other: MergedColumn) -> MergedColumn {
        let count = self.count + other.count;
        let share = if count == 0 { 0.0 } else { other.count as f64 / count as f64 };
        MergedColumn {
            name: self.name,
            count,
            min: self.min.min(other.min),
            max: self.max.max(other.max),
            mean: self.mean + (other.mean - self.mean) * share,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn found(rows: u64, columns: Value) -> Found {
        // As an analyst writes it, with what is not merged.
        let table = json!({ "path": "t.csv", "rows": rows, "columns": columns, "correlations": [], "notes": [] });
        serde_json::from_value(json!({ "report": "r.md", "tables": [table], "skipped": [] })).unwrap()
    }

    fn number(name: &str, count: u64, unreadable: u64, (min, max, mean): (f64, f64, f64)) -> Value {
        json!({
            "name": name, "count": count, "missing": 0, "unreadable": unreadable, "type": "number", "min": min,
            "max": max, "mean": mean, "median": 0.0, "extremes": [],
        })
    }

    #[test]
    fn a_mean_over_tables_weighs_each_by_its_numbers() {
        let one = found(1, json!([number("t", 1, 0, (5.0, 5.0, 5.0))]));
        let three = found(4, json!([number("t", 4, 1, (-2.0, 2.0, 1.0))]));
        let merged = Merged::of(&[&one, &three]);
        assert_eq!((merged.tables, merged.rows), (2, 5));
        assert_eq!(merged.columns, [MergedColumn { name: "t".into(), count: 4, min: -2.0, max: 5.0, mean: 2.0 }]);
    }

    #[test]
    fn only_what_every_table_has_as_numbers_is_merged_and_the_rest_is_named() {
        let text = json!({ "name": "b", "count": 1, "missing": 0, "unreadable": 0, "type": "text", "distinct": 1 });
        let one = found(1, json!([number("a", 1, 0, (1.0, 1.0, 1.0)), number("b", 1, 0, (2.0, 2.0, 2.0))]));
        let other = found(1, json!([number("a", 1, 0, (3.0, 3.0, 3.0)), text]));
        let merged = Merged::of(&[&one, &other]);
        assert_eq!(merged.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>(), ["a"]);
        assert_eq!(merged.left_out, ["b"]);
    }

    #[test]
    fn nothing_at_all_is_merged_to_nothing() {
        assert_eq!(Merged::of(&[]), Merged::default());
        let empty = found(0, json!([number("a", 1, 1, (0.0, 0.0, 0.0))]));
        assert_eq!(Merged::of(&[&empty, &empty]).columns[0].mean, 0.0);
    }
}
