//! Writes the report, in Markdown.

use std::fmt::{self, Write};

use crate::Skipped;
use crate::column::{Column, Content, Dates, Numbers, Texts};
use crate::table::{Monthly, Table};

/// With more months than this, a report shows the years.
const MONTHS_SHOWN_MAX: usize = 60;

/// How many correlations are shown: the closest.
const CORRELATIONS_SHOWN_MAX: usize = 15;

/// The report on these tables.
pub fn markdown(tables: &[Table], skipped: &[Skipped]) -> String {
    let mut report = String::new();
    // Writing to a string does not fail.
    let _written = write_report(&mut report, tables, skipped);
    report
}

fn write_report(to: &mut String, tables: &[Table], skipped: &[Skipped]) -> fmt::Result {
    writeln!(to, "# What is in the tables")?;
    for table in tables {
        write_table(to, table)?;
    }
    if !skipped.is_empty() {
        writeln!(to, "\n## Not read\n")?;
        for Skipped { path, reason } in skipped {
            writeln!(to, "- {}: {}", plain(path), plain(reason))?;
        }
    }
    Ok(())
}

fn write_table(to: &mut String, table: &Table) -> fmt::Result {
    writeln!(to, "\n## {}\n", plain(&table.path))?;
    let delimiter = match table.delimiter {
        '\t' => "tab".to_owned(),
        other => format!("`{other}`"),
    };
    writeln!(
        to,
        "{} rows, {} columns, {} bytes; cells separated by {delimiter}.",
        table.rows,
        table.columns.len(),
        table.bytes
    )?;
    let findings = findings(table);
    if !findings.is_empty() {
        writeln!(to, "\n### What stands out\n")?;
        for finding in findings {
            writeln!(to, "- {finding}")?;
        }
    }
    write_numbers(to, table)?;
    write_dates(to, table)?;
    write_texts(to, table)?;
    write_correlations(to, table)?;
    if let Some(monthly) = &table.monthly {
        write_monthly(to, monthly)?;
    }
    Ok(())
}

/// The few sentences that a hurried reader should have read.
fn findings(table: &Table) -> Vec<String> {
    let mut findings = Vec::new();
    if let Some(closest) = table.correlations.first().filter(|closest| closest.coefficient.abs() >= 0.5) {
        let direction = if closest.coefficient > 0.0 { "rise together" } else { "move against each other" };
        findings.push(format!(
            "{} and {} {direction} (correlation {:.2}).",
            plain(&closest.a),
            plain(&closest.b),
            closest.coefficient
        ));
    }
    for column in &table.columns {
        let name = plain(&column.name);
        let share = column.missing as f64 / (column.count + column.missing).max(1) as f64;
        if column.count == 0 {
            findings.push(format!("{name} is empty throughout."));
        } else if share >= 0.01 {
            findings.push(format!("{name} is missing in {:.1} % of the rows.", share * 100.0));
        }
        match &column.content {
            Content::Number(numbers) if column.count > 1 && numbers.min == numbers.max => {
                findings.push(format!("{name} is {} in every row.", number(numbers.min)));
            }
            Content::Number(Numbers { outliers, extremes, .. }) => {
                if let Some(furthest) = extremes.first() {
                    findings.push(format!(
                        "{name} has {outliers} outlier{}; the furthest is {} in row {}.",
                        if *outliers == 1 { "" } else { "s" },
                        number(furthest.value),
                        furthest.row
                    ));
                }
            }
            Content::Date(dates) => {
                if let Some(longest) = dates.longest_gaps.first() {
                    findings.push(format!(
                        "{name} has {} gap{}; the longest is between {} and {}.",
                        dates.gaps,
                        if dates.gaps == 1 { "" } else { "s" },
                        longest.after,
                        longest.before
                    ));
                }
            }
            Content::Text(Texts { distinct: 1, distinct_is_at_least: false, top, .. }) if column.count > 1 => {
                let value = top.first().map_or("", |category| category.value.as_str());
                findings.push(format!("{name} is “{}” in every row.", plain(value)));
            }
            Content::Text(_) => {}
        }
    }
    findings.extend(table.notes.iter().map(|note| plain(note)));
    findings
}

