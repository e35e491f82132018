//! Runs that wait: for a time, and for people. They hold nothing, survive a restart, and go on with what they were told.

use crate::server::{Server, User, guest, run, shared};
use cofferdam_core::quota::Quota;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// All that the probe asks for.
async fn asker(server: &Server) -> User {
    let user = server.stranger().await;
    let grant =
        json!({"tools": ["*"], "state": "read_write", "workspace": "read_write", "human": true, "agents": ["*"]});
    server.grant(&user, "probe", &grant).await;
    user
}

/// Waits until a run waits, and gives it.
async fn waiting(user: &User, id: &str) -> Value {
    let waits = async {
        loop {
            let run = user.get(&format!("/v1/runs/{id}")).await.is(StatusCode::OK);
            if run["status"] == "waiting" {
                return run;
            }
            assert!(run["finished_at"].is_null(), "{run}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waits).await.expect("it waits")
}

fn steps(steps: &[Value]) -> Value {
    json!({"agent": "probe", "input": {"do": "seq", "steps": steps}})
}

fn ask() -> Value {
    let schema = json!({"type": "object", "properties": {"room": {"enum": ["blue", "red"]}}, "required": ["room"]});
    json!({"do": "ask", "prompt": "Which room?", "schema": schema})
}

async fn answer(user: &User, id: &str, answer: &Value) -> crate::server::Answer {
    user.post(&format!("/v1/runs/{id}/input"), &json!({ "answer": answer })).await
}

#[test]
fn a_question_is_answered_once_and_the_run_goes_on_with_what_it_had() {
    run(async {
        let server = shared().await;
        let ann = asker(server).await;
        let before = json!({"do": "state_set", "scope": "user", "key": "k", "text": "v"});
        let scratch = json!({"do": "std", "op": "write", "path": "/scratch/x", "text": "kept"});
        let read = json!({"do": "std", "op": "read", "path": "/scratch/x"});
        let clock = json!({"do": "clock"});
        let think = |text: &str| json!({"do": "thinking", "text": text});
        let id = ann
            .submit(&steps(&[
                think("before"),
                before.clone(),
                scratch,
                clock.clone(),
                json!({"do": "random", "bytes": 16}),
                json!({"do": "print", "stdout": ["a line"]}),
                ask(),
                read,
                clock,
                think("after"),
            ]))
            .await;
        let run = waiting(&ann, &id).await;
        let wait = &run["wait"];
        assert_eq!((&wait["for"], &wait["about"]["prompt"]), (&json!("human"), &json!("Which room?")), "{run:#}");
        assert!(wait["until"].is_string() && wait["about"]["schema"]["required"] == json!(["room"]), "{run:#}");
        // Its store is gone, and its slot is given back once the wait is durable, which is what shows.
        let given_back = async {
            while ann.get("/v1/usage").await.is(StatusCode::OK)["now"]["runs_executing"] != 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), given_back).await.expect("the slot is given back");
        // The event has the question.
        let page = ann.get(&format!("/v1/runs/{id}/events")).await.is(StatusCode::OK);
        let events = page["events"].as_array().expect("events");
        let told = events.iter().find(|event| event["type"] == "run_waiting").expect("it is told");
        assert_eq!((&told["priority"], &told["payload"]["about"]["prompt"]), (&json!(1), &json!("Which room?")));
        // What does not fit is refused with its place, and the run waits on.
        let misfit = answer(&ann, &id, &json!({"room": "green"})).await.problem(422, "answer_misfit");
        assert_eq!(misfit["field"], "answer/room", "{misfit}");
        answer(&ann, &id, &json!("blue")).await.problem(422, "answer_misfit");
        ann.post(&format!("/v1/runs/{id}/input"), &json!({"answer": {"room": "red"}, "call": 99}))
            .await
            .problem(409, "not_waiting");
        server
            .stranger()
            .await
            .post(&format!("/v1/runs/{id}/input"), &json!({"answer": 1}))
            .await
            .problem(404, "unknown_run");
        answer(&ann, &id, &json!({"room": "blue"})).await.is(StatusCode::OK);
        let again = answer(&ann, &id, &json!({"room": "red"})).await;
        assert_eq!(again.status, StatusCode::CONFLICT, "{}", again.text);
        let done = ann.ended(&id).await;
        assert_eq!(done["stop_reason"], "completed", "{done:#}");
        let output = &done["output"];
        assert_eq!((&output[6], &output[7]["ok"]), (&json!({"ok": {"room": "blue"}}), &json!("kept")), "{output:#}");
        // Events are there once, in order, without holes; the state was set once.
        let events = ann.events(&id).await;
        let kinds: Vec<_> = events.iter().map(|event| event["type"].as_str().expect("a type")).collect();
        let expected = ["agent_started", "agent_thinking", "log", "run_waiting", "agent_thinking", "agent_completed"];
        assert_eq!(kinds, expected, "{events:#?}");
        assert!(events.iter().zip(1_u64..).all(|(event, seq)| event["seq"] == seq), "{events:#?}");
        assert_eq!(output[1]["ok"], 1, "{output:#}");
        answer(&ann, &id, &json!({"room": "red"})).await.problem(409, "not_waiting");
        // And all of it can be replayed.
        let found = ann.send(Method::POST, &format!("/v1/runs/{id}/replay"), None).await.is(StatusCode::OK);
        assert_eq!((&found["same"], &found["reached"]), (&json!(true), &json!("end")), "{found:#}");
        assert_eq!(found["fuel"], done["usage"]["fuel"], "what was executed again is not charged again");
    });
}

#[test]
fn what_nobody_answers_has_its_default_or_expires() {
    run(async {
        let ann = asker(shared().await).await;
        let asks = |default: Value| json!({"do": "ask", "prompt": "?", "expires_ms": 300, "default": default});
        let done = ann.finish(&steps(&[asks(json!(7))])).await;
        assert_eq!(done["output"], json!([{"ok": 7}]), "{done:#}");
        let done = ann.finish(&steps(&[json!({"do": "ask", "prompt": "?", "expires_ms": 300})])).await;
        assert_eq!(done["output"][0]["error"]["kind"], "expired", "{done:#}");
        // What cannot be asked is told, with why.
        for (question, kind, why) in [
            (json!({"do": "ask", "prompt": ""}), "invalid", "prompt"),
            (json!({"do": "ask", "prompt": "?", "schema": {"type": "nothing"}}), "invalid", "schema"),
            (json!({"do": "ask", "prompt": "?", "schema": {"$ref": "http://example.com"}}), "invalid", "refers"),
            (json!({"do": "ask", "prompt": "?", "schema": {"type": "string"}, "default": 1}), "invalid", "default"),
            (json!({"do": "ask", "prompt": "?", "expires_ms": 0}), "invalid", "expires-ms"),
        ] {
            let done = ann.finish(&steps(std::slice::from_ref(&question))).await;
            let error = &done["output"][0]["error"];
            assert_eq!(error["kind"], kind, "{question}: {done:#}");
            assert!(error["text"].as_str().is_some_and(|text| text.contains(why)), "{question}: {error}");
        }
        let bob = shared().await.stranger().await;
        shared().await.grant(&bob, "probe", &json!({"tools": ["*"]})).await;
        let done = bob.finish(&steps(&[ask()])).await;
        assert_eq!(done["output"][0]["error"]["kind"], "denied", "{done:#}");
        let used = json!({"do": "std", "op": "list", "path": "/workspace"});
        let done = ann.finish(&steps(&[used, ask()])).await;
        assert_eq!(done["output"][1]["error"]["kind"], "unavailable", "{done:#}");
    });
}

#[test]
fn a_run_that_has_waited_can_use_its_workspace_and_not_wait_again_after_that() {
    run(async {
        let ann = asker(shared().await).await;
        let std = |op: &str, path: &str| json!({"do": "std", "op": op, "path": path, "text": "written"});
        let id = ann.submit(&steps(&[ask(), std("write", "/workspace/w"), std("read", "/workspace/w"), ask()])).await;
        waiting(&ann, &id).await;
        answer(&ann, &id, &json!({"room": "blue"})).await.is(StatusCode::OK);
        let done = ann.ended(&id).await;
        assert_eq!(done["output"][2]["ok"], "written", "{done:#}");
        assert_eq!(done["output"][3]["error"]["kind"], "unavailable", "{done:#}");
    });
}

#[test]
fn a_grant_can_make_a_person_allow_each_call_of_a_tool() {
    run(async {
        let server = shared().await;
        let ann = server.stranger().await;
        let grant = json!({"tools": ["file.*"], "approve": ["file.write"]});
        server.grant(&ann, "probe", &grant).await;
        let write = |path: &str| json!({"do": "file_write", "path": path, "text": "as asked"});
        let started =
            json!({"do": "parallel", "calls": [{"name": "file.write", "args": {"path": "c.txt", "text": "c"}}]});
        let list = json!({"do": "file_list", "path": ""});
        let id = ann.submit(&steps(&[write("a.txt"), write("b.txt"), started, write("d.txt"), list])).await;
        let run = waiting(&ann, &id).await;
        let wait = &run["wait"];
        assert_eq!((&wait["for"], &wait["about"]["tool"]), (&json!("approval"), &json!("file.write")), "{run:#}");
        assert_eq!(wait["about"]["arguments"]["path"], "a.txt", "{run:#}");
        answer(&ann, &id, &json!({"decision": "perhaps"})).await.problem(422, "answer_misfit");
        let decide = async |decision: Value| {
            let call = waiting(&ann, &id).await["wait"]["call"].clone();
            let body = json!({"answer": decision, "call": call});
            ann.post(&format!("/v1/runs/{id}/input"), &body).await.is(StatusCode::OK);
            // It has gone on when it waits for another call, or has ended.
            while ann.get(&format!("/v1/runs/{id}")).await.is(StatusCode::OK)["wait"]["call"] == call {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        decide(json!({"decision": "approve"})).await;
        decide(json!({"decision": "approve", "arguments": {"path": "b.txt", "text": "as edited"}})).await;
        decide(json!({"decision": "approve"})).await;
        decide(json!({"decision": "deny", "reason": "not on a Friday"})).await;
        let done = ann.ended(&id).await;
        assert_eq!(done["stop_reason"], "completed", "{done:#}");
        assert!(done["output"][3].to_string().contains("not on a Friday"), "{done:#}");
        let read = async |path: &str| ann.get(&format!("/v1/files/{path}")).await;
        assert_eq!((read("a.txt").await.text, read("b.txt").await.text), ("as asked".into(), "as edited".into()));
        assert_eq!((read("c.txt").await.text.as_str(), read("d.txt").await.status), ("c", StatusCode::NOT_FOUND));
        // What is not granted needs nobody's word, and a replay needs nobody at all.
        let found = ann.send(Method::POST, &format!("/v1/runs/{id}/replay"), None).await.is(StatusCode::OK);
        assert_eq!(found["same"], true, "{found:#}");
        let bob = server.stranger().await;
        server.grant(&bob, "probe", &json!({"approve": ["*"]})).await;
        let done = bob.finish(&steps(&[write("a.txt")])).await;
        assert_eq!(done["output"][0]["error"]["kind"], "denied", "{done:#}");
    });
}

#[test]
fn a_sleep_is_not_the_runs_time_and_ends_when_it_should() {
    run(async {
        let ann = asker(shared().await).await;
        let begun = Instant::now();
        let sleeps = json!({
            "agent": "probe", "limits": {"deadline_ms": 1_000},
            "input": {"do": "seq", "steps": [{"do": "sleep_until", "in_ms": 1_500}, {"do": "sleep_until", "in_ms": 20}]},
        });
        let done = ann.finish(&sleeps).await;
        assert_eq!(done["stop_reason"], "completed", "{done:#}");
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(1_500) && took < Duration::from_secs(8), "{took:?}");
        assert!(done["usage"]["wall_ms"].as_u64() < Some(1_000), "{done:#}");
        let done = ann.finish(&steps(&[json!({"do": "sleep_until", "in_ms": 4_000_000_000_000_u64})])).await;
        assert_eq!(done["output"][0]["error"]["kind"], "invalid", "{done:#}");
    });
}

#[test]
fn runs_that_are_due_together_lose_nothing_of_what_they_say_while_they_come_to_wait_again() {
    run(async {
        let server = Server::start_with(Quota { runs_queued: 1_000, ..Quota::default() }).await;
        let ann = asker(&server).await;
        let at = Instant::now() + Duration::from_secs(5);
        let mut ids = Vec::new();
        for _ in 0..300 {
            let in_ms = at.saturating_duration_since(Instant::now()).max(Duration::from_millis(1_100)).as_millis();
            ids.push(
                ann.submit(&steps(&[
                    json!({"do": "sleep_until", "in_ms": u64::try_from(in_ms).expect("a few seconds")}),
                    json!({"do": "sleep", "ms": 60}),
                    json!({"do": "thinking", "text": "x"}),
                    json!({"do": "sleep_until", "in_ms": 1_100}),
                    json!({"do": "thinking", "text": "y"}),
                ]))
                .await,
            );
        }
        for id in ids {
            assert_eq!(ann.ended(&id).await["stop_reason"], "completed");
            let events = ann.get(&format!("/v1/runs/{id}/events")).await.is(StatusCode::OK);
            let types: Vec<_> =
                events["events"].as_array().expect("events").iter().map(|e| e["type"].clone()).collect();
            let thought = "agent_thinking";
            let all = ["agent_started", "run_waiting", thought, "run_waiting", thought, "agent_completed"];
            assert_eq!(types, all, "{id}");
        }
    });
}

/// Answers a run's questions, each as it comes, and gives the run when it has ended.
async fn answered(user: &User, id: &str, questions: usize) -> Value {
    let mut last = json!(null);
    for _ in 0..questions {
        last = loop {
            let call = waiting(user, id).await["wait"]["call"].clone();
            if call != last {
                break call;
            }
            tokio::task::yield_now().await;
        };
        answer(user, id, &json!({"room": "red"})).await.is(StatusCode::OK);
    }
    user.ended(id).await
}

/// How many events of a kind a run has said.
async fn count(user: &User, id: &str, kind: &str) -> usize {
    let events = user.get(&format!("/v1/runs/{id}/events")).await.is(StatusCode::OK);
    events["events"].as_array().expect("events").iter().filter(|event| event["type"] == kind).count()
}

#[test]
fn what_tools_took_of_a_runs_budgets_is_not_given_anew_when_it_has_waited() {
    run(async {
        let server = Server::start().await;
        server.operator.push("effects", guest("effects")).await.is(StatusCode::CREATED);
        let ann = asker(&server).await;
        server.grant(&ann, "effects", &json!({"workspace": "read_write"})).await;
        let path = format!("/v1/users/{}/quota", ann.name);
        server.operator.send(Method::PUT, &path, Some(&json!({"events_per_run": 40}))).await.is(StatusCode::OK);
        let call = json!({"do": "call", "name": "effects.put", "args": {"prints": 15}});
        let id = ann.submit(&steps(&[call.clone(), ask(), call.clone(), ask(), call.clone()])).await;
        let waited = answered(&ann, &id, 2).await;
        let id = ann.submit(&steps(&[call.clone(), call.clone(), call])).await;
        let at_once = ann.ended(&id).await;
        for done in [&waited, &at_once] {
            assert_eq!(done["stop_reason"], "completed", "{done:#}");
        }
        // Two waits are events, too.
        let lines = async |run: &Value| count(&ann, run["id"].as_str().expect("an id"), "log").await;
        assert_eq!((lines(&waited).await, lines(&at_once).await), (38, 40));
        assert_eq!(
            waited["usage"]["host_calls"].as_u64(),
            at_once["usage"]["host_calls"].as_u64().map(|calls| calls + 2)
        );
    });
}

#[test]
fn a_line_that_was_dropped_is_dropped_again_when_there_is_more_room() {
    run(async {
        let server = shared().await;
        let ann = asker(server).await;
        let path = format!("/v1/users/{}/quota", ann.name);
        let set = async |quota: &Value| {
            server.operator.send(Method::PUT, &path, Some(quota)).await.is(StatusCode::OK);
        };
        set(&json!({"log_bytes_per_run": 1_024})).await;
        let print = json!({"do": "print", "stdout": vec!["y".repeat(300); 5]});
        let think = |text: &str| json!({"do": "thinking", "text": text});
        let id = ann.submit(&steps(&[print, think("a"), ask(), think("b"), ask(), think("c")])).await;
        waiting(&ann, &id).await;
        set(&json!({})).await;
        let done = answered(&ann, &id, 2).await;
        assert_eq!(done["stop_reason"], "completed", "{done:#}");
        let said = (count(&ann, &id, "log").await, count(&ann, &id, "agent_thinking").await);
        assert_eq!(said, (3, 3), "{done:#}");
        let same = ann.send(Method::POST, &format!("/v1/runs/{id}/replay"), None).await.is(StatusCode::OK);
        assert_eq!(same["same"], true, "{same:#}");
    });
}

#[test]
fn a_quota_that_is_cut_while_a_run_waits_takes_nothing_of_what_it_said_away() {
    run(async {
        let server = shared().await;
        let ann = asker(server).await;
        let log = json!({"do": "log", "level": "info", "text": "x".repeat(300)});
        let think = |text: &str| json!({"do": "thinking", "text": text});
        let all =
            [log.clone(), log.clone(), log.clone(), log.clone(), log, think("before"), ask(), think("a"), think("b")];
        let again = [&all[..], &[ask(), think("end")]].concat();
        let id = ann.submit(&steps(&again)).await;
        waiting(&ann, &id).await;
        let path = format!("/v1/users/{}/quota", ann.name);
        let cut = json!({"log_bytes_per_run": 1_024});
        server.operator.send(Method::PUT, &path, Some(&cut)).await.is(StatusCode::OK);
        let done = answered(&ann, &id, 2).await;
        assert_eq!(done["stop_reason"], "completed", "{done:#}");
        let of = async |kind| count(&ann, &id, kind).await;
        assert_eq!((of("log").await, of("agent_thinking").await, of("run_waiting").await), (5, 4, 2), "{done:#}");
        let same = ann.send(Method::POST, &format!("/v1/runs/{id}/replay"), None).await.is(StatusCode::OK);
        assert_eq!(same["same"], true, "{same:#}");
    });
}

#[test]
fn a_run_that_waits_can_be_cancelled_and_outlives_a_restart() {
    run(async {
        let server = Server::start_with(Quota::default()).await;
        let ann = asker(&server).await;
        let cancelled = ann.submit(&steps(&[ask()])).await;
        waiting(&ann, &cancelled).await;
        ann.post(&format!("/v1/runs/{cancelled}/cancel"), &json!({})).await;
        let ended = ann.ended(&cancelled).await;
        assert_eq!(ended["stop_reason"], "cancelled", "{ended:#}");
        answer(&ann, &cancelled, &json!({"room": "red"})).await.problem(409, "not_waiting");
        let (asks, sleeps) = (
            ann.submit(&steps(&[ask()])).await,
            ann.submit(&steps(&[json!({"do": "sleep_until", "in_ms": 1_200})])).await,
        );
        waiting(&ann, &asks).await;
        waiting(&ann, &sleeps).await;
        let server = server.restart().await;
        let ann = User::new(&ann.name, &server.app.url(), &ann.key);
        assert_eq!(ann.ended(&sleeps).await["stop_reason"], "completed");
        waiting(&ann, &asks).await;
        answer(&ann, &asks, &json!({"room": "red"})).await.is(StatusCode::OK);
        let done = ann.ended(&asks).await;
        assert_eq!(done["output"], json!([{"ok": {"room": "red"}}]), "{done:#}");
        let listed = ann.get("/v1/runs?status=waiting").await.is(StatusCode::OK);
        assert_eq!(listed["runs"], json!([]));
    });
}

/// A question that answers itself at once, and for which its run is put away all the same.
fn asks_itself(prompt: &str) -> Value {
    json!({"do": "ask", "prompt": prompt, "expires_ms": 50, "default": 1})
}

async fn set(server: &Server, user: &User, quota: &Value) {
    let path = format!("/v1/users/{}/quota", user.name);
    server.operator.send(Method::PUT, &path, Some(quota)).await.is(StatusCode::OK);
}

#[test]
fn a_wait_is_an_event_of_the_runs_own() {
    run(async {
        let server = shared().await;
        let ann = asker(server).await;
        let think = json!({"do": "thinking", "text": "x"});
        set(server, &ann, &json!({"events_per_run": 4})).await;
        let ask = asks_itself("?");
        let family = json!({"do": "spawn", "agent": "probe", "input": {"do": "sleep", "ms": 1_000}});
        let sleeps = json!({"do": "sleep_until", "in_ms": 2_000});
        let call = json!({"do": "budget"});
        let all = [&think, &ask, &ask, &call, &ask, &ask, &think, &sleeps, &family, &call].map(Clone::clone);
        let done = ann.finish(&steps(&all)).await;
        assert_eq!(done["stop_reason"], "completed", "{done:#}");
        let output = &done["output"];
        // What it said and waited for is counted also when it is executed again.
        assert_eq!((&output[3]["events"], &output[9]["events"]), (&json!(1), &json!(0)), "{output:#}");
        assert_eq!((&output[4]["ok"], &output[6]["error"]["kind"]), (&json!(1), &json!("too_many")), "{output:#}");
        for error in [&output[5]["error"], &output[7]["error"], &output[8]["answer"]["error"]["wait"]] {
            assert_eq!(error["kind"], "exhausted", "{error} of {output:#}");
            assert!(error["text"].as_str().is_some_and(|text| text.contains("4 events")), "{error} of {output:#}");
        }
        let events = ann.events(done["id"].as_str().expect("an id")).await;
        let waits = events.iter().filter(|event| event["type"] == "run_waiting").count();
        assert_eq!(waits, 3, "{events:#?}");
        // Who asks on is ended.
        let on = vec![ask; 4 + 110];
        let done = ann.finish(&steps(&on)).await;
        assert_eq!(done["stop_reason"], "quota", "{done:#}");
        // Their texts count as well.
        set(server, &ann, &json!({"event_bytes_per_run": 1_024})).await;
        let done = ann.finish(&steps(&[asks_itself(&"x".repeat(500)), asks_itself(&"y".repeat(500))])).await;
        let output = &done["output"];
        assert_eq!((&output[0]["ok"], &output[1]["error"]["kind"]), (&json!(1), &json!("exhausted")), "{done:#}");
        assert!(output[1]["error"]["text"].as_str().is_some_and(|text| text.contains("1024 bytes")), "{done:#}");
    });
}

#[test]
fn what_is_executed_again_is_paid_for_and_is_not_the_runs_time() {
    run(async {
        const WAITS: u64 = 8;
        let server = shared().await;
        let ann = asker(server).await;
        // The work is before the waits, so that it is done again after each.
        let work = json!({"do": "echo", "value": (0..200_000).collect::<Vec<_>>()});
        let with = |waits: u64| {
            let waits = (0..waits).map(|_| asks_itself("?"));
            steps(&std::iter::once(work.clone()).chain(waits).collect::<Vec<_>>())
        };
        let once = ann.finish(&with(0)).await["usage"]["fuel"].as_u64().expect("fuel");
        // As long as all that follows takes, not as much comes back as one execution burns.
        set(server, &ann, &json!({"fuel_per_minute": once * 20})).await;
        let begun = Instant::now();
        let done = ann.finish(&with(WAITS)).await;
        assert_eq!(done["stop_reason"], "completed", "{done:#}");
        let usage = ann.get("/v1/usage").await.is(StatusCode::OK);
        let took = begun.elapsed();
        let left = usage["now"]["fuel_left_of_minute"].as_u64().expect("fuel");
        let came_back = once * 20 * u64::try_from(took.as_millis()).expect("short") / 60_000;
        // It was executed once, and again for each wait, but for what it does behind the waits.
        assert!(left <= once * (20 - WAITS / 2) + came_back, "{left} of {} are left, one takes {once}", once * 20);
        // Its own bill has one.
        let fuel = done["usage"]["fuel"].as_u64().expect("fuel");
        assert!(fuel < once * 3 / 2, "{fuel} {once}");
        // Its time has one, too.
        let wall = Duration::from_millis(done["usage"]["wall_ms"].as_u64().expect("a number"));
        assert!(wall * 2 < took, "{took:?} {done:#}");
    });
}

#[test]
fn never_more_runs_wait_than_may_however_many_begin_to_at_once() {
    run(async {
        const MAY_WAIT: usize = 2;
        const RUNS: usize = 16;
        let quota = Quota { runs_at_once: 16, ..Quota::default() };
        let server = Server::start_with(quota).await;
        let ann = asker(&server).await;
        set(&server, &ann, &json!({"runs_waiting": MAY_WAIT})).await;
        let mut ids = Vec::new();
        for _ in 0..RUNS {
            ids.push(ann.submit(&steps(&[ask()])).await);
        }
        let settled = async |user: &User, ids: &[String]| {
            let mut waiting = Vec::new();
            for id in ids {
                let settled = async {
                    loop {
                        let run = user.get(&format!("/v1/runs/{id}")).await.is(StatusCode::OK);
                        if run["status"] == "waiting" || !run["finished_at"].is_null() {
                            break run;
                        }
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                };
                let run = tokio::time::timeout(Duration::from_secs(20), settled).await.expect("it waits or ends");
                if run["status"] == "waiting" {
                    waiting.push(id.clone());
                } else {
                    assert_eq!(run["output"][0]["error"]["kind"], "exhausted", "{run:#}");
                }
            }
            waiting
        };
        let waiting = settled(&ann, &ids).await;
        assert_eq!(waiting.len(), MAY_WAIT, "as many as may, and no more");
        // The next host knows of them, and a place that becomes free is taken once.
        let server = server.restart().await;
        let ann = User::new(&ann.name, &server.app.url(), &ann.key);
        let more = [ann.submit(&steps(&[ask()])).await, ann.submit(&steps(&[ask()])).await];
        assert_eq!(settled(&ann, &more).await, Vec::<String>::new());
        answer(&ann, &waiting[0], &json!({"room": "red"})).await.is(StatusCode::OK);
        ann.ended(&waiting[0]).await;
        let mut next = Vec::new();
        for _ in 0..RUNS {
            next.push(ann.submit(&steps(&[ask()])).await);
        }
        assert_eq!(settled(&ann, &next).await.len(), MAY_WAIT - 1);
    });
}

#[test]
fn an_answer_at_the_moment_its_question_expires_is_what_the_run_gets_or_is_refused() {
    run(async {
        const QUESTIONS: i64 = 60;
        let quota = Quota { runs_at_once: 16, ..Quota::default() };
        let server = Server::start_with(quota).await;
        let ann = asker(&server).await;
        let mut asked = tokio::task::JoinSet::new();
        for n in 0..QUESTIONS {
            let ann = ann.clone();
            asked.spawn(async move {
                let question = json!({"do": "ask", "prompt": "?", "expires_ms": 3_000});
                let id = ann.submit(&steps(&[question])).await;
                let run = waiting(&ann, &id).await;
                let until: jiff::Timestamp = run["wait"]["until"].as_str().expect("a time").parse().expect("a time");
                // From well before it expires to well after.
                let at = until.as_millisecond() + n * 4 - 180;
                let left = at - jiff::Timestamp::now().as_millisecond();
                tokio::time::sleep(Duration::from_millis(u64::try_from(left).unwrap_or(0))).await;
                let answered = answer(&ann, &id, &json!(n)).await;
                let done = ann.ended(&id).await;
                let taken = answered.status == StatusCode::OK;
                if taken {
                    assert_eq!(done["output"], json!([{"ok": n}]), "{done:#}");
                } else {
                    answered.problem(409, "not_waiting");
                    assert_eq!(done["output"][0]["error"]["kind"], "expired", "{done:#}");
                }
                taken
            });
        }
        let taken = asked.join_all().await.into_iter().filter(|taken| *taken).count();
        assert!(taken > 0 && taken < 60, "{taken} of {QUESTIONS} answers were taken");
    });
}

#[test]
fn hostile_schemas_of_questions_are_refused_with_why_and_hold_up_nobody() {
    run(async {
        let server = shared().await;
        let (ann, bob) = (asker(server).await, server.trusted().await);
        let defs = |links: usize, link: &dyn Fn(usize) -> Value| {
            let defs: serde_json::Map<_, _> = (0..links).map(|n| (format!("a{n}"), link(n))).collect();
            json!({"$defs": defs, "$ref": "#/$defs/a0"})
        };
        let next = |n: usize| json!({"$ref": format!("#/$defs/a{}", n + 1)});
        let twice = |n: usize| if n < 23 { json!({"anyOf": [next(n), next(n)]}) } else { json!(true) };
        let deep = |n: usize| if n < 400 { next(n) } else { json!({"items": {"$ref": "#/$defs/a0"}}) };
        let nested = (0..60).fold(json!({}), |inner, _| json!({"not": inner}));
        let schemas = [
            (defs(401, &deep), "levels"),
            (defs(24, &twice), "values"),
            (json!({"properties": {"left": {"$ref": "#"}}}), "refers to itself"),
            (nested, "levels deep"),
            (json!({"anyOf": vec![json!({"pattern": "a"}); 2_000]}), "pattern"),
            (json!({"pattern": "^([\\w-]{600}){600}$"}), "schema"),
            (json!({"enum": vec![1; 20_000]}), "values"),
            (json!({"title": "x".repeat(100_000)}), "bytes"),
            (json!({"$dynamicRef": "#x"}), "schema"),
        ];
        let large = json!({"anyOf": vec![json!({"items": {"const": 1}}); 500]});
        let asks = |schema: &Value, default: Option<Value>| {
            let mut ask = json!({"do": "ask", "prompt": "?", "schema": schema});
            if let Some(default) = default {
                ask["default"] = default;
            }
            steps(&[ask])
        };
        let hostile = async {
            for (schema, why) in &schemas {
                let done = ann.finish(&asks(schema, None)).await;
                let error = &done["output"][0]["error"];
                assert_eq!(error["kind"], "invalid", "{why}: {}", done["output"]);
                let text = error["text"].as_str().expect("a text");
                assert!(text.contains(why) && text.len() < 1_000, "{why}: {text}");
            }
            // One that is fine by itself, and too much together with what it is given.
            let done = ann.finish(&asks(&large, Some(json!(vec![2; 9_000])))).await;
            let text = done["output"][0]["error"]["text"].as_str().expect("a text");
            assert!(text.contains("as large as this"), "{text}");
            let id = ann.submit(&asks(&large, None)).await;
            waiting(&ann, &id).await;
            for count in [9_000, 200_000] {
                answer(&ann, &id, &json!(vec![2; count])).await.problem(422, "answer_misfit");
            }
            // It waits on, and takes an answer that fits; and patterns take no longer than the text is long.
            answer(&ann, &id, &json!([1, 1])).await.is(StatusCode::OK);
            assert_eq!(ann.ended(&id).await["output"], json!([{"ok": [1, 1]}]));
            let id = ann.submit(&asks(&json!({"pattern": "^(a+)+$"}), None)).await;
            waiting(&ann, &id).await;
            answer(&ann, &id, &json!(format!("{}!", "a".repeat(50_000)))).await.problem(422, "answer_misfit");
            answer(&ann, &id, &json!("aaa")).await.is(StatusCode::OK);
            ann.ended(&id).await;
        };
        let others = async {
            let mut longest = Duration::ZERO;
            loop {
                let begun = Instant::now();
                let done = bob.finish(&json!({"agent": "echo", "input": 1})).await;
                assert_eq!(done["stop_reason"], "completed", "{done:#}");
                longest = longest.max(begun.elapsed());
                assert!(longest < Duration::from_secs(3), "another user waited {longest:?}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            done = tokio::time::timeout(Duration::from_secs(60), hostile) => done.expect("in time"),
            () = others => unreachable!("it does not end"),
        }
        assert_eq!(server.app.runtime().host_panics(), 0);
    });
}
