//! An author's loop, as one types it: new, build, test, dev, inspect, doctor, for a folder that knows nothing of this checkout.

use crate::{
    process::Process,
    server::{guest_path, run, shared, worker},
};
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Agents that tests make share what cargo builds, so that the SDK is compiled once; and the toolchains of the other languages
/// are those that `cargo xtask guests` has installed.
pub fn cargo_target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("a target directory").join("author")
}

/// `cofferdam` in a folder.
pub fn cofferdam(dir: &Path, args: &[&str]) -> Output {
    command(dir, args).output().expect("run")
}

fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(worker());
    command.args(args).current_dir(dir).env("CARGO_TARGET_DIR", cargo_target()).stdin(Stdio::null());
    for name in ["COFFERDAM_URL", "COFFERDAM_API_KEY", "COFFERDAM_ADMIN_KEY"] {
        command.env_remove(name);
    }
    command
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn all_of(output: &Output) -> String {
    format!("{}\n{}{}", output.status, text(&output.stdout), text(&output.stderr))
}

/// The lines of standard output, each of them JSON.
pub fn lines(output: &Output) -> Vec<Value> {
    let text = text(&output.stdout);
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

pub fn succeeds(output: &Output) {
    assert!(output.status.success(), "{}", all_of(output));
}

/// It ended with this code, and said all of these words.
fn fails(output: &Output, code: i32, words: &[&str]) {
    let all = all_of(output);
    assert_eq!(output.status.code(), Some(code), "{all}");
    for word in words {
        assert!(all.contains(word), "{word:?} is not in\n{all}");
    }
}

/// A new project. Its name is its own: of two crates with one name in one target directory, cargo leaves the component that
/// was linked last, whoever reads it.
pub fn new(lang: &str, template: &str) -> (TempDir, PathBuf) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("agent-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let dir = tempfile::tempdir().expect("a directory");
    succeeds(&cofferdam(dir.path(), &["new", &name, "--lang", lang, "--template", template]));
    let project = dir.path().join(name);
    (dir, project)
}

pub fn build(project: &Path) -> PathBuf {
    let built = cofferdam(project, &["build", "--json"]);
    succeeds(&built);
    PathBuf::from(lines(&built)[0]["component"].as_str().expect("a component"))
}

const TEMPLATES: [&str; 4] = ["basic", "data", "collaborative", "tool"];

/// Every template, in one language: built, its cases pass, and inspected.
fn templates_of(lang: &str) {
    for template in TEMPLATES {
        let (_dir, project) = new(lang, template);
        let tested = cofferdam(&project, &["test", "--json"]);
        succeeds(&tested);
        let cases = lines(&tested);
        assert!(cases.len() >= 2, "{lang} {template}: {cases:?}");
        for case in &cases {
            assert!(case["ok"] == true && case["fuel"].as_u64() > Some(0), "{lang} {template}: {case}");
            assert!(case["memory_peak_bytes"].as_u64() > Some(0), "{lang} {template}: {case}");
        }
        assert!(
            template == "tool" || cases.iter().any(|case| case["stop_reason"] == "completed"),
            "{lang} {template}: {cases:?}"
        );
    }
}

#[test]
fn every_rust_template_builds_and_its_cases_pass() {
    templates_of("rust");
}

#[test]
fn every_python_template_builds_and_its_cases_pass() {
    templates_of("python");
}

#[test]
fn every_javascript_template_builds_and_its_cases_pass() {
    templates_of("javascript");
}

#[test]
fn the_same_run_takes_the_same_fuel_here_and_on_the_server() {
    run(async {
        let server = shared().await;
        let (_dir, project) = new("rust", "basic");
        let component = build(&project);
        let local = cofferdam(
            &project,
            &[
                "run",
                component.to_str().expect("UTF-8"),
                "--input",
                r#"{"name":"Ada"}"#,
                "--grant",
                r#"{"state":"read_write"}"#,
                "--json",
            ],
        );
        succeeds(&local);
        let local = lines(&local).pop().expect("a run");
        let tested = lines(&cofferdam(&project, &["test", "--case", "greets", "--json"])).pop().expect("a case");

        server.operator.push("same-fuel", fs::read(&component).expect("a component")).await.is(StatusCode::CREATED);
        let user = server.stranger().await;
        server.grant(&user, "same-fuel", &json!({"state": "read_write"})).await;
        let remote = user.finish(&json!({"agent": "same-fuel", "input": {"name": "Ada"}})).await;
        assert_eq!(remote["stop_reason"], "completed", "{remote}");
        assert_eq!(remote["output"], local["output"]);
        assert_eq!(remote["usage"]["fuel"], local["usage"]["fuel"]);
        assert_eq!(remote["usage"]["fuel"], tested["fuel"]);
        assert_eq!(remote["usage"]["memory_peak_bytes"], tested["memory_peak_bytes"]);
    });
}

#[test]
fn an_expectation_that_is_wrong_is_shown_and_a_case_that_cannot_be_read_is_named_with_its_line() {
    let (_dir, project) = new("rust", "basic");
    let greets = project.join("tests/greets.json");
    let right = fs::read_to_string(&greets).expect("a case");
    fs::write(&greets, right.replace("Hello, Ada!", "Hello, Bob!")).expect("written");
    let wrong = cofferdam(&project, &["test"]);
    fails(
        &wrong,
        1,
        &["FAIL  greets", "output/greeting:", "- \"Hello, Bob!\"", "+ \"Hello, Ada!\"", "4 cases, 1 failed"],
    );
    let told = cofferdam(&project, &["test", "--case", "greets", "--json"]);
    fails(&told, 1, &[]);
    let told = lines(&told);
    assert_eq!(
        told[0]["differences"][0],
        json!({"at": "output/greeting", "expected": "Hello, Bob!", "found": "Hello, Ada!"})
    );

    fs::write(&greets, right.replace("\"expect\"", "\"expects\"")).expect("written");
    fails(&cofferdam(&project, &["test"]), 2, &["greets.json:3: ", "unknown field `expects`"]);
    fs::write(&greets, &right).expect("written");
    fails(&cofferdam(&project, &["test", "--case", "nothing-like-it"]), 2, &["has no case with \"nothing-like-it\""]);
    fs::remove_dir_all(project.join("tests")).expect("removed");
    fails(&cofferdam(&project, &["test"]), 2, &["there is no folder", "tests/NAME.json"]);
}

/// What stands around an agent in a case: tools, people, agents, limits.
#[test]
fn a_case_stands_in_for_tools_people_and_agents() {
    let dir = tempfile::tempdir().expect("a directory");
    let probe = guest_path("probe");
    let case = |name: &str, case: &Value| {
        fs::create_dir_all(dir.path().join("tests")).expect("made");
        fs::write(dir.path().join(format!("tests/{name}.json")), case.to_string()).expect("written");
        let tested =
            cofferdam(dir.path(), &["test", "--component", probe.to_str().expect("UTF-8"), "--case", name, "--json"]);
        (tested.status.code(), lines(&tested).pop().unwrap_or_else(|| json!(all_of(&tested))))
    };
    let passes = |name: &str, expected: &Value| {
        let (code, told) = case(name, expected);
        assert_eq!(code, Some(0), "{name}: {told}");
    };
    passes(
        "tools",
        &json!({
            "input": {"do": "seq", "steps": [
                {"do": "call", "name": "units.convert", "args": {"value": 1}},
                {"do": "call", "name": "units.convert", "args": {"value": 2}},
                {"do": "call", "name": "file.write", "args": {"path": "a.txt", "text": "written"}},
                {"do": "list_tools"},
            ]},
            "grant": {"tools": ["units.convert", "file.write"]},
            "tools": {"units.convert": [
                {"args": {"value": 2}, "error": {"kind": "not_found", "message": "no such unit"}},
                {"ok": {"value": 1.6}},
            ]},
            "expect": {
                "output": [
                    {"ok": {"value": 1.6}},
                    {"error": {"kind": "not_found", "text": "no such unit"}},
                    {"ok": {"bytes": 7}},
                    [
                        {"name": "file.write", "description": "Writes a file in the user's workspace, from text or base64, replacing it or adding to it. Replacing twice does no harm; adding twice adds twice.", "idempotent": true,
                         "input_schema": {"type":"object","properties":{"path":{"type":"string"},"text":{"type":"string"},"base64":{"type":"string"},"append":{"type":"boolean","default":false}},"required":["path"],"additionalProperties":false}},
                        {"name": "units.convert", "description": "", "idempotent": false, "input_schema": {"type": "object"}},
                    ],
                ],
                "events": [
                    {"type": "tool_executing", "payload": {"tool": "units.convert", "arguments": {"value": 1}}},
                    {"type": "tool_completed", "payload": {"tool": "units.convert", "error": {"code": "not_found"}}},
                ],
                "files": {"a.txt": "written"},
            },
        }),
    );
    passes(
        "people",
        &json!({
            "input": {"do": "seq", "steps": [
                {"do": "ask", "prompt": "Which?", "schema": {"type": "string"}},
                {"do": "ask", "prompt": "Anybody?", "expires_ms": 1000, "default": "nobody"},
            ]},
            "answers": ["this"],
            "expect": {"output": [{"ok": "this"}, {"ok": "nobody"}], "events": [{"type": "run_waiting"}, {"type": "run_waiting"}]},
        }),
    );
    passes(
        "state",
        &json!({
            "input": {"do": "seq", "steps": [
                {"do": "state_get", "scope": "thread", "key": "k"},
                {"do": "state_set", "scope": "user", "key": "k", "text": "\"new\""},
            ]},
            "state": {"thread/k": {"a": 1}, "user/k": "old"},
            "expect": {"state": {"user/k": "new", "thread/k": {"a": 1}, "thread/other": null}},
        }),
    );
    passes(
        "agents",
        &json!({
            "input": {"do": "children", "specs": [
                {"agent": "one", "input": 1}, {"agent": "two", "input": 2}, {"agent": "one", "input": 3}, {"agent": "none"},
            ]},
            "agents": {"one": [{"input": 3, "ok": "three"}, {"ok": "first"}], "two": [{"error": {"stop_reason": "deadline", "message": "late"}}]},
            "expect": {"stop_reason": "completed"},
        }),
    );
    passes(
        "limits",
        &json!({
            "input": {"do": "sleep", "ms": 5000}, "limits": {"deadline_ms": 100}, "expect": {"stop_reason": "deadline"},
        }),
    );
    passes(
        "denied",
        &json!({
            "input": {"do": "must_call", "name": "file.list"}, "grant": {}, "expect": {"error": {"code": "denied"}},
        }),
    );

    // A grant that is too small is told with where it stands and what would do, however the agent takes it.
    let all_of_it =
        r#"tests/small-grant.json has; all that it needs is: "grant": {"tools":["effects.*","file.*","units.*"]"#;
    for input in [
        json!({"do": "must_call", "name": "file.list"}),
        json!({"do": "call", "name": "file.list"}),
        json!({"do": "state_get", "scope": "user", "key": "k"}),
    ] {
        let small = json!({"input": input, "grant": {}, "expect": {"output": "all is well"}});
        let (code, told) = case("small-grant", &small);
        assert!(code == Some(1) && told["next"].as_str().is_some_and(|next| next.contains(all_of_it)), "{told}");
    }
    let shown =
        cofferdam(dir.path(), &["test", "--component", probe.to_str().expect("UTF-8"), "--case", "small-grant"]);
    fails(&shown, 1, &["FAIL  small-grant", "next: it asks for more than \"grant\" in ", all_of_it]);
    // Where it was not declared, a larger grant is of no use.
    let enough = json!({"input": {"do": "must_call", "name": "nobody.does"}, "grant": {"tools": ["*"]}, "expect": {}});
    let (code, told) = case("enough", &enough);
    assert!(code == Some(1) && told["next"].is_null(), "{told}");

    let (code, told) = case("nobody-answers", &json!({"input": {"do": "ask", "prompt": "Which?"}, "expect": {}}));
    assert_eq!(code, Some(1), "{told}");
    assert!(told.to_string().contains("there is no answer left for"), "{told}");
    let (code, told) = case(
        "no-answer-left",
        &json!({
            "input": {"do": "call", "name": "units.list"}, "tools": {"units.list": []}, "expect": {},
        }),
    );
    assert_eq!(code, Some(1), "{told}");
    assert!(told.to_string().contains("units.list is called with {}, and the case has no answer left"), "{told}");
    let (code, told) = case("waits-long", &json!({"input": {"do": "sleep_until", "in_ms": 3_600_000}, "expect": {}}));
    assert_eq!(code, Some(1), "{told}");
    assert!(told.to_string().contains("it waits for a time for longer than 10 s"), "{told}");
    let (code, told) = case(
        "misfit",
        &json!({
            "input": {"do": "ask", "prompt": "Which?", "schema": {"type": "string"}}, "answers": [7], "expect": {},
        }),
    );
    assert_eq!(code, Some(2), "{told}");
    assert!(told.to_string().contains("answer 1 is not taken"), "{told}");
}

#[test]
fn a_tool_plugin_is_called_here_and_now() {
    let dir = tempfile::tempdir().expect("a directory");
    let units = guest_path("units");
    let units = units.to_str().expect("UTF-8");
    let called =
        cofferdam(dir.path(), &["run", units, "--tool", "convert", "--input", r#"{"value":1,"from":"mi","to":"km"}"#]);
    succeeds(&called);
    assert!(text(&called.stdout).contains("1.609344"), "{}", all_of(&called));
    let failed =
        cofferdam(dir.path(), &["run", units, "--tool", "convert", "--input", r#"{"value":1,"from":"mi","to":"kg"}"#]);
    fails(&failed, 1, &["invalid_arguments"]);
    fails(&cofferdam(dir.path(), &["run", units, "--tool", "cook", "--input", "{}"]), 2, &["has no tool \"cook\""]);
    fails(
        &cofferdam(dir.path(), &["run", units, "--input", "{}"]),
        2,
        &["tool plugin", "give one of convert, list with --tool"],
    );
}

#[test]
fn inspect_says_what_a_component_needs_and_refuses_what_a_server_would() {
    let dir = tempfile::tempdir().expect("a directory");
    let probe = guest_path("probe");
    let probe = probe.to_str().expect("UTF-8");
    let inspected = cofferdam(dir.path(), &["inspect", probe, "--json"]);
    succeeds(&inspected);
    let inspected = &lines(&inspected)[0];
    assert_eq!(inspected["world"], "agent");
    assert_eq!(inspected["name"], "probe");
    assert_eq!(inspected["grant"]["tools"], json!(["effects.*", "file.*", "units.*"]));
    assert_eq!(inspected["grant"]["human"], true);
    assert_eq!(inspected["bytes"], fs::metadata(probe).expect("there").len());
    let imports = inspected["imports"].as_array().expect("imports");
    let marked = inspected["types_only_imports"].as_array().expect("imports");
    for (import, types_only) in [
        ("cofferdam:agent/tools@0.1.0", false),
        ("wasi:io/streams@0.2.6", false),
        ("cofferdam:agent/types@0.1.0", true),
        ("json", true),
    ] {
        assert!(imports.contains(&json!(import)), "{import} in {imports:?}");
        assert_eq!(marked.contains(&json!(import)), types_only, "{import} in {marked:?}");
    }
    assert!(inspected["input_schema"].is_object() && inspected["output_schema"] != Value::Null, "{inspected}");
    let shown = cofferdam(dir.path(), &["inspect", probe]);
    succeeds(&shown);
    // What it needs and what to type for it, before its schemas and the many imports.
    let shown = text(&shown.stdout);
    let at = |begin: &str| {
        shown.lines().position(|line| line.starts_with(begin)).unwrap_or_else(|| panic!("{begin}\n{shown}"))
    };
    let parts =
        ["name ", "version ", "needs ", "grant ", "bytes ", "input schema ", "output schema ", "import "].map(at);
    assert!(parts.is_sorted(), "{parts:?}\n{shown}");
    assert!(shown.contains("\ngrant         cofferdam grant set USER probe '{\"tools\":["), "{shown}");
    assert!(
        shown.contains("\nneeds         agents *; human; state read_write; tools effects.*, file.*, units.*;"),
        "{shown}"
    );
    // What can be done, and no types.
    let shown: Vec<_> = shown.lines().skip(at("import ")).collect();
    assert!(shown.iter().all(|line| line.starts_with("import ")), "{shown:?}");
    let of_ours = shown.iter().find(|line| line.contains("cofferdam:agent@0.1.0: ")).expect("a line");
    assert!(of_ours.contains(", tools") && !of_ours.contains(" types"), "{of_ours}");
    assert!(!shown.iter().any(|line| line.contains("json") || line.contains("terminal-input")), "{shown:?}");

    let hostile = dir.path().join("x.wasm");
    for (bytes, word) in [
        (&b"not wasm"[..], "not WebAssembly"),
        (b"\0asm\x01\0\0\0", "core WebAssembly module"),
        (b"\0asm\x0d\0\x01\0\xff\xff\xff\xff\xff", "[malformed]"),
    ] {
        fs::write(&hostile, bytes).expect("written");
        fails(&cofferdam(dir.path(), &["inspect", "x.wasm"]), 3, &[word]);
    }
    let mute = guest_path("mute-imports");
    fails(&cofferdam(dir.path(), &["inspect", mute.to_str().expect("UTF-8")]), 3, &["unknown_imports"]);
    fails(&cofferdam(dir.path(), &["inspect", "none.wasm"]), 2, &["there is no component none.wasm"]);
}

#[test]
fn a_trap_is_told_with_the_authors_own_functions() {
    let (_dir, project) = new("rust", "basic");
    let source = project.join("src/lib.rs");
    let code = fs::read_to_string(&source).expect("the code");
    let code = code.replace("        ctx.thinking(", "        count_letters(&input.name);\n        ctx.thinking(");
    let code =
        code + "\n#[inline(never)]\nfn count_letters(name: &str) {\n    assert!(name.len() > 9, \"too short\");\n}\n";
    fs::write(&source, code).expect("written");
    let component = build(&project);
    let trapped = cofferdam(&project, &["run", component.to_str().expect("UTF-8"), "--input", r#"{"name":"Ada"}"#]);
    fails(&trapped, 1, &["too short", "src/lib.rs:", "(trap)", "count_letters"]);
}

#[test]
fn mistakes_in_a_rust_project_are_told_with_their_place() {
    let (_dir, project) = new("rust", "basic");
    let source = project.join("src/lib.rs");
    let code = fs::read_to_string(&source).expect("the code");

    fs::write(&source, code.replace("ctx.thinking(", "ctx.thinking((")).expect("written");
    fails(&cofferdam(&project, &["build"]), 1, &["src/lib.rs:", "cargo could not build"]);
    fs::write(&source, code.replace("times })", "times: \"one\" })")).expect("written");
    fails(&cofferdam(&project, &["test"]), 1, &["src/lib.rs:", "mismatched types"]);
    fs::write(&source, code.replace("export_agent!(Greeter);", "")).expect("written");
    let component = build(&project);
    let component = component.to_str().expect("UTF-8");
    fails(&cofferdam(&project, &["inspect", component]), 3, &["exports no function \"describe\"", "export_agent!"]);
    fs::write(&source, &code).expect("written");

    let manifest = project.join("Cargo.toml");
    let whole = fs::read_to_string(&manifest).expect("a manifest");
    fs::write(&manifest, whole.replace("[lib]\ncrate-type = [\"cdylib\"]", "")).expect("written");
    fails(&cofferdam(&project, &["build"]), 1, &["makes no component", "crate-type"]);
    fs::write(&manifest, whole.replace("edition = ", "edition ")).expect("written");
    fails(&cofferdam(&project, &["build"]), 1, &["Cargo.toml:5: "]);
}

/// Each change to a project's files, and what a build then says.
fn mistakes(project: &Path, changes: &[(&str, &str, &str, &[&str])]) {
    for (file, from, to, words) in changes {
        let path = project.join(file);
        let whole = fs::read_to_string(&path).expect("a file");
        assert!(whole.contains(from), "{from:?} is not in {file}");
        fs::write(&path, whole.replacen(from, to, 1)).expect("written");
        fails(&cofferdam(project, &["build"]), 1, words);
        fs::write(&path, whole).expect("written");
    }
}

#[test]
fn mistakes_in_a_python_project_are_told_with_their_place() {
    let (_dir, project) = new("python", "basic");
    mistakes(
        &project,
        &[
            ("src/agent.py", "def run(", "def run((", &["cannot be built:\nsrc/agent.py:"]),
            ("src/agent.py", "@agent(", "@agnt(", &["src/agent.py:", "agnt"]),
            ("src/agent.py", "@agent(state=\"read_write\")\n", "", &["agent"]),
            ("src/agent.py", "name: str", "name: complex", &["src/agent.py", "complex"]),
            (
                "src/agent.py",
                "from cofferdam",
                "import no_such_package\nfrom cofferdam",
                &["src/agent.py:", "no_such_package"],
            ),
            ("pyproject.toml", "module = \"agent\"", "module = \"other\"", &["other"]),
            (
                "pyproject.toml",
                "world = \"agent\"",
                "world = \"robot\"",
                &["pyproject.toml:", "unknown variant `robot`"],
            ),
            (
                "pyproject.toml",
                "dependencies = []",
                "dependencies = [\"numpy==2.2.0\"]",
                &["`dependencies` of pyproject.toml"],
            ),
            ("pyproject.toml", "dependencies = []", "dependencies = [\"../x\"]", &["is not a package of an index"]),
        ],
    );
    // Modules of the project that are called like the tool's own never run outside of the sandbox.
    for name in ["componentize_py.py", "sitecustomize.py"] {
        fs::write(project.join(name), "open('ran', 'w')\nraise SystemExit(1)\n").expect("written");
    }
    succeeds(&cofferdam(&project, &["build"]));
    assert!(!project.join("ran").exists());
}

#[test]
fn mistakes_in_a_javascript_project_are_told_with_their_place() {
    let (_dir, project) = new("javascript", "basic");
    mistakes(
        &project,
        &[
            (
                "src/agent.js",
                "state: \"read_write\" },",
                "state: \"read_write\" }};",
                &["cannot be built:\nsrc/agent.js:"],
            ),
            (
                "src/agent.js",
                "export default agent(",
                "const it = agent(",
                &["src/agent.js", "no default export", "next: "],
            ),
            ("src/agent.js", "name === \"\"", "name === 7", &["src/agent.js:", "TS"]),
            (
                "src/agent.js",
                "import {",
                "import \"left-pad\";\nimport {",
                &["src/agent.js:", "left-pad", "npm install"],
            ),
            ("src/agent.js", "import {", "import \"node:fs\";\nimport {", &["src/agent.js:", "node:fs"]),
            ("package.json", "src/agent.js", "src/other.js", &["src/other.js"]),
            ("package.json", "src/agent.js", "../agent.js", &["not a file inside the project"]),
            ("package.json", "\"agent\",", "\"robot\",", &["package.json:8: unknown variant `robot`"]),
        ],
    );
    succeeds(&cofferdam(&project, &["build"]));
}

/// What somebody else's project may be made of, so that a build or a test reads or writes outside of it, or has no end.
#[test]
fn a_hostile_project_leads_nowhere_outside_of_itself() {
    let (dir, project) = new("javascript", "basic");
    let victim = dir.path().join("victim");
    fs::create_dir(&victim).expect("made");
    let precious = victim.join("precious.js");
    fs::write(&precious, "mine").expect("written");

    // A link among the build's own files is removed, and what it leads to is left alone.
    let link = project.join(".cofferdam/wit/x");
    symlink(&victim, &link).expect("linked");
    build(&project);
    assert!(fs::symlink_metadata(&link).is_err());
    let own = project.join(".cofferdam");
    for part in [own.join("build"), own.join("sdk/javascript"), own] {
        fs::remove_dir_all(&part).expect("removed");
        symlink(&victim, &part).expect("linked");
        fails(&cofferdam(&project, &["build"]), 1, &["is a symbolic link", "remove the link"]);
        fs::remove_file(&part).expect("removed");
    }

    // Files are called after a project.
    let manifest = project.join("package.json");
    let whole = fs::read_to_string(&manifest).expect("a manifest");
    let name = project.file_name().and_then(|name| name.to_str()).expect("a name");
    for bad in ["../victim/x", "/tmp/x", "@me/../x"] {
        fs::write(&manifest, whole.replace(name, bad)).expect("written");
        fails(
            &cofferdam(&project, &["build"]),
            1,
            &["package.json: ", "cannot be a project's name", "a-z, 0-9 and '-'"],
        );
    }
    fs::write(&manifest, whole).expect("written");

    let agent = project.join("src/agent.js");
    let code = fs::read_to_string(&agent).expect("the code");
    let from = json!(precious);
    fs::write(&agent, format!("import x from {from};\n{code}\nglobalThis.x = x;\n")).expect("written");
    fails(&cofferdam(&project, &["build"]), 1, &["src/agent.js:1:", "outside of the project", "next: "]);
    for map in ["../../precious", "/dev/zero", "file:///dev/zero", "%2e%2e/%2e%2e/precious"] {
        fs::write(&agent, format!("{code}\n//# sourceMappingURL={map}\n")).expect("written");
        fails(&cofferdam(&project, &["build"]), 1, &["its source map is no file in the project", map, "next: remove"]);
    }
    fs::remove_file(&agent).expect("removed");
    symlink(&precious, &agent).expect("linked");
    fails(&cofferdam(&project, &["build"]), 1, &["package.json: ", "src/agent.js", "leads out of the project"]);

    let case = project.join("tests/a.json");
    symlink("/dev/zero", &case).expect("linked");
    fails(&cofferdam(&project, &["test"]), 2, &["a.json is not a regular file"]);
    fs::remove_file(&case).expect("removed");
    assert!(Command::new("mkfifo").arg(&case).status().expect("run").success());
    fails(&cofferdam(&project, &["test"]), 2, &["a.json is not a regular file"]);

    assert_eq!(fs::read_to_string(&precious).expect("there"), "mine");
    assert_eq!(fs::read_dir(&victim).expect("a folder").count(), 1);
}

/// What a Python project may have in `src`, which is put into the component.
#[test]
fn a_python_project_has_nothing_in_its_component_that_a_link_leads_to() {
    let (dir, project) = new("python", "basic");
    let (src, outside) = (project.join("src"), dir.path().join("outside"));
    fs::rename(&src, &outside).expect("moved");
    symlink(&outside, &src).expect("linked");
    fails(&cofferdam(&project, &["build"]), 1, &["pyproject.toml: src ", "leads out of the project"]);

    // A file or a folder within it that is a link is not there for the build.
    fs::remove_file(&src).expect("removed");
    fs::create_dir(&src).expect("made");
    symlink(outside.join("agent.py"), src.join("agent.py")).expect("linked");
    fails(&cofferdam(&project, &["build"]), 1, &["no module `agent`"]);
    fs::remove_file(src.join("agent.py")).expect("removed");
    fs::copy(outside.join("agent.py"), src.join("agent.py")).expect("copied");
    symlink(&outside, src.join("pack")).expect("linked");
    let code = fs::read_to_string(src.join("agent.py")).expect("the code");
    fs::write(src.join("agent.py"), format!("import pack.agent\n{code}")).expect("written");
    fails(&cofferdam(&project, &["build"]), 1, &["src/agent.py:1: ", "pack"]);
}

/// A large component takes long to compile the first time, here and on a server, and nobody is to think that it hangs.
#[test]
fn what_takes_long_is_told_on_standard_error_and_with_json_only_a_result() {
    run(async {
        let (data, cache) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
        let server = Process::serve(data.path()).await;
        let large = guest_path("conformance-python");
        let large = large.to_str().expect("UTF-8");
        let pushed = server.cofferdam(&["plugin", "push", "large", large]).await;
        succeeds(&pushed);
        for word in
            ["compiling large on the server: ", " s so far\n", " s in all\nnext: cofferdam grant set USER large '{"]
        {
            assert!(text(&pushed.stderr).contains(word), "{word:?} is not in\n{}", all_of(&pushed));
        }
        assert!(text(&pushed.stdout).starts_with("pushed large "), "{}", all_of(&pushed));

        let mut inspect = command(data.path(), &["inspect", large, "--json"]);
        let inspected = inspect.env("XDG_CACHE_HOME", cache.path()).output().expect("run");
        succeeds(&inspected);
        assert_eq!((lines(&inspected).len(), text(&inspected.stderr).as_str()), (1, ""), "{}", all_of(&inspected));
    });
}

#[test]
fn new_makes_a_project_only_where_there_is_room_for_one() {
    let (dir, project) = new("rust", "tool");
    let name = project.file_name().and_then(|name| name.to_str()).expect("a name");
    fails(&cofferdam(dir.path(), &["new", name]), 2, &["is there already"]);
    for bad in ["My-Agent", "../x", "a b", "-x"] {
        fails(&cofferdam(dir.path(), &["new", "--", bad]), 2, &["cannot be a project's name"]);
    }
    fails(&cofferdam(dir.path(), &["new", "x", "--lang", "cobol"]), 2, &["possible values: rust, python, javascript"]);
    let made = cofferdam(dir.path(), &["new", "other", "--dir", "elsewhere/here", "--lang", "rust", "--json"]);
    succeeds(&made);
    assert_eq!(lines(&made)[0]["template"], "basic");
    assert!(dir.path().join("elsewhere/here/src/lib.rs").is_file() && project.join("src/lib.rs").is_file());
    fails(&cofferdam(dir.path(), &["build"]), 1, &["is no project", "cofferdam new NAME"]);
    fails(&cofferdam(dir.path(), &["build", "nowhere"]), 1, &["there is no folder"]);
}

/// What somebody types who is new to it.
#[test]
fn mistakes_of_a_first_hour_are_told_with_what_to_type_instead() {
    let (dir, project) = new("javascript", "basic");
    let name = project.file_name().and_then(|name| name.to_str()).expect("a name");
    // Outside of a project, and with a file or a folder in the place of the other.
    fails(&cofferdam(dir.path(), &["test"]), 2, &["is no project", "cofferdam new NAME"]);
    let file = project.join("package.json");
    let file = file.to_str().expect("UTF-8");
    fails(
        &cofferdam(dir.path(), &["test", file]),
        2,
        &["is a file: give the folder of the project", "--component FILE"],
    );
    for verb in [&["inspect", name][..], &["run", name, "--input", "1"]] {
        fails(&cofferdam(dir.path(), verb), 2, &["is a folder, not a component", &format!("`cofferdam build {name}`")]);
        let missing = [&[verb[0], "none.wasm"], &verb[2..]].concat();
        fails(&cofferdam(dir.path(), &missing), 2, &["there is no component none.wasm", "`cofferdam build`"]);
    }
    fails(&cofferdam(&project, &["test", "--case", "geets"]), 2, &["it has counts, greets, "]);
    // What no change of a file mends is told at once, and nothing is built.
    fails(&cofferdam(&project, &["dev", "--input", "Ada"]), 2, &["--input is not JSON", "a text needs its own quotes"]);
    fails(&cofferdam(&project, &["dev", "--input", "1", "--grant", "all"]), 2, &["--grant is not one"]);
    assert!(!project.join(".cofferdam/build").exists());

    let built = cofferdam(&project, &["build"]);
    succeeds(&built);
    let begins = format!("making {name} a component with esbuild and componentize-qjs\n");
    assert!(text(&built.stderr).starts_with(&begins), "{}", all_of(&built));
    let built = cofferdam(&project, &["build", "--json"]);
    assert_eq!((lines(&built).len(), text(&built.stderr).as_str()), (1, ""), "{}", all_of(&built));
}

#[test]
fn doctor_says_what_is_there_and_what_is_missing() {
    let dir = tempfile::tempdir().expect("a directory");
    let well = cofferdam(dir.path(), &["doctor", "--lang", "rust", "--json"]);
    succeeds(&well);
    let checks = lines(&well);
    assert!(checks.iter().any(|check| check["what"] == "wasm32-wasip2" && check["state"] == "ok"), "{checks:?}");
    assert!(checks.iter().all(|check| check["part"] == "rust"), "a server is not what it needs: {checks:?}");
    // Nothing of it is on this path.
    let mut ill = command(dir.path(), &["doctor", "--lang", "javascript"]);
    let ill = ill.env("PATH", dir.path()).output().expect("run");
    fails(&ill, 1, &["MISSING  javascript  node", "next: install Node.js"]);
    let all = command(dir.path(), &["doctor"]).env("PATH", dir.path()).output().expect("run");
    succeeds(&all);
    for missing in ["MISSING  rust        rustc", "MISSING  server      COFFERDAM_URL"] {
        assert!(text(&all.stdout).contains(missing), "{}", all_of(&all));
    }
}

#[test]
fn dev_builds_and_runs_again_when_a_file_changes() {
    let (_dir, project) = new("rust", "basic");
    let log = project.parent().expect("a folder").join("dev.log");
    let out = fs::File::create(&log).expect("a log");
    let mut dev = command(&project, &["dev", "--input", r#"{"name":"Ada"}"#]);
    let mut dev = dev.stdout(out.try_clone().expect("a log")).stderr(out).spawn().expect("started");
    let waits_for = |words: &str, times: usize| {
        let began = Instant::now();
        loop {
            let said = fs::read_to_string(&log).expect("a log");
            if said.matches(words).count() >= times {
                return;
            }
            assert!(began.elapsed() < Duration::from_secs(120), "no {words:?} in\n{said}");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    waits_for("Hello, Ada!", 1);
    waits_for("watching", 1);
    let source = project.join("src/lib.rs");
    let code = fs::read_to_string(&source).expect("the code");
    fs::write(&source, code.replace("Hello, ", "Hello ")).expect("written");
    waits_for("Hello Ada!", 1);
    // What does not build is told, and mended by the next change.
    fs::write(&source, code.replace("Hello, ", "\"")).expect("written");
    waits_for("cargo could not build", 1);
    fs::write(&source, &code).expect("written");
    waits_for("Hello, Ada!", 2);
    waits_for("watching", 4);
    let told = Command::new("kill").args(["-INT", &dev.id().to_string()]).status().expect("signalled");
    assert!(told.success());
    assert_eq!(dev.wait().expect("ended").code(), Some(0));
}
