//! Has each table looked at by an analyst of its own, side by side, asks a person which of their reports to publish, and
//! merges those into one.
//!
//! A run lasts as long as the slowest analyst and the person take. It is durable, and holds no sandbox while it waits, so
//! that neither a long wait nor the end of its host costs anything of the work.

mod merge;
mod report;

use std::collections::BTreeSet;
use std::time::Duration;

use cofferdam_sdk::{Agent, Child, ChildError, ChildLimits, Context, Error, Needs, Question, SpawnError, export_agent};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use merge::{Found, Merged};

/// The agent that looks at a table.
const ANALYST: &str = "analyst";

/// Where the analysts' own reports go, each at the path of its table.
const PARTS_DIRECTORY: &str = "team";

/// As many children as a run may start.
const PATHS_MAX: usize = 16;

/// With [`PATHS_MAX`] paths of this length, and as many reasons, a question stays below its 16 KiB.
const PATH_BYTES_MAX: usize = 255;

/// As much of why a part failed is told in the question; the output has all of it.
const REASON_ASKED_CHARS_MAX: usize = 80;

/// What to look at, and where to write about it.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Input {
    /// The tables, CSV files of the workspace with a header line: 1 to 16, each at most 255 bytes long. What the analyst
    /// of a table reports is written to `team/PATH.md`.
    paths: Vec<String>,
    /// Where to write the summary, a Markdown file of the workspace. What is there is replaced.
    #[serde(default = "summary_md")]
    report: String,
    /// How long to wait for a person, in seconds. If nobody answers in that time, all that was found is published.
    #[serde(default = "a_day_s")]
    answer_within_s: u64,
}

fn summary_md() -> String {
    "summary.md".to_owned()
}

fn a_day_s() -> u64 {
    24 * 60 * 60
}

/// What a person says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
struct Decision {
    /// Whether to write a summary at all, without the parts that failed.
    go_on: bool,
    /// The tables whose reports are to be in it; all that were found, if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    publish: Option<Vec<String>>,
}

/// What became of it.
#[derive(Debug, Serialize, JsonSchema)]
struct Output {
    /// Whether some of the parts failed.
    partial_failure: bool,
    /// What the person said, or what was done because nobody did.
    decision: Decision,
    /// Where the summary is; absent if the person did not want one.
    #[serde(skip_serializing_if = "Option::is_none")]
    report: Option<String>,
    /// The tables, in the order in which they were named.
    parts: Vec<Part>,
    /// What the published parts say together.
    summary: Merged,
}

/// One table and its analyst.
#[derive(Debug, Serialize, JsonSchema)]
struct Part {
    path: String,
    /// The analyst's run; absent if none could be started.
    #[serde(skip_serializing_if = "Option::is_none")]
    run_id: Option<String>,
    #[serde(flatten)]
    outcome: Outcome,
}

/// How a part came out.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "outcome", rename_all = "snake_case")]
enum Outcome {
    /// It is in the summary.
    Published { rows: u64, report: String },
    /// It was found, and is not in the summary.
    Withheld { rows: u64, report: String },
    /// Nothing was found.
    Failed(Failure),
}

/// Why a part failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
struct Failure {
    /// The stop reason of the analyst's run, or `not_started`, or `unexpected_output`.
    stop_reason: String,
    /// For programs.
    code: String,
    /// For people.
    message: String,
}

struct Team;

impl Agent for Team {
    type Input = Input;
    type Output = Output;
    const DESCRIPTION: &'static str = "Has each of several CSV tables of the workspace looked at by an analyst of its \
        own, side by side; asks a person which of their reports to publish; and merges those into one summary, a \
        Markdown file and the same figures as its output. Says which tables failed, and why.";

    fn needs() -> Needs {
        Needs::none().tools(["file.*"]).agents([ANALYST]).human().durable()
    }

    fn run(ctx: &Context, input: Input) -> Result<Output, Error> {
        check(&input)?;
        let looked_at = look_at(ctx, &input.paths)?;
        let found: Vec<_> = looked_at.iter().filter_map(LookedAt::found).collect();
        if found.is_empty() {
            let reasons: Vec<_> = looked_at.iter().filter_map(LookedAt::shown_failure).collect();
            return Err(Error::failed("no_part_succeeded", format!("no table could be read. {}", reasons.join("; "))));
        }

        let decision = ask(ctx, &looked_at, Duration::from_secs(input.answer_within_s))?;
        let wanted = |path: &str| {
            decision.go_on && decision.publish.as_ref().is_none_or(|publish| publish.iter().any(|name| name == path))
        };
        let published: Vec<_> = found.into_iter().filter(|found| wanted(&found.path)).collect();
        let summary = Merged::of(&published);
        let parts: Vec<_> = looked_at.iter().map(|part| part.told(wanted(&part.path))).collect();
        let report = (!published.is_empty()).then_some(input.report);
        if let Some(report) = &report {
            ctx.thinking(&format!("Writing {report}"))?;
            ctx.files().write(report, &report::markdown(&parts, &summary))?;
        }
        ctx.progress(1.0, "Done")?;
        let partial_failure = looked_at.iter().any(|part| part.outcome.is_err());
        Ok(Output { partial_failure, decision, report, parts, summary })
    }
}

