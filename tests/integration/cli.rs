//! The command line, as its users type it.

use crate::{
    process::Process,
    server::{guest_path, run, worker},
};
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::{
    process::{Output, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines},
    net::{TcpListener, TcpStream},
    process::{Child, ChildStdout, Command},
};

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn json_of(output: &Output) -> Value {
    let text = stdout(output);
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn the_walk_from_push_to_result_works_by_command_line_alone() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        let server = Process::serve(dir.path()).await;
        let probe = guest_path("probe");
        let pushed = server.cofferdam(&["plugin", "push", "probe", probe.to_str().unwrap(), "--json"]).await;
        assert_eq!(json_of(&pushed)["name"], "probe");
        let listed = json_of(&server.cofferdam(&["plugin", "list", "--json"]).await);
        assert!(listed.to_string().contains("probe"), "{listed}");
        let inspected = json_of(&server.cofferdam(&["plugin", "inspect", "probe", "--json"]).await);
        assert!(inspected.to_string().contains("file.*"), "{inspected}");
        let granted = server.cofferdam(&["grant", "set", "dev", "probe", r#"{"tools":["file.*"]}"#, "--json"]).await;
        assert!(granted.status.success(), "{}", String::from_utf8_lossy(&granted.stderr));
        let grant = json_of(&server.cofferdam(&["grant", "get", "dev", "probe", "--json"]).await);
        assert!(grant.to_string().contains("file.*"), "{grant}");

        let file = dir.path().join("local.txt");
        std::fs::write(&file, "from here").expect("written");
        stdout(&server.cofferdam(&["files", "put", file.to_str().unwrap(), "in.txt"]).await);
        let input = r#"{"do":"seq","steps":[{"do":"thinking","text":"hm"},{"do":"file_read","path":"in.txt"}]}"#;
        let followed = stdout(&server.cofferdam(&["runs", "submit", "probe", "--input", input, "--follow"]).await);
        let first = followed.lines().next().expect("a line");
        let id = first.strip_prefix("run ").and_then(|rest| rest.split_whitespace().next()).expect("the id").to_owned();
        for word in
            ["agent_started", "agent_thinking", "tool_executing", "tool_completed", "agent_completed", "from here"]
        {
            assert!(followed.contains(word), "{word} in {followed}");
        }
        let run = json_of(&server.cofferdam(&["runs", "get", &id, "--json"]).await);
        assert_eq!(run["stop_reason"], "completed");
        assert!(stdout(&server.cofferdam(&["runs", "list"]).await).contains(&id));
        let events = stdout(&server.cofferdam(&["runs", "events", &id, "--json"]).await);
        assert!(events.contains("agent_completed"), "{events}");
        assert_eq!(stdout(&server.cofferdam(&["files", "get", "in.txt", "-"]).await), "from here");

        // Exit codes: 1 the run failed, 2 usage, 3 refused by the server.
        let failing = ["runs", "submit", "probe", "--input", r#"{"do":"fail","code":"c","message":"m"}"#, "--follow"];
        assert_eq!(server.cofferdam(&failing).await.status.code(), Some(1));
        assert_eq!(server.cofferdam(&["runs", "submit", "probe"]).await.status.code(), Some(2));
        assert_eq!(server.cofferdam(&["no-such-verb"]).await.status.code(), Some(2));
        let low = server
            .cofferdam(&["runs", "submit", "probe", "--input", r#"{"do":"context"}"#, "--priority", "low", "--json"])
            .await;
        assert_eq!(json_of(&low)["priority"], "low");
        let wrong = server
            .cofferdam(&["runs", "submit", "probe", "--input", r#"{"do":"context"}"#, "--priority", "urgent"])
            .await;
        assert_eq!(wrong.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&wrong.stderr).contains("\"high\", \"normal\" or \"low\""));
        let refused = server.cofferdam(&["runs", "submit", "prob", "--input", "1"]).await;
        assert_eq!(refused.status.code(), Some(3));
        assert!(String::from_utf8_lossy(&refused.stderr).contains("probe"), "the nearest name is told");

        let slow =
            server.cofferdam(&["runs", "submit", "probe", "--input", r#"{"do":"sleep","ms":30000}"#, "--json"]).await;
        let slow = json_of(&slow)["id"].as_str().expect("an id").to_owned();
        let cancelled = json_of(&server.cofferdam(&["runs", "cancel", &slow, "--json"]).await);
        assert_eq!(cancelled["stop_reason"], "cancelled");
        assert_eq!(server.terminate().await, Some(0), "a drained server ends well");
    });
}

#[test]
fn what_an_operator_sets_is_told_old_and_new_with_what_is_next_and_as_json_whole() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        let server = Process::serve(dir.path()).await;
        let probe = guest_path("probe");
        stdout(&server.cofferdam(&["plugin", "push", "probe", probe.to_str().unwrap()]).await);
        // The lines of both outputs, with one space where there are several.
        let told = async |args: &[&str]| {
            let output = server.cofferdam(args).await;
            let all = format!("{}{}", stdout(&output), String::from_utf8_lossy(&output.stderr));
            all.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>()
        };
        let first = told(&["grant", "set", "dev", "probe", r#"{"tools":["file.*"],"state":"read"}"#]).await;
        let (more, lines) = first.split_last().expect("lines");
        assert_eq!(
            lines,
            ["granted probe for dev, from the next run on", "state none → read", r#"tools [] → ["file.*"]"#]
        );
        let all = more.split("next: it asks for more; all of it is: ").nth(1).unwrap_or_else(|| panic!("{more}"));
        let all =
            all.strip_prefix("cofferdam grant set dev probe '").and_then(|rest| rest.strip_suffix('\'')).expect(all);
        let second = told(&["grant", "set", "dev", "probe", all]).await;
        assert!(second.contains(&"state read → read_write".to_owned()), "{second:?}");
        assert_eq!(second.last().expect("a line"), "next: nothing; it is granted all that it asks for");
        assert_eq!(told(&["grant", "set", "dev", "probe", all]).await[1], "nothing changed");
        let whole = json_of(&server.cofferdam(&["grant", "set", "dev", "probe", all, "--json"]).await);
        assert_eq!(whole["grant"], whole["declared"]);

        let tier = r#"{"runs_at_once":20,"cpu_weight":300}"#;
        assert_eq!(
            told(&["tier", "set", "pro", tier]).await,
            [
                "set for tier pro, which was not there; on the left is what tier default has",
                "cpu_weight 100 → 300 (set here)",
                "runs_at_once 5 → 20 (set here)",
                r#"next: cofferdam quota set USER '{"tier": "pro"}' puts a user into it"#,
            ]
        );
        assert_eq!(
            told(&["quota", "set", "dev", r#"{"tier":"pro","runs_at_once":10}"#]).await,
            [
                "set for user dev",
                "tier default → pro",
                "cpu_weight 100 → 300",
                "runs_at_once 5 → 10 (set here)",
                "next: cofferdam quota get dev shows all that they may take",
            ]
        );
        let whole = json_of(&server.cofferdam(&["tier", "set", "pro", tier, "--json"]).await);
        assert_eq!((&whole["cpu_weight"], &whole["effective"]["runs_waiting"]), (&json!(300), &json!(1000)));
        // What is refused is refused, and nothing is said to have changed.
        let refused = server.cofferdam(&["quota", "set", "dev", r#"{"runs_at_once":21}"#]).await;
        assert_eq!((refused.status.code(), refused.stdout.len()), (Some(3), 0));
    });
}

#[test]
fn what_is_refused_is_told_with_the_verb_that_mends_it_and_with_json_as_the_server_says_it() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        let server = Process::serve(dir.path()).await;
        stdout(&server.cofferdam(&["tier", "set", "pro", r#"{"runs_at_once":20}"#]).await);
        let cases: [(&[&str], &[&str]); 11] = [
            (&["tier", "get", "plus"], &["the tiers are default, pro", "`cofferdam tier set NAME JSON` makes another"]),
            (
                &["quota", "set", "ann", r#"{"tier":"pro","runs_at_once":21}"#],
                &[
                    "runs_at_once is 21, but must be from 1 to 20, which is what tier \"pro\" allows",
                    "leave it out to have what the tier has",
                    "`cofferdam tier set NAME JSON` raises the tier",
                ],
            ),
            (
                &["quota", "set", "ann", r#"{"runs_at_once":0}"#],
                &["runs_at_once is 0", "from 1 to 5", "next:  give a value"],
            ),
            (&["quota", "set", "ann", r#"{"runs_at_once":"2"}"#], &["from 1 to 5", "without quotes"]),
            (&["quota", "set", "ann", r#"{"tier":"plus"}"#], &["`cofferdam tier set NAME JSON` makes it"]),
            (&["quota", "set", "ann", r#"{"runs":1}"#], &["there is no limit \"runs\"", "`cofferdam quota get USER`"]),
            (&["quota", "set", "ann", "{}", "--if-match", "x"], &["another version stands", "as --if-match"]),
            (
                &["runs", "submit", "nobody", "--input", "1"],
                &["`cofferdam plugin list`", "`cofferdam plugin push NAME FILE`"],
            ),
            (&["runs", "list", "--limit", "0"], &["limit is 0, but must be from 1 to 100", "`--help`"]),
            (&["runs", "list", "--after", "x"], &["leave it out to begin with the first"]),
            (&["grant", "set", "dev", "nobody", "{}"], &["there is no plugin \"nobody\"", "`cofferdam plugin list`"]),
        ];
        for (args, words) in cases {
            let refused = server.cofferdam(args).await;
            let told = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert_eq!((refused.status.code(), refused.stdout.len()), (Some(3), 0), "{args:?}: {told}");
            for word in words {
                assert!(told.contains(word), "{word:?} is not in {told}");
            }
            for word in ["/v1/", "openapi", "ETag"] {
                assert!(!told.contains(word), "{word:?} is in {told}");
            }
            let whole = server.cofferdam(&[args, &["--json"]].concat()).await;
            let problem: Value = serde_json::from_slice(&whole.stderr).expect("a problem document");
            assert!(problem["code"].is_string() && problem["status"].as_u64() > Some(399), "{problem}");
        }
        let whole = server.cofferdam(&["quota", "set", "ann", r#"{"tier":"plus"}"#, "--json"]).await;
        let problem: Value = serde_json::from_slice(&whole.stderr).expect("a problem document");
        assert_eq!(problem["hint"], "PUT /v1/tiers/{name} makes it");
        // What is no JSON is told before anything is sent.
        for args in
            [["quota", "set", "ann", "runs_at_once=2"], ["tier", "set", "pro", "[]"], ["grant", "set", "dev", "file.*"]]
        {
            let args = if args[0] == "grant" { vec!["grant", "set", "dev", "probe", "file.*"] } else { args.to_vec() };
            let wrong = server.cofferdam(&args).await;
            let told = String::from_utf8_lossy(&wrong.stderr).into_owned();
            assert_eq!(wrong.status.code(), Some(2), "{told}");
            assert!(told.contains("; write {\""), "{told}");
        }
    });
}

#[test]
fn a_push_over_a_name_says_what_it_stood_for_and_a_first_one_nothing() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        let server = Process::serve(dir.path()).await;
        let push = async |guest: &str, more: &[&str]| {
            let component = guest_path(guest);
            let args = ["plugin", "push", "mine", component.to_str().unwrap()];
            let pushed = server.cofferdam(&[&args, more].concat()).await;
            (stdout(&pushed), String::from_utf8_lossy(&pushed.stderr).into_owned())
        };
        let digest = |pushed: &str| pushed.split_whitespace().last().expect("a digest").to_owned();
        let (first, told) = push("probe", &[]).await;
        assert!(!told.contains("replaced"), "{told}");
        let probe = digest(&first);
        let (again, told) = push("probe", &[]).await;
        assert!(again.starts_with("was there already: mine ") && !told.contains("replaced"), "{again}{told}");
        let (second, told) = push("echo", &[]).await;
        let echo = digest(&second);
        let replaced =
            format!("replaced mine 0.1.0 {probe} → 0.1.0 {echo}; who asks for mine@{probe} gets the one before\n");
        assert!(told.starts_with(&replaced), "{told}");
        assert!(told.contains("note: the one before calls itself probe, and this one echo;"), "{told}");
        // It does, as it is told.
        let before =
            ["runs", "submit", &format!("mine@{probe}"), "--input", r#"{"do":"context"}"#, "--wait", "30", "--json"];
        assert_eq!(json_of(&server.cofferdam(&before).await)["digest"], json!(probe));
        let (back, told) = push("probe", &[]).await;
        assert!(back.starts_with("was there already: mine "), "{back}");
        assert!(told.starts_with(&format!("replaced mine 0.1.0 {echo} → 0.1.0 {probe};")), "{told}");
        let (whole, told) = push("echo", &["--json"]).await;
        assert_eq!((whole.lines().count(), told.as_str()), (1, ""));
    });
}

#[test]
fn a_local_run_says_what_there_is_and_how_more_is_granted() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        let probe = guest_path("probe");
        let local = async |args: &[&str]| {
            let mut command = Command::new(worker());
            command.arg("run").arg(&probe).args(args).env("XDG_CACHE_HOME", dir.path().join("cache"));
            let output = command.output().await.expect("run");
            let all = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert!(!all.contains("cofferdam grant set"), "there is no operator here: {all}");
            (output.status.code(), all)
        };
        let call = |tool: &str| format!(r#"{{"do":"must_call","name":"{tool}","args":{{}}}}"#);
        let (code, told) = local(&["--input", &call("file.list")]).await;
        assert_eq!(code, Some(1), "{told}");
        assert!(told.contains(r#"grant it with --grant '{"tools":["file.list"],"#), "{told}");
        // What is next is enough, typed as it stands.
        let all = told.split("next: it asks for more than it was granted; all of it is: --grant '").nth(1);
        let all = all.and_then(|rest| rest.split('\'').next()).unwrap_or_else(|| panic!("{told}"));
        let (code, told) = local(&["--input", &call("file.list"), "--grant", all]).await;
        assert_eq!(code, Some(0), "{told}");

        let (code, told) = local(&["--input", &call("units.convert"), "--grant", all]).await;
        assert_eq!(code, Some(1), "{told}");
        assert!(told.contains("there is no tool \"units.convert\"; without a server there are only"), "{told}");
        assert!(told.contains("file.*, and what a case of `cofferdam test` answers for in \"tools\""), "{told}");
        let (_, told) = local(&["--input", &call("file.lst"), "--grant", all]).await;
        assert!(told.contains("the nearest that this run may call is \"file.list\""), "{told}");
        let children = r#"{"do":"children","specs":[{"agent":"analyst","input":1}]}"#;
        let (code, told) = local(&["--input", children, "--grant", all]).await;
        assert_eq!(code, Some(0), "{told}");
        assert!(told.contains("an agent can start only itself, as") && told.contains("answers for in"), "{told}");

        // Where the plugin does not declare it, no grant helps, and none is proposed.
        let (_, told) = local(&["--input", &call("mail.send"), "--grant", r#"{"tools":["*"]}"#]).await;
        assert!(told.contains("add it to the plugin's needs, and build and push it again"), "{told}");
        assert!(!told.contains("next: it asks for more"), "{told}");
        let (code, told) = local(&["--input", r#"{"does":1}"#]).await;
        assert_eq!(code, Some(1), "{told}");
        assert!(
            told.contains("next: `cofferdam inspect ") && told.contains(" shows the schema of its input"),
            "{told}"
        );
    });
}

#[test]
fn help_says_what_is_at_each_address_and_what_a_name_can_be() {
    run(async {
        let help = async |args: &[&str]| {
            let output = Command::new(worker()).args(args).output().await.expect("run");
            stdout(&output).split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let serve = help(&["serve", "--help"]).await;
        for word in ["/livez and /readyz (health)", "/streams (sockets)", "/metrics (Prometheus)", "127.0.0.1:8081"] {
            assert!(serve.contains(word), "{word:?} is not in {serve}");
        }
        let new = help(&["new", "--help"]).await;
        assert!(new.contains("1 to 64 characters of a-z, 0-9 and '-', the first a letter, the last not '-'"), "{new}");
    });
}

/// A way to the server that breaks so many connections just when the server answers.
async fn breaking(server: &str, mut breaks: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let server = server.strip_prefix("http://").expect("a URL").to_owned();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut upstream = TcpStream::connect(&server).await.expect("the server is there");
            if breaks == 0 {
                tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut upstream).await });
                continue;
            }
            breaks -= 1;
            let (mut from_client, _to_client) = client.split();
            let (mut from_server, mut to_server) = upstream.split();
            tokio::select! {
                // The request has been taken once there is something of an answer.
                read = from_server.read_u8() => assert!(read.is_ok(), "{read:?}"),
                copied = tokio::io::copy(&mut from_client, &mut to_server) => panic!("the client hung up: {copied:?}"),
            }
        }
    });
    url
}

#[test]
fn a_submission_whose_connection_breaks_is_sent_once_more_and_made_once() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        let server = Process::serve(dir.path()).await;
        let echo = guest_path("echo");
        stdout(&server.cofferdam(&["plugin", "push", "echo", echo.to_str().unwrap()]).await);
        let submit = async |url: &str, more: &[&str]| {
            let mut command = Command::new(worker());
            command.args(["runs", "submit", "echo", "--input", "1", "--json"]).args(more);
            command.env("COFFERDAM_URL", url).env("COFFERDAM_API_KEY", server.text("api_key"));
            command.output().await.expect("run")
        };
        let count = async || {
            let page = server.dev().get("/v1/runs").await.json();
            page["runs"].as_array().expect("runs").len()
        };
        let first = json_of(&submit(&breaking(server.text("url"), 1).await, &[]).await);
        assert_eq!(count().await, 1, "it was sent twice and made once");

        // A line that breaks again and again: the client says so, and how to go on without doing anything twice.
        let failed = submit(&breaking(server.text("url"), 9).await, &[]).await;
        assert_eq!(failed.status.code(), Some(4));
        let told = String::from_utf8_lossy(&failed.stderr).into_owned();
        let key = told.split("--idempotency-key '").nth(1).and_then(|rest| rest.split('\'').next()).expect(&told);
        assert_eq!(count().await, 2);
        let second = json_of(&submit(server.text("url"), &["--idempotency-key", key]).await);
        assert_eq!(count().await, 2, "sent again as told, it was not made again");
        assert_ne!(first["id"], second["id"]);

        // A key of one's own, whatever is in it.
        for key in ["mine", "\"mine\\"] {
            let args = ["--idempotency-key", key];
            let (a, b) = (submit(server.text("url"), &args).await, submit(server.text("url"), &args).await);
            let (a, b) = (json_of(&a), json_of(&b));
            assert_eq!(a["id"], b["id"]);
        }
        assert_eq!(count().await, 4);
        let other = ["runs", "submit", "echo", "--input", "2", "--idempotency-key", "mine"];
        let refused = server.cofferdam(&other).await;
        assert_eq!(refused.status.code(), Some(3));
        assert!(String::from_utf8_lossy(&refused.stderr).contains("idempotency_key_reused"));
        let bad = server.cofferdam(&["runs", "submit", "echo", "--input", "1", "--idempotency-key", "a b"]).await;
        assert_eq!(bad.status.code(), Some(2));
    });
}

#[test]
fn run_needs_no_server_and_has_the_same_limits_and_output() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("in.txt"), "from a directory").expect("written");
        let probe = guest_path("probe");
        let local = async |args: &[&str]| {
            let mut command = Command::new(worker());
            command.arg("run").arg(&probe).args(args).env("XDG_CACHE_HOME", dir.path().join("cache"));
            command.output().await.expect("run")
        };
        let budget = local(&["--input", r#"{"do":"budget"}"#, "--json"]).await;
        let run = json_of(&budget);
        assert_eq!((&run["stop_reason"], &run["output"]["tool_calls"]), (&json!("completed"), &json!(1_000)));
        let workspace = dir.path().to_str().unwrap();
        let read = r#"{"do":"must_call","name":"file.read","args":{"path":"in.txt"}}"#;
        let denied = local(&["--input", read, "--workspace", workspace]).await;
        assert_eq!(denied.status.code(), Some(1), "nothing is granted that was not said");
        let grant = ["--grant", r#"{"tools":["file.read"]}"#];
        let granted = local(&[&["--input", read, "--workspace", workspace, "--json"][..], &grant].concat()).await;
        assert_eq!(json_of(&granted)["output"]["text"], "from a directory");
        let spinning = local(&["--input", r#"{"do":"sleep","ms":60000}"#, "--deadline-ms", "100", "--json"]).await;
        assert_eq!(spinning.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&spinning.stdout).contains("deadline"));
    });
}

/// A verb that goes on, and the lines it prints.
struct Going {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Going {
    fn start(server: &Process, args: &[&str]) -> Self {
        let mut command = server.command(args);
        let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("started");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Self { child, lines }
    }

    async fn line(&mut self) -> Option<Value> {
        let line = tokio::time::timeout(Duration::from_secs(30), self.lines.next_line()).await;
        let line = line.expect("a line within the time").expect("text")?;
        Some(serde_json::from_str(&line).expect("JSON"))
    }
}

#[test]
fn events_are_followed_over_a_restart_of_the_server() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        let mut server = Process::serve(dir.path()).await;
        let (operator, dev) = (server.operator(), server.dev());
        operator.push("probe", crate::server::guest("probe")).await.is(StatusCode::CREATED);
        let steps: Vec<_> = (0..3).map(|n| json!({"do": "thinking", "text": format!("step {n}")})).collect();
        let slow = [&steps[..], &[json!({"do": "sleep", "ms": 50_000})]].concat();
        let id = dev.submit(&json!({"agent": "probe", "input": {"do": "seq", "steps": slow}})).await;
        let mut one = Going::start(&server, &["runs", "events", &id, "--follow", "--json"]);
        let mut all = Going::start(&server, &["events", "--follow", "--json"]);
        for seq in 1..=4 {
            assert_eq!(one.line().await.expect("an event")["seq"], seq);
            assert_eq!(all.line().await.expect("an event")["event"]["seq"], seq);
        }
        // For people: when the server goes away, it says that it waits, and for how long.
        let mut told = server.command(&["runs", "events", &id, "--follow"]);
        let mut told = told.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn().expect("started");
        let mut seen = BufReader::new(told.stdout.take().expect("a pipe")).lines();
        for _ in 0..4 {
            seen.next_line().await.expect("text").expect("an event");
        }
        let address = server.text("url").strip_prefix("http://").expect("HTTP").to_owned();
        // Longer than the first pause before it is taken up again.
        tokio::time::sleep(Duration::from_millis(500)).await;
        server.kill().await;
        let mut notes = BufReader::new(told.stderr.take().expect("a pipe")).lines();
        let note = tokio::time::timeout(Duration::from_secs(30), notes.next_line()).await.expect("it says something");
        let note = note.expect("text").expect("a line");
        assert!(note.contains("broke off") && note.contains("120 s") && note.contains(&address), "{note}");
        drop(told);
        let server = Process::serve_at(dir.path(), &address).await;
        let dev = server.dev();
        let last = one.line().await.expect("the end");
        assert_eq!((&last["seq"], &last["payload"]["stop_reason"]), (&json!(5), &json!("host_shutdown")));
        assert!(one.line().await.is_none(), "nothing comes twice");
        assert!(one.child.wait().await.expect("ended").success());
        assert_eq!(all.line().await.expect("the end")["event"], last);
        let next = dev.submit(&json!({"agent": "probe", "input": {"do": "seq", "steps": steps}})).await;
        let mut cursor = Value::Null;
        for seq in 1..=5 {
            let line = all.line().await.expect("an event");
            assert_eq!((&line["event"]["seq"], &line["event"]["run_id"]), (&json!(seq), &json!(next)));
            cursor = if seq == 2 { line["cursor"].clone() } else { cursor };
        }
        // What there is can be read on from any cursor, for people, too.
        let rest = stdout(&server.cofferdam(&["events", "--after", cursor.as_str().expect("a cursor")]).await);
        assert_eq!(rest.lines().count(), 3, "{rest}");
        assert!(rest.lines().all(|line| line.starts_with(&next)), "{rest}");
        let whole = stdout(&server.cofferdam(&["events", "--json"]).await);
        assert_eq!(whole.lines().count(), 10, "{whole}");
        // A server that was never there is not waited for.
        drop(server);
        let mut command = Command::new(worker());
        command.args(["runs", "events", &next, "--follow"]).env("COFFERDAM_URL", format!("http://{address}"));
        let gone = command.env("COFFERDAM_API_KEY", &dev.key).output().await.expect("run");
        assert_eq!(gone.status.code(), Some(4));
    });
}

#[test]
fn doctor_says_whether_the_server_knows_the_keys() {
    run(async {
        let dir = tempfile::tempdir().expect("a directory");
        let server = Process::serve(dir.path()).await;
        let state = async |variable: &str, key: Option<&str>| {
            let mut command = server.command(&["doctor", "--json"]);
            let output = if let Some(key) = key { command.env(variable, key) } else { &mut command }.output().await;
            let checks = stdout(&output.expect("run"));
            let checks = checks.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
            let of_it: Vec<_> = checks.filter(|check| check["what"] == variable).collect();
            (of_it[0]["state"].clone(), of_it[0]["found"].clone())
        };
        let strange = format!("cof_{}", "A".repeat(43));
        for variable in ["COFFERDAM_API_KEY", "COFFERDAM_ADMIN_KEY"] {
            assert_eq!(state(variable, None).await, (json!("ok"), json!("set")));
            let unknown = json!("set, and the server does not know it");
            assert_eq!(state(variable, Some(&strange)).await, (json!("missing"), unknown));
        }
    });
}

#[test]
fn errors_say_what_to_do_next() {
    run(async {
        let command = async |args: &[&str], key: &str| {
            let mut command = Command::new(worker());
            command.args(args).env("COFFERDAM_URL", "http://127.0.0.1:9").env("COFFERDAM_API_KEY", key);
            let output = command.output().await.expect("run");
            (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        let (code, text) = command(&["runs", "list"], &format!("cof_{}", "A".repeat(43))).await;
        assert_eq!(code, Some(4), "{text}");
        assert!(text.contains("cofferdam serve"), "{text}");
        let (code, text) = command(&["run", "/no/such/file.wasm", "--input", "1"], "").await;
        assert_ne!(code, Some(0));
        assert!(text.contains("/no/such/file.wasm"), "{text}");
    });
}
