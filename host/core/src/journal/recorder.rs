//! Keeps the calls of one guest, and gives back those that are known already.

use super::{Log, PENDING_BYTES_MAX, RunJournal};
use crate::{
    clock,
    codec::{self, CodecError, Format},
    context::{BudgetSpent, StopCause, StopSignal},
    event::Event,
    quota::HOST_CALL_BYTES_MAX,
    record::{Asked, Record, RecordChunk},
    replay::{Again, Beyond, Known, Over, Said},
    run::Durability,
    storage::StorageError,
    wait::ToolsTook,
};
use bincode::{Decode, Encode};
use std::{
    sync::{Arc, MutexGuard},
    time::Duration,
};

/// How many bytes of the record of one run's calls may wait for a commit before the writer is asked for one. Less waits
/// for the next event, or the end: a commit costs more than keeping it.
const RECORD_LISTED_BYTES: usize = 64 << 10;

/// How many bytes of the record a commit may hold, about, where there are more: a millisecond or two of others' waiting.
const RECORD_CUT_BYTES: usize = 32 << 10;

/// How many bytes of one run may wait for storage when a call is recorded that cannot wait, as that for the time. Beyond,
/// storage is so slow that the record is given up, and not the host's memory. Calls that can wait do so at
/// [`PENDING_BYTES_MAX`], which one answer, and those of a few calls that end at once, may pass.
pub(super) const RECORD_PENDING_BYTES_MAX: usize = 4 * HOST_CALL_BYTES_MAX;

/// The record of the guest's calls.
pub(super) struct Calls {
    /// How many have a number.
    made: u64,
    /// How many entries say that something begins, and of how many that is durable.
    pub begun: u64,
    pub begun_saved: u64,
    /// The entries that are in no batch yet.
    pub chunk: RecordChunk,
    /// Bytes of all entries so far, and how many there may be.
    bytes: u64,
    pub bytes_max: u64,
    /// The record has come to its end before the run.
    ended: bool,
    /// Events of the agent's own so far, and how many of them the record tells of.
    said: u64,
    said_told: u64,
    /// What the run's tools took of its budgets by the last answer of one, and what the record tells of it.
    tools: ToolsTook,
    tools_told: ToolsTook,
    /// Whether it tells with each chunk, as it must if the run may go on from any of them.
    tells: bool,
    /// Of a durable run: ends it where its record does, because it could not be continued.
    stop: Option<StopSignal>,
}

impl Default for Calls {
    fn default() -> Self {
        Self {
            made: 0,
            begun: 0,
            begun_saved: 0,
            chunk: RecordChunk::empty(1),
            bytes: 0,
            bytes_max: 0,
            ended: false,
            said: 0,
            said_told: 0,
            tools: ToolsTook::default(),
            tools_told: ToolsTook::default(),
            tells: false,
            stop: None,
        }
    }
}

impl Calls {
    /// Goes on behind what is known.
    pub fn after(continued: &Continued, bytes_max: u64) -> Self {
        Self {
            made: continued.made,
            chunk: RecordChunk::empty(continued.chunks + 1),
            bytes: continued.bytes,
            bytes_max,
            said: continued.said,
            said_told: continued.said,
            tools: continued.tools,
            tools_told: continued.tools,
            ..Self::default()
        }
    }

    /// The record goes on with another attempt. Gives the entry's size.
    pub fn attempt(&mut self, attempt: u32) -> usize {
        self.push(&Record::Attempt { attempt })
    }

    /// What the record tells depends on what becomes of the run when its host goes away.
    pub fn told_as(&mut self, durability: Durability, stop: &StopSignal) {
        self.tells = durability == Durability::Durable;
        self.stop = self.tells.then(|| stop.clone());
    }

    /// The next chunk tells how many events of the agent's own there are, and what its tools took.
    pub const fn tell_what_was_said(&mut self) {
        self.tells = true;
    }

    pub fn take_chunk(&mut self) -> Option<RecordChunk> {
        if self.tells && self.said != self.said_told {
            self.push(&Record::Said { events: self.said });
            self.said_told = self.said;
        }
        if self.tells && self.tools != self.tools_told {
            self.push(&Record::Tools(self.tools));
            self.tools_told = self.tools;
        }
        if self.chunk.is_empty() {
            return None;
        }
        let next = RecordChunk::empty(self.chunk.number + 1);
        Some(std::mem::replace(&mut self.chunk, next))
    }