export_agent!(Team);

/// Before the work, so that no analyst runs for nothing.
fn check(input: &Input) -> Result<(), Error> {
    let paths = &input.paths;
    if !(1..=PATHS_MAX).contains(&paths.len()) {
        let count = paths.len();
        return Err(Error::invalid_input(format!("at `paths`: there are {count}: name 1 to {PATHS_MAX} tables")));
    }
    let mut seen = BTreeSet::new();
    for (index, path) in paths.iter().enumerate() {
        if path.is_empty() || path.len() > PATH_BYTES_MAX {
            let text = format!("at `paths[{index}]`: a path has 1 to {PATH_BYTES_MAX} bytes, this one {}", path.len());
            return Err(Error::invalid_input(text));
        }
        // Two analysts would write one report.
        if !seen.insert(path) {
            return Err(Error::invalid_input(format!("at `paths[{index}]`: `{path}` is named twice")));
        }
    }
    if input.report.is_empty() || paths.contains(&input.report) {
        let text = format!("at `report`: `{}` would not be a report: name a Markdown file", input.report);
        return Err(Error::invalid_input(text));
    }
    Ok(())
}

/// A table, once its analyst has ended.
struct LookedAt {
    path: String,
    run_id: Option<String>,
    outcome: Result<Found, Failure>,
}

impl LookedAt {
    fn found(&self) -> Option<&Found> {
        self.outcome.as_ref().ok()
    }

    /// "PATH: why", if it failed.
    fn shown_failure(&self) -> Option<String> {
        self.outcome.as_ref().err().map(|failure| format!("{}: {}", self.path, failure.message))
    }

    fn told(&self, wanted: bool) -> Part {
        let outcome = match &self.outcome {
            Ok(found) if wanted => Outcome::Published { rows: found.rows(), report: found.report.clone() },
            Ok(found) => Outcome::Withheld { rows: found.rows(), report: found.report.clone() },
            Err(failure) => Outcome::Failed(failure.clone()),
        };
        Part { path: self.path.clone(), run_id: self.run_id.clone(), outcome }
    }
}

/// Starts an analyst for each table, then waits for all of them. One that fails costs the others nothing.
fn look_at(ctx: &Context, paths: &[String]) -> Result<Vec<LookedAt>, Error> {
    ctx.thinking(&format!("Starting {}", count_of(paths.len(), "analyst")))?;
    // The same share for each, and one for what is to be done with their findings.
    let share = ctx.budget().fuel / (paths.len() as u64 + 1);
    let limits = ChildLimits::inherited().fuel(share);
    let mut started = Vec::new();
    for path in paths {
        let input = json!({ "path": path, "report": format!("{PARTS_DIRECTORY}/{path}.md") });
        match ctx.spawn_with::<Found>(ANALYST, &input, limits) {
            Ok(child) => started.push((path, Ok(child))),
            // Without leave, the next would fare no better.
            Err(SpawnError::Denied(text)) => return Err(Error::denied(text)),
            Err(error) => started.push((path, Err(error))),
        }
    }
    let total = started.len();
    let mut ended = Vec::new();
    for (path, child) in started {
        let looked_at = wait_for(path, child)?;
        let how = match &looked_at.outcome {
            Ok(found) => count_of(found.rows() as usize, "row"),
            Err(failure) => format!("failed: {}", failure.message),
        };
        ended.push(looked_at);
        // The question and the summary are the last tenth.
        ctx.progress(0.9 * ended.len() as f64 / total as f64, &format!("{path}: {how}"))?;
    }
    Ok(ended)
}

fn wait_for(path: &str, child: Result<Child<Found>, SpawnError>) -> Result<LookedAt, Error> {
    let failure = |stop_reason: &str, code: &str, message: String| {
        Err(Failure { stop_reason: stop_reason.to_owned(), code: code.to_owned(), message })
    };
    let (run_id, outcome) = match child {
        Ok(child) => {
            let outcome = match child.wait() {
                Ok(found) => Ok(found.of(path)),
                Err(ChildError::Failed(failed)) => failure(&failed.stop_reason, &failed.code, failed.message),
                Err(error @ ChildError::UnexpectedOutput(_)) => {
                    failure("unexpected_output", "unexpected_output", error.to_string())
                }
                // It is this run that cannot wait, so it would be the same for all of them.
                Err(error @ ChildError::Wait(_)) => return Err(error.into()),
            };
            (Some(child.id().to_owned()), outcome)
        }
        Err(error) => (None, failure("not_started", "not_started", error.to_string())),
    };
    Ok(LookedAt { path: path.to_owned(), run_id, outcome })
}

