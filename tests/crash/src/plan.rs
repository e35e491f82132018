//! What a durable run is told to do. The checker knows from the same plan what must have come of it.

use crate::random::Random;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::ops::Range;

/// The files in a user's workspace whose content is counted: one of its own for each call of `effects.put`, a line for each
/// attempt at such a call, and a line for each call of `effects.append`.
pub const PUTS_DIR: &str = "puts";
pub const ATTEMPTS_FILE: &str = "attempts";
pub const APPENDS_FILE: &str = "appends";

/// How long a tool call stays under way after its effect, so that it is met by kills.
const HOLD_MS: Range<u64> = 0..150;
/// A sleep of a second or more holds no sandbox.
const SLEEP_MS: Range<u64> = 1_000..2_000;
/// A sleep that no run comes to the end of: it is cancelled, or ends with its parent.
const ENDLESS_MS: u64 = 3_600_000;
/// How deep runs start one another.
const DEPTH_MAX: u32 = 2;

/// One thing that a run does, and gives the outcome of as one element of its output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// Says something that no other step of the run says.
    Say { text: String },
    /// Calls `effects.put` side by side, which may be made again.
    Puts { holds_ms: Vec<u64> },
    /// Calls `effects.append`, which may not, and goes on whatever it answers.
    Append { line: String, hold_ms: u64 },
    /// Sets a key that must not be there.
    Make { key: String },
    /// Sets that key again. A user's changes are numbered, so one that is made twice shows.
    Change { key: String },
    /// Reads the clock.
    Clock,
    /// Sleeps, between two readings of the clock.
    Sleep { ms: u64 },
    /// Asks a person.
    Ask { prompt: String },
    /// Starts children and waits for them.
    Children { children: Vec<Child> },
    /// Starts a child that would never end, and does not wait for it.
    Leave,
}

/// A run that another starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "agent", rename_all = "snake_case")]
pub enum Child {
    /// Gives back what it gets.
    Echo { token: String },
    /// Does what a plan says.
    Probe { plan: Vec<Step> },
}

impl Step {
    /// As the agent `probe` takes it.
    #[must_use]
    pub fn input(&self) -> Value {
        match self {
            Self::Say { text } => json!({"do": "thinking", "text": text}),
            Self::Puts { holds_ms } => {
                let args = |ms: &u64| json!({"dir": PUTS_DIR, "attempts": ATTEMPTS_FILE, "hold_ms": ms});
                let calls = holds_ms.iter().map(|ms| json!({"name": "effects.put", "args": args(ms)}));
                json!({"do": "parallel", "calls": calls.collect::<Value>()})
            }
            Self::Append { line, hold_ms } => {
                let args = json!({"path": APPENDS_FILE, "line": line, "hold_ms": hold_ms});
                json!({"do": "call", "name": "effects.append", "args": args})
            }
            Self::Make { key } => {
                json!({"do": "state_cas", "scope": "user", "key": key, "expected": null, "text": "made"})
            }
            Self::Change { key } => json!({"do": "state_set", "scope": "user", "key": key, "text": "changed"}),
            Self::Clock => json!({"do": "clock"}),
            Self::Sleep { ms } => json!({"do": "sleep_until", "in_ms": ms}),
            Self::Ask { prompt } => {
                let schema = json!({"type": "object", "required": ["number"]});
                json!({"do": "ask", "prompt": prompt, "schema": schema})
            }
            Self::Children { children } => {
                let specs = children.iter().map(|child| match child {
                    Child::Echo { token } => json!({"agent": "echo", "input": token}),
                    Child::Probe { plan } => json!({"agent": "probe", "input": input(plan)}),
                });
                json!({"do": "children", "specs": specs.collect::<Value>()})
            }
            Self::Leave => {
                let endless = Self::Sleep { ms: ENDLESS_MS }.input();
                json!({"do": "spawn", "agent": "probe", "input": endless, "wait": false})
            }
        }
    }

