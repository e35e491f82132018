//! Calls every import, politely, and says what came back.
//!
//! The input names what to do, as `{"do": "budget"}`; the output is what the host answered. Where the host may refuse,
//! it is `{"ok": …}` or `{"error": {"kind": …, …}}` with the error's case in snake case. See [`Do`] for all of it.

use std::io::Write;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cofferdam_sdk::{
    Access, Agent, AskError, Child, ChildError, ChildLimits, Context, Error, EventError, Level, Needs, Pending,
    Question, Scope, SpawnError, State, StateError, ToolError, WaitError, export_agent,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// One thing to do.
#[derive(Deserialize, JsonSchema)]
#[serde(tag = "do", rename_all = "snake_case")]
enum Do {
    /// Everything that identifies the run.
    Context {},
    /// What is left to the run.
    Budget {},
    Thinking {
        text: String,
    },
    /// `fraction` is a number, or a text such as "NaN", which JSON has no number for.
    Progress {
        fraction: Value,
        note: String,
    },
    Emit {
        name: String,
        payload: Value,
    },
    Log {
        level: LogLevel,
        text: String,
    },
    ListTools {},
    Call(Call),
    /// As `call`, but a refusal ends the run, as the SDK turns it into the agent's error.
    MustCall(Call),
    /// Starts all calls, then waits for them in the order of `wait` (indices into `calls`; by default as started).
    /// Gives the answers in the order of the waiting. A call that cannot be started has its error as its answer.
    Parallel {
        calls: Vec<Call>,
        #[serde(default)]
        wait: Option<Vec<usize>>,
    },
    /// Starts a call, asks whether it is ready every millisecond until it is, then waits. Gives the answer and how often
    /// it asked.
    Poll(Call),
    /// Starts a call and drops the handle.
    Abandon(Call),
    FileList {
        path: String,
    },
    /// Reads a whole text file, chunk by chunk.
    FileRead {
        path: String,
    },
    FileWrite {
        path: String,
        text: String,
        #[serde(default)]
        append: bool,
    },
    StateGet(Key),
    StateSet {
        #[serde(flatten)]
        key: Key,
        #[serde(flatten)]
        content: Content,
    },
    StateDelete(Key),
    StateList {
        scope: KeyScope,
        #[serde(default)]
        prefix: String,
        #[serde(default)]
        after: Option<String>,
        #[serde(default = "a_page")]
        limit: u32,
    },
    /// `expected` is the version, or null for an absent key.
    StateCas {
        #[serde(flatten)]
        key: Key,
        expected: Option<u64>,
        #[serde(flatten)]
        content: Content,
    },
    /// The wall clock in milliseconds since 1970, and two readings of the monotonic clock.
    Clock {},
    /// Random bytes, as hexadecimal digits. At most 256.
    Random {
        bytes: usize,
    },
    /// Prints lines to standard output, then to standard error.
    Print {
        #[serde(default)]
        stdout: Vec<String>,
        #[serde(default)]
        stderr: Vec<String>,
    },
    /// The environment and the number of arguments.
    Env {},
    /// What the standard library can reach of files: for each attempt the kind of error, or what it found.
    Fs {},
    /// Something with the standard library's files: `op` is write, append, read, list, rename, remove, make_dir,
    /// remove_dir, size, resize or copy.
    Std {
        op: String,
        path: String,
        #[serde(default)]
        to: String,
        #[serde(default)]
        text: String,
        #[serde(default)]
        size: u64,
    },
    /// How many bytes standard input has.
    Stdin {},
    /// Sleeps as `std::thread::sleep` does, in its sandbox.
    Sleep {
        ms: u64,
    },
    /// Waits until so many milliseconds from now, by the wall clock.
    SleepUntil {
        in_ms: u64,
    },
    /// Asks people. Without a schema any answer will do.
    Ask {
        prompt: String,
        #[serde(default = "any_value")]
        schema: Value,
        #[serde(default)]
        expires_ms: Option<u64>,
        #[serde(default)]
        default: Option<Value>,
    },
    /// Starts an agent, asks it to stop if `cancel` says so, and waits for its output unless `wait` is false. Gives its run
    /// and what came of it, or why it was not started.
    Spawn {
        #[serde(flatten)]
        child: ChildSpec,
        #[serde(default = "yes")]
        wait: bool,
    },
    /// Starts all children, then waits for them in the order of `wait` (indices into `specs`, the same as often as one
    /// likes; by default as started). Gives as `spawn` does, in the order of the waiting.
    Children {
        specs: Vec<ChildSpec>,
        #[serde(default)]
        wait: Option<Vec<usize>>,
    },
    /// Gives the value back.
    Echo {
        value: Value,
    },
    /// Does one after another and gives their outputs. The first that ends the run ends it.
    Seq {
        steps: Vec<Do>,
    },
    Fail {
        code: String,
        message: String,
    },
    FailDenied {
        text: String,
    },
    Invalid {
        text: String,
    },
}

#[derive(Deserialize, JsonSchema)]
struct Call {
    name: String,
    #[serde(default = "no_arguments")]
    args: Value,
}

#[derive(Deserialize, JsonSchema)]
struct Key {
    scope: KeyScope,
    key: String,
}

/// What to store, and for how long.
#[derive(Deserialize, JsonSchema)]
struct Content {
    #[serde(default)]
    text: String,
    /// So many zero bytes after the text.
    #[serde(default)]
    zeros: usize,
    #[serde(default)]
    ttl_ms: Option<u64>,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum KeyScope {
    Thread,
    User,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
}

/// A child to start.
#[derive(Deserialize, JsonSchema)]
struct ChildSpec {
    agent: String,
    #[serde(default)]
    input: Value,
    #[serde(default)]
    fuel: Option<u64>,
    #[serde(default)]
    memory_bytes: Option<u64>,
    #[serde(default)]
    deadline_ms: Option<u64>,
    /// Asks it to stop as soon as it is started.
    #[serde(default)]
    cancel: bool,
}

fn any_value() -> Value {
    json!(true)
}

fn yes() -> bool {
    true
}

fn no_arguments() -> Value {
    json!({})
}

fn a_page() -> u32 {
    1000
}

struct Probe;

impl Agent for Probe {
    type Input = Do;
    type Output = Value;
    const DESCRIPTION: &'static str = "Calls every import, politely, and says what came back.";

    fn needs() -> Needs {
        Needs::none()
            .tools(["file.*", "units.*", "effects.*"])
            .state(Access::ReadWrite)
            .workspace(Access::ReadWrite)
            .agents(["*"])
            .human()
    }

    fn run(ctx: &Context, input: Do) -> Result<Value, Error> {
        perform(ctx, input)
    }
}

export_agent!(Probe);

fn perform(ctx: &Context, step: Do) -> Result<Value, Error> {
    Ok(match step {
        Do::Context {} => json!({
            "user_id": ctx.user_id(),
            "request_id": ctx.request_id(),
            "run_id": ctx.run_id(),
            "parent_run_id": ctx.parent_run_id(),
            "thread_id": ctx.thread_id(),
            "session_id": ctx.session_id(),
            "metadata": ctx.metadata::<Value>()?,
        }),
        Do::Budget {} => {
            let left = ctx.budget();
            json!({
                "fuel": left.fuel,
                "memory_bytes": left.memory_bytes,
                "wall_ms": left.wall_ms,
                "tool_calls": left.tool_calls,
                "events": left.events,
            })
        }
        Do::Thinking { text } => of_event(ctx.thinking(&text)),
        Do::Progress { fraction, note } => {
            let fraction = match &fraction {
                Value::String(text) => text.parse().ok(),
                other => other.as_f64(),
            };
            let fraction = fraction.ok_or_else(|| Error::invalid_input("`fraction` is not a number"))?;
            of_event(ctx.progress(fraction, &note))
        }
        Do::Emit { name, payload } => of_event(ctx.emit(&name, &payload)),
        Do::Log { level, text } => {
            let level = match level {
                LogLevel::Debug => Level::Debug,
                LogLevel::Info => Level::Info,
                LogLevel::Warn => Level::Warn,
                LogLevel::Error => Level::Error,
            };
            of_event(ctx.log(level, &text))
        }
        Do::ListTools {} => {
            let tools = ctx.tools().into_iter().map(|tool| {
                // A schema that is not JSON is the host's mistake, to be seen as it is.
                let schema = serde_json::from_str(&tool.input_schema).unwrap_or(Value::String(tool.input_schema));
                json!({
                    "name": tool.name,
                    "description": tool.description,
                    "input_schema": schema,
                    "idempotent": tool.idempotent,
                })
            });
            tools.collect()
        }
        Do::Call(Call { name, args }) => of_tool(ctx.call::<Value>(&name, &args)),
        Do::MustCall(Call { name, args }) => ctx.call(&name, &args)?,
        Do::Parallel { calls, wait } => parallel(ctx, &calls, wait)?,
        Do::Poll(Call { name, args }) => match ctx.start::<Value>(&name, &args) {
            Ok(pending) => {
                let mut asked = 1;
                while !pending.ready() {
                    asked += 1;
                    std::thread::sleep(Duration::from_millis(1));
                }
                json!({"asked": asked, "answer": of_tool(pending.wait())})
            }
            Err(error) => of_tool::<Value>(Err(error)),
        },
        Do::Abandon(Call { name, args }) => of_tool(ctx.start::<Value>(&name, &args).map(drop)),
        Do::FileList { path } => of_tool(ctx.files().list(&path).map(|listing| {
            let entries = listing.entries.into_iter().map(|entry| {
                let kind = format!("{:?}", entry.kind).to_lowercase();
                json!({"name": entry.name, "kind": kind, "bytes": entry.bytes})
            });
            json!({"entries": entries.collect::<Value>(), "truncated": listing.truncated})
        })),
        Do::FileRead { path } => of_tool(ctx.files().read_to_string(&path)),
        Do::FileWrite { path, text, append: false } => of_tool(ctx.files().write(&path, &text)),
        Do::FileWrite { path, text, append: true } => of_tool(ctx.files().append(&path, &text)),
        Do::StateGet(Key { scope, key }) => of_state(state(ctx, scope, None).get(&key).map(|stored| {
            stored.map(|stored| {
                let text = String::from_utf8_lossy(&stored.value);
                json!({"text": text, "bytes": stored.value.len(), "version": stored.version})
            })
        })),
        Do::StateSet { key: Key { scope, key }, content } => {
            of_state(state(ctx, scope, content.ttl_ms).set(&key, &content.bytes()))
        }
        Do::StateDelete(Key { scope, key }) => of_state(state(ctx, scope, None).delete(&key)),
        Do::StateList { scope, prefix, after, limit } => {
            of_state(state(ctx, scope, None).list(&prefix, after.as_deref(), limit))
        }
        Do::StateCas { key: Key { scope, key }, expected, content } => {
            of_state(state(ctx, scope, content.ttl_ms).compare_and_swap(&key, expected, &content.bytes()))
        }
        Do::Clock {} => {
            let (first, second) = (Instant::now(), Instant::now());
            let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            json!({"wall_ms": wall.as_millis() as u64, "monotonic_step_ns": (second - first).as_nanos() as u64})
        }
        Do::Random { bytes } => {
            let mut random = vec![0_u8; bytes.min(256)];
            // SAFETY: the buffer is as long as the length says; `getentropy` takes at most 256 bytes.
            let status = unsafe { getentropy(random.as_mut_ptr(), random.len()) };
            let digits = random.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            json!({"status": status, "hex": digits})
        }
        Do::Print { stdout, stderr } => {
            let (mut printed, mut complained) = (true, true);
            for line in &stdout {
                printed &= writeln!(std::io::stdout(), "{line}").is_ok();
            }
            for line in &stderr {
                complained &= writeln!(std::io::stderr(), "{line}").is_ok();
            }
            json!({"stdout": printed, "stderr": complained})
        }
        Do::Env {} => {
            let variables: Vec<_> = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned()).collect();
            json!({"variables": variables, "arguments": std::env::args_os().count()})
        }
        Do::Fs {} => json!({
            "read_dir /": attempt(std::fs::read_dir("/").map(Iterator::count)),
            "read_dir .": attempt(std::fs::read_dir(".").map(Iterator::count)),
            "read /etc/passwd": attempt(std::fs::read("/etc/passwd").map(|bytes| bytes.len())),
            "write /x": attempt(std::fs::write("/x", "x")),
            "write x": attempt(std::fs::write("x", "x")),
            "remove /": attempt(std::fs::remove_dir_all("/")),
        }),
        Do::Std { op, path, to, text, size } => standard(&op, &path, &to, &text, size),
        Do::Stdin {} => attempt(std::io::copy(&mut std::io::stdin(), &mut std::io::sink())),
        Do::Sleep { ms } => {
            let started = Instant::now();
            std::thread::sleep(Duration::from_millis(ms));
            json!({"slept_ms": started.elapsed().as_millis() as u64})
        }
        Do::SleepUntil { in_ms } => of_wait(ctx.sleep_until(SystemTime::now() + Duration::from_millis(in_ms))),
        Do::Ask { prompt, schema, expires_ms, default } => {
            let mut question = Question::new(prompt).schema(&schema);
            if let Some(expires_ms) = expires_ms {
                question = question.expires_after(Duration::from_millis(expires_ms));
            }
            if let Some(default) = default {
                question = question.default_answer(&default);
            }
            of_ask(ctx.ask(question))
        }
        Do::Spawn { child, wait } => of_child(spawn(ctx, &child).as_ref(), wait),
        Do::Children { specs, wait } => children(ctx, &specs, wait)?,
        Do::Echo { value } => value,
        Do::Seq { steps } => steps.into_iter().map(|step| perform(ctx, step)).collect::<Result<Value, _>>()?,
        Do::Fail { code, message } => return Err(Error::Failed { code, message }),
        Do::FailDenied { text } => return Err(Error::denied(text)),
        Do::Invalid { text } => return Err(Error::invalid_input(text)),
    })
}

/// What `std::fs` makes of it.
fn standard(op: &str, path: &str, to: &str, text: &str, size: u64) -> Value {
    use std::fs::{self, OpenOptions};
    match op {
        "write" => attempt(fs::write(path, text)),
        "append" => {
            let file = OpenOptions::new().append(true).create(true).open(path);
            attempt(file.and_then(|mut file| file.write_all(text.as_bytes())))
        }
        "read" => attempt(fs::read_to_string(path)),
        "list" => attempt(fs::read_dir(path).and_then(|entries| {
            entries
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect::<std::io::Result<Vec<_>>>()
        })),
        "rename" => attempt(fs::rename(path, to)),
        "remove" => attempt(fs::remove_file(path)),
        "make_dir" => attempt(fs::create_dir(path)),
        "remove_dir" => attempt(fs::remove_dir(path)),
        "size" => attempt(fs::metadata(path).map(|metadata| metadata.len())),
        "resize" => attempt(OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(size))),
        "copy" => attempt(fs::copy(path, to)),
        other => json!({"error": {"kind": "unknown", "text": other}}),
    }
}

