//! `/metrics` and `/v1/health`: true figures, in the form that Prometheus reads, about the host and about nobody.

use crate::{
    server::{Server, User, config, guest, run},
    storage::Odd,
};
use cofferdam_core::quota::Quota;
use cofferdam_server::App;
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    process::{Command, Stdio},
    sync::Arc,
};

/// A sample: its labels, and its value.
type Samples = Vec<(BTreeMap<String, String>, f64)>;

fn is_name(text: &str) -> bool {
    let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
    first && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// Reads the text form strictly: each family once, with its help and then its type, then all of its samples, none twice;
/// histograms cumulative and whole; names by Prometheus's own rules for them.
fn parse(text: &str) -> BTreeMap<String, Samples> {
    assert!(text.ends_with('\n'), "the last line ends");
    let mut families = BTreeMap::<String, Samples>::new();
    let (mut family, mut kind, mut seen) = (String::new(), String::new(), BTreeSet::new());
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').expect("a help text");
            assert!(is_name(name) && !help.is_empty() && seen.insert(name.to_owned()), "{line}");
            let (typed, of) = lines.next().and_then(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).expect(line);
            assert_eq!(typed, name, "the type follows");
            assert!(["counter", "gauge", "histogram"].contains(&of), "{of}");
            assert_eq!(of == "counter", name.ends_with("_total"), "{name}");
            (family, kind) = (name.to_owned(), of.to_owned());
            continue;
        }
        let (series, value) = line.rsplit_once(' ').expect("a sample");
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
        let (name, labels) = series.split_once('{').map_or((series, ""), |(name, labels)| {
            (name, labels.strip_suffix('}').unwrap_or_else(|| panic!("{line}")))
        });
        let suffixes: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
        let own = name.strip_prefix(family.as_str()).is_some_and(|suffix| suffixes.contains(&suffix));
        assert!(own && is_name(name), "{line} is not of {family}");
        let pair = |label: &str| {
            let (label, value) = label.split_once("=\"").expect("a label");
            let value = value.strip_suffix('"').expect("a closed value");
            assert!(is_name(label) && !value.contains(['"', '\\', ',']), "{line}");
            (label.to_owned(), value.to_owned())
        };
        let labels: BTreeMap<_, _> = labels.split(',').filter(|label| !label.is_empty()).map(pair).collect();
        assert!(value >= 0.0, "{line}");
        let samples = families.entry(name.to_owned()).or_default();
        assert!(samples.iter().all(|(other, _)| *other != labels), "{line} is there twice");
        samples.push((labels, value));
    }
    for (name, buckets) in families.iter().filter(|(name, _)| name.ends_with("_bucket")) {
        let counts = &families[&name.replace("_bucket", "_count")];
        for (labels, count) in counts {
            let of_series = |bucket: &&(BTreeMap<String, String>, f64)| {
                let mut rest = bucket.0.clone();
                rest.remove("le");
                rest == *labels
            };
            let series: Vec<_> = buckets.iter().filter(of_series).collect();
            assert!(series.windows(2).all(|pair| pair[0].1 <= pair[1].1), "{name} is cumulative");
            let last = series.last().expect("buckets");
            assert_eq!((last.0["le"].as_str(), last.1), ("+Inf", *count), "{name}");
        }
    }
    families
}

/// The check of Prometheus's own tool, where it is installed (Debian's package `prometheus` has it): it is a Go program, of
/// which there is no package for the toolchains that this project sets up by itself.
fn promtool_agrees(text: &str) {
    let started =
        Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut promtool) = started else { return };
    promtool.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("written");
    let output = promtool.wait_with_output().expect("ended");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

