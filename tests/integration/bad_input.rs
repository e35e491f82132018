//! Requests that are wrong: each is a client error with a problem document, and stores nothing.

use crate::server::{Answer, User, run, shared};
use reqwest::{Method, StatusCode};
use serde_json::json;

#[test]
fn keys_are_checked_before_anything_else() {
    run(async {
        let server = shared().await;
        let url = server.app.url();
        let mut bodies = Vec::new();
        for key in ["", "nonsense", "cof_", &format!("cof_{}", "A".repeat(43)), &"x".repeat(10_000)] {
            let nobody = User::new("nobody", &url, key);
            let answer = nobody.post("/v1/runs", &json!({"agent": "echo", "input": 1})).await;
            answer.problem(401, "unauthenticated");
            assert_eq!(answer.header("www-authenticate").map(|how| how.starts_with("Bearer")), Some(true));
            bodies.push(answer.text);
            assert_eq!(nobody.get("/v1/nothing/here").await.status, StatusCode::NOT_FOUND);
        }
        bodies.dedup();
        assert_eq!(bodies.len(), 1, "every wrong key looks the same");
        // A body that never ends is not waited for.
        let client = reqwest::Client::new();
        let endless = futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>();
        let request = client.post(format!("{url}/v1/runs")).body(reqwest::Body::wrap_stream(endless));
        let answer = tokio::time::timeout(std::time::Duration::from_secs(5), request.send()).await.expect("at once");
        assert_eq!(answer.expect("answered").status(), StatusCode::UNAUTHORIZED);
    });
}

