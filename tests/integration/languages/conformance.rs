//! One agent in three languages does the same: its events, its calls to the host and its outputs are compared, over every
//! import. What differs from run to run is left out: ids, times, digests of components, and what they took.

use crate::server::{Server, User, guest, run};
use cofferdam_core::quota::Quota;
use reqwest::StatusCode;
use serde_json::{Map, Value, json};
use std::{collections::BTreeSet, time::Duration};

const LANGUAGES: [&str; 3] = ["rust", "python", "javascript"];

/// What a run left behind.
struct Left {
    run: Value,
    /// In their order, but for the ends of tool calls: those of calls that are under way at the same time have none.
    events: Vec<Value>,
    /// What ends of tool calls there are. A call that nobody waits for may come to its end or not.
    tool_ends: BTreeSet<String>,
    calls: Vec<String>,
}

/// A user of one language's agent, who may do all that it asks for but call `units.*`.
async fn user_of(server: &Server, language: &str) -> User {
    let component = guest(&format!("conformance-{language}"));
    server.operator.push("conformance", component).await.is(StatusCode::CREATED);
    let user = server.user(language).await;
    let grant = json!({
        "tools": ["file.*"], "state": "read_write", "workspace": "read_write", "agents": ["echo", "probe"], "human": true,
    });
    server.grant(&user, "conformance", &grant).await;
    user
}