async fn metrics(server: &Server) -> (String, BTreeMap<String, Samples>) {
    let answer = reqwest::get(format!("{}/metrics", server.app.admin_url())).await.expect("answered");
    assert_eq!(answer.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let text = answer.text().await.expect("a body");
    let families = parse(&text);
    (text, families)
}

fn value(families: &BTreeMap<String, Samples>, name: &str, labels: &[(&str, &str)]) -> f64 {
    let wanted: BTreeMap<_, _> = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let samples = families.get(name).unwrap_or_else(|| panic!("{name} is not there"));
    samples.iter().find(|(labels, _)| *labels == wanted).unwrap_or_else(|| panic!("{name}{labels:?}: {samples:?}")).1
}

#[test]
fn metrics_are_well_formed_true_and_about_nobody() {
    run(async {
        let server = Server::start_with(Quota::default()).await;
        let ann = server.user("ann-of-the-metrics").await;
        for agent in ["probe", "hostile"] {
            server.grant(&ann, agent, &json!({"tools": ["*"], "state": "read_write"})).await;
        }
        for n in 0..3 {
            ann.finish(&json!({"agent": "echo", "input": n})).await;
        }
        ann.finish(&json!({"agent": "hostile", "input": {"scenario": "spin"}, "limits": {"fuel": 1_000_000}})).await;
        ann.probe(&json!({"do": "call", "name": "units.list", "args": {}})).await;
        ann.post("/v1/runs", &json!({"agent": "no-such-agent-anywhere", "input": 1}))
            .await
            .problem(404, "unknown_agent");
        ann.get("/v1/ann-made-this-path-up").await.problem(404, "unknown_route");
        server.operator.push("refused", b"x".to_vec()).await.problem(422, "not_a_component");

        let (text, all) = metrics(&server).await;
        promtool_agrees(&text);
        let of = |name: &str, labels: &[(&str, &str)]| value(&all, name, labels);
        assert_eq!(of("cofferdam_runs_accepted_total", &[]), 5.0);
        assert_eq!(of("cofferdam_runs_ended_total", &[("stop_reason", "completed")]), 4.0);
        assert_eq!(of("cofferdam_runs_ended_total", &[("stop_reason", "out_of_fuel")]), 1.0);
        assert_eq!(all["cofferdam_runs_ended_total"].len(), 14, "every reason, also those that did not occur");
        assert_eq!(of("cofferdam_run_duration_seconds_count", &[]), 5.0);
        assert_eq!(of("cofferdam_queue_wait_seconds_count", &[]), 5.0);
        assert_eq!(of("cofferdam_tool_calls_total", &[]), 1.0);
        // The start and the end of each, what the echo says, and the two of the tool call.
        assert_eq!(of("cofferdam_events_total", &[]), 15.0);
        assert!(of("cofferdam_host_calls_total", &[]) >= 4.0, "one of each echo, one of the probe");
        assert_eq!(of("cofferdam_compiles_total", &[("outcome", "compiled")]), 4.0);
        assert_eq!(of("cofferdam_http_refusals_total", &[("code", "unknown_agent")]), 1.0);
        assert_eq!(of("cofferdam_http_requests_total", &[("route", "plugins_pushed"), ("status", "4xx")]), 1.0);
        assert_eq!(of("cofferdam_http_requests_total", &[("route", "runs_waited"), ("status", "2xx")]), 5.0);
        assert_eq!(of("cofferdam_http_requests_total", &[("route", "other"), ("status", "4xx")]), 1.0);
        assert_eq!(of("cofferdam_storage_commit_seconds_count", &[]), server.app.commits() as f64);
        assert_eq!(of("cofferdam_guest_memory_limit_bytes", &[]), server.app.runtime().memory_bytes_max() as f64);
        for none in
            ["runs_live", "runs_queued", "sandboxes_open", "guest_memory_bytes", "host_panics_total", "sockets_open"]
        {
            assert_eq!(of(&format!("cofferdam_{none}"), &[]), 0.0, "{none}");
        }
        for some in ["process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"] {
            assert!(of(some, &[]) > 0.0, "{some}");
        }
        for word in ["ann-", "echo", "probe", "no-such", "units", "run_0", "key_"] {
            assert!(!text.contains(word), "{word:?} came from outside");
        }
        // What is counted next is counted on top.
        ann.finish(&json!({"agent": "echo", "input": 1})).await;
        let (_, later) = metrics(&server).await;
        assert_eq!(value(&later, "cofferdam_runs_accepted_total", &[]), 6.0);
        let answer = ann.get("/metrics").await;
        answer.problem(404, "unknown_route");
    });
}

#[test]
fn health_is_for_everybody_and_its_reasons_are_for_operators() {
    run(async {
        let server = Server::start_empty(tempfile::tempdir().expect("a directory"), Quota::default()).await;
        let nobody = reqwest::get(format!("{}/v1/health", server.app.url())).await.expect("answered");
        assert_eq!(nobody.text().await.expect("a body"), r#"{"ok":true}"#);
        let ann = server.user("ann").await;
        assert_eq!(ann.get("/v1/health").await.text, r#"{"ok":true}"#, "a user is told no more");
        User::new("x", &server.app.url(), "cof_wrong").get("/v1/health").await.problem(401, "unauthenticated");
        let told = server.operator.get("/v1/health").await.is(StatusCode::OK);
        let names: Vec<_> =
            told["alerts"].as_array().expect("alerts").iter().map(|alert| alert["name"].clone()).collect();
        let expected = ["response_time_p99_ms", "event_latency_p99_ms", "error_rate_percent", "guest_memory_percent"]
            .map(Value::from);
        assert_eq!(names, expected);
        assert_eq!((&told["alerts"][0]["warn"], &told["alerts"][0]["alert"]), (&json!(1500.0), &json!(2000.0)));
        assert_eq!(told["alerts"][2]["value"], 0.0, "{told}");
    });
}

#[test]
fn a_failure_of_the_host_is_an_alert_and_whoever_asks_learns_that_there_is_one() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        let app =
            App::start_over(config(dir.path(), Quota::default()), Arc::new(Odd::default())).await.expect("started");
        let operator = User::new("operator", &app.url(), app.admin_key().expect("a key"));
        operator.push("echo", guest("echo")).await.is(StatusCode::CREATED);
        operator.get("/v1/users/cursed/grants/echo").await.problem(500, "host_error");
        let told = operator.get("/v1/health").await.is(StatusCode::OK);
        assert_eq!((&told["ok"], &told["state"]), (&json!(false), &json!("alert")), "{told}");
        assert_eq!(told["alerts"][2]["state"], "alert", "{told}");
        let nobody = reqwest::get(format!("{}/v1/health", app.url())).await.expect("answered");
        assert_eq!(nobody.text().await.expect("a body"), r#"{"ok":false}"#);
    });
}
