//! Writes the summary, in Markdown.

use std::fmt::{self, Write};

use crate::merge::Merged;
use crate::{Outcome, Part, count_of};

/// The summary of these parts.
pub fn markdown(parts: &[Part], merged: &Merged) -> String {
    let mut report = String::new();
    // Writing to a string does not fail.
    let _written = write_report(&mut report, parts, merged);
    report
}

fn write_report(to: &mut String, parts: &[Part], merged: &Merged) -> fmt::Result {
    writeln!(to, "# What the tables say together\n")?;
    let (rows, tables) = (count_of(merged.rows as usize, "row"), count_of(merged.tables as usize, "table"));
    writeln!(to, "{rows} of {tables}.")?;
    if !merged.columns.is_empty() {
        writeln!(to, "\n| column | numbers | least | mean | greatest |\n|---|--:|--:|--:|--:|")?;
        for column in &merged.columns {
            let (name, count, mean) = (plain(&column.name), column.count, column.mean);
            writeln!(to, "| {name} | {count} | {} | {mean:.2} | {} |", column.min, column.max)?;
        }
    }
    if !merged.left_out.is_empty() {
        let names: Vec<_> = merged.left_out.iter().map(|name| plain(name)).collect();
        writeln!(to, "\nNot numbers in every table, and left out: {}.", names.join(", "))?;
    }
    writeln!(to, "\n## The tables\n")?;
    for Part { path, outcome, .. } in parts {
        let path = plain(path);
        match outcome {
            Outcome::Published { rows, report } => {
                writeln!(to, "- {path}: {}; more in {}", count_of(*rows as usize, "row"), plain(report))?
            }
            Outcome::Withheld { .. } => writeln!(to, "- {path}: left out, as was asked for")?,
            Outcome::Failed(failure) => writeln!(to, "- {path}: failed: {}", plain(&failure.message))?,
        }
    }
    Ok(())
}

/// As words of a text: nothing in it is taken for Markdown, or for a line of its own.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    for character in text.chars() {
        match character {
            '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '|' | '#' | '&' => plain.extend(['\\', character]),
            control if control.is_control() => plain.push(' '),
            other => plain.push(other),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Failure;
    use crate::merge::MergedColumn;

    #[test]
    fn a_summary_has_the_figures_and_what_became_of_each_part() {
        let part = |path: &str, outcome| Part { path: path.into(), run_id: None, outcome };
        let failure = Failure { stop_reason: "guest_error".into(), code: "c".into(), message: "line 2:\nno".into() };
        let parts = [
            part("a.csv", Outcome::Published { rows: 3, report: "team/a.csv.md".into() }),
            part("b.csv", Outcome::Withheld { rows: 4, report: "team/b.csv.md".into() }),
            part("c|d.csv", Outcome::Failed(failure)),
        ];
        let column = MergedColumn { name: "temp_max".into(), count: 3, min: -1.6, max: 35.0, mean: 1.0 / 3.0 };
        let merged = Merged { tables: 1, rows: 3, columns: vec![column], left_out: vec!["wind".into()] };
        let report = markdown(&parts, &merged);
        for line in [
            "3 rows of 1 table.",
            r"| temp\_max | 3 | -1.6 | 0.33 | 35 |",
            "Not numbers in every table, and left out: wind.",
            "- a.csv: 3 rows; more in team/a.csv.md",
            "- b.csv: left out, as was asked for",
            r"- c\|d.csv: failed: line 2: no",
        ] {
            assert!(report.lines().any(|one| one == line), "{line} is not in\n{report}");
        }
    }
}