    /// Adds an entry, and gives its size.
    fn push(&mut self, record: &Record) -> usize {
        let before = self.chunk.bytes.len();
        if self.chunk.push(record).is_err() {
            self.ended = true;
        }
        let bytes = self.chunk.bytes.len() - before;
        self.bytes += bytes as u64;
        bytes
    }

    fn give_up(&mut self, why: &str) -> usize {
        self.ended = true;
        if let Some(stop) = &self.stop {
            stop.stop(StopCause::Overdrawn(BudgetSpent::Record(self.bytes_max)));
        }
        self.push(&Record::Incomplete { call: self.made, why: why.to_owned() })
    }
}

/// What the stored record of a run says, for going on behind it.
#[derive(Debug, Clone, Default)]
pub struct Continued {
    /// Its entries.
    pub records: Vec<Record>,
    chunks: u64,
    bytes: u64,
    made: u64,
    said: u64,
    tools: ToolsTook,
    incomplete: Option<String>,
    /// The last attempt that it tells of, if not the first, and how many calls were made before it.
    attempt: Option<u32>,
    made_before: u64,
    /// That attempt begins behind the record.
    pub(super) begins: Option<u32>,
}

/// Why a record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordUnusable {
    /// It was written by a version that kept less.
    #[error(
        "chunk {0} of the run's record was written by an earlier version of Cofferdam, which kept less than it takes"
    )]
    Earlier(u64),
    /// It cannot be read.
    #[error("chunk {chunk} of the run's record cannot be read: {source}")]
    Unreadable {
        /// Which chunk.
        chunk: u64,
        /// Why not.
        source: CodecError,
    },
    /// A chunk is not there.
    #[error("chunk {0} of the run's record is missing")]
    Missing(u64),
}

impl Continued {
    /// Adds the next chunk.
    ///
    /// # Errors
    /// When it is not the next one, or cannot be used.
    pub fn take(&mut self, chunk: &RecordChunk) -> Result<(), RecordUnusable> {
        if chunk.number != self.chunks + 1 {
            return Err(RecordUnusable::Missing(self.chunks + 1));
        }
        let unreadable = |source| RecordUnusable::Unreadable { chunk: chunk.number, source };
        if !chunk.can_be_replayed().map_err(unreadable)? {
            return Err(RecordUnusable::Earlier(chunk.number));
        }
        for record in chunk.records().map_err(unreadable)? {
            self.made = self.made.max(record.call());
            match &record {
                Record::Said { events } => self.said = *events,
                Record::Tools(took) => self.tools = *took,
                Record::Incomplete { why, .. } => self.incomplete = Some(why.clone()),
                Record::Attempt { attempt } => {
                    self.forget(*attempt);
                    continue;
                }
                _ => {}
            }
            self.records.push(record);
        }
        self.chunks = chunk.number;
        self.bytes += chunk.bytes.len() as u64;
        Ok(())
    }

    /// From here on it is about this attempt, which knows nothing of the ones before.
    fn forget(&mut self, attempt: u32) {
        self.records.clear();
        (self.said, self.tools, self.bytes, self.incomplete) = (0, ToolsTook::default(), 0, None);
        (self.attempt, self.made_before) = (Some(attempt), self.made);
    }

    /// Of a run that is at this attempt: if the record does not tell of it yet, it begins behind the record.
    pub fn at_attempt(&mut self, attempt: u32) {
        if attempt > self.attempt.unwrap_or(1) {
            self.forget(attempt);
            self.begins = Some(attempt);
        }
    }

    /// Whether nothing of the attempt is known.
    #[must_use]
    pub const fn begins(&self) -> bool {
        self.begins.is_some()
    }

    /// How many bytes it has.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What the tools whose answers are known took of the run's budgets.
    #[must_use]
    pub const fn tools_took(&self) -> ToolsTook {
        self.tools
    }

    /// How many calls it tells of, of the last attempt.
    #[must_use]
    pub const fn calls(&self) -> u64 {
        self.made.saturating_sub(self.made_before)
    }

