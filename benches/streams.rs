//! What events cost and how soon a client sees them; what a durable run costs over HTTP.
//!
//! Over a real server on loopback, with real components and a real client in the same process, so that every figure holds
//! the client's own work, too. Figures that have a target stand beside it, and fail the benchmark beyond it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::indexing_slicing,
    reason = "a benchmark fails loudly, and prints"
)]

#[path = "../tests/integration/server.rs"]
#[allow(dead_code, reason = "shared with the integration tests, which use all of it")]
mod server;

use cofferdam_core::quota::Quota;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use server::{Server, User, run};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Events whose way to the client is timed.
const EVENTS: usize = 400;
/// Events of the run that shows what one costs.
const FLOOD: u64 = 10_000;
/// How long each number of connections submits runs.
const SUBMITTING: Duration = Duration::from_secs(4);
/// Streams that wait for a run that says nothing.
const IDLE_STREAMS: usize = 2_000;
/// Streams of one user: a few less than the requests that a user may have under way.
const STREAMS_PER_USER: usize = 100;

/// One figure: what was measured, and what it must not be over.
fn row(what: &str, value: f64, unit: &str, most: Option<f64>) {
    let target = most.map_or_else(String::new, |most| format!("(at most {most:.0})"));
    println!("{what:<70} {value:>10.2} {unit:<5} {target}");
    assert!(most.is_none_or(|most| value <= most), "{what}: {value:.2} {unit} is too much");
}

/// The value that so many of a hundred do not exceed, in milliseconds.
fn percentile(times: &mut [Duration], of_hundred: usize) -> f64 {
    times.sort_unstable();
    let at = (times.len() * of_hundred).div_ceil(100).clamp(1, times.len()) - 1;
    times[at].as_secs_f64() * 1e3
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    line.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or(0)
}

async fn stream(user: &User, id: &str, after: u64) -> reqwest::Response {
    let request = user.request(Method::GET, &format!("/v1/runs/{id}/events?after={after}"));
    let response = request.header("accept", "text/event-stream").send().await.expect("answered");
    assert_eq!(response.status(), StatusCode::OK);
    response
}

/// From the moment an event is recorded to the moment its frame has reached the client.
async fn latencies(server: &Server) -> Vec<Duration> {
    let ann = server.trusted().await;
    let mut steps = Vec::new();
    for n in 0..EVENTS / 2 {
        steps.push(json!({"do": "thinking", "text": format!("step {n}")}));
        steps.push(json!({"do": "progress", "fraction": 0.5, "note": "half"}));
        steps.push(json!({"do": "sleep", "ms": 5}));
    }
    let id = ann.submit(&json!({"agent": "probe", "input": {"do": "seq", "steps": steps}})).await;
    let mut response = stream(&ann, &id, 0).await;
    let (mut text, mut times) = (String::new(), Vec::new());
    while let Some(chunk) = response.chunk().await.expect("a stream") {
        let now = jiff::Timestamp::now();
        text.push_str(std::str::from_utf8(&chunk).expect("text"));
        while let Some((frame, rest)) = text.split_once("\n\n") {
            if let Some(data) = frame.lines().find_map(|line| line.strip_prefix("data: ")) {
                let event: Value = serde_json::from_str(data).expect("JSON");
                let at: jiff::Timestamp = event["at"].as_str().expect("a time").parse().expect("a time");
                times.push(Duration::try_from(now.duration_since(at)).unwrap_or_default());
            }
            text = rest.to_owned();
        }
    }
    assert_eq!(times.len(), EVENTS + 2);
    times
}

/// Guests that compute for as long as the figure is taken, more than there are cores.
async fn busy(server: &Server) -> Vec<(User, String)> {
    let mut spinning = Vec::new();
    for _ in 0..2 {
        let user = server.trusted().await;
        for _ in 0..2 {
            let id = user.submit(&json!({"agent": "hostile", "input": {"scenario": "spin"}})).await;
            spinning.push((user.clone(), id));
        }
    }
    while server.app.runtime().runs_live() < 4 {
        tokio::task::yield_now().await;
    }
    spinning
}

async fn stop(spinning: Vec<(User, String)>) {
    for (user, id) in spinning {
        user.post(&format!("/v1/runs/{id}/cancel"), &json!({})).await;
    }
}

async fn events(server: &Server) {
    let mut alone = latencies(server).await;
    println!("event to client, idle cores: p50 {:.2} ms", percentile(&mut alone, 50));
    row("event to client, idle cores, p99", percentile(&mut alone, 99), "ms", None);
    let spinning = busy(server).await;
    let mut beside = latencies(server).await;
    stop(spinning).await;
    println!("event to client, both cores busy with guests: p50 {:.2} ms", percentile(&mut beside, 50));
    row("event to client, both cores busy with guests, p99", percentile(&mut beside, 99), "ms", Some(5.0));
}

