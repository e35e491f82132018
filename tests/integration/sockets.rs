//! WebSockets: follow, submit and cancel over one connection, and what happens when it breaks, stalls or lies.

use crate::{
    process::Process,
    server::{Answer, Server, User, config, guest, run, shared, started},
};
use bytes::Bytes;
use cofferdam_core::quota::Quota;
use cofferdam_server::config::{Config, SocketTimes};
use futures_util::{SinkExt as _, StreamExt as _};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{
        Message,
        client::IntoClientRequest as _,
        protocol::frame::{
            Frame,
            coding::{Data, OpCode},
        },
    },
};

/// Longer than anything here takes, so that a test that waits for ever fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// A client's end of a socket.
pub struct Ws(WebSocketStream<TcpStream>);

/// What a client sees next.
#[derive(Debug, PartialEq)]
enum Seen {
    Frame(Value),
    Closed(u16),
    CutOff,
}

impl Ws {
    pub async fn open(user: &User, url: &str) -> Self {
        Self::open_with(url, "/v1/ws", Some(&user.key), None).await
    }

    async fn open_with(url: &str, path: &str, key: Option<&str>, recv_bytes: Option<u32>) -> Self {
        let address = url.strip_prefix("http://").expect("plain HTTP");
        let socket = TcpSocket::new_v4().expect("a socket");
        if let Some(bytes) = recv_bytes {
            socket.set_recv_buffer_size(bytes).expect("set");
        }
        let connection = socket.connect(address.parse().expect("an address")).await.expect("connected");
        connection.set_nodelay(true).expect("set");
        let mut request = format!("ws://{address}{path}").into_client_request().expect("a request");
        if let Some(key) = key {
            request.headers_mut().insert("authorization", format!("Bearer {key}").parse().expect("a value"));
        }
        Self(client_async(request, connection).await.expect("a WebSocket").0)
    }

    async fn send(&mut self, frame: &Value) {
        self.0.send(Message::text(frame.to_string())).await.expect("sent");
    }

    async fn seen(&mut self) -> Seen {
        loop {
            match timeout(PATIENCE, self.0.next()).await.expect("something within the time") {
                Some(Ok(Message::Text(text))) => return Seen::Frame(serde_json::from_str(&text).expect("JSON")),
                Some(Ok(Message::Close(Some(frame)))) => return Seen::Closed(frame.code.into()),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(other)) => panic!("{other:?}"),
                None | Some(Err(_)) => return Seen::CutOff,
            }
        }
    }

    async fn next(&mut self) -> Value {
        match self.seen().await {
            Seen::Frame(frame) => frame,
            other => panic!("a frame, not {other:?}"),
        }
    }

    /// The next frame of a type, events before it left out.
    async fn next_of(&mut self, kind: &str) -> Value {
        loop {
            let frame = self.next().await;
            if frame["type"] == kind {
                return frame;
            }
            assert!(["event", "gap"].contains(&frame["type"].as_str().expect("a type")), "{frame}");
        }
    }

    pub async fn ask(&mut self, frame: &Value, answer: &str) -> Value {
        self.send(frame).await;
        self.next_of(answer).await
    }

    async fn next_event(&mut self) -> Value {
        let frame = self.next().await;
        assert_eq!(frame["type"], "event", "{frame}");
        frame
    }

    /// Checks that the socket is told an error with this code and is then closed with that one.
    async fn refused(&mut self, error: &str, code: u16) {
        let frame = self.next_of("error").await;
        assert_eq!(frame["problem"]["code"], error, "{frame}");
        assert!(frame["problem"]["detail"].as_str().is_some_and(|detail| !detail.is_empty()));
        assert_eq!(self.seen().await, Seen::Closed(code), "{error}");
    }
}

/// The upgrade request of a socket that is not expected to be opened.
pub async fn handshake(user: &User, path: &str) -> Answer {
    upgrade(user.request(Method::GET, path)).await
}

async fn upgrade(request: reqwest::RequestBuilder) -> Answer {
    let request = request.header("connection", "upgrade").header("upgrade", "websocket");
    let request = request.header("sec-websocket-version", "13").header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    Answer::of(request.send().await.expect("answered")).await
}

fn steps(n: usize, sleep_ms: u64) -> Value {
    let thinking = |n| json!({"do": "thinking", "text": format!("step {n}")});
    let sleep = json!({"do": "sleep", "ms": sleep_ms});
    let steps: Vec<_> = (0..n).flat_map(|n| [thinking(n), sleep.clone()]).collect();
    json!({"agent": "probe", "input": {"do": "seq", "steps": steps}})
}

fn seq_of(frame: &Value) -> u64 {
    frame["event"]["seq"].as_u64().expect("a number")
}

