//! The record of a run's calls: every answer from outside is there, in order, and readable by its user only.

use crate::server::{User, run, shared};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// The record of a run, over all its pages.
async fn journal(user: &User, id: &str) -> Vec<Value> {
    let mut entries = Vec::new();
    let mut after = 0;
    loop {
        let page = user.get(&format!("/v1/runs/{id}/journal?after={after}")).await.is(StatusCode::OK);
        entries.extend(page["entries"].as_array().expect("entries").iter().cloned());
        match page["next_after"].as_u64() {
            Some(next) => after = next,
            None => return entries,
        }
    }
}

fn functions(entries: &[Value]) -> Vec<String> {
    let asked = entries.iter().filter_map(|entry| entry["asked"].as_str());
    asked.map(|asked| asked.split(' ').next().unwrap_or_default().to_owned()).collect()
}

fn answer(entry: &Value) -> Vec<u8> {
    BASE64_STANDARD.decode(entry["answer"].as_str().expect("an answer")).expect("base64")
}

#[test]
fn every_call_with_an_answer_from_outside_is_kept_once_and_in_order() {
    run(async {
        let ann = shared().await.trusted().await;
        let steps = json!({"do": "seq", "steps": [
            {"do": "state_set", "scope": "user", "key": "k", "text": "a value"},
            {"do": "state_get", "scope": "user", "key": "k"},
            {"do": "file_write", "path": "a.txt", "text": "hello"},
            {"do": "file_read", "path": "a.txt"},
            {"do": "thinking", "text": "is in the events"},
            {"do": "budget"},
            {"do": "state_list", "scope": "user"},
            {"do": "state_delete", "scope": "user", "key": "k"},
            {"do": "parallel", "calls": [
                {"name": "file.list", "args": {}}, {"name": "file.read", "args": {"path": "a.txt"}},
            ], "wait": [1, 0]},
            {"do": "list_tools"},
        ]});
        let run = ann.finish(&json!({"agent": "probe", "input": steps})).await;
        assert_eq!(run["stop_reason"], "completed", "{run}");
        let entries = journal(&ann, run["id"].as_str().expect("an id")).await;
        let expected = [
            "state.set",
            "state.get",
            "tools.call",
            "tools.call",
            "context.budget",
            "state.list",
            "state.delete",
            "tools.start",
            "tools.start",
            "tools.list",
        ];
        assert_eq!(functions(&entries), expected, "{entries:#?}");
        // What changes something is there before it happens, and once more when it has.
        let kinds: Vec<_> = entries.iter().map(|entry| entry["kind"].as_str().expect("a kind")).collect();
        assert_eq!(&kinds[..4], ["started", "finished", "call", "started"]);
        assert_eq!(kinds.iter().filter(|kind| **kind == "started").count(), 6);
        assert_eq!(kinds.iter().filter(|kind| **kind == "finished").count(), 6);
        // Answers are taken in the order of the waiting.
        let started = entries.iter().filter(|e| e["asked"].as_str().is_some_and(|a| a.starts_with("tools.start")));
        let started: Vec<_> = started.collect();
        let observed: Vec<_> = entries.iter().filter(|entry| entry["kind"] == "observed").collect();
        assert_eq!((&observed[0]["of"], &observed[1]["of"]), (&started[1]["call"], &started[0]["call"]));
        // Numbers are from 1, and an answer has that of its call.
        let numbers: Vec<_> = entries
            .iter()
            .filter(|entry| entry["kind"] != "finished" && entry["kind"] != "seed")
            .map(|entry| entry["call"].as_u64().expect("a number"))
            .collect();
        assert!(numbers.iter().copied().eq(1..=numbers.len() as u64), "{numbers:?}");
        // The value that was read is the answer of the reading.
        let read =
            entries.iter().find(|e| e["asked"].as_str().is_some_and(|a| a.starts_with("state.get"))).expect("it");
        assert!(answer(read).windows(7).any(|bytes| bytes == b"a value"), "{read}");
        // Nobody else's.
        let bob = shared().await.stranger().await;
        let id = run["id"].as_str().expect("an id");
        bob.get(&format!("/v1/runs/{id}/journal")).await.problem(404, "unknown_run");
        for cursor in ["x", "-1", "1.5", ""] {
            ann.get(&format!("/v1/runs/{id}/journal?after={cursor}")).await.problem(400, "invalid_cursor");
        }
    });
}

#[test]
fn clocks_and_random_numbers_are_the_ones_of_the_record() {
    run(async {
        let ann = shared().await.trusted().await;
        let steps =
            json!({"do": "seq", "steps": [{"do": "clock"}, {"do": "random", "bytes": 24}, {"do": "sleep", "ms": 3}]});
        let run = ann.finish(&json!({"agent": "probe", "input": steps})).await;
        let entries = journal(&ann, run["id"].as_str().expect("an id")).await;
        let clocks = functions(&entries);
        assert!(clocks.iter().any(|name| name == "wall-clock.now"), "{entries:#?}");
        assert!(clocks.iter().filter(|name| *name == "monotonic-clock.now").count() >= 2, "{entries:#?}");
        let seeds: Vec<_> = entries.iter().filter(|entry| entry["kind"] == "seed").collect();
        assert_eq!(seeds.len(), 1, "{entries:#?}");
        assert_eq!(answer(seeds[0]).len(), 32);
        // Another run has another seed.
        let other = ann.finish(&json!({"agent": "probe", "input": steps})).await;
        let others = journal(&ann, other["id"].as_str().expect("an id")).await;
        assert_ne!(others.iter().find(|entry| entry["kind"] == "seed"), Some(seeds[0]));
    });
}

