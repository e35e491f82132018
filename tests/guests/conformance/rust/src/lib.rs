//! Uses every import, in the same order in every language: the agents beside this one do the same in Python and JavaScript, and
//! a test compares their events, their calls and their outputs. What differs from run to run (ids, times, random bytes) is in
//! none of them.

use cofferdam_sdk::{
    Access, Agent, AskError, ChildError, ChildLimits, Context, Error, EventError, Level, Needs, Question, Scope,
    SpawnError, StateError, ToolError, export_agent,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Input {
    /// This part alone.
    #[serde(default)]
    only: Option<Part>,
    /// Fail at the end.
    #[serde(default)]
    fail: bool,
}

#[derive(Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Part {
    Context,
    Budget,
    Events,
    Print,
    Tools,
    Files,
    State,
    Clock,
    Random,
    Scratch,
    Sleep,
    Human,
    Agents,
    Workspace,
}

/// In the order in which they are done. The workspace comes last: a run that has used it cannot be put away.
const PARTS: [Part; 14] = [
    Part::Context,
    Part::Budget,
    Part::Events,
    Part::Print,
    Part::Tools,
    Part::Files,
    Part::State,
    Part::Clock,
    Part::Random,
    Part::Scratch,
    Part::Sleep,
    Part::Human,
    Part::Agents,
    Part::Workspace,
];

struct Conformance;

impl Agent for Conformance {
    type Input = Input;
    type Output = Value;
    const NAME: Option<&'static str> = Some("conformance");
    const VERSION: Option<&'static str> = Some("1.0.0");
    const DESCRIPTION: &'static str = "Uses every import, in the same order in every language.";

    fn needs() -> Needs {
        Needs::none()
            .tools(["file.*", "units.*"])
            .state(Access::ReadWrite)
            .workspace(Access::ReadWrite)
            .agents(["echo", "probe"])
            .human()
    }

    fn run(ctx: &Context, input: Input) -> Result<Value, Error> {
        let mut output = Map::new();
        for part in PARTS.into_iter().filter(|part| input.only.is_none_or(|only| only == *part)) {
            let name = serde_json::to_value(part).ok().and_then(|name| name.as_str().map(str::to_owned));
            output.insert(name.unwrap_or_default(), done(ctx, part)?);
        }
        if input.fail {
            return Err(Error::failed("conformance_failed", "asked to fail"));
        }
        Ok(Value::Object(output))
    }
}

export_agent!(Conformance);

fn done(ctx: &Context, part: Part) -> Result<Value, Error> {
    match part {
        Part::Context => Ok(json!({
            "has_user": !ctx.user_id().is_empty(),
            "has_run": !ctx.run_id().is_empty(),
            "parent": ctx.parent_run_id().is_some(),
            "session": ctx.session_id().is_some(),
            "metadata": ctx.metadata::<Value>()?,
            "idempotency_key": ctx.idempotency_key(),
        })),
        Part::Budget => {
            let left = ctx.budget();
            Ok(json!({
                "fuel": left.fuel > 0,
                "memory": left.memory_bytes > 0,
                "deadline": left.wall_ms > 0 && left.wall_ms <= 60_000,
                "tool_calls": left.tool_calls,
                "host_calls": left.host_calls > 0,
            }))
        }
        Part::Events => events(ctx),
        Part::Print => {
            println!("to stdout");
            eprintln!("to stderr");
            Ok(json!(true))
        }
        Part::Tools => tools(ctx),
        Part::Files => files(ctx),
        Part::State => Ok(json!({ "user": state(ctx, Scope::User)?, "thread": state(ctx, Scope::Thread)? })),
        Part::Clock => {
            let (first, second) = (Instant::now(), Instant::now());
            let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            Ok(json!({ "wall": wall > Duration::from_secs(1_577_836_800), "monotonic": second >= first }))
        }
        Part::Random => {
            let mut random = [0_u8; 16];
            // SAFETY: the buffer is as long as the length says.
            let status = unsafe { getentropy(random.as_mut_ptr(), random.len()) };
            Ok(json!({ "bytes": if status == 0 { random.len() } else { 0 } }))
        }
        Part::Scratch => {
            let io = |error: std::io::Error| Error::failed("scratch", error.to_string());
            std::fs::write("/scratch/note.txt", "scratch\n").map_err(io)?;
            let text = std::fs::read_to_string("/scratch/note.txt").map_err(io)?;
            Ok(json!({ "text": text, "names": names("/scratch").map_err(io)? }))
        }
        Part::Sleep => {
            ctx.sleep_until(SystemTime::now() + Duration::from_millis(20))?;
            ctx.sleep_until(UNIX_EPOCH)?;
            ctx.sleep_until(SystemTime::now() + Duration::from_millis(1_500))?;
            Ok(json!({ "short": "ok", "past": "ok", "long": "ok" }))
        }
        Part::Human => human(ctx),
        Part::Agents => agents(ctx),
        Part::Workspace => {
            let io = |error: std::io::Error| Error::failed("workspace", error.to_string());
            let text = std::fs::read_to_string("/workspace/conf/b.txt").map_err(io)?;
            std::fs::write("/workspace/conf/d.txt", "workspace\n").map_err(io)?;
            Ok(json!({ "text": text, "names": names("/workspace/conf").map_err(io)? }))
        }
    }
}

