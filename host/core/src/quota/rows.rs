//! The rows of a quota: each limit with its name, unit, default, floor and ceiling, written once.

use serde::Serialize;
use std::fmt;

/// One limit of a quota: what it is called, and what it can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Its key in every document, with its unit.
    pub name: &'static str,
    /// What is limited.
    pub what: &'static str,
    /// Of what the number is: `bytes`, `ms`, `days`, or nothing for a count.
    pub unit: &'static str,
    /// What becomes of a guest, a run or a client that meets it.
    pub at_the_limit: &'static str,
    /// What it is if nobody says otherwise.
    pub default: u64,
    /// The least that it can be set to.
    pub floor: u64,
    /// The most that it can be set to on any host.
    pub ceiling: u64,
}

/// A value that a row cannot have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// There is no such row.
    #[error("there is no limit {name:?}{}; the limits are {}", .nearest.map_or_else(String::new, |nearest| format!(", did you mean {nearest:?}?")), names())]
    Unknown {
        /// What was asked for.
        name: String,
        /// The row most like it.
        nearest: Option<&'static str>,
    },
    /// It is not a whole number.
    #[error("{name} is {value}, but must be a whole number from {floor} to {cap}")]
    NotANumber {
        /// Which row.
        name: &'static str,
        /// What was given, cut short.
        value: String,
        /// The least it can be.
        floor: u64,
        /// The most it can be.
        cap: u64,
    },
    /// It is out of range.
    #[error("{name} is {value}, but must be from {floor} to {cap}{}", .above.as_ref().map_or_else(String::new, |above| format!(", which is what {above} allows")))]
    OutOfRange {
        /// Which row.
        name: &'static str,
        /// What was given.
        value: u64,
        /// The least it can be.
        floor: u64,
        /// The most it can be.
        cap: u64,
        /// What sets the most, if that is not the row's own ceiling.
        above: Option<String>,
    },
}

fn names() -> String {
    Quota::ROWS.iter().map(|row| row.name).collect::<Vec<_>>().join(", ")
}

