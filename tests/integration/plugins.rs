//! Pushing plugins: what is taken, what is refused and why.

use crate::{
    server::{Server, User, guest, run, shared},
    wat::{agent_needing, tool_asking_people, tool_needing, tools_with_schemas},
};
use cofferdam_core::{ids::Digest, quota::Quota};
use reqwest::{Method, StatusCode};
use serde_json::json;

#[test]
fn a_plugin_is_pushed_described_and_listed() {
    run(async {
        let server = shared().await;
        let component = guest("probe");
        let digest = Digest::of(&component).to_string();
        let first = server.operator.push("pushed-twice", component.clone()).await.is(StatusCode::CREATED);
        assert_eq!((&first["name"], &first["digest"]), (&json!("pushed-twice"), &json!(digest)));
        assert_eq!((&first["kind"], &first["bytes"]), (&json!("agent"), &json!(component.len())));
        assert_eq!(
            first["needs"],
            json!({"tools": ["effects.*", "file.*", "units.*"], "state": "read_write", "workspace": "read_write",
                "agents": ["*"], "human": true})
        );
        assert_eq!(first["durable"], false, "who asks people waits, and what waits outlives its host in any case");
        assert!(first["input_schema"].is_object() && first["description"].is_string(), "{first}");
        server.operator.push("pushed-twice", component).await.is(StatusCode::OK);
        let ann = server.stranger().await;
        let listed = ann.get("/v1/plugins/pushed-twice").await.is(StatusCode::OK);
        assert_eq!(listed["versions"].as_array().map(Vec::len), Some(1));
        assert_eq!(listed["latest"]["digest"], digest.as_str());
        let all = ann.get("/v1/plugins").await.is(StatusCode::OK);
        let names: Vec<_> = all["plugins"].as_array().expect("plugins").iter().map(|p| p["name"].clone()).collect();
        assert!(names.contains(&json!("echo")) && names.contains(&json!("pushed-twice")), "{names:?}");
    });
}

#[test]
fn an_agent_is_named_by_its_latest_a_version_or_a_digest() {
    run(async {
        let server = shared().await;
        let ann = server.stranger().await;
        let (echo, probe) = (guest("echo"), guest("probe"));
        server.operator.push("two-versions", echo.clone()).await.is(StatusCode::CREATED);
        server.operator.push("two-versions", probe.clone()).await.is(StatusCode::CREATED);
        let digest_of = async |agent: String| {
            let run = ann.finish(&json!({"agent": agent, "input": {"do": "context"}})).await;
            assert_eq!(run["stop_reason"], "completed", "{run}");
            run["digest"].as_str().expect("a digest").to_owned()
        };
        let (echo, probe) = (Digest::of(&echo).to_string(), Digest::of(&probe).to_string());
        assert_eq!(digest_of("two-versions".into()).await, probe);
        assert_eq!(digest_of(format!("two-versions@{echo}")).await, echo);
        assert_eq!(digest_of("two-versions@0.1.0".into()).await, probe, "of one version, the one pushed last");
        let post = async |agent: &str| ann.post("/v1/runs", &json!({"agent": agent, "input": 1})).await;
        let problem = post("two-version").await.problem(404, "unknown_agent");
        assert!(problem.to_string().contains("two-versions"), "the nearest name is told: {problem}");
        post("two-versions@9.9.9").await.problem(404, "unknown_agent");
        post(&format!("two-versions@{}", Digest::of(b"none"))).await.problem(404, "unknown_agent");
        assert!(post("Two Versions").await.status.is_client_error());
    });
}

