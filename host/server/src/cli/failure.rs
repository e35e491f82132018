//! Why a verb failed, its exit code, and what to do next.

use super::output::printable;
use crate::api::problem::ProblemBody;
use std::{io::Write as _, process::ExitCode};

/// Why a verb failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The run ended without an output. What there is to say about it has been printed.
    Run,
    /// The build failed.
    Build(String),
    /// The command line, or what it names, cannot be used.
    Usage(String),
    /// The server said no, and why.
    Refused(Box<ProblemBody>),
    /// The server cannot be reached, or the host failed.
    Host(String),
}

impl Failure {
    /// The exit code that the help promises.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Run | Self::Build(_) => 1,
            Self::Usage(_) => 2,
            Self::Refused(problem) if problem.status < 500 => 3,
            Self::Refused(_) | Self::Host(_) => 4,
        })
    }

    /// Whether the same may work a little later: the server is gone, going, or has no room.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Refused(problem) => problem.status >= 500 || problem.status == 429,
            Self::Host(_) => true,
            Self::Run | Self::Build(_) | Self::Usage(_) => false,
        }
    }

    /// Says it on standard error.
    pub fn print(&self, json: bool) {
        let mut err = std::io::stderr().lock();
        // Nobody is left to tell that standard error is closed.
        let _ = match self {
            Self::Run => Ok(()),
            Self::Refused(problem) if json => match serde_json::to_string(problem) {
                Ok(text) => writeln!(err, "{text}"),
                Err(_) => Ok(()),
            },
            Self::Refused(problem) => {
                let field = problem.field.as_ref().map(|field| format!(" ({})", printable(field))).unwrap_or_default();
                let said = writeln!(err, "error: {}{field} [{}]", printable(&problem.detail), printable(&problem.code));
                said.and_then(|()| match next_step(problem) {
                    Some(next) => writeln!(err, "next:  {}", printable(&next)),
                    None => Ok(()),
                })
            }
            // One line for each mistake that was found.
            Self::Build(text) => {
                writeln!(err, "error: {}", text.lines().map(printable).collect::<Vec<_>>().join("\n"))
            }
            Self::Usage(text) | Self::Host(text) => writeln!(err, "error: {}", printable(text)),
        };
    }
}

/// The next step at this terminal. The server's own hints speak of its API.
fn next_step(problem: &ProblemBody) -> Option<String> {
    let here = match problem.code.as_str() {
        "unauthenticated" => "set COFFERDAM_API_KEY to a key of this server (`cofferdam serve --dev` prints one)",
        "operator_needed" => {
            "set COFFERDAM_ADMIN_KEY to an operator's key (`serve` wrote or printed it at its first start)"
        }
        "user_needed" => "set COFFERDAM_API_KEY to a user's key; `cofferdam key create USER` makes one",
        "unknown_run" => "`cofferdam runs list` shows your runs",
        "already_ended" => "`cofferdam runs get ID` shows how it ended",
        "idempotency_key_reused" => "give a new --idempotency-key, or submit exactly what was submitted with this one",
        "limit_out_of_range" => "leave the limit out to have your own, or choose one within the bounds",
        "unknown_agent" | "unknown_plugin" => "`cofferdam plugin list` shows the plugins",
        _ => return problem.hint.clone(),
    };
    Some(here.into())
}