#[test]
fn bodies_that_are_not_what_they_should_be_are_refused_and_store_nothing() {
    run(async {
        let server = shared().await;
        let ann = server.stranger().await;
        let deep = format!(r#"{{"agent":"echo","input":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        let bodies = [
            "",
            "{",
            "null",
            "[]",
            r#"["echo", 1]"#,
            r#""echo""#,
            r#"{"agent":"echo"}"#,
            r#"{"input":1}"#,
            r#"{"agent":1,"input":1}"#,
            r#"{"agent":"echo","input":1,"more":1}"#,
            r#"{"agent":"echo","input":1,"agent":"echo"}"#,
            r#"{"agent":"echo","input":1} x"#,
            r#"{"agent":"echo","input":1,"limits":{"fuel":"many"}}"#,
            r#"{"agent":"echo","input":1,"limits":{"fuel":-1}}"#,
            r#"{"agent":"echo","input":1,"limits":{"fuel":1.5e9}}"#,
            r#"{"agent":"echo","input":1,"limits":{"wishes":3}}"#,
            r#"{"agent":"echo","input":1,"limits":[1]}"#,
            r#"{"agent":"echo","input":1,"thread_id":"../x"}"#,
            r#"{"agent":"echo","input":1,"thread_id":""}"#,
            r#"{"agent":"echo","input":1,"metadata":[]}"#,
            r#"{"agent":"echo","input":1,"metadata":"x"}"#,
            "\u{feff}{}",
            &deep,
        ];
        for body in bodies {
            let request = ann.request(Method::POST, "/v1/runs").header("content-type", "application/json");
            let answer = Answer::of(request.body(body.to_owned()).send().await.expect("answered")).await;
            let shown: String = body.chars().take(80).collect();
            assert!(answer.status.is_client_error(), "{shown}: {} {}", answer.status, answer.text);
            assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{shown}");
        }
        let invalid = ann.request(Method::POST, "/v1/runs").header("content-type", "application/json");
        let answer = invalid.body(b"{\"agent\":\"echo\",\"input\":\"\xff\"}".to_vec()).send().await.expect("answered");
        assert!(answer.status().is_client_error());
        let plain = ann.request(Method::POST, "/v1/runs").header("content-type", "text/plain");
        let answer = plain.body(r#"{"agent":"echo","input":1}"#).send().await.expect("answered");
        assert_eq!(answer.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
        assert_eq!(ann.get("/v1/runs").await.is(StatusCode::OK)["runs"], json!([]), "nothing was stored");
    });
}

#[test]
fn sizes_have_limits_with_their_own_answer() {
    run(async {
        let ann = shared().await.stranger().await;
        let of = |bytes: usize| json!({"agent": "echo", "input": "x".repeat(bytes - 2)});
        let at = ann.post("/v1/runs", &of(4 << 20)).await;
        assert_eq!(at.status, StatusCode::ACCEPTED, "{}", at.text);
        ann.post("/v1/runs", &of((4 << 20) + 1)).await.problem(413, "input_too_large");
        assert_eq!(ann.post("/v1/runs", &of(40 << 20)).await.status, StatusCode::PAYLOAD_TOO_LARGE);
        let metadata = |bytes: usize| json!({"agent": "echo", "input": 1, "metadata": {"k": "x".repeat(bytes)}});
        assert_eq!(ann.post("/v1/runs", &metadata((16 << 10) - 8)).await.status, StatusCode::ACCEPTED);
        ann.post("/v1/runs", &metadata(16 << 10)).await.problem(422, "invalid_metadata");
    });
}

#[test]
fn routes_methods_and_queries_that_do_not_exist_are_problems_too() {
    run(async {
        let server = shared().await;
        let ann = server.stranger().await;
        assert_eq!(ann.get("/v1/nothing").await.problem(404, "unknown_route")["title"], "Not Found");
        let answer = ann.send(Method::DELETE, "/v1/runs", None).await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        for path in [
            "/v1/runs?limit=0",
            "/v1/runs?limit=101",
            "/v1/runs?limit=-1",
            "/v1/runs?status=happy",
            "/v1/runs?after=x",
            "/v1/runs?agent=A",
            "/v1/runs?thread_id=%2F",
            "/v1/runs?what=ever",
            "/v1/runs?limit=1&limit=2",
        ] {
            let answer = ann.get(path).await;
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path}: {}", answer.text);
        }
        for id in ["x", "run_", "run_zz", "..", "%2e%2e", "RUN_00000000000070008000000000000000"] {
            assert_eq!(ann.get(&format!("/v1/runs/{id}")).await.status, StatusCode::NOT_FOUND, "{id}");
        }
        for user in [
            json!({"user": "../x"}),
            json!({"user": ""}),
            json!({"user": 1}),
            json!({}),
            json!({"user": "a", "role": "god"}),
        ] {
            let answer = server.operator.post("/v1/keys", &user).await;
            assert!(answer.status.is_client_error(), "{user}: {}", answer.text);
        }
        assert_eq!(ann.post("/v1/keys", &json!({"user": "ann"})).await.status, StatusCode::FORBIDDEN);
        assert_eq!(
            server.operator.post("/v1/runs", &json!({"agent": "echo", "input": 1})).await.status,
            StatusCode::FORBIDDEN
        );
        for path in ["..%2f..%2fetc%2fpasswd", "%2e%2e/x", "a%00b", "a//b"] {
            let answer = ann.get(&format!("/v1/files/{path}")).await;
            assert!(answer.status.is_client_error(), "{path}: {}", answer.status);
        }
        assert_eq!(server.app.panics(), 0);
    });
}

#[test]
fn a_cursor_that_is_said_twice_or_is_not_the_callers_is_refused() {
    run(async {
        let server = shared().await;
        let (ann, bob) = (server.stranger().await, server.stranger().await);
        let mut runs = Vec::new();
        for n in 0..3 {
            runs.push(ann.finish(&json!({"agent": "echo", "input": n})).await["id"].clone());
        }
        let first = runs[0].as_str().expect("an id");
        let cursor = ann.get("/v1/events").await.is(StatusCode::OK)["next_after"].clone();
        for (path, seen) in
            [(format!("/v1/runs/{first}/events"), "1"), ("/v1/events".into(), cursor.as_str().expect("one"))]
        {
            for twice in [[seen, seen], ["", seen], [seen, ""], [seen, "x"]] {
                let request = ann.request(Method::GET, &path).header("accept", "text/event-stream");
                let request = twice.iter().fold(request, |request, seen| request.header("last-event-id", *seen));
                Answer::of(request.send().await.expect("answered")).await.problem(400, "invalid_cursor");
            }
        }
        // Pages of runs: a place is what a page gave, to this user, whatever has become of the run there.
        let page = ann.get("/v1/runs?limit=2").await.is(StatusCode::OK);
        let next = page["next_after"].as_str().expect("more");
        let rest = ann.get(&format!("/v1/runs?after={next}")).await.is(StatusCode::OK);
        assert_eq!((&rest["runs"][0]["id"], rest["next_after"].is_null()), (&runs[0], true), "{rest}");
        bob.get(&format!("/v1/runs?after={next}")).await.problem(400, "invalid_cursor");
        for after in [first, "run_ffffffffffffffffffffffffffffffff", "", &format!("{next}0"), &next.replace('.', "")] {
            bob.get(&format!("/v1/runs?after={after}")).await.problem(400, "invalid_cursor");
            ann.get(&format!("/v1/runs?after={after}")).await.problem(400, "invalid_cursor");
        }
    });
}
