//! Checks a CSV file of the user's workspace, sums up its columns, and writes a report beside it.

use cofferdam_sdk::{Agent, Context, Error, Needs, export_agent};
use std::{collections::BTreeSet, fmt::Write as _};

#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Input {
    /// The CSV file, in the user's workspace. Its first line has the names of the columns.
    path: String,
    /// Where the report goes.
    #[serde(default = "report")]
    report: String,
}

fn report() -> String {
    "report.md".to_owned()
}

#[derive(serde::Serialize, schemars::JsonSchema)]
struct Output {
    rows: usize,
    columns: Vec<Column>,
    /// Where the report is.
    report: String,
}

#[derive(serde::Serialize, schemars::JsonSchema)]
struct Column {
    name: String,
    kind: Kind,
    /// Fields without a value.
    missing: usize,
    min: Option<f64>,
    max: Option<f64>,
    mean: Option<f64>,
    /// Different values.
    distinct: usize,
}

#[derive(Clone, Copy, PartialEq, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Number,
    Text,
}

struct Summary;

impl Agent for Summary {
    type Input = Input;
    type Output = Output;
    const DESCRIPTION: &'static str = "Checks a CSV file and reports what is in its columns.";

    fn needs() -> Needs {
        Needs::none().tools(["file.read", "file.write"])
    }

    fn run(ctx: &Context, input: Input) -> Result<Output, Error> {
        let Input { path, report } = input;
        ctx.progress(0.1, &format!("reading {path}"))?;
        let table = Table::parse(&path, &ctx.files().read_to_string(&path)?)?;
        ctx.progress(0.6, &format!("{} rows checked", table.rows.len()))?;
        let columns: Vec<_> = (0..table.names.len()).map(|at| table.column(at)).collect();
        ctx.files().write(&report, &written(&path, table.rows.len(), &columns))?;
        ctx.progress(1.0, &format!("{report} written"))?;
        Ok(Output { rows: table.rows.len(), columns, report })
    }
}

export_agent!(Summary);

struct Table {
    names: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    fn parse(path: &str, text: &str) -> Result<Self, Error> {
        let bad = |why: String| Error::failed("bad_table", format!("{path} {why}"));
        let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
        let (mut names, mut rows) = (Vec::new(), Vec::new());
        for record in reader.records() {
            let record = record.map_err(|error| bad(format!("cannot be read: {error}")))?;
            let fields: Vec<_> = record.iter().map(str::to_owned).collect();
            if names.is_empty() {
                names = fields;
            } else if fields.len() == names.len() {
                rows.push(fields);
            } else {
                let line = record.position().map_or(0, csv::Position::line);
                return Err(bad(format!(
                    "line {line} has {} fields, but the header has {}",
                    fields.len(),
                    names.len()
                )));
            }
        }
        if names.is_empty() {
            return Err(bad("is empty".to_owned()));
        }
        Ok(Self { names, rows })
    }

    fn column(&self, at: usize) -> Column {
        let values: Vec<_> = self.rows.iter().map(|row| row[at].as_str()).filter(|value| !value.is_empty()).collect();
        let numbers: Option<Vec<f64>> =
            values.iter().map(|value| value.parse().ok().filter(|number: &f64| number.is_finite())).collect();
        let numbers = numbers.filter(|numbers| !numbers.is_empty());
        let kind = if numbers.is_some() { Kind::Number } else { Kind::Text };
        let numbers = numbers.unwrap_or_default();
        Column {
            name: self.names[at].clone(),
            kind,
            missing: self.rows.len() - values.len(),
            min: numbers.iter().copied().reduce(f64::min),
            max: numbers.iter().copied().reduce(f64::max),
            mean: (!numbers.is_empty()).then(|| numbers.iter().sum::<f64>() / numbers.len() as f64),
            distinct: values.iter().collect::<BTreeSet<_>>().len(),
        }
    }
}

fn written(path: &str, rows: usize, columns: &[Column]) -> String {
    let mut report = format!("# {path}\n\n{rows} rows\n\n");
    report += "| column | kind | missing | distinct | min | max | mean |\n|---|---|--:|--:|--:|--:|--:|\n";
    for column in columns {
        let Column { name, missing, distinct, .. } = column;
        let kind = if column.kind == Kind::Number { "number" } else { "text" };
        let plain = |number: Option<f64>| number.map(|number| number.to_string()).unwrap_or_default();
        let mean = column.mean.map(|mean| format!("{mean:.2}")).unwrap_or_default();
        let (min, max) = (plain(column.min), plain(column.max));
        // Writing to a string cannot fail.
        let _ = writeln!(report, "| {name} | {kind} | {missing} | {distinct} | {min} | {max} | {mean} |");
    }
    report
}
