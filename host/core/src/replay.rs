//! What is known of a run's calls to the host, given back to its guest when it is executed again: the same answers in the
//! same order, without the outside.
//!
//! A guest that does what it did before asks the same questions in the same order. The first that is another one is told
//! as a [`Difference`], and from then on nothing is answered. Where the record ends, an execution either goes on with the
//! outside, or is [`Over`].

use crate::{
    codec::{self, Format},
    event::Event,
    record::{Asked, Record},
};
use bincode::Decode;
use serde::Serialize;
use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// The longest text shown of either side of a difference, in bytes.
pub const SIDE_BYTES_MAX: usize = 1 << 10;

/// How much of what is the same is shown before a difference within a longer text, in bytes.
const SAME_SHOWN_BYTES: usize = 100;

/// What happens to a call behind the last one that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beyond {
    /// It goes to the outside: the run is continued.
    Live,
    /// Nothing: the run is only looked at.
    Ends,
}

/// In what an execution differs from the one that was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Aspect {
    /// In a call to the host.
    Call,
    /// In an event that the agent emitted.
    Event,
    /// In how it ended.
    End,
    /// The record itself cannot be read as what it should be.
    Record,
}

/// The first difference between the execution that was recorded and this one, side by side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// In what.
    pub aspect: Aspect,
    /// Number of the call in the record, or of the event in the log; none for the end.
    pub number: Option<u64>,
    /// What it was. None: it was not there.
    pub recorded: Option<String>,
    /// What it is now. None: it is not there.
    pub now: Option<String>,
}

impl Difference {
    /// With both sides cut to what is shown: of long texts the part in which they begin to differ.
    #[must_use]
    pub fn new(aspect: Aspect, number: Option<u64>, recorded: Option<String>, now: Option<String>) -> Self {
        let same = match (&recorded, &now) {
            (Some(recorded), Some(now)) => recorded.bytes().zip(now.bytes()).take_while(|(a, b)| a == b).count(),
            _ => 0,
        };
        let from = same.saturating_sub(SAME_SHOWN_BYTES);
        let cut = |text: String| {
            let from = if text.len() <= SIDE_BYTES_MAX { 0 } else { text.floor_char_boundary(from) };
            let to = text.floor_char_boundary(from + SIDE_BYTES_MAX);
            let (before, after) = (if from > 0 { "..." } else { "" }, if to < text.len() { "..." } else { "" });
            format!("{before}{}{after}", text.get(from..to).unwrap_or_default())
        };
        Self { aspect, number, recorded: recorded.map(cut), now: now.map(cut) }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.aspect {
            Aspect::Call => "call",
            Aspect::Event => "event",
            Aspect::End => "the end",
            Aspect::Record => "the record of call",
        };
        f.write_str(what)?;
        if let Some(number) = self.number {
            write!(f, " {number}")?;
        }
        let side = |side: &Option<String>| side.clone().unwrap_or_else(|| "nothing".into());
        write!(f, ": recorded {}, now {}", side(&self.recorded), side(&self.now))
    }
}

/// Why nothing more is answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Over {
    /// The guest did something else than before.
    #[error("the agent did something else than it did before: {0}")]
    Differs(Difference),
    /// The guest asked for more than the record has.
    #[error("the record ends here; the agent asked: {asked}")]
    RecordEnds {
        /// For what.
        asked: String,
    },
}

/// A call that changes something outside, or goes to a tool, when it is made again.
#[derive(Debug, PartialEq, Eq)]
pub enum Again<T> {
    /// It came to nothing before it began; with its answer.
    Refused(T),
    /// It was made, and this is its answer.
    Answered {
        /// Its number.
        number: u64,
        /// The answer.
        answer: T,
    },
    /// It had begun, and how it ended is not known.
    Open {
        /// Its number.
        number: u64,
    },
}

/// What is known of the agent's own events.
#[derive(Debug)]
pub enum Said {
    /// So many are in the log already.
    Before(u64),
    /// These are in the log, with their numbers there; the run's tools may have emitted some of them.
    Log {
        /// The events.
        events: VecDeque<(u64, Event)>,
        /// Whether tools may have.
        tools_too: bool,
    },
}

