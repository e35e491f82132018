//! A run: what was asked, how it stands, how it ended, what it took.

use crate::{
    Json,
    codec::Format,
    fault::Fault,
    ids::{Digest, KeyId, PluginName, RequestId, RunId, SessionId, ThreadId, UserId},
    quota::RunLimits,
    wait::Wait,
};
use bincode::{Decode, de::Decoder, error::DecodeError};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{str::FromStr, time::Duration};

/// Everything needed to execute a run; fixed when it is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunSpec {
    /// The run.
    pub id: RunId,
    /// For whom.
    pub user: UserId,
    /// The name that the agent was asked for by.
    pub agent: PluginName,
    /// The component that this name meant when the run was accepted.
    pub digest: Digest,
    /// The request that brought it.
    pub request: RequestId,
    /// The conversation it belongs to.
    pub thread: ThreadId,
    /// The client's lasting connection, if there was one.
    pub session: Option<SessionId>,
    /// The run that started it, if one did.
    pub parent: Option<RunId>,
    /// The client's own data, a JSON object.
    pub metadata: Json,
    /// What the agent gets.
    pub input: Json,
    /// What it may take.
    pub limits: RunLimits,
    /// Which of the user's own runs go first.
    pub priority: Priority,
    /// What becomes of it when its host goes away.
    pub durability: Durability,
    /// How often it is executed if it fails; once if nothing is said.
    pub retries: Option<Retries>,
    /// When it was accepted.
    pub created_at: Timestamp,
}

/// That a run that fails is executed again, how often at most, and after which pause. The pause doubles each time, up to
/// [`BACKOFF_MS_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RetriesAsked")]
pub struct Retries {
    attempts: u32,
    backoff_ms: u64,
}

/// How often a run may be executed, the first time included.
pub const ATTEMPTS_MAX: u32 = 10;

/// The shortest pause before a run is executed again, in milliseconds.
pub const BACKOFF_MS_MIN: u64 = 100;

/// The longest, in milliseconds.
pub const BACKOFF_MS_MAX: u64 = 3_600_000;

/// The first pause if nothing is said, in milliseconds.
pub const BACKOFF_MS: u64 = 1_000;

/// Retries as they are asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RetriesAsked {
    attempts: u32,
    #[serde(default = "default_backoff_ms")]
    backoff_ms: u64,
}

const fn default_backoff_ms() -> u64 {
    BACKOFF_MS
}

/// Retries that are out of range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoRetries {
    /// Of the attempts.
    #[error("attempts must be from 1 to {ATTEMPTS_MAX}, the first one included, not {0}")]
    Attempts(u32),
    /// Of the pause.
    #[error("backoff_ms must be from {BACKOFF_MS_MIN} to {BACKOFF_MS_MAX}, not {0}")]
    Backoff(u64),
}

impl Retries {
    /// Executed so often at most, the first time included, and so many milliseconds after it failed first.
    ///
    /// # Errors
    /// When either is out of range.
    pub fn new(attempts: u32, backoff_ms: u64) -> Result<Self, NoRetries> {
        if !(1..=ATTEMPTS_MAX).contains(&attempts) {
            return Err(NoRetries::Attempts(attempts));
        }
        if !(BACKOFF_MS_MIN..=BACKOFF_MS_MAX).contains(&backoff_ms) {
            return Err(NoRetries::Backoff(backoff_ms));
        }
        Ok(Self { attempts, backoff_ms })
    }

    /// How often the run is executed at most, the first time included.
    #[must_use]
    pub const fn attempts(self) -> u32 {
        self.attempts
    }

    /// The first pause, in milliseconds.
    #[must_use]
    pub const fn backoff_ms(self) -> u64 {
        self.backoff_ms
    }