    /// Whether it calls tools of plugins, whose events are in the run's log too.
    #[must_use]
    pub fn calls_plugins(&self) -> bool {
        let begun = self.records.iter().filter_map(|record| match record {
            Record::Started { asked, .. } => Some(asked.as_str()),
            _ => None,
        });
        let mut tools = begun.filter(|asked| asked.starts_with("tools."));
        tools.any(|asked| !asked.contains(" \"file."))
    }

    /// What it does not tell, if something; the run cannot be executed again to its end.
    #[must_use]
    pub fn incomplete(&self) -> Option<&str> {
        self.incomplete.as_deref()
    }

    /// What is known, for a run that goes on behind it.
    #[must_use]
    pub fn known(&mut self) -> Known {
        Known::new(std::mem::take(&mut self.records), Said::Before(self.said), Beyond::Live)
    }
}

/// Keeps the calls of one guest, and gives back those that are known from an earlier execution. Every import of an agent
/// that has an answer from outside comes here once.
///
/// A call that changes something outside the run is [`started`](Self::started), made durable with
/// [`RunJournal::before_effect`], done, and [`finished`](Self::finished). Any other is [`called`](Self::called) when its
/// answer is known.
#[derive(Clone)]
pub struct Recorder {
    /// None: what is executed is only looked at, and nothing is kept.
    journal: Option<RunJournal>,
    known: Option<Arc<Known>>,
}

impl Recorder {
    /// Of a run that is executed for the first time. The sandboxes of its tools have no record: their caller's has their
    /// answers.
    #[must_use]
    pub const fn new(journal: RunJournal) -> Self {
        Self { journal: Some(journal), known: None }
    }

    /// Of a run that goes on behind what is known.
    #[must_use]
    pub const fn going_on(journal: RunJournal, known: Arc<Known>) -> Self {
        Self { journal: Some(journal), known: Some(known) }
    }

    /// Of a run that is only looked at.
    #[must_use]
    pub const fn looking(known: Arc<Known>) -> Self {
        Self { journal: None, known: Some(known) }
    }

    /// What is known of an earlier execution.
    #[must_use]
    pub fn known(&self) -> Option<&Known> {
        self.known.as_deref()
    }

    /// The answer that a call had before. None: it is to be made.
    ///
    /// # Errors
    /// When the execution is over.
    pub fn recall<T: Decode<Format>>(&self, asked: impl FnOnce() -> Asked) -> Result<Option<T>, Over> {
        self.known().map_or(Ok(None), |known| known.recall(asked()))
    }

    /// What became before of a call that changes something or goes to a tool. None: it is to be made.
    ///
    /// # Errors
    /// When the execution is over.
    pub fn again<T: Decode<Format>>(&self, asked: impl FnOnce() -> Asked) -> Result<Option<Again<T>>, Over> {
        self.known().map_or(Ok(None), |known| known.again(asked()))
    }

    /// Keeps what the guest's random numbers come from.
    pub fn seeded(&self, seed: [u8; 32]) {
        self.keep(None, |_| Record::Seed(seed));
    }

    /// Keeps a call together with its answer.
    pub fn called(&self, asked: Asked, answer: &impl Encode) {
        self.numbered(|call| Record::Call { call, asked: asked.into_text(), answer: encoded(answer) });
    }

    /// Keeps that a call begins, with the event that tells of it, and gives its number.
    pub fn started(&self, asked: Asked, event: Option<Event>) -> u64 {
        self.keep(event, |calls| {
            calls.made += 1;
            calls.begun += 1;
            Record::Started { call: calls.made, asked: asked.into_text() }
        })
    }

    /// Keeps the answer of a call that was begun, with the event that tells of it.
    pub fn finished(&self, call: u64, answer: &impl Encode, event: Option<Event>) {
        self.keep(event, |_| Record::Finished { call, answer: encoded(answer) });
    }

    /// The same of a tool's call, with what the run's tools have taken of its budgets by then.
    pub fn tool_finished(&self, call: u64, answer: &impl Encode, took: ToolsTook, event: Event) {
        self.keep(Some(event), |calls| {
            calls.tools = calls.tools.or_later(took);
            Record::Finished { call, answer: encoded(answer) }
        });
    }

    /// The guest learns the answer of an earlier call: now, or it had learned it here before.
    ///
    /// # Errors
    /// When the execution is over.
    pub fn observed(&self, of: u64) -> Result<(), Over> {
        if !self.known().map_or(Ok(false), |known| known.observe(of))? {
            self.numbered(|call| Record::Observed { call, of });
        }
        Ok(())
    }

