//! One user never meets another: through every route, and through every import.

use crate::server::{run, shared};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

#[test]
fn another_users_run_looks_like_one_that_does_not_exist() {
    run(async {
        let server = shared().await;
        let (ann, bob) = (server.stranger().await, server.stranger().await);
        let done = ann.finish(&json!({"agent": "echo", "input": "ann's secret"})).await;
        let id = done["id"].as_str().expect("an id");
        let absent = "run_00000000000070008000000000000000";
        for (method, path) in [
            (Method::GET, "/v1/runs/{id}"),
            (Method::GET, "/v1/runs/{id}/events"),
            (Method::POST, "/v1/runs/{id}/cancel"),
        ] {
            let ask = async |id: &str| bob.send(method.clone(), &path.replace("{id}", id), None).await;
            let (theirs, none) = (ask(id).await, ask(absent).await);
            theirs.problem(404, none.json()["code"].as_str().expect("a code"));
            assert_eq!(theirs.text.replace(id, "ID"), none.text.replace(absent, "ID"), "{method} {path}");
        }
        let listed = bob.get("/v1/runs").await.is(StatusCode::OK);
        assert_eq!(listed["runs"], json!([]));
        assert_eq!(server.operator.get(&format!("/v1/runs/{id}")).await.status, StatusCode::FORBIDDEN);
    });
}

#[test]
fn another_users_stream_cannot_be_followed() {
    run(async {
        let server = shared().await;
        let (ann, bob) = (server.trusted().await, server.stranger().await);
        let id = ann.submit(&json!({"agent": "probe", "input": {"do": "sleep", "ms": 2_000}})).await;
        let path = format!("/v1/runs/{id}/events");
        let stream =
            bob.request(Method::GET, &path).header("accept", "text/event-stream").send().await.expect("answered");
        assert_eq!(stream.status(), StatusCode::NOT_FOUND);
        bob.post(&format!("/v1/runs/{id}/cancel"), &json!({})).await.problem(404, "unknown_run");
        assert_eq!(ann.get(&format!("/v1/runs/{id}")).await.is(StatusCode::OK)["finished_at"], Value::Null);
        ann.post(&format!("/v1/runs/{id}/cancel"), &json!({})).await.is(StatusCode::OK);
    });
}

#[test]
fn a_second_user_cannot_read_the_first_users_keys() {
    run(async {
        let server = shared().await;
        let (ann, bob) = (server.trusted().await, server.trusted().await);
        for scope in ["user", "thread"] {
            let set = json!({"do": "state_set", "scope": scope, "key": "k", "text": "ann's"});
            let body = json!({"agent": "probe", "input": set, "thread_id": "shared-name"});
            assert!(ann.finish(&body).await["output"]["ok"].is_u64());
            for step in [
                json!({"do": "state_get", "scope": scope, "key": "k"}),
                json!({"do": "state_list", "scope": scope}),
                json!({"do": "state_delete", "scope": scope, "key": "k"}),
            ] {
                let body = json!({"agent": "probe", "input": step, "thread_id": "shared-name"});
                let seen = bob.finish(&body).await["output"]["ok"].clone();
                assert!([json!(null), json!([]), json!(false)].contains(&seen), "{step} showed {seen}");
            }
            let get = json!({"do": "state_get", "scope": scope, "key": "k"});
            let body = json!({"agent": "probe", "input": get, "thread_id": "shared-name"});
            assert_eq!(ann.finish(&body).await["output"]["ok"]["text"], "ann's", "and bob's delete did nothing");
        }
    });
}

#[test]
fn one_plugin_cannot_read_another_plugins_keys_and_threads_are_apart() {
    run(async {
        let server = shared().await;
        let ann = server.trusted().await;
        server.operator.push("probe-two", crate::server::guest("probe")).await;
        server.grant(&ann, "probe-two", &json!({"state": "read_write"})).await;
        let state = async |agent: &str, thread: &str, input: Value| {
            ann.finish(&json!({"agent": agent, "input": input, "thread_id": thread})).await["output"].clone()
        };
        for scope in ["user", "thread"] {
            let set = json!({"do": "state_set", "scope": scope, "key": "k", "text": "v"});
            state("probe", "one", set).await;
        }
        let get = |scope: &str| json!({"do": "state_get", "scope": scope, "key": "k"});
        assert_eq!(state("probe-two", "one", get("user")).await["ok"], Value::Null);
        assert_eq!(state("probe", "two", get("thread")).await["ok"], Value::Null);
        assert_eq!(state("probe", "two", get("user")).await["ok"]["text"], "v");
        assert_eq!(state("probe", "one", get("thread")).await["ok"]["text"], "v");
    });
}

