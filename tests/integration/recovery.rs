//! What a start makes of what the last host left: quickly, and in order.

use crate::{
    idempotency::change_database,
    server::{Server, User, run},
};
use cofferdam_core::quota::Quota;
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How long a start may take here, where the host is not optimized and other tests have the machine too. The measured
/// time is printed.
const START_MAX: Duration = Duration::from_secs(10);

#[test]
fn a_start_over_a_hundred_thousand_runs_ends_a_thousand_interrupted_ones_in_little_time() {
    run(async {
        let server = Server::start_empty(tempfile::tempdir().expect("a directory"), Quota::default()).await;
        let ann = server.user("ann").await;
        let Server { app, dir, .. } = server;
        app.shutdown().await;
        let begun = Instant::now();
        let server = Server::start_empty(dir, Quota::default()).await;
        let empty = begun.elapsed();
        let Server { app, dir, .. } = server;
        app.shutdown().await;

        // Of each hundred runs after the first 100,000, ten had a cancel asked for, forty may have changed something.
        let runs = "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 101000)
            INSERT INTO runs (
                number, user, id, status, agent, digest, request_id, thread_id, limit_fuel, limit_memory_bytes,
                limit_deadline_ms, effects, created_at, started_at, finished_at, stop_reason, metadata, input, output
            )
            SELECT n, 'ann', printf('run_%032x', n), iif(n <= 100000, 'succeeded', 'running'), 'gone',
                'sha256:' || printf('%064x', 1), 'req', 'thr', 1, 1, 1, n % 100 < 40, n, n, iif(n <= 100000, n, NULL),
                iif(n <= 100000, 'completed', NULL), '{}', json_quote(printf('%0200d', n)), iif(n <= 100000, '1', NULL)
            FROM numbers";
        let events = "INSERT INTO events (run, seq, at, payload)
            SELECT number, seq, number, zeroblob(120) FROM runs, (SELECT 1 AS seq UNION SELECT 2 UNION SELECT 3)";
        let cancels = "INSERT INTO cancels (run, asked_by, asked_at)
            SELECT number, 'key_1', 1 FROM runs WHERE number > 100000 AND number % 100 >= 90";
        change_database(dir.path(), &[runs, events, cancels]).await;

        let begun = Instant::now();
        let server = Server::start_empty(dir, Quota::default()).await;
        let full = begun.elapsed();
        println!("start over nothing {empty:?}, over 100,000 runs with 1,000 to end {full:?}");
        assert!(full < START_MAX, "the start took {full:?}, one over nothing {empty:?}");
        let ann = User::new("ann", &server.app.url(), &ann.key);
        let mut ends = std::collections::BTreeMap::<String, u32>::new();
        let mut path = "/v1/runs?limit=100".to_owned();
        for _ in 0..10 {
            let page = ann.get(&path).await.is(StatusCode::OK);
            for run in page["runs"].as_array().expect("runs") {
                assert!(run["finished_at"].is_string(), "{run}");
                *ends.entry(run["stop_reason"].as_str().expect("a reason").to_owned()).or_default() += 1;
            }
            path = format!("/v1/runs?limit=100&after={}", page["next_after"].as_str().expect("more"));
        }
        let ends: Vec<_> = ends.iter().map(|(reason, count)| (reason.as_str(), *count)).collect();
        assert_eq!(ends, [("cancelled", 100), ("host_shutdown", 500), ("outcome_unknown", 400)]);
    });
}

#[test]
fn queued_runs_are_queued_again_in_the_order_in_which_they_came() {
    run(async {
        let server = Server::start_with(Quota { runs_at_once: 1, ..Quota::default() }).await;
        let ann = server.trusted().await;
        ann.submit(&json!({"agent": "probe", "input": {"do": "sleep", "ms": 500}})).await;
        let mut queued = Vec::new();
        for n in 0..40 {
            queued.push(ann.submit(&json!({"agent": "echo", "input": n})).await);
        }
        let Server { app, dir, .. } = server;
        app.shutdown().await;
        let server = Server::start_empty(dir, Quota { runs_at_once: 1, ..Quota::default() }).await;
        let ann = User::new(&ann.name, &server.app.url(), &ann.key);
        let mut starts = Vec::new();
        for id in &queued {
            let run = ann.ended(id).await;
            assert_eq!(run["stop_reason"], "completed", "{run}");
            starts.push(run["started_at"].as_str().expect("it began").to_owned());
        }
        assert!(starts.is_sorted(), "{starts:?}");
        assert_eq!(server.app.runtime().runs_queued(), 0);
        let page = ann.get("/v1/runs?status=queued").await.is(StatusCode::OK);
        assert_eq!((&page["runs"], &page["next_after"]), (&json!([]), &Value::Null));
    });
}