/// The columns of one type, if there are any.
fn of_type<'a, T>(table: &'a Table, content: impl Fn(&'a Content) -> Option<T>) -> Vec<(&'a Column, T)> {
    table.columns.iter().filter_map(|column| Some((column, content(&column.content)?))).collect()
}

fn write_numbers(to: &mut String, table: &Table) -> fmt::Result {
    let columns = of_type(table, |content| match content {
        Content::Number(numbers) => Some(numbers),
        _ => None,
    });
    if columns.is_empty() {
        return Ok(());
    }
    writeln!(to, "\n### Numbers\n")?;
    writeln!(
        to,
        "| column | values | missing | min | quartile 1 | median | mean | quartile 3 | max | std. dev. | outliers |"
    )?;
    writeln!(to, "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")?;
    for (column, numbers) in columns {
        let figures = [
            numbers.min,
            numbers.quartile_1,
            numbers.median,
            numbers.mean,
            numbers.quartile_3,
            numbers.max,
            numbers.standard_deviation,
        ];
        let figures = figures.map(number).join(" | ");
        let values = column.count - column.unreadable;
        writeln!(to, "| {} | {values} | {} | {figures} | {} |", plain(&column.name), column.missing, numbers.outliers)?;
    }
    writeln!(to, "\nAn outlier lies more than 1.5 interquartile ranges outside the quartiles.")
}

fn write_dates(to: &mut String, table: &Table) -> fmt::Result {
    let columns = of_type(table, |content| match content {
        Content::Date(dates) => Some(dates),
        _ => None,
    });
    if columns.is_empty() {
        return Ok(());
    }
    writeln!(to, "\n### Dates\n")?;
    writeln!(to, "| column | values | missing | first | last | days | usual step | gaps |")?;
    writeln!(to, "|---|--:|--:|---|---|--:|---|--:|")?;
    for (column, Dates { first, last, days, step_days, gaps, .. }) in columns {
        let step = match step_days {
            Some(1) => "a day".to_owned(),
            Some(31) => "a month".to_owned(),
            Some(step) => format!("{step} days"),
            None => "none".to_owned(),
        };
        let (name, values) = (plain(&column.name), column.count - column.unreadable);
        writeln!(to, "| {name} | {values} | {} | {first} | {last} | {days} | {step} | {gaps} |", column.missing)?;
    }
    Ok(())
}

fn write_texts(to: &mut String, table: &Table) -> fmt::Result {
    let columns = of_type(table, |content| match content {
        Content::Text(texts) => Some(texts),
        _ => None,
    });
    if columns.is_empty() {
        return Ok(());
    }
    writeln!(to, "\n### Texts\n")?;
    writeln!(to, "| column | values | missing | different | most frequent |")?;
    writeln!(to, "|---|--:|--:|--:|---|")?;
    for (column, texts) in columns {
        let top: Vec<_> =
            texts.top.iter().map(|category| format!("{} ({})", plain(&category.value), category.count)).collect();
        let more = if texts.distinct_is_at_least { "more than " } else { "" };
        let name = plain(&column.name);
        writeln!(
            to,
            "| {name} | {} | {} | {more}{} | {} |",
            column.count,
            column.missing,
            texts.distinct,
            top.join(", ")
        )?;
    }
    Ok(())
}

fn write_correlations(to: &mut String, table: &Table) -> fmt::Result {
    if table.correlations.is_empty() {
        return Ok(());
    }
    writeln!(to, "\n### Correlations\n")?;
    writeln!(to, "| | | coefficient |")?;
    writeln!(to, "|---|---|--:|")?;
    for correlation in table.correlations.iter().take(CORRELATIONS_SHOWN_MAX) {
        writeln!(to, "| {} | {} | {:.3} |", plain(&correlation.a), plain(&correlation.b), correlation.coefficient)?;
    }
    Ok(())
}