#[test]
fn a_second_user_cannot_reach_the_first_users_files() {
    run(async {
        let server = shared().await;
        let (ann, bob) = (server.trusted().await, server.trusted().await);
        let write = json!({"do": "file_write", "path": "notes/secret.txt", "text": "ann's"});
        assert!(ann.probe(&write).await["ok"].is_u64() || ann.probe(&write).await["error"].is_null());
        assert_eq!(bob.get("/v1/files/notes/secret.txt").await.status, StatusCode::NOT_FOUND);
        assert_eq!(bob.get("/v1/files").await.is(StatusCode::OK)["entries"], json!([]));
        assert_eq!(bob.probe(&json!({"do": "file_list", "path": ""})).await["ok"]["entries"], json!([]));
        let paths = [
            "notes/secret.txt".to_owned(),
            format!("../{}/notes/secret.txt", ann.name),
            format!("/{}/notes/secret.txt", ann.name),
        ];
        for path in paths {
            let read = bob.probe(&json!({"do": "file_read", "path": path})).await;
            assert!(read["error"].is_object(), "{path} gave {read}");
        }
        assert_eq!(ann.get("/v1/files/notes/secret.txt").await.text, "ann's");
    });
}

#[test]
fn a_guest_is_told_only_who_it_runs_for() {
    run(async {
        let ann = shared().await.trusted().await;
        let body = json!({"agent": "probe", "input": {"do": "context"}, "metadata": {"k": [1]}});
        let request =
            ann.request(Method::POST, "/v1/runs").header("prefer", "wait=30").header("x-request-id", "asked-by-me");
        let run =
            crate::server::Answer::of(request.json(&body).send().await.expect("answered")).await.is(StatusCode::OK);
        let info = &run["output"];
        assert_eq!(info["user_id"], ann.name.as_str());
        assert_eq!((&info["run_id"], &info["thread_id"]), (&run["id"], &run["thread_id"]));
        assert_eq!(info["request_id"], "asked-by-me");
        assert_eq!((&info["parent_run_id"], &info["session_id"]), (&Value::Null, &Value::Null));
        assert_eq!(info["metadata"], json!({"k": [1]}));
    });
}

#[test]
fn a_guest_sees_nothing_of_the_machine_but_clocks_and_random_numbers() {
    run(async {
        let ann = shared().await.trusted().await;
        let env = ann.probe(&json!({"do": "env"})).await.to_string();
        assert!(!env.contains("PATH") && !env.contains("HOME"), "{env}");
        let fs = ann.probe(&json!({"do": "fs"})).await;
        assert!(!fs.to_string().contains("\"ok\""), "every path is refused: {fs}");
        let clock = ann.probe(&json!({"do": "clock"})).await;
        assert!(clock["wall_ms"].as_u64().is_some_and(|ms| ms > 1_700_000_000_000), "{clock}");
        let random = async || ann.probe(&json!({"do": "random", "bytes": 32})).await["hex"].clone();
        assert_ne!(random().await, random().await);
    });
}

#[test]
fn a_fresh_sandbox_has_nothing_of_the_last_one() {
    run(async {
        let ann = shared().await.trusted().await;
        let budget = json!({"agent": "probe", "input": {"do": "budget"}});
        let before = ann.finish(&budget).await["output"]["memory_bytes"].clone();
        ann.finish(&json!({"agent": "hostile", "input": {"scenario": "grow"}})).await;
        ann.finish(&json!({"agent": "hostile", "input": {"scenario": "trap"}})).await;
        assert_eq!(ann.finish(&budget).await["output"]["memory_bytes"], before);
    });
}
