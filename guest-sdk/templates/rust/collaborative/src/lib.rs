//! Has other agents work side by side, and puts together what they found.

use cofferdam_sdk::{Agent, ChildError, Context, Error, Needs, export_agent};
use serde_json::{Value, json};

/// As many as one run may start.
const JOBS_MAX: usize = 16;

#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Input {
    /// What is to be done, 1 to 16 of them.
    jobs: Vec<Job>,
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Job {
    /// The agent that does it.
    agent: String,
    /// What it gets.
    input: Value,
}

#[derive(serde::Serialize, schemars::JsonSchema)]
struct Output {
    done: Vec<Done>,
    failed: Vec<Failed>,
    /// Whether nothing failed.
    complete: bool,
}

#[derive(serde::Serialize, schemars::JsonSchema)]
struct Done {
    agent: String,
    output: Value,
}

#[derive(serde::Serialize, schemars::JsonSchema)]
struct Failed {
    agent: String,
    code: String,
    message: String,
}

struct Team;

impl Agent for Team {
    type Input = Input;
    type Output = Output;
    const DESCRIPTION: &'static str = "Has other agents work side by side, and puts together what they found.";

    fn needs() -> Needs {
        Needs::none().agents(["*"])
    }

    fn run(ctx: &Context, input: Input) -> Result<Output, Error> {
        if !(1..=JOBS_MAX).contains(&input.jobs.len()) {
            let why = format!("`jobs` has {} entries, but must have 1 to {JOBS_MAX}", input.jobs.len());
            return Err(Error::invalid_input(why));
        }
        ctx.thinking(&format!("Starting {} agents", input.jobs.len()))?;
        // All of them, before the first is waited for.
        let started: Vec<_> =
            input.jobs.iter().map(|job| (&job.agent, ctx.spawn::<Value>(&job.agent, &job.input))).collect();
        let (mut done, mut failed) = (Vec::new(), Vec::new());
        for (agent, started) in started {
            let agent = agent.clone();
            let ended = match started {
                Ok(child) => child.wait().map_err(|error| match error {
                    ChildError::Failed(failure) => (failure.code, failure.message),
                    other => ("not_known".to_owned(), other.to_string()),
                }),
                Err(error) => Err(("not_started".to_owned(), error.to_string())),
            };
            ctx.emit("job", &json!({ "agent": agent, "ok": ended.is_ok() }))?;
            match ended {
                Ok(output) => done.push(Done { agent, output }),
                Err((code, message)) => failed.push(Failed { agent, code, message }),
            }
        }
        match failed.first() {
            // What little there is, is of use; nothing at all is a failure.
            Some(first) if done.is_empty() => Err(Error::failed("all_failed", first.message.clone())),
            _ => Ok(Output { complete: failed.is_empty(), done, failed }),
        }
    }
}

export_agent!(Team);