#[test]
fn what_is_not_a_plugin_is_refused_and_told_why() {
    run(async {
        let server = shared().await;
        let component = guest("echo");
        let refused = async |bytes: Vec<u8>, code: &str, word: &str| {
            let problem = server.operator.push("refused", bytes).await.problem(422, code);
            assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(word)), "{word}: {problem}");
        };
        refused(Vec::new(), "not_a_component", "no bytes").await;
        refused(b"(component)".to_vec(), "not_a_component", "not WebAssembly").await;
        refused(b"\0asm\x01\0\0\0".to_vec(), "not_a_component", "core WebAssembly module").await;
        refused(component[..component.len() / 2].to_vec(), "malformed", "not a whole component").await;
        refused(b"\0asm\x0d\0\x01\0".to_vec(), "wrong_world", "describe").await;
        refused(nested(17), "too_complex", "levels of nesting").await;
        refused(guest("mute-imports"), "unknown_imports", "example:missing").await;
        refused(guest("undescribed"), "describe_failed", "trap").await;
        let mut flipped = 0;
        for at in (8..component.len()).step_by(component.len() / 12) {
            let mut bytes = component.clone();
            bytes[at] ^= 0x55;
            let answer = server.operator.push("flipped", bytes).await;
            assert!(
                answer.status.is_client_error() || answer.status.is_success(),
                "{}: {}",
                answer.status,
                answer.text
            );
            flipped += u32::from(answer.status.is_client_error());
        }
        assert!(flipped > 0, "most changed bytes make it invalid");
        let name = server.operator.push("file", component.clone()).await;
        name.problem(422, "reserved_name");
        let answer = server.operator.push("Not A Name", component.clone()).await;
        assert!(answer.status.is_client_error(), "{}", answer.text);
        assert_eq!(server.stranger().await.get("/v1/plugins/refused").await.status, StatusCode::NOT_FOUND);
        let undescribed = Digest::of(&guest("undescribed")).hex();
        let kept = server.dir.path().join(format!("artifacts/{undescribed}.cwasm"));
        assert!(!kept.exists(), "nothing is kept of what is refused");
    });
}

#[test]
fn what_a_plugin_needs_is_told_and_bounded() {
    run(async {
        let operator = &shared().await.operator;
        let pushed = async |name: &str, bytes: Vec<u8>| operator.push(name, bytes).await;
        let nothing = pushed("needs-nothing", agent_needing("")).await.is(StatusCode::CREATED);
        assert_eq!(
            (&nothing["needs"]["agents"], &nothing["needs"]["human"], &nothing["durable"]),
            (&json!([]), &json!(false), &json!(false))
        );
        // In the record of needs, agents are at 12, whether it asks people at 20, and whether it is durable at 21.
        let durable = pushed("needs-durable", agent_needing("(i32.store8 (i32.const 1085) (i32.const 1))")).await;
        let durable = durable.is(StatusCode::CREATED);
        assert_eq!((&durable["needs"], &durable["durable"]), (&nothing["needs"], &json!(true)));
        // Who asks people is durable, but for an agent with a workspace, which is at 9.
        let asks = "(i32.store8 (i32.const 1084) (i32.const 1))";
        for (name, more, durable) in
            [("needs-human", "", true), ("needs-human-files", "(i32.store8 (i32.const 1073) (i32.const 1))", false)]
        {
            let human = pushed(name, agent_needing(&format!("{asks}{more}"))).await;
            let human = human.is(StatusCode::CREATED);
            assert_eq!((&human["needs"]["human"], &human["durable"]), (&json!(true), &json!(durable)), "{human}");
        }

        let agents = |count: u32, name: u32| {
            let mut body = format!("(call $at (i32.const 52) (i32.const 8192) (i32.const {count}))");
            for n in 0..count {
                // `$at` counts from 1024, where the description of itself begins.
                body.push_str(&format!(
                    "(call $at (i32.const {}) (i32.const {name}) (i32.const 1))",
                    8192 - 1024 + 8 * n
                ));
            }
            agent_needing(&body)
        };
        let all = pushed("needs-agents", agents(64, 4102)).await.is(StatusCode::CREATED);
        assert_eq!(all["needs"]["agents"], json!(["*"]), "what is said 64 times is said once");
        let refused = async |bytes: Vec<u8>, code: &str, word: &str| {
            let problem = operator.push("needs-too-much", bytes).await.problem(422, code);
            assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(word)), "{word}: {problem}");
        };
        refused(agents(65, 4102), "invalid_description", "needs.agents has 65 entries, at most 64").await;
        refused(agents(1, 4103), "invalid_description", r#"needs.agents "A" names no agent"#).await;

        refused(tool_needing("agents"), "invalid_description", "needs.agents must be empty").await;
        refused(tool_needing("human"), "invalid_description", "needs.human must be false").await;
        refused(tool_needing("durable"), "invalid_description", "needs.durable must be false").await;
        refused(tool_asking_people(), "wrong_world", "let the agent ask").await;
    });
}