#[test]
fn files_of_the_workspace_through_the_standard_library_end_the_record_and_it_says_so() {
    run(async {
        let ann = shared().await.trusted().await;
        let steps = json!({"do": "seq", "steps": [
            {"do": "std", "op": "write", "path": "/scratch/a", "text": "x"},
            {"do": "budget"},
            {"do": "std", "op": "write", "path": "/workspace/a", "text": "x"},
            {"do": "budget"},
        ]});
        let run = ann.finish(&json!({"agent": "probe", "input": steps})).await;
        assert_eq!(run["stop_reason"], "completed", "{run}");
        let entries = journal(&ann, run["id"].as_str().expect("an id")).await;
        let budgets = functions(&entries).iter().filter(|name| *name == "context.budget").count();
        assert_eq!(budgets, 1, "{entries:#?}");
        let last = entries.last().expect("an entry");
        assert_eq!(last["kind"], "incomplete");
        assert!(last["why"].as_str().is_some_and(|why| why.contains("/workspace")), "{last}");
    });
}

#[test]
fn an_agent_that_reads_much_has_all_of_it_in_its_record() {
    run(async {
        let ann = shared().await.trusted().await;
        let half = 512 << 10;
        let put = ann.request(Method::PUT, "/v1/files/large").body("x".repeat(6 * half));
        assert!(put.send().await.expect("answered").status().is_success());
        let read = |n: usize| json!({"name": "file.read", "args": {"path": "large", "offset": n * half}});
        let call = |n: usize| json!({"do": "call", "name": "file.read", "args": read(n)["args"]});
        let get = json!({"do": "state_get", "scope": "user", "key": "k"});
        let set = json!({"do": "state_set", "scope": "user", "key": "k", "text": "y".repeat(600_000)});
        let at_once: Vec<_> = (0..6).map(read).collect();
        let one_by_one: Vec<_> = (0..6).map(call).collect();
        // Each within the limit on outputs, in which the agent repeats all of it.
        for (steps, bytes_min) in [
            (json!(one_by_one), 6 * half as u64),
            (json!([{"do": "parallel", "calls": at_once, "wait": [0, 1, 2, 3, 4, 5]}]), 6 * half as u64),
            (json!([set, get.clone(), get.clone(), get]), 3 * 600_000),
        ] {
            let run = ann.finish(&json!({"agent": "probe", "input": {"do": "seq", "steps": steps}})).await;
            assert_eq!(run["stop_reason"], "completed", "{}", run["error"]);
            let entries = journal(&ann, run["id"].as_str().expect("an id")).await;
            assert_eq!(entries.iter().find(|entry| entry["kind"] == "incomplete"), None);
            let bytes: u64 = entries.iter().filter_map(|entry| entry["answer_bytes"].as_u64()).sum();
            assert!(bytes >= bytes_min, "{bytes} bytes of answers");
        }
    });
}

#[test]
fn a_place_beyond_a_record_is_refused() {
    run(async {
        let ann = shared().await.trusted().await;
        let ended = ann.finish(&json!({"agent": "probe", "input": {"do": "budget"}})).await;
        let live = ann.submit(&json!({"agent": "probe", "input": {"do": "sleep", "ms": 50_000}})).await;
        for id in [ended["id"].as_str().expect("an id"), &live] {
            for after in ["999", "9223372036854775807"] {
                ann.get(&format!("/v1/runs/{id}/journal?after={after}")).await.problem(400, "cursor_ahead");
            }
            for after in ["9223372036854775808", "-1", "x", ""] {
                ann.get(&format!("/v1/runs/{id}/journal?after={after}")).await.problem(400, "invalid_cursor");
            }
        }
        let path = format!("/v1/runs/{}/journal", ended["id"].as_str().expect("an id"));
        let last = ann.get(&path).await.is(StatusCode::OK)["next_after"].as_u64().expect("a number");
        let rest = ann.get(&format!("{path}?after={last}")).await.is(StatusCode::OK);
        assert_eq!(rest, json!({"entries": [], "next_after": null}));
        ann.post(&format!("/v1/runs/{live}/cancel"), &json!({})).await.is(StatusCode::OK);
    });
}

#[test]
fn what_changes_something_is_in_the_record_before_it_does_whenever_the_host_dies() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        let mut killed = crate::process::Process::serve(dir.path()).await;
        let (operator, dev) = (killed.operator(), killed.dev());
        operator.push("probe", crate::server::guest("probe")).await.is(StatusCode::CREATED);
        let all = json!({"state": "read_write"});
        operator.send(Method::PUT, "/v1/users/dev/grants/probe", Some(&all)).await.is(StatusCode::OK);
        let set = |key: &str| json!({"do": "state_set", "scope": "user", "key": key, "text": "1"});
        let delete = json!({"do": "state_delete", "scope": "user", "key": "one"});
        let steps = [set("one"), set("two"), delete, set("three"), json!({"do": "sleep", "ms": 50_000})];
        let id = dev.submit(&json!({"agent": "probe", "input": {"do": "seq", "steps": steps}})).await;
        let list = json!({"do": "state_list", "scope": "user"});
        while !dev.probe(&list).await.to_string().contains("three") {}
        killed.kill().await;
        let server = crate::process::Process::serve(dir.path()).await;
        let dev = server.dev();
        assert_eq!(dev.ended(&id).await["stop_reason"], "outcome_unknown");
        let entries = journal(&dev, &id).await;
        let started: Vec<_> = entries.iter().filter(|entry| entry["kind"] == "started").cloned().collect();
        assert_eq!(functions(&started), ["state.set", "state.set", "state.delete", "state.set"], "{entries:#?}");
    });
}