impl Said {
    /// Where in the log an event is that may come next. None: nowhere, or the log is not known.
    fn place_of(&self, event: &Event) -> Option<usize> {
        let Self::Log { events, tools_too } = self else { return None };
        events.iter().position(|(_, recorded)| same(recorded, event)).filter(|place| *place == 0 || *tools_too)
    }
}

/// The known part of an execution.
#[derive(Debug)]
pub struct Known {
    beyond: Beyond,
    state: Mutex<State>,
    /// When the last of it was given.
    given_at: OnceLock<Instant>,
    all_given: Notify,
}

#[derive(Debug)]
struct State {
    /// What the guest will ask, in order: calls, begun calls and observations.
    calls: VecDeque<Record>,
    /// Answers of calls that were begun.
    finished: HashMap<u64, Vec<u8>>,
    seed: Option<[u8; 32]>,
    /// What the monotonic clock told last.
    uptime: Duration,
    said: Said,
    over: Option<Over>,
}

impl Known {
    /// From the entries of a record, in order.
    #[must_use]
    pub fn new(records: Vec<Record>, said: Said, beyond: Beyond) -> Self {
        let mut state = State {
            calls: VecDeque::with_capacity(records.len()),
            finished: HashMap::new(),
            seed: None,
            uptime: Duration::ZERO,
            said,
            over: None,
        };
        for record in records {
            match record {
                Record::Seed(seed) => state.seed = Some(seed),
                Record::Finished { call, answer } => {
                    state.finished.insert(call, answer);
                }
                Record::Call { .. } | Record::Started { .. } | Record::Observed { .. } => state.calls.push_back(record),
                Record::Incomplete { .. } | Record::Said { .. } | Record::Attempt { .. } | Record::Tools(_) => {}
            }
        }
        let known = Self { beyond, state: Mutex::new(state), given_at: OnceLock::new(), all_given: Notify::new() };
        known.note_if_given(&known.state());
        known
    }

    /// When the last of it was given: from then on, what the guest does is new. None: it still does what it did.
    #[must_use]
    pub fn given_at(&self) -> Option<Instant> {
        self.given_at.get().copied()
    }

    /// Waits until all of it is given.
    pub async fn all_given(&self) {
        loop {
            // Before the look, so that what happens after it is heard.
            let given = self.all_given.notified();
            if self.given_at().is_some() {
                return;
            }
            given.await;
        }
    }

    fn note_if_given(&self, state: &State) {
        if state.calls.is_empty() && self.given_at.set(Instant::now()).is_ok() {
            self.all_given.notify_waiters();
        }
    }

    /// Why nothing more is answered, if so.
    #[must_use]
    pub fn over(&self) -> Option<Over> {
        self.state().over.clone()
    }

    /// Whether the run goes on from here: all that was known is given, and what is asked now goes to the outside.
    #[must_use]
    pub fn is_past(&self) -> bool {
        let state = self.state();
        self.beyond == Beyond::Live && state.calls.is_empty() && state.over.is_none()
    }

    /// The seed of the guest's random numbers, if it had one.
    #[must_use]
    pub fn seed(&self) -> Option<[u8; 32]> {
        self.state().seed
    }

