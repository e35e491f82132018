//! What a client sees of a run: a closed set of events, each with its place in the run's log.

use crate::{
    Json,
    codec::Format,
    ids::{Digest, PluginName, RunId},
    run::{Children, StopReason, Usage},
};
use bincode::{Decode, Encode, de::Decoder, error::DecodeError};
use jiff::Timestamp;
use serde::{Serialize, Serializer, ser::SerializeStruct};
use std::time::Duration;

/// The largest arguments shown in a `tool_executing` event, in bytes. Larger ones are left out, with their size told:
/// what a tool is given is often a whole file, and the log of a run should not hold it twice.
pub const ARGUMENTS_SHOWN_BYTES_MAX: usize = 4 << 10;

/// The text of a digest, as it is stored.
const DIGEST_TEXT_BYTES: usize = "sha256:".len() + 64;

/// Something that happened in a run.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
#[bincode(decode_context = "crate::codec::Format")]
pub enum Event {
    /// The run was admitted and begins. Always the first event of an admitted run.
    AgentStarted {
        /// The name that the agent was asked for by.
        agent: PluginName,
        /// The component.
        digest: Digest,
        /// How long it was throttled before.
        throttled: ThrottledMs,
    },
    /// The agent says what it is working on.
    AgentThinking {
        /// In the agent's words.
        text: String,
    },
    /// A tool call begins.
    ToolExecuting {
        /// Number among the run's tool calls, from 1: not the call's number in its record, where all calls count.
        call: u32,
        /// The tool's full name.
        tool: String,
        /// What it is given, if that is at most [`ARGUMENTS_SHOWN_BYTES_MAX`].
        arguments: Option<Json>,
        /// The size of what it is given.
        arguments_bytes: u64,
    },
    /// A tool call has ended.
    ToolCompleted {
        /// Number among the run's tool calls, from 1.
        call: u32,
        /// The tool's full name.
        tool: String,
        /// Why it failed, if it did.
        error: Option<ToolFailure>,
        /// The size of its answer.
        result_bytes: u64,
        /// How long it took.
        elapsed_ms: u64,
    },
    /// The agent returned an output. The output itself is read from the run.
    AgentCompleted {
        /// The size of the output.
        output_bytes: u64,
        /// What the run took.
        usage: Usage,
        /// What became of the runs that it started.
        children: Children,
    },
    /// The run ended without an output.
    AgentError {
        /// Why.
        stop_reason: StopReason,
        /// For programs.
        code: String,
        /// For people.
        message: String,
        /// What the run took.
        usage: Usage,
        /// What became of the runs that it started.
        children: Children,
    },
    /// How far the agent has come.
    Progress {
        /// From 0 to 1.
        fraction: f64,
        /// In the agent's words.
        note: String,
    },
    /// A line for whoever looks into the run.
    Log {
        /// How serious.
        level: LogLevel,
        /// The line.
        text: String,
    },
    /// An event of the agent's own.
    Custom {
        /// Its name, without `custom:`.
        name: String,
        /// Whatever the agent says.
        payload: Json,
    },
    /// The run ended because somebody asked for it. On the wire an `agent_error` like any other, with who asked; a
    /// variant of its own, so that the stored form of the others stays what it was.
    AgentCancelled {
        /// The key that it was asked with.
        by: String,
        /// For people.
        message: String,
        /// What the run took.
        usage: Usage,
        /// What became of the runs that it started.
        children: Children,
    },
    /// The run is put away until there is what it waits for.
    RunWaiting {
        /// For what: `time`, `human`, `approval`, `child`, `memory`, `storage` or `retry`.
        waits_for: String,
        /// Number of the call in the run's record whose answer it waits for: among all of its calls, not its tool calls.
        call: u64,
        /// What there is to know of it: a JSON object. Of a question its prompt, the schema of the answer, and the default.
        about: Json,
        /// When it goes on by itself, in RFC 3339, if it does.
        until: Option<String>,
    },
}

/// How long a run was throttled before it began, in milliseconds: its user's fuel of the minute was used up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Serialize)]
pub struct ThrottledMs(pub u64);

