//! Submitting runs, reading them back, cancelling them.

use crate::server::{Answer, Server, run, shared};
use cofferdam_core::quota::Quota;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

#[test]
fn a_run_is_accepted_then_read_back_with_its_output_and_usage() {
    run(async {
        let ann = shared().await.stranger().await;
        let input = json!({"text": "hello", "n": [1, 2, {"deep": null}]});
        let body = json!({"agent": "echo", "input": input, "thread_id": "t-1", "metadata": {"source": "test"}});
        let accepted = ann.post("/v1/runs", &body).await;
        let queued = accepted.is(StatusCode::ACCEPTED);
        let id = queued["id"].as_str().expect("an id");
        assert_eq!(accepted.header("location"), Some(format!("/v1/runs/{id}").as_str()));
        assert_eq!((&queued["status"], &queued["stop_reason"]), (&json!("queued"), &Value::Null));

        let done = ann.ended(id).await;
        assert_eq!(done["status"], "succeeded");
        assert_eq!(done["stop_reason"], "completed");
        assert_eq!(done["output"], input);
        assert_eq!(done["agent"], "echo");
        assert_eq!(done["user"], ann.name.as_str());
        assert_eq!(done["thread_id"], "t-1");
        assert!(done["digest"].as_str().is_some_and(|digest| digest.starts_with("sha256:")));
        assert!(done.get("error").is_none());
        let usage = &done["usage"];
        assert!(usage["fuel"].as_u64().is_some_and(|fuel| fuel > 0), "{usage}");
        assert!(usage["memory_peak_bytes"].as_u64().is_some_and(|bytes| bytes >= 1 << 16), "{usage}");
        assert!(usage["wall_ms"].is_u64() && usage["active_ms"].is_u64(), "{usage}");
        assert_eq!((&usage["host_calls"], &usage["events"]), (&json!(1), &json!(3)), "{usage}");
        for time in ["created_at", "started_at", "finished_at"] {
            assert!(done[time].as_str().is_some_and(|at| at.ends_with('Z')), "{time} of {done}");
        }
    });
}

#[test]
fn waiting_gives_the_finished_run_or_the_run_as_it_stands() {
    run(async {
        let ann = shared().await.trusted().await;
        let wait = |seconds: &'static str, input: Value| {
            let body = json!({"agent": "probe", "input": input});
            let request = ann.request(Method::POST, "/v1/runs").header("prefer", seconds).json(&body);
            async { Answer::of(request.send().await.expect("answered")).await }
        };
        let done = wait("wait=30", json!({"do": "echo", "value": 7})).await;
        assert_eq!(done.is(StatusCode::OK)["output"], 7);
        assert_eq!(done.header("preference-applied"), Some("wait=30"));
        let begun = Instant::now();
        let slow = wait("wait=1", json!({"do": "sleep", "ms": 20_000})).await.is(StatusCode::ACCEPTED);
        assert!(begun.elapsed() < Duration::from_secs(10), "waited {:?}", begun.elapsed());
        assert_eq!(slow["finished_at"], Value::Null);
        let cancelled = ann.post(&format!("/v1/runs/{}/cancel", slow["id"].as_str().expect("an id")), &json!({})).await;
        assert_eq!(cancelled.is(StatusCode::OK)["stop_reason"], "cancelled");
    });
}

