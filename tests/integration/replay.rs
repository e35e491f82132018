//! Replay: a run executed again from its journal does the same, or the first difference is told.

use crate::{
    component,
    idempotency::change_database,
    server::{Answer, Server, User, guest, run, shared},
    uploads::{self, Isolated},
};
use cofferdam_core::quota::Quota;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

async fn replay(user: &User, id: &str) -> Value {
    user.send(Method::POST, &format!("/v1/runs/{id}/replay"), None).await.is(StatusCode::OK)
}

fn id(run: &Value) -> &str {
    run["id"].as_str().expect("an id")
}

#[test]
fn a_run_over_every_import_is_the_same_when_it_is_replayed() {
    run(async {
        let ann = shared().await.trusted().await;
        let steps = json!({"do": "seq", "steps": [
            {"do": "context"}, {"do": "budget"},
            {"do": "state_set", "scope": "user", "key": "k", "text": "a value"},
            {"do": "state_get", "scope": "user", "key": "k"},
            {"do": "state_cas", "scope": "user", "key": "k", "expected": 99999, "text": "no"},
            {"do": "state_get", "scope": "user", "key": "not valid"},
            {"do": "file_write", "path": "a.txt", "text": "hello"},
            {"do": "file_read", "path": "a.txt"},
            {"do": "file_read", "path": "missing.txt"},
            {"do": "call", "name": "no.such"},
            {"do": "call", "name": "units.convert", "args": {"value": 1, "from": "km", "to": "m"}},
            {"do": "budget"},
            {"do": "parallel", "calls": [
                {"name": "file.list", "args": {}}, {"name": "units.convert", "args": {"value": 2, "from": "kg", "to": "g"}},
                {"name": "file.read", "args": {"path": "a.txt"}}, {"name": "no.such", "args": {}},
            ], "wait": [2, 0, 3, 1]},
            {"do": "abandon", "name": "file.list"},
            {"do": "poll", "name": "units.convert", "args": {"value": 3, "from": "km", "to": "m"}},
            {"do": "list_tools"},
            {"do": "thinking", "text": "well"}, {"do": "progress", "fraction": 0.1, "note": "n"},
            {"do": "progress", "fraction": "NaN", "note": "refused"},
            {"do": "emit", "name": "chart", "payload": {"x": 1}},
            {"do": "emit", "name": "Not Valid", "payload": 1},
            {"do": "log", "level": "warn", "text": "careful"},
            {"do": "print", "stdout": ["one", "two"], "stderr": ["three"]},
            {"do": "clock"}, {"do": "random", "bytes": 24}, {"do": "sleep", "ms": 40}, {"do": "clock"},
            {"do": "std", "op": "write", "path": "/scratch/x", "text": "scratch"},
            {"do": "std", "op": "read", "path": "/scratch/x"},
            {"do": "std", "op": "list", "path": "/scratch"},
            {"do": "state_list", "scope": "user"},
            {"do": "state_delete", "scope": "user", "key": "k"},
            {"do": "budget"},
        ]});
        let done = ann.finish(&json!({"agent": "probe", "input": steps})).await;
        assert_eq!(done["stop_reason"], "completed", "{done}");
        let found = replay(&ann, id(&done)).await;
        assert_eq!(found["same"], true, "{found:#}");
        assert_eq!(found["reached"], "end", "{found:#}");
        // The guest took the same path to the unit of fuel.
        assert_eq!(found["fuel"], done["usage"]["fuel"], "{found:#}");
        assert!(found["calls"].as_u64() > Some(20), "{found:#}");
        // It slept then, and does not now.
        assert!(found["elapsed_us"].as_u64() < Some(40_000), "{found:#}");
        // Nothing of it reached the outside: the key that it set and removed is as it was, and its log has not grown.
        let events = ann.get(&format!("/v1/runs/{}/events", id(&done))).await.is(StatusCode::OK);
        let again = replay(&ann, id(&done)).await;
        assert_eq!(again["same"], true);
        assert_eq!(ann.get(&format!("/v1/runs/{}/events", id(&done))).await.is(StatusCode::OK), events);
    });
}

