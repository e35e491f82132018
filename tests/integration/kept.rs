//! A database of the first schema, as a host of that time left it when it was killed: `kept/schema-1.sql` is its dump. Every
//! host since must bring it up to date and read all of it.

use crate::server::{Server, User, guest, run};
use cofferdam_core::{identity::Operator, quota::Quota, run::StopReason, usage::Day};
use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, sqlite::SqliteConnectOptions};

const SCHEMA_1: &str = include_str!("kept/schema-1.sql");
/// The keys that were made on that host, for this purpose.
const ANN: &str = "cof_a5eJf14xJkpRPu2IoW33IUVTBD8Y0wVDLXv_7PWKDb8";
const OLGA: &str = "cof_unrNC8qNCb2_TBK2qh2PjIhqSrE2evFoOSUeH2PXlf8";

#[test]
fn a_database_of_the_first_schema_is_brought_up_to_date_and_read_to_the_last_record() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        let file = SqliteConnectOptions::new().filename(dir.path().join("cofferdam.db")).create_if_missing(true);
        let mut database = file.connect().await.expect("made");
        database.execute(sqlx::raw_sql(SCHEMA_1)).await.expect("written");
        database.close().await.expect("closed");
        let server = Server::start_empty(dir, Quota::default()).await;
        let url = server.app.url();
        let (ann, olga) = (User::new("ann", &url, ANN), User::new("olga", &url, OLGA));

        let runs = ann.get("/v1/runs").await.is(StatusCode::OK)["runs"].as_array().expect("runs").clone();
        let mut ends = Vec::new();
        for run in runs.iter().rev() {
            let run = ann.ended(run["id"].as_str().expect("an id")).await;
            ends.push(run["stop_reason"].as_str().expect("a reason").to_owned());
        }
        let interrupted = ["host_shutdown", "host_shutdown", "host_shutdown", "outcome_unknown", "outcome_unknown"];
        // The last was queued; this directory has no component for it.
        let expected = ["completed", "completed", "guest_error", "cancelled"].into_iter().chain(interrupted);
        assert_eq!(ends, expected.chain(["host_error"]).collect::<Vec<_>>());

        let first = ann.get("/v1/runs/run_01a20f9bf03770ccb5d5a1289598b4a9").await;
        assert!(first.text.contains(r#""output":{"first":"kept","number":1.50}"#), "as it was written: {}", first.text);
        let first = first.is(StatusCode::OK);
        assert_eq!((&first["thread_id"], &first["agent"]), (&json!("talk"), &json!("echo")));
        assert_eq!(first["priority"], "normal", "as all runs were");
        assert_eq!((&first["usage"]["fuel"], &first["usage"]["events"]), (&json!(2787), &json!(3)));
        assert_eq!(first["created_at"], "2026-11-24T22:10:07.543986Z");
        let failed = ann.get("/v1/runs/run_01a20f9bf07073b78f7b02652913f8bb").await.is(StatusCode::OK);
        assert_eq!(failed["error"], json!({"code": "no_luck", "message": "not today"}));

        // What ran before usage was kept by day is counted as far as it is known.
        let (day, scope) = (
            Day::of("2026-11-24T22:10:07Z".parse().expect("a time")),
            Operator::host().on_behalf_of(&"ann".parse().expect("a user")),
        );
        let usage = server.app.runtime().storage().usage(&scope, day, day).await.expect("read");
        assert_eq!((usage.runs, usage.tool_calls, usage.memory_byte_seconds), (4, 0, 0));
        assert_eq!(usage.runs_by_stop_reason[&StopReason::Completed], 2);
        assert!(usage.fuel > 94_013, "{usage:?}");

        let events = ann.events("run_01a20f9bf05270eca7db2c347ecab6f7").await;
        let told: Vec<_> =
            events.iter().map(|event| (event["type"].as_str().expect("a type"), &event["payload"])).collect();
        let types = [
            "agent_started",
            "agent_thinking",
            "progress",
            "log",
            "custom:chart",
            "tool_executing",
            "tool_completed",
            "tool_executing",
            "tool_completed",
            "agent_completed",
        ];
        assert_eq!(told.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), types);
        assert_eq!(told[1].1["text"], "hm, ü");
        assert_eq!(told[2].1, &json!({"fraction": 0.5, "note": "half"}));
        assert_eq!(told[3].1, &json!({"level": "warn", "text": "odd"}));
        assert_eq!(told[4].1, &json!([1, "two", null]));
        assert_eq!(told[5].1["arguments"]["path"], "a.txt");
        assert_eq!(told[8].1["error"]["code"], "not_found");
        assert_eq!(told[9].1["usage"]["fuel"], 94_013);
        let cut_off = ann.events("run_01a20f9bf13c734380f56a428040aa32").await;
        assert_eq!(cut_off.iter().map(|event| event["seq"].clone()).collect::<Vec<_>>(), [1, 2, 3, 4]);

        // That host kept no record of calls, and it says so; a run that never began has none to miss.
        let entries =
            async |id: &str| ann.get(&format!("/v1/runs/{id}/journal")).await.is(StatusCode::OK)["entries"].clone();
        for id in ["run_01a20f9bf05270eca7db2c347ecab6f7", "run_01a20f9bf13c734380f56a428040aa32"] {
            let why = "the host that executed this run kept no record yet";
            assert_eq!(entries(id).await, json!([{"kind": "incomplete", "why": why}]));
        }
        assert_eq!(entries(runs[0]["id"].as_str().expect("an id")).await, json!([]));

        let plugins = olga.get("/v1/plugins").await.is(StatusCode::OK);
        let names: Vec<_> =
            plugins["plugins"].as_array().expect("plugins").iter().map(|plugin| &plugin["name"]).collect();
        assert_eq!(names, ["echo", "probe", "units"]);
        assert_eq!(plugins["plugins"][2]["kind"], "tool");
        let grant = olga.get("/v1/users/ann/grants/probe").await.is(StatusCode::OK);
        assert_eq!(
            grant,
            json!({"tools": ["file.*", "units.convert"], "state": "read_write", "workspace": "none", "agents": [], "human": false})
        );

        // What was granted then lets the agent read what it stored then.
        olga.push("probe", guest("probe")).await;
        let state = ann.probe(&json!({"do": "state_get", "scope": "user", "key": "k"})).await;
        assert_eq!(state["ok"], json!({"text": "kept since", "bytes": 10, "version": 2}), "{state}");
        let others: Value = User::new("dev", &url, server.app.api_key().expect("a key")).get("/v1/runs").await.json();
        assert_eq!(others["runs"], json!([]), "they are ann's alone");
    });
}
