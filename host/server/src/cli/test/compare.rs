//! What came of a case against what was expected of it.

use super::case::{Expect, ExpectedError};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// Differences told of one case; more are counted.
const DIFFERENCES_MAX: usize = 20;

/// Something that is not as it was expected.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Difference {
    /// Where: `output/columns/0`, `events/2`, `files/report.md`.
    pub at: String,
    /// What was expected, if it was to be there.
    pub expected: Option<Value>,
    /// What was found, if it is there.
    pub found: Option<Value>,
}

/// What came of a case.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub stop_reason: String,
    pub output: Option<Value>,
    /// Code and message.
    pub error: Option<(String, String)>,
    /// Types and payloads.
    pub events: Vec<(String, Value)>,
    /// Those files that something was expected of, as far as they are there.
    pub files: BTreeMap<String, String>,
    /// All of the state, by `user/KEY` or `thread/KEY`.
    pub state: BTreeMap<String, Value>,
    /// What nothing in the case was ready for.
    pub unexpected: Vec<String>,
}

/// Whether two values are the same; one number is the same however it is written.
pub(super) fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one == other || one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(key, one)| other.get(key).is_some_and(|other| same(one, other)))
        }
        _ => one == other,
    }
}

/// Whether a value has at least what is expected: of objects the keys that are named, of everything else all.
fn has(expected: &Value, found: &Value) -> bool {
    match (expected, found) {
        (Value::Object(expected), Value::Object(found)) => {
            expected.iter().all(|(key, expected)| found.get(key).is_some_and(|found| has(expected, found)))
        }
        _ => same(expected, found),
    }
}

/// All that is not as expected.
pub(super) fn differences(expect: &Expect, outcome: &Outcome) -> Vec<Difference> {
    let mut all = Vec::new();
    let mut differs = |at: &str, expected: Option<Value>, found: Option<Value>| {
        all.push(Difference { at: at.to_owned(), expected, found });
    };
    for what in &outcome.unexpected {
        differs("unexpected", None, Some(Value::from(what.as_str())));
    }
    let completes = expect.error.is_none();
    match &expect.stop_reason {
        Some(expected) if *expected != outcome.stop_reason => {
            differs("stop_reason", Some(expected.as_str().into()), Some(ended(outcome)));
        }
        None if completes && outcome.stop_reason != "completed" => {
            differs("stop_reason", Some("completed".into()), Some(ended(outcome)));
        }
        _ => {}
    }
    if let Some(ExpectedError { code, message }) = &expect.error {
        let found = outcome.error.as_ref();
        let code = code.as_ref().filter(|code| found.is_none_or(|(found, _)| found != *code));
        if let Some(code) = code {
            differs("error/code", Some(code.as_str().into()), found.map(|(code, _)| code.as_str().into()));
        }
        let message = message.as_ref().filter(|part| found.is_none_or(|(_, found)| !found.contains(part.as_str())));
        if let Some(part) = message {
            differs("error/message", Some(part.as_str().into()), found.map(|(_, message)| message.as_str().into()));
        }
        if found.is_none() && code.is_none() && message.is_none() {
            differs("error", Some("an error".into()), None);
        }
    }
    if let Some(expected) = &expect.output {
        walk("output", Some(expected), outcome.output.as_ref(), &mut all);
    }
    let mut events = outcome.events.iter();
    for (number, expected) in expect.events.iter().enumerate() {
        let is = |(kind, payload): &(String, Value)| {
            *kind == expected.kind && (expected.payload.is_null() || has(&expected.payload, payload))
        };
        if !events.any(is) {
            let wanted = serde_json::json!({ "type": expected.kind, "payload": expected.payload });
            // What comes nearest is of the most use.
            let near = outcome.events.iter().find(|(kind, _)| *kind == expected.kind);
            let found = near.map(|(kind, payload)| serde_json::json!({ "type": kind, "payload": payload }));
            all.push(Difference { at: format!("events/{number}"), expected: Some(wanted), found });
            break;
        }
    }
    for (path, expected) in &expect.files {
        let found = outcome.files.get(path);
        if found != expected.as_ref() {
            let value = |text: &String| Value::from(text.as_str());
            let (expected, found) = (expected.as_ref().map(value), found.map(value));
            all.push(Difference { at: format!("files/{path}"), expected, found });
        }
    }
    for (key, expected) in &expect.state {
        let expected = Some(expected).filter(|expected| !expected.is_null());
        walk(&format!("state/{key}"), expected, outcome.state.get(key), &mut all);
    }
    all
}