#[test]
fn runs_that_failed_or_were_stopped_are_replayed_to_where_they_came() {
    run(async {
        let ann = shared().await.trusted().await;
        for (input, reason, reached) in [
            (json!({"do": "fail", "code": "sorry", "message": "no"}), "guest_error", "end"),
            (json!({"do": "must_call", "name": "no.such"}), "denied", "end"),
            (json!({"do": "invalid", "text": "no"}), "guest_error", "end"),
        ] {
            let done = ann.finish(&json!({"agent": "probe", "input": input})).await;
            assert_eq!(done["stop_reason"], reason, "{done}");
            let found = replay(&ann, id(&done)).await;
            assert_eq!((&found["same"], &found["reached"]), (&json!(true), &json!(reached)), "{found:#}");
        }
        let late = json!({
            "agent": "probe", "limits": {"deadline_ms": 100},
            "input": {"do": "seq", "steps": [{"do": "thinking", "text": "zzz"}, {"do": "sleep", "ms": 60_000}]},
        });
        let done = ann.finish(&late).await;
        assert_eq!(done["stop_reason"], "deadline", "{done}");
        let found = replay(&ann, id(&done)).await;
        assert_eq!((&found["same"], &found["reached"]), (&json!(true), &json!("where_it_was_stopped")), "{found:#}");
    });
}

#[test]
fn what_cannot_be_replayed_says_what_is_missing() {
    run(async {
        let ann = shared().await.trusted().await;
        let steps = json!({"do": "std", "op": "list", "path": "/workspace"});
        let done = ann.finish(&json!({"agent": "probe", "input": steps})).await;
        let path = |id: &str| format!("/v1/runs/{id}/replay");
        let problem = ann.send(Method::POST, &path(id(&done)), None).await.problem(409, "record_incomplete");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("/workspace")), "{problem}");
        let slow = json!({"agent": "probe", "input": {"do": "sleep", "ms": 60_000}});
        let slow = ann.submit(&slow).await;
        ann.send(Method::POST, &path(&slow), None).await.problem(409, "run_not_ended");
        ann.send(Method::POST, &format!("/v1/runs/{slow}/cancel"), None).await;
        // Nobody else's, and no run that does not exist.
        let bob = shared().await.stranger().await;
        bob.send(Method::POST, &path(id(&done)), None).await.problem(404, "unknown_run");
        ann.send(Method::POST, &path("run_nothing"), None).await.problem(404, "unknown_run");
    });
}

/// A component with one text in it changed to another of the same length, as one changed line of its source would.
fn with_other_line(component: &[u8], line: &str, other: &str) -> Vec<u8> {
    assert_eq!(line.len(), other.len());
    let mut changed = component.to_vec();
    let places: Vec<_> =
        component.windows(line.len()).enumerate().filter(|(_, bytes)| *bytes == line.as_bytes()).collect();
    assert!(!places.is_empty(), "{line:?} is in the component");
    for (place, _) in places {
        changed[place..place + other.len()].copy_from_slice(other.as_bytes());
    }
    changed
}