impl Decode<Format> for ThrottledMs {
    fn decode<D: Decoder<Context = Format>>(decoder: &mut D) -> Result<Self, DecodeError> {
        if decoder.context().tells_throttling() { Ok(Self(u64::decode(decoder)?)) } else { Ok(Self::default()) }
    }
}

bincode::impl_borrow_decode_with_context!(ThrottledMs, Format);

/// Why a tool call failed, in an event.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct ToolFailure {
    /// For programs: `unknown_tool`, `denied`, `invalid_arguments`, `too_large`, `exhausted`, `not_found`, `failed`.
    pub code: String,
    /// For people.
    pub message: String,
}

/// How serious a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// For the author.
    Debug,
    /// For the curious.
    Info,
    /// Something is odd.
    Warn,
    /// Something went wrong.
    Error,
}

impl Event {
    /// The type's name on the wire; `custom:NAME` for an agent's own.
    #[must_use]
    pub fn type_name(&self) -> std::borrow::Cow<'static, str> {
        match self {
            Self::AgentStarted { .. } => "agent_started".into(),
            Self::AgentThinking { .. } => "agent_thinking".into(),
            Self::ToolExecuting { .. } => "tool_executing".into(),
            Self::ToolCompleted { .. } => "tool_completed".into(),
            Self::AgentCompleted { .. } => "agent_completed".into(),
            Self::AgentError { .. } | Self::AgentCancelled { .. } => "agent_error".into(),
            Self::RunWaiting { .. } => "run_waiting".into(),
            Self::Progress { .. } => "progress".into(),
            Self::Log { .. } => "log".into(),
            Self::Custom { name, .. } => format!("custom:{name}").into(),
        }
    }

    /// From 1, the run's life, to 4, its log: under pressure 4 is dropped first, then 3; 1 and 2 never.
    #[must_use]
    pub const fn priority(&self) -> u8 {
        match self {
            Self::AgentStarted { .. }
            | Self::AgentCompleted { .. }
            | Self::AgentError { .. }
            | Self::AgentCancelled { .. }
            | Self::RunWaiting { .. } => 1,
            Self::AgentThinking { .. } | Self::ToolExecuting { .. } | Self::ToolCompleted { .. } => 2,
            Self::Progress { .. } | Self::Custom { .. } => 3,
            Self::Log { .. } => 4,
        }
    }

    /// Whether nothing comes after it.
    #[must_use]
    pub const fn is_terminal(&self) -> bool {
        matches!(self, Self::AgentCompleted { .. } | Self::AgentError { .. } | Self::AgentCancelled { .. })
    }

    /// About how much memory it holds, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        64 + match self {
            Self::AgentThinking { text } | Self::Log { text, .. } | Self::Progress { note: text, .. } => text.len(),
            Self::AgentStarted { agent, .. } => agent.as_str().len() + DIGEST_TEXT_BYTES,
            Self::ToolExecuting { tool, arguments, .. } => {
                tool.len() + arguments.as_ref().map_or(0, |a| a.as_str().len())
            }
            Self::ToolCompleted { tool, error, .. } => tool.len() + error.as_ref().map_or(0, |e| e.message.len()),
            Self::AgentError { code, message, .. } => code.len() + message.len(),
            Self::AgentCancelled { by, message, .. } => by.len() + message.len(),
            Self::Custom { name, payload } => name.len() + payload.as_str().len(),
            Self::RunWaiting { about, .. } => about.as_str().len(),
            Self::AgentCompleted { .. } => 0,
        }
    }
}

/// The payload: the event's fields without its type.
struct Payload<'a>(&'a Event);