/// The stop reason, with what was said of it.
fn ended(outcome: &Outcome) -> Value {
    match &outcome.error {
        Some((code, message)) => format!("{} ({code}: {message})", outcome.stop_reason).into(),
        None => outcome.stop_reason.as_str().into(),
    }
}

/// Goes down where both are alike, to tell the smallest parts that are not.
fn walk(at: &str, expected: Option<&Value>, found: Option<&Value>, all: &mut Vec<Difference>) {
    match (expected, found) {
        (Some(Value::Object(expected)), Some(Value::Object(found))) => {
            for (key, value) in expected {
                walk(&format!("{at}/{key}"), Some(value), found.get(key), all);
            }
            for (key, value) in found.iter().filter(|(key, _)| !expected.contains_key(*key)) {
                walk(&format!("{at}/{key}"), None, Some(value), all);
            }
        }
        (Some(Value::Array(expected)), Some(Value::Array(found))) => {
            for number in 0..expected.len().max(found.len()) {
                walk(&format!("{at}/{number}"), expected.get(number), found.get(number), all);
            }
        }
        (Some(expected), Some(found)) if same(expected, found) => {}
        (None, None) => {}
        (expected, found) => {
            all.push(Difference { at: at.to_owned(), expected: expected.cloned(), found: found.cloned() });
        }
    }
}

/// Differences for a person: `-` is what was expected, `+` what was found. Long texts line by line.
pub(super) fn shown(differences: &[Difference]) -> Vec<String> {
    let mut lines = Vec::new();
    for Difference { at, expected, found } in differences.iter().take(DIFFERENCES_MAX) {
        lines.push(format!("{at}:"));
        match (expected, found) {
            (Some(Value::String(expected)), Some(Value::String(found)))
                if expected.contains('\n') || found.contains('\n') =>
            {
                lines.extend(of_lines(expected, found));
            }
            _ => {
                lines.extend(expected.as_ref().map(|expected| format!("- {expected}")));
                lines.extend(found.as_ref().map(|found| format!("+ {found}")));
                if expected.is_none() && at != "unexpected" {
                    lines.push("  (expected not to be there)".into());
                } else if found.is_none() {
                    lines.push("  (not there)".into());
                }
            }
        }
    }
    let more = differences.len().saturating_sub(DIFFERENCES_MAX);
    if more > 0 {
        lines.push(format!("and {more} differences more"));
    }
    lines
}