#[test]
fn a_changed_line_of_the_agent_is_named_side_by_side() {
    run(async {
        let server = shared().await;
        let analyst = guest("analyst");
        let pushed = server.operator.push("analyst-replayed", analyst.clone()).await;
        assert!(pushed.status.is_success(), "{}", pushed.text);
        let ann = server.stranger().await;
        server.grant(&ann, "analyst-replayed", &json!({"tools": ["file.*"], "state": "read_write"})).await;
        let csv = "name,n\na,1\nb,2\n";
        let put = ann.request(Method::PUT, "/v1/files/table.csv").body(csv).send().await.expect("answered");
        assert!(put.status().is_success());
        let done = ann.finish(&json!({"agent": "analyst-replayed", "input": {}})).await;
        assert_eq!(done["stop_reason"], "completed", "{done}");
        let replay_with = async |component: Vec<u8>| {
            let request = ann.request(Method::POST, &format!("/v1/runs/{}/replay", id(&done)));
            let request = request.header("content-type", "application/wasm").body(component);
            Answer::of(request.send().await.expect("answered")).await
        };
        let found = replay_with(analyst.clone()).await.is(StatusCode::OK);
        assert_eq!(found["same"], true, "{found:#}");
        // An event is another.
        let looking = with_other_line(&analyst, "Looking for CSV", "Hunting for CSV");
        let found = replay_with(looking).await.is(StatusCode::OK);
        let difference = &found["difference"];
        assert_eq!((&found["same"], &difference["aspect"]), (&json!(false), &json!("event")), "{found:#}");
        assert_eq!(difference["recorded"], r#"agent_thinking "Looking for CSV files in the workspace""#);
        assert_eq!(difference["now"], r#"agent_thinking "Hunting for CSV files in the workspace""#);
        // A call is another.
        let writing = with_other_line(&analyst, "file.list", "file.Mist");
        let found = replay_with(writing).await.is(StatusCode::OK);
        let difference = &found["difference"];
        assert_eq!(difference["aspect"], "call", "{found:#}");
        assert!(difference["recorded"].as_str().is_some_and(|text| text.contains("file.list")), "{found:#}");
        assert!(difference["now"].as_str().is_some_and(|text| text.contains("file.Mist")), "{found:#}");
        // What is no agent is refused as a push would be, and nothing of what was sent is kept as a plugin.
        replay_with(guest("units")).await.problem(422, "wrong_world");
        replay_with(b"text".to_vec()).await.problem(422, "not_a_component");
        let plugins = ann.get("/v1/plugins").await.text;
        assert_eq!(plugins.matches("analyst-replayed").count(), 1, "{plugins}");
    });
}

#[test]
fn a_changed_byte_of_the_record_is_named() {
    run(async {
        let server = Server::start().await;
        let ann = server.user("ann").await;
        server.grant(&ann, "probe", &json!({"tools": ["*"], "state": "read_write"})).await;
        let steps = json!({"do": "seq", "steps": [
            {"do": "state_set", "scope": "user", "key": "k", "text": "a value"},
            {"do": "state_get", "scope": "user", "key": "k"},
            {"do": "file_write", "path": "a.txt", "text": "hello"},
        ]});
        let done = ann.finish(&json!({"agent": "probe", "input": steps})).await;
        assert_eq!(done["stop_reason"], "completed", "{done}");
        let Server { app, dir, .. } = server;
        app.shutdown().await;
        // The bytes of an answer, of a question, and of the beginning of an entry.
        let changes: [(&'static str, &'static str, &str, &str); 3] = [
            ("replace(hex(payload), '612076616C7565', '412076616C7565')", "end", "a value", "A value"),
            (
                "replace(hex(payload), '66696C652E7772697465', '66696C652E5772697465')",
                "call",
                "file.Write",
                "file.write",
            ),
            ("hex(substr(payload, 1, 1)) || 'FF' || hex(substr(payload, 3))", "record", "", ""),
        ];
        let original = dir.path().join("original.db");
        std::fs::copy(dir.path().join("cofferdam.db"), &original).expect("copied");
        let mut dir = dir;
        for (change, aspect, recorded, now) in changes {
            std::fs::copy(dir.path().join("original.db"), dir.path().join("cofferdam.db")).expect("copied");
            let statement = format!("UPDATE records SET payload = unhex({change})");
            change_database(dir.path(), &[Box::leak(statement.into_boxed_str())]).await;
            let server = Server::start_empty(dir, Quota::default()).await;
            let again = User::new("ann", &server.app.url(), &ann.key);
            let answer = again.send(Method::POST, &format!("/v1/runs/{}/replay", id(&done)), None).await;
            if aspect == "record" {
                let problem = answer.problem(500, "record_damaged");
                assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("chunk 1")), "{problem}");
            } else {
                let found = answer.is(StatusCode::OK);
                let difference = &found["difference"];
                assert_eq!(difference["aspect"], aspect, "{found:#}");
                // The recorded end is the run's own; the recorded call is what the record says.
                let contains =
                    |side: &str, text: &str| difference[side].as_str().is_some_and(|side| side.contains(text));
                assert!(contains("recorded", recorded) && contains("now", now), "{found:#}");
            }
            let Server { app, dir: kept, .. } = server;
            app.shutdown().await;
            dir = kept;
        }
    });
}

/// All that there is of a user outside of replays.
async fn outside(user: &User) -> Vec<String> {
    let keys = user.probe(&json!({"do": "state_list", "scope": "user"})).await.to_string();
    let mut all = vec![user.get("/v1/files").await.text, keys];
    for file in ["a.txt", "log.txt"] {
        all.push(user.get(&format!("/v1/files/{file}")).await.text);
    }
    all
}

async fn runs(user: &User) -> Vec<Value> {
    let runs = user.get("/v1/runs?limit=100").await.is(StatusCode::OK);
    runs["runs"].as_array().expect("runs").clone()
}

async fn replay_with(user: &User, id: &str, component: Vec<u8>) -> Answer {
    let request = user.request(Method::POST, &format!("/v1/runs/{id}/replay"));
    let request = request.header("content-type", "application/wasm").body(component);
    Answer::of(request.send().await.expect("answered")).await
}

