//! Reads a table, row by row.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Cursor, Read};

use cofferdam_sdk::ToolError;
use csv::{ReaderBuilder, StringRecord};
use schemars::JsonSchema;
use serde::Serialize;

use crate::column::{self, Cell, Column, Comoment, Content, Gathering, Kind, Moments, Numbers};
use crate::source::Progressing;

/// Rows that decide the types of the columns.
const TYPING_ROWS: usize = 1000;

/// More columns than this is a matrix, which wants another tool.
const COLUMNS_MAX: usize = 512;

/// Numeric columns that are set against each other and followed through the months: the first ones.
const COMPARED_MAX: usize = 12;

/// Months that are kept: 200 years.
const MONTHS_MAX: usize = 2400;

/// A longer cell is most likely a quote that is not closed, and swallows the rest of the table.
const CELL_BYTES_MAX: usize = 1 << 20;

/// What is in a table.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Table {
    pub path: String,
    pub bytes: u64,
    /// Rows, without the header.
    pub rows: u64,
    /// What stands between the cells.
    pub delimiter: char,
    pub columns: Vec<Column>,
    /// Of each two of the first twelve numeric columns, the closest first.
    pub correlations: Vec<Correlation>,
    /// Means by month, if there are a date column and a numeric one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub monthly: Option<Monthly>,
    /// What a reader of the figures should know.
    pub notes: Vec<String>,
}

/// How two columns vary together.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Correlation {
    pub a: String,
    pub b: String,
    /// Pearson's coefficient, −1 to 1.
    pub coefficient: f64,
}

/// Means of numeric columns by month.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Monthly {
    /// The date column.
    pub by: String,
    /// The numeric columns: the first twelve.
    pub columns: Vec<String>,
    pub months: Vec<Month>,
}

/// Means of one month.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Month {
    /// As `YYYY-MM`.
    pub month: String,
    pub rows: u64,
    /// In the order of the columns; none where the month has no number.
    pub means: Vec<Option<f64>>,
}

/// Why a table could not be read.
#[derive(Debug)]
pub enum TableError {
    /// The host could not, or would not, give the file.
    Tool(ToolError),
    /// The file is not a table that can be read. The text says where, and what to do.
    Content(String),
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TableError::Tool(error) => error.fmt(f),
            TableError::Content(reason) => f.write_str(reason),
        }
    }
}

fn content(reason: impl Into<String>) -> TableError {
    TableError::Content(reason.into())
}

/// Reads a whole table. `tell` is called now and then with the bytes read so far and the bytes in all.
pub fn read(
    path: &str,
    source: &mut (impl Read + Progressing),
    mut tell: impl FnMut(u64, u64),
) -> Result<Table, TableError> {
    // The head decides the delimiter, and goes to the reader again.
    let mut head = Vec::new();
    source.by_ref().take(64 * 1024).read_to_end(&mut head).map_err(io_error)?;
    // A mark that some programs put before UTF-8; it is no part of the first column's name.
    let head = head.strip_prefix(b"\xef\xbb\xbf".as_slice()).unwrap_or(&head);
    if head.iter().all(u8::is_ascii_whitespace) {
        return Err(content("the file is empty: the first line of a table names its columns"));
    }
    let delimiter = delimiter_of(head);
    let mut reader = ReaderBuilder::new().delimiter(delimiter).from_reader(Cursor::new(head).chain(source.by_ref()));
    let header = reader.headers().map_err(csv_error)?.clone();
    let names = names_of(&header)?;

    // The first rows decide the types, and are then taken in like the rest.
    let mut first = Vec::new();
    let mut record = StringRecord::new();
    while first.len() < TYPING_ROWS && reader.read_record(&mut record).map_err(csv_error)? {
        first.push(checked(record.clone())?);
    }
    if first.is_empty() {
        return Err(content("there are no rows below the header"));
    }
    let mut gathering = TableGathering::new(names, &first);
    for record in &first {
        gathering.add(record)?;
    }
    drop(first);
    while reader.read_record(&mut record).map_err(csv_error)? {
        record = checked(record)?;
        gathering.add(&record)?;
        if gathering.rows.is_multiple_of(1024) {
            let (read, size) = reader.get_ref().get_ref().1.progress();
            tell(read, size);
        }
    }
    drop(reader);
    Ok(gathering.finish(path, source.progress().0, char::from(delimiter)))
}