    /// How many children it starts.
    #[must_use]
    pub const fn children(&self) -> usize {
        match self {
            Self::Children { children } => children.len(),
            Self::Leave => 1,
            _ => 0,
        }
    }
}

/// A plan as the agent `probe` takes it.
#[must_use]
pub fn input(plan: &[Step]) -> Value {
    json!({"do": "seq", "steps": plan.iter().map(Step::input).collect::<Value>()})
}

/// All keys that runs of a plan make, those of its children among them.
#[must_use]
pub fn keys(plan: &[Step]) -> Vec<String> {
    let of_step = |step: &Step| match step {
        Step::Make { key } => vec![key.clone()],
        Step::Children { children } => {
            let of_child = |child: &Child| match child {
                Child::Echo { .. } => Vec::new(),
                Child::Probe { plan } => keys(plan),
            };
            children.iter().flat_map(of_child).collect()
        }
        _ => Vec::new(),
    };
    plan.iter().flat_map(of_step).collect()
}

/// Something to do that ends by itself, if its questions are answered.
#[must_use]
pub fn that_ends(token: &str, random: &mut Random) -> Vec<Step> {
    let mut plan = pieces(token, 0, random.between(2, 5), random);
    if random.between(0, 4) == 0 {
        plan.push(Step::Leave);
    }
    plan
}

/// Something to do that does not end: it sleeps, asks what nobody answers, or waits for children that sleep.
#[must_use]
pub fn endless(token: &str, random: &mut Random) -> Vec<Step> {
    let say = Step::Say { text: token.to_owned() };
    let sleep = Step::Sleep { ms: ENDLESS_MS };
    let waits = match random.between(0, 3) {
        0 => sleep,
        1 => Step::Ask { prompt: token.to_owned() },
        _ => {
            let plan = vec![Step::Say { text: format!("{token} child") }, sleep];
            Step::Children { children: vec![Child::Probe { plan: plan.clone() }, Child::Probe { plan }] }
        }
    };
    vec![say, waits]
}

fn pieces(token: &str, depth: u32, count: u64, random: &mut Random) -> Vec<Step> {
    let mut plan = Vec::new();
    for number in 0..count {
        let token = format!("{token}.{number}");
        plan.push(Step::Say { text: token.clone() });
        plan.extend(piece(&token, depth, random));
    }
    plan.push(Step::Say { text: format!("{token}.end") });
    plan
}

/// A few steps that belong together.
fn piece(token: &str, depth: u32, random: &mut Random) -> Vec<Step> {
    let hold = |random: &mut Random| random.between(HOLD_MS.start, HOLD_MS.end);
    match random.between(0, 7) {
        0 => (0..random.between(1, 4)).map(|_| Step::Puts { holds_ms: vec![hold(random)] }).collect(),
        1 => vec![Step::Puts { holds_ms: (0..3).map(|_| hold(random)).collect() }],
        2 => vec![Step::Append { line: token.to_owned(), hold_ms: hold(random) }],
        3 => {
            let put = Step::Puts { holds_ms: vec![hold(random)] };
            vec![Step::Make { key: token.to_owned() }, put, Step::Change { key: token.to_owned() }]
        }
        4 => vec![Step::Clock, Step::Sleep { ms: random.between(SLEEP_MS.start, SLEEP_MS.end) }, Step::Clock],
        // Only the client of a run knows of its questions.
        5 if depth == 0 => vec![Step::Ask { prompt: token.to_owned() }],
        _ if depth < DEPTH_MAX => {
            let child = |number| {
                let token = format!("{token}-{number}");
                match random.between(0, 3) {
                    0 => Child::Echo { token },
                    _ => Child::Probe { plan: pieces(&token, depth + 1, random.between(1, 3), random) },
                }
            };
            let count = 1 + u64::from(depth == 0);
            vec![Step::Children { children: (0..count).map(child).collect() }]
        }
        _ => vec![Step::Append { line: token.to_owned(), hold_ms: hold(random) }],
    }
}
