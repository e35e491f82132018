//! Requests that create something once: sent again with the same `Idempotency-Key`, they have the same answer.

use crate::{
    server::{Answer, Server, User, config, guest, run, shared},
    storage::Odd,
};
use cofferdam_core::{idempotency::IDEMPOTENCY_KEYS_PER_USER_MAX, quota::Quota};
use cofferdam_server::App;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{ConnectOptions as _, Connection as _, sqlite::SqliteConnectOptions};
use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
};

async fn send(user: &User, path: &str, key: &str, prefer: &str, body: &Value) -> Answer {
    let request = user.request(Method::POST, path).header("idempotency-key", key).header("prefer", prefer);
    Answer::of(request.json(body).send().await.expect("answered")).await
}

async fn submit(user: &User, key: &str, body: &Value) -> Answer {
    send(user, "/v1/runs", key, "", body).await
}

fn is_replayed(answer: &Answer) -> bool {
    match answer.header("idempotent-replayed") {
        None => false,
        Some("true") => true,
        Some(other) => panic!("Idempotent-Replayed: {other}"),
    }
}

fn id(answer: &Answer) -> String {
    assert!(answer.status.is_success(), "{}", answer.text);
    answer.json()["id"].as_str().expect("an id").to_owned()
}

async fn runs_of(user: &User) -> usize {
    user.get("/v1/runs?limit=100").await.is(StatusCode::OK)["runs"].as_array().expect("runs").len()
}

/// Changes the database of a server behind its back. Says how many rows it changed.
pub async fn change_database(dir: &Path, statements: &[&'static str]) -> u64 {
    let file = dir.join("cofferdam.db");
    let mut connection = SqliteConnectOptions::new().filename(file).connect().await.expect("connects");
    let mut changed = 0;
    for statement in statements {
        changed += sqlx::query(*statement).execute(&mut connection).await.expect("changes").rows_affected();
    }
    connection.close().await.expect("closes");
    changed
}

#[test]
fn the_same_key_and_body_give_the_same_run_as_it_stands_also_after_a_restart() {
    run(async {
        let server = Server::start_with(Quota::default()).await;
        let ann = server.trusted().await;
        let body = json!({"agent": "probe", "input": {"do": "sleep", "ms": 700}});
        let first = submit(&ann, "k-1", &body).await;
        first.is(StatusCode::ACCEPTED);
        assert!(!is_replayed(&first), "the first is nobody's repetition");
        let id = id(&first);

        // While it runs, it is answered as it stands, or waited for.
        let again = submit(&ann, "\"k-1\"", &body).await;
        assert_eq!((again.status, is_replayed(&again)), (StatusCode::ACCEPTED, true), "quotes are not part of a key");
        assert_eq!((&self::id(&again), again.header("location")), (&id, first.header("location")));
        let waited = send(&ann, "/v1/runs", "k-1", "wait=30", &body).await;
        assert_eq!((waited.status, is_replayed(&waited)), (StatusCode::OK, true));
        assert_eq!(waited.header("preference-applied"), Some("wait=30"));
        assert_eq!((&waited.json()["id"], &waited.json()["stop_reason"]), (&json!(id), &json!("completed")));
        let ended = submit(&ann, "k-1", &body).await;
        assert_eq!((ended.status, is_replayed(&ended)), (StatusCode::OK, true));
        assert_eq!(ended.json(), waited.json());

        // Other bytes are another request, if they mean the same or not.
        let spaced = ann.request(Method::POST, "/v1/runs").header("idempotency-key", "k-1");
        let spaced = spaced.header("content-type", "application/json").body(format!("{body} "));
        let spaced = Answer::of(spaced.send().await.expect("answered")).await;
        let reused = spaced.problem(422, "idempotency_key_reused");
        assert!(reused["hint"].as_str().is_some_and(|hint| hint.contains("new key")), "{reused}");
        let other = submit(&ann, "k-1", &json!({"agent": "echo", "input": 1})).await;
        assert_eq!(other.problem(422, "idempotency_key_reused")["field"], "Idempotency-Key");
        // Another user's key is another key, however it reads.
        let bob = server.trusted().await;
        let his = submit(&bob, "k-1", &body).await;
        assert!(!is_replayed(&his) && self::id(&his) != id);
        assert_eq!((runs_of(&ann).await, runs_of(&bob).await), (1, 1));

        let server = server.restart().await;
        let ann = User::new(&ann.name, &server.app.url(), &ann.key);
        let later = submit(&ann, "k-1", &body).await;
        assert_eq!((later.status, is_replayed(&later)), (StatusCode::OK, true));
        assert_eq!(later.json(), waited.json());
        submit(&ann, "k-1", &json!({"agent": "echo", "input": 1})).await.problem(422, "idempotency_key_reused");
        assert_eq!(runs_of(&ann).await, 1);
        assert!(!is_replayed(&submit(&ann, "k-2", &body).await));
        assert_eq!(runs_of(&ann).await, 2);
    });
}

#[test]
fn of_equal_requests_at_once_one_makes_its_run() {
    run(async {
        let ann = shared().await.stranger().await;
        for round in 0..20 {
            let (key, body) = (format!("round-{round}"), json!({"agent": "echo", "input": round}));
            let one = || submit(&ann, &key, &body);
            let (a, b, c, d) = tokio::join!(one(), one(), one(), one());
            let mut ids = Vec::new();
            for answer in [a, b, c, d] {
                if answer.status == StatusCode::CONFLICT {
                    answer.problem(409, "idempotency_in_flight");
                    ids.push(id(&submit(&ann, &key, &body).await));
                } else {
                    ids.push(id(&answer));
                }
            }
            ids.dedup();
            assert_eq!(ids.len(), 1, "they made {ids:?}");
            ann.ended(&ids[0]).await;
            assert_eq!(runs_of(&ann).await, round + 1);
        }
    });
}

#[test]
fn while_the_first_is_being_taken_a_second_is_told_to_come_back() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        let storage = Arc::new(Odd::default());
        let app = App::start_over(config(dir.path(), Quota::default()), storage.clone()).await.expect("started");
        let operator = User::new("operator", &app.url(), app.admin_key().expect("a key"));
        operator.push("echo", guest("echo")).await.is(StatusCode::CREATED);
        storage.gate.add_permits(1);
        let made = operator.post("/v1/keys", &json!({"user": "patient"})).await.is(StatusCode::CREATED);
        let patient = User::new("patient", &app.url(), made["api_key"].as_str().expect("a key"));

        let body = json!({"agent": "echo", "input": 1});
        let key = json!({"user": "patient"});
        for (user, path, body) in [(&patient, "/v1/runs", &body), (&operator, "/v1/keys", &key)] {
            let first = tokio::spawn({
                let (user, body) = (user.clone(), body.clone());
                async move { send(&user, path, "k", "", &body).await }
            });
            while storage.waiting.load(Ordering::SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
            let second = send(user, path, "k", "", body).await;
            let told = second.problem(409, "idempotency_in_flight");
            assert!(told["detail"].as_str().is_some_and(|detail| detail.contains("send the same again")), "{told}");
            assert_eq!(second.header("retry-after"), Some("1"));
            send(user, path, "another", "", &json!({})).await.problem(422, "invalid_body");
            storage.gate.add_permits(1);
            let first = first.await.expect("sent");
            let last = send(user, path, "k", "", body).await;
            assert_eq!((is_replayed(&first), is_replayed(&last)), (false, true));
            assert_eq!(id(&first), id(&last));
        }
        assert_eq!(runs_of(&patient).await, 1);
        app.shutdown().await;
    });
}