#[test]
fn input_comes_back_with_the_digits_and_the_order_it_was_sent_with() {
    run(async {
        let ann = shared().await.stranger().await;
        let body = r#"{"agent":"echo","input":{"b":1.50,"a":12345678901234567890123,"c":[1E2]}}"#;
        let request = ann.request(Method::POST, "/v1/runs").header("prefer", "wait=30");
        let sent = request.header("content-type", "application/json").body(body).send().await.expect("answered");
        let answer = Answer::of(sent).await;
        assert!(
            answer.text.contains(r#""output":{"b":1.50,"a":12345678901234567890123,"c":[1E2]}"#),
            "{}",
            answer.text
        );
    });
}

#[test]
fn lists_are_newest_first_in_pages_and_filtered() {
    run(async {
        let ann = shared().await.trusted().await;
        let mut ids = Vec::new();
        for n in 0..5 {
            let thread = if n % 2 == 0 { "even" } else { "odd" };
            let body = json!({"agent": "echo", "input": n, "thread_id": thread});
            ids.push(ann.finish(&body).await["id"].as_str().expect("an id").to_owned());
        }
        ann.finish(&json!({"agent": "probe", "input": {"do": "fail", "code": "c", "message": "m"}})).await;
        ids.reverse();

        let mut seen = Vec::new();
        let mut path = "/v1/runs?limit=2&agent=echo".to_owned();
        loop {
            let page = ann.get(&path).await.is(StatusCode::OK);
            let runs = page["runs"].as_array().expect("runs");
            assert!(runs.len() <= 2);
            assert!(runs.iter().all(|run| run.get("output").is_none()), "lists carry no outputs");
            seen.extend(runs.iter().map(|run| run["id"].as_str().expect("an id").to_owned()));
            match page["next_after"].as_str() {
                Some(next) => path = format!("/v1/runs?limit=2&agent=echo&after={next}"),
                None => break,
            }
        }
        assert_eq!(seen, ids);
        let count = async |query: &str| {
            ann.get(&format!("/v1/runs?{query}")).await.is(StatusCode::OK)["runs"].as_array().map_or(0, Vec::len)
        };
        assert_eq!(count("thread_id=even").await, 3);
        assert_eq!(count("status=failed").await, 1);
        assert_eq!(count("status=succeeded&thread_id=odd").await, 2);
        assert_eq!(count("status=running").await, 0);
    });
}

#[test]
fn cancel_reaches_a_guest_that_waits_and_one_that_spins_and_one_that_is_queued() {
    run(async {
        // So that nothing but the cancel ends the one that spins, however long a busy machine takes until then.
        let host_calls_per_run = 1_000_000_000_000;
        let quota = Quota { runs_at_once: 2, host_calls_per_run, ..Quota::default() };
        let server = Server::start_with(quota).await;
        let ann = server.trusted().await;
        let waits = ann.submit(&json!({"agent": "probe", "input": {"do": "sleep", "ms": 50_000}})).await;
        let spins = ann.submit(&json!({"agent": "hostile", "input": {"scenario": "spin_in_host_calls"}})).await;
        let queued = ann.submit(&json!({"agent": "echo", "input": 1})).await;
        for id in [&queued, &spins, &waits] {
            let begun = Instant::now();
            let run = ann.post(&format!("/v1/runs/{id}/cancel"), &json!({})).await.is(StatusCode::OK);
            assert_eq!((&run["status"], &run["stop_reason"]), (&json!("cancelled"), &json!("cancelled")), "{run}");
            assert!(begun.elapsed() < Duration::from_millis(400), "took {:?}", begun.elapsed());
            let events = ann.events(id).await;
            assert_eq!(events.last().map(|event| &event["payload"]["stop_reason"]), Some(&json!("cancelled")));
        }
        let run = ann.get(&format!("/v1/runs/{queued}")).await.is(StatusCode::OK);
        assert_eq!(run["started_at"], Value::Null, "it never began");
        ann.post(&format!("/v1/runs/{spins}/cancel"), &json!({})).await.problem(409, "already_ended");
        assert_eq!((server.app.runtime().runs_live(), server.app.runtime().runs_queued()), (0, 0));
    });
}

#[test]
fn a_client_that_goes_away_does_not_take_its_run_along() {
    run(async {
        let ann = shared().await.trusted().await;
        let body = json!({"agent": "probe", "input": {"do": "sleep", "ms": 300}, "thread_id": "left-alone"});
        let request = ann.request(Method::POST, "/v1/runs").header("prefer", "wait=30").json(&body);
        // The client hangs up while it waits.
        assert!(tokio::time::timeout(Duration::from_millis(150), request.send()).await.is_err());
        let page = ann.get("/v1/runs?thread_id=left-alone").await.is(StatusCode::OK);
        let id = page["runs"][0]["id"].as_str().expect("the run is there").to_owned();
        assert_eq!(ann.ended(&id).await["stop_reason"], "completed");
    });
}

#[test]
fn runs_beyond_what_a_user_may_at_once_wait_their_turn_in_order() {
    run(async {
        let server = Server::start_with(Quota { runs_at_once: 1, runs_queued: 3, ..Quota::default() }).await;
        let ann = server.trusted().await;
        let first = ann.submit(&json!({"agent": "probe", "input": {"do": "sleep", "ms": 50_000}})).await;
        let mut waiting = Vec::new();
        for n in 0..3 {
            waiting.push(ann.submit(&json!({"agent": "echo", "input": n})).await);
        }
        let refused = ann.post("/v1/runs", &json!({"agent": "echo", "input": 9})).await;
        refused.problem(429, "queue_full");
        assert!(refused.header("retry-after").is_some_and(|s| s.parse::<u32>().is_ok()));
        let bob = server.trusted().await;
        bob.finish(&json!({"agent": "echo", "input": 1})).await;
        let first_now = ann.get(&format!("/v1/runs/{first}")).await.is(StatusCode::OK);
        assert_eq!(first_now["status"], "running", "another user does not wait for them");
        ann.post(&format!("/v1/runs/{first}/cancel"), &json!({})).await.is(StatusCode::OK);
        let mut ended = vec![ann.ended(&first).await];
        for id in &waiting {
            ended.push(ann.ended(id).await);
        }
        let starts: Vec<_> = ended.iter().map(|run| run["started_at"].as_str().expect("started").to_owned()).collect();
        assert!(starts.is_sorted(), "{starts:?}");
        assert_eq!(
            ann.get("/v1/runs").await.is(StatusCode::OK)["runs"].as_array().map(Vec::len),
            Some(4),
            "none was stored for the refused one"
        );
    });
}

#[test]
fn a_run_that_waits_too_long_for_a_slot_ends_as_quota() {
    run(async {
        let server = Server::start_with(Quota { runs_at_once: 1, queue_wait_ms: 100, ..Quota::default() }).await;
        let ann = server.trusted().await;
        let slow = ann.submit(&json!({"agent": "probe", "input": {"do": "sleep", "ms": 5_000}})).await;
        let late = ann.submit(&json!({"agent": "echo", "input": 1})).await;
        let late = ann.ended(&late).await;
        assert_eq!((&late["status"], &late["stop_reason"]), (&json!("failed"), &json!("quota")), "{late}");
        ann.post(&format!("/v1/runs/{slow}/cancel"), &json!({})).await.is(StatusCode::OK);
    });
}
