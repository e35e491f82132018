//! A run that waits: for what, until when, and what it was told.
//!
//! A run that waits has no sandbox, no slot and no memory, only its journal and one [`Wait`] in storage. What it waits for
//! brings it back into the queue, and it is executed again up to the call in which it waited.

use crate::{
    Json,
    ids::{KeyId, RunId},
    run::{StopReason, Usage},
};
use bincode::{Decode, Encode};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What a run waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitFor {
    /// For a time to come.
    Time,
    /// For somebody's answer to a question.
    Human {
        /// The question, for a person to read.
        prompt: String,
        /// JSON Schema of the answer.
        schema: Json,
        /// The answer if nobody gives one in time.
        #[serde(skip_serializing_if = "Option::is_none")]
        default: Option<Json>,
    },
    /// For somebody to allow a tool call.
    Approval {
        /// The tool's full name.
        tool: String,
        /// What it is to be given.
        arguments: Json,
        /// JSON Schema of the answer.
        schema: Json,
    },
    /// For the end of a run that it started.
    Child {
        /// The run.
        run_id: RunId,
    },
    /// For the host to have memory again.
    Memory,
    /// For the host's storage to work again, in which it had failed the run.
    Storage,
    /// For its next attempt, after one that failed.
    Retry {
        /// Which one failed, from 1.
        attempt: u32,
        /// Why.
        stop_reason: StopReason,
        /// For programs: the stop reason, or the agent's own code.
        code: String,
        /// For people.
        message: String,
    },
}

impl WaitFor {
    /// The word on the wire for a run that waits for its next attempt.
    pub const RETRY: &str = "retry";

    /// The word on the wire.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Time => "time",
            Self::Human { .. } => "human",
            Self::Approval { .. } => "approval",
            Self::Child { .. } => "child",
            Self::Memory => "memory",
            Self::Storage => "storage",
            Self::Retry { .. } => Self::RETRY,
        }
    }

    /// What a client is told of it: a JSON object.
    #[must_use]
    pub fn about(&self) -> Json {
        let mut whole = serde_json::to_value(self).unwrap_or_default();
        let about = whole.get_mut(self.as_str()).map(serde_json::Value::take);
        about.map_or_else(Json::empty_object, |about| Json::of(&about))
    }

    /// Whether it is for what the host should have, and nothing that the guest asked for.
    #[must_use]
    pub const fn is_for_host(&self) -> bool {
        matches!(self, Self::Memory | Self::Storage)
    }

    /// JSON Schema of the answer that somebody may give, if anybody may.
    #[must_use]
    pub const fn schema(&self) -> Option<&Json> {
        match self {
            Self::Human { schema, .. } | Self::Approval { schema, .. } => Some(schema),
            Self::Time | Self::Child { .. } | Self::Memory | Self::Storage | Self::Retry { .. } => None,
        }
    }
}

/// What a run had taken when it was put away. What is executed again up to there is not charged again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TakenBefore {
    /// Time since it was admitted, without the time that it waited, in milliseconds.
    pub wall_ms: u64,
    /// Time in which its guests, or the host on their behalf, were executing, in milliseconds.
    pub active_ms: u64,
    /// Fuel.
    pub fuel: u64,
    /// Bytes that it held, times the seconds for which it did.
    pub memory_byte_seconds: u64,
    /// How often it was put away for want of what the host should have had, memory or storage, one after the other.
    #[serde(rename = "memory_waits")]
    pub host_waits: u32,
    /// What its tools had taken of its budgets: they are not executed again, so nobody would count it.
    #[serde(default)]
    pub tools: ToolsTook,
    /// What its attempts before this one had taken, and were charged.
    #[serde(default)]
    pub earlier: Earlier,
}

/// What tools took of budgets of the run that called them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, Encode, Decode)]
pub struct ToolsTook {
    /// Calls to the host.
    pub host_calls: u64,
    /// Events.
    pub events: u64,
    /// Their bytes.
    pub event_bytes: u64,
    /// Bytes of log lines.
    pub log_bytes: u64,
}

