//! What the sandbox decides: every way a run can end, each with its own stop reason and one terminal event.

use crate::server::{Server, User, run, shared};
use cofferdam_core::quota::Quota;
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Runs an attack and checks that it ended so, with one terminal event and with usage.
async fn attack(user: &User, input: Value, limits: Value, stop_reason: &str) -> Value {
    let run = user.finish(&json!({"agent": "hostile", "input": input, "limits": limits})).await;
    assert_eq!(run["stop_reason"], stop_reason, "{input}: {run}");
    let events = user.events(run["id"].as_str().expect("an id")).await;
    let ends: Vec<_> = events
        .iter()
        .filter(|event| ["agent_completed", "agent_error"].contains(&event["type"].as_str().unwrap()))
        .collect();
    assert_eq!(ends.len(), 1, "{input}: one terminal event");
    assert_eq!(ends[0]["seq"].as_u64(), Some(events.len() as u64), "{input}: and it is the last, without holes");
    assert_eq!(ends[0]["payload"]["stop_reason"], stop_reason);
    assert_eq!(run["usage"], ends[0]["payload"]["usage"]);
    assert!(run["usage"]["fuel"].as_u64().is_some_and(|fuel| fuel > 0), "{input}: usage is reported: {run}");
    if stop_reason != "completed" {
        assert!(run["error"]["message"].as_str().is_some_and(|text| !text.is_empty()), "{run}");
    }
    run
}

#[test]
fn every_end_has_its_own_stop_reason() {
    run(async {
        let server = Server::start_with(Quota { failures_in_a_row: u32::MAX, ..Quota::default() }).await;
        let ann = server.trusted().await;
        let none = json!({});
        let mib16 = json!({"memory_bytes": 16 << 20});
        attack(&ann, json!({"scenario": "trap"}), none.clone(), "trap").await;
        attack(&ann, json!({"scenario": "panic"}), none.clone(), "trap").await;
        attack(&ann, json!({"scenario": "exit", "code": 0}), none.clone(), "trap").await;
        attack(&ann, json!({"scenario": "exit", "code": 3}), none.clone(), "trap").await;
        attack(&ann, json!({"scenario": "overflow_stack"}), none.clone(), "trap").await;
        attack(&ann, json!({"scenario": "not_utf8"}), none.clone(), "trap").await;
        attack(&ann, json!({"scenario": "forged_handle"}), none.clone(), "trap").await;
        attack(&ann, json!({"scenario": "spin"}), json!({"fuel": 10_000_000}), "out_of_fuel").await;
        attack(&ann, json!({"scenario": "grow_until_abort"}), mib16.clone(), "memory_limit").await;
        attack(&ann, json!({"scenario": "small_allocations"}), mib16.clone(), "memory_limit").await;
        attack(&ann, json!({"scenario": "sleep_long"}), json!({"deadline_ms": 100}), "deadline").await;
        attack(&ann, json!({"scenario": "giant_output", "bytes": (4 << 20) + 1}), none.clone(), "output_too_large")
            .await;
        attack(&ann, json!({"scenario": "giant_output", "bytes": 32 << 20}), none.clone(), "output_too_large").await;
        attack(&ann, json!({"scenario": "not_json"}), none.clone(), "invalid_output").await;
        attack(&ann, json!({"scenario": "deep_output"}), none.clone(), "invalid_output").await;
        attack(&ann, json!({"scenario": "no such"}), none.clone(), "guest_error").await;
        let exact =
            attack(&ann, json!({"scenario": "giant_output", "bytes": 4 << 20}), none.clone(), "completed").await;
        assert_eq!(exact["output"].as_str().map(str::len), Some((4 << 20) - 2));
        assert_eq!(server.app.runtime().host_panics(), 0);
        assert_eq!(server.app.panics(), 0);
    });
}

