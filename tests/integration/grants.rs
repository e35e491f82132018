//! What a plugin may do for a user: declared and granted, or denied.

use crate::server::{User, run, shared};
use reqwest::{Method, StatusCode};
use serde_json::json;

#[test]
fn nothing_is_granted_until_somebody_grants_it() {
    run(async {
        let server = shared().await;
        let ann = server.stranger().await;
        let path = format!("/v1/users/{}/grants/probe", ann.name);
        assert_eq!(
            ann.get(&path).await.is(StatusCode::OK),
            json!({"tools": [], "state": "none", "workspace": "none", "agents": [], "human": false})
        );
        assert_eq!(ann.probe(&json!({"do": "list_tools"})).await, json!([]));
        let call = json!({"do": "call", "name": "file.list"});
        assert_eq!(ann.probe(&call).await["error"]["kind"], "denied");
        for step in [
            json!({"do": "state_get", "scope": "user", "key": "k"}),
            json!({"do": "state_set", "scope": "user", "key": "k", "text": "v"}),
            json!({"do": "state_list", "scope": "user"}),
            json!({"do": "state_delete", "scope": "user", "key": "k"}),
            json!({"do": "state_cas", "scope": "user", "key": "k", "expected": null, "text": "v"}),
        ] {
            assert_eq!(ann.probe(&step).await["error"]["kind"], "denied", "{step}");
        }
        let run = ann.finish(&json!({"agent": "probe", "input": {"do": "must_call", "name": "file.list"}})).await;
        assert_eq!((&run["status"], &run["stop_reason"]), (&json!("failed"), &json!("denied")), "{run}");
        let run = ann.finish(&json!({"agent": "probe", "input": {"do": "fail_denied", "text": "of my own"}})).await;
        assert_eq!(run["stop_reason"], "guest_error", "an agent's own word is not a denial: {run}");
    });
}

#[test]
fn a_grant_gives_no_more_than_was_declared_and_a_declaration_no_more_than_was_granted() {
    run(async {
        let server = shared().await;
        let ann = server.stranger().await;
        server.grant(&ann, "probe", &json!({"tools": ["file.read"], "state": "read"})).await;
        let kind = async |step: serde_json::Value| ann.probe(&step).await["error"]["kind"].clone();
        let write = json!({"do": "call", "name": "file.write", "args": {"path": "a", "text": "b"}});
        assert_eq!(kind(write.clone()).await, "denied");
        assert_eq!(kind(json!({"do": "call", "name": "file.read", "args": {"path": "none"}})).await, "not_found");
        assert_eq!(kind(json!({"do": "state_get", "scope": "user", "key": "k"})).await, serde_json::Value::Null);
        assert_eq!(kind(json!({"do": "state_set", "scope": "user", "key": "k", "text": "v"})).await, "denied");
        let tools = ann.probe(&json!({"do": "list_tools"})).await;
        assert_eq!(tools.as_array().map(Vec::len), Some(1), "{tools}");

        // `echo` declares nothing, so a grant of everything gives it nothing.
        let path = format!("/v1/users/{}/grants/echo", ann.name);
        let all = json!({"tools": ["*"], "state": "read_write"});
        let answer = server.operator.send(Method::PUT, &path, Some(&all)).await.is(StatusCode::OK);
        assert_eq!(
            answer["grant"],
            json!({"tools": ["*"], "state": "read_write", "workspace": "none", "agents": [], "human": false})
        );
        assert_eq!(
            answer["effective"],
            json!({"tools": [], "state": "none", "workspace": "none", "agents": [], "human": false})
        );

        // A grant is live at the next run, and taken back as quickly.
        server.grant(&ann, "probe", &json!({"tools": ["file.*"]})).await;
        assert_eq!(kind(write.clone()).await, serde_json::Value::Null);
        server.grant(&ann, "probe", &json!({})).await;
        assert_eq!(kind(write).await, "denied");
    });
}