/// The delimiter that stands most often in the first line, outside quotes.
fn delimiter_of(head: &[u8]) -> u8 {
    let mut counts = [(b',', 0), (b';', 0), (b'\t', 0), (b'|', 0)];
    let mut quoted = false;
    for byte in head {
        match byte {
            b'"' => quoted = !quoted,
            b'\n' | b'\r' if !quoted => break,
            _ if quoted => {}
            _ => counts.iter_mut().filter(|(delimiter, _)| delimiter == byte).for_each(|(_, count)| *count += 1),
        }
    }
    // The first of the most frequent: a comma where there is none at all.
    counts.iter().rev().max_by_key(|(_, count)| *count).map_or(b',', |(delimiter, _)| *delimiter)
}

/// The names of the columns, each one different.
fn names_of(header: &StringRecord) -> Result<Vec<String>, TableError> {
    if header.len() > COLUMNS_MAX {
        return Err(content(format!(
            "there are {} columns, and {COLUMNS_MAX} is the most that make a report: take the columns of interest into \
             a table of their own",
            header.len()
        )));
    }
    let mut names: Vec<String> = Vec::new();
    for (index, name) in header.iter().enumerate() {
        let name: String = name.trim().chars().take(120).collect();
        let name = if name.is_empty() { format!("column {}", index + 1) } else { name };
        let taken = names.iter().filter(|other| **other == name).count();
        names.push(if taken == 0 { name } else { format!("{name} ({})", index + 1) });
    }
    Ok(names)
}

/// The record, unless a quote is most likely not closed.
fn checked(record: StringRecord) -> Result<StringRecord, TableError> {
    if record.as_slice().len() > CELL_BYTES_MAX && record.iter().any(|cell| cell.len() > CELL_BYTES_MAX) {
        let line = record.position().map_or(0, csv::Position::line);
        return Err(content(format!(
            "line {line}: a cell of more than {CELL_BYTES_MAX} bytes: close the quote (\") that opens it, or shorten it"
        )));
    }
    Ok(record)
}

fn csv_error(error: csv::Error) -> TableError {
    let text = error.to_string();
    match error.into_kind() {
        csv::ErrorKind::Io(error) => io_error(error),
        csv::ErrorKind::UnequalLengths { pos, expected_len, len } => {
            let line = pos.map_or(0, |position| position.line());
            content(format!(
                "line {line}: {len} cells where the header has {expected_len}: add or remove cells, or put quotes (\") \
                 around a cell that has the delimiter in it"
            ))
        }
        _ => content(text),
    }
}

fn io_error(error: std::io::Error) -> TableError {
    let text = error.to_string();
    // What the source failed with is inside, in the words of the tool.
    match error.into_inner().map(|inner| inner.downcast::<ToolError>()) {
        Some(Ok(error)) => TableError::Tool(*error),
        _ => content(text),
    }
}

/// A table while it is read.
struct TableGathering {
    rows: u64,
    columns: Vec<Gathering>,
    /// The columns that are set against each other.
    compared: Vec<usize>,
    /// For each two of them, in the order of [`pairs`].
    comoments: Vec<Comoment>,
    date_column: Option<usize>,
    /// By the number of the month since the year 0: rows, and the numbers in the order of `compared`.
    months: BTreeMap<i64, (u64, Vec<Moments>)>,
    months_overflowed: bool,
    /// The numbers of the row at hand, in the order of `compared`.
    row: Vec<Option<f64>>,
}

/// Each two of `count`, once.
fn pairs(count: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..count).flat_map(move |a| (a + 1..count).map(move |b| (a, b)))
}

impl TableGathering {
    fn new(names: Vec<String>, first: &[StringRecord]) -> TableGathering {
        let sample_max = column::sample_max(names.len());
        let columns: Vec<_> = names
            .into_iter()
            .enumerate()
            .map(|(index, name)| {
                let cells = first.iter().filter_map(|record| record.get(index));
                Gathering::new(name, Kind::of(cells), sample_max)
            })
            .collect();
        let of_kind = |fits: fn(Kind) -> bool| {
            columns.iter().enumerate().filter(move |(_, column)| fits(column.kind())).map(|(index, _)| index)
        };
        let compared: Vec<_> = of_kind(|kind| kind == Kind::Number).take(COMPARED_MAX).collect();
        let date_column = of_kind(|kind| matches!(kind, Kind::Date(_))).next();
        TableGathering {
            rows: 0,
            comoments: vec![Comoment::default(); pairs(compared.len()).count()],
            row: vec![None; compared.len()],
            columns,
            compared,
            date_column,
            months: BTreeMap::new(),
            months_overflowed: false,
        }
    }