/// Components in components, so many levels deep.
fn nested(levels: u32) -> Vec<u8> {
    let mut component = wasm_encoder::Component::new();
    for _ in 1..levels {
        let mut outer = wasm_encoder::Component::new();
        outer.section(&wasm_encoder::NestedComponentSection(&component));
        component = outer;
    }
    component.finish()
}

#[test]
fn what_plugins_say_of_themselves_is_bounded_one_by_one_and_page_by_page() {
    run(async {
        let server = Server::start_empty(tempfile::tempdir().expect("a directory"), Quota::default()).await;
        let fat = |tools: usize, salt: &str| tools_with_schemas(tools, 60_000, salt);
        let refused = server.operator.push("fat", fat(5, "")).await;
        let problem = refused.problem(422, "invalid_description");
        assert!(problem["detail"].as_str().is_some_and(|text| text.contains("at most 262144")), "{problem}");
        for n in 0..8 {
            server.operator.push(&format!("fat-{n}"), fat(4, &n.to_string())).await.is(StatusCode::CREATED);
        }
        let ann = server.stranger().await;
        let (mut names, mut pages, mut after) = (Vec::new(), 0, String::new());
        loop {
            let page = ann.get(&format!("/v1/plugins{after}")).await;
            assert!(page.text.len() < 1_200_000, "a page of {} bytes", page.text.len());
            let page = page.is(StatusCode::OK);
            let plugins = page["plugins"].as_array().expect("plugins");
            names.extend(plugins.iter().map(|plugin| plugin["name"].as_str().expect("a name").to_owned()));
            pages += 1;
            match page["next_after"].as_str() {
                Some(next) => after = format!("?after={next}"),
                None => break,
            }
        }
        assert_eq!((names.len(), pages), (8, 2), "{names:?}");
        assert!(names.is_sorted(), "{names:?}");
    });
}

