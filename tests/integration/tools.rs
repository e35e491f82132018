//! Tools: the host's own over the user's files, and those of plugins.

use crate::server::{run, shared};
use reqwest::{Method, StatusCode};
use serde_json::json;

#[test]
fn files_are_listed_read_and_written_within_the_workspace() {
    run(async {
        let ann = shared().await.trusted().await;
        let put = ann.request(Method::PUT, "/v1/files/data/in.txt").body("one\ntwo\n").send().await.expect("answered");
        assert!(put.status().is_success(), "{}", put.status());
        let call = async |name: &str, args: serde_json::Value| {
            ann.probe(&json!({"do": "call", "name": name, "args": args})).await
        };
        assert_eq!(
            call("file.list", json!({"path": "data"})).await["ok"],
            json!({"entries": [{"name": "in.txt", "kind": "file", "bytes": 8}], "truncated": false})
        );
        assert_eq!(
            call("file.read", json!({"path": "data/in.txt", "offset": 4, "length": 3})).await["ok"],
            json!({"text": "two", "bytes": 3, "next_offset": 7, "size": 8})
        );
        assert_eq!(call("file.write", json!({"path": "out/é.txt", "text": "é"})).await["ok"], json!({"bytes": 2}));
        assert_eq!(
            call("file.write", json!({"path": "out/é.txt", "text": "e", "append": true})).await["ok"],
            json!({"bytes": 3})
        );
        assert_eq!(ann.get("/v1/files/out/%C3%A9.txt").await.text, "ée");
        // A part that would end inside a character ends before it.
        assert_eq!(call("file.read", json!({"path": "out/é.txt", "length": 2})).await["ok"]["text"], "é");
        assert_eq!(call("file.read", json!({"path": "out/é.txt", "length": 1})).await["error"]["kind"], "failed");
        assert_eq!(call("file.read", json!({"path": "out/é.txt", "encoding": "base64"})).await["ok"]["base64"], "w6ll");

        let kind = async |name: &str, args: serde_json::Value| call(name, args).await["error"]["kind"].clone();
        assert_eq!(kind("file.read", json!({"path": "none"})).await, "not_found");
        for path in ["../x", "/etc/passwd", "a/../../x", "", "a\0b", &"x/".repeat(600)] {
            assert_eq!(kind("file.read", json!({"path": path})).await, "invalid_arguments", "{path:?}");
            assert_eq!(kind("file.write", json!({"path": path, "text": ""})).await, "invalid_arguments", "{path:?}");
        }
        for args in [json!({}), json!({"path": 1}), json!({"path": "a", "more": 1}), json!([]), json!("x")] {
            assert_eq!(kind("file.read", args).await, "invalid_arguments");
        }
        assert_eq!(kind("file.write", json!({"path": "a", "text": "x", "base64": "eA=="})).await, "invalid_arguments");
        assert_eq!(kind("file.reed", json!({})).await, "unknown_tool");
        assert!(
            ann.finish(&json!({"agent": "hostile", "input": {"scenario": "forged_paths"}})).await["stop_reason"]
                == "completed"
        );
    });
}

#[test]
fn tool_calls_run_side_by_side_and_answer_in_any_order() {
    run(async {
        let ann = shared().await.trusted().await;
        for n in 0..4 {
            ann.request(Method::PUT, &format!("/v1/files/{n}")).body(n.to_string()).send().await.expect("answered");
        }
        let calls: Vec<_> = (0..4).map(|n| json!({"name": "file.read", "args": {"path": n.to_string()}})).collect();
        let answers = ann.probe(&json!({"do": "parallel", "calls": calls, "wait": [3, 1, 0, 2]})).await;
        let texts: Vec<_> = answers.as_array().expect("answers").iter().map(|a| a["ok"]["text"].clone()).collect();
        assert_eq!(texts, ["3", "1", "0", "2"]);
        let polled = ann.probe(&json!({"do": "poll", "name": "file.list"})).await;
        assert!(polled["answer"]["ok"].is_object(), "{polled}");
        ann.probe(&json!({"do": "abandon", "name": "file.list"})).await;
    });
}

