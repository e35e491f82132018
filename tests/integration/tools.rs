//! Tools: the host's own over the user's files, and those of plugins.

use crate::{
    server::{Server, User, config, guest, run, shared},
    wat::{counting_tools, tool_calling_itself, tool_needing_tools, tool_saying, tools_with_schemas},
};
use cofferdam_core::{
    identity::Operator,
    ids::Digest,
    quota::Quota,
    storage::{MemoryStorage, PluginVersion, Storage},
};
use cofferdam_server::App;
use reqwest::{Method, StatusCode};
use serde_json::json;
use std::sync::Arc;

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

#[test]
fn a_tool_says_whether_it_may_be_called_twice_and_knows_its_call_by_a_key() {
    run(async {
        let server = Server::start().await;
        server.operator.push("effects", guest("effects")).await.is(StatusCode::CREATED);
        let ann = server.trusted().await;
        server.grant(&ann, "effects", &json!({"workspace": "read_write"})).await;
        let tools = ann.probe(&json!({"do": "list_tools"})).await;
        let idempotent: Vec<_> =
            tools.as_array().expect("tools").iter().map(|t| (&t["name"], &t["idempotent"])).collect();
        let expected = [
            ("effects.append", false),
            ("effects.put", true),
            ("file.list", true),
            ("file.read", true),
            ("file.write", true),
            ("units.convert", true),
            ("units.list", true),
        ]
        .map(|(name, idempotent)| (json!(name), json!(idempotent)));
        assert_eq!(idempotent, expected.iter().map(|(name, idempotent)| (name, idempotent)).collect::<Vec<_>>());
        let pushed = ann.get("/v1/plugins/effects").await.is(StatusCode::OK);
        let pushed = pushed["latest"]["tools"].as_array().expect("tools");
        assert_eq!(pushed.iter().map(|tool| &tool["idempotent"]).collect::<Vec<_>>(), [&json!(false), &json!(true)]);

        // Two calls have two keys, one after the other and side by side.
        let put = json!({"do": "call", "name": "effects.put", "args": {"dir": "done", "attempts": "attempts"}});
        let append = json!({"do": "call", "name": "effects.append", "args": {"path": "lines"}});
        let both = json!({"do": "parallel", "calls": [put, put]});
        let input = json!({"do": "seq", "steps": [put, append, both]});
        let run = ann.finish(&json!({"agent": "probe", "input": input})).await;
        let id = run["id"].as_str().expect("an id");
        let output = &run["output"];
        let answers = [&output[0], &output[1], &output[2][0], &output[2][1]];
        let keys = answers.map(|answer| answer["ok"]["key"].as_str().unwrap_or_else(|| panic!("{run}")));
        for (n, key) in keys.iter().enumerate() {
            assert!(key.starts_with(&format!("{id}:")), "{key} is no key of a call of {id}");
            assert!(!keys[..n].contains(key), "{keys:?}");
            assert_eq!(answers[n]["ok"]["run_id"], id);
        }
        assert_eq!(ann.get("/v1/files/lines").await.text, format!("{}\n", keys[1]));
        let listed = ann.get("/v1/files?path=done").await.is(StatusCode::OK);
        assert_eq!(listed["entries"].as_array().map(Vec::len), Some(3), "each call once: {listed}");
        assert_eq!(ann.get("/v1/files/attempts").await.text.lines().count(), 3);
    });
}

#[test]
fn a_list_of_tools_crosses_as_one_call_may_and_counts_as_the_runs_memory() {
    run(async {
        let server = Server::start_empty(tempfile::tempdir().expect("a directory"), Quota::default()).await;
        server.operator.push("counts", counting_tools()).await.is(StatusCode::CREATED);
        let ann = server.stranger().await;
        server.grant(&ann, "counts", &json!({"tools": ["*"]})).await;
        let count = async |limits: serde_json::Value| {
            let run = ann.finish(&json!({"agent": "counts", "input": 1, "limits": limits})).await;
            assert_eq!(run["stop_reason"], "completed", "{run}");
            let events = ann.events(run["id"].as_str().expect("an id")).await;
            let told = events.iter().any(|event| event["type"] == "log" && event.to_string().contains("tools.list"));
            let shown: u64 = run["output"].as_str().and_then(|text| text.parse().ok()).expect("a number");
            (shown, run["usage"]["memory_peak_bytes"].as_u64(), told)
        };
        for n in 0..2 {
            let tools = tools_with_schemas(4, 60_000, &n.to_string());
            server.operator.push(&format!("fat-{n}"), tools).await.is(StatusCode::CREATED);
        }
        assert!(matches!(count(json!({})).await, (11, Some(peak), false) if peak > (4 << 20) + 480_000));
        for n in 2..6 {
            let tools = tools_with_schemas(4, 60_000, &n.to_string());
            server.operator.push(&format!("fat-{n}"), tools).await.is(StatusCode::CREATED);
        }
        // Three of the host's own, and as many more as fit into a MiB.
        let (shown, peak, told) = count(json!({})).await;
        assert_eq!((shown, told), (20, true));
        assert!(peak.is_some_and(|peak| (5 << 20) - 65_536 < peak && peak <= 5 << 20), "{peak:?}");
        // What is left of a smaller memory is all that there can be of it.
        assert_eq!(count(json!({"memory_bytes": (4 << 20) + 100_000})).await.0, 4);
    });
}

#[test]
fn a_name_that_no_tool_has_is_told_the_nearest() {
    run(async {
        let ann = shared().await.trusted().await;
        for (asked, nearest) in
            [("units.convrt", "units.convert"), ("file.reed", "file.read"), ("units.lst", "units.list")]
        {
            let called = ann.probe(&json!({"do": "call", "name": asked})).await;
            assert!(called["error"]["text"].as_str().is_some_and(|text| text.contains(nearest)), "{asked}: {called}");
        }
    });
}

