//! Reads the tables of a workspace and reports what is in them.
//!
//! Tables are read through the file tools in chunks, several of them side by side, and looked at row by row, so that a
//! table may be larger than the run's memory.

mod column;
mod date;
mod report;
mod source;
mod table;

use std::collections::VecDeque;

use cofferdam_sdk::{Agent, Context, EntryKind, Error, Needs, ToolError, export_agent};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use source::Source;
use table::{Table, TableError};

/// What to look at, and where to write about it.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Input {
    /// The table, a CSV file of the workspace with a header line. Without it, every `.csv` file there, in
    /// subdirectories too.
    #[serde(default)]
    path: Option<String>,
    /// Where to write the report, a Markdown file of the workspace. What is there is replaced.
    #[serde(default = "report_md")]
    report: String,
}

fn report_md() -> String {
    "report.md".to_owned()
}

/// What is in the tables.
#[derive(Debug, Serialize, JsonSchema)]
struct Output {
    /// Where the report is.
    report: String,
    tables: Vec<Table>,
    /// Files that look like tables by their name but could not be read as such.
    skipped: Vec<Skipped>,
}

/// A file that could not be read as a table.
#[derive(Debug, Serialize, JsonSchema)]
struct Skipped {
    path: String,
    reason: String,
}

/// A file of the workspace, by its path, with its size in bytes where it is known.
struct File {
    path: String,
    bytes: Option<u64>,
}

/// More tables than this would make a report that nobody reads.
const TABLES_MAX: usize = 32;

/// A tree of directories deeper or wider than this is not a folder of tables.
const DIRECTORIES_MAX: usize = 64;

/// Tables whose first chunk is under way while an earlier one is being read. Together with the chunks of that one
/// ([`source::AHEAD_MAX`]) well below the 32 calls that a run may have under way.
const OPEN_AHEAD_MAX: usize = 8;

struct Analyst;

impl Agent for Analyst {
    type Input = Input;
    type Output = Output;
    const DESCRIPTION: &'static str = "Reads CSV tables of the workspace and writes a Markdown report: for each column \
        its type, range, mean, quantiles, outliers or most frequent values; correlations; monthly means; gaps in dates. \
        Gives the same figures as its output.";

    fn needs() -> Needs {
        Needs::none().tools(["file.list", "file.read", "file.write"])
    }

    fn run(ctx: &Context, input: Input) -> Result<Output, Error> {
        // Before the work, so that nobody loses a table to a slip of the pen.
        if input.report.is_empty() || is_csv(&input.report) {
            return Err(Error::invalid_input(format!(
                "at `report`: `{}` would not be a report: name a Markdown file, such as report.md",
                input.report
            )));
        }
        let explicit = input.path.is_some();
        let files = match input.path {
            Some(path) => vec![File { path, bytes: None }],
            None => find_tables(ctx)?,
        };
        let (tables, skipped) = look_at(ctx, files, explicit)?;
        if tables.is_empty() {
            let reasons: Vec<_> =
                skipped.iter().map(|skipped| format!("{}: {}", skipped.path, skipped.reason)).collect();
            return Err(Error::failed("no_readable_table", format!("no table could be read. {}", reasons.join("; "))));
        }

        ctx.thinking(&format!("Writing {}", input.report))?;
        ctx.files().write(&input.report, &report::markdown(&tables, &skipped))?;
        ctx.progress(1.0, "Done")?;
        Ok(Output { report: input.report, tables, skipped })
    }
}

export_agent!(Analyst);

fn is_csv(name: &str) -> bool {
    name.get(name.len().saturating_sub(4)..).is_some_and(|ending| ending.eq_ignore_ascii_case(".csv"))
}

/// Every `.csv` file of the workspace, directory by directory.
fn find_tables(ctx: &Context) -> Result<Vec<File>, Error> {
    ctx.thinking("Looking for CSV files in the workspace")?;
    let mut found = Vec::new();
    let mut directories = VecDeque::from([String::new()]);
    let mut listed = 0;
    while let Some(directory) = directories.pop_front() {
        listed += 1;
        if listed > DIRECTORIES_MAX {
            ctx.warn(&format!("looked into {DIRECTORIES_MAX} directories and no further: name the table in `path`"));
            break;
        }
        let listing = ctx.files().list(&directory)?;
        if listing.truncated {
            ctx.warn(&format!("`{directory}` has more entries than are listed: name the table in `path`"));
        }
        for entry in listing.entries {
            let path = if directory.is_empty() { entry.name } else { format!("{directory}/{}", entry.name) };
            match entry.kind {
                EntryKind::Directory => directories.push_back(path),
                EntryKind::File if is_csv(&path) => found.push(File { path, bytes: Some(entry.bytes) }),
                EntryKind::File => {}
            }
        }
    }
    if found.is_empty() {
        return Err(Error::failed(
            "no_tables",
            "there is no .csv file in the workspace: put one there, or name a table in `path`",
        ));
    }
    if found.len() > TABLES_MAX {
        ctx.warn(&format!("there are {} tables; looking at the first {TABLES_MAX}", found.len()));
        found.truncate(TABLES_MAX);
    }
    let names: Vec<_> = found.iter().map(|file| file.path.as_str()).collect();
    ctx.thinking(&format!("Found {}: {}", count_of(found.len(), "table"), names.join(", ")))?;
    Ok(found)
}