fn parallel(ctx: &Context, calls: &[Call], wait: Option<Vec<usize>>) -> Result<Value, Error> {
    let started = calls.iter().map(|call| ctx.start::<Value>(&call.name, &call.args));
    let mut started: Vec<Option<Result<Pending<Value>, ToolError>>> = started.map(Some).collect();
    let order = wait.unwrap_or_else(|| (0..calls.len()).collect());
    let answers = order.into_iter().map(|index| match started.get_mut(index).and_then(Option::take) {
        Some(started) => Ok(of_tool(started.and_then(Pending::wait))),
        None => {
            Err(Error::invalid_input(format!("`wait` names the call {index}, which does not exist or was waited for")))
        }
    });
    answers.collect()
}

fn spawn(ctx: &Context, spec: &ChildSpec) -> Result<Child<Value>, SpawnError> {
    let mut limits = ChildLimits::inherited();
    if let Some(fuel) = spec.fuel {
        limits = limits.fuel(fuel);
    }
    if let Some(memory_bytes) = spec.memory_bytes {
        limits = limits.memory_bytes(memory_bytes);
    }
    if let Some(deadline_ms) = spec.deadline_ms {
        limits = limits.deadline(Duration::from_millis(deadline_ms));
    }
    let child = ctx.spawn_with(&spec.agent, &spec.input, limits)?;
    if spec.cancel {
        child.cancel();
    }
    Ok(child)
}

