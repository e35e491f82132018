//! Agents that start agents: each in a run of its own, out of their parent's budget, and gone with it.

use crate::server::{Server, User, run, shared};
use reqwest::StatusCode;
use serde_json::{Value, json};

async fn parent(server: &Server) -> User {
    let user = server.stranger().await;
    let grant = json!({"tools": ["*"], "state": "read_write", "human": true, "agents": ["probe", "echo"]});
    server.grant(&user, "probe", &grant).await;
    user
}

fn spawn(agent: &str, input: &Value) -> Value {
    json!({"do": "spawn", "agent": agent, "input": input})
}

fn with(steps: &[Value]) -> Value {
    json!({"agent": "probe", "input": {"do": "seq", "steps": steps}})
}

#[test]
fn children_run_for_the_same_user_and_what_they_leave_of_their_fuel_comes_back() {
    run(async {
        let ann = parent(shared().await).await;
        let done = ann
            .finish(&with(&[
                json!({"do": "budget"}),
                spawn("echo", &json!({"n": 1})),
                spawn("probe", &json!({"do": "context"})),
                spawn("probe", &json!({"do": "fail", "code": "sorry", "message": "no"})),
                json!({"do": "budget"}),
            ]))
            .await;
        assert_eq!(done["stop_reason"], "completed", "{done:#}");
        let output = &done["output"];
        assert_eq!(output[1]["answer"]["ok"], json!({"n": 1}), "{output:#}");
        let (child, id) = (&output[2]["answer"]["ok"], output[2]["id"].as_str().expect("an id"));
        assert_eq!((&child["parent_run_id"], &child["user_id"]), (&done["id"], &json!(ann.name)), "{output:#}");
        assert_eq!(child["thread_id"], done["thread_id"], "{output:#}");
        let failure = &output[3]["answer"]["error"];
        assert!(failure.to_string().contains("sorry") && failure.to_string().contains("guest_error"), "{failure}");
        // It is a run of its own, that reads back.
        let run = ann.get(&format!("/v1/runs/{id}")).await.is(StatusCode::OK);
        assert_eq!((&run["parent_run_id"], &run["status"]), (&done["id"], &json!("succeeded")), "{run:#}");
        // What the children took is on their bill, and gone from what was left.
        let (before, after) = (output[0]["fuel"].as_u64().expect("fuel"), output[4]["fuel"].as_u64().expect("fuel"));
        let own = done["usage"]["fuel"].as_u64().expect("fuel");
        assert!(before - after < 20_000_000 && own < 20_000_000, "{before} {after} {own}");
    });
}

#[test]
fn a_parent_that_waits_long_is_put_away_and_its_children_need_no_slot_of_its() {
    run(async {
        let server = shared().await;
        let ann = parent(server).await;
        let path = format!("/v1/users/{}/quota", ann.name);
        server.operator.send(reqwest::Method::PUT, &path, Some(&json!({"runs_at_once": 1}))).await.is(StatusCode::OK);
        let slow = |ms: u64| json!({"agent": "probe", "input": {"do": "sleep", "ms": ms}});
        let family = json!({"do": "children", "specs": [slow(400), slow(10), slow(300)], "wait": [2, 0, 1, 0]});
        let done = ann.finish(&with(&[family, json!({"do": "thinking", "text": "after"})])).await;
        assert_eq!(done["stop_reason"], "completed", "{done:#}");
        let answers = done["output"][0].as_array().expect("answers");
        assert!(answers.len() == 4 && answers.iter().all(|answer| answer["answer"]["ok"].is_object()), "{done:#}");
        assert_eq!(answers[1], answers[3], "waiting again gives the same");
        let events = ann.events(done["id"].as_str().expect("an id")).await;
        let waits = events.iter().filter(|event| event["type"] == "run_waiting").count();
        assert!(waits >= 1 && events.iter().zip(1_u64..).all(|(event, seq)| event["seq"] == seq), "{events:#?}");
        let thinking = events.iter().filter(|event| event["type"] == "agent_thinking").count();
        assert_eq!(thinking, 1, "{events:#?}");
    });
}

#[test]
fn children_end_with_their_parent_and_on_its_word() {
    run(async {
        let ann = parent(shared().await).await;
        let slow = json!({"do": "spawn", "agent": "probe", "input": {"do": "sleep", "ms": 30_000}, "wait": false});
        let done = ann.finish(&with(std::slice::from_ref(&slow))).await;
        assert_eq!(done["stop_reason"], "completed", "{done:#}");
        let child = ann.ended(done["output"][0]["id"].as_str().expect("an id")).await;
        assert_eq!((&child["stop_reason"], &child["cancelled_by"]), (&json!("cancelled"), &done["id"]), "{child:#}");
        let cancelled =
            json!({"do": "spawn", "agent": "probe", "input": {"do": "sleep", "ms": 30_000}, "cancel": true});
        let done = ann.finish(&with(&[cancelled])).await;
        assert!(done["output"][0]["answer"]["error"].to_string().contains("cancelled"), "{done:#}");
        // A cancel of the parent, while it waits, reaches them.
        let waits = json!({"do": "spawn", "agent": "probe", "input": {"do": "sleep", "ms": 30_000}});
        let id = ann.submit(&with(&[waits])).await;
        let child = loop {
            let runs = ann.get("/v1/runs?limit=10").await.is(StatusCode::OK);
            let runs = runs["runs"].as_array().expect("runs").clone();
            let status = |run: &Value| run["status"].as_str().expect("a status").to_owned();
            let waiting = runs.iter().any(|run| run["id"] == id.as_str() && status(run) == "waiting");
            if let Some(child) = runs.iter().find(|run| run["parent_run_id"] == id.as_str()).filter(|_| waiting) {
                break child["id"].as_str().expect("an id").to_owned();
            }
        };
        ann.post(&format!("/v1/runs/{id}/cancel"), &json!({})).await;
        assert_eq!(ann.ended(&id).await["stop_reason"], "cancelled");
        assert_eq!(ann.ended(&child).await["stop_reason"], "cancelled");
    });
}