impl Serialize for Payload<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        macro_rules! fields {
            ($($name:literal: $value:expr),+) => {{
                let mut payload = serializer.serialize_struct("payload", [$($name),+].len())?;
                $(payload.serialize_field($name, $value)?;)+
                payload.end()
            }};
        }
        match self.0 {
            Event::AgentStarted { agent, digest, throttled: ThrottledMs(0) } => {
                fields!("agent": agent, "digest": digest)
            }
            Event::AgentStarted { agent, digest, throttled } => {
                fields!("agent": agent, "digest": digest, "throttled_ms": throttled)
            }
            Event::AgentThinking { text } => fields!("text": text),
            Event::ToolExecuting { call, tool, arguments, arguments_bytes } => {
                fields!("call": call, "tool": tool, "arguments": arguments, "arguments_bytes": arguments_bytes)
            }
            Event::ToolCompleted { call, tool, error, result_bytes, elapsed_ms } => {
                fields!("call": call, "tool": tool, "ok": &error.is_none(), "error": error,
                    "result_bytes": result_bytes, "elapsed_ms": elapsed_ms)
            }
            Event::AgentCompleted { output_bytes, usage, children } if children.any() => {
                fields!("stop_reason": &StopReason::Completed, "output_bytes": output_bytes, "usage": usage,
                    "children": children, "partial_failure": &(children.failed > 0))
            }
            Event::AgentCompleted { output_bytes, usage, .. } => {
                fields!("stop_reason": &StopReason::Completed, "output_bytes": output_bytes, "usage": usage)
            }
            Event::AgentError { stop_reason, code, message, usage, children } if children.any() => {
                fields!("stop_reason": stop_reason, "code": code, "message": message, "usage": usage,
                    "children": children)
            }
            Event::AgentError { stop_reason, code, message, usage, .. } => {
                fields!("stop_reason": stop_reason, "code": code, "message": message, "usage": usage)
            }
            Event::AgentCancelled { by, message, usage, children } => {
                let reason = StopReason::Cancelled;
                if children.any() {
                    fields!("stop_reason": &reason, "code": reason.as_str(), "message": message, "cancelled_by": by,
                        "usage": usage, "children": children)
                } else {
                    fields!("stop_reason": &reason, "code": reason.as_str(), "message": message, "cancelled_by": by,
                        "usage": usage)
                }
            }
            Event::RunWaiting { waits_for, call, about, until } => {
                fields!("for": waits_for, "call": call, "about": about, "until": until)
            }
            Event::Progress { fraction, note } => fields!("fraction": fraction, "note": note),
            Event::Log { level, text } => fields!("level": level, "text": text),
            Event::Custom { payload, .. } => payload.serialize(serializer),
        }
    }
}

/// An event with its place in the log of its run.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    /// Place in the run's log: from 1, without holes.
    pub seq: u64,
    /// The run.
    pub run_id: RunId,
    /// When it was recorded.
    pub at: Timestamp,
    /// What happened.
    pub event: Event,
}

impl Serialize for Envelope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut envelope = serializer.serialize_struct("envelope", 6)?;
        envelope.serialize_field("seq", &self.seq)?;
        envelope.serialize_field("run_id", &self.run_id)?;
        envelope.serialize_field("at", &self.at)?;
        envelope.serialize_field("type", &self.event.type_name())?;
        envelope.serialize_field("priority", &self.event.priority())?;
        envelope.serialize_field("payload", &Payload(&self.event))?;
        envelope.end()
    }
}

impl Event {
    /// The first event of an admitted run.
    #[must_use]
    pub fn started(agent: &PluginName, digest: &Digest, throttled: Duration) -> Self {
        let throttled = ThrottledMs(u64::try_from(throttled.as_millis()).unwrap_or(u64::MAX));
        Self::AgentStarted { agent: agent.clone(), digest: *digest, throttled }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_looks_as_the_wire_says() {
        let run_id = RunId::generate();
        let at = Timestamp::UNIX_EPOCH;
        let event = Event::Custom { name: "chart".into(), payload: Json::parse("[1, 2]").expect("JSON") };
        let text = serde_json::to_string(&Envelope { seq: 3, run_id, at, event }).expect("serializes");
        assert_eq!(
            text,
            format!(
                r#"{{"seq":3,"run_id":"{run_id}","at":"1970-01-01T00:00:00Z","type":"custom:chart","priority":3,"payload":[1, 2]}}"#
            )
        );
    }
}