    /// How long the run waits after an attempt that failed, the first being 1. None: that was the last.
    #[must_use]
    pub fn pause_after(self, attempt: u32) -> Option<Duration> {
        let doubled = self.backoff_ms.saturating_mul(1 << attempt.saturating_sub(1).min(32));
        (attempt < self.attempts).then(|| Duration::from_millis(doubled.min(BACKOFF_MS_MAX)))
    }
}

impl TryFrom<RetriesAsked> for Retries {
    type Error = NoRetries;
    fn try_from(asked: RetriesAsked) -> Result<Self, NoRetries> {
        Self::new(asked.attempts, asked.backoff_ms)
    }
}

/// What becomes of a run that its host's end cuts off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// It ends, as `host_shutdown` or `outcome_unknown`.
    #[default]
    Ephemeral,
    /// It goes on where it was.
    Durable,
}

impl Durability {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ephemeral => "ephemeral",
            Self::Durable => "durable",
        }
    }
}

/// Which of a user's own runs go first, where they cannot all run. It changes nothing for other users. Sorted, the highest
/// comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", try_from = "String")]
pub enum Priority {
    /// Before all others.
    High,
    /// If nothing else was said.
    #[default]
    Normal,
    /// When no other wants to run.
    Low,
}

impl Priority {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }
}

/// A word that is no priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a priority must be \"high\", \"normal\" or \"low\"")]
pub struct NoPriority;

impl FromStr for Priority {
    type Err = NoPriority;
    fn from_str(word: &str) -> Result<Self, NoPriority> {
        Self::ALL.into_iter().find(|priority| priority.as_str() == word).ok_or(NoPriority)
    }
}

impl TryFrom<String> for Priority {
    type Error = NoPriority;
    fn try_from(word: String) -> Result<Self, NoPriority> {
        word.parse()
    }
}

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    /// Accepted, durable, waiting for a slot.
    Queued,
    /// Executing.
    Running,
    /// Put away until there is what it waits for.
    Waiting,
    /// Ended with an output.
    Succeeded,
    /// Ended without one.
    Failed,
    /// Stopped because somebody asked.
    Cancelled,
}

impl RunStatus {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Queued, Self::Running, Self::Waiting, Self::Succeeded, Self::Failed, Self::Cancelled];

    /// Whether it is an end.
    #[must_use]
    pub const fn has_ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// The word on the wire and in storage.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The status that a word means.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }

    /// Whether nothing more will happen.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// Why a run ended. Every run has exactly one.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, bincode::Encode, bincode::Decode,
)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The agent returned an output.
    Completed,
    /// The agent returned an error.
    GuestError,
    /// The agent's code trapped: a panic, an out-of-bounds access, a stack overflow, an exit.
    Trap,
    /// The fuel was used up.
    OutOfFuel,
    /// The agent ended because memory was refused to it.
    MemoryLimit,
    /// The time was up.
    Deadline,
    /// Somebody asked for the end.
    Cancelled,
    /// The agent ended because something was not granted to it.
    Denied,
    /// The run was never admitted: it waited too long for a slot. Or it was refused something of a budget as often again
    /// as the budget has in all.
    Quota,
    /// The output was larger than the limit.
    OutputTooLarge,
    /// The output was not JSON.
    InvalidOutput,
    /// The host stopped before the run had ended. Nothing outside the run was changed.
    HostShutdown,
    /// The host stopped before the run had ended, and the run may have changed something outside itself.
    OutcomeUnknown,
    /// The host failed.
    HostError,
}