#[test]
fn a_guest_that_spins_is_ended_at_its_deadline_and_its_fuel_is_reported() {
    run(async {
        let ann = shared().await.trusted().await;
        for scenario in ["spin", "spin_in_host_calls"] {
            let limits = json!({"deadline_ms": 150});
            let run = attack(&ann, json!({"scenario": scenario}), limits, "deadline").await;
            let wall = run["usage"]["wall_ms"].as_u64().expect("a number");
            assert!((150..500).contains(&wall), "{scenario} was ended after {wall} ms");
            assert!(run["usage"]["active_ms"].as_u64().is_some_and(|ms| ms > 50), "{run}");
            // One that spins in calls of the host takes microseconds for each, and a few dozen units of fuel.
            assert!(run["usage"]["fuel"].as_u64().is_some_and(|fuel| fuel > 10_000), "{run}");
        }
    });
}

#[test]
fn the_memory_limit_is_on_the_sum_and_a_polite_guest_goes_on() {
    run(async {
        let ann = shared().await.trusted().await;
        for mib in [2_u64, 16, 256] {
            let limits = json!({"memory_bytes": mib << 20});
            let input = json!({"scenario": "grow", "step_bytes": 65_536});
            let run = attack(&ann, input, limits, "completed").await;
            let peak = run["usage"]["memory_peak_bytes"].as_u64().expect("a number");
            assert!(peak <= mib << 20, "{peak} bytes under a limit of {mib} MiB");
            assert!(peak > (mib << 20) - (2 << 16), "and all of it can be had: {peak}");
        }
    });
}

#[test]
fn a_users_runs_share_one_memory_limit_and_give_all_of_it_back() {
    run(async {
        let server = Server::start_with(Quota { memory_bytes_per_user: 32 << 20, ..Quota::default() }).await;
        let (ann, bob) = (server.trusted().await, server.trusted().await);
        for user in [&ann, &ann, &bob] {
            let run = attack(user, json!({"scenario": "grow", "step_bytes": 65_536}), json!({}), "completed").await;
            let peak = run["usage"]["memory_peak_bytes"].as_u64().expect("a number");
            assert!(peak <= 32 << 20 && peak > (32 << 20) - (2 << 16), "{peak}");
        }
        let run = attack(&ann, json!({"scenario": "grow_until_abort"}), json!({}), "memory_limit").await;
        assert!(run["error"]["message"].as_str().is_some_and(|text| text.contains("user's runs together")), "{run}");
        assert_eq!(server.app.runtime().memory_bytes(), 0);
    });
}

#[test]
fn a_guest_error_after_a_refused_growth_is_a_memory_limit() {
    run(async {
        let ann = shared().await.trusted().await;
        let run =
            attack(&ann, json!({"scenario": "grow_then_fail"}), json!({"memory_bytes": 4 << 20}), "memory_limit").await;
        assert!(run["error"]["message"].as_str().is_some_and(|text| text.contains("memory_bytes")), "{run}");
    });
}