/// Runs it to its end, and answers what it asks.
async fn left_by(user: &User, input: Value) -> Left {
    let id = user.submit(&json!({"agent": "conformance", "input": input, "metadata": {"a": 1}})).await;
    loop {
        let run = user.get(&format!("/v1/runs/{id}")).await.is(StatusCode::OK);
        if run["finished_at"].is_string() {
            break;
        }
        if run["wait"]["about"]["prompt"] == "Go on?" {
            // By its call: it may have been answered here before, and the run may ask the next by now.
            let answer = json!({"answer": {"go": true}, "call": run["wait"]["call"]});
            let answered = user.post(&format!("/v1/runs/{id}/input"), &answer).await;
            assert!(answered.status.is_success() || answered.status == StatusCode::CONFLICT, "{}", answered.text);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let run = user.get(&format!("/v1/runs/{id}")).await.is(StatusCode::OK);
    let told = user.events(&id).await;
    let (ends, events): (Vec<_>, Vec<_>) =
        told.iter().filter_map(event).partition(|event| event["type"] == "tool_completed");
    let tool_ends = ends.iter().map(Value::to_string).collect();
    let (mut calls, mut after) = (Vec::new(), 0);
    loop {
        let page = user.get(&format!("/v1/runs/{id}/journal?after={after}")).await.is(StatusCode::OK);
        for entry in page["entries"].as_array().expect("entries") {
            calls.extend(call(entry));
        }
        match page["next_after"].as_u64() {
            Some(next) => after = next,
            None => return Left { run, events, tool_ends, calls },
        }
    }
}

/// An event without what differs from run to run. Whether a run waits long enough for a child to be put away is the machine's.
fn event(event: &Value) -> Option<Value> {
    let kind = event["type"].as_str().expect("a type");
    let mut payload = event["payload"].clone();
    if let Some(payload) = payload.as_object_mut() {
        for key in ["digest", "usage", "elapsed_ms", "until", "call"] {
            payload.remove(key);
        }
    }
    if kind == "run_waiting" && payload["waits_for"] == "child" {
        return None;
    }
    Some(json!({"type": kind, "payload": payload}))
}

/// A call of the contract's own interfaces. Those of WASI are each language's own affair.
fn call(entry: &Value) -> Option<String> {
    let asked = entry["asked"].as_str()?;
    let (function, arguments) = asked.split_once(' ').unwrap_or((asked, ""));
    let own = ["context.", "tools.", "pending.", "state.", "human.", "agents.", "child."];
    if !own.iter().any(|interface| function.starts_with(interface)) {
        return None;
    }
    let kind = entry["kind"].as_str().expect("a kind");
    let arguments = match function {
        // The time, and the run that was started.
        "context.sleep-until" | "child.wait" | "child.cancel" => String::new(),
        _ => texts(arguments).join(" "),
    };
    Some(format!("{kind} {function} {arguments}"))
}

/// Arguments as they were asked; of those that are JSON in a text, the value, whatever the order of its keys.
fn texts(arguments: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut values = serde_json::Deserializer::from_str(arguments).into_iter::<String>();
    let mut end = 0;
    while let Some(Ok(text)) = values.next() {
        end = values.byte_offset();
        let value = serde_json::from_str::<Value>(&text);
        all.push(value.map_or(text, |value| value.to_string()));
    }
    all.push(arguments.get(end..).unwrap_or_default().trim().to_owned());
    all
}

/// What is in one and not in the other, with its place.
fn first_difference<T: PartialEq + std::fmt::Debug>(one: &[T], other: &[T]) -> Option<String> {
    let at = one.iter().zip(other).position(|(one, other)| one != other);
    let at = at.or_else(|| (one.len() != other.len()).then(|| one.len().min(other.len())))?;
    Some(format!("at {at}:\n  {:?}\n  {:?}", one.get(at), other.get(at)))
}

#[test]
fn one_agent_in_three_languages_does_the_same() {
    run(async {
        let server = Server::start_with(Quota::default()).await;
        let mut reference: Option<Left> = None;
        let mut differences = Vec::new();
        for language in LANGUAGES {
            let user = user_of(&server, language).await;
            for agent in ["echo", "probe"] {
                server.grant(&user, agent, &json!({})).await;
            }
            let left = left_by(&user, json!({})).await;
            assert_eq!(left.run["stop_reason"], "completed", "{language}: {}", left.run);
            let Some(reference) = &reference else {
                expected(&left.run["output"]);
                assert!(
                    left.events.len() > 25 && left.tool_ends.len() > 8 && left.calls.len() > 60,
                    "{} {}",
                    left.events.len(),
                    left.calls.len()
                );
                reference = Some(left);
                continue;
            };
            let (ours, theirs) = (&left.run["output"], &reference.run["output"]);
            for (part, value) in theirs.as_object().expect("an output") {
                if ours[part] != *value {
                    differences.push(format!("{language}, output of {part}:\n  {}\n  {value}", ours[part]));
                }
            }
            let parts = |output: &Value| output.as_object().map(Map::len);
            assert_eq!(parts(ours), parts(theirs), "{language}: {ours}");
            let of_events = first_difference(&left.events, &reference.events);
            differences.extend(of_events.map(|difference| format!("{language}, events {difference}")));
            if left.tool_ends != reference.tool_ends {
                let (ours, theirs) = (&left.tool_ends, &reference.tool_ends);
                differences.push(format!("{language}, ends of tool calls\n  {ours:?}\n  {theirs:?}"));
            }
            let of_calls = first_difference(&left.calls, &reference.calls);
            differences.extend(of_calls.map(|difference| format!("{language}, calls {difference}")));
        }
        assert!(differences.is_empty(), "what Rust does is below in each:\n{}", differences.join("\n"));
    });
}

/// The output of the reference, so that three agents that are wrong alike are not taken for right.
fn expected(output: &Value) {
    let state = json!({
        "absent": true, "same": true, "grown": true, "conflict": {"error": "conflict", "current": true},
        "present": {"error": "conflict"}, "keys": ["conf/k", "conf/t"], "after": ["conf/t"],
        "json": {"a": 1, "b": [true, null]}, "deleted": true, "deleted_again": false, "invalid": {"error": "invalid"},
    });
    let expected: Map<String, Value> = serde_json::from_value(json!({
        "context": {"has_user": true, "has_run": true, "parent": false, "session": false, "metadata": {"a": 1}, "idempotency_key": null},
        "budget": {"fuel": true, "memory": true, "deadline": true, "tool_calls": 1000, "host_calls": true},
        "events": {"progress": {"error": "invalid"}, "name": {"error": "invalid"}, "line": {"error": "too_large"}},
        "print": true,
        "files": {"wrote": 8, "appended": 14, "text": "one\ntwo\nthree\n", "wrote_bytes": 4, "bytes": [0, 1, 2, 255],
                  "entries": ["a.txt", "b.txt", "c.bin"], "missing": {"error": "not_found"}},
        "state": {"user": state, "thread": state},
        "clock": {"wall": true, "monotonic": true},
        "random": {"bytes": 16},
        "scratch": {"text": "scratch\n", "names": ["note.txt"]},
        "sleep": {"short": "ok", "past": "ok", "long": "ok"},
        "human": {"answer": {"go": true}, "default": "nobody", "invalid": {"error": "invalid"}},
        "agents": {"id": true, "echo": {"hello": "child"}, "again": {"hello": "child"},
                   "failed": {"error": "failed", "stop_reason": "guest_error", "code": "no_rows", "message": "none"},
                   "cancelled": {"error": "failed", "stop_reason": "cancelled"}, "denied": {"error": "denied"}},
        "workspace": {"text": "one\ntwo\nthree\n", "names": ["a.txt", "b.txt", "c.bin", "d.txt"]},
    }))
    .expect("an object");
    for (part, value) in &expected {
        assert_eq!(output[part], *value, "{part}");
    }
    let tools = &output["tools"];
    assert_eq!(tools["names"], json!(["file.list", "file.read", "file.write"]));
    assert_eq!(tools["read"]["text"], "first\n");
    for (part, error) in
        [("denied", "denied"), ("unknown", "unknown_tool"), ("invalid", "invalid_arguments"), ("missing", "not_found")]
    {
        assert_eq!(tools[part], json!({"error": error}), "{part}");
    }
    assert_eq!(output.as_object().map(Map::len), Some(expected.len() + 1));
}

#[test]
fn in_three_languages_an_agent_fails_with_its_own_code_and_refuses_the_same_inputs() {
    run(async {
        let server = Server::start_with(Quota::default()).await;
        for language in LANGUAGES {
            let user = user_of(&server, language).await;
            let failed = left_by(&user, json!({"only": "clock", "fail": true})).await.run;
            assert_eq!(failed["stop_reason"], "guest_error", "{language}: {failed}");
            assert_eq!(
                failed["error"],
                json!({"code": "conformance_failed", "message": "asked to fail"}),
                "{language}"
            );
            for (input, place) in [
                (json!({"onyl": "clock"}), "onyl"),
                (json!({"only": "cooking"}), "only"),
                (json!({"fail": 1}), "fail"),
                (json!("clock"), ""),
            ] {
                let refused = left_by(&user, input.clone()).await.run;
                assert_eq!(refused["error"]["code"], "invalid_input", "{language} {input}: {refused}");
                let message = refused["error"]["message"].as_str().expect("a message");
                assert!(message.contains(place), "{language} {input}: {message}");
            }
        }
    });
}