/// Declares [`Quota`], [`QuotaEdit`] and the rows, so that a limit stands in one place.
macro_rules! rows {
    ($($(#[doc = $doc:literal])+ $name:ident: $type:ty = $default:expr, $floor:literal..=$ceiling:expr, $unit:literal, $what:literal, $at:literal;)+) => {
        /// What one user may take.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
        pub struct Quota {
            $($(#[doc = $doc])+ pub $name: $type,)+
        }

        /// Some limits: what an operator sets for a tier or a user. What is absent is what the level above says.
        #[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
        pub struct QuotaEdit {
            $($(#[doc = $doc])+ #[serde(skip_serializing_if = "Option::is_none")] pub $name: Option<$type>,)+
        }

        impl Default for Quota {
            fn default() -> Self {
                Self { $($name: $default,)+ }
            }
        }

        impl Quota {
            /// All limits, in the order in which they are told.
            pub const ROWS: &[Row] = &[
                $(Row {
                    name: stringify!($name), what: $what, unit: $unit, at_the_limit: $at,
                    default: $default as u64, floor: $floor, ceiling: $ceiling as u64,
                },)+
            ];

            /// A row's value; none if there is no such row.
            #[must_use]
            pub fn value(&self, name: &str) -> Option<u64> {
                match name {
                    $(stringify!($name) => Some(u64::from(self.$name)),)+
                    _ => None,
                }
            }

            /// With what is set, whether it is more or less.
            #[must_use]
            pub fn with(&self, edit: &QuotaEdit) -> Self {
                Self { $($name: edit.$name.unwrap_or(self.$name),)+ }
            }

            /// With what is set, where that is less.
            #[must_use]
            pub fn narrowed(&self, edit: &QuotaEdit) -> Self {
                Self { $($name: edit.$name.map_or(self.$name, |set| set.min(self.$name)),)+ }
            }
        }

        impl QuotaEdit {
            /// Whether nothing is set.
            #[must_use]
            pub fn is_empty(&self) -> bool {
                true $(&& self.$name.is_none())+
            }

            fn set(&mut self, name: &str, value: u64) -> bool {
                match name {
                    $(stringify!($name) => <$type>::try_from(value).map(|value| self.$name = Some(value)).is_ok(),)+
                    _ => false,
                }
            }
        }
    };
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

rows! {
    /// Fuel of one run.
    fuel_per_run: u64 = 10_000_000_000, 100_000..=1_000_000_000_000_000, "", "fuel of one run", "`out_of_fuel`";
    /// Fuel of all the user's runs in a minute: it fills up evenly, and a run begins when its part of it is there.
    fuel_per_minute: u64 = 100_000_000_000, 100_000..=1_000_000_000_000_000, "", "fuel of all runs of one user in a minute",
        "runs wait, `throttled`; then `quota`";
    /// All memories and tables of one context together, in bytes.
    memory_bytes_per_context: u64 = 256 * MIB, 2_097_152..=256 * MIB, "bytes", "all memories and tables of one context",
        "growth is refused; if that ends the guest, `memory_limit`";
    /// All memories and tables of all the user's live contexts together, in bytes.
    memory_bytes_per_user: u64 = GIB, 2_097_152..=TIB, "bytes", "memories and tables of all live contexts of one user",
        "the same";
    /// From admission to the end of a run, in milliseconds.
    deadline_ms: u64 = 60_000, 10..=86_400_000, "ms", "run deadline", "`deadline`";
    /// Share of the processors, against that of others, while more is asked for than there is.
    cpu_weight: u32 = 100, 1..=10_000, "", "share of the processors and of the host's slots, against others'",
        "others go first";
    /// Runs executing at once.
    runs_at_once: u32 = 5, 1..=1_024, "", "runs at once of one user", "they wait";
    /// Runs waiting for a slot; one more is refused.
    runs_queued: u32 = 100, 1..=10_000, "", "runs waiting of one user", "429 and `Retry-After`";
    /// How long a run may wait for a slot, in milliseconds.
    queue_wait_ms: u64 = 30_000, 10..=86_400_000, "ms", "longest wait for a slot", "`quota`";
    /// Runs that one run starts.
    children_per_run: u32 = 16, 1..=1_024, "", "runs that one run starts", "typed error to the guest";
    /// Runs that a run and those that it started start together.
    descendants_per_run: u32 = 64, 1..=4_096, "", "runs below one that no run started", "typed error to the guest";
    /// How many runs started one another, in a row.
    child_depth: u32 = 8, 1..=32, "", "runs that started one another, in a row", "typed error to the guest";
    /// Runs that wait for something to happen, without a slot; one more wait is refused.
    runs_waiting: u32 = 1_000, 1..=1_000_000, "", "runs of one user that wait for people, children, a time or their next attempt",
        "typed error to the guest";
    /// The longest that a run may wait for one thing, in milliseconds.
    wait_ms: u64 = 2_592_000_000, 1_000..=31_622_400_000, "ms", "longest wait of a run for a person, a child or a time",
        "typed error to the guest, or the wait expires";
    /// Tool calls of one run.
    tool_calls_per_run: u32 = 1_000, 1..=1_000_000, "", "tool calls of one run", "typed error to the guest";
    /// Tool calls of one run under way at once.
    tool_calls_in_flight: u32 = 32, 1..=256, "", "tool calls under way in one run", "typed error to the guest";
    /// Calls of one run from the guest to the host, of every kind, those of its tools included.
    host_calls_per_run: u64 = 1_000_000, 100..=1_000_000_000_000, "", "host calls of one run, of every kind",
        "typed error to the guest";
    /// Events of one run, log lines and its waits included, the host's own (start, tools, end) not.
    events_per_run: u32 = 10_000, 1..=10_000_000, "", "events of one run", "typed error to the guest";
    /// Events of one run together, those of its tool calls included, in bytes.
    event_bytes_per_run: u64 = 64 * MIB, 1_024..=16 * GIB, "bytes",
        "bytes of events of one run, those of its tool calls included", "typed error to the guest";
    /// Log lines of one run together, in bytes.
    log_bytes_per_run: u64 = 16 * MIB, 1_024..=16 * GIB, "bytes", "bytes of log lines of one run",
        "typed error to the guest";
    /// The record of one run's calls to the host, with their answers, in bytes. Beyond, the run goes on without one.
    record_bytes_per_run: u64 = 64 * MIB, 1_024..=GIB, "bytes", "record of one run's host calls and their answers",
        "the run goes on, its record ends";
    /// Keys and values of the user's state together, in bytes, with
    /// [`STATE_KEY_OVERHEAD_BYTES`](crate::quota::STATE_KEY_OVERHEAD_BYTES) for each key.
    state_bytes: u64 = 64 * MIB, 1_024..=TIB, "bytes", "state of one user", "typed error to the guest";
    /// Files of the user's workspace together, in bytes.
    workspace_bytes: u64 = GIB, 4_096..=16 * TIB, "bytes", "workspace of one user", "typed error to the guest, or 429";
    /// Files and directories in the user's workspace.
    workspace_files: u64 = 10_000, 1..=1_000_000, "", "entries in one workspace", "typed error to the guest, or 429";
    /// Files below one run's `/scratch` together, in bytes.
    scratch_bytes: u64 = 256 * MIB, 4_096..=TIB, "bytes", "`/scratch` of one run", "`insufficient-space`";
    /// Files and directories below one run's `/scratch`.
    scratch_files: u64 = 10_000, 1..=1_000_000, "", "entries in one `/scratch`", "`insufficient-space`";
    /// Finished runs that are kept; the oldest go when there are more.
    runs_stored: u64 = 1_000_000, 1..=100_000_000, "", "finished runs of one user that are kept", "the oldest go";
    /// Inputs, outputs, events and records of the user's finished runs together, in bytes; the oldest go when there is
    /// more. No run starts another while as much has to stay, because the runs that started those are there.
    history_bytes: u64 = 10 * GIB, 65_536..=16 * TIB, "bytes",
        "finished runs of one user: inputs, outputs, events and records",
        "the oldest go; typed error to the guest that starts a run while those of runs that have not ended take as much";
    /// How long a finished run is kept, in days.
    history_days: u32 = 365, 1..=36_500, "days", "age of a finished run", "it goes";
    /// Runs of one plugin that may trap or exhaust a limit one after another before its next runs have to wait.
    failures_in_a_row: u32 = 5, 1..=1_000_000, "", "runs of one plugin and user that fail one after another",
        "429 and `Retry-After`";
    /// The largest input of a run, in bytes.
    run_input_bytes: u64 = 4 * MIB, 1_024..=4 * MIB, "bytes", "input of one run", "413";
    /// How fast the bodies of the user's requests are read, together, in bytes a second: an eighth of it while other users ask
    /// the host for something.
    body_bytes_per_second: u64 = 16 * MIB, 65_536..=16 * GIB, "bytes", "bodies of one user's requests in a second; an eighth of it while other users are served", "they are read more slowly";
    /// How fast the user's runs write, together, in bytes a second: events, records, state and files. An eighth of it while
    /// other users ask the host for something.
    written_bytes_per_second: u64 = 16 * MIB, 65_536..=16 * GIB, "bytes", "what one user's runs write in a second: events, records, state and files; an eighth of it while other users are served", "they wait";
    /// The largest output of a run, in bytes.
    run_output_bytes: u64 = 4 * MIB, 1_024..=4 * MIB, "bytes", "output of one run", "`output_too_large`";
    /// WebSockets open at once.
    sockets_at_once: u32 = 3, 1..=100, "", "WebSockets of one user open at once", "429";
}

impl Quota {
    /// The row of this name.
    #[must_use]
    pub fn row(name: &str) -> Option<&'static Row> {
        Self::ROWS.iter().find(|row| row.name == name)
    }
}

/// How much of a wrong value is repeated, in characters.
const VALUE_SHOWN_CHARS_MAX: usize = 40;

impl QuotaEdit {
    /// Reads one row of a document, and keeps it if it is in range: from the row's floor to what the level above has.
    ///
    /// # Errors
    /// When there is no such row, or it cannot have that value.
    pub fn take(
        &mut self,
        name: &str,
        value: &serde_json::Value,
        above: &Quota,
        whose: Option<&dyn fmt::Display>,
    ) -> Result<(), RowError> {
        let Some(row) = Quota::row(name) else {
            let shown: String = name.chars().filter(|c| !c.is_control()).take(VALUE_SHOWN_CHARS_MAX).collect();
            return Err(RowError::Unknown { nearest: nearest(&shown), name: shown });
        };
        let cap = above.value(name).unwrap_or(row.ceiling).min(row.ceiling);
        let Some(number) = value.as_u64() else {
            let value: String = value.to_string().chars().take(VALUE_SHOWN_CHARS_MAX).collect();
            return Err(RowError::NotANumber { name: row.name, value, floor: row.floor, cap });
        };
        if !(row.floor..=cap).contains(&number) || !self.set(name, number) {
            let above = whose.filter(|_| cap < row.ceiling && number > cap).map(ToString::to_string);
            return Err(RowError::OutOfRange { name: row.name, value: number, floor: row.floor, cap, above });
        }
        Ok(())
    }

    /// What was stored, as far as this host knows it: a row that a newer host has stored, or a value that is none any
    /// more, counts as not set.
    #[must_use]
    pub fn stored(document: &serde_json::Map<String, serde_json::Value>) -> Self {
        let mut edit = Self::default();
        for (name, value) in document {
            let row = Quota::row(name).map(|row| row.floor..=row.ceiling);
            if let Some(value) = value.as_u64().filter(|value| row.is_some_and(|range| range.contains(value))) {
                edit.set(name, value);
            }
        }
        edit
    }
}

/// The row that the fewest slips away from this name lead to (a letter more, less, another, or two swapped), if those are no more
/// than half of its letters.
fn nearest(name: &str) -> Option<&'static str> {
    let rated = Quota::ROWS.iter().map(|row| (strsim::damerau_levenshtein(row.name, name), row.name));
    let (slips, row) = rated.min_by_key(|(slips, _)| *slips)?;
    (slips * 2 <= row.len()).then_some(row)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_default_is_within_its_row_and_every_row_can_be_set_to_its_edges() {
        let host = ceilings();
        for row in Quota::ROWS {
            assert!((row.floor..=row.ceiling).contains(&row.default), "{row:?}");
            assert!(row.floor > 0, "{}: zero is not a limit", row.name);
            for value in [row.floor, row.ceiling] {
                let mut edit = QuotaEdit::default();
                edit.take(row.name, &json!(value), &host, None).expect(row.name);
                assert_eq!(Quota::default().with(&edit).value(row.name), Some(value));
            }
            for value in [json!(0), json!(row.floor - 1), json!(row.ceiling + 1), json!(u64::MAX)] {
                let refused = QuotaEdit::default().take(row.name, &value, &host, None).expect_err(row.name);
                assert!(matches!(refused, RowError::OutOfRange { .. }), "{refused}");
            }
            for value in [json!("5"), json!(5.5), json!(-1), json!(null), json!([5]), json!(true)] {
                let refused = QuotaEdit::default().take(row.name, &value, &host, None).expect_err(row.name);
                assert!(refused.to_string().contains(row.name) && refused.to_string().contains("whole number"));
            }
        }
    }

    fn ceilings() -> Quota {
        let document = Quota::ROWS.iter().map(|row| (row.name.to_owned(), json!(row.ceiling))).collect();
        Quota::default().with(&QuotaEdit::stored(&document))
    }

    #[test]
    fn a_name_that_is_none_is_told_the_nearest() {
        let told = |name| QuotaEdit::default().take(name, &json!(1), &ceilings(), None).expect_err("none").to_string();
        for (name, nearest) in [
            ("fuel_per_runs", "fuel_per_run"),
            // Others begin or end with more of its letters.
            ("run_at_once", "runs_at_once"),
            ("memory_byte_per_context", "memory_bytes_per_context"),
            ("deadline", "deadline_ms"),
            ("histroy_days", "history_days"),
        ] {
            assert!(told(name).contains(&format!("did you mean {nearest:?}?")), "{}", told(name));
        }
        assert!(!told("xyz").contains("did you mean"));
    }

    #[test]
    fn what_is_stored_and_not_known_is_left_out() {
        let stored = json!({"runs_at_once": 7, "gone": 3, "runs_queued": 0, "fuel_per_run": "x"});
        let edit = QuotaEdit::stored(stored.as_object().expect("an object"));
        assert_eq!(edit, QuotaEdit { runs_at_once: Some(7), ..QuotaEdit::default() });
    }

    #[test]
    fn narrowing_takes_what_is_less() {
        let edit = QuotaEdit { runs_at_once: Some(7), runs_queued: Some(7), ..QuotaEdit::default() };
        let narrowed = Quota::default().narrowed(&edit);
        assert_eq!((narrowed.runs_at_once, narrowed.runs_queued), (5, 7));
    }
}