fn children(ctx: &Context, specs: &[ChildSpec], wait: Option<Vec<usize>>) -> Result<Value, Error> {
    let started: Vec<_> = specs.iter().map(|spec| spawn(ctx, spec)).collect();
    let order = wait.unwrap_or_else(|| (0..specs.len()).collect());
    let answers = order.into_iter().map(|index| match started.get(index) {
        Some(started) => Ok(of_child(started.as_ref(), true)),
        None => Err(Error::invalid_input(format!("`wait` names the child {index}, which does not exist"))),
    });
    answers.collect()
}

impl Content {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.text.clone().into_bytes();
        bytes.resize(bytes.len() + self.zeros, 0);
        bytes
    }
}

fn state(ctx: &Context, scope: KeyScope, ttl_ms: Option<u64>) -> State<'_> {
    let state = ctx.state(match scope {
        KeyScope::Thread => Scope::Thread,
        KeyScope::User => Scope::User,
    });
    match ttl_ms {
        Some(ttl_ms) => state.expiring_after(Duration::from_millis(ttl_ms)),
        None => state,
    }
}

fn of_tool<T: Serialize>(outcome: Result<T, ToolError>) -> Value {
    let error = match outcome {
        Ok(answer) => return json!({"ok": answer}),
        Err(ToolError::UnknownTool(text)) => json!({"kind": "unknown_tool", "text": text}),
        Err(ToolError::Denied(text)) => json!({"kind": "denied", "text": text}),
        Err(ToolError::InvalidArguments(text)) => json!({"kind": "invalid_arguments", "text": text}),
        Err(ToolError::TooLarge(limit)) => json!({"kind": "too_large", "limit": limit}),
        Err(ToolError::Exhausted(text)) => json!({"kind": "exhausted", "text": text}),
        Err(ToolError::NotFound(text)) => json!({"kind": "not_found", "text": text}),
        Err(ToolError::Failed(text)) => json!({"kind": "failed", "text": text}),
        Err(ToolError::OutcomeUnknown(text)) => json!({"kind": "outcome_unknown", "text": text}),
        Err(ToolError::UnexpectedAnswer(text)) => json!({"kind": "unexpected_answer", "text": text}),
    };
    json!({"error": error})
}

