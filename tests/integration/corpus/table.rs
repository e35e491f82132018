//! What a scenario is: a guest, what it is allowed, and how it must end.

use crate::component::Core;
use serde_json::{Map, Value, json};

/// How much later than its limit a run may be over, in milliseconds.
const OVER_RUN_MS_MAX: u64 = 100;
/// The same for guests that use bulk memory operations, which the host cannot interrupt.
const BULK_OVER_RUN_MS_MAX: u64 = 400;

/// One row.
pub struct Scenario {
    /// What the guest does, in words.
    pub name: String,
    pub guest: Guest,
    /// What is asked of the host beside the quota: `fuel`, `memory_bytes`.
    pub limits: Map<String, Value>,
    pub deadline_ms: u64,
    pub over_run_ms_max: u64,
    pub end: End,
    pub granted: bool,
    /// How often it is run, one after another.
    pub times: u32,
    /// How many of it run side by side. A user has five at once.
    pub at_once: u32,
    pub input: Value,
}

pub enum Guest {
    /// The component `hostile`, whose input says which attack it is.
    Hostile,
    /// One written by hand.
    Core(Box<Core>),
    /// Bytes, to be uploaded as they are.
    Bytes(Vec<u8>),
}

pub enum End {
    /// The run ends by itself, or by a limit, with this stop reason.
    Stops(&'static str),
    /// The run is cancelled once it has begun, and ends as cancelled.
    Cancelled,
    /// The upload is refused, with this code.
    Refused(&'static str),
}

impl End {
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Stops(reason) => reason,
            Self::Cancelled => "cancelled",
            Self::Refused(_) => "refused",
        }
    }
}

fn scenario(name: impl Into<String>, guest: Guest, input: Value) -> Scenario {
    Scenario {
        name: name.into(),
        guest,
        limits: Map::new(),
        deadline_ms: 5_000,
        over_run_ms_max: OVER_RUN_MS_MAX,
        end: End::Stops("completed"),
        granted: true,
        times: 1,
        at_once: 1,
        input,
    }
}

/// A guest written by hand, which completes unless the row says otherwise.
pub fn wat(name: impl Into<String>, core: Core) -> Scenario {
    scenario(name, Guest::Core(Box::new(core)), json!("input"))
}

/// An attack of the component `hostile`.
pub fn hostile(name: impl Into<String>, input: Value) -> Scenario {
    scenario(name, Guest::Hostile, input)
}

/// Bytes that are refused.
pub fn bytes(name: impl Into<String>, bytes: Vec<u8>) -> Scenario {
    scenario(name, Guest::Bytes(bytes), Value::Null)
}

impl Scenario {
    pub fn fuel(mut self, fuel: u64) -> Self {
        self.limits.insert("fuel".into(), json!(fuel));
        self
    }

    pub fn memory_mib(mut self, mib: u64) -> Self {
        self.limits.insert("memory_bytes".into(), json!(mib << 20));
        self
    }

    /// Ends at this deadline.
    pub fn deadline(mut self, ms: u64) -> Self {
        self.deadline_ms = ms;
        self.ends("deadline")
    }

    pub const fn bulk(self) -> Self {
        self.over_run(BULK_OVER_RUN_MS_MAX)
    }

    /// May be over so many milliseconds after its limit.
    pub const fn over_run(mut self, ms: u64) -> Self {
        self.over_run_ms_max = ms;
        self
    }

    pub fn ends(mut self, reason: &'static str) -> Self {
        self.end = End::Stops(reason);
        self
    }

    pub fn traps(self) -> Self {
        self.ends("trap")
    }

    pub fn cancelled(mut self) -> Self {
        self.end = End::Cancelled;
        self
    }

    pub fn refused(mut self, code: &'static str) -> Self {
        self.end = End::Refused(code);
        self
    }

    pub const fn ungranted(mut self) -> Self {
        self.granted = false;
        self
    }

    pub const fn times(mut self, times: u32) -> Self {
        self.times = times;
        self
    }

    pub const fn at_once(mut self, at_once: u32) -> Self {
        self.at_once = at_once;
        self
    }

    /// With everything asked for: the row's limits and its deadline.
    pub fn limits(&self) -> Value {
        let mut limits = self.limits.clone();
        limits.insert("deadline_ms".into(), json!(self.deadline_ms));
        Value::Object(limits)
    }
}