#[test]
fn a_key_that_is_not_one_is_400() {
    run(async {
        let server = shared().await;
        let ann = server.stranger().await;
        let (run, key) = (json!({"agent": "echo", "input": 1}), json!({"user": "ann"}));
        let too_long = "k".repeat(256);
        for bad in ["", "\"\"", "\"open", "a b", "\"a b\"", "\"a\";b", &too_long] {
            for (user, path, body) in [(&ann, "/v1/runs", &run), (&server.operator, "/v1/keys", &key)] {
                let problem = send(user, path, bad, "", body).await.problem(400, "invalid_idempotency_key");
                assert_eq!(problem["field"], "Idempotency-Key");
                assert!(problem["hint"].is_string());
            }
        }
        let twice = ann.request(Method::POST, "/v1/runs").header("idempotency-key", "a").header("idempotency-key", "b");
        let twice = Answer::of(twice.json(&run).send().await.expect("answered")).await;
        twice.problem(400, "invalid_idempotency_key");
        assert_eq!(runs_of(&ann).await, 0);
        assert!(!is_replayed(&submit(&ann, &"k".repeat(255), &run).await));
        assert_eq!(runs_of(&ann).await, 1);
    });
}

#[test]
fn what_was_refused_made_nothing_and_may_come_again() {
    run(async {
        let server = Server::start_with(Quota::default()).await;
        let ann = server.stranger().await;
        let body = json!({"agent": "later", "input": 1});
        submit(&ann, "k", &body).await.problem(404, "unknown_agent");
        server.operator.push("later", guest("echo")).await.is(StatusCode::CREATED);
        let taken = submit(&ann, "k", &body).await;
        assert!(!is_replayed(&taken));
        assert_eq!(id(&submit(&ann, "k", &body).await), id(&taken));
    });
}

