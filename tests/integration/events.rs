//! Following a run: live, resumed, and read back.

use crate::server::{Answer, Server, User, run, shared};
use cofferdam_core::quota::Quota;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::time::Duration;

/// The events of a server-sent stream, as (id, type, data).
fn parse(stream: &str) -> Vec<(u64, String, Value)> {
    let field = |block: &str, name: &str| {
        block.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim_start().to_owned())
    };
    let blocks = stream.split("\n\n").filter(|block| block.contains("data:"));
    blocks
        .map(|block| {
            let id = field(block, "id:").expect("an id").parse().expect("a number");
            let data = field(block, "data:").expect("data");
            (id, field(block, "event:").expect("a type"), serde_json::from_str(&data).expect("JSON"))
        })
        .collect()
}

async fn stream(user: &User, id: &str, last: Option<&str>) -> Answer {
    let request = user.request(Method::GET, &format!("/v1/runs/{id}/events")).header("accept", "text/event-stream");
    let request = match last {
        Some(last) => request.header("last-event-id", last),
        None => request,
    };
    Answer::of(request.send().await.expect("answered")).await
}

fn talkative() -> Value {
    json!({"agent": "probe", "input": {"do": "seq", "steps": [
        {"do": "thinking", "text": "hm"},
        {"do": "progress", "fraction": 0.5, "note": "half"},
        {"do": "emit", "name": "chart", "payload": {"x": [1, 2]}},
        {"do": "log", "level": "warn", "text": "careful"},
        {"do": "call", "name": "file.list"},
        {"do": "print", "stdout": ["out"], "stderr": ["err"]},
        {"do": "sleep", "ms": 50},
    ]}})
}

#[test]
fn a_stream_shows_every_event_once_in_order_and_ends_with_the_run() {
    run(async {
        let ann = shared().await.trusted().await;
        let id = ann.submit(&talkative()).await;
        let live = stream(&ann, &id, None).await;
        assert_eq!(live.status, StatusCode::OK);
        assert_eq!(live.header("content-type").map(|kind| kind.starts_with("text/event-stream")), Some(true));
        let events = parse(&live.text);
        let types: Vec<_> = events.iter().map(|(_, kind, _)| kind.as_str()).collect();
        let expected = [
            "agent_started",
            "agent_thinking",
            "progress",
            "custom:chart",
            "log",
            "tool_executing",
            "tool_completed",
            "log",
            "log",
            "agent_completed",
        ];
        assert_eq!(types, expected);
        for (n, (seq, kind, envelope)) in events.iter().enumerate() {
            assert_eq!(*seq, n as u64 + 1, "no holes");
            assert_eq!((&envelope["seq"], &envelope["type"]), (&json!(seq), &json!(kind)));
            assert_eq!(envelope["run_id"], id.as_str());
        }
        let payload = |n: usize| &events[n].2["payload"];
        let priorities: Vec<_> = events.iter().map(|event| event.2["priority"].as_u64().expect("a number")).collect();
        assert_eq!(priorities, [1, 2, 3, 3, 4, 2, 2, 4, 4, 1]);
        assert_eq!(payload(1), &json!({"text": "hm"}));
        assert_eq!(payload(2), &json!({"fraction": 0.5, "note": "half"}));
        assert_eq!(payload(3), &json!({"x": [1, 2]}));
        assert_eq!(payload(4), &json!({"level": "warn", "text": "careful"}));
        assert_eq!((&payload(5)["tool"], &payload(5)["call"]), (&json!("file.list"), &json!(1)));
        assert_eq!((&payload(6)["ok"], &payload(6)["error"]), (&json!(true), &Value::Null));
        assert_eq!((&payload(7)["text"], &payload(8)["text"]), (&json!("out"), &json!("err")));
        assert_eq!(payload(9)["stop_reason"], "completed");

        let run = ann.ended(&id).await;
        assert_eq!(run["usage"]["events"], 10);
        assert_eq!(&run["usage"], &payload(9)["usage"]);
        let page = ann.get(&format!("/v1/runs/{id}/events")).await.is(StatusCode::OK);
        assert_eq!(page["next_after"], Value::Null);
        let paged: Vec<_> = page["events"].as_array().expect("events").clone();
        assert_eq!(paged, events.into_iter().map(|event| event.2).collect::<Vec<_>>(), "pages and streams are one log");
    });
}