fn write_monthly(to: &mut String, monthly: &Monthly) -> fmt::Result {
    // One line: a month, or a year of them.
    let mut lines: Vec<(String, u64, Vec<Option<f64>>)> = Vec::new();
    let by_year = monthly.months.len() > MONTHS_SHOWN_MAX;
    if by_year {
        for year in monthly.months.chunk_by(|one, other| one.month.get(..4) == other.month.get(..4)) {
            let rows = year.iter().map(|month| month.rows).sum();
            let mean = |index: usize| {
                let (mut weighted, mut weight) = (0.0, 0.0);
                for month in year {
                    if let Some(Some(mean)) = month.means.get(index) {
                        weighted += mean * month.rows as f64;
                        weight += month.rows as f64;
                    }
                }
                (weight > 0.0).then(|| weighted / weight)
            };
            let name = year.first().and_then(|month| month.month.get(..4)).unwrap_or_default();
            lines.push((name.to_owned(), rows, (0..monthly.columns.len()).map(mean).collect()));
        }
    } else {
        lines.extend(monthly.months.iter().map(|month| (month.month.clone(), month.rows, month.means.clone())));
    }
    let (period, title) = if by_year { ("year", "Yearly means") } else { ("month", "Monthly means") };
    let names: Vec<_> = monthly.columns.iter().map(|name| plain(name)).collect();
    writeln!(to, "\n### {title}, by {}\n", plain(&monthly.by))?;
    writeln!(to, "| {period} | rows | {} |", names.join(" | "))?;
    writeln!(to, "|---|--:|{}", "--:|".repeat(names.len()))?;
    for (name, rows, means) in lines {
        let means: Vec<_> = means.iter().map(|mean| mean.map(number).unwrap_or_default()).collect();
        writeln!(to, "| {name} | {rows} | {} |", means.join(" | "))?;
    }
    Ok(())
}

/// A text from a table as plain text: what would be Markdown, or end a cell or line, is not.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '|' | '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '#' => plain.extend(['\\', character]),
            _ if character.is_control() => plain.push(' '),
            _ => plain.push(character),
        }
    }
    plain
}

/// A number to five significant digits, more where it is whole.
fn number(value: f64) -> String {
    if value == 0.0 || (value.fract() == 0.0 && value.abs() < 1e15) {
        // Without a sign before zero.
        return format!("{}", if value == 0.0 { 0.0 } else { value });
    }
    let magnitude = value.abs().log10().floor() as i32;
    if !(-5..15).contains(&magnitude) {
        return format!("{value:.4e}");
    }
    let decimals = usize::try_from(4 - magnitude).unwrap_or(0);
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> String {
        let table = crate::table::read("a|b.csv", &mut text.as_bytes(), |_, _| {}).unwrap();
        markdown(&[table], &[Skipped { path: "c.csv".into(), reason: "there are no rows".into() }])
    }

    #[test]
    fn a_number_is_as_short_as_it_may_be() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "0"),
            (7.0, "7"),
            (1461.0, "1461"),
            (3.0293634, "3.0294"),
            (0.1 + 0.2, "0.3"),
            (-1234.5678, "-1234.6"),
            (123456.78, "123457"),
            (0.00012345678, "0.00012346"),
            (1.5e-9, "1.5000e-9"),
            (2.5e20, "2.5000e20"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn a_report_says_what_is_there_what_stands_out_and_what_was_not_read() {
        let report = of("day,x,y,kind\n2012-01-01,1,2,a\n2012-01-02,2,4,a\n2012-01-04,3,6,b\n2012-02-05,50,100,\n");
        for expected in [
            "## a\\|b.csv",
            "4 rows, 4 columns",
            "x and y rise together (correlation 1.00).",
            "kind is missing in 25.0 % of the rows.",
            "the furthest is 50 in row 4",
            "| kind | 3 | 1 | 2 | a (2), b (1) |",
            "| 2012-02 | 1 | 50 | 100 |",
            "- c.csv: there are no rows",
        ] {
            assert!(report.contains(expected), "{expected}\n{report}");
        }
    }

    #[test]
    fn what_a_table_says_cannot_change_the_report() {
        let report = of("name|x,\"<b>\n# y\"\na|b,*c*\n");
        assert!(report.contains("| name\\|x | 1 | 0 | 1 | a\\|b (1) |"), "{report}");
        assert!(report.contains("\\<b\\> \\# y | 1 | 0 | 1 | \\*c\\* (1)"), "{report}");
    }
}