    /// What the monotonic clock told last. It goes on from there.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.state().uptime
    }

    /// The answer of a call that changes nothing. None: it is not known, and the call is to be made.
    ///
    /// # Errors
    /// When the execution is over.
    pub fn recall<T: Decode<Format>>(&self, asked: Asked) -> Result<Option<T>, Over> {
        let mut state = self.state();
        let Some(record) = self.next(&mut state, &asked)? else { return Ok(None) };
        let Record::Call { call, answer, .. } = record else { return Err(state.differs(&record, asked)) };
        state.read(call, &answer).map(Some)
    }

    /// The same, for the time since the guest began.
    ///
    /// # Errors
    /// When the execution is over.
    pub fn recall_uptime(&self, asked: Asked) -> Result<Option<Duration>, Over> {
        let known = self.recall(asked)?;
        if let Some(uptime) = known {
            self.state().uptime = uptime;
        }
        Ok(known)
    }

    /// The answer of a call that is recorded only when its answer is out of the ordinary. None: it was not.
    pub fn recall_rare<T: Decode<Format>>(&self, asked: &Asked) -> Option<T> {
        let mut state = self.state();
        let rare =
            matches!(state.calls.front(), Some(Record::Call { asked: recorded, .. }) if recorded == asked.as_str());
        if !rare || state.over.is_some() {
            return None;
        }
        let Some(Record::Call { call, answer, .. }) = state.calls.pop_front() else { return None };
        self.note_if_given(&state);
        state.read(call, &answer).ok()
    }

    /// Whether this is what was asked next. None: nothing more is known.
    #[must_use]
    pub fn asks_next(&self, asked: &Asked) -> Option<bool> {
        let state = self.state();
        let next = state.calls.front()?;
        Some(
            matches!(next, Record::Call { asked: recorded, .. } | Record::Started { asked: recorded, .. } if recorded == asked.as_str()),
        )
    }

    /// What became of a call that changes something or goes to a tool. None: it is not known, and the call is to be made.
    ///
    /// # Errors
    /// When the execution is over.
    pub fn again<T: Decode<Format>>(&self, asked: Asked) -> Result<Option<Again<T>>, Over> {
        let mut state = self.state();
        let Some(record) = self.next(&mut state, &asked)? else { return Ok(None) };
        match record {
            Record::Call { call, answer, .. } => state.read(call, &answer).map(|answer| Some(Again::Refused(answer))),
            Record::Started { call: number, .. } => match state.finished.remove(&number) {
                Some(answer) => state.read(number, &answer).map(|answer| Some(Again::Answered { number, answer })),
                None => Ok(Some(Again::Open { number })),
            },
            other => Err(state.differs(&other, asked)),
        }
    }

    /// Whether the guest had learned the answer of an earlier call here. False: that is not known, and it learns it now.
    ///
    /// # Errors
    /// When the execution is over.
    pub fn observe(&self, of: u64) -> Result<bool, Over> {
        let mut state = self.state();
        let asked = observation(of);
        match self.next(&mut state, &asked)? {
            None => Ok(false),
            Some(Record::Observed { of: recorded, .. }) if recorded == of => Ok(true),
            Some(other) => Err(state.differs(&other, asked)),
        }
    }

    /// The execution asks for something that no record has, and cannot go further.
    pub fn ends(&self, asked: impl Into<String>) -> Over {
        let mut state = self.state();
        match &state.over {
            Some(over) => over.clone(),
            None => state.end(Over::RecordEnds { asked: asked.into() }),
        }
    }

    /// Whether an event that the agent says now is, as far as can be known, one that it said before.
    #[must_use]
    pub fn is_said_again(&self, event: &Event) -> bool {
        match &self.state().said {
            Said::Before(left) => *left > 0,
            log @ Said::Log { .. } => log.place_of(event).is_some(),
        }
    }

    /// Whether an event of the agent's is in the log already. False: it is new.
    ///
    /// # Errors
    /// When the execution is over.
    pub fn says(&self, event: &Event) -> Result<bool, Over> {
        let mut state = self.state();
        if let Some(over) = &state.over {
            return Err(over.clone());
        }
        match &mut state.said {
            Said::Before(0) if self.beyond == Beyond::Live => return Ok(false),
            Said::Before(left) => {
                *left = left.saturating_sub(1);
                return Ok(true);
            }
            said @ Said::Log { .. } => {
                if let Some(place) = said.place_of(event)
                    && let Said::Log { events, .. } = said
                {
                    events.drain(..=place);
                    return Ok(true);
                }
            }
        }
        // An execution that was cut off said less than the whole of it would have: its calls tell where.
        if state.calls.is_empty() && matches!(&state.said, Said::Log { events, .. } if events.is_empty()) {
            return Err(state.end(Over::RecordEnds { asked: shown(event) }));
        }
        let recorded = match &state.said {
            Said::Log { events, .. } => events.front().map(|(seq, recorded)| (*seq, shown(recorded))),
            Said::Before(_) => None,
        };
        let (seq, recorded) = recorded.map_or((None, None), |(seq, recorded)| (Some(seq), Some(recorded)));
        Err(state.end(Over::Differs(Difference::new(Aspect::Event, seq, recorded, Some(shown(event))))))
    }

    /// What was recorded that this execution has not come to, now that it has ended.
    #[must_use]
    pub fn left(&self) -> Option<Difference> {
        let state = self.state();
        if let Some(record) = state.calls.front() {
            let (number, recorded) = (Some(record.call()), Some(asked_of(record)));
            return Some(Difference::new(Aspect::Call, number, recorded, None));
        }
        match &state.said {
            // What its tools said is not the agent's to repeat.
            Said::Log { events, tools_too: false } => {
                events.front().map(|(seq, event)| Difference::new(Aspect::Event, Some(*seq), Some(shown(event)), None))
            }
            Said::Log { .. } | Said::Before(_) => None,
        }
    }

    fn next(&self, state: &mut State, asked: &Asked) -> Result<Option<Record>, Over> {
        if let Some(over) = &state.over {
            return Err(over.clone());
        }
        let Some(record) = state.calls.pop_front() else {
            return match self.beyond {
                Beyond::Live => Ok(None),
                Beyond::Ends => Err(state.end(Over::RecordEnds { asked: asked.as_str().to_owned() })),
            };
        };
        self.note_if_given(state);
        let same = match &record {
            Record::Call { asked: recorded, .. } | Record::Started { asked: recorded, .. } => {
                recorded == asked.as_str()
            }
            _ => true,
        };
        if same { Ok(Some(record)) } else { Err(state.differs(&record, asked.clone())) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn end(&mut self, over: Over) -> Over {
        self.over = Some(over.clone());
        over
    }

    fn differs(&mut self, record: &Record, asked: Asked) -> Over {
        let (number, recorded) = (Some(record.call()), Some(asked_of(record)));
        self.end(Over::Differs(Difference::new(Aspect::Call, number, recorded, Some(asked.into_text()))))
    }

    fn read<T: Decode<Format>>(&mut self, call: u64, answer: &[u8]) -> Result<T, Over> {
        codec::read(answer).map_err(|error| {
            let recorded = Some(format!("an answer that cannot be read: {error}"));
            self.end(Over::Differs(Difference::new(Aspect::Record, Some(call), recorded, None)))
        })
    }
}

/// How the record tells that a guest learns an answer.
fn observation(of: u64) -> Asked {
    Asked::of("pending.wait").value(of)
}

fn asked_of(record: &Record) -> String {
    match record {
        Record::Call { asked, .. } | Record::Started { asked, .. } => asked.clone(),
        Record::Observed { of, .. } => observation(*of).into_text(),
        _ => "nothing that an agent asks".into(),
    }
}

/// Whether two events are the same to the bit, of a fraction too.
fn same(one: &Event, other: &Event) -> bool {
    match (one, other) {
        (Event::Progress { fraction: a, note: one }, Event::Progress { fraction: b, note: other }) => {
            a.to_bits() == b.to_bits() && one == other
        }
        _ => one == other,
    }
}

fn shown(event: &Event) -> String {
    let text = match event {
        Event::AgentThinking { text } => format!("{text:?}"),
        Event::Log { level, text } => format!("{level:?} {text:?}"),
        Event::Progress { fraction, note } => format!("{fraction} {note:?}"),
        Event::Custom { payload, .. } => payload.as_str().to_owned(),
        _ => String::new(),
    };
    format!("{} {text}", event.type_name())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(value: &impl bincode::Encode) -> Vec<u8> {
        let mut bytes = Vec::new();
        codec::append(value, &mut bytes).expect("encodes");
        bytes
    }

    fn asked(text: &str) -> Asked {
        Asked::of(text)
    }

    fn records() -> Vec<Record> {
        vec![
            Record::Seed([7; 32]),
            Record::Call { call: 1, asked: "clock".into(), answer: answer(&5_u64) },
            Record::Started { call: 2, asked: "tool a".into() },
            Record::Started { call: 3, asked: "tool b".into() },
            Record::Finished { call: 3, answer: answer(&"b") },
            Record::Observed { call: 4, of: 3 },
        ]
    }

    fn silent() -> Said {
        Said::Before(0)
    }

    #[test]
    fn the_same_questions_get_the_same_answers_and_then_the_outside() {
        let known = Known::new(records(), silent(), Beyond::Live);
        assert_eq!(known.seed(), Some([7; 32]));
        assert_eq!(known.recall::<u64>(asked("clock")), Ok(Some(5)));
        assert_eq!(known.again::<String>(asked("tool a")), Ok(Some(Again::Open { number: 2 })));
        let answered = Again::Answered { number: 3, answer: "b".to_owned() };
        assert_eq!(known.again::<String>(asked("tool b")), Ok(Some(answered)));
        assert_eq!(known.observe(3), Ok(true));
        assert_eq!(known.recall::<u64>(asked("clock")), Ok(None));
        assert_eq!(known.observe(2), Ok(false));
        assert_eq!(known.over(), None);
    }

    #[tokio::test]
    async fn when_the_last_of_it_was_given_is_known() {
        let known = Known::new(records(), silent(), Beyond::Live);
        known.recall::<u64>(asked("clock")).expect("known");
        known.again::<String>(asked("tool a")).expect("known");
        known.again::<String>(asked("tool b")).expect("known");
        assert_eq!(known.given_at(), None);
        let (at, ()) = tokio::join!(
            async {
                known.all_given().await;
                known.given_at()
            },
            async {
                known.observe(3).expect("known");
            }
        );
        assert!(at.is_some_and(|at| at <= Instant::now()));
        known.recall::<u64>(asked("clock")).expect("it goes on");
        assert_eq!(known.given_at(), at, "it stands");
        assert!(Known::new(Vec::new(), silent(), Beyond::Live).given_at().is_some());
    }

    #[test]
    fn another_question_is_told_side_by_side_and_nothing_is_answered_after_it() {
        let known = Known::new(records(), silent(), Beyond::Live);
        let over = known.recall::<u64>(asked("dice")).expect_err("differs");
        let difference = Difference::new(Aspect::Call, Some(1), Some("clock".into()), Some("dice".into()));
        assert_eq!(over, Over::Differs(difference.clone()));
        assert_eq!(difference.to_string(), "call 1: recorded clock, now dice");
        assert_eq!(known.again::<String>(asked("tool a")), Err(over.clone()));
        assert_eq!(known.says(&Event::AgentThinking { text: "x".into() }), Err(over));
    }

    #[test]
    fn an_answer_of_another_kind_is_told_and_does_not_panic() {
        let known = Known::new(records(), silent(), Beyond::Ends);
        let over = known.recall::<String>(asked("clock")).expect_err("five letters that are not there");
        assert!(matches!(over, Over::Differs(Difference { aspect: Aspect::Record, number: Some(1), .. })), "{over}");
    }

    #[test]
    fn what_was_not_asked_again_is_left_and_what_is_new_ends_it() {
        let known = Known::new(records(), silent(), Beyond::Ends);
        assert_eq!(known.left().and_then(|left| left.recorded), Some("clock".into()));
        let known = Known::new(Vec::new(), silent(), Beyond::Ends);
        assert_eq!(known.left(), None);
        assert_eq!(known.recall::<u64>(asked("clock")), Err(Over::RecordEnds { asked: "clock".into() }));
    }

    #[test]
    fn events_are_compared_with_the_log_and_those_of_tools_are_passed_over() {
        let think = |text: &str| Event::AgentThinking { text: text.into() };
        let said = |tools_too| Said::Log { events: [(2, think("a")), (3, think("b"))].into(), tools_too };
        let known = Known::new(records(), said(false), Beyond::Ends);
        assert_eq!(known.says(&think("a")), Ok(true));
        let over = known.says(&think("c")).expect_err("differs");
        assert!(matches!(over, Over::Differs(Difference { aspect: Aspect::Event, number: Some(3), .. })), "{over}");
        let known = Known::new(records(), said(true), Beyond::Ends);
        assert_eq!(known.says(&think("b")), Ok(true));
        let known = Known::new(Vec::new(), Said::Before(1), Beyond::Live);
        assert_eq!((known.says(&think("a")), known.says(&think("b"))), (Ok(true), Ok(false)));
    }

    #[test]
    fn what_is_recorded_only_now_and_then_is_found_in_its_place() {
        let rare = Record::Call { call: 1, asked: "full 3".into(), answer: answer(&0_u64) };
        let known = Known::new(vec![rare], silent(), Beyond::Ends);
        assert_eq!(known.recall_rare::<u64>(&asked("full 2")), None);
        assert_eq!(known.recall_rare::<u64>(&asked("full 3")), Some(0));
        assert_eq!(known.recall_rare::<u64>(&asked("full 3")), None);
    }
}
