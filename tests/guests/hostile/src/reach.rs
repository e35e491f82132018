//! Reaches for what belongs to others, and for what the contract rules out.

use serde_json::{Value, json};

use crate::cofferdam::agent::events::{self, Level};
use crate::cofferdam::agent::state::{self, Scope};
use crate::cofferdam::agent::tools;
use crate::take::outcome;
use crate::{nested, not_utf8};

/// Paths that lead out of the workspace, if anyone follows them.
fn paths_out() -> Vec<String> {
    let short = [
        "../x",
        "..",
        "/etc/passwd",
        "//etc/passwd",
        "a/../../x",
        "a/../../../../../../etc/passwd",
        "./../x",
        "a/./../../x",
        "..\\x",
        "C:\\x",
        "\\\\host\\share",
        "/proc/self/environ",
        "/dev/zero",
        "x\0y",
        "\0",
        "x\ny",
        "\u{202e}txt.x",
        "~/x",
        "file:///etc/passwd",
        "%2e%2e/x",
        "",
        ".",
        "/",
    ];
    let mut paths: Vec<String> = short.map(str::to_owned).into();
    paths.push("x".repeat(256));
    paths.push("x".repeat(1 << 16));
    paths.push("a/".repeat(10_000));
    paths
}

/// For each path what came of listing, reading and writing it.
pub fn forged_paths(input: &Value) -> String {
    let given = input.get("paths").and_then(Value::as_array);
    let paths = match given {
        Some(paths) => paths.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        None => paths_out(),
    };
    let outcomes = paths.into_iter().map(|path| {
        let at = json!({"path": path}).to_string();
        let write = json!({"path": path, "text": "forged"}).to_string();
        json!({
            // Long ones are known by their start.
            "path": path.chars().take(80).collect::<String>(),
            "list": answer(tools::call("file.list", &at)),
            "read": answer(tools::call("file.read", &at)),
            "write": answer(tools::call("file.write", &write)),
        })
    });
    outcomes.collect::<Value>().to_string()
}

/// The answer itself, where there is one: whoever got out should be seen with what was found there.
fn answer(outcome: Result<String, tools::ToolError>) -> String {
    match outcome {
        Ok(answer) => format!("ok: {answer}"),
        Err(error) => format!("{error:?}"),
    }
}

pub fn forged_keys() -> String {
    let longest = "k".repeat(256);
    let too_long = "k".repeat(257);
    let giant = "k".repeat(2 << 20);
    let keys = [
        "",
        "a key",
        "a\nkey",
        "a\0key",
        "schlüssel",
        "\u{7f}",
        "../key",
        "a/b",
        "%",
        "*",
        "' OR 1=1 --",
        &longest,
        &too_long,
        &giant,
    ];
    let outcomes = keys.map(|key| {
        json!({
            "key": key.chars().take(80).collect::<String>(),
            "bytes": key.len(),
            "set": outcome(state::set(Scope::User, key, b"forged", None)),
            "get": outcome(state::get(Scope::User, key)),
            "list": outcome(state::list(Scope::User, key, Some(key), 10)),
            "delete": outcome(state::delete(Scope::User, key)),
        })
    });
    let bounds = json!({
        "ttl 0": outcome(state::set(Scope::User, "bounds", b"", Some(0))),
        "ttl max": outcome(state::set(Scope::User, "bounds", b"", Some(u64::MAX))),
        "limit 0": outcome(state::list(Scope::User, "", None, 0)),
        "limit 1001": outcome(state::list(Scope::User, "", None, 1001)),
        "limit max": outcome(state::list(Scope::User, "", None, u32::MAX)),
        "value 1 MiB + 1": outcome(state::set(Scope::User, "bounds", &vec![0; (1 << 20) + 1], None)),
        "version max": outcome(state::compare_and_swap(Scope::User, "bounds", Some(u64::MAX), b"", None)),
    });
    json!({"keys": outcomes, "bounds": bounds}).to_string()
}

pub fn forged_events() -> String {
    let too_long = "n".repeat(65);
    let names = ["", "1st", "Name", "a name", "näme", "a\nb", "a:b", "agent_completed", "-a", &too_long];
    let names = names.map(|name| json!({"name": name, "emit": outcome(events::emit(name, "{}"))}));
    let fractions = [-0.1, 1.1, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0];
    let fractions = fractions
        .map(|fraction| json!({"fraction": fraction.to_string(), "progress": outcome(events::progress(fraction, ""))}));
    // What a terminal, a log file or a line-based stream would take for its own.
    let texts = ["\u{1b}]0;owned\u{7}\u{1b}[2J", "a\r\nb", "\ndata: {}\n\nevent: agent_completed\n", "\0", "\u{202e}"];
    let texts = texts.map(|text| {
        json!({
            "text": text,
            "thinking": outcome(events::thinking(text)),
            "log": outcome(events::log(Level::Warn, text)),
        })
    });
    json!({"names": names, "fractions": fractions, "texts": texts}).to_string()
}

pub fn forged_tools() -> String {
    let names = [
        "",
        "file",
        "file.",
        "file.*",
        "*",
        "file.delete",
        "FILE.READ",
        "file.read ",
        "file.read\0",
        "units.convert",
        "../file.read",
        "file..read",
        "hostile.run",
    ];
    let outcomes = names.map(|name| {
        json!({
            "name": name,
            "call": outcome(tools::call(name, "{}")),
            "start": outcome(tools::start(name, "{}").and_then(tools::Pending::wait)),
        })
    });
    outcomes.into_iter().collect::<Value>().to_string()
}

pub fn forged_json(depth: usize) -> String {
    let deep = nested(depth);
    let texts = [
        "",
        "{",
        "nonsense",
        "null",
        "[]",
        "{} {}",
        "{\"path\":\"\",}",
        "{\"path\":1e999}",
        "{\"path\":\"\\ud800\"}",
        "{\"path\":\"a\",\"path\":\"b\"}",
        "{\"unknown\":1}",
        &deep,
    ];
    let outcomes = texts.map(|text| {
        json!({
            "text": text.chars().take(80).collect::<String>(),
            "call": outcome(tools::call("file.list", text)),
            "emit": outcome(events::emit("forged", text)),
        })
    });
    outcomes.into_iter().collect::<Value>().to_string()
}

/// Traps, if the host is sound: a handle is checked before it is used.
pub fn forged_handle(handle: u32) -> String {
    // SAFETY: there is none to be had; that the handle does not exist is the attack, and the host's to notice.
    let pending = unsafe { tools::Pending::from_handle(handle) };
    let ready = pending.ready();
    json!({"ready": ready, "wait": outcome(tools::Pending::wait(pending))}).to_string()
}

/// Traps, if the host is sound: a text is checked before it is used.
pub fn forged_text() -> String {
    outcome(events::thinking(&not_utf8()))
}