fn events(ctx: &Context) -> Result<Value, Error> {
    ctx.log(Level::Debug, "debug line")?;
    ctx.log(Level::Info, "info line")?;
    ctx.log(Level::Warn, "warn line")?;
    ctx.log(Level::Error, "error line")?;
    ctx.thinking("Thinking about it")?;
    ctx.progress(0.25, "a quarter")?;
    ctx.emit("partial-result", &Partial { part: 1, text: "one" })?;
    ctx.emit("custom.done", &json!({ "n": [1, 2, 3], "ok": true }))?;
    let refused = |outcome: Result<(), EventError>| match outcome {
        Ok(()) => json!("recorded"),
        Err(EventError::Invalid(_)) => json!({ "error": "invalid" }),
        Err(EventError::TooLarge(_)) => json!({ "error": "too_large" }),
        Err(EventError::TooMany(_)) => json!({ "error": "too_many" }),
        Err(EventError::Full(_)) => json!({ "error": "full" }),
        Err(EventError::Exhausted(_)) => json!({ "error": "exhausted" }),
    };
    Ok(json!({
        "progress": refused(ctx.progress(2.0, "too far")),
        "name": refused(ctx.emit("Bad Name", &json!({}))),
        "line": refused(ctx.log(Level::Info, &"x".repeat(8_193))),
    }))
}

#[derive(Serialize)]
struct Partial {
    part: u32,
    text: &'static str,
}

/// Arguments of `file.read` and `file.write`, whose keys have an order.
#[derive(Serialize)]
struct Read {
    path: &'static str,
    offset: u64,
    length: u64,
}

#[derive(Serialize)]
struct Write {
    path: &'static str,
    text: &'static str,
    append: bool,
}

fn tools(ctx: &Context) -> Result<Value, Error> {
    let mut names: Vec<_> = ctx.tools().into_iter().map(|tool| tool.name).collect();
    names.sort();
    let written: Value = ctx.call("file.write", &Write { path: "conf/a.txt", text: "first\n", append: false })?;
    let read: Value = ctx.call("file.read", &Read { path: "conf/a.txt", offset: 0, length: 64 })?;
    let first = ctx.start::<Value>("file.read", &json!({ "path": "conf/a.txt" }))?;
    let second = ctx.start::<Value>("file.list", &json!({ "path": "conf" }))?;
    let listed = second.wait()?;
    let again = first.wait()?;
    drop(ctx.start::<Value>("file.read", &json!({ "path": "conf/a.txt" }))?);
    Ok(json!({
        "names": names,
        "written": written,
        "read": read,
        "listed": listed,
        "again": again["text"],
        "denied": of_tool(ctx.call::<Value>("nobody.knows", &json!({}))),
        "unknown": of_tool(ctx.call::<Value>("file.nothing", &json!({}))),
        "invalid": of_tool(ctx.call::<Value>("file.read", &json!({ "path": 7 }))),
        "missing": of_tool(ctx.call::<Value>("file.read", &json!({ "path": "conf/missing.txt" }))),
    }))
}