impl StopReason {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Completed,
        Self::GuestError,
        Self::Trap,
        Self::OutOfFuel,
        Self::MemoryLimit,
        Self::Deadline,
        Self::Cancelled,
        Self::Denied,
        Self::Quota,
        Self::OutputTooLarge,
        Self::InvalidOutput,
        Self::HostShutdown,
        Self::OutcomeUnknown,
        Self::HostError,
    ];

    /// The word on the wire and in storage.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::GuestError => "guest_error",
            Self::Trap => "trap",
            Self::OutOfFuel => "out_of_fuel",
            Self::MemoryLimit => "memory_limit",
            Self::Deadline => "deadline",
            Self::Cancelled => "cancelled",
            Self::Denied => "denied",
            Self::Quota => "quota",
            Self::OutputTooLarge => "output_too_large",
            Self::InvalidOutput => "invalid_output",
            Self::HostShutdown => "host_shutdown",
            Self::OutcomeUnknown => "outcome_unknown",
            Self::HostError => "host_error",
        }
    }

    /// The reason that a word means.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }

    /// The status of a run that ended so.
    #[must_use]
    pub const fn status(self) -> RunStatus {
        match self {
            Self::Completed => RunStatus::Succeeded,
            Self::Cancelled => RunStatus::Cancelled,
            _ => RunStatus::Failed,
        }
    }

    /// Whether a run that ended so may end otherwise when it is executed again: by the agent's own fault or the host's, and
    /// not by a limit, a refusal or a cancel. What may have been done outside and is not known is not done again.
    #[must_use]
    pub const fn may_pass(self) -> bool {
        matches!(self.fault(), Some(Fault::Guest | Fault::Host)) && !matches!(self, Self::OutcomeUnknown)
    }

    /// Who is to blame; none for a completed run.
    #[must_use]
    pub const fn fault(self) -> Option<Fault> {
        match self {
            Self::Completed => None,
            Self::GuestError | Self::Trap | Self::OutputTooLarge | Self::InvalidOutput => Some(Fault::Guest),
            Self::OutOfFuel | Self::MemoryLimit | Self::Deadline | Self::Quota => Some(Fault::Exhausted),
            Self::Cancelled => Some(Fault::Caller),
            Self::Denied => Some(Fault::Denied),
            Self::HostShutdown | Self::OutcomeUnknown | Self::HostError => Some(Fault::Host),
        }
    }
}

/// What a run took. Reported however it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, bincode::Encode)]
pub struct Usage {
    /// Fuel: about one unit per WebAssembly instruction.
    pub fuel: u64,
    /// The most that all memories and tables held together, in bytes.
    pub memory_peak_bytes: u64,
    /// From admission to the end, in milliseconds.
    pub wall_ms: u64,
    /// Of those, the time that the guest's code, and the host on its behalf, was executing.
    pub active_ms: u64,
    /// Calls from the guest to the host, those of WASI included.
    pub host_calls: u64,
    /// Events recorded, the first and the last included.
    pub events: u64,
    /// Tool calls made, as they count against the run's limit: one that was not permitted is none.
    pub tool_calls: u64,
    /// Bytes that counted against the run's memory limit, times the seconds for which they did, rounded down.
    pub memory_byte_seconds: u64,
}

impl Usage {
    /// Of a run that was executed again: what all of its attempts took, this being the last. Its events are all in one log.
    #[must_use]
    pub const fn with_earlier(self, earlier: Self) -> Self {
        let peak = if self.memory_peak_bytes > earlier.memory_peak_bytes { self } else { earlier }.memory_peak_bytes;
        Self {
            fuel: self.fuel.saturating_add(earlier.fuel),
            memory_peak_bytes: peak,
            wall_ms: self.wall_ms.saturating_add(earlier.wall_ms),
            active_ms: self.active_ms.saturating_add(earlier.active_ms),
            host_calls: self.host_calls.saturating_add(earlier.host_calls),
            events: self.events,
            tool_calls: self.tool_calls.saturating_add(earlier.tool_calls),
            memory_byte_seconds: self.memory_byte_seconds.saturating_add(earlier.memory_byte_seconds),
        }
    }
}