#[test]
fn floods_meet_their_budgets_and_hurt_nobody() {
    run(async {
        let server = Server::start_with(Quota {
            events_per_run: 100,
            tool_calls_per_run: 20,
            state_bytes: 1 << 20,
            failures_in_a_row: u32::MAX,
            ..Quota::default()
        })
        .await;
        let ann = server.trusted().await;
        let none = json!({});
        // The first mark is an error that a guest can live with; at the second it is ended.
        for (count, end) in [(150, "completed"), (1_u64 << 40, "quota")] {
            for scenario in ["event_flood", "log_flood"] {
                let run = attack(&ann, json!({"scenario": scenario, "count": count}), none.clone(), end).await;
                assert_eq!(run["usage"]["events"], 102, "its hundred, the first and the last: {run}");
            }
        }
        for (bytes, end) in [(15_000, "completed"), (1_u64 << 30, "quota")] {
            let input = json!({"scenario": "stdout_flood", "bytes": bytes, "line_bytes": 100});
            let run = attack(&ann, input, none.clone(), end).await;
            assert_eq!(run["usage"]["events"], 102, "{run}");
        }
        for (count, end) in [(100, "completed"), (1_u64 << 40, "quota")] {
            let run = attack(&ann, json!({"scenario": "tool_flood", "count": count}), none.clone(), end).await;
            assert_eq!(run["usage"]["events"], 42, "twenty calls, two events each: {run}");
        }
        attack(&ann, json!({"scenario": "state_flood", "keys": 50, "bytes": 100_000}), none.clone(), "completed").await;
        attack(&ann, json!({"scenario": "giant_events"}), none.clone(), "completed").await;
        attack(&ann, json!({"scenario": "giant_arguments"}), none.clone(), "completed").await;
        attack(&ann, json!({"scenario": "giant_events", "bytes": 64 << 20}), none.clone(), "trap").await;
        attack(&ann, json!({"scenario": "random_flood"}), none.clone(), "trap").await;
        attack(&ann, json!({"scenario": "timer_flood"}), none.clone(), "trap").await;
        for scenario in ["forged_keys", "forged_events", "forged_tools", "forged_json"] {
            attack(&ann, json!({"scenario": scenario}), none.clone(), "completed").await;
        }
        let run = attack(&ann, json!({"scenario": "giant_error"}), none.clone(), "guest_error").await;
        assert_eq!(run["error"]["code"], "failed", "a code that is none is not passed on");
        assert!(run["error"]["message"].as_str().is_some_and(|text| text.len() <= 4 << 10));
        let run = ann.finish(&json!({"agent": "echo", "input": "still here"})).await;
        assert_eq!(run["output"], "still here");
        assert_eq!(server.app.runtime().host_panics(), 0);
        assert_eq!((server.app.runtime().runs_live(), server.app.runtime().runs_queued()), (0, 0));
    });
}

#[test]
fn a_plugin_that_keeps_failing_for_a_user_is_slowed_and_recovers_by_itself() {
    run(async {
        let server = Server::start_with(Quota { failures_in_a_row: 3, ..Quota::default() }).await;
        let (ann, bob) = (server.trusted().await, server.trusted().await);
        for _ in 0..3 {
            attack(&ann, json!({"scenario": "trap"}), json!({}), "trap").await;
        }
        let body = json!({"agent": "hostile", "input": {"scenario": "burn", "rounds": 1}});
        let refused = ann.post("/v1/runs", &body).await;
        let problem = refused.problem(429, "backing_off");
        assert!(problem["detail"].as_str().is_some_and(|text| text.contains("the last as trap")), "{problem}");
        let wait: u64 = refused.header("retry-after").and_then(|text| text.parse().ok()).expect("seconds");
        assert_eq!(wait, 1);
        // Nobody else waits, and nothing else of the same user does.
        assert_eq!(bob.finish(&body).await["stop_reason"], "completed");
        assert_eq!(ann.finish(&json!({"agent": "echo", "input": 1})).await["stop_reason"], "completed");
        // As a client does that reads the answer's header.
        tokio::time::sleep(Duration::from_secs(wait)).await;
        assert_eq!(ann.finish(&body).await["stop_reason"], "completed");
        for _ in 0..2 {
            attack(&ann, json!({"scenario": "trap"}), json!({}), "trap").await;
        }
        assert_eq!(ann.finish(&body).await["stop_reason"], "completed", "one success begins the count anew");
    });
}

#[test]
fn a_burst_of_failing_runs_is_stopped_after_the_first_of_them() {
    run(async {
        let server = Server::start_with(Quota { failures_in_a_row: 3, runs_at_once: 2, ..Quota::default() }).await;
        let ann = server.trusted().await;
        let body = json!({"agent": "hostile", "input": {"scenario": "trap"}});
        let slow = json!({"agent": "hostile", "input": {"scenario": "sleep_long"}});
        // Two hold both slots until all of the burst was taken.
        let held = [ann.submit(&slow).await, ann.submit(&slow).await];
        let mut burst = Vec::new();
        for _ in 0..40 {
            burst.push(ann.submit(&body).await);
        }
        for id in held {
            ann.post(&format!("/v1/runs/{id}/cancel"), &json!({})).await;
            ann.ended(&id).await;
        }
        let mut trapped = 0;
        for id in burst {
            let run = ann.ended(&id).await;
            match run["stop_reason"].as_str() {
                Some("trap") => trapped += 1,
                Some("quota") => {
                    let message = run["error"]["message"].as_str().expect("a message");
                    assert!(message.contains("was not started") && run["started_at"].is_null(), "{run}");
                }
                _ => panic!("{run}"),
            }
        }
        assert!((3..=4).contains(&trapped), "{trapped} of 40 had their turn");
    });
}