fn of_event(outcome: Result<(), EventError>) -> Value {
    let error = match outcome {
        Ok(()) => return json!({"ok": null}),
        Err(EventError::TooMany(limit)) => json!({"kind": "too_many", "limit": limit}),
        Err(EventError::TooLarge(limit)) => json!({"kind": "too_large", "limit": limit}),
        Err(EventError::Full(limit)) => json!({"kind": "full", "limit": limit}),
        Err(EventError::Exhausted(text)) => json!({"kind": "exhausted", "text": text}),
        Err(EventError::Invalid(text)) => json!({"kind": "invalid", "text": text}),
    };
    json!({"error": error})
}

fn of_state<T: Serialize>(outcome: Result<T, StateError>) -> Value {
    let error = match outcome {
        Ok(answer) => return json!({"ok": answer}),
        Err(StateError::Denied(text)) => json!({"kind": "denied", "text": text}),
        Err(StateError::Invalid(text)) => json!({"kind": "invalid", "text": text}),
        Err(StateError::TooLarge(limit)) => json!({"kind": "too_large", "limit": limit}),
        Err(StateError::Full(limit)) => json!({"kind": "full", "limit": limit}),
        Err(StateError::Conflict(version)) => json!({"kind": "conflict", "version": version}),
        Err(StateError::Unavailable) => json!({"kind": "unavailable"}),
        Err(StateError::Exhausted(text)) => json!({"kind": "exhausted", "text": text}),
        Err(StateError::NotJson(text)) => json!({"kind": "not_json", "text": text}),
    };
    json!({"error": error})
}