#[test]
fn agents_and_people_are_granted_like_everything_else() {
    run(async {
        let server = shared().await;
        let ann = server.stranger().await;
        let path = format!("/v1/users/{}/grants/probe", ann.name);
        let set = async |grant: serde_json::Value| server.operator.send(Method::PUT, &path, Some(&grant)).await;
        let answer = set(json!({"agents": ["echo", "analyst", "echo"], "human": true})).await.is(StatusCode::OK);
        let granted =
            json!({"tools": [], "state": "none", "workspace": "none", "agents": ["analyst", "echo"], "human": true});
        assert_eq!((&answer["grant"], &answer["effective"]), (&granted, &granted));
        assert_eq!(answer["declared"]["agents"], json!(["*"]));
        assert_eq!(ann.get(&path).await.is(StatusCode::OK), granted);
        let answer = set(json!({"agents": ["*", "echo"]})).await.is(StatusCode::OK);
        assert_eq!((&answer["grant"]["agents"], &answer["effective"]["human"]), (&json!(["*"]), &json!(false)));

        // `echo` asks for neither.
        let all = json!({"agents": ["*"], "human": true});
        let path = format!("/v1/users/{}/grants/echo", ann.name);
        let answer = server.operator.send(Method::PUT, &path, Some(&all)).await.is(StatusCode::OK);
        assert_eq!((&answer["effective"]["agents"], &answer["effective"]["human"]), (&json!([]), &json!(false)));

        for bad in [
            json!({"agents": "*"}),
            json!({"agents": ["Echo"]}),
            json!({"agents": ["echo@0.1.0"]}),
            json!({"agents": [7]}),
            json!({"human": "yes"}),
            json!({"agents": (0..65).map(|n| format!("agent-{n}")).collect::<Vec<_>>()}),
            json!({"durable": true}),
        ] {
            set(bad).await.problem(422, "invalid_body");
        }
    });
}

#[test]
fn operators_make_operators_and_users_make_nobody() {
    run(async {
        let server = shared().await;
        let made = server.operator.post("/v1/keys", &json!({"user": "team-a", "role": "operator"})).await;
        let made = made.is(StatusCode::CREATED);
        assert_eq!(made["role"], "operator");
        let team = User::new("team-a", &server.app.url(), made["api_key"].as_str().expect("a key"));
        team.post("/v1/keys", &json!({"user": "made-by-team-a"})).await.is(StatusCode::CREATED);
        team.post("/v1/runs", &json!({"agent": "echo", "input": 1})).await.problem(403, "user_needed");
        let ann = server.stranger().await;
        let refused =
            ann.post("/v1/keys", &json!({"user": "x", "role": "operator"})).await.problem(403, "operator_needed");
        assert!(refused["hint"].as_str().is_some_and(|hint| hint.contains("POST /v1/keys")), "{refused}");
        server.operator.post("/v1/keys", &json!({"user": "x", "role": "root"})).await.problem(422, "invalid_body");
    });
}

#[test]
fn only_an_operator_grants_and_a_user_sees_only_their_own() {
    run(async {
        let server = shared().await;
        let (ann, bob) = (server.stranger().await, server.stranger().await);
        let path = format!("/v1/users/{}/grants/probe", ann.name);
        let all = json!({"tools": ["*"], "state": "read_write"});
        for user in [&ann, &bob] {
            assert_eq!(user.send(Method::PUT, &path, Some(&all)).await.status, StatusCode::FORBIDDEN);
        }
        assert_eq!(bob.get(&path).await.status, StatusCode::NOT_FOUND, "as if there were no such user");
        assert_eq!(
            server.operator.get(&path).await.is(StatusCode::OK),
            json!({"tools": [], "state": "none", "workspace": "none", "agents": [], "human": false})
        );
        for bad in [
            json!([]),
            json!({"tools": ["FILE"]}),
            json!({"state": "all"}),
            json!({"tolls": []}),
            json!({"tools": "*"}),
        ] {
            let answer = server.operator.send(Method::PUT, &path, Some(&bad)).await;
            assert!(answer.status.is_client_error(), "{bad}: {}", answer.text);
        }
        let many = json!({"tools": (0..65).map(|n| format!("file.t{n}")).collect::<Vec<_>>()});
        assert!(server.operator.send(Method::PUT, &path, Some(&many)).await.status.is_client_error());
        assert_eq!(server.operator.get(&path).await.is(StatusCode::OK)["tools"], json!([]), "nothing was stored");
        let unknown = format!("/v1/users/{}/grants/prob", ann.name);
        let problem = server.operator.send(Method::PUT, &unknown, Some(&all)).await;
        assert_eq!(problem.status, StatusCode::NOT_FOUND);
        assert!(problem.text.contains("probe"), "the nearest name is told: {}", problem.text);
    });
}