/// Asks which of the reports to publish. Without an answer in time, it is all that were found.
fn ask(ctx: &Context, looked_at: &[LookedAt], wait: Duration) -> Result<Decision, Error> {
    let found: Vec<_> = looked_at.iter().filter_map(LookedAt::found).map(|found| found.path.as_str()).collect();
    let question = Question::new(prompt(looked_at))
        .schema(&schema(&found))
        .expires_after(wait)
        .default_answer(&json!({ "go_on": true, "publish": found }));
    Ok(ctx.ask(question)?)
}

fn prompt(looked_at: &[LookedAt]) -> String {
    let mut prompt = "Which of these reports are to be in the summary?".to_owned();
    for part in looked_at {
        match &part.outcome {
            Ok(found) => prompt += &format!("\n- {}: {}", part.path, count_of(found.rows() as usize, "row")),
            Err(failure) => {
                let reason: String = failure.message.chars().take(REASON_ASKED_CHARS_MAX).collect();
                prompt += &format!("\n- {} failed: {reason}", part.path);
            }
        }
    }
    if looked_at.iter().any(|part| part.outcome.is_err()) {
        prompt += "\nWith `go_on`, the summary is written without the tables that failed.";
    }
    prompt
}

/// Answers that name nothing but what was found.
fn schema(found: &[&str]) -> Value {
    json!({
        "type": "object",
        "properties": {
            "go_on": { "type": "boolean", "description": "Whether to write the summary" },
            "publish": {
                "type": "array", "items": { "enum": found }, "uniqueItems": true,
                "description": "The tables whose reports are to be in it; all, if not said",
            },
        },
        "required": ["go_on"],
        "additionalProperties": false,
    })
}

/// "1 row", "2 rows".
fn count_of(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(paths: &[&str]) -> Input {
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        Input { paths, report: summary_md(), answer_within_s: 1 }
    }

    fn failed(path: &str, message: &str) -> LookedAt {
        let failure =
            Failure { stop_reason: "guest_error".into(), code: "not_a_table".into(), message: message.into() };
        LookedAt { path: path.into(), run_id: None, outcome: Err(failure) }
    }

    fn found(path: &str) -> LookedAt {
        let found = serde_json::from_value(json!({ "report": "r.md", "tables": [{ "rows": 2, "columns": [] }] }));
        LookedAt { path: path.into(), run_id: Some("run_1".into()), outcome: Ok(found.unwrap()) }
    }

    #[test]
    fn what_would_have_analysts_run_for_nothing_is_refused_with_its_place() {
        assert!(check(&input(&["a.csv", "b.csv"])).is_ok());
        for (input, place) in [
            (input(&[]), "`paths`"),
            (input(&["a.csv"; 17]), "`paths`"),
            (input(&["a.csv", ""]), "`paths[1]`"),
            (input(&["a.csv", "b.csv", "a.csv"]), "`paths[2]`"),
            (input(&[&"x".repeat(PATH_BYTES_MAX + 1)]), "`paths[0]`"),
            (Input { report: "a.csv".into(), ..input(&["a.csv"]) }, "`report`"),
            (Input { report: String::new(), ..input(&["a.csv"]) }, "`report`"),
        ] {
            match check(&input) {
                Err(Error::InvalidInput(text)) => assert!(text.contains(place), "{text}"),
                other => panic!("{place}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_question_names_every_part_and_stays_within_its_bound() {
        let text = prompt(&[found("a.csv"), failed("b.csv", "line 3: 2 cells where the header has 3")]);
        assert!(text.contains("a.csv: 2 rows") && text.contains("b.csv failed: line 3"), "{text}");
        let path = "é".repeat(PATH_BYTES_MAX / 2);
        let long: Vec<_> = (0..PATHS_MAX).map(|_| failed(&path, &"\u{1f980}".repeat(4_096))).collect();
        assert!(prompt(&long).len() < 16 * 1024, "{}", prompt(&long).len());
    }

    #[test]
    fn a_part_is_told_as_what_became_of_it() {
        let told = |part: &LookedAt, wanted| serde_json::to_value(part.told(wanted)).unwrap();
        let published = told(&found("a.csv"), true);
        assert_eq!((&published["outcome"], &published["rows"]), (&json!("published"), &json!(2)), "{published}");
        assert_eq!(told(&found("a.csv"), false)["outcome"], "withheld");
        let failed = told(&failed("b.csv", "why"), true);
        assert_eq!((&failed["outcome"], &failed["message"]), (&json!("failed"), &json!("why")), "{failed}");
    }
}