#[test]
fn a_stream_resumes_after_the_last_event_that_the_client_saw() {
    run(async {
        let ann = shared().await.trusted().await;
        let id = ann.submit(&talkative()).await;
        ann.ended(&id).await;
        for after in 0..10 {
            let rest = parse(&stream(&ann, &id, Some(&after.to_string())).await.text);
            assert_eq!(rest.iter().map(|event| event.0).collect::<Vec<_>>(), (after + 1..=10).collect::<Vec<_>>());
        }
        assert_eq!(stream(&ann, &id, Some("10")).await.status, StatusCode::NO_CONTENT, "there is nothing more to come");
        let page = ann.get(&format!("/v1/runs/{id}/events?after=3&limit=2")).await.is(StatusCode::OK);
        assert_eq!((page["events"][0]["seq"].as_u64(), page["next_after"].as_u64()), (Some(4), Some(5)));
    });
}

#[test]
fn an_event_reaches_the_client_while_the_guest_goes_on() {
    run(async {
        let ann = shared().await.trusted().await;
        let steps = json!([{"do": "thinking", "text": "early"}, {"do": "sleep", "ms": 3_000}]);
        let id = ann.submit(&json!({"agent": "probe", "input": {"do": "seq", "steps": steps}})).await;
        let request = ann.request(Method::GET, &format!("/v1/runs/{id}/events")).header("accept", "text/event-stream");
        let mut response = request.send().await.expect("answered");
        let mut text = String::new();
        let seen = async {
            while !text.contains("early") {
                let chunk = response.chunk().await.expect("a stream").expect("more to come");
                text.push_str(&String::from_utf8_lossy(&chunk));
            }
        };
        tokio::time::timeout(Duration::from_secs(2), seen).await.expect("the event came while the guest slept");
        assert_eq!(ann.get(&format!("/v1/runs/{id}")).await.is(StatusCode::OK)["status"], "running");
        ann.post(&format!("/v1/runs/{id}/cancel"), &json!({})).await.is(StatusCode::OK);
    });
}

#[test]
fn a_reader_that_stops_reading_holds_up_nobody() {
    run(async {
        let ann = shared().await.trusted().await;
        let flood = json!({"agent": "hostile", "input": {"scenario": "event_flood", "count": 9_000, "bytes": 2_000}});
        let id = ann.submit(&flood).await;
        let request = ann.request(Method::GET, &format!("/v1/runs/{id}/events")).header("accept", "text/event-stream");
        let mut stalled = request.send().await.expect("answered");
        stalled.chunk().await.expect("a stream");
        let done = loop {
            let run = ann.get(&format!("/v1/runs/{id}")).await.is(StatusCode::OK);
            if run["finished_at"].is_string() {
                break run;
            }
            tokio::task::yield_now().await;
        };
        assert_eq!(done["stop_reason"], "completed", "{done}");
        // It has missed nothing all the same.
        let mut text = String::new();
        while let Some(chunk) = stalled.chunk().await.expect("a stream") {
            text.push_str(&String::from_utf8_lossy(&chunk));
        }
        assert!(text.contains("event: agent_completed"));
    });
}

#[test]
fn a_user_has_so_many_requests_under_way_and_no_other_user_notices() {
    run(async {
        let server = Server::start_with(Quota::default()).await;
        let (ann, bob) = (server.trusted().await, server.trusted().await);
        let id = ann.submit(&json!({"agent": "probe", "input": {"do": "sleep", "ms": 30_000}})).await;
        let path = format!("/v1/runs/{id}/events");
        let follow = || ann.request(Method::GET, &path).header("accept", "text/event-stream").send();
        let mut streams = Vec::new();
        for _ in 0..128 {
            let stream = follow().await.expect("answered");
            assert_eq!(stream.status(), StatusCode::OK);
            streams.push(stream);
        }
        Answer::of(follow().await.expect("answered")).await.problem(429, "too_many_requests_at_once");
        bob.finish(&json!({"agent": "echo", "input": 1})).await;
        streams.pop();
        // The place comes back when the server notices that the reader went away.
        while ann.get(&format!("/v1/runs/{id}")).await.status != StatusCode::OK {
            tokio::task::yield_now().await;
        }
        drop(streams);
        while ann.post(&format!("/v1/runs/{id}/cancel"), &json!({})).await.status != StatusCode::OK {
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn cursors_that_are_not_cursors_are_refused() {
    run(async {
        let ann = shared().await.stranger().await;
        let run = ann.finish(&json!({"agent": "echo", "input": 1})).await;
        let path = format!("/v1/runs/{}/events", run["id"].as_str().expect("an id"));
        for after in ["x", "-1", "1.5", "18446744073709551616", "%00"] {
            ann.get(&format!("{path}?after={after}")).await.problem(400, "invalid_cursor");
        }
        for query in ["limit=0", "limit=1001", "limit=x", "nonsense=1"] {
            let answer = ann.get(&format!("{path}?{query}")).await;
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{query}: {}", answer.text);
        }
    });
}