#[test]
fn a_plugins_tool_runs_in_a_sandbox_of_its_own_and_spends_the_callers_budget() {
    run(async {
        let server = shared().await;
        let ann = server.trusted().await;
        let tools = ann.probe(&json!({"do": "list_tools"})).await;
        let names: Vec<_> = tools.as_array().expect("tools").iter().map(|tool| tool["name"].clone()).collect();
        assert_eq!(names, ["file.list", "file.read", "file.write", "units.convert", "units.list"]);
        let convert = json!({"name": "units.convert", "args": {"value": 1.0, "from": "km", "to": "m"}});
        let without = ann.finish(&json!({"agent": "probe", "input": {"do": "context"}})).await;
        let mut input = convert.clone();
        input["do"] = json!("call");
        let with = ann.finish(&json!({"agent": "probe", "input": input})).await;
        assert!(with["output"]["ok"].to_string().contains("1000"), "{with}");
        let (more, less) = (with["usage"]["fuel"].as_u64().unwrap(), without["usage"]["fuel"].as_u64().unwrap());
        assert!(more > less + 10_000, "the tool's fuel is on the caller's bill: {more} against {less}");
        let (more, less) = (&with["usage"]["memory_peak_bytes"], &without["usage"]["memory_peak_bytes"]);
        assert!(more.as_u64() > less.as_u64().map(|bytes| bytes + (1 << 20)), "and so is its memory: {more}, {less}");

        let parallel = ann.probe(&json!({"do": "parallel", "calls": [convert, convert, convert]})).await;
        assert!(parallel.as_array().expect("answers").iter().all(|answer| answer["ok"].is_object()), "{parallel}");
        // As many as may be under way find fuel to run with, and what they did not use is not on the bill.
        let many = vec![convert.clone(); 32];
        let run = ann.finish(&json!({"agent": "probe", "input": {"do": "parallel", "calls": many}})).await;
        assert!(run["output"].as_array().is_some_and(|all| all.iter().all(|answer| answer["ok"].is_object())), "{run}");
        assert!(run["usage"]["fuel"].as_u64().is_some_and(|fuel| fuel < 100_000_000), "{run}");
        let wrong = json!({"do": "call", "name": "units.convert", "args": {"value": "x"}});
        assert_eq!(ann.probe(&wrong).await["error"]["kind"], "invalid_arguments");
        let problem = ann.post("/v1/runs", &json!({"agent": "units", "input": 1})).await;
        problem.problem(422, "not_an_agent");
        assert_eq!(server.app.runtime().host_panics(), 0);
    });
}

#[test]
fn state_keeps_versions_and_forgets_what_has_expired() {
    run(async {
        let ann = shared().await.trusted().await;
        let set = |key: &str, text: &str| json!({"do": "state_set", "scope": "user", "key": key, "text": text});
        let get = |key: &str| json!({"do": "state_get", "scope": "user", "key": key});
        let one = ann.probe(&set("a", "1")).await["ok"].as_u64().expect("a version");
        let two = ann.probe(&set("a", "2")).await["ok"].as_u64().expect("a version");
        assert!(two > one);
        let cas = |expected| json!({"do": "state_cas", "scope": "user", "key": "a", "expected": expected, "text": "3"});
        let lost = ann.probe(&cas(Some(one))).await;
        assert_eq!((&lost["error"]["kind"], &lost["error"]["version"]), (&json!("conflict"), &json!(two)));
        assert_eq!(ann.probe(&cas(None)).await["error"]["kind"], "conflict");
        assert!(ann.probe(&cas(Some(two))).await["ok"].is_u64());
        assert_eq!(ann.probe(&get("a")).await["ok"]["text"], "3");
        let mut brief = set("brief", "x");
        brief["ttl_ms"] = json!(1);
        let gone = ann.probe(&json!({"do": "seq", "steps": [brief, {"do": "sleep", "ms": 20}, get("brief")]})).await;
        assert_eq!(gone[2]["ok"], json!(null), "{gone}");
        let names = ann.probe(&json!({"do": "state_list", "scope": "user", "prefix": ""})).await;
        assert_eq!(names["ok"], json!(["a"]));
        for (key, kind) in [("", "invalid"), ("a b", "invalid"), ("é", "invalid"), (&"k".repeat(257), "invalid")] {
            assert_eq!(ann.probe(&set(key, "")).await["error"]["kind"], kind, "{key:?}");
        }
        let large = |zeros| json!({"do": "state_set", "scope": "user", "key": "large", "zeros": zeros});
        assert!(ann.probe(&large(1 << 20)).await["ok"].is_u64());
        assert_eq!(ann.probe(&large((1 << 20) + 1)).await["error"]["kind"], "too_large");
        assert_eq!(ann.get("/v1/runs").await.status, StatusCode::OK);
    });
}