    /// Whether all is kept so far, so that the run could be put away.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.journal.as_ref().is_none_or(|journal| !journal.log().calls.ended)
    }

    /// Keeps that something is not kept from here on.
    pub fn incomplete(&self, why: &str) {
        let Some(journal) = &self.journal else { return };
        let mut log = journal.log();
        if !log.calls.ended {
            log.unsaved.bytes += log.calls.give_up(why);
        }
    }

    /// An event of the agent's own, to be durable and seen within a few milliseconds, unless it was before.
    ///
    /// # Errors
    /// When so much is waiting for storage that it has to be written first, and storage fails; within: when the execution
    /// is over.
    pub async fn say(&self, event: Event) -> Result<Result<(), Over>, StorageError> {
        match (self.say_now(event), &self.journal) {
            (Ok(waiting), Some(journal)) if waiting >= PENDING_BYTES_MAX => Box::pin(journal.commit()).await.map(Ok),
            (said, _) => Ok(said.map(drop)),
        }
    }

    /// Whether the agent says this again: there was room for it then, whatever the quota is now.
    #[must_use]
    pub fn says_again(&self, event: &Event) -> bool {
        self.known().is_some_and(|known| known.is_said_again(event))
    }

    /// The same without waiting. Says how many bytes wait for storage.
    ///
    /// # Errors
    /// When the execution is over.
    pub fn say_now(&self, event: Event) -> Result<usize, Over> {
        if let Some(known) = self.known()
            && known.says(&event)?
        {
            return Ok(0);
        }
        let Some(journal) = &self.journal else { return Ok(0) };
        // Counted where it is recorded: what is durable of the one is durable of the other.
        let mut log = journal.log();
        log.calls.said += 1;
        Ok(journal.record_into(log, event, clock::now()))
    }

    /// Waits until there is room for another answer.
    ///
    /// # Errors
    /// When storage fails.
    pub async fn relieve(&self) -> Result<(), StorageError> {
        match &self.journal {
            Some(journal) => journal.relieve().await,
            None => Ok(()),
        }
    }

    /// What the monotonic clock told last before.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.known().map_or(Duration::ZERO, Known::uptime)
    }

    fn numbered(&self, record: impl FnOnce(u64) -> Record) -> u64 {
        self.keep(None, |calls| {
            calls.made += 1;
            record(calls.made)
        })
    }

    /// Keeps an entry, and in the same step an event.
    fn keep(&self, event: Option<Event>, record: impl FnOnce(&mut Calls) -> Record) -> u64 {
        let Some(journal) = &self.journal else { return 0 };
        let mut log = journal.log();
        let before = log.unsaved.bytes;
        let made = keep(&mut log, record);
        journal.0.written.add(log.unsaved.bytes - before);
        match event {
            Some(event) => {
                journal.record_into(log, event, clock::now());
            }
            None if log.unsaved.bytes >= RECORD_LISTED_BYTES && !log.sealed => journal.list(log),
            None => {}
        }
        made
    }
}

fn keep(log: &mut MutexGuard<'_, Log>, record: impl FnOnce(&mut Calls) -> Record) -> u64 {
    // Before the entry: what happens in one step with it comes behind it.
    if log.calls.chunk.bytes.len() >= RECORD_CUT_BYTES {
        log.cut();
    }
    let Log { unsaved, calls, in_flight, .. } = &mut **log;
    let too_much = if calls.ended {
        None
    } else if calls.bytes >= calls.bytes_max {
        Some("the run's calls and their answers are larger than the limit on its record")
    } else if unsaved.bytes + *in_flight >= RECORD_PENDING_BYTES_MAX {
        Some("the guest called faster than storage could write")
    } else {
        let record = record(calls);
        unsaved.bytes += calls.push(&record);
        return calls.made;
    };
    unsaved.bytes += too_much.map_or(0, |why| calls.give_up(why));
    // What is not kept has a number of its own all the same: a child's id and a tool's idempotency key follow from it. It is
    // its own within the attempt only, because the next one begins behind what is kept.
    calls.made += 1;
    calls.made
}

/// An answer that cannot be encoded does not exist; an empty one is told from every other when it is read.
fn encoded(answer: &impl Encode) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = codec::append(answer, &mut bytes);
    bytes
}
