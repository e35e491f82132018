//! The plugin `team`: analysts as children, each with a table of its own, a person who is asked, and hosts that are killed
//! meanwhile.

use crate::{
    process::Process,
    server::{User, guest, run, shared},
};
use cofferdam_core::clock;
use jiff::Timestamp;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::{path::Path, time::Duration};

/// What the agent needs of a grant.
fn grant() -> Value {
    json!({"tools": ["file.*"], "agents": ["analyst"], "human": true})
}

/// Pushes both agents, and lets a user run them.
async fn introduce(operator: &User, user: &User) {
    for name in ["analyst", "team"] {
        let pushed = operator.push(name, guest(name)).await;
        assert!(pushed.status.is_success(), "{}", pushed.text);
    }
    for (name, grant) in [("analyst", json!({"tools": ["file.*"]})), ("team", grant())] {
        let path = format!("/v1/users/{}/grants/{name}", user.name);
        operator.send(Method::PUT, &path, Some(&grant)).await.is(StatusCode::OK);
    }
}

async fn user() -> User {
    let server = shared().await;
    let ann = server.stranger().await;
    introduce(&server.operator, &ann).await;
    ann
}

/// The real data, a table for each year.
fn years() -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/analyst/data/seattle-weather.csv");
    let whole = std::fs::read_to_string(path).expect("the data");
    let (header, rows) = whole.split_once('\n').expect("a header");
    let of_year = |year: u32| {
        let rows: Vec<_> = rows.lines().filter(|row| row.starts_with(&year.to_string())).collect();
        (format!("weather-{year}.csv"), format!("{header}\n{}\n", rows.join("\n")))
    };
    (2012..=2015).map(of_year).collect()
}

/// The same, so many times over, so that there is something to do.
fn long(table: &str, times: usize) -> String {
    let (header, rows) = table.split_once('\n').expect("a header");
    format!("{header}\n{}", rows.repeat(times))
}

async fn put(user: &User, path: &str, text: &str) {
    let request = user.request(Method::PUT, &format!("/v1/files/{path}")).body(text.to_owned());
    let status = request.send().await.expect("answered").status();
    assert!(status.is_success(), "{status}");
}

/// Brings the tables, and gives their names.
async fn put_years(user: &User) -> Vec<String> {
    let mut names = Vec::new();
    for (name, table) in years() {
        put(user, &name, &table).await;
        names.push(name);
    }
    names
}

async fn get_file(user: &User, path: &str) -> String {
    let answer = user.get(&format!("/v1/files/{path}")).await;
    assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text);
    answer.text
}