impl Decode<Format> for Usage {
    fn decode<D: Decoder<Context = Format>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let mut usage = Self {
            fuel: u64::decode(decoder)?,
            memory_peak_bytes: u64::decode(decoder)?,
            wall_ms: u64::decode(decoder)?,
            active_ms: u64::decode(decoder)?,
            host_calls: u64::decode(decoder)?,
            events: u64::decode(decoder)?,
            ..Self::default()
        };
        if decoder.context().counts_tools_and_memory_time() {
            usage.tool_calls = u64::decode(decoder)?;
            usage.memory_byte_seconds = u64::decode(decoder)?;
        }
        Ok(usage)
    }
}

bincode::impl_borrow_decode_with_context!(Usage, Format);

/// What became of the runs that a run started, at all of its attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, bincode::Encode)]
pub struct Children {
    /// How many completed.
    pub succeeded: u32,
    /// How many failed.
    pub failed: u32,
    /// How many were cancelled: by their parent, by somebody, or with it, because they had not ended when it did.
    pub cancelled: u32,
}

impl Children {
    /// Whether there were any.
    #[must_use]
    pub const fn any(self) -> bool {
        self.succeeded > 0 || self.failed > 0 || self.cancelled > 0
    }

    /// Counts one more. One that goes on is cancelled, because its parent has ended.
    pub const fn count(&mut self, child: RunStatus) {
        let place = match child {
            RunStatus::Succeeded => &mut self.succeeded,
            RunStatus::Failed => &mut self.failed,
            _ => &mut self.cancelled,
        };
        *place = place.saturating_add(1);
    }
}

impl Decode<Format> for Children {
    fn decode<D: Decoder<Context = Format>>(decoder: &mut D) -> Result<Self, DecodeError> {
        if !decoder.context().counts_children() {
            return Ok(Self::default());
        }
        Ok(Self { succeeded: u32::decode(decoder)?, failed: u32::decode(decoder)?, cancelled: u32::decode(decoder)? })
    }
}

bincode::impl_borrow_decode_with_context!(Children, Format);

/// That somebody asked a run to stop. The first who asks stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CancelRequest {
    /// With which key.
    #[serde(rename = "cancelled_by")]
    pub by: KeyId,
    /// When.
    #[serde(rename = "cancel_requested_at")]
    pub at: Timestamp,
}

/// Why a run has no output, for the client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunError {
    /// For programs. The stop reason, or the agent's own code where the agent returned an error.
    pub code: String,
    /// For people.
    pub message: String,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunEnd {
    /// Why.
    pub stop_reason: StopReason,
    /// The output, if it completed.
    pub output: Option<Json>,
    /// What to tell the client, if it did not.
    pub error: Option<RunError>,
    /// What it took.
    pub usage: Usage,
    /// What became of the runs that it started.
    pub children: Children,
    /// When it was admitted, if it was.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Timestamp,
}

/// A run as its user reads it back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunView {
    /// The run.
    pub id: RunId,
    /// The name that the agent was asked for by.
    pub agent: PluginName,
    /// The component that was executed.
    pub digest: Digest,
    /// For whom.
    pub user: UserId,
    /// The conversation.
    pub thread_id: ThreadId,
    /// Which of the user's own runs go first.
    pub priority: Priority,
    /// What becomes of it when its host goes away.
    pub durability: Durability,
    /// How often it is executed if it fails; once if nothing is said.
    pub retries: Option<Retries>,
    /// Which attempt it is at, or ended with: 1 unless it was executed again.
    pub attempt: u32,
    /// The run that started it, if one did.
    pub parent_run_id: Option<RunId>,
    /// Where it stands.
    pub status: RunStatus,
    /// For what it waits, if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait: Option<Wait>,
    /// Why it ended, once it has.
    pub stop_reason: Option<StopReason>,
    /// The output of a completed run. Left out of lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<Json>,
    /// Why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<RunError>,
    /// Who asked it to stop, if somebody did before it had ended. A run that ends by itself at that very moment keeps
    /// its own end.
    #[serde(flatten)]
    pub cancel: Option<CancelRequest>,
    /// What it took; zeros until it has ended.
    pub usage: Usage,
    /// What became of the runs that it started; zeros until it has ended.
    pub children: Children,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When it was admitted.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