    fn add(&mut self, record: &StringRecord) -> Result<(), TableError> {
        self.rows += 1;
        self.row.fill(None);
        let mut date = None;
        let mut compared = self.compared.iter().zip(&mut self.row).peekable();
        for (index, (column, cell)) in self.columns.iter_mut().zip(record).enumerate() {
            let cell = column.add(cell, self.rows);
            if self.date_column == Some(index)
                && let Cell::Date(day) = cell
            {
                date = Some(day);
            }
            if let Some((_, number)) = compared.next_if(|(at, _)| **at == index)
                && let Cell::Number(value) = cell
            {
                *number = Some(value);
            }
        }
        for ((a, b), comoment) in pairs(self.row.len()).zip(&mut self.comoments) {
            if let (Some(Some(a)), Some(Some(b))) = (self.row.get(a), self.row.get(b)) {
                comoment.add(*a, *b);
            }
        }
        let Some(date) = date.filter(|_| !self.row.is_empty()) else { return Ok(()) };
        let month = date.month_number();
        if self.months.len() >= MONTHS_MAX && !self.months.contains_key(&month) {
            self.months_overflowed = true;
            return Ok(());
        }
        let width = self.row.len();
        let (rows, moments) = self.months.entry(month).or_insert_with(|| (0, vec![Moments::default(); width]));
        *rows += 1;
        for (moments, number) in moments.iter_mut().zip(&self.row) {
            if let Some(number) = number {
                moments.add(*number);
            }
        }
        Ok(())
    }