/// Waits until a run waits for a person, and gives it.
async fn asking(user: &User, id: &str) -> Value {
    let asked = async {
        loop {
            let run = user.get(&format!("/v1/runs/{id}")).await.is(StatusCode::OK);
            if run["status"] == "waiting" && run["wait"]["for"] == "human" {
                return run;
            }
            assert!(run["finished_at"].is_null(), "{run:#}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), asked).await.expect("it asks")
}

async fn answer(user: &User, id: &str, answer: &Value) {
    user.post(&format!("/v1/runs/{id}/input"), &json!({ "answer": answer })).await.is(StatusCode::OK);
}

/// The children of a run, by their tables.
async fn children(user: &User, id: &str) -> Vec<Value> {
    let runs = user.get("/v1/runs?limit=100&agent=analyst").await.is(StatusCode::OK);
    let runs = runs["runs"].as_array().expect("runs").iter();
    runs.filter(|run| run["parent_run_id"] == id).cloned().collect()
}

/// A run's log has each event once, in order, and nothing of what was executed again.
async fn is_told_once(user: &User, id: &str) {
    let events = user.events(id).await;
    assert!(events.iter().zip(1_u64..).all(|(event, seq)| event["seq"] == seq), "{events:#?}");
    let count = |kind: &str| events.iter().filter(|event| event["type"] == kind).count();
    assert_eq!((count("agent_started"), count("agent_completed")), (1, 1), "{events:#?}");
    let notes: Vec<_> = events.iter().filter(|event| event["type"] == "progress").map(|e| &e["payload"]).collect();
    let distinct: std::collections::BTreeSet<_> = notes.iter().map(ToString::to_string).collect();
    assert_eq!(distinct.len(), notes.len(), "{events:#?}");
}

/// What is in the output whatever ids the runs had.
fn without_ids(output: &Value) -> Value {
    let mut output = output.clone();
    for part in output["parts"].as_array_mut().expect("parts") {
        part["run_id"] = json!(null);
    }
    output
}

fn column<'a>(summary: &'a Value, name: &str) -> &'a Value {
    let columns = summary["columns"].as_array().expect("columns");
    columns.iter().find(|column| column["name"] == name).unwrap_or_else(|| panic!("no {name} in {summary:#}"))
}

#[test]
fn four_analysts_say_together_what_one_says_of_the_whole() {
    run(async {
        let ann = user().await;
        let paths = put_years(&ann).await;
        let id = ann.submit(&json!({"agent": "team", "input": {"paths": paths}})).await;
        let run = asking(&ann, &id).await;
        let about = &run["wait"]["about"];
        assert!(about["prompt"].as_str().is_some_and(|text| text.contains("weather-2012.csv: 366 rows")), "{about:#}");
        assert_eq!(about["schema"]["properties"]["publish"]["items"]["enum"], json!(paths), "{about:#}");
        // What was not found cannot be published.
        let wrong = json!({"answer": {"go_on": true, "publish": ["secret.csv"]}});
        ann.post(&format!("/v1/runs/{id}/input"), &wrong).await.problem(422, "answer_misfit");
        answer(&ann, &id, &json!({"go_on": true})).await;
        let done = ann.ended(&id).await;
        assert_eq!(done["stop_reason"], "completed", "{done:#}");
        let output = &done["output"];
        assert_eq!(
            (&output["partial_failure"], &output["report"]),
            (&json!(false), &json!("summary.md")),
            "{output:#}"
        );

        // Each is a run of its own, below this one, and durable as this one is.
        let runs = children(&ann, &id).await;
        assert_eq!(runs.len(), 4, "{runs:#?}");
        for part in output["parts"].as_array().expect("parts") {
            let child = runs.iter().find(|run| run["id"] == part["run_id"]).expect("a child");
            assert_eq!((&child["stop_reason"], &child["durability"]), (&json!("completed"), &json!("durable")));
            assert_eq!(part["outcome"], "published", "{part}");
            assert!(get_file(&ann, part["report"].as_str().expect("a report")).await.starts_with("# What is in"));
        }

        // Together they say what one analyst says of the table that they are the parts of.
        let whole = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/analyst/data/seattle-weather.csv");
        put(&ann, "whole.csv", &std::fs::read_to_string(whole).expect("the data")).await;
        let one = ann.finish(&json!({"agent": "analyst", "input": {"path": "whole.csv"}})).await;
        let table = &one["output"]["tables"][0];
        let summary = &output["summary"];
        assert_eq!((&summary["tables"], &summary["rows"]), (&json!(4), &table["rows"]), "{summary:#}");
        for name in ["precipitation", "temp_max", "temp_min", "wind"] {
            let (merged, single) = (column(summary, name), column(table, name));
            assert_eq!((&merged["min"], &merged["max"]), (&single["min"], &single["max"]), "{name}");
            assert_eq!(merged["count"], single["count"], "{name}");
            let mean = |column: &Value| column["mean"].as_f64().expect("a mean");
            assert!((mean(merged) - mean(single)).abs() < 1e-9, "{name}: {merged} {single}");
        }
        let report = get_file(&ann, "summary.md").await;
        assert!(report.contains("1461 rows of 4 tables") && report.contains("team/weather-2015.csv.md"), "{report}");
        is_told_once(&ann, &id).await;
        let found = ann.send(Method::POST, &format!("/v1/runs/{id}/replay"), None).await.is(StatusCode::OK);
        assert_eq!((&found["same"], &found["reached"]), (&json!(true), &json!("end")), "{found:#}");
    });
}

#[test]
fn a_table_that_is_broken_costs_the_others_nothing_and_is_named() {
    run(async {
        let ann = user().await;
        let mut paths = put_years(&ann).await;
        put(&ann, "broken.csv", "a,b\n1,2\n1,2,3\n").await;
        paths.truncate(2);
        paths.extend(["broken.csv".to_owned(), "missing.csv".to_owned()]);
        let id = ann.submit(&json!({"agent": "team", "input": {"paths": paths, "report": "out/two.md"}})).await;
        let run = asking(&ann, &id).await;
        let prompt = run["wait"]["about"]["prompt"].as_str().expect("a prompt");
        assert!(prompt.contains("broken.csv failed") && prompt.contains("without the tables that failed"), "{prompt}");
        answer(&ann, &id, &json!({"go_on": true, "publish": [paths[1]]})).await;
        let done = ann.ended(&id).await;
        assert_eq!(done["stop_reason"], "completed", "{done:#}");
        let output = &done["output"];
        assert_eq!(output["partial_failure"], true, "{output:#}");
        let parts = output["parts"].as_array().expect("parts");
        let outcomes: Vec<_> = parts.iter().map(|part| part["outcome"].as_str().expect("an outcome")).collect();
        assert_eq!(outcomes, ["withheld", "published", "failed", "failed"], "{output:#}");
        assert_eq!((&parts[2]["stop_reason"], &parts[2]["code"]), (&json!("guest_error"), &json!("not_a_table")));
        let why = |part: &Value, text: &str| part["message"].as_str().is_some_and(|message| message.contains(text));
        assert!(why(&parts[2], "line 3: 3 cells where the header has 2"), "{}", parts[2]);
        assert!(why(&parts[3], "there is no file `missing.csv`"), "{}", parts[3]);
        assert_eq!(output["summary"]["rows"], 365, "{output:#}");
        let report = get_file(&ann, "out/two.md").await;
        assert!(report.contains("broken.csv: failed") && report.contains("left out, as was asked for"), "{report}");

        // With no table at all there is nothing to ask.
        let none = ann.finish(&json!({"agent": "team", "input": {"paths": ["broken.csv"]}})).await;
        assert_eq!(
            (&none["stop_reason"], &none["error"]["code"]),
            (&json!("guest_error"), &json!("no_part_succeeded"))
        );
        // And a person can say no.
        let id = ann.submit(&json!({"agent": "team", "input": {"paths": [paths[0]], "report": "no.md"}})).await;
        asking(&ann, &id).await;
        answer(&ann, &id, &json!({"go_on": false})).await;
        let done = ann.ended(&id).await;
        assert_eq!((&done["stop_reason"], &done["output"]["report"]), (&json!("completed"), &Value::Null), "{done:#}");
        assert_eq!(done["output"]["parts"][0]["outcome"], "withheld", "{done:#}");
        assert_eq!(ann.get("/v1/files/no.md").await.status, StatusCode::NOT_FOUND);
    });
}

#[test]
fn when_nobody_answers_all_that_was_found_is_published() {
    run(async {
        let ann = user().await;
        let paths = put_years(&ann).await;
        let done = ann.finish(&json!({"agent": "team", "input": {"paths": paths, "answer_within_s": 1}})).await;
        assert_eq!(done["stop_reason"], "completed", "{done:#}");
        let output = &done["output"];
        assert_eq!(output["decision"], json!({"go_on": true, "publish": paths}), "{output:#}");
        assert_eq!((&output["summary"]["rows"], &output["partial_failure"]), (&json!(1461), &json!(false)));
    });
}

#[test]
fn without_leave_for_the_analyst_or_for_people_no_summary_is_written() {
    run(async {
        let ann = user().await;
        let paths = put_years(&ann).await;
        for (grant, word) in [
            (json!({"tools": ["file.*"], "human": true}), "analyst"),
            (json!({"tools": ["file.*"], "agents": ["analyst"]}), "human"),
        ] {
            shared().await.grant(&ann, "team", &grant).await;
            let done = ann.finish(&json!({"agent": "team", "input": {"paths": paths}})).await;
            assert_eq!(done["stop_reason"], "denied", "{done:#}");
            assert!(done["error"].to_string().contains(word), "{done:#}");
        }
        assert_eq!(ann.get("/v1/files/summary.md").await.status, StatusCode::NOT_FOUND);
    });
}

#[test]
fn an_analyst_may_do_no_more_as_a_child_than_by_itself() {
    run(async {
        let ann = user().await;
        let paths = put_years(&ann).await;
        // What its parent may do is of no help to it.
        shared().await.grant(&ann, "analyst", &json!({"tools": ["file.list"]})).await;
        let done = ann.finish(&json!({"agent": "team", "input": {"paths": paths}})).await;
        assert_eq!(done["error"]["code"], "no_part_succeeded", "{done:#}");
        for child in children(&ann, done["id"].as_str().expect("an id")).await {
            assert_eq!(child["stop_reason"], "denied", "{child:#}");
        }
    });
}

/// A server of its own process, with the user `dev` and their tables, each long enough to be at work for a while.
async fn process_with_tables(dir: &Path, times: usize) -> (Process, Vec<String>) {
    let server = Process::serve(dir).await;
    let dev = server.dev();
    introduce(&server.operator(), &dev).await;
    let mut paths = Vec::new();
    for (name, table) in years() {
        put(&dev, &name, &long(&table, times)).await;
        paths.push(name);
    }
    (server, paths)
}

#[test]
fn a_team_whose_host_is_killed_while_it_asks_and_while_its_analysts_work_comes_to_the_same_end() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut server, paths) = process_with_tables(dir.path(), 40).await;
        let dev = server.dev();
        let submission = json!({"agent": "team", "input": {"paths": paths}});
        let yes = json!({"go_on": true, "publish": [paths[0], paths[2]]});
        // As it is when nothing happens.
        let undisturbed = dev.submit(&submission).await;
        asking(&dev, &undisturbed).await;
        answer(&dev, &undisturbed, &yes).await;
        let undisturbed = dev.ended(&undisturbed).await;
        assert_eq!(undisturbed["stop_reason"], "completed", "{undisturbed:#}");

        // At work: at least one analyst executes, and none of them has all of it done.
        let id = dev.submit(&submission).await;
        let at_work = async {
            loop {
                let runs = children(&dev, &id).await;
                if runs.len() == paths.len() && runs.iter().any(|run| run["status"] == "running") {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), at_work).await.expect("they work");
        server.kill().await;
        let killed_at = clock::now();
        let mut server = Process::serve(dir.path()).await;
        let dev = server.dev();
        let before = asking(&dev, &id).await;
        // And while it asks.
        server.kill().await;
        let mut server = Process::serve(dir.path()).await;
        let dev = server.dev();
        let after = asking(&dev, &id).await;
        assert_eq!(after["wait"], before["wait"], "it is the same question");
        answer(&dev, &id, &yes).await;
        // And once it has been answered, wherever that is.
        server.kill().await;
        let server = Process::serve(dir.path()).await;
        let dev = server.dev();
        let done = dev.ended(&id).await;
        assert_eq!(done["stop_reason"], "completed", "{done:#}");
        assert_eq!(without_ids(&done["output"]), without_ids(&undisturbed["output"]));
        is_told_once(&dev, &id).await;
        let runs = children(&dev, &id).await;
        assert_eq!(runs.len(), paths.len(), "{runs:#?}");
        let finished_at =
            |run: &Value| run["finished_at"].as_str().expect("a time").parse::<Timestamp>().expect("a time");
        assert!(runs.iter().any(|run| finished_at(run) > killed_at), "they were done before: {runs:#?}");
        for child in &runs {
            assert_eq!(child["stop_reason"], "completed", "{child:#}");
            is_told_once(&dev, child["id"].as_str().expect("an id")).await;
        }
        let found = dev.send(Method::POST, &format!("/v1/runs/{id}/replay"), None).await.is(StatusCode::OK);
        assert_eq!(found["same"], true, "{found:#}");
    });
}