impl ToolsTook {
    /// This and another tool's.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            host_calls: self.host_calls.saturating_add(other.host_calls),
            events: self.events.saturating_add(other.events),
            event_bytes: self.event_bytes.saturating_add(other.event_bytes),
            log_bytes: self.log_bytes.saturating_add(other.log_bytes),
        }
    }

    /// Of two sums of the same run, each at its time: the later one, whichever that is. They only grow.
    #[must_use]
    pub fn or_later(self, other: Self) -> Self {
        Self {
            host_calls: self.host_calls.max(other.host_calls),
            events: self.events.max(other.events),
            event_bytes: self.event_bytes.max(other.event_bytes),
            log_bytes: self.log_bytes.max(other.log_bytes),
        }
    }
}

/// The attempts at a run that have failed, before the one that all the rest is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Earlier {
    /// How many.
    pub attempts: u32,
    /// What they took together; of their memory the most that one of them held. Events are counted in the log.
    pub usage: Usage,
}

impl Earlier {
    /// These, and one more that took so much.
    #[must_use]
    pub const fn and(self, usage: Usage) -> Self {
        Self { attempts: self.attempts.saturating_add(1), usage: self.usage.with_earlier(usage) }
    }
}

/// That a run waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// Number of the call in its record whose answer it waits for; 0 if it is not a call's.
    pub call: u64,
    /// For what.
    pub waits_for: WaitFor,
    /// Since when.
    pub since: Timestamp,
    /// When it goes on by itself, if it does.
    pub until: Option<Timestamp>,
    /// What it had taken.
    pub taken: TakenBefore,
    /// Of a run that waits for its host: the wait before this one, with its answer, of which its guest has not been told yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<Box<StoredWait>>,
}

/// What somebody answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// With which key.
    pub by: KeyId,
    /// When.
    pub at: Timestamp,
    /// What.
    pub value: Json,
}

/// A wait as it stands in storage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredWait {
    /// The wait that the run came to last.
    pub wait: Wait,
    /// What was answered, if somebody has.
    pub answer: Option<Answer>,
}

impl StoredWait {
    /// What the run's guest is to be told when it goes on. A wait for the host is none of its own; the one before it may be.
    #[must_use]
    pub fn into_told(self) -> Option<Self> {
        if self.wait.waits_for.is_for_host() { self.wait.told.map(|told| *told) } else { Some(self) }
    }
}

/// What became of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    /// It is the answer.
    Taken,
    /// There was one already.
    Already,
    /// The run does not wait for an answer to this call.
    NotWaiting,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn an_answer_is_not_forgotten_while_its_run_waits_for_the_host() {
        let wait = |call, waits_for, told| Wait {
            call,
            waits_for,
            since: clock::now(),
            until: None,
            taken: TakenBefore::default(),
            told,
        };
        let schema = Json::parse("true").expect("JSON");
        let answer = Answer { by: KeyId::generate(), at: clock::now(), value: schema.clone() };
        let question = wait(3, WaitFor::Human { prompt: "?".into(), schema, default: None }, None);
        let answered = StoredWait { wait: question, answer: Some(answer) };
        let mut stands = answered.clone();
        for waits_for in [WaitFor::Memory, WaitFor::Storage, WaitFor::Memory] {
            // One after the other, and each as it is kept.
            let text = serde_json::to_string(&wait(0, waits_for, stands.into_told().map(Box::new))).expect("written");
            stands = StoredWait { wait: serde_json::from_str(&text).expect("read"), answer: None };
        }
        assert_eq!(stands.into_told(), Some(answered));
        let nothing = StoredWait { wait: wait(0, WaitFor::Storage, None), answer: None };
        assert_eq!(nothing.into_told(), None);
    }
}
