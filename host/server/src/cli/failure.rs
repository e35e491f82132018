//! Why a verb failed, its exit code, and what to do next.

use super::{output::printable, verbs::in_verbs};
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
                let detail = in_verbs(&problem.detail);
                let field = problem.field.as_ref().filter(|field| !detail.contains(field.as_str()));
                let field = field.map(|field| format!(" ({})", printable(field))).unwrap_or_default();
                let said = writeln!(err, "error: {}{field} [{}]", printable(&detail), printable(&problem.code));
                said.and_then(|()| match next_step(problem) {
                    Some(next) => writeln!(err, "next:  {}", printable(&next)),
                    None => Ok(()),
                })
            }
            // One line for each mistake that was found.
            Self::Build(text) | Self::Usage(text) => {
                writeln!(err, "error: {}", text.lines().map(printable).collect::<Vec<_>>().join("\n"))
            }
            Self::Host(text) => writeln!(err, "error: {}", printable(text)),
        };
    }
}

/// The next step at this terminal. The server's own hints speak of its API.
fn next_step(problem: &ProblemBody) -> Option<String> {
    let of_run = problem.field.as_ref().is_some_and(|field| field.starts_with("limits."));
    let here = match problem.code.as_str() {
        "unauthenticated" => {
            "set COFFERDAM_API_KEY, or for what operators do COFFERDAM_ADMIN_KEY, to a key of this server; `cofferdam doctor` \
             says which of them it knows"
        }
        "operator_needed" => {
            "set COFFERDAM_ADMIN_KEY to an operator's key (`serve` wrote or printed it at its first start)"
        }
        "user_needed" => "set COFFERDAM_API_KEY to a user's key; `cofferdam key create USER` makes one",
        "unknown_run" => "`cofferdam runs list` shows your runs",
        "already_ended" => "`cofferdam runs get ID` shows how it ended",
        "idempotency_key_reused" => "give a new --idempotency-key, or submit exactly what was submitted with this one",
        "limit_out_of_range" if of_run => "give a value in this range, or leave it out to have what your quota has",
        "unknown_limit" => "`cofferdam quota get USER` shows all limits, as they are for a user",
        "quota_changed" => {
            "look at what stands now, with `cofferdam quota get USER` or `cofferdam tier get NAME`, and give the version \
             that it shows as --if-match"
        }
        "invalid_query" | "invalid_json" | "invalid_body" => "`--help` after the verb says what can be given",
        "invalid_cursor" => "give it as it was printed, or leave it out to begin with the first",
        "unknown_route" | "method_not_allowed" => {
            "the server does not have this verb: use the `cofferdam` that the server is started with"
        }
        // An answer's request id is nothing that is shown here.
        _ if problem.status == 500 => "try again; if it lasts, the log of the server says more, at this time",
        _ => return problem.hint.as_deref().map(|hint| in_verbs(hint).into_owned()),
    };
    Some(here.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{parse_object, problem::Problem};
    use cofferdam_core::{
        identity::WrongRole,
        quota::{QuotaError, RowError},
    };
    use cofferdam_runtime::{AnswerError, EditError};

    #[test]
    fn no_next_step_speaks_of_the_api() {
        let row = |row| Problem::from(EditError::Document(QuotaError::Row(row)));
        let out_of_range = |above: Option<String>| {
            row(RowError::OutOfRange { name: "runs_at_once", value: 9, floor: 1, cap: 5, above })
        };
        let no_object = parse_object::<Vec<u8>>(b"no").expect_err("no JSON");
        let problems = [
            Problem::unauthenticated(),
            Problem::from(WrongRole::OperatorNeeded),
            Problem::from(WrongRole::UserNeeded),
            Problem::no_such_run(),
            Problem::no_such_plugin(&"echo".parse().expect("a name"), None),
            Problem::invalid_query("limit is 0"),
            Problem::invalid_cursor("after", "one"),
            Problem::cursor_ahead("after"),
            Problem::host_error(),
            Problem::from(no_object),
            Problem::from(AnswerError::NotWaiting("")),
            Problem::from(EditError::Stale),
            Problem::from(EditError::Document(QuotaError::UnknownTier { asked: "x".into(), known: "default".into() })),
            row(RowError::Unknown { name: "x".into(), nearest: None }),
            row(RowError::NotANumber { name: "runs_at_once", value: "\"9\"".into(), floor: 1, cap: 5 }),
            out_of_range(None),
            out_of_range(Some("tier \"pro\"".into())),
        ];
        for problem in problems {
            let problem = problem.body();
            let next = next_step(&problem).unwrap_or_else(|| panic!("{problem:?} has no next step"));
            for word in ["GET ", "PUT ", "POST ", "/v1/", "openapi", "header", "ETag", "X-Request-Id"] {
                assert!(
                    !next.contains(word) && !in_verbs(&problem.detail).contains(word),
                    "{word}: {problem:?}: {next}"
                );
            }
        }
    }
}