#[test]
fn a_socket_that_was_cut_goes_on_where_it_was_without_loss_or_repetition() {
    run(async {
        let server = shared().await;
        let (ann, url) = (server.trusted().await, server.app.url());
        let id = ann.submit(&steps(30, 10)).await;
        let (mut seen, mut cuts) = (Vec::<Value>::new(), 0);
        'run: loop {
            let mut ws = Ws::open(&ann, &url).await;
            let after = seen.last().map_or(0, |event| event["seq"].as_u64().expect("a number"));
            let answer =
                ws.ask(&json!({"type": "subscribe", "id": "s", "run": id, "after": after}), "subscribed").await;
            assert_eq!((&answer["id"], &answer["run_id"]), (&json!("s"), &json!(id)));
            for _ in 0..5 {
                seen.push(ws.next_event().await["event"].clone());
                if seen.last().is_some_and(|event| event["type"] == "agent_completed") {
                    break 'run;
                }
            }
            // The connection breaks without a word.
            drop(ws);
            cuts += 1;
        }
        assert!(cuts >= 5);
        assert_eq!(seen, ann.events(&id).await, "a socket and the pages are one log");
        let mut ws = Ws::open(&ann, &url).await;
        let last = seen.len();
        let over = ws.ask(&json!({"type": "subscribe", "run": id, "after": last}), "subscribed").await;
        assert_eq!(over["ended"], true, "nothing more comes, and it says so: {over}");
        let ahead = ws.ask(&json!({"type": "subscribe", "run": id, "after": last + 1}), "error").await;
        assert_eq!(ahead["problem"]["code"], "cursor_ahead");
        assert_eq!(ws.ask(&json!({"type": "ping", "id": "p"}), "pong").await["id"], "p", "the socket lives on");
    });
}

#[test]
fn all_runs_are_followed_by_one_cursor_also_over_a_restart() {
    run(async {
        let server = Server::start_with(Quota::default()).await;
        let ann = server.trusted().await;
        let mut ids = vec![ann.submit(&steps(6, 5)).await, ann.submit(&steps(6, 7)).await];
        let mut ws = Ws::open(&ann, &server.app.url()).await;
        let answer = ws.ask(&json!({"type": "subscribe_all", "id": "all"}), "subscribed").await;
        assert!(answer["cursor"].is_string(), "{answer}");
        let mut seen: Vec<Value> = Vec::new();
        for _ in 0..7 {
            seen.push(ws.next_event().await);
        }
        drop(ws);
        for id in &ids {
            ann.ended(id).await;
        }
        let server = server.restart().await;
        let ann = User::new(&ann.name, &server.app.url(), &ann.key);
        ids.push(ann.submit(&steps(3, 1)).await);
        let mut ws = Ws::open(&ann, &server.app.url()).await;
        let cursor = seen.last().expect("events")["cursor"].clone();
        ws.ask(&json!({"type": "subscribe_all", "after": cursor}), "subscribed").await;
        let ended = |seen: &[Value]| seen.iter().filter(|frame| frame["event"]["type"] == "agent_completed").count();
        while ended(&seen) < 3 {
            seen.push(ws.next_event().await);
        }
        let cursors: BTreeSet<_> = seen.iter().map(|frame| frame["cursor"].as_str().expect("a cursor")).collect();
        assert_eq!(cursors.len(), seen.len(), "each event has a cursor of its own");
        for id in &ids {
            let of_run = seen.iter().filter(|frame| frame["event"]["run_id"] == id.as_str());
            let of_run: Vec<_> = of_run.map(|frame| frame["event"].clone()).collect();
            assert_eq!(of_run, ann.events(id).await, "each run's log, whole and in order");
        }

        // Pages and server-sent events have the same feed with the same cursors.
        let mut paged = Vec::new();
        let mut after = String::new();
        loop {
            let query = if after.is_empty() { String::new() } else { format!("&after={after}") };
            let page = ann.get(&format!("/v1/events?limit=4{query}")).await.is(StatusCode::OK);
            after = page["next_after"].as_str().expect("a cursor").to_owned();
            let events = page["events"].as_array().expect("events").clone();
            if events.is_empty() {
                break;
            }
            paged.extend(events);
        }
        let plain = |frame: &Value| json!({"cursor": frame["cursor"], "event": frame["event"]});
        assert_eq!(paged, seen.iter().map(plain).collect::<Vec<_>>());
        let middle = paged[5]["cursor"].as_str().expect("a cursor");
        let request = ann.request(Method::GET, "/v1/events").header("accept", "text/event-stream");
        let mut stream = request.header("last-event-id", middle).send().await.expect("answered");
        let mut text = String::new();
        while text.matches("data:").count() < paged.len() - 6 {
            text.push_str(&String::from_utf8_lossy(&stream.chunk().await.expect("a stream").expect("more")));
        }
        let ids: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
        assert_eq!(ids[0], middle, "a stream says first where it begins");
        let rest: Vec<_> = paged[6..].iter().map(|frame| frame["cursor"].as_str().expect("a cursor")).collect();
        assert_eq!(ids[1..], rest);
    });
}

#[test]
fn now_begins_with_what_comes_next() {
    run(async {
        let server = shared().await;
        let ann = server.trusted().await;
        ann.finish(&json!({"agent": "echo", "input": "before"})).await;
        let mut ws = Ws::open(&ann, &server.app.url()).await;
        ws.ask(&json!({"type": "subscribe_all", "after": "now"}), "subscribed").await;
        let after = ann.finish(&json!({"agent": "echo", "input": "after"})).await;
        assert_eq!(ws.next_event().await["event"]["run_id"], after["id"]);
    });
}