#[test]
fn a_replay_reaches_nothing_outside_of_itself() {
    run(async {
        let ann = shared().await.trusted().await;
        let steps = json!({"do": "seq", "steps": [
            {"do": "state_set", "scope": "user", "key": "k", "text": "of the run"},
            {"do": "file_write", "path": "a.txt", "text": "of the run"},
            {"do": "file_write", "path": "log.txt", "text": "a line", "append": true},
            {"do": "spawn", "agent": "echo", "input": 1},
            {"do": "ask", "prompt": "?", "expires_ms": 200, "default": 7},
            {"do": "thinking", "text": "done"},
        ]});
        let done = ann.finish(&json!({"agent": "probe", "input": steps})).await;
        assert_eq!(done["stop_reason"], "completed", "{done}");
        // What the run did is changed since, and one thing of it taken away.
        ann.probe(&json!({"do": "file_write", "path": "a.txt", "text": "of the user"})).await;
        ann.probe(&json!({"do": "state_delete", "scope": "user", "key": "k"})).await;
        let before = (outside(&ann).await, ann.events(id(&done)).await);
        let count = runs(&ann).await.len();
        for _ in 0..2 {
            let found = replay(&ann, id(&done)).await;
            assert_eq!((&found["same"], &found["reached"]), (&json!(true), &json!("end")), "{found:#}");
        }
        assert_eq!(runs(&ann).await.len(), count, "no child was started again");
        assert_eq!((outside(&ann).await, ann.events(id(&done)).await), before);

        // Another component, which asks for what the run never did: nothing of it is done, and it is not waited for.
        for asked in [
            json!({"do": "file_write", "path": "b.txt", "text": "stolen"}),
            json!({"do": "file_read", "path": "a.txt"}),
            json!({"do": "state_set", "scope": "user", "key": "stolen", "text": "stolen"}),
            json!({"do": "spawn", "agent": "echo", "input": 1}),
            json!({"do": "ask", "prompt": "Your password?"}),
            json!({"do": "sleep_until", "in_ms": 60_000}),
            json!({"do": "std", "op": "list", "path": "/workspace"}),
        ] {
            let echoed = ann.finish(&json!({"agent": "echo", "input": asked})).await;
            assert_eq!(echoed["stop_reason"], "completed", "{echoed}");
            let (before, count) = (outside(&ann).await, runs(&ann).await.len());
            let begun = Instant::now();
            let answer = replay_with(&ann, id(&echoed), guest("probe")).await;
            let found = answer.is(StatusCode::OK);
            assert_eq!(found["same"], false, "{asked}: {found:#}");
            assert!(!found.to_string().contains("of the user"), "{asked}: {found:#}");
            assert!(begun.elapsed() < Duration::from_secs(30), "{asked}");
            assert_eq!(runs(&ann).await.len(), count, "{asked}");
            assert_eq!(outside(&ann).await, before, "{asked}");
            let again = ann.get(&format!("/v1/runs/{}", id(&echoed))).await.is(StatusCode::OK);
            assert_eq!(again, echoed, "{asked}");
        }
    });
}

#[test]
fn a_hostile_component_meets_in_a_replay_what_it_meets_in_a_push_and_in_a_run() {
    run(async {
        let isolated = Isolated::start(Quota::default()).await;
        let server = &isolated.server;
        server.operator.push("echo", guest("echo")).await.is(StatusCode::CREATED);
        let ann = server.user("ann").await;
        // Refused as a push is, in the same words.
        let done = ann.finish(&json!({"agent": "echo", "input": 1})).await;
        for (what, component) in uploads::refused() {
            let pushed = server.operator.push("hostile", component.clone()).await;
            let replayed = replay_with(&ann, id(&done), component).await;
            assert_eq!(pushed.status, StatusCode::UNPROCESSABLE_ENTITY, "{what}: {}", pushed.text);
            assert_eq!(replayed.status, pushed.status, "{what}: {}", replayed.text);
            assert_eq!(replayed.json()["code"], pushed.json()["code"], "{what}");
        }
        // What compiles meets the limits of the run.
        let limits = json!({"fuel": 2_000_000_000_u64, "memory_bytes": 16 << 20, "deadline_ms": 2_000});
        for (run, reason) in [
            (component::calm().describe("(loop $l (br $l)) unreachable"), None),
            (component::guest("(loop $l (br $l)) unreachable"), Some("out_of_fuel")),
            (component::guest("(drop (memory.grow (i32.const 4096))) unreachable"), Some("trap")),
        ] {
            let done = ann.finish(&json!({"agent": "echo", "input": 1, "limits": limits})).await;
            let begun = Instant::now();
            let found = replay_with(&ann, id(&done), run.build()).await.is(StatusCode::OK);
            assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
            assert_eq!(found["same"], false, "{found:#}");
            if let Some(reason) = reason {
                let now = found["difference"]["now"].as_str().unwrap_or_default();
                assert!(now.contains(reason) || found["difference"]["aspect"] == "event", "{reason}: {found:#}");
            }
            assert!(found["fuel"].as_u64() <= Some(2_000_000_000), "{found:#}");
        }
        // Nothing is kept of any of them, nothing runs on, and nothing of the host broke.
        isolated.is_well().await;
        let usage = ann.get("/v1/usage").await.is(StatusCode::OK);
        assert_eq!(
            (&usage["now"]["runs_executing"], &usage["now"]["memory_bytes"]),
            (&json!(0), &json!(0)),
            "{usage:#}"
        );
    });
}