    fn finish(self, path: &str, bytes: u64, delimiter: char) -> Table {
        let columns: Vec<_> = self.columns.into_iter().map(Gathering::finish).collect();
        let name = |index: usize| columns.get(index).map(|column| column.name.clone()).unwrap_or_default();
        let compared: Vec<_> = self.compared.iter().map(|index| name(*index)).collect();

        let mut correlations: Vec<_> = pairs(compared.len())
            .zip(&self.comoments)
            .filter_map(|((a, b), comoment)| {
                let (a, b) = (compared.get(a)?.clone(), compared.get(b)?.clone());
                Some(Correlation { a, b, coefficient: comoment.correlation()? })
            })
            .collect();
        correlations.sort_by(|one, other| other.coefficient.abs().total_cmp(&one.coefficient.abs()));

        let monthly = self.date_column.filter(|_| !self.months.is_empty()).map(|date_column| Monthly {
            by: name(date_column),
            columns: compared.clone(),
            months: self
                .months
                .into_iter()
                .map(|(month, (rows, moments))| Month {
                    month: format!("{:04}-{:02}", month.div_euclid(12), month.rem_euclid(12) + 1),
                    rows,
                    means: moments.iter().map(|moments| (moments.count > 0).then_some(moments.mean)).collect(),
                })
                .collect(),
        });

        let mut notes = Vec::new();
        let numeric = columns.iter().filter(|column| matches!(column.content, Content::Number(_))).count();
        if numeric > COMPARED_MAX {
            notes.push(format!(
                "Correlations and monthly means are of the first {COMPARED_MAX} of {numeric} numeric columns."
            ));
        }
        if self.months_overflowed {
            notes
                .push(format!("There are more than {MONTHS_MAX} months; the monthly means are of the first ones met."));
        }
        for column in &columns {
            if let Content::Number(Numbers { sampled: true, .. }) = &column.content {
                notes.push(format!(
                    "`{}` is long: its median, quartiles and outliers come from an even sample.",
                    column.name
                ));
            }
            if let Some(example) = &column.unreadable_example {
                notes.push(format!(
                    "`{}` has {} that do not fit its type, such as `{example}`; they are left out.",
                    column.name, column.unreadable
                ));
            }
        }
        Table { path: path.to_owned(), bytes, rows: self.rows, delimiter, columns, correlations, monthly, notes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Progressing for &[u8] {
        fn progress(&self) -> (u64, u64) {
            (0, 0)
        }
    }

    fn table(text: &str) -> Result<Table, TableError> {
        read("t.csv", &mut text.as_bytes(), |_, _| {})
    }

    fn reason(text: &str) -> String {
        match table(text) {
            Err(TableError::Content(reason)) => reason,
            other => panic!("{other:?}"),
        }
    }

    fn names(table: &Table) -> Vec<&str> {
        table.columns.iter().map(|column| column.name.as_str()).collect()
    }

    #[test]
    fn quotes_line_ends_and_empty_cells_are_read_as_they_are_meant() {
        let table = table("\u{feff}name,\"a, b\",c\r\n\"x \"\"y\"\"\",1,\r\n\"two\nlines\",2,3\r\n").unwrap();
        assert_eq!(names(&table), ["name", "a, b", "c"]);
        assert_eq!((table.rows, table.columns[2].missing), (2, 1));
        match &table.columns[0].content {
            Content::Text(texts) => assert_eq!(texts.top[1].value, "x \"y\""),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_delimiter_is_the_one_that_the_header_uses() {
        for (text, delimiter) in [
            ("a,b;c\n1,2", ','),
            ("a;b\n1;2", ';'),
            ("a\tb\n1\t2", '\t'),
            ("a|b\n1|2", '|'),
            ("a\n1", ','),
            ("\"a,b,c\";d\n1;2", ';'),
        ] {
            assert_eq!(table(text).unwrap().delimiter, delimiter, "{text}");
        }
    }

    #[test]
    fn names_are_never_empty_and_never_the_same() {
        assert_eq!(names(&table("a,,a\n1,2,3\n").unwrap()), ["a", "column 2", "a (3)"]);
    }

    #[test]
    fn what_is_no_table_is_refused_with_what_to_do() {
        assert!(reason("").contains("names its columns"));
        assert!(reason(" \r\n").contains("names its columns"));
        assert!(reason("a,b\n").contains("no rows"));
        assert_eq!(reason("a,b\n1,2\n1,2,3\n").split(':').next(), Some("line 3"));
        assert!(reason("a,b\n1\n").contains("1 cells where the header has 2"));
        assert!(reason(&"x,".repeat(600)).contains("601 columns"));
        let swallowed = format!("a,b\n1,\"{}", "x".repeat(CELL_BYTES_MAX + 1));
        assert!(reason(&swallowed).contains("close the quote"));
    }

    #[test]
    fn a_tool_that_refuses_is_not_taken_for_a_bad_table() {
        struct Refusing;
        impl Read for Refusing {
            fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
                Err(std::io::Error::other(ToolError::NotFound("t.csv".into())))
            }
        }
        impl Progressing for Refusing {
            fn progress(&self) -> (u64, u64) {
                (0, 0)
            }
        }
        match read("t.csv", &mut Refusing, |_, _| {}) {
            Err(TableError::Tool(ToolError::NotFound(path))) => assert_eq!(path, "t.csv"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_weather_of_seattle_is_read_as_it_was() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/data/seattle-weather.csv");
        let table = table(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert_eq!(table.rows, 1461);
        assert_eq!(names(&table), ["date", "precipitation", "temp_max", "temp_min", "wind", "weather"]);
        match &table.columns[0].content {
            Content::Date(dates) => {
                assert_eq!((dates.first.as_str(), dates.last.as_str()), ("2012-01-01", "2015-12-31"));
                assert_eq!((dates.days, dates.gaps), (1461, 0));
            }
            other => panic!("{other:?}"),
        }
        match &table.columns[2].content {
            Content::Number(numbers) => assert_eq!((numbers.min, numbers.max), (-1.6, 35.6)),
            other => panic!("{other:?}"),
        }
        let closest = &table.correlations[0];
        assert_eq!((closest.a.as_str(), closest.b.as_str()), ("temp_max", "temp_min"));
        assert!((closest.coefficient - 0.8757).abs() < 1e-4, "{}", closest.coefficient);
        assert_eq!(table.monthly.unwrap().months.len(), 48);
        assert!(table.notes.is_empty());
    }
}