#[test]
fn runs_are_submitted_and_cancelled_over_the_socket_that_follows_them() {
    run(async {
        let server = shared().await;
        let ann = server.trusted().await;
        let mut ws = Ws::open(&ann, &server.app.url()).await;
        ws.ask(&json!({"type": "subscribe_all", "after": "now"}), "subscribed").await;
        let echo = json!({"agent": "echo", "input": {"n": 1}, "thread_id": "talk", "priority": "high"});
        let accepted = ws.ask(&json!({"type": "submit", "id": "a", "submission": echo}), "accepted").await;
        assert_eq!((&accepted["id"], &accepted["run"]["status"]), (&json!("a"), &json!("queued")));
        let id = accepted["run"]["id"].as_str().expect("an id");
        let run = ann.ended(id).await;
        assert_eq!((&run["output"], &run["thread_id"]), (&json!({"n": 1}), &json!("talk")));
        assert_eq!(run["priority"], "high");

        let sleep = json!({"agent": "probe", "input": {"do": "sleep", "ms": 50_000}});
        let slow = ws.ask(&json!({"type": "submit", "submission": sleep}), "accepted").await;
        assert_eq!(slow["id"], Value::Null);
        let slow = slow["run"]["id"].clone();
        let cancelled = ws.ask(&json!({"type": "cancel", "id": "c", "run": slow}), "cancelled").await;
        assert_eq!((&cancelled["id"], &cancelled["run"]["stop_reason"]), (&json!("c"), &json!("cancelled")));
        let again = ws.ask(&json!({"type": "cancel", "id": "d", "run": slow}), "error").await;
        assert_eq!((&again["id"], &again["problem"]["code"]), (&json!("d"), &json!("already_ended")));

        // What is wrong with a submission is told as REST tells it, and the socket lives on.
        for (submission, code) in [
            (json!({"agent": "nobody", "input": 1}), "unknown_agent"),
            (json!({"agent": "echo"}), "invalid_body"),
            (json!([1]), "invalid_body"),
            (json!({"agent": "echo", "input": 1, "thread_id": "../x"}), "invalid_id"),
            (json!({"agent": "echo", "input": 1, "limits": {"fuel": 0}}), "limit_out_of_range"),
        ] {
            let refused = ws.ask(&json!({"type": "submit", "id": "x", "submission": submission}), "error").await;
            assert_eq!((&refused["id"], &refused["problem"]["code"]), (&json!("x"), &json!(code)), "{refused}");
            let rest = ann.post("/v1/runs", &submission).await.json();
            assert_eq!(refused["problem"], rest, "the same problem document");
        }
        // The largest input fits.
        let large = "x".repeat((4 << 20) - 2);
        let submission = json!({"agent": "echo", "input": large});
        let accepted = ws.ask(&json!({"type": "submit", "submission": submission}), "accepted").await;
        assert_eq!(accepted["run"]["status"], "queued");
    });
}

#[test]
fn who_asks_over_a_socket_is_served_like_who_asks_over_http() {
    run(async {
        // A server that nobody else asks for anything.
        let server = Server::start().await;
        let ann = server.trusted().await;
        let mut ws = Ws::open(&ann, &server.app.url()).await;
        for (frame, answer) in [
            (json!({"type": "submit", "submission": {"agent": "echo", "input": 1}}), "accepted"),
            (json!({"type": "cancel", "run": "run_0199c0ffee007000a000000000000001"}), "error"),
        ] {
            let runtime = server.app.runtime();
            // A moment later it is forgotten again, and this machine may stand still for a moment.
            let mut served = false;
            for _ in 0..20 {
                while runtime.askers().anybody() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                ws.ask(&frame, answer).await;
                served = runtime.askers().anybody();
                if served {
                    break;
                }
            }
            assert!(served, "nobody hears of {frame}");
        }
    });
}

#[test]
fn a_socket_follows_several_runs_and_lets_go_of_them() {
    run(async {
        let server = shared().await;
        let ann = server.trusted().await;
        let ids = [ann.submit(&steps(3, 300)).await, ann.submit(&steps(3, 300)).await];
        let mut ws = Ws::open(&ann, &server.app.url()).await;
        for id in &ids {
            ws.ask(&json!({"type": "subscribe", "run": id}), "subscribed").await;
        }
        for again in [json!({"type": "subscribe_all"}), json!({"type": "subscribe", "run": ids[0]})] {
            let told = ws.ask(&again, "error").await;
            assert_eq!(told["problem"]["code"], "already_subscribed", "{told}");
        }
        ws.ask(&json!({"type": "unsubscribe"}), "unsubscribed").await;
        for id in &ids {
            ann.ended(id).await;
        }
        assert_eq!(ws.ask(&json!({"type": "ping"}), "pong").await["type"], "pong");
        ws.ask(&json!({"type": "subscribe", "run": ids[1], "after": 4}), "subscribed").await;
        assert_eq!(seq_of(&ws.next_event().await), 5);

        let waiting: Vec<_> = futures_util::future::join_all((0..65).map(|_| {
            let sleep = json!({"agent": "probe", "input": {"do": "sleep", "ms": 50_000}});
            let ann = ann.clone();
            async move { ann.submit(&sleep).await }
        }))
        .await;
        for (n, id) in waiting.iter().enumerate() {
            ws.send(&json!({"type": "subscribe", "run": id})).await;
            let kind = if n < 64 { "subscribed" } else { "error" };
            let answer = ws.next_of(kind).await;
            assert!(n < 64 || answer["problem"]["code"] == "too_many_subscriptions", "{answer}");
        }
        for id in &waiting {
            ann.post(&format!("/v1/runs/{id}/cancel"), &json!({})).await.is(StatusCode::OK);
        }
    });
}