fn of_tool<T: Serialize>(outcome: Result<T, ToolError>) -> Value {
    let kind = match outcome {
        Ok(answer) => return json!({ "ok": answer }),
        Err(ToolError::UnknownTool(_)) => "unknown_tool",
        Err(ToolError::Denied(_)) => "denied",
        Err(ToolError::InvalidArguments(_)) => "invalid_arguments",
        Err(ToolError::TooLarge(_)) => "too_large",
        Err(ToolError::Exhausted(_)) => "exhausted",
        Err(ToolError::NotFound(_)) => "not_found",
        Err(ToolError::Failed(_)) => "failed",
        Err(ToolError::OutcomeUnknown(_)) => "outcome_unknown",
        Err(ToolError::UnexpectedAnswer(_)) => "unexpected_answer",
    };
    json!({ "error": kind })
}

fn files(ctx: &Context) -> Result<Value, Error> {
    let files = ctx.files();
    let wrote = files.write("conf/b.txt", "one\ntwo\n")?;
    let appended = files.append("conf/b.txt", "three\n")?;
    let text = files.read_to_string("conf/b.txt")?;
    let wrote_bytes = files.write_bytes("conf/c.bin", &[0, 1, 2, 255])?;
    let bytes = files.read_to_bytes("conf/c.bin")?;
    let entries: Vec<_> = files.list("conf")?.entries.into_iter().map(|entry| entry.name).collect();
    Ok(json!({
        "wrote": wrote,
        "appended": appended,
        "text": text,
        "wrote_bytes": wrote_bytes,
        "bytes": bytes,
        "entries": entries,
        "missing": of_tool(files.read_to_string("conf/none.txt")),
    }))
}

#[derive(Serialize, Deserialize)]
struct Stored {
    a: u32,
    b: Vec<Option<bool>>,
}

fn state(ctx: &Context, scope: Scope) -> Result<Value, Error> {
    let state = ctx.state(scope);
    let absent = state.get("conf/k")?.is_none();
    let first = state.set("conf/k", b"1")?;
    let same = state.get("conf/k")?.is_some_and(|stored| stored.value == b"1" && stored.version == first);
    let second = state.compare_and_swap("conf/k", Some(first), b"2")?;
    let conflict = match state.compare_and_swap("conf/k", Some(first), b"3") {
        Err(StateError::Conflict(current)) => json!({ "error": "conflict", "current": current == Some(second) }),
        other => of_state(other),
    };
    let present = of_state(state.compare_and_swap("conf/k", None, b"4"));
    ctx.state(scope).expiring_after(Duration::from_secs(60)).set("conf/t", b"x")?;
    let keys = state.list("conf/", None, 10)?;
    let after = state.list("conf/", Some("conf/k"), 10)?;
    state.set_json("conf/j", &Stored { a: 1, b: vec![Some(true), None] })?;
    let stored = state.get_json::<Stored>("conf/j")?.map(|stored| stored.value);
    let deleted = state.delete("conf/k")?;
    let deleted_again = state.delete("conf/k")?;
    state.delete("conf/t")?;
    state.delete("conf/j")?;
    let invalid = of_state(state.set("bad key with spaces", b"x"));
    Ok(json!({
        "absent": absent,
        "same": same,
        "grown": second > first,
        "conflict": conflict,
        "present": present,
        "keys": keys,
        "after": after,
        "json": stored,
        "deleted": deleted,
        "deleted_again": deleted_again,
        "invalid": invalid,
    }))
}

