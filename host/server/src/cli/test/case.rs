//! A case of `cofferdam test` as its file says it, and what stands in for tools and agents in it.

use super::compare::same;
use anyhow::{Context as _, anyhow, bail};
use cofferdam_core::{
    Json,
    event::ToolFailure,
    grant::Permissions,
    quota::LimitsAsked,
    run::{RunError, StopReason},
};
use cofferdam_runtime::StandIns;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    path::{Component, Path},
    sync::{Mutex, PoisonError},
};

/// The largest file of a case, in bytes.
const CASE_BYTES_MAX: u64 = 8 << 20;

/// A case: what the plugin gets, what stands around it, and what is expected.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Case {
    /// The input, or the arguments of a tool.
    pub input: Value,
    /// Of a tool plugin: which tool is called.
    pub tool: Option<String>,
    /// What is granted; all that the plugin needs if not said.
    pub grant: Option<Permissions>,
    /// The user's files, by path.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// The plugin's state: `user/KEY` or `thread/KEY`.
    #[serde(default)]
    pub state: BTreeMap<String, Value>,
    /// What tools answer, by full name, in order. Tools that are not named are the host's own.
    #[serde(default)]
    tools: BTreeMap<String, Vec<Answer>>,
    /// What people answer, in order.
    #[serde(default)]
    pub answers: Vec<Value>,
    /// What agents end with that this one starts, by name, in order.
    #[serde(default)]
    agents: BTreeMap<String, Vec<Outcome>>,
    /// Limits lower than the defaults.
    #[serde(default)]
    limits: Limits,
    /// What must come of it.
    pub expect: Expect,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limits {
    fuel: Option<u64>,
    memory_bytes: Option<u64>,
    deadline_ms: Option<u64>,
}

/// What must come of it. What is not said is not looked at, but for the end: a run must complete unless another is expected.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Expect {
    /// The whole output.
    #[serde(default, deserialize_with = "said")]
    pub output: Option<Value>,
    /// The error.
    pub error: Option<ExpectedError>,
    /// How it ends.
    pub stop_reason: Option<String>,
    /// Events that come in this order; others may come between.
    #[serde(default)]
    pub events: Vec<ExpectedEvent>,
    /// The user's files afterwards, by path; null for one that is not there.
    #[serde(default)]
    pub files: BTreeMap<String, Option<String>>,
    /// The plugin's state afterwards; null for a key that is not there.
    #[serde(default)]
    pub state: BTreeMap<String, Value>,
}