#[test]
fn a_host_that_takes_no_new_runs_still_answers_for_those_it_took() {
    run(async {
        let server = Server::start_with(Quota { runs_at_once: 1, ..Quota::default() }).await;
        let ann = server.trusted().await;
        let (long, short) = (
            json!({"agent": "probe", "input": {"do": "sleep", "ms": 1_500}}),
            json!({"agent": "echo", "input": "queued"}),
        );
        let running = id(&submit(&ann, "long", &long).await);
        let queued = id(&submit(&ann, "short", &short).await);
        let Server { app, dir, .. } = server;
        let admin = app.admin_url();
        let stopping = tokio::spawn(app.shutdown());
        while reqwest::get(format!("{admin}/readyz")).await.is_ok_and(|answer| answer.status() == StatusCode::OK) {
            tokio::task::yield_now().await;
        }
        submit(&ann, "new", &short).await.problem(503, "draining");
        let again = send(&ann, "/v1/runs", "short", "wait=5", &short).await;
        assert_eq!((again.status, is_replayed(&again), id(&again)), (StatusCode::ACCEPTED, true, queued.clone()));
        assert_eq!(again.json()["status"], "queued", "it waits for the next start, and nobody for it");
        assert_eq!(id(&submit(&ann, "long", &long).await), running);
        stopping.await.expect("stopped");
        let server = Server::start_empty(dir, Quota::default()).await;
        let ann = User::new(&ann.name, &server.app.url(), &ann.key);
        let last = send(&ann, "/v1/runs", "short", "wait=30", &short).await;
        assert_eq!((id(&last), &last.json()["output"]), (queued, &json!("queued")));
        assert_eq!(runs_of(&ann).await, 2);
    });
}

#[test]
fn a_key_is_made_once_and_told_again_though_storage_does_not_hold_it() {
    run(async {
        let server = Server::start_with(Quota::default()).await;
        let (operator, body) = (server.operator.clone(), json!({"user": "keyed"}));
        let idempotency_key = "make-7c9f1c52-a-key-for-keyed";
        let made = send(&operator, "/v1/keys", idempotency_key, "", &body).await;
        assert!(!is_replayed(&made));
        let first = made.is(StatusCode::CREATED);
        let api_key = first["api_key"].as_str().expect("a key").to_owned();
        let again = send(&operator, "/v1/keys", idempotency_key, "", &body).await;
        assert!(is_replayed(&again));
        assert_eq!(again.is(StatusCode::CREATED), first);
        assert_eq!(again.header("cache-control"), Some("no-store"));
        let other = send(&operator, "/v1/keys", idempotency_key, "", &json!({"user": "other"})).await;
        other.problem(422, "idempotency_key_reused");
        let fresh = send(&operator, "/v1/keys", "another", "", &body).await.is(StatusCode::CREATED);
        assert!(fresh["api_key"] != first["api_key"] && fresh["id"] != first["id"]);

        // Another operator's key is another key.
        let role = json!({"user": "second-operator", "role": "operator"});
        let second = operator.post("/v1/keys", &role).await.is(StatusCode::CREATED);
        let second = User::new("second-operator", &server.app.url(), second["api_key"].as_str().expect("a key"));
        let theirs = send(&second, "/v1/keys", idempotency_key, "", &body).await;
        assert!(!is_replayed(&theirs));
        assert!(theirs.is(StatusCode::CREATED)["api_key"] != first["api_key"]);

        let server = server.restart().await;
        let keyed = User::new("keyed", &server.app.url(), &api_key);
        keyed.get("/v1/runs").await.is(StatusCode::OK);
        let later = send(&server.operator, "/v1/keys", idempotency_key, "", &body).await;
        assert!(is_replayed(&later));
        assert_eq!(later.is(StatusCode::CREATED), first);

        // Neither the secret nor what it is made of can be read from the database.
        let Server { app, dir, .. } = server;
        app.shutdown().await;
        let stored = std::fs::read(dir.path().join("cofferdam.db")).expect("read");
        for secret in [&api_key, idempotency_key] {
            assert!(!stored.windows(secret.len()).any(|bytes| bytes == secret.as_bytes()), "{secret} is in storage");
        }
        // A host that has lost its secret says so, instead of telling a key that does not work.
        std::fs::remove_file(dir.path().join("host.key")).expect("removed");
        let server = Server::start_empty(dir, Quota::default()).await;
        let lost = send(&server.operator, "/v1/keys", idempotency_key, "", &body).await;
        lost.problem(410, "idempotency_result_gone");
        User::new("keyed", &server.app.url(), &api_key).get("/v1/runs").await.is(StatusCode::OK);
    });
}