#[test]
fn a_fourth_socket_is_refused_before_it_opens_and_other_users_are_not() {
    run(async {
        let server = shared().await;
        let (ann, bob, url) = (server.stranger().await, server.stranger().await, server.app.url());
        let mut open = Vec::new();
        for _ in 0..3 {
            open.push(Ws::open(&ann, &url).await);
        }
        handshake(&ann, "/v1/ws").await.problem(429, "too_many_sockets");
        let stats = ann.get("/v1/events/stats").await.is(StatusCode::OK);
        assert_eq!((&stats["connections"]["sockets"], &stats["connections"]["refused"]), (&json!(3), &json!(1)));
        assert_eq!(stats["health"]["healthy"], true);
        Ws::open(&bob, &url).await.ask(&json!({"type": "ping"}), "pong").await;
        drop(open.pop());
        while ann.get("/v1/events/stats").await.is(StatusCode::OK)["connections"]["sockets"] == 3 {
            tokio::task::yield_now().await;
        }
        Ws::open(&ann, &url).await.ask(&json!({"type": "ping"}), "pong").await;
        // The host's own view has sums and no names.
        let admin = reqwest::get(format!("{}/streams", server.app.admin_url())).await.expect("answered");
        let all = Answer::of(admin).await;
        assert!(all.json()["connections"]["opened"].as_u64().is_some_and(|opened| opened >= 5), "{}", all.text);
        assert!(!all.text.contains(&ann.name) && !all.text.contains(&bob.name), "{}", all.text);
    });
}

#[test]
fn a_ticket_opens_one_socket() {
    run(async {
        let server = shared().await;
        let (ann, url) = (server.stranger().await, server.app.url());
        let made = ann.post("/v1/ws-ticket", &json!({})).await;
        assert_eq!(made.header("cache-control"), Some("no-store"));
        let ticket = made.is(StatusCode::CREATED)["ticket"].as_str().expect("a ticket").to_owned();
        let path = format!("/v1/ws?ticket={ticket}");
        let mut ws = Ws::open_with(&url, &path, None, None).await;
        let run = json!({"type": "submit", "submission": {"agent": "echo", "input": 1}});
        assert_eq!(ws.ask(&run, "accepted").await["run"]["user"], ann.name.as_str());
        for path in [path.as_str(), "/v1/ws?ticket=wst_guess", "/v1/ws?ticket=", "/v1/ws"] {
            let nobody = reqwest::Client::new().get(format!("{url}{path}"));
            upgrade(nobody).await.problem(401, "unauthenticated");
        }
        // A ticket opens sockets only, and whoever shows a key needs none.
        let other = ann.post("/v1/ws-ticket", &json!({})).await.is(StatusCode::CREATED);
        let query = format!("?ticket={}", other["ticket"].as_str().expect("a ticket"));
        let plain = reqwest::get(format!("{url}/v1/runs{query}")).await.expect("answered");
        assert_eq!(plain.status(), StatusCode::UNAUTHORIZED);
        server.operator.post("/v1/ws-ticket", &json!({})).await.problem(403, "user_needed");
        handshake(&server.operator, "/v1/ws").await.problem(403, "user_needed");
        ann.get("/v1/ws").await.problem(426, "not_a_websocket");
        for _ in 0..15 {
            ann.post("/v1/ws-ticket", &json!({})).await.is(StatusCode::CREATED);
        }
        ann.post("/v1/ws-ticket", &json!({})).await.problem(429, "too_many_tickets");
    });
}

#[test]
fn another_users_runs_are_invisible_on_a_socket() {
    run(async {
        let server = shared().await;
        let (ann, bob, url) = (server.trusted().await, server.trusted().await, server.app.url());
        let hers = ann.submit(&steps(3, 5)).await;
        let mut ws = Ws::open(&bob, &url).await;
        for (n, frame) in [
            json!({"type": "subscribe", "run": hers}),
            json!({"type": "cancel", "run": hers}),
            json!({"type": "subscribe", "run": "run_00000000000000000000000000000000"}),
            json!({"type": "subscribe", "run": "not a run"}),
        ]
        .iter()
        .enumerate()
        {
            let told = ws.ask(frame, "error").await;
            assert_eq!(told["problem"]["code"], "unknown_run", "{n}: {told}");
        }
        ws.ask(&json!({"type": "subscribe_all"}), "subscribed").await;
        assert_eq!(ann.ended(&hers).await["stop_reason"], "completed");
        let his = bob.finish(&json!({"agent": "echo", "input": 1})).await;
        assert_eq!(ws.next_event().await["event"]["run_id"], his["id"], "his own is the first that he sees");

        // Her cursor means nothing to him, whichever way he shows it.
        let page = ann.get("/v1/events").await.is(StatusCode::OK);
        let cursor = page["next_after"].as_str().expect("a cursor");
        let mut other = Ws::open(&bob, &url).await;
        let told = other.ask(&json!({"type": "subscribe_all", "after": cursor}), "error").await;
        assert_eq!(told["problem"]["code"], "invalid_cursor");
        bob.get(&format!("/v1/events?after={cursor}")).await.problem(400, "invalid_cursor");
        for after in ["x", "1", "1.1", "1.1.00000000", "-1", "%00", ""] {
            bob.get(&format!("/v1/events?after={after}")).await.problem(400, "invalid_cursor");
        }
    });
}