/// Tells `null`, which is a value, from nothing.
fn said<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExpectedError {
    /// Its code.
    pub code: Option<String>,
    /// A part of its message.
    pub message: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExpectedEvent {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// What its payload has at least.
    #[serde(default)]
    pub payload: Value,
}

/// One answer of a tool.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    /// Only to these arguments; to any if not said.
    args: Option<Value>,
    #[serde(default, deserialize_with = "said")]
    ok: Option<Value>,
    error: Option<ToolFails>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ToolFails {
    kind: String,
    #[serde(default)]
    message: String,
}

/// The cases of the contract's `tool-error`.
const TOOL_ERRORS: [&str; 8] =
    ["unknown_tool", "denied", "invalid_arguments", "too_large", "exhausted", "not_found", "failed", "outcome_unknown"];

/// What a started agent ends with.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Outcome {
    /// Only for this input; for any if not said.
    input: Option<Value>,
    #[serde(default, deserialize_with = "said")]
    ok: Option<Value>,
    error: Option<AgentFails>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AgentFails {
    #[serde(default = "guest_error")]
    stop_reason: String,
    code: Option<String>,
    #[serde(default)]
    message: String,
}

fn guest_error() -> String {
    StopReason::GuestError.as_str().to_owned()
}

impl Case {
    /// Reads a case.
    pub fn read(file: &Path) -> anyhow::Result<Self> {
        let cannot = || format!("cannot read {}", file.display());
        // Before it is opened: to open a pipe is to wait for who writes into it.
        if !fs::metadata(file).with_context(cannot)?.is_file() {
            bail!("{} is not a regular file: write the case itself there", file.display());
        }
        let mut bytes = Vec::new();
        let opened = fs::File::open(file).with_context(cannot)?;
        opened.take(CASE_BYTES_MAX + 1).read_to_end(&mut bytes).with_context(cannot)?;
        if bytes.len() as u64 > CASE_BYTES_MAX {
            bail!("{} has more than the {CASE_BYTES_MAX} bytes that are allowed in a case", file.display());
        }
        let text = String::from_utf8(bytes).with_context(|| format!("cannot read {} as text", file.display()))?;
        Self::parse(&text).map_err(|(line, why)| anyhow!("{}:{line}: {why}", file.display()))
    }

    /// Reads the text of a case, or says in which line it goes wrong and why.
    fn parse(text: &str) -> Result<Self, (usize, String)> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let read = serde_path_to_error::deserialize::<_, Self>(&mut deserializer).map_err(|error| {
            let (at, inner) = (error.path().to_string(), error.into_inner());
            // The parser's own message ends with the place, which is told in front.
            let why = inner.to_string();
            let why = why.split(" at line ").next().unwrap_or_default().to_owned();
            (inner.line(), if at == "." { why } else { format!("{at}: {why}") })
        });
        let case = read.and_then(|case| {
            deserializer.end().map(|()| case).map_err(|error| (error.line(), "something follows the case".to_owned()))
        })?;
        case.checked().map_err(|(name, why)| (line_of(text, &name), why))?;
        Ok(case)
    }

    /// What the shape alone does not say; with a name by which the place can be found.
    fn checked(&self) -> Result<(), (String, String)> {
        for (tool, answers) in &self.tools {
            if tool.parse::<cofferdam_core::grant::ToolPattern>().is_err() || tool.contains('*') {
                return Err((tool.clone(), format!("tools: {tool:?} is no tool's full name: write \"file.read\"")));
            }
            for Answer { ok, error, .. } in answers {
                if ok.is_some() == error.is_some() {
                    return Err((tool.clone(), format!("tools.{tool}: an answer has either \"ok\" or \"error\"")));
                }
                if let Some(kind) =
                    error.as_ref().map(|error| &error.kind).filter(|k| !TOOL_ERRORS.contains(&k.as_str()))
                {
                    let known = TOOL_ERRORS.join(", ");
                    return Err((
                        kind.clone(),
                        format!("tools.{tool}: there is no kind {kind:?} of error, but {known}"),
                    ));
                }
            }
        }
        for (agent, outcomes) in &self.agents {
            for Outcome { ok, error, .. } in outcomes {
                if ok.is_some() == error.is_some() {
                    return Err((agent.clone(), format!("agents.{agent}: an end has either \"ok\" or \"error\"")));
                }
                if let Some(error) = error.as_ref().filter(|error| stop_reason(&error.stop_reason).is_none()) {
                    let known = StopReason::ALL.map(StopReason::as_str).join(", ");
                    let word = &error.stop_reason;
                    return Err((
                        word.clone(),
                        format!("agents.{agent}: there is no stop reason {word:?}, but {known}"),
                    ));
                }
            }
        }
        if let Some(word) = self.expect.stop_reason.as_ref().filter(|word| stop_reason(word).is_none()) {
            let known = StopReason::ALL.map(StopReason::as_str).join(", ");
            return Err((word.clone(), format!("expect.stop_reason: there is no {word:?}, but {known}")));
        }
        for key in self.state.keys().chain(self.expect.state.keys()) {
            if !["user/", "thread/"].iter().any(|scope| key.strip_prefix(scope).is_some_and(|key| !key.is_empty())) {
                return Err((
                    key.clone(),
                    format!("state: {key:?} has no scope: write \"user/KEY\" or \"thread/KEY\""),
                ));
            }
        }
        for path in self.files.keys().chain(self.expect.files.keys()) {
            let inside = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
            if path.is_empty() || !inside {
                return Err((path.clone(), format!("files: {path:?} is no path inside the workspace")));
            }
        }
        Ok(())
    }

    /// Its limits.
    pub const fn limits(&self) -> LimitsAsked {
        let Limits { fuel, memory_bytes, deadline_ms } = self.limits;
        LimitsAsked { fuel, memory_bytes, deadline_ms }
    }
}

/// The line in which a word first stands in quotes.
fn line_of(text: &str, word: &str) -> usize {
    let quoted = Value::from(word).to_string();
    let before = text.split(&quoted).next().unwrap_or_default();
    before.matches('\n').count() + 1
}

fn stop_reason(word: &str) -> Option<StopReason> {
    StopReason::ALL.into_iter().find(|reason| reason.as_str() == word)
}

/// What stands in for the tools and agents that a case names. Answers are used up in order.
#[derive(Debug)]
pub(super) struct Scripted {
    left: Mutex<Left>,
}

#[derive(Debug)]
struct Left {
    tools: BTreeMap<String, Vec<Answer>>,
    agents: BTreeMap<String, Vec<Outcome>>,
    /// Calls that there was no answer for.
    unexpected: Vec<String>,
}

impl Scripted {
    /// Takes them out of a case.
    pub fn of(case: &mut Case) -> Self {
        let (tools, agents) = (std::mem::take(&mut case.tools), std::mem::take(&mut case.agents));
        Self { left: Mutex::new(Left { tools, agents, unexpected: Vec::new() }) }
    }

    /// What was asked that there was no answer for.
    pub fn unexpected(&self) -> Vec<String> {
        self.left().unexpected.clone()
    }

    fn left(&self) -> std::sync::MutexGuard<'_, Left> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the first that fits.
fn take<T>(left: Option<&mut Vec<T>>, given: &Json, only: impl Fn(&T) -> Option<&Value>) -> Option<T> {
    let left = left?;
    let given = given.read::<Value>().ok()?;
    let at = left.iter().position(|answer| only(answer).is_none_or(|only| same(only, &given)))?;
    Some(left.remove(at))
}

impl StandIns for Scripted {
    fn tools(&self) -> Vec<String> {
        self.left().tools.keys().cloned().collect()
    }