impl RunView {
    /// A run just accepted.
    #[must_use]
    pub fn queued(spec: &RunSpec) -> Self {
        Self {
            id: spec.id,
            agent: spec.agent.clone(),
            digest: spec.digest,
            user: spec.user.clone(),
            thread_id: spec.thread.clone(),
            priority: spec.priority,
            durability: spec.durability,
            retries: spec.retries,
            attempt: 1,
            parent_run_id: spec.parent,
            status: RunStatus::Queued,
            wait: None,
            stop_reason: None,
            output: None,
            error: None,
            cancel: None,
            usage: Usage::default(),
            children: Children::default(),
            created_at: spec.created_at,
            started_at: None,
            finished_at: None,
        }
    }

    /// Whether it completed although some of the runs that it started failed.
    #[must_use]
    pub fn is_partial_failure(&self) -> bool {
        self.status == RunStatus::Succeeded && self.children.failed > 0
    }

    /// The same run, ended.
    #[must_use]
    pub fn ended(mut self, end: &RunEnd) -> Self {
        self.status = end.stop_reason.status();
        self.wait = None;
        self.stop_reason = Some(end.stop_reason);
        self.output.clone_from(&end.output);
        self.error.clone_from(&end.error);
        self.usage = end.usage;
        self.children = end.children;
        self.started_at = end.started_at;
        self.finished_at = Some(end.finished_at);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_an_hour_and_the_last_attempt_has_none() {
        let retries = Retries::new(10, 500_000).expect("in range");
        let pauses: Vec<_> =
            (1..=10).map(|attempt| retries.pause_after(attempt).map(|pause| pause.as_secs())).collect();
        let longest = Some(3_600);
        let expected =
            [Some(500), Some(1_000), Some(2_000), longest, longest, longest, longest, longest, longest, None];
        assert_eq!(pauses, expected);
        assert_eq!(Retries::new(1, 100).expect("in range").pause_after(1), None);
        for (attempts, backoff_ms) in [(0, 100), (11, 100), (2, 99), (2, 3_600_001)] {
            assert!(Retries::new(attempts, backoff_ms).is_err(), "{attempts} {backoff_ms}");
        }
        let read = |text| serde_json::from_str::<Retries>(text);
        assert_eq!(read(r#"{"attempts":3}"#).expect("reads"), Retries::new(3, BACKOFF_MS).expect("in range"));
        for text in [r#"{"attempts":0}"#, r#"{"backoff_ms":100}"#, r#"{"attempts":2,"factor":2}"#, "3"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_what_may_end_otherwise_is_executed_again() {
        let again: Vec<_> = StopReason::ALL.into_iter().filter(|reason| reason.may_pass()).collect();
        let expected = [
            StopReason::GuestError,
            StopReason::Trap,
            StopReason::OutputTooLarge,
            StopReason::InvalidOutput,
            StopReason::HostShutdown,
            StopReason::HostError,
        ];
        assert_eq!(again, expected);
    }

    #[test]
    fn words_read_back_and_match_the_wire() {
        for status in RunStatus::ALL {
            assert_eq!(RunStatus::from_word(status.as_str()), Some(status));
            assert_eq!(serde_json::to_string(&status).expect("serializes"), format!("\"{}\"", status.as_str()));
        }
        for priority in Priority::ALL {
            assert_eq!(priority.as_str().parse(), Ok(priority));
            assert_eq!(serde_json::to_string(&priority).expect("serializes"), format!("\"{}\"", priority.as_str()));
        }
        for reason in StopReason::ALL {
            assert_eq!(StopReason::from_word(reason.as_str()), Some(reason));
            assert_eq!(serde_json::to_string(&reason).expect("serializes"), format!("\"{}\"", reason.as_str()));
            assert!(reason.status().is_terminal());
        }
    }
}
