//! What the README shows an author works, in each language.

use crate::{
    author::{cargo_target, cofferdam, new, succeeds, text},
    process::Process,
    server::run,
};
use serde_json::json;
use std::{path::Path, time::Duration};

fn readme() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md")).expect("a README")
}

/// How long an author may take to have an agent run, where everything is installed.
const AUTHOR_MAX: Duration = Duration::from_secs(300);

/// Types commands in a folder, as an author does who has a server: what they printed. They work.
async fn typed(server: &Process, dir: &Path, commands: &str) -> (String, String) {
    let binary = Path::new(env!("CARGO_BIN_EXE_cofferdam")).parent().expect("a directory");
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").expect("a path"));
    let mut bash = tokio::process::Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", commands]).current_dir(dir).kill_on_drop(true).env("PATH", &path);
    bash.env("CARGO_TARGET_DIR", cargo_target()).env("COFFERDAM_URL", server.text("url"));
    bash.env("COFFERDAM_API_KEY", server.text("api_key")).env("COFFERDAM_ADMIN_KEY", server.text("admin_key"));
    let done = tokio::time::timeout(AUTHOR_MAX, bash.output()).await.expect("in time").expect("bash is there");
    let (out, err) = (text(&done.stdout), text(&done.stderr));
    assert!(done.status.success(), "{}\n{commands}\n{out}\n{err}", done.status);
    (out, err)
}

/// The commands of the section on agents, once for each language, in a folder that has nothing but the binary.
#[test]
fn an_author_gets_to_a_running_agent_in_each_language() {
    run(async {
        let data = tempfile::tempdir().expect("a directory");
        let server = Process::serve(data.path()).await;
        let readme = readme();
        let walk = readme.split("<!-- author:").nth(1).and_then(|rest| rest.split("```sh\n").nth(1));
        let walk = walk.and_then(|rest| rest.split("```").next()).expect("the walk");
        assert!(walk.contains("LANGUAGE=python "), "{walk}");
        // All on one server, where a name is one plugin's.
        for language in ["rust", "python", "javascript"] {
            let dir = tempfile::tempdir().expect("a directory");
            let walk = walk.replace("LANGUAGE=python ", &format!("LANGUAGE={language} "));
            let (out, err) = typed(&server, dir.path(), &walk).await;
            let (pushed, grant) = (format!("\npushed hello-{language} "), format!("set USER hello-{language} '{{"));
            for word in ["4 cases, 0 failed", &grant, "Hello, Ada!", &pushed, "\"times\":1", "agent_completed"] {
                assert!(out.contains(word), "{language}: {word} is not in\n{out}\n{err}");
            }
        }
    });
}

/// The agent that is shown in three languages is one agent.
#[test]
fn the_agents_shown_do_the_same_in_each_language() {
    let readme = readme();
    for (language, fence, file) in
        [("rust", "rust", "src/lib.rs"), ("python", "python", "src/agent.py"), ("javascript", "js", "src/agent.js")]
    {
        let code = readme.split(&format!("```{fence}\n")).nth(1).and_then(|rest| rest.split("```").next());
        let (_dir, project) = new(language, "basic");
        std::fs::write(project.join(file), code.expect("an agent")).expect("written");
        std::fs::remove_dir_all(project.join("tests")).expect("removed");
        std::fs::create_dir(project.join("tests")).expect("made");
        // What ends a line is a line feed, and the last one needs none.
        let texts = ["one\ntwo\n", "one\ntwo", "", "\n", "one\r\ntwo\u{c} \u{2028} still two\rstill two"];
        for (n, (text, lines)) in texts.into_iter().zip([2, 2, 0, 1, 2]).enumerate() {
            let case = json!({
                "input": {"path": "a.txt"}, "files": {"a.txt": text}, "state": {"user/times": 4},
                "expect": {
                    "output": {"lines": lines, "times": 5},
                    "events": [{"type": "agent_thinking", "payload": {"text": "Counting the lines of a.txt"}}],
                },
            });
            std::fs::write(project.join(format!("tests/shown-{n}.json")), case.to_string()).expect("written");
        }
        succeeds(&cofferdam(&project, &["test"]));
    }
}

/// What stands between fences of a kind, in their order.
fn fenced<'a>(page: &'a str, kind: &str) -> Vec<&'a str> {
    let fence = format!("```{kind}\n");
    page.split(&fence).skip(1).map(|rest| rest.split("\n```").next().expect("its end")).collect()
}

/// The README of a new tool plugin, as its author follows it: an agent calls the tool on a server, and in a case.
#[test]
fn a_new_tool_is_called_by_the_agent_of_its_readme_in_each_language() {
    run(async {
        let data = tempfile::tempdir().expect("a directory");
        let server = Process::serve(data.path()).await;
        for (language, fence) in [("rust", "rust"), ("python", "python"), ("javascript", "js")] {
            let (_dir, project) = new(language, "tool");
            let readme = std::fs::read_to_string(project.join("README.md")).expect("a README");
            let commands = fenced(&readme, "sh");
            let (make, call) = (commands[commands.len() - 2], commands[commands.len() - 1]);
            typed(&server, &project, make).await;
            let caller = format!("{}-caller", project.file_name().expect("a name").to_str().expect("UTF-8"));
            let caller = project.with_file_name(caller);
            let code =
                readme.split("\nIts `").nth(1).and_then(|rest| rest.split('`').next()).expect("where the code goes");
            std::fs::write(caller.join(code), format!("{}\n", fenced(&readme, fence)[0])).expect("written");
            let (out, err) = typed(&server, &project, call).await;
            for word in ["tool_completed", "agent_completed", r#""words":3"#, r#""lines":2"#, r#""characters":13"#] {
                assert!(out.contains(word), "{language}: {word} is not in\n{out}\n{err}");
            }
            std::fs::remove_dir_all(caller.join("tests")).expect("removed");
            std::fs::create_dir(caller.join("tests")).expect("made");
            std::fs::write(caller.join("tests/calls.json"), fenced(&readme, "json")[0]).expect("written");
            succeeds(&cofferdam(&caller, &["test"]));
        }
    });
}