fn of_wait(outcome: Result<(), WaitError>) -> Value {
    match outcome {
        Ok(()) => json!({"ok": null}),
        Err(error) => json!({"error": wait_error(error)}),
    }
}

fn wait_error(error: WaitError) -> Value {
    match error {
        WaitError::Invalid(text) => json!({"kind": "invalid", "text": text}),
        WaitError::Unavailable(text) => json!({"kind": "unavailable", "text": text}),
        WaitError::Exhausted(text) => json!({"kind": "exhausted", "text": text}),
    }
}

fn of_ask(outcome: Result<Value, AskError>) -> Value {
    let error = match outcome {
        Ok(answer) => return json!({"ok": answer}),
        Err(AskError::Denied(text)) => json!({"kind": "denied", "text": text}),
        Err(AskError::Invalid(text)) => json!({"kind": "invalid", "text": text}),
        Err(AskError::Expired) => json!({"kind": "expired"}),
        Err(AskError::Unavailable(text)) => json!({"kind": "unavailable", "text": text}),
        Err(AskError::Exhausted(text)) => json!({"kind": "exhausted", "text": text}),
        Err(AskError::UnexpectedAnswer(text)) => json!({"kind": "unexpected_answer", "text": text}),
    };
    json!({"error": error})
}

/// A child's run as `id`, and as `answer` what it gave, or null if nobody waited for it.
fn of_child(started: Result<&Child<Value>, &SpawnError>, wait: bool) -> Value {
    let error = match started {
        Ok(child) => return json!({"id": child.id(), "answer": wait.then(|| of_output(child.wait()))}),
        Err(SpawnError::Denied(text)) => json!({"kind": "denied", "text": text}),
        Err(SpawnError::UnknownAgent(text)) => json!({"kind": "unknown_agent", "text": text}),
        Err(SpawnError::Invalid(text)) => json!({"kind": "invalid", "text": text}),
        Err(SpawnError::TooMany(text)) => json!({"kind": "too_many", "text": text}),
        Err(SpawnError::Exhausted(text)) => json!({"kind": "exhausted", "text": text}),
        Err(SpawnError::Unavailable(text)) => json!({"kind": "unavailable", "text": text}),
    };
    json!({"error": error})
}

fn of_output(outcome: Result<Value, ChildError>) -> Value {
    let error = match outcome {
        Ok(output) => return json!({"ok": output}),
        Err(ChildError::Failed(failure)) => json!({
            "kind": "failed",
            "stop_reason": failure.stop_reason,
            "code": failure.code,
            "text": failure.message,
        }),
        Err(ChildError::Wait(error)) => json!({"kind": "wait", "wait": wait_error(error)}),
        Err(ChildError::UnexpectedOutput(text)) => json!({"kind": "unexpected_output", "text": text}),
    };
    json!({"error": error})
}

fn attempt<T: Serialize>(outcome: std::io::Result<T>) -> Value {
    match outcome {
        Ok(found) => json!({"ok": found}),
        Err(error) => json!({"error": {"kind": format!("{:?}", error.kind()), "text": error.to_string()}}),
    }
}

// Of the C library that the standard library stands on; here it asks `wasi:random`.
unsafe extern "C" {
    fn getentropy(buffer: *mut u8, length: usize) -> i32;
}