#[test]
fn a_cursor_from_the_future_is_refused_wherever_it_is_shown() {
    run(async {
        let server = Server::start_with(Quota::default()).await;
        let ann = server.trusted().await;
        let run = ann.finish(&json!({"agent": "echo", "input": 1})).await;
        let path = format!("/v1/runs/{}/events", run["id"].as_str().expect("an id"));
        let last = run["usage"]["events"].as_u64().expect("a number");
        let stream = async |path: &str, after: &str| {
            let request = ann.request(Method::GET, path).header("accept", "text/event-stream");
            Answer::of(request.header("last-event-id", after).send().await.expect("answered")).await
        };
        assert_eq!(stream(&path, &last.to_string()).await.status, StatusCode::NO_CONTENT);
        for ahead in [last + 1, i64::MAX as u64] {
            stream(&path, &ahead.to_string()).await.problem(400, "cursor_ahead");
            ann.get(&format!("{path}?after={ahead}")).await.problem(400, "cursor_ahead");
        }
        let slow = ann.submit(&json!({"agent": "probe", "input": {"do": "sleep", "ms": 50_000}})).await;
        stream(&format!("/v1/runs/{slow}/events"), "2").await.problem(400, "cursor_ahead");
        ann.post(&format!("/v1/runs/{slow}/cancel"), &json!({})).await.is(StatusCode::OK);

        // The cursor of a host that has seen more, over a database from before.
        let page = ann.get("/v1/events").await.is(StatusCode::OK);
        let cursor = page["next_after"].as_str().expect("a cursor").to_owned();
        let fresh = Server::start_empty(tempfile::tempdir().expect("a directory"), Quota::default()).await;
        let ann = fresh.user(&ann.name).await;
        ann.get(&format!("/v1/events?after={cursor}")).await.problem(400, "cursor_ahead");
    });
}