#[test]
fn only_an_operator_pushes_and_only_wasm() {
    run(async {
        let server = shared().await;
        let ann = server.stranger().await;
        assert_eq!(ann.push("mine", guest("echo")).await.status, StatusCode::FORBIDDEN);
        let put = server.operator.request(Method::PUT, "/v1/plugins/mine").header("content-type", "text/plain");
        let answer = put.body(guest("echo")).send().await.expect("answered");
        assert_eq!(answer.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
        assert_eq!(ann.get("/v1/plugins/mine").await.status, StatusCode::NOT_FOUND);
    });
}

#[test]
fn an_upload_over_the_limit_is_refused_before_it_is_read() {
    run(async {
        let server = shared().await;
        let request =
            server.operator.request(Method::PUT, "/v1/plugins/large").header("content-type", "application/wasm");
        let large =
            crate::server::Answer::of(request.body(vec![0_u8; (64 << 20) + 1]).send().await.expect("answered")).await;
        assert_eq!(large.status, StatusCode::PAYLOAD_TOO_LARGE, "{}", large.text);
    });
}

#[test]
fn an_artifact_that_was_tampered_with_is_compiled_anew() {
    run(async {
        let server = Server::start_with(Quota::default()).await;
        let artifacts = server.dir.path().join("artifacts");
        let files: Vec<_> =
            std::fs::read_dir(&artifacts).expect("a directory").map(|f| f.expect("a file").path()).collect();
        assert_eq!(files.len(), 4);
        for file in &files {
            let mut bytes = std::fs::read(file).expect("read");
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(file, bytes).expect("written");
        }
        let server = server.restart().await;
        let ann = server.stranger().await;
        let run = ann.finish(&json!({"agent": "echo", "input": "again"})).await;
        assert_eq!(run["output"], "again", "{run}");
        let digest = Digest::of(&guest("echo"));
        // The artifact was written again, and is good this time.
        let kept = std::fs::read(artifacts.join(format!("{}.cwasm", digest.hex()))).expect("read");
        let server = server.restart().await;
        let run = server.stranger().await.finish(&json!({"agent": "echo", "input": "still"})).await;
        assert_eq!(run["output"], "still");
        assert_eq!(std::fs::read(artifacts.join(format!("{}.cwasm", digest.hex()))).expect("read"), kept);
    });
}

#[test]
fn of_parallel_pushes_of_the_same_bytes_one_is_new() {
    run(async {
        let server = shared().await;
        let push = || server.operator.push("pushed-at-once", guest("echo"));
        let (a, b, c) = tokio::join!(push(), push(), push());
        let mut statuses = [a.status, b.status, c.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [StatusCode::OK, StatusCode::OK, StatusCode::CREATED]);
    });
}

#[test]
fn the_same_component_is_one_artifact_for_all_and_nobody_is_told_who_brought_it() {
    run(async {
        let server = Server::start_with(Quota::default()).await;
        let mut authors = Vec::new();
        for name in ["first-author", "second-author"] {
            let made = server.operator.post("/v1/keys", &json!({"user": name, "role": "operator"})).await;
            let key = made.is(StatusCode::CREATED)["api_key"].as_str().expect("a key").to_owned();
            authors.push(User::new(name, &server.app.url(), &key));
        }
        let artifacts = || std::fs::read_dir(server.dir.path().join("artifacts")).expect("a directory").count();
        let before = artifacts();
        // A section of its author's own makes it a component that this server has not seen.
        let mut component = guest("echo");
        component.extend(b"\x00\x05\x04mine");
        let first = authors[0].push("by-the-first", component.clone()).await;
        let digest = first.is(StatusCode::CREATED)["digest"].clone();
        let second = authors[1].push("by-the-second", component).await;
        assert_eq!(second.is(StatusCode::CREATED)["digest"], digest);
        assert_eq!(artifacts(), before + 1, "it was compiled once");
        let user = server.stranger().await;
        for asks in [&authors[1], &user] {
            for path in ["/v1/plugins", "/v1/plugins/by-the-first", "/v1/plugins/by-the-second"] {
                let told = asks.get(path).await;
                assert!(!told.text.contains("first-author"), "{path}: {}", told.text);
            }
        }
        assert!(!second.text.contains("first"), "{}", second.text);
        for name in ["by-the-first", "by-the-second"] {
            assert_eq!(user.finish(&json!({"agent": name, "input": 1})).await["output"], 1);
        }
    });
}

#[test]
fn a_component_that_was_lost_is_a_host_error_and_pushing_it_again_mends_it() {
    run(async {
        let server = Server::start_with(Quota::default()).await;
        let digest = Digest::of(&guest("echo")).hex();
        for file in [format!("components/{digest}.wasm"), format!("artifacts/{digest}.cwasm")] {
            std::fs::remove_file(server.dir.path().join(file)).expect("removed");
        }
        let server = server.restart().await;
        let ann = server.stranger().await;
        let lost = ann.finish(&json!({"agent": "echo", "input": 1})).await;
        assert_eq!((&lost["status"], &lost["stop_reason"]), (&json!("failed"), &json!("host_error")), "{lost}");
        server.operator.push("echo", guest("echo")).await.is(StatusCode::OK);
        assert_eq!(ann.finish(&json!({"agent": "echo", "input": 1})).await["stop_reason"], "completed");
    });
}

#[test]
fn a_run_whose_time_is_up_while_its_plugin_loads_does_not_begin() {
    run(async {
        let server = Server::start_with(Quota::default()).await;
        let digest = Digest::of(&guest("probe")).hex();
        // Without its artifact, the component is compiled again, which takes longer than the run may.
        std::fs::remove_file(server.dir.path().join(format!("artifacts/{digest}.cwasm"))).expect("removed");
        let server = server.restart().await;
        let ann = server.stranger().await;
        let body =
            json!({"agent": "probe", "input": {"do": "thinking", "text": "too late"}, "limits": {"deadline_ms": 10}});
        let late = ann.finish(&body).await;
        assert_eq!((&late["stop_reason"], &late["usage"]["host_calls"]), (&json!("deadline"), &json!(0)), "{late}");
        assert!(late["usage"]["wall_ms"].as_u64().is_some_and(|ms| ms < 200), "{late}");
    });
}