#[test]
fn what_others_hold_of_the_users_memory_is_not_held_against_an_agent() {
    run(async {
        let quota = Quota { memory_bytes_per_user: 32 << 20, failures_in_a_row: 2, ..Quota::default() };
        let server = Server::start_with(quota).await;
        let ann = server.trusted().await;
        for _ in 0..4 {
            attack(&ann, json!({"scenario": "grow_until_abort"}), json!({}), "memory_limit").await;
        }
        let mib16 = json!({"memory_bytes": 16 << 20});
        for _ in 0..2 {
            attack(&ann, json!({"scenario": "grow_until_abort"}), mib16.clone(), "memory_limit").await;
        }
        let body = json!({"agent": "hostile", "input": {"scenario": "trap"}});
        ann.post("/v1/runs", &body).await.problem(429, "backing_off");
    });
}

#[test]
fn host_calls_and_log_bytes_have_a_first_and_a_second_mark() {
    run(async {
        let server = Server::start_with(Quota {
            host_calls_per_run: 1_000,
            log_bytes_per_run: 10_000,
            failures_in_a_row: u32::MAX,
            ..Quota::default()
        })
        .await;
        let ann = server.trusted().await;
        let run = attack(&ann, json!({"scenario": "spin_in_host_calls"}), json!({}), "quota").await;
        let calls = run["usage"]["host_calls"].as_u64().expect("a number");
        assert!(calls >= 2_000, "{calls} calls");
        let run = attack(&ann, json!({"scenario": "event_flood", "count": 1_500}), json!({}), "completed").await;
        let output = &run["output"];
        assert!(output["taken"].as_u64().is_some_and(|taken| (900..=1_000).contains(&taken)), "{output}");
        assert!(output["first_refusal"].as_str().is_some_and(|text| text.contains("Exhausted")), "{output}");
        let flood = |count| json!({"scenario": "log_flood", "count": count, "bytes": 1_000});
        let run = attack(&ann, flood(18), json!({}), "completed").await;
        assert_eq!(run["output"]["taken"], 9, "a line is charged with its level: {run}");
        let run = attack(&ann, flood(900), json!({}), "quota").await;
        assert!(run["error"]["message"].as_str().is_some_and(|text| text.contains("log lines")), "{run}");
        let flood = json!({"scenario": "stdout_flood", "bytes": 1 << 30, "line_bytes": 1_000});
        attack(&ann, flood, json!({}), "quota").await;
    });
}

#[test]
fn a_run_cannot_fill_the_disk_with_its_events_or_with_the_errors_of_its_tools() {
    run(async {
        let server = Server::start_with(Quota { event_bytes_per_run: 4 << 20, ..Quota::default() }).await;
        let ann = server.trusted().await;
        let flood = json!({"scenario": "event_flood", "count": 100, "bytes": 1 << 20});
        let run = attack(&ann, flood, json!({}), "quota").await;
        assert_eq!(run["usage"]["events"], 5, "three of a little more than a MiB, the first and the last: {run}");
        // A name longer than any tool's is not compared with any, and an error repeats no more than a bit of its cause.
        for name in ["file.".to_owned() + &"z".repeat(1 << 20), "file.\u{1}".repeat(20)] {
            let begun = Instant::now();
            let called = ann.finish(&json!({"agent": "probe", "input": {"do": "call", "name": name}})).await;
            let error = &called["output"]["error"];
            assert!(error.to_string().len() < 1_000, "{} bytes", error.to_string().len());
            assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        }
        let args = json!({"z".repeat(500_000): 1});
        let called =
            ann.finish(&json!({"agent": "probe", "input": {"do": "call", "name": "file.read", "args": args}})).await;
        assert!(called["output"]["error"]["text"].as_str().is_some_and(|text| text.len() <= 4 << 10), "cut short");
        let events = ann.events(called["id"].as_str().expect("an id")).await;
        assert!(events.iter().all(|event| event.to_string().len() < 10_000));
    });
}

