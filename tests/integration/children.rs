//! Agents that start agents: each in a run of its own, out of their parent's budget, and gone with it.

use crate::server::{Server, User, run, shared};
use cofferdam_core::quota::Quota;
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

/// Longer than it takes to cancel who sleeps so long, on any machine, and less than a run may take.
const SLOW_MS: u64 = 55_000;

#[test]
fn children_end_with_their_parent_and_on_its_word() {
    run(async {
        let ann = parent(shared().await).await;
        let slow = json!({"do": "spawn", "agent": "probe", "input": {"do": "sleep", "ms": SLOW_MS}, "wait": false});
        let done = ann.finish(&with(std::slice::from_ref(&slow))).await;
        assert_eq!(done["stop_reason"], "completed", "{done:#}");
        let child = ann.ended(done["output"][0]["id"].as_str().expect("an id")).await;
        assert_eq!((&child["stop_reason"], &child["cancelled_by"]), (&json!("cancelled"), &done["id"]), "{child:#}");
        let cancelled =
            json!({"do": "spawn", "agent": "probe", "input": {"do": "sleep", "ms": SLOW_MS}, "cancel": true});
        let done = ann.finish(&with(&[cancelled])).await;
        assert!(done["output"][0]["answer"]["error"].to_string().contains("cancelled"), "{done:#}");
        // A cancel of the parent, while it waits, reaches them.
        let waits = json!({"do": "spawn", "agent": "probe", "input": {"do": "sleep", "ms": SLOW_MS}});
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

/// Two questions, one below the other: a parent waits for a child that asks. Gives the parent and the child.
async fn asks_through_a_child(user: &User) -> (String, String) {
    let ask = json!({"do": "ask", "prompt": "Which room?", "schema": {"enum": ["blue", "red"]}});
    let id = user.submit(&with(&[spawn("probe", &ask), json!({"do": "thinking", "text": "after"})])).await;
    loop {
        let runs = user.get("/v1/runs?limit=10&status=waiting").await.is(StatusCode::OK);
        let runs = runs["runs"].as_array().expect("runs");
        let child = runs.iter().find(|run| run["parent_run_id"] == id.as_str() && run["wait"]["for"] == "human");
        let parent = runs.iter().find(|run| run["id"] == id.as_str() && run["wait"]["for"] == "child");
        if let (Some(child), Some(parent)) = (child, parent) {
            assert_eq!(parent["wait"]["about"]["run_id"], child["id"], "it says on whom it waits: {parent:#}");
            assert_eq!(child["wait"]["about"]["prompt"], "Which room?", "{child:#}");
            return (id, child["id"].as_str().expect("an id").to_owned());
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[test]
fn a_childs_question_is_answered_at_the_child_and_its_parent_goes_on() {
    run(async {
        let ann = parent(shared().await).await;
        let (id, child) = asks_through_a_child(&ann).await;
        let answer = |value: &str| json!({ "answer": value });
        // It is the child's question and nobody else's.
        ann.post(&format!("/v1/runs/{id}/input"), &answer("red")).await.problem(409, "not_waiting");
        ann.post(&format!("/v1/runs/{child}/input"), &answer("green")).await.problem(422, "answer_misfit");
        ann.post(&format!("/v1/runs/{child}/input"), &answer("red")).await.is(StatusCode::OK);
        let done = ann.ended(&id).await;
        assert_eq!(done["output"][0]["answer"]["ok"], json!({"ok": "red"}), "{done:#}");
        assert_eq!(done["children"], json!({"succeeded": 1, "failed": 0, "cancelled": 0}), "{done:#}");
        assert_eq!(ann.ended(&child).await["stop_reason"], "completed");
    });
}

#[test]
fn a_childs_question_is_gone_when_its_parent_is_cancelled() {
    run(async {
        let ann = parent(shared().await).await;
        let (id, child) = asks_through_a_child(&ann).await;
        assert!(ann.post(&format!("/v1/runs/{id}/cancel"), &json!({})).await.status.is_success());
        assert_eq!(ann.ended(&id).await["stop_reason"], "cancelled");
        let ended = ann.ended(&child).await;
        assert_eq!((&ended["stop_reason"], &ended["cancelled_by"]), (&json!("cancelled"), &json!(id)), "{ended:#}");
        let late = ann.post(&format!("/v1/runs/{child}/input"), &json!({"answer": "red"})).await;
        late.problem(409, "not_waiting");
        let waiting = ann.get("/v1/runs?status=waiting").await.is(StatusCode::OK);
        assert_eq!(waiting["runs"], json!([]));
    });
}

#[test]
fn each_child_is_a_run_of_its_own_also_where_the_record_has_ended() {
    run(async {
        let ann = shared().await.trusted().await;
        // From here on the record keeps nothing, and the run cannot be put away.
        let ends = json!({"do": "std", "op": "list", "path": "/workspace"});
        let done = ann.finish(&with(&[ends, spawn("echo", &json!(1)), spawn("echo", &json!(2))])).await;
        assert_eq!(done["stop_reason"], "completed", "{done:#}");
        let output = &done["output"];
        assert_eq!((&output[1]["answer"]["ok"], &output[2]["answer"]["ok"]), (&json!(1), &json!(2)), "{output:#}");
        assert_ne!(output[1]["id"], output[2]["id"], "{output:#}");
    });
}

#[test]
fn a_run_that_completes_although_children_of_it_failed_says_so() {
    run(async {
        let ann = parent(shared().await).await;
        let fail = spawn("probe", &json!({"do": "fail", "code": "sorry", "message": "no"}));
        let mut left = spawn("probe", &json!({"do": "sleep_until", "in_ms": 60_000}));
        left["wait"] = json!(false);
        let told = async |run: &Value| ann.events(run["id"].as_str().expect("an id")).await.pop().expect("the end");
        let done = ann.finish(&with(&[spawn("echo", &json!(1)), fail.clone(), left.clone()])).await;
        assert_eq!((&done["status"], &done["partial_failure"]), (&json!("succeeded"), &json!(true)), "{done:#}");
        let children = json!({"succeeded": 1, "failed": 1, "cancelled": 1});
        assert_eq!(done["children"], children, "{done:#}");
        let end = told(&done).await;
        assert_eq!(
            (&end["payload"]["children"], &end["payload"]["partial_failure"]),
            (&children, &json!(true)),
            "{end}"
        );
        // It is listed so, too.
        let runs = ann.get("/v1/runs?limit=10").await.is(StatusCode::OK);
        let listed = runs["runs"].as_array().expect("runs").iter().find(|run| run["id"] == done["id"]).expect("listed");
        assert_eq!((&listed["children"], &listed["partial_failure"]), (&children, &json!(true)), "{listed:#}");
        // Of one that failed itself it is told what became of them.
        let done = ann.finish(&with(&[fail, json!({"do": "fail", "code": "me", "message": "too"})])).await;
        assert_eq!((&done["status"], &done["partial_failure"]), (&json!("failed"), &json!(false)), "{done:#}");
        assert_eq!(told(&done).await["payload"]["children"], json!({"succeeded": 0, "failed": 1, "cancelled": 0}));
        // A child that was not waited for is no failure; nor are there words for none.
        let done = ann.finish(&with(&[left])).await;
        assert_eq!((&done["partial_failure"], &done["children"]["cancelled"]), (&json!(false), &json!(1)), "{done:#}");
        let done = ann.finish(&with(&[])).await;
        assert!(done["partial_failure"] == false && done["children"].is_null(), "{done:#}");
        assert!(told(&done).await["payload"]["children"].is_null());
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
        // As a child and as a child of a child, with what a child has if nothing is said. What is far more than there is
        // starts nothing and costs nothing.
        let fuel_max = 300_000_000_u64;
        let steps = [spawn("probe", &spin), spin.clone(), spin.clone(), greedy, spin];
        let root = json!({"agent": "probe", "limits": {"fuel": fuel_max}, "input": {"do": "seq", "steps": steps}});
        let done = ann.finish(&root).await;
        assert_eq!(done["stop_reason"], "completed", "{done:#}");
        let refused = &done["output"][3]["error"];
        assert_eq!(refused["kind"], "invalid", "{done:#}");
        assert!(refused["text"].as_str().is_some_and(|text| text.contains(" left")), "{refused}");
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

#[test]
fn never_more_runs_are_below_one_than_may_however_many_start_some_at_once() {
    run(async {
        const MAY_BE: usize = 9;
        let quota = Quota { runs_at_once: 16, descendants_per_run: 9, ..Quota::default() };
        let server = Server::start_with(quota).await;
        let ann = parent(&server).await;
        let few = json!({"do": "children", "specs": vec![json!({"agent": "echo", "input": 1}); 4]});
        let family = json!({"do": "children", "specs": vec![json!({"agent": "probe", "input": few}); 5]});
        for _ in 0..4 {
            let done = ann.finish(&with(std::slice::from_ref(&family))).await;
            assert_eq!(done["stop_reason"], "completed", "{done:#}");
            let runs = ann.get("/v1/runs?limit=100").await.is(StatusCode::OK);
            let runs = runs["runs"].as_array().expect("runs");
            let below = |id: &Value| runs.iter().filter(|run| run["parent_run_id"] == *id).collect::<Vec<_>>();
            let children = below(&done["id"]);
            let grandchildren: usize = children.iter().map(|child| below(&child["id"]).len()).sum();
            assert_eq!(children.len() + grandchildren, MAY_BE, "{done:#}");
            // Those that found no room were told so, and nothing else went wrong.
            let text = done["output"].to_string();
            let tried = 5 + 4 * children.len();
            assert_eq!(text.matches("too_many").count(), tried - MAY_BE, "{done:#}");
            assert_eq!(text.matches(r#""error""#).count(), tried - MAY_BE, "{done:#}");
        }
        assert_eq!(server.app.runtime().host_panics(), 0);
    });
}