#[test]
fn a_key_is_forgotten_in_time_and_then_makes_anew() {
    run(async {
        let server = Server::start_with(Quota::default()).await;
        let ann = server.stranger().await;
        let (body, key_body) = (json!({"agent": "echo", "input": 1}), json!({"user": "ann"}));
        let run = id(&submit(&ann, "k", &body).await);
        let key = send(&server.operator, "/v1/keys", "k", "", &key_body).await.is(StatusCode::CREATED);
        ann.ended(&run).await;
        let Server { app, dir, .. } = server;
        app.shutdown().await;
        // A day less a minute later, and then a day, as far as the records know.
        change_database(dir.path(), &["UPDATE idempotency SET expires_at = expires_at - (24 * 60 - 1) * 60 * 1000000"])
            .await;
        let server = Server::start_empty(dir, Quota::default()).await;
        let ann = User::new(&ann.name, &server.app.url(), &ann.key);
        assert_eq!(id(&submit(&ann, "k", &body).await), run);
        let Server { app, dir, .. } = server;
        app.shutdown().await;
        change_database(dir.path(), &["UPDATE idempotency SET expires_at = expires_at - 60 * 1000000"]).await;
        let server = Server::start_empty(dir, Quota::default()).await;
        let ann = User::new(&ann.name, &server.app.url(), &ann.key);
        let anew = submit(&ann, "k", &body).await;
        assert!(!is_replayed(&anew) && id(&anew) != run);
        let new_key = send(&server.operator, "/v1/keys", "k", "", &key_body).await;
        assert!(!is_replayed(&new_key));
        let new_key = new_key.is(StatusCode::CREATED);
        assert!(new_key["api_key"] != key["api_key"] && new_key["id"] != key["id"]);
        for key in [&key, &new_key] {
            let user = User::new("ann", &server.app.url(), key["api_key"].as_str().expect("a key"));
            user.get("/v1/runs").await.is(StatusCode::OK);
        }
    });
}

#[test]
fn a_user_has_so_many_keys_remembered_and_the_next_is_refused_until_one_is_forgotten() {
    run(async {
        let server = Server::start_with(Quota::default()).await;
        let (ann, bob) = (server.user("ann").await, server.user("bob").await);
        let body = json!({"agent": "echo", "input": 1});
        let run = id(&submit(&ann, "first", &body).await);
        ann.ended(&run).await;
        let Server { app, dir, .. } = server;
        app.shutdown().await;
        // As many as may be, with the one above; the oldest of them is forgotten in an hour.
        assert_eq!(IDEMPOTENCY_KEYS_PER_USER_MAX, 100_000);
        let fill = "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 99999)
            INSERT INTO idempotency (user, creating, key, body, made, expires_at)
            SELECT 'ann', 'run', 'k' || n, 'b', 'r', (unixepoch() + 3600 + n) * 1000000 FROM numbers";
        change_database(dir.path(), &[fill]).await;
        let server = Server::start_empty(dir, Quota::default()).await;
        let ann = User::new("ann", &server.app.url(), &ann.key);
        let bob = User::new("bob", &server.app.url(), &bob.key);
        let refused = submit(&ann, "one-more", &body).await;
        refused.problem(429, "idempotency_keys_full");
        let seconds = refused.header("retry-after").and_then(|text| text.parse::<u32>().ok()).expect("seconds");
        assert!((3_500..=3_700).contains(&seconds), "{seconds}");
        assert_eq!(runs_of(&ann).await, 1, "what was refused was not run");
        assert_eq!(id(&submit(&ann, "first", &body).await), run, "what is remembered is still answered");
        ann.post("/v1/runs", &body).await.is(StatusCode::ACCEPTED);
        assert!(!is_replayed(&submit(&bob, "one-more", &body).await), "another user has room");

        let Server { app, dir, .. } = server;
        app.shutdown().await;
        change_database(dir.path(), &["UPDATE idempotency SET expires_at = 0 WHERE key = 'k7'"]).await;
        let server = Server::start_empty(dir, Quota::default()).await;
        let ann = User::new("ann", &server.app.url(), &ann.key);
        assert!(!is_replayed(&submit(&ann, "one-more", &body).await), "there is room for one");
        submit(&ann, "yet-one-more", &body).await.problem(429, "idempotency_keys_full");
    });
}

#[test]
fn what_is_not_there_any_more_is_not_done_again() {
    run(async {
        let server = Server::start_with(Quota::default()).await;
        let ann = server.stranger().await;
        let body = json!({"agent": "echo", "input": 1});
        let run = id(&submit(&ann, "k", &body).await);
        ann.ended(&run).await;
        let Server { app, dir, .. } = server;
        app.shutdown().await;
        change_database(dir.path(), &["DELETE FROM runs"]).await;
        let server = Server::start_empty(dir, Quota::default()).await;
        let ann = User::new(&ann.name, &server.app.url(), &ann.key);
        submit(&ann, "k", &body).await.problem(410, "idempotency_result_gone");
        assert_eq!(runs_of(&ann).await, 0);
    });
}