#[test]
fn answers_that_nobody_takes_are_calls_under_way() {
    run(async {
        let ann = shared().await.trusted().await;
        let run = attack(&ann, json!({"scenario": "pending_flood", "count": 500}), json!({}), "completed").await;
        assert_eq!(run["output"]["taken"], 32, "an answer that waits is host memory: {run}");
    });
}

#[test]
fn budgets_are_told_to_the_guest_and_limits_asked_for_are_the_ones_in_force() {
    run(async {
        let ann = shared().await.trusted().await;
        let limits = json!({"fuel": 50_000_000, "memory_bytes": 32 << 20, "deadline_ms": 5_000});
        let run = ann.finish(&json!({"agent": "probe", "input": {"do": "budget"}, "limits": limits})).await;
        let left = &run["output"];
        assert!(left["fuel"].as_u64().is_some_and(|fuel| fuel < 50_000_000 && fuel > 49_000_000), "{left}");
        assert!(left["memory_bytes"].as_u64().is_some_and(|bytes| bytes < 32 << 20), "{left}");
        assert!(left["wall_ms"].as_u64().is_some_and(|ms| ms <= 5_000 && ms > 4_000), "{left}");
        assert_eq!((&left["tool_calls"], &left["events"]), (&json!(1_000), &json!(10_000)));
    });
}

#[test]
fn limits_out_of_range_name_their_field() {
    run(async {
        let ann = shared().await.stranger().await;
        let cases = [
            ("fuel", json!(0)),
            ("fuel", json!(99_999)),
            ("fuel", json!(10_000_000_001_u64)),
            ("memory_bytes", json!(0)),
            ("memory_bytes", json!((2 << 20) - 1)),
            ("memory_bytes", json!((256 << 20) + 1)),
            ("deadline_ms", json!(9)),
            ("deadline_ms", json!(60_001)),
            ("deadline_ms", json!(u64::MAX)),
        ];
        for (field, value) in cases {
            let body = json!({"agent": "echo", "input": 1, "limits": {field: value}});
            let problem = ann.post("/v1/runs", &body).await.problem(422, "limit_out_of_range");
            assert!(problem["detail"].as_str().is_some_and(|text| text.contains(field)), "{problem}");
        }
        for edge in [json!({"fuel": 100_000}), json!({"memory_bytes": 256 << 20}), json!({"deadline_ms": 60_000})] {
            ann.post("/v1/runs", &json!({"agent": "echo", "input": 1, "limits": edge})).await.is(StatusCode::ACCEPTED);
        }
    });
}

#[test]
fn one_users_spinning_guests_do_not_stop_another() {
    run(async {
        let server = shared().await;
        let (ann, bob) = (server.trusted().await, server.trusted().await);
        let mut spinning = Vec::new();
        for _ in 0..5 {
            let body = json!({"agent": "hostile", "input": {"scenario": "spin_in_host_calls"}, "limits": {"deadline_ms": 3_000}});
            spinning.push(ann.submit(&body).await);
        }
        for _ in 0..10 {
            let begun = Instant::now();
            bob.finish(&json!({"agent": "echo", "input": 1})).await;
            assert!(begun.elapsed() < Duration::from_secs(1), "took {:?}", begun.elapsed());
        }
        for id in spinning {
            ann.post(&format!("/v1/runs/{id}/cancel"), &json!({})).await;
        }
    });
}