#[test]
fn what_may_not_be_started_is_refused_with_why() {
    run(async {
        let server = shared().await;
        let ann = parent(server).await;
        for (step, kind) in [
            (spawn("hostile", &json!(1)), "denied"),
            (spawn("eco", &json!(1)), "denied"),
            (spawn("NOT VALID", &json!(1)), "invalid"),
            (spawn("echo@9.9.9", &json!(1)), "unknown_agent"),
            (json!({"do": "spawn", "agent": "echo", "input": 1, "deadline_ms": 0}), "invalid"),
        ] {
            let done = ann.finish(&with(std::slice::from_ref(&step))).await;
            assert_eq!(done["output"][0]["error"]["kind"], kind, "{step}: {done:#}");
        }
        let bob = server.stranger().await;
        let done = bob.finish(&with(&[spawn("echo", &json!(1))])).await;
        assert_eq!(done["output"][0]["error"]["kind"], "denied", "{done:#}");
        // As deep as runs may be, and no deeper.
        let deepest = (0..9).fold(json!({"do": "context"}), |inner, _| spawn("probe", &inner));
        let done = ann.finish(&json!({"agent": "probe", "input": deepest})).await;
        assert!(done["output"].to_string().contains("too_many"), "{done:#}");
        let deep = (0..8).fold(json!({"do": "context"}), |inner, _| spawn("probe", &inner));
        let done = ann.finish(&json!({"agent": "probe", "input": deep})).await;
        assert!(done["output"].to_string().contains("parent_run_id"), "{done:#}");
        assert!(!done["output"].to_string().contains("too_many"), "{done:#}");
        // As many as a run may start, and no more.
        let many = vec![json!({"agent": "echo", "input": 1}); 17];
        let done = ann.finish(&with(&[json!({"do": "children", "specs": many})])).await;
        let answers = done["output"][0].as_array().expect("answers");
        let refused = answers.iter().filter(|answer| answer["error"]["kind"] == "too_many").count();
        assert_eq!((answers.len(), refused), (17, 1), "{done:#}");
    });
}

/// A run and all below it, once they have ended.
async fn family(user: &User, root: &Value) -> Vec<Value> {
    let runs = user.get("/v1/runs?limit=100").await.is(StatusCode::OK);
    let runs = runs["runs"].as_array().expect("runs");
    let mut ids = vec![root["id"].clone()];
    loop {
        let below = runs.iter().filter(|run| ids.contains(&run["parent_run_id"]) && !ids.contains(&run["id"]));
        let below: Vec<_> = below.map(|run| run["id"].clone()).collect();
        if below.is_empty() {
            break;
        }
        ids.extend(below);
    }
    let mut ended = Vec::new();
    for id in ids {
        ended.push(user.ended(id.as_str().expect("an id")).await);
    }
    ended
}

#[test]
fn a_family_takes_no_more_than_its_first_run_was_given() {
    run(async {
        let ann = shared().await.trusted().await;
        let spin = spawn("hostile", &json!({"scenario": "spin"}));
        let greedy =
            json!({"do": "spawn", "agent": "hostile", "input": {"scenario": "spin"}, "fuel": 9_000_000_000_u64});
        // As a child and as a child of a child, with what a child has if nothing is said, and at last with far more than
        // there is, which takes all that is left, so that the parent itself has none to go on with.
        let fuel_max = 300_000_000_u64;
        let steps = [spawn("probe", &spin), spin.clone(), spin, greedy];
        let root = json!({"agent": "probe", "limits": {"fuel": fuel_max}, "input": {"do": "seq", "steps": steps}});
        let done = ann.finish(&root).await;
        assert_eq!(done["stop_reason"], "out_of_fuel", "{done:#}");
        let runs = family(&ann, &done).await;
        assert_eq!(runs.len(), 6, "{runs:#?}");
        let taken: u64 = runs.iter().map(|run| run["usage"]["fuel"].as_u64().expect("fuel")).sum();
        assert!(taken > fuel_max / 2 && taken <= fuel_max, "{taken} of {fuel_max}: {runs:#?}");

        // Nor longer.
        let root = json!({
            "agent": "probe", "limits": {"deadline_ms": 400},
            "input": {"do": "spawn", "agent": "probe", "input": {"do": "sleep", "ms": 30_000}, "deadline_ms": 60_000},
        });
        let done = ann.finish(&root).await;
        let runs = family(&ann, &done).await;
        let child = runs.iter().find(|run| run["parent_run_id"] == done["id"]).expect("a child");
        assert_eq!(child["stop_reason"], "deadline", "{child:#}");
        assert!(child["usage"]["wall_ms"].as_u64() < Some(1_000), "{child:#}");
    });
}