#[test]
fn a_name_is_an_agents_or_a_tools_for_ever() {
    run(async {
        let server = shared().await;
        server.operator.push("stays-an-agent", guest("echo")).await.is(StatusCode::CREATED);
        let refused = server.operator.push("stays-an-agent", guest("units")).await;
        let problem = refused.problem(409, "other_kind");
        assert!(problem["detail"].as_str().is_some_and(|text| text.contains("under another name")), "{problem}");
        server.operator.push("stays-a-tool", guest("units")).await.is(StatusCode::CREATED);
        server.operator.push("stays-a-tool", guest("echo")).await.problem(409, "other_kind");
        server.operator.push("stays-an-agent", guest("probe")).await.is(StatusCode::CREATED);
        // Of two that are quick, one is too late.
        for n in 0..4 {
            let name = format!("kind-at-once-{n}");
            let (a, b) =
                tokio::join!(server.operator.push(&name, guest("echo")), server.operator.push(&name, guest("units")));
            let mut statuses = [a.status, b.status];
            statuses.sort_unstable();
            assert_eq!(statuses, [StatusCode::CREATED, StatusCode::CONFLICT], "{} {}", a.text, b.text);
        }
    });
}

/// A host of before had no such rule, and its plugins are still there.
#[test]
fn a_tool_of_its_callers_own_name_has_no_scratch_and_no_record() {
    run(async {
        let storage = Arc::new(MemoryStorage::default());
        let dir = tempfile::tempdir().expect("a directory");
        let start = async || {
            let app = App::start_over(config(dir.path(), Quota::default()), storage.clone()).await.expect("started");
            let operator = User::new("operator", &app.url(), app.admin_key().expect("a dev server"));
            (app, operator)
        };
        let (app, operator) = start().await;
        let looks = tool_saying(
            "look",
            "(call $directories (i32.const 2048))
             (i32.store8 (i32.const 3000) (i32.add (i32.const 48) (i32.load (i32.const 2052))))",
        );
        operator.push("looks", looks).await.is(StatusCode::CREATED);
        operator.push("units", guest("probe")).await.is(StatusCode::CREATED);
        app.shutdown().await;
        let known = storage.plugins(Operator::host()).await.expect("known");
        let looks = known.into_iter().find(|version| version.name.as_str() == "looks").expect("pushed");
        let twin = PluginVersion { name: "units".parse().expect("a name"), ..looks };
        storage.put_plugin(Operator::host(), &twin).await.expect("kept");

        let (app, operator) = start().await;
        let grant = json!({"tools": ["*"], "state": "read_write", "workspace": "none"});
        operator.send(Method::PUT, "/v1/users/dev/grants/units", Some(&grant)).await.is(StatusCode::OK);
        let dev = User::new("dev", &app.url(), app.api_key().expect("a dev server"));
        let look = json!({"do": "call", "name": "units.look", "args": {}});
        let steps = json!([{"do": "std", "op": "write", "path": "/scratch/a", "text": "mine"}, look,
            {"do": "std", "op": "read", "path": "/scratch/a"}]);
        let agent = format!("units@{}", Digest::of(&guest("probe")));
        let run = dev.finish(&json!({"agent": agent, "input": {"do": "seq", "steps": steps}})).await;
        assert_eq!(run["output"][1]["ok"], 0, "the tool has its caller's directory: {run}");
        assert_eq!(run["output"][2]["ok"], "mine", "{run}");
        app.shutdown().await;
    });
}

#[test]
fn a_tool_calls_no_tools_so_no_run_waits_for_itself() {
    run(async {
        let server = shared().await;
        // Calling itself for ever, and around a circle, begin with calling a tool at all.
        let problem = server.operator.push("circle", tool_calling_itself("circle")).await.problem(422, "wrong_world");
        let detail = problem["detail"].as_str().expect("a detail");
        assert!(detail.contains("a tool calls no other tools, nor itself; let the agent call both"), "{problem}");
        let problem = server.operator.push("circle", tool_needing_tools()).await.problem(422, "invalid_description");
        assert!(
            problem["detail"].as_str().is_some_and(|detail| detail.contains("needs.tools must be empty")),
            "{problem}"
        );

        // What an agent that names it gets is an answer at once, not a wait.
        let ann = server.trusted().await;
        let answer = ann.probe(&json!({"do": "call", "name": "circle.again"})).await;
        assert_eq!(answer["error"]["kind"], "denied", "{answer}");
    });
}

#[test]
fn runs_whose_tools_wait_for_sandboxes_come_to_their_end_however_many_wait() {
    run(async {
        // As many runs as a user has at once, each with as many calls under way as it may have, of which a few have a
        // sandbox: a call that waits holds nothing that another of them waits for.
        let ann = shared().await.trusted().await;
        let convert = json!({"name": "units.convert", "args": {"value": 1.0, "from": "km", "to": "m"}});
        let many = json!({"do": "parallel", "calls": vec![convert; 32]});
        let mut runs = Vec::new();
        for _ in 0..6 {
            let (ann, many) = (ann.clone(), many.clone());
            runs.push(tokio::spawn(async move { ann.finish(&json!({"agent": "probe", "input": many})).await }));
        }
        for run in runs {
            let run = run.await.expect("finished");
            let answers = run["output"].as_array().unwrap_or_else(|| panic!("{run}"));
            assert!(answers.len() == 32 && answers.iter().all(|answer| answer["ok"].is_object()), "{run}");
            assert_eq!(run["usage"]["tool_calls"], 32, "{run}");
        }
    });
}
