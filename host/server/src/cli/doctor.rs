//! `cofferdam doctor`: what is installed of what an author needs, what is missing, and the command that mends it.

use super::{
    build::{javascript, python, rust, toolchain},
    failure::Failure,
    output::{json_line, line, printable},
    project::Language,
};
use serde::Serialize;
use std::{path::Path, process::Command, time::Duration};

/// How long a server may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(3);

#[derive(Debug, clap::Args)]
pub(super) struct DoctorArgs {
    /// Only what this language needs; what is missing of that is a failure.
    #[arg(long, value_name = "LANGUAGE")]
    lang: Option<Language>,
}

/// How something stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// It is there.
    Ok,
    /// It comes by itself when it is first needed.
    Later,
    /// It is not there.
    Missing,
}

/// What was looked at.
#[derive(Debug, Serialize)]
struct Check {
    /// For which language, or `server`.
    part: &'static str,
    what: String,
    state: State,
    /// What was found.
    found: String,
    /// What to do, if something is to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

pub(super) async fn run(args: DoctorArgs, json: bool) -> Result<(), Failure> {
    let mut checks = Vec::new();
    for language in Language::ALL {
        if args.lang.is_none_or(|asked| asked == language) {
            checks.extend(match language {
                Language::Rust => of_rust(),
                Language::Python => of_python(),
                Language::JavaScript => of_javascript(),
            });
        }
    }
    if args.lang.is_none() {
        checks.extend(of_server().await);
    }
    for check in &checks {
        if json {
            let text = serde_json::to_string(check).map_err(|error| Failure::Host(error.to_string()))?;
            line(&json_line(&text))?;
            continue;
        }
        let word = match check.state {
            State::Ok => "ok",
            State::Later => "later",
            State::Missing => "MISSING",
        };
        line(&format!("{word:<8} {:<11} {:<24} {}", check.part, check.what, printable(&check.found)))?;
        if let Some(next) = &check.next {
            line(&format!("{:<8} next: {}", "", printable(next)))?;
        }
    }
    let asked = args.lang.map(Language::as_str);
    let missing = checks.iter().any(|check| check.state == State::Missing && Some(check.part) == asked);
    if missing { Err(Failure::Run) } else { Ok(()) }
}

/// What a program says of its version.
fn version_of(program: &str, argument: &str) -> Option<String> {
    let printed = Command::new(program).arg(argument).output().ok().filter(|printed| printed.status.success())?;
    let text = [printed.stdout, printed.stderr].concat();
    String::from_utf8_lossy(&text).lines().next().map(|line| line.trim().to_owned())
}

/// A program, at a version that will do.
fn program(part: &'static str, name: &str, will_do: impl Fn(&str) -> bool, next: &str) -> Check {
    let version = version_of(name, "--version");
    let state = if version.as_deref().is_some_and(will_do) { State::Ok } else { State::Missing };
    let found = version.unwrap_or_else(|| "not found on the PATH".into());
    let next = (state == State::Missing).then(|| next.to_owned());
    Check { part, what: name.to_owned(), state, found, next }
}

/// The numbers of the first version in a text: `v20.1.0`, `Python 3.12.3`.
fn numbers(text: &str) -> (u32, u32) {
    let start = text.find(|c: char| c.is_ascii_digit()).unwrap_or(text.len());
    let mut parts = text.get(start..).unwrap_or_default().split(|c: char| !c.is_ascii_digit());
    let mut number = || parts.next().and_then(|part| part.parse().ok()).unwrap_or(0);
    (number(), number())
}

fn of_rust() -> Vec<Check> {
    let install = "install Rust with rustup: https://rustup.rs";
    // Edition 2024, and what the SDK asks for.
    let new = |version: &str| numbers(version) >= (1, 95);
    let mut checks = vec![program("rust", "rustc", new, &format!("{install}, or `rustup update`"))];
    checks.push(program("rust", "cargo", new, &format!("{install}, or `rustup update`")));
    let there = rust::has_target(Path::new(".")).unwrap_or(false);
    checks.push(Check {
        part: "rust",
        what: rust::TARGET.into(),
        state: if there { State::Ok } else { State::Missing },
        found: if there { "installed" } else { "the target is not installed" }.into(),
        next: (!there).then(|| format!("rustup target add {}", rust::TARGET)),
    });
    checks
}

fn of_python() -> Vec<Check> {
    let install =
        "install Python 3.10 or newer with its modules venv and pip (Debian: apt install python3 python3-venv)";
    let mut checks = vec![program("python", "python3", |version| numbers(version) >= (3, 10), install)];
    let venv = Command::new("python3").args([python::ISOLATED, "-c", "import venv, ensurepip"]).output();
    let venv = venv.is_ok_and(|venv| venv.status.success());
    checks.push(Check {
        part: "python",
        what: "venv".into(),
        state: if venv { State::Ok } else { State::Missing },
        found: if venv { "there" } else { "python3 has no module venv, or none of pip" }.into(),
        next: (!venv).then(|| install.to_owned()),
    });
    checks.push(pinned("python", Ok(python::toolchain_name())));
    checks
}

fn of_javascript() -> Vec<Check> {
    let install = "install Node.js 20 or newer, with npm: https://nodejs.org";
    vec![
        program("javascript", "node", |version| numbers(version) >= (20, 0), install),
        program("javascript", "npm", |_| true, install),
        pinned("javascript", javascript::toolchain_name()),
    ]
}

/// A toolchain that a build installs.
fn pinned(part: &'static str, name: anyhow::Result<String>) -> Check {
    let place = name.and_then(|name| Ok((toolchain::folder()?.join(&name), name)));
    let (state, found, next) = match &place {
        Ok((dir, _)) if dir.is_dir() => (State::Ok, dir.display().to_string(), None),
        Ok((dir, _)) => {
            let found = format!("not yet in {}", dir.parent().unwrap_or(dir).display());
            (State::Later, found, Some(format!("the first `cofferdam build` of a {part} project installs it")))
        }
        Err(error) => (State::Missing, format!("{error:#}"), Some("set COFFERDAM_TOOLCHAINS to a folder".to_owned())),
    };
    Check { part, what: place.map(|(_, name)| name).unwrap_or_else(|_| "toolchain".into()), state, found, next }
}

async fn of_server() -> Vec<Check> {
    let check = |what: &str, state, found: String, next: Option<&str>| Check {
        part: "server",
        what: what.to_owned(),
        state,
        found,
        next: next.map(str::to_owned),
    };
    let start = "`cofferdam serve --dev` starts one, and prints what to set";
    let mut checks = Vec::new();
    let client = reqwest::Client::builder().timeout(ANSWER_MAX).build();
    let ask = async |url: String, key: Option<&str>| {
        let request = client.as_ref().map_err(ToString::to_string)?.get(url);
        let request = if let Some(key) = key { request.bearer_auth(key) } else { request };
        request.send().await.map_err(|error| error.without_url().to_string())
    };
    let url = std::env::var("COFFERDAM_URL").map(|url| url.trim_end_matches('/').to_owned());
    match &url {
        Err(_) => checks.push(check("COFFERDAM_URL", State::Missing, "not set".into(), Some(start))),
        Ok(url) => checks.push(match ask(format!("{url}/v1/health"), None).await {
            Ok(answer) => check("COFFERDAM_URL", State::Ok, format!("{url} answers {}", answer.status()), None),
            Err(error) => {
                check("COFFERDAM_URL", State::Missing, format!("{url} does not answer: {error}"), Some(start))
            }
        }),
    }
    for (name, whose) in [("COFFERDAM_API_KEY", "a user's"), ("COFFERDAM_ADMIN_KEY", "an operator's")] {
        let Some(key) = std::env::var(name).ok().filter(|key| !key.is_empty()) else {
            checks.push(check(name, State::Missing, format!("not set: {whose} key"), Some(start)));
            continue;
        };
        // What it may do is another question: an operator's is refused here, too, but otherwise.
        let answer = match &url {
            Ok(url) => ask(format!("{url}/v1/runs?limit=1"), Some(&key)).await.ok(),
            Err(_) => None,
        };
        let unknown = answer.is_some_and(|answer| answer.status() == reqwest::StatusCode::UNAUTHORIZED);
        checks.push(match unknown {
            true => check(name, State::Missing, "set, and the server does not know it".into(), Some(start)),
            false => check(name, State::Ok, "set".into(), None),
        });
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        for (text, is) in [
            ("rustc 1.95.0 (abc 2026-01-01)", (1, 95)),
            ("v20.19.2", (20, 19)),
            ("Python 3.12.3", (3, 12)),
            ("10", (10, 0)),
            ("none", (0, 0)),
        ] {
            assert_eq!(numbers(text), is, "{text}");
        }
    }

    #[test]
    fn a_program_that_is_not_there_is_told_with_what_mends_it() {
        let check = program("rust", "no-such-program", |_| true, "install it");
        assert_eq!((check.state, check.next.as_deref()), (State::Missing, Some("install it")));
        let old = program("rust", "cargo", |_| false, "update it");
        assert_eq!((old.state, old.next.as_deref()), (State::Missing, Some("update it")));
    }
}