async fn cost_of_an_event(server: &Server) {
    let mut per_event = Vec::new();
    for followed in [false, true] {
        let ann = server.trusted().await;
        let input = json!({"scenario": "event_flood", "count": FLOOD - 1, "bytes": 64});
        let begun = Instant::now();
        let id = ann.submit(&json!({"agent": "hostile", "input": input})).await;
        let seen = if followed { stream(&ann, &id, 0).await.text().await.expect("read").len() } else { 0 };
        let ended = ann.ended(&id).await;
        let took = begun.elapsed();
        assert_eq!(ended["stop_reason"], "completed", "{ended}");
        assert!(!followed || seen > 64 * FLOOD as usize);
        per_event.push(took.as_secs_f64() * 1e6 / ended["usage"]["events"].as_f64().expect("a number"));
    }
    row("append, per event of a run that nobody follows", per_event[0], "µs", None);
    row("append and fan-out to one stream, per event", per_event[1], "µs", None);
    row("followed against not followed", per_event[1] / per_event[0], "x", None);
}

async fn reconnect(server: &Server) {
    let ann = server.trusted().await;
    let input = json!({"scenario": "event_flood", "count": 5_000, "bytes": 64});
    let run = ann.finish(&json!({"agent": "hostile", "input": input})).await;
    let id = run["id"].as_str().expect("an id");
    let mut times = Vec::new();
    for n in 0..200 {
        let begun = Instant::now();
        let mut response = stream(&ann, id, 20 * n).await;
        let first = response.chunk().await.expect("a stream").expect("a frame");
        times.push(begun.elapsed());
        assert!(first.starts_with(format!("id: {}\n", 20 * n + 1).as_bytes()));
    }
    println!("reconnect to the first missed event: p50 {:.2} ms", percentile(&mut times, 50));
    row("reconnect to the first missed event, p99 of 200", percentile(&mut times, 99), "ms", None);
}

/// Durable runs with their events over HTTP, each waited for.
async fn throughput(server: &Server) {
    for connections in [1_usize, 16, 64] {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut clients = Vec::new();
        for _ in 0..connections {
            let user = server.trusted().await;
            let (stop, done) = (stop.clone(), done.clone());
            clients.push(tokio::spawn(async move {
                let body = json!({"agent": "echo", "input": {"question": "what does a run cost?"}});
                while !stop.load(Ordering::Relaxed) {
                    user.finish(&body).await;
                    done.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let (begun, runs) = (Instant::now(), done.load(Ordering::Relaxed));
        let commits = server.app.commits();
        tokio::time::sleep(SUBMITTING).await;
        let (took, runs) = (begun.elapsed().as_secs_f64(), done.load(Ordering::Relaxed) - runs);
        let commits = server.app.commits() - commits;
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.await.expect("not panicked");
        }
        row(&format!("runs a second, {connections} connections"), runs as f64 / took, "/s", None);
        row(&format!("commits for each run, {connections} connections"), commits as f64 / runs as f64, "", None);
    }
}

async fn idle_streams(server: &Server) {
    let before = resident_kib();
    let mut held = Vec::new();
    for _ in 0..IDLE_STREAMS / STREAMS_PER_USER {
        let user = server.trusted().await;
        let id = user.submit(&json!({"agent": "probe", "input": {"do": "sleep", "ms": 50_000}})).await;
        let mut responses = Vec::new();
        for _ in 0..STREAMS_PER_USER {
            responses.push(stream(&user, &id, 0).await);
        }
        held.push((user, id, responses));
    }
    // Both ends are in this process, and the sleeping guests.
    let each = (resident_kib().saturating_sub(before)) as f64 / IDLE_STREAMS as f64;
    row(&format!("memory of one of {IDLE_STREAMS} idle streams, its client's included"), each, "KiB", Some(100.0));
    for (user, id, responses) in held {
        drop(responses);
        user.post(&format!("/v1/runs/{id}/cancel"), &json!({})).await;
    }
}

fn main() {
    run(async {
        let server = Server::start_with(Quota { failures_in_a_row: u32::MAX, ..Quota::default() }).await;
        println!();
        events(&server).await;
        cost_of_an_event(&server).await;
        reconnect(&server).await;
        throughput(&server).await;
        idle_streams(&server).await;
        assert_eq!((server.app.runtime().host_panics(), server.app.panics()), (0, 0));
        server.app.shutdown().await;
    });
}