#[test]
fn frames_that_cannot_be_answered_are_told_and_close_the_socket_with_their_code() {
    run(async {
        let server = shared().await;
        let (ann, url) = (server.trusted().await, server.app.url());
        let texts = [
            ("", "invalid_json"),
            ("{", "invalid_json"),
            (r#"{"type":"ping"} {}"#, "invalid_json"),
            ("\u{0}", "invalid_json"),
            ("null", "invalid_frame"),
            ("[]", "invalid_frame"),
            ("{}", "invalid_frame"),
            (r#"{"type":"nonsense"}"#, "invalid_frame"),
            (r#"{"type":"ping","extra":1}"#, "invalid_frame"),
            (r#"{"type":"ping","id":"not an id"}"#, "invalid_frame"),
            (r#"{"type":"subscribe"}"#, "invalid_frame"),
            (r#"{"type":"subscribe","run":"run_1","after":"1"}"#, "invalid_frame"),
            (r#"{"type":"subscribe_all","after":1}"#, "invalid_frame"),
        ];
        for (text, code) in texts {
            let mut ws = Ws::open(&ann, &url).await;
            ws.0.send(Message::text(text)).await.expect("sent");
            ws.refused(code, 4400).await;
        }
        let mut ws = Ws::open(&ann, &url).await;
        let deep = format!(r#"{{"type":"ping","id":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        ws.0.send(Message::text(deep)).await.expect("sent");
        let frame = ws.next_of("error").await;
        assert!(["invalid_json", "invalid_frame"].contains(&frame["problem"]["code"].as_str().expect("a code")));

        let mut ws = Ws::open(&ann, &url).await;
        ws.0.send(Message::binary(&b"{\"type\":\"ping\"}"[..])).await.expect("sent");
        ws.refused("binary_frame", 1003).await;

        let mut ws = Ws::open(&ann, &url).await;
        let frame = Frame::message(Bytes::from_static(b"\"\xff\""), OpCode::Data(Data::Text), true);
        ws.0.send(Message::Frame(frame)).await.expect("sent");
        ws.refused("invalid_utf8", 1007).await;

        // One that only says how large it is, and one that is.
        let mut ws = Ws::open(&ann, &url).await;
        ws.0.get_mut().write_all(&[0x81, 0xff, 0, 0, 1, 0, 0, 0, 0, 0, 1, 2, 3, 4]).await.expect("sent");
        ws.refused("frame_too_large", 1009).await;
        let mut ws = Ws::open(&ann, &url).await;
        let _ = ws.0.send(Message::text("x".repeat(5 << 20))).await;
        ws.refused("frame_too_large", 1009).await;

        // Not WebSocket at all: reserved bits, and frames without a mask.
        for bytes in [&[0xf1_u8, 0x80, 0, 0, 0, 0][..], &[0x81, 0x02, b'{', b'}']] {
            let mut ws = Ws::open(&ann, &url).await;
            ws.0.get_mut().write_all(bytes).await.expect("sent");
            ws.refused("protocol_error", 1002).await;
        }

        // The same on a connection that still carries events, and nothing of it disturbs the run.
        let id = ann.submit(&steps(10, 5)).await;
        let mut ws = Ws::open(&ann, &url).await;
        ws.ask(&json!({"type": "subscribe", "run": id}), "subscribed").await;
        ws.0.send(Message::text("nonsense")).await.expect("sent");
        ws.refused("invalid_json", 4400).await;
        assert_eq!(ann.ended(&id).await["stop_reason"], "completed");
        assert_eq!(server.app.panics(), 0);
    });
}

/// The resident memory of a process, in KiB.
fn resident_kib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().split(' ').next().expect("a number").parse().expect("a number")
}

#[test]
fn a_reader_that_stands_still_gets_gaps_costs_no_memory_and_holds_up_no_guest() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        let server = Process::serve(dir.path()).await;
        let (operator, dev) = (server.operator(), server.dev());
        operator.push("hostile", guest("hostile")).await.is(StatusCode::CREATED);
        let url = server.text("url");
        let logs = json!({"agent": "hostile", "input": {"scenario": "log_flood", "count": 8_000, "bytes": 2_000}});
        let thoughts = json!({"agent": "hostile", "input": {"scenario": "event_flood", "count": 3_000, "bytes": 50}});
        // Once with a reader that reads: the host's caches grow, and the time is what it takes by itself.
        let mut reader = Ws::open(&dev, url).await;
        reader.ask(&json!({"type": "subscribe_all"}), "subscribed").await;
        let alone = Instant::now();
        let reading = tokio::spawn(async move { while reader.next().await["event"]["type"] != "agent_completed" {} });
        dev.finish(&logs).await;
        let alone = alone.elapsed();
        reading.await.expect("read to the end");

        let mut stalled = Ws::open_with(url, "/v1/ws", Some(&dev.key), Some(4096)).await;
        stalled.ask(&json!({"type": "subscribe_all", "after": "now"}), "subscribed").await;
        let before = resident_kib(server.id());
        let began = Instant::now();
        let mut runs = BTreeMap::new();
        for submission in [&logs, &thoughts, &logs] {
            let run = dev.finish(submission).await;
            assert_eq!(run["stop_reason"], "completed", "{run}");
            runs.insert(run["id"].as_str().expect("an id").to_owned(), run["usage"]["events"].as_u64().expect("it"));
        }
        let took = began.elapsed();
        assert!(took < alone * 8 + Duration::from_secs(5), "{took:?} beside a stalled reader, {alone:?} alone");
        // It counts as slow when it has kept an event waiting for half a second.
        let stats = loop {
            let stats = dev.get("/v1/events/stats").await.is(StatusCode::OK);
            if stats["events"]["dropped_priority_4"].as_u64().is_some_and(|dropped| dropped > 0) {
                break stats;
            }
            assert!(began.elapsed() < took + PATIENCE, "{stats}");
        };
        assert!(stats["events"]["queued"].as_u64().is_some_and(|queued| queued <= 1_000), "{stats}");
        assert!(stats["health"]["slow_sockets"] == 1 && stats["health"]["healthy"] == false, "{stats}");
        let grown_kib = resident_kib(server.id()).saturating_sub(before);
        // 32 MB of events were written meanwhile.
        assert!(grown_kib < 16 << 10, "the host grew by {grown_kib} KiB");

        // Now it reads. Every number of every run is there, as an event or in a gap; no event of priority 1 or 2 is
        // missing, and what a gap left out can be fetched.
        let mut next: BTreeMap<String, u64> = BTreeMap::new();
        let (mut important, mut gaps) = (0, Vec::new());
        while runs.iter().any(|(run, last)| next.get(run) != Some(&(last + 1))) {
            let frame = stalled.next().await;
            let (run, from, to) = match frame["type"].as_str() {
                Some("event") => {
                    important += u64::from(frame["event"]["priority"].as_u64().expect("it") <= 2);
                    (&frame["event"]["run_id"], seq_of(&frame), seq_of(&frame))
                }
                Some("gap") => {
                    let (from, to) = (frame["from"].as_u64().expect("from"), frame["to"].as_u64().expect("to"));
                    gaps.push((frame["run_id"].as_str().expect("a run").to_owned(), from, to));
                    (&frame["run_id"], from, to)
                }
                _ => panic!("{frame}"),
            };
            let expected = next.entry(run.as_str().expect("a run").to_owned()).or_insert(1);
            assert_eq!(*expected, from, "no hole and no repetition");
            *expected = to + 1;
        }
        assert!(!gaps.is_empty());
        assert_eq!(important, 3_000 + 2 * 3, "thoughts, beginnings and ends");
        let (run, from, to) = gaps.first().expect("a gap");
        let page = dev.get(&format!("/v1/runs/{run}/events?after={}&limit=1", from - 1)).await.is(StatusCode::OK);
        assert_eq!(page["events"][0]["seq"], *from);
        assert!(from <= to);
        println!("alone {alone:?}, three beside a stalled reader {took:?}, grown {grown_kib} KiB, {} gaps", gaps.len());
    });
}

async fn impatient(times: SocketTimes) -> (Server, User) {
    let dir = tempfile::tempdir().expect("a directory");
    let app = started(Config { socket_times: times, ..config(dir.path(), Quota::default()) }).await;
    let operator = User::new("operator", &app.url(), app.admin_key().expect("a dev server"));
    let dev = User::new("dev", &app.url(), app.api_key().expect("a dev server"));
    (Server { app, dir, operator }, dev)
}

#[test]
fn a_socket_that_answers_no_pings_is_closed_and_one_that_does_is_not() {
    run(async {
        let ms = Duration::from_millis;
        let times = SocketTimes { ping_every: ms(50), silence_max: ms(300), write_max: ms(5_000) };
        let (server, dev) = impatient(times).await;
        let url = server.app.url();
        let mut polite = Ws::open(&dev, &url).await;
        let mut silent = Ws::open(&dev, &url).await;
        // Whoever reads answers pings; the other one does not read until the host has had enough of it.
        let mut waited = tokio::time::interval(ms(20));
        while dev.get("/v1/events/stats").await.is(StatusCode::OK)["connections"]["reaped"] == 0 {
            let _ = timeout(ms(10), polite.0.next()).await;
            waited.tick().await;
        }
        assert_eq!(silent.seen().await, Seen::Closed(4408));
        polite.ask(&json!({"type": "ping"}), "pong").await;
        server.app.shutdown().await;
    });
}

#[test]
fn a_socket_that_takes_nothing_is_cut_off() {
    run(async {
        let ms = Duration::from_millis;
        let times = SocketTimes { ping_every: ms(60_000), silence_max: ms(60_000), write_max: ms(200) };
        let (server, dev) = impatient(times).await;
        server.operator.push("hostile", guest("hostile")).await.is(StatusCode::CREATED);
        let mut stuck = Ws::open_with(&server.app.url(), "/v1/ws", Some(&dev.key), Some(4096)).await;
        stuck.ask(&json!({"type": "subscribe_all"}), "subscribed").await;
        let flood = json!({"agent": "hostile", "input": {"scenario": "event_flood", "count": 6_000, "bytes": 2_000}});
        assert_eq!(dev.finish(&flood).await["stop_reason"], "completed");
        let all = async || {
            let admin = reqwest::get(format!("{}/streams", server.app.admin_url())).await.expect("answered");
            Answer::of(admin).await.is(StatusCode::OK)
        };
        while all().await["connections"]["reaped"] != 1 || all().await["connections"]["sockets"] != 0 {
            tokio::task::yield_now().await;
        }
        assert!(all().await["events"]["failed"].as_u64().is_some_and(|failed| failed > 0), "what it did not take");
        // It reads what was on its way, and is cut off without a word; what it missed is in storage.
        let mut last = None;
        let cut = loop {
            match stuck.seen().await {
                Seen::Frame(frame) => last = Some(frame),
                other => break other,
            }
        };
        assert_eq!(cut, Seen::CutOff);
        let cursor = last.expect("some events")["cursor"].clone();
        let mut again = Ws::open(&dev, &server.app.url()).await;
        again.ask(&json!({"type": "subscribe_all", "after": cursor}), "subscribed").await;
        while again.next_event().await["event"]["type"] != "agent_completed" {}
        drop(again);
        server.app.shutdown().await;
    });
}

#[test]
fn sockets_are_told_when_the_server_goes_away_and_do_not_hold_it_up() {
    run(async {
        let server = Server::start_with(Quota::default()).await;
        let ann = server.trusted().await;
        let mut follower = Ws::open(&ann, &server.app.url()).await;
        follower.ask(&json!({"type": "subscribe_all"}), "subscribed").await;
        let stalled = Ws::open_with(&server.app.url(), "/v1/ws", Some(&ann.key), Some(4096)).await;
        let running = ann.submit(&steps(5, 20)).await;
        while follower.next_event().await["event"]["type"] != "agent_started" {}
        let Server { app, dir: _dir, .. } = server;
        let stopping = tokio::spawn(async move {
            let began = Instant::now();
            app.shutdown().await;
            began.elapsed()
        });
        // The run that executes is finished, and seen to be, before the doors close.
        while follower.next_event().await["event"]["type"] != "agent_completed" {}
        assert_eq!(follower.seen().await, Seen::Closed(1001), "after the end of {running}");
        let took = stopping.await.expect("stopped");
        assert!(took < Duration::from_secs(4), "{took:?}");
        drop(stalled);
    });
}

#[test]
fn a_socket_counts_as_a_request_under_way_and_floods_come_to_a_stop() {
    run(async {
        let server = shared().await;
        let ann = server.trusted().await;
        let mut ws = Ws::open(&ann, &server.app.url()).await;
        ws.ask(&json!({"type": "ping"}), "pong").await;
        let id = ann.submit(&json!({"agent": "probe", "input": {"do": "sleep", "ms": 30_000}})).await;
        let path = format!("/v1/runs/{id}/events");
        let mut streams = Vec::new();
        for _ in 0..127 {
            let request = ann.request(Method::GET, &path).header("accept", "text/event-stream");
            streams.push(request.send().await.expect("answered"));
        }
        handshake(&ann, "/v1/ws").await.problem(429, "too_many_requests_at_once");
        drop(streams);
        while ann.post(&format!("/v1/runs/{id}/cancel"), &json!({})).await.status != StatusCode::OK {
            tokio::task::yield_now().await;
        }
        // A client that asks and never listens is not read any further: its own writes stop.
        let mut deaf = Ws::open_with(&server.app.url(), "/v1/ws", Some(&ann.key), Some(4096)).await;
        let long = json!({"type": "cancel", "id": "x".repeat(64), "run": "y".repeat(4_000)}).to_string();
        let mut sent = 0_u64;
        while let Ok(written) = timeout(Duration::from_millis(700), deaf.0.send(Message::text(long.clone()))).await {
            written.expect("sent");
            sent += 1;
            assert!(sent < 100_000, "400 MB of questions were taken");
        }
        drop(deaf);
        ws.ask(&json!({"type": "ping"}), "pong").await;
    });
}

#[test]
fn a_socket_is_told_of_what_it_followed_and_is_removed() {
    run(async {
        let server = Server::start_with(Quota { runs_stored: 1, ..Quota::default() }).await;
        let (ann, url) = (server.trusted().await, server.app.url());
        let flood = json!({"agent": "hostile", "input": {"scenario": "event_flood", "count": 6_000, "bytes": 5_000}});
        let long = ann.finish(&flood).await["id"].clone();
        // More than is on its way at any time: both are in the middle when the run goes.
        let mut of_run = Ws::open_with(&url, "/v1/ws", Some(&ann.key), Some(64 << 10)).await;
        let mut of_all = Ws::open_with(&url, "/v1/ws", Some(&ann.key), Some(64 << 10)).await;
        of_run.ask(&json!({"type": "subscribe", "run": long}), "subscribed").await;
        of_all.ask(&json!({"type": "subscribe_all"}), "subscribed").await;
        let newer = ann.finish(&json!({"agent": "echo", "input": 1})).await["id"].clone();
        while ann.get(&format!("/v1/runs/{}", long.as_str().expect("an id"))).await.status != StatusCode::NOT_FOUND {
            tokio::task::yield_now().await;
        }
        let told = of_run.next_of("removed").await;
        assert_eq!(told, json!({"type": "removed", "run_id": long}));
        let again = of_run.ask(&json!({"type": "subscribe", "run": long}), "error").await;
        assert_eq!(again["problem"]["code"], "unknown_run");
        let told = of_all.next_of("removed").await;
        let (next, cursor) = (of_all.next_event().await, told["cursor"].as_str().expect("a cursor"));
        assert_eq!((&next["event"]["run_id"], &next["event"]["seq"]), (&newer, &json!(1)));
        let rest = ann.get(&format!("/v1/events?after={cursor}")).await.is(StatusCode::OK);
        assert_eq!(rest["events"][0]["event"], next["event"], "the cursor is that of what comes next");
        assert_eq!(rest["events"][0]["removed_before"], Value::Null, "and what is missing was told");
    });
}

#[test]
fn after_it_was_unsubscribed_from_a_run_is_not_heard_of_until_it_is_subscribed_to() {
    run(async {
        let server = shared().await;
        let (ann, url) = (server.trusted().await, server.app.url());
        let flood = json!({"agent": "hostile", "input": {"scenario": "event_flood", "count": 6_000, "bytes": 5_000}});
        let id = ann.finish(&flood).await["id"].clone();
        for all in [false, true] {
            let subscribe = |after: &Value| match all {
                true => json!({"type": "subscribe_all", "after": after}),
                false => json!({"type": "subscribe", "run": id, "after": after}),
            };
            let mut ws = Ws::open_with(&url, "/v1/ws", Some(&ann.key), Some(64 << 10)).await;
            ws.ask(&subscribe(&Value::Null), "subscribed").await;
            let (mut seqs, mut last) = (Vec::new(), Value::Null);
            let mut take = |frame: &Value| {
                seqs.push(seq_of(frame));
                if all { frame["cursor"].clone() } else { frame["event"]["seq"].clone() }
            };
            while last.as_u64() != Some(10) && !last.as_str().is_some_and(|cursor| cursor.contains(".10.")) {
                last = take(&ws.next_event().await);
            }
            ws.send(&json!({"type": "unsubscribe"})).await;
            loop {
                let frame = ws.next().await;
                if frame["type"] == "unsubscribed" {
                    break;
                }
                last = take(&frame);
            }
            // Nothing comes by itself any more: the next is the answer to the next.
            ws.send(&subscribe(&last)).await;
            assert_eq!(ws.next().await["type"], "subscribed");
            loop {
                let frame = ws.next_event().await;
                take(&frame);
                if frame["event"]["type"] == "agent_completed" {
                    break;
                }
            }
            assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>(), "nothing is lost, nothing comes twice");
        }
    });
}