fn of_state<T: Serialize>(outcome: Result<T, StateError>) -> Value {
    let kind = match outcome {
        Ok(answer) => return json!({ "ok": answer }),
        Err(StateError::Denied(_)) => "denied",
        Err(StateError::Invalid(_)) => "invalid",
        Err(StateError::TooLarge(_)) => "too_large",
        Err(StateError::Full(_)) => "full",
        Err(StateError::Conflict(_)) => "conflict",
        Err(StateError::Unavailable) => "unavailable",
        Err(StateError::Exhausted(_)) => "exhausted",
        Err(StateError::NotJson(_)) => "not_json",
    };
    json!({ "error": kind })
}

fn human(ctx: &Context) -> Result<Value, Error> {
    let schema = json!({
        "type": "object", "properties": { "go": { "type": "boolean" } }, "required": ["go"], "additionalProperties": false,
    });
    let answer: Value = ctx.ask(Question::new("Go on?").schema(&schema))?;
    let text = json!({ "type": "string" });
    let question = Question::new("Anybody?").schema(&text).expires_after(Duration::from_secs(1));
    let default: Value = ctx.ask(question.default_answer(&"nobody"))?;
    let invalid = match ctx.ask::<Value>(Question::new("").schema(&text)) {
        Ok(answer) => json!({ "ok": answer }),
        Err(AskError::Invalid(_)) => json!({ "error": "invalid" }),
        Err(other) => json!({ "error": other.to_string() }),
    };
    Ok(json!({ "answer": answer, "default": default, "invalid": invalid }))
}

fn agents(ctx: &Context) -> Result<Value, Error> {
    let child = ctx.spawn::<Value>("echo", &json!({ "hello": "child" }))?;
    let id = child.id().starts_with("run_");
    let (echo, again) = (child.wait()?, child.wait()?);
    let limits = ChildLimits::inherited().fuel(50_000_000).deadline(Duration::from_secs(10));
    let fail = Fail { what: "fail", code: "no_rows", message: "none" };
    let failing = ctx.spawn_with::<Value>("probe", &fail, limits)?;
    let failed = match failing.wait() {
        Err(ChildError::Failed(failure)) => json!({
            "error": "failed",
            "stop_reason": failure.stop_reason,
            "code": failure.code,
            "message": failure.message,
        }),
        other => json!({ "other": format!("{other:?}") }),
    };
    let sleeping = ctx.spawn::<Value>("probe", &Sleep { what: "sleep", ms: 20_000 })?;
    sleeping.cancel();
    let cancelled = match sleeping.wait() {
        Err(ChildError::Failed(failure)) => json!({ "error": "failed", "stop_reason": failure.stop_reason }),
        other => json!({ "other": format!("{other:?}") }),
    };
    let denied = match ctx.spawn::<Value>("nobody", &json!({})) {
        Err(SpawnError::Denied(_)) => json!({ "error": "denied" }),
        other => json!({ "other": format!("{other:?}") }),
    };
    Ok(json!({ "id": id, "echo": echo, "again": again, "failed": failed, "cancelled": cancelled, "denied": denied }))
}

/// What the agent `probe` is asked to do.
#[derive(Serialize)]
struct Fail {
    #[serde(rename = "do")]
    what: &'static str,
    code: &'static str,
    message: &'static str,
}

#[derive(Serialize)]
struct Sleep {
    #[serde(rename = "do")]
    what: &'static str,
    ms: u64,
}

fn names(folder: &str) -> std::io::Result<Vec<String>> {
    let entries = std::fs::read_dir(folder)?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names = names.collect::<std::io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

// Of the C library that the standard library stands on; here it asks `wasi:random`.
unsafe extern "C" {
    fn getentropy(buffer: *mut u8, length: usize) -> i32;
}
