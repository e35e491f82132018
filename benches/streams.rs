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

mod figures;

#[path = "../tests/integration/server.rs"]
#[allow(dead_code, reason = "shared with the integration tests, which use all of it")]
mod server;

use cofferdam_core::quota::Quota;
use figures::{asked, percentile, row};
use futures_util::{SinkExt as _, StreamExt as _};
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
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Message, client::IntoClientRequest as _, protocol::WebSocketConfig},
};

/// Events whose way to the client is timed.
const EVENTS: usize = 2_000;
/// Events of the run that shows what one costs.
const FLOOD: u64 = 10_000;
/// How long each number of connections submits runs.
const SUBMITTING: Duration = Duration::from_secs(4);
/// Sockets of users whose runs say nothing.
const IDLE_SOCKETS: usize = 2_000;
/// Sockets of users whose runs do.
const ACTIVE_SOCKETS: usize = 200;
/// As many as a user may have.
const SOCKETS_PER_USER: usize = 3;

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

/// A client's end of a WebSocket that follows all runs of its user.
struct Socket(WebSocketStream<TcpStream>);

impl Socket {
    async fn open(server: &Server, user: &User) -> Self {
        let url = server.app.url();
        let address = url.strip_prefix("http://").expect("plain HTTP");
        let connection = TcpStream::connect(address).await.expect("connected");
        connection.set_nodelay(true).expect("set");
        let mut request = format!("ws://{address}/v1/ws").into_client_request().expect("a request");
        request.headers_mut().insert("authorization", format!("Bearer {}", user.key).parse().expect("a value"));
        // The client's own buffers are not what is measured.
        let config = WebSocketConfig::default().read_buffer_size(4 << 10).write_buffer_size(4 << 10);
        let opened = client_async_with_config(request, connection, Some(config)).await.expect("a WebSocket");
        let mut socket = Self(opened.0);
        let follow = json!({"type": "subscribe_all", "after": "now"});
        socket.0.send(Message::text(follow.to_string())).await.expect("sent");
        assert_eq!(socket.next().await["type"], "subscribed");
        socket
    }

    async fn next(&mut self) -> Value {
        loop {
            if let Message::Text(text) = self.0.next().await.expect("open").expect("a frame") {
                return serde_json::from_str(&text).expect("JSON");
            }
        }
    }

    /// Reads until a run's last event, and gives how long each event was on its way.
    async fn follow(&mut self) -> Vec<Duration> {
        let mut times = Vec::new();
        loop {
            let frame = self.next().await;
            let now = jiff::Timestamp::now();
            assert_eq!(frame["type"], "event", "{frame}");
            let at: jiff::Timestamp = frame["event"]["at"].as_str().expect("a time").parse().expect("a time");
            times.push(Duration::try_from(now.duration_since(at)).unwrap_or_default());
            if frame["event"]["priority"] == 1 && frame["event"]["seq"] != 1 {
                return times;
            }
        }
    }
}

/// Three sockets for each user.
async fn open_sockets(server: &Server, users: Vec<User>) -> Vec<(User, Vec<Socket>)> {
    let mut all = Vec::new();
    for user in users {
        let mut sockets = Vec::new();
        for _ in 0..SOCKETS_PER_USER {
            sockets.push(Socket::open(server, &user).await);
        }
        all.push((user, sockets));
    }
    all
}

/// As many users as so many sockets need.
async fn users(server: &Server, sockets: usize) -> Vec<User> {
    let mut users = Vec::new();
    for _ in 0..sockets.div_ceil(SOCKETS_PER_USER) {
        users.push(server.trusted().await);
    }
    users
}

async fn sockets(server: &Server) {
    let idle_users = users(server, IDLE_SOCKETS).await;
    let before = resident_kib();
    let idle = open_sockets(server, idle_users).await;
    // Both ends are in this process.
    let each = resident_kib().saturating_sub(before) as f64 / IDLE_SOCKETS as f64;
    row(&format!("memory of one of {IDLE_SOCKETS} idle sockets, its client's included"), each, "KiB", Some(100.0));
    let active_users = users(server, ACTIVE_SOCKETS).await;
    let before = resident_kib();
    let active = open_sockets(server, active_users).await;
    let steps: Vec<_> = (0..100)
        .flat_map(|n| [json!({"do": "thinking", "text": format!("step {n}")}), json!({"do": "sleep", "ms": 50})])
        .collect();
    let body = json!({"agent": "probe", "input": {"do": "seq", "steps": steps}});
    let begun = Instant::now();
    let mut readers = Vec::new();
    for (user, sockets) in active {
        user.submit(&body).await;
        readers.extend(sockets.into_iter().map(|mut socket| tokio::spawn(async move { socket.follow().await })));
    }
    let mut times = Vec::new();
    for reader in readers {
        times.extend(reader.await.expect("not panicked"));
    }
    let events = times.len() as f64 / begun.elapsed().as_secs_f64();
    row(&format!("events a second to {ACTIVE_SOCKETS} active sockets beside the idle ones"), events, "/s", None);
    println!("event to socket, of {} users at once: p50 {:.2} ms", ACTIVE_SOCKETS / 3, percentile(&mut times, 50));
    row("event to socket, p99", percentile(&mut times, 99), "ms", None);
    let each = resident_kib().saturating_sub(before) as f64 / ACTIVE_SOCKETS as f64;
    row(
        &format!("memory of one of {ACTIVE_SOCKETS} active sockets, its client's and runs' included"),
        each,
        "KiB",
        None,
    );
    drop(idle);
}

fn main() {
    run(async {
        let server = Server::start_with(Quota { failures_in_a_row: u32::MAX, ..Quota::default() }).await;
        println!();
        if asked("events") {
            events(&server).await;
        }
        if asked("cost") {
            cost_of_an_event(&server).await;
        }
        if asked("reconnect") {
            reconnect(&server).await;
        }
        if asked("throughput") {
            throughput(&server).await;
        }
        if asked("sockets") {
            sockets(&server).await;
        }
        assert_eq!((server.app.runtime().host_panics(), server.app.panics()), (0, 0));
        server.app.shutdown().await;
    });
}