/// What is between the first and the last line that differ.
fn of_lines(expected: &str, found: &str) -> Vec<String> {
    let (one, other): (Vec<_>, Vec<_>) = (expected.lines().collect(), found.lines().collect());
    let before = one.iter().zip(&other).take_while(|(one, other)| one == other).count();
    let after = one.iter().rev().zip(other.iter().rev()).take_while(|(one, other)| one == other).count();
    let after = after.min(one.len() - before).min(other.len() - before);
    let middle = |lines: &[&str], mark: &str| -> Vec<String> {
        lines.iter().skip(before).take(lines.len() - before - after).map(|line| format!("{mark} {line}")).collect()
    };
    let mut lines = vec![format!("  (line {})", before + 1)];
    lines.extend(middle(&one, "-"));
    lines.extend(middle(&other, "+"));
    if lines.len() == 1 {
        lines.push("  (only the end of the last line differs)".into());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn differ(expect: Value, outcome: &Outcome) -> Vec<String> {
        let expect: Expect = serde_json::from_value(expect).expect("an expectation");
        shown(&differences(&expect, outcome))
    }

    fn completed() -> Outcome {
        Outcome {
            stop_reason: "completed".into(),
            output: Some(json!({ "rows": 3, "columns": [{ "name": "a" }, { "name": "b" }] })),
            events: vec![
                ("agent_started".into(), json!({})),
                ("progress".into(), json!({ "fraction": 1.0, "note": "done" })),
                ("agent_completed".into(), json!({ "output_bytes": 1 })),
            ],
            files: BTreeMap::from([("report.md".into(), "one\ntwo\nthree\n".into())]),
            state: BTreeMap::from([("user/times".into(), json!(1))]),
            ..Outcome::default()
        }
    }

    #[test]
    fn what_is_as_expected_is_not_told() {
        let expect = json!({
            "output": { "rows": 3.0, "columns": [{ "name": "a" }, { "name": "b" }] },
            "events": [{ "type": "progress", "payload": { "fraction": 1 } }, { "type": "agent_completed" }],
            "files": { "report.md": "one\ntwo\nthree\n", "other.md": null },
            "state": { "user/times": 1, "user/other": null },
        });
        assert_eq!(differ(expect, &completed()), [""; 0]);
        assert_eq!(differ(json!({}), &completed()), [""; 0]);
    }

    #[test]
    fn each_thing_that_differs_is_told_with_its_place() {
        let of = |expect: Value| differ(expect, &completed());
        assert_eq!(
            of(json!({ "output": { "rows": 4, "columns": [{ "name": "a" }], "x": 1 } })),
            [
                "output/columns/1:",
                "+ {\"name\":\"b\"}",
                "  (expected not to be there)",
                "output/rows:",
                "- 4",
                "+ 3",
                "output/x:",
                "- 1",
                "  (not there)"
            ]
        );
        assert_eq!(of(json!({ "output": null }))[..2], ["output:", "- null"]);
        // In another order than they came.
        let swapped = json!({ "events": [{ "type": "agent_completed" }, { "type": "progress" }] });
        assert_eq!(of(swapped)[0], "events/1:");
        let other = json!({ "events": [{ "type": "progress", "payload": { "note": "begun" } }] });
        assert!(of(other)[2].contains("\"note\":\"done\""));
        assert_eq!(
            of(json!({ "files": { "report.md": "one\n2\nthree\n" } })),
            ["files/report.md:", "  (line 2)", "- 2", "+ two"]
        );
        assert_eq!(
            of(json!({ "files": { "report.md": "one\ntwo\nthree" } }))[1..],
            ["  (line 4)", "  (only the end of the last line differs)"]
        );
        assert_eq!(of(json!({ "files": { "report.md": null } }))[0], "files/report.md:");
        assert_eq!(of(json!({ "state": { "user/times": 2 } })), ["state/user/times:", "- 2", "+ 1"]);
        assert_eq!(of(json!({ "state": { "user/times": null } }))[0], "state/user/times:");
        assert_eq!(of(json!({ "stop_reason": "trap" })), ["stop_reason:", "- \"trap\"", "+ \"completed\""]);
        assert_eq!(of(json!({ "error": {} }))[0], "error:");
        assert_eq!(of(json!({ "error": { "code": "no_rows" } }))[1], "- \"no_rows\"");
    }

    #[test]
    fn a_run_that_fails_must_be_expected_to() {
        let failed = Outcome {
            stop_reason: "guest_error".into(),
            error: Some(("no_rows".into(), "there are no rows in a.csv".into())),
            unexpected: vec!["file.read is called".into()],
            ..Outcome::default()
        };
        let told = differ(json!({}), &failed);
        assert_eq!(told[0], "unexpected:");
        assert!(told.iter().any(|line| line.contains("guest_error (no_rows: there are no rows in a.csv)")), "{told:?}");
        let failed = Outcome { unexpected: Vec::new(), ..failed };
        assert_eq!(differ(json!({ "error": { "code": "no_rows", "message": "no rows in" } }), &failed), [""; 0]);
        assert_eq!(differ(json!({ "stop_reason": "guest_error" }), &failed), [""; 0]);
        assert_eq!(differ(json!({ "error": { "message": "no columns" } }), &failed)[0], "error/message:");
    }
}