/// Reads the tables. One that cannot be read is skipped, unless it is the one that was asked for.
fn look_at(ctx: &Context, files: Vec<File>, explicit: bool) -> Result<(Vec<Table>, Vec<Skipped>), Error> {
    let total_bytes: u64 = files.iter().filter_map(|file| file.bytes).sum();
    let mut progress = Progress { ctx, total_bytes, done_bytes: 0, told: 0.0 };
    let (mut tables, mut skipped) = (Vec::new(), Vec::new());

    let mut waiting = files.into_iter();
    let mut open: VecDeque<_> = VecDeque::new();
    loop {
        while open.len() < OPEN_AHEAD_MAX
            && let Some(File { path, bytes }) = waiting.next()
        {
            open.push_back((Source::open(ctx, &path)?, path, bytes));
        }
        let Some((mut source, path, bytes)) = open.pop_front() else { return Ok((tables, skipped)) };

        ctx.thinking(&format!("Reading {path}"))?;
        let outcome = table::read(&path, &mut source, |read, size| progress.tell(&path, read, bytes.unwrap_or(size)));
        match outcome {
            Ok(table) => {
                progress.done_bytes += table.bytes;
                ctx.thinking(&format!(
                    "{path} has {} and {}",
                    count_of(table.rows as usize, "row"),
                    count_of(table.columns.len(), "column")
                ))?;
                ctx.emit("table", &table)?;
                tables.push(table);
            }
            // Without the host's leave, or its budget, the other tables would fare no better.
            Err(TableError::Tool(error @ (ToolError::Denied(_) | ToolError::Exhausted(_)))) => return Err(error.into()),
            Err(TableError::Tool(ToolError::NotFound(_))) if explicit => return Err(no_such_file(ctx, &path)),
            Err(TableError::Tool(error)) if explicit => return Err(error.into()),
            Err(TableError::Content(reason)) if explicit => {
                return Err(Error::failed("not_a_table", format!("{path}: {reason}")));
            }
            Err(error) => {
                let reason = error.to_string();
                ctx.warn(&format!("skipping {path}: {reason}"));
                progress.done_bytes += bytes.unwrap_or(0);
                skipped.push(Skipped { path, reason });
            }
        }
    }
}

/// Says what is there instead, as far as the run may look.
fn no_such_file(ctx: &Context, path: &str) -> Error {
    let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
    let there = match ctx.files().list(directory) {
        Ok(listing) if !listing.entries.is_empty() => {
            let names: Vec<_> = listing.entries.iter().take(20).map(|entry| entry.name.as_str()).collect();
            format!(": it has {}", names.join(", "))
        }
        Ok(_) => ": it is empty".to_owned(),
        Err(_) => String::new(),
    };
    let directory = if directory.is_empty() { "the workspace".to_owned() } else { format!("`{directory}`") };
    Error::invalid_input(format!("at `path`: there is no file `{path}` in {directory}{there}"))
}

/// "1 row", "2 rows".
fn count_of(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Tells the client how far the reading is, in steps worth telling.
struct Progress<'a> {
    ctx: &'a Context,
    total_bytes: u64,
    done_bytes: u64,
    told: f64,
}

impl Progress<'_> {
    fn tell(&mut self, path: &str, read: u64, size: u64) {
        let total = self.total_bytes.max(size).max(1);
        // The report is the last tenth.
        let fraction = ((self.done_bytes + read) as f64 / total as f64).min(1.0) * 0.9;
        if fraction - self.told >= 0.05 {
            self.told = fraction;
            // A client that does not hear of a step hears of the next; the work goes on.
            let _untold = self.ctx.progress(fraction, &format!("Reading {path}"));
        }
    }
}