    fn has_tool(&self, tool: &str) -> bool {
        self.left().tools.contains_key(tool)
    }

    fn call(&self, tool: &str, arguments: &Json) -> Result<Json, ToolFailure> {
        let mut left = self.left();
        let answer = take(left.tools.get_mut(tool), arguments, |answer| answer.args.as_ref());
        match answer {
            Some(Answer { ok: Some(ok), .. }) => Ok(Json::of(&ok)),
            Some(Answer { error: Some(ToolFails { kind, message }), .. }) => Err(ToolFailure { code: kind, message }),
            _ => {
                let why =
                    format!("{tool} is called with {}, and the case has no answer left for it", arguments.as_str());
                left.unexpected.push(why.clone());
                Err(ToolFailure { code: "failed".into(), message: why })
            }
        }
    }

    fn has_agent(&self, agent: &str) -> bool {
        self.left().agents.contains_key(agent)
    }

    fn run(&self, agent: &str, input: &Json) -> Result<Json, (StopReason, RunError)> {
        let mut left = self.left();
        match take(left.agents.get_mut(agent), input, |outcome| outcome.input.as_ref()) {
            Some(Outcome { ok: Some(ok), .. }) => Ok(Json::of(&ok)),
            Some(Outcome { error: Some(AgentFails { stop_reason: word, code, message }), .. }) => {
                let reason = stop_reason(&word).unwrap_or(StopReason::GuestError);
                Err((reason, RunError { code: code.unwrap_or(word), message }))
            }
            _ => {
                let why = format!("{agent} is started with {}, and the case has no end left for it", input.as_str());
                left.unexpected.push(why.clone());
                Err((StopReason::GuestError, RunError { code: "failed".into(), message: why }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_cannot_be_read_of_a_case_is_told_with_its_line() {
        for (text, line, says) in [
            ("{\n \"input\": 1,\n}", 3, "trailing comma"),
            ("{\"input\": 1}", 1, "missing field `expect`"),
            ("{\"input\": 1,\n \"expect\": {\"outptu\": 1}}", 2, "expect.outptu: unknown field `outptu`"),
            ("{\"input\": 1,\n \"expect\": {}}\n\nx", 4, "something follows"),
            ("{\"input\": 1, \"grant\": {\"tools\": [\"File\"]}, \"expect\": {}}", 1, "names no tool"),
            ("{\"input\": 1, \"expect\": {},\n \"state\": {\"times\": 1}}", 2, "has no scope"),
            ("{\"input\": 1, \"expect\": {},\n\n \"files\": {\"../x\": \"\"}}", 3, "no path inside"),
            ("{\"input\": 1, \"expect\": {},\n \"files\": {\"/x\": \"\"}}", 2, "no path inside"),
            ("{\"input\": 1, \"expect\": {},\n \"tools\": {\"file.*\": []}}", 2, "no tool's full name"),
            ("{\"input\": 1, \"expect\": {},\n \"tools\": {\"file.read\": [{}]}}", 2, "either \"ok\" or \"error\""),
            (
                "{\"input\": 1, \"expect\": {},\n \"tools\": {\"file.read\": [{\"error\":\n {\"kind\": \"gone\"}}]}}",
                3,
                "there is no kind \"gone\" of error",
            ),
            ("{\"input\": 1, \"expect\":\n {\"stop_reason\": \"done\"}}", 2, "there is no \"done\""),
        ] {
            let (at, why) = Case::parse(text).expect_err(text);
            assert!(at == line && why.contains(says), "{text}: line {at}: {why}");
        }
    }

    #[test]
    fn answers_are_used_up_in_order_and_by_their_arguments() {
        let text = json!({
            "input": null,
            "tools": { "a.b": [{ "args": { "n": 1 }, "ok": "one" }, { "ok": "first" }, { "ok": null }] },
            "agents": { "c": [{ "ok": 1 }] },
            "expect": {},
        });
        let mut case = Case::parse(&text.to_string()).expect("a case");
        let scripted = Scripted::of(&mut case);
        let call =
            |n: f64| scripted.call("a.b", &Json::of(&json!({ "n": n }))).map(|answer| answer.as_str().to_owned());
        assert!(scripted.has_tool("a.b") && !scripted.has_tool("a.c") && scripted.has_agent("c"));
        assert_eq!(call(2.0).as_deref(), Ok("\"first\""));
        assert_eq!(call(1.0).as_deref(), Ok("\"one\""));
        assert_eq!(call(1.0).as_deref(), Ok("null"));
        assert!(call(1.0).expect_err("none left").message.contains("no answer left"));
        assert!(scripted.run("c", &Json::of(&1)).is_ok() && scripted.run("c", &Json::of(&1)).is_err());
        assert_eq!(scripted.unexpected().len(), 2);
    }
}
