//! The checker: what was acknowledged against what the server says in the end.

use crate::{
    acks::{Ack, End},
    judge::{self, Durable},
};
use serde::Serialize;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// How many violations are told in words; all are counted.
const SHOWN_MAX: usize = 20;

/// What the server says in the end.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// All runs of all users, as they were listed.
    pub runs: Vec<RunSeen>,
    /// Components by name and digest: known, and able to run.
    pub plugins: BTreeSet<(String, String)>,
    /// Keys that open.
    pub keys: BTreeSet<String>,
    /// Digests of files by user and path.
    pub files: BTreeMap<(String, String), String>,
    /// How many lines there are in the files in which runs leave one line each.
    pub effects: BTreeMap<(String, String), usize>,
    /// What durable runs did outside themselves, by user.
    pub outside: BTreeMap<String, Outside>,
    /// What was wrong with the answers themselves.
    pub surprises: Vec<String>,
}

/// What the durable runs of a user did outside themselves, as it lies on the disk, and in their state.
#[derive(Debug, Clone, Default)]
pub struct Outside {
    /// What the files hold that `effects.put` made, by their names.
    pub puts: BTreeMap<String, String>,
    /// The keys of all attempts at that.
    pub attempts: Vec<String>,
    /// The lines that `effects.append` left.
    pub appends: Vec<String>,
    /// Versions of keys of the state.
    pub versions: BTreeMap<String, u64>,
}

/// A run as the server tells of it.
#[derive(Debug, Clone, Default)]
pub struct RunSeen {
    pub id: String,
    pub user: String,
    /// The run that started it.
    pub parent: Option<String>,
    pub output: Value,
    /// None while it has not ended.
    pub end: Option<End>,
    pub events: Vec<EventSeen>,
}

/// An event in the log of a run.
#[derive(Debug, Clone, Default)]
pub struct EventSeen {
    pub seq: u64,
    /// Microseconds since 1970.
    pub at_us: u64,
    pub kind: EventKind,
    pub data: String,
    /// The stop reason that it tells, if it is a last event.
    pub stop_reason: Option<String>,
}

/// What an event tells, as far as it matters here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum EventKind {
    #[default]
    Other,
    /// The agent's own words.
    Says(String),
    /// The run waits, for this.
    Waits(String),
    /// A tool call begins, or has its answer.
    CallBegins,
    CallEnds,
}

/// What the comparison came to.
#[derive(Debug, Default, Serialize)]
pub struct Verdict {
    pub acknowledged: Acknowledged,
    pub runs_seen: usize,
    pub events_seen: usize,
    pub runs_lost: usize,
    pub events_lost: usize,
    pub events_changed: usize,
    pub duplicates: usize,
    pub holes: usize,
    pub wrong_ends: usize,
    pub runs_unended: usize,
    pub cancels_broken: usize,
    pub plugins_lost: usize,
    pub keys_lost: usize,
    pub files_lost: usize,
    pub effects_wrong: usize,
    pub surprises: usize,
    pub durable: Durable,
    /// The first of them in words.
    pub violations: Vec<String>,
}

/// Acknowledgements by kind.
#[derive(Debug, Default, Serialize)]
pub struct Acknowledged {
    pub runs: usize,
    pub events: usize,
    pub ends: usize,
    pub cancels: usize,
    pub plugins: usize,
    pub keys: usize,
    pub files: usize,
    /// Not acknowledgements: errors that said so.
    pub refusals: usize,
}

/// What may be expected of the files that guests write. The host answers for what it acknowledged to clients; what a
/// guest wrote is, after a power cut, where its last sync left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestFiles {
    /// Each run that succeeded has left its line.
    Kept,
    /// A line may be missing, but none may be there twice.
    MayBeMissing,
    /// The same, and guests were told of errors.
    MayBeRefused,
}

/// Compares.
#[must_use]
pub fn compare(acks: &[Ack], seen: &Snapshot, guest_files: GuestFiles) -> Verdict {
    let mut verdict = Verdict { runs_seen: seen.runs.len(), ..Verdict::default() };
    let mut runs: BTreeMap<&str, &RunSeen> = BTreeMap::new();
    for run in &seen.runs {
        verdict.events_seen += run.events.len();
        if runs.insert(&run.id, run).is_some() {
            verdict.count(|v| &mut v.duplicates, || format!("run {} is listed twice", run.id));
        }
        verdict.log_of(run);
    }
    for what in &seen.surprises {
        verdict.count(|v| &mut v.surprises, || what.clone());
    }
    let mut followed: BTreeMap<&str, u64> = BTreeMap::new();
    for ack in acks {
        verdict.acknowledged.take(ack);
        verdict.ack(ack, &runs, seen, &mut followed, guest_files);
    }
    judge::durable(&mut verdict, acks, &runs, seen, guest_files);
    verdict
}

impl Verdict {
    /// Whether everything acknowledged is true.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.violations.is_empty()
    }

    pub fn count(&mut self, kind: impl FnOnce(&mut Self) -> &mut usize, what: impl FnOnce() -> String) {
        *kind(self) += 1;
        if self.violations.len() < SHOWN_MAX {
            self.violations.push(what());
        }
    }

    /// A log begins with 1 and has no holes; it has one last event, which agrees with the run's end.
    fn log_of(&mut self, run: &RunSeen) {
        let id = &run.id;
        let mut last = 0;
        for event in &run.events {
            if event.seq <= last {
                self.count(|v| &mut v.duplicates, || format!("event {} of {id} is there twice", event.seq));
            } else if event.seq != last + 1 {
                self.count(|v| &mut v.holes, || format!("the log of {id} has a hole before {}", event.seq));
            }
            last = event.seq.max(last);
        }
        let Some(end) = &run.end else {
            self.count(|v| &mut v.runs_unended, || format!("run {id} has not ended"));
            return;
        };
        let ends: Vec<_> = run.events.iter().filter_map(|event| event.stop_reason.as_ref()).collect();
        let ends_the_log = run.events.last().is_some_and(|event| event.stop_reason.is_some());
        if ends != [&end.stop_reason] || !ends_the_log {
            let stop_reason = &end.stop_reason;
            self.count(|v| &mut v.wrong_ends, || format!("run {id} ended as {stop_reason}, its log says {ends:?}"));
        }
    }

    fn ack<'a>(
        &mut self,
        ack: &'a Ack,
        runs: &BTreeMap<&str, &RunSeen>,
        seen: &Snapshot,
        followed: &mut BTreeMap<&'a str, u64>,
        guest_files: GuestFiles,
    ) {
        match ack {
            Ack::Key { user, key } => {
                if !seen.keys.contains(key) {
                    self.count(|v| &mut v.keys_lost, || format!("a key of {user} is lost"));
                }
            }
            Ack::Plugin { name, digest } => {
                if !seen.plugins.contains(&(name.clone(), digest.clone())) {
                    self.count(|v| &mut v.plugins_lost, || format!("plugin {name}@sha256:{digest} is lost"));
                }
            }
            Ack::File { user, path, digest } => {
                if seen.files.get(&(user.clone(), path.clone())) != Some(digest) {
                    self.count(|v| &mut v.files_lost, || format!("file {path} of {user} is lost or changed"));
                }
            }
            Ack::Run { user, run, input, effect } => {
                let Some(there) = runs.get(run.as_str()) else {
                    return self.count(|v| &mut v.runs_lost, || format!("run {run} of {user} is lost"));
                };
                let succeeded = there.end.as_ref().filter(|end| end.status == "succeeded");
                if let (Some(input), Some(end)) = (input, succeeded)
                    && *input != end.outcome
                {
                    self.count(|v| &mut v.wrong_ends, || format!("run {run} did not give back what it got"));
                }
                if let Some(path) = effect {
                    let lines = seen.effects.get(&(user.clone(), path.clone())).copied().unwrap_or(0);
                    let missing = lines == 0 && succeeded.is_some() && guest_files == GuestFiles::Kept;
                    if lines > 1 || missing {
                        self.count(|v| &mut v.effects_wrong, || format!("run {run} wrote its line {lines} times"));
                    }
                }
            }
            Ack::Event { run, seq, data } => {
                let last = followed.insert(run, *seq).unwrap_or(0);
                if *seq <= last {
                    self.count(|v| &mut v.duplicates, || format!("event {seq} of {run} was sent twice"));
                } else if *seq != last + 1 {
                    self.count(|v| &mut v.holes, || format!("a stream of {run} went from {last} to {seq}"));
                }
                let there = runs.get(run.as_str()).and_then(|run| run.events.iter().find(|event| event.seq == *seq));
                match there {
                    None => self.count(|v| &mut v.events_lost, || format!("event {seq} of {run} is lost")),
                    Some(event) if event.data != *data => {
                        self.count(|v| &mut v.events_changed, || format!("event {seq} of {run} has changed"));
                    }
                    Some(_) => {}
                }
            }
            Ack::Cancel { run, status } => {
                let end = runs.get(run.as_str()).and_then(|run| run.end.as_ref());
                if status == "cancelled" && end.is_none_or(|end| end.status != "cancelled") {
                    self.count(|v| &mut v.cancels_broken, || format!("run {run} was cancelled, now it is {end:?}"));
                }
            }
            Ack::End { run, end } => {
                let now = runs.get(run.as_str()).and_then(|run| run.end.as_ref());
                if now != Some(end) {
                    self.count(|v| &mut v.wrong_ends, || format!("run {run} had ended as {end:?}, now as {now:?}"));
                }
            }
            Ack::Surprise { what } => self.count(|v| &mut v.surprises, || what.clone()),
            // These are judged together.
            Ack::Durable { .. } | Ack::Answer { .. } | Ack::Young { .. } | Ack::Refused { .. } => {}
        }
    }
}

impl Acknowledged {
    fn take(&mut self, ack: &Ack) {
        match ack {
            Ack::Key { .. } => self.keys += 1,
            Ack::Plugin { .. } => self.plugins += 1,
            Ack::File { .. } => self.files += 1,
            Ack::Run { .. } => self.runs += 1,
            Ack::Event { .. } => self.events += 1,
            Ack::Cancel { .. } => self.cancels += 1,
            Ack::End { .. } => self.ends += 1,
            Ack::Refused { .. } => self.refusals += 1,
            Ack::Surprise { .. } | Ack::Durable { .. } | Ack::Answer { .. } | Ack::Young { .. } => {}
        }
    }
}

/// One line.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let a = &self.acknowledged;
        write!(
            f,
            "acknowledged: {} runs, {} events, {} ends, {} cancels, {} plugins, {} keys, {} files; \
             lost: {} runs, {} events, {} plugins, {} keys, {} files; changed: {} events, {} ends, {} cancels; \
             {} duplicates, {} holes, {} runs not ended, {} effects repeated or missing, {} surprises; {}",
            a.runs,
            a.events,
            a.ends,
            a.cancels,
            a.plugins,
            a.keys,
            a.files,
            self.runs_lost,
            self.events_lost,
            self.plugins_lost,
            self.keys_lost,
            self.files_lost,
            self.events_changed,
            self.wrong_ends,
            self.cancels_broken,
            self.duplicates,
            self.holes,
            self.runs_unended,
            self.effects_wrong,
            self.surprises,
            self.durable,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(status: &str, stop_reason: &str, outcome: &str) -> End {
        End { status: status.into(), stop_reason: stop_reason.into(), outcome: outcome.into() }
    }

    fn event(seq: u64, stop_reason: Option<&str>) -> EventSeen {
        EventSeen {
            seq,
            data: format!("data {seq}"),
            stop_reason: stop_reason.map(str::to_owned),
            ..EventSeen::default()
        }
    }

    /// What a client heard of two runs, and a server that stands by all of it.
    fn truth() -> (Vec<Ack>, Snapshot) {
        let ann = || "ann".to_owned();
        let run = |run: &str, input: Option<&str>, effect: Option<&str>| Ack::Run {
            user: ann(),
            run: run.into(),
            input: input.map(str::to_owned),
            effect: effect.map(str::to_owned),
        };
        let mut acks = vec![
            Ack::Key { user: ann(), key: "k".into() },
            Ack::Plugin { name: "p".into(), digest: "d".into() },
            Ack::File { user: ann(), path: "f".into(), digest: "d".into() },
            run("a", Some("in"), None),
            run("b", None, Some("effect")),
        ];
        acks.extend((1..=3).map(|seq| Ack::Event { run: "a".into(), seq, data: format!("data {seq}") }));
        acks.push(Ack::End { run: "a".into(), end: end("succeeded", "completed", "in") });
        acks.push(Ack::Cancel { run: "b".into(), status: "cancelled".into() });
        let snapshot = Snapshot {
            runs: vec![
                RunSeen {
                    id: "a".into(),
                    end: Some(end("succeeded", "completed", "in")),
                    events: vec![event(1, None), event(2, None), event(3, Some("completed"))],
                    ..RunSeen::default()
                },
                RunSeen {
                    id: "b".into(),
                    end: Some(end("cancelled", "cancelled", "cancelled")),
                    events: vec![event(1, None), event(2, Some("cancelled"))],
                    ..RunSeen::default()
                },
            ],
            plugins: [("p".into(), "d".into())].into(),
            keys: ["k".into()].into(),
            files: [((ann(), "f".into()), "d".into())].into(),
            effects: [((ann(), "effect".into()), 1)].into(),
            outside: BTreeMap::new(),
            surprises: Vec::new(),
        };
        (acks, snapshot)
    }

    fn judged(change: impl FnOnce(&mut Vec<Ack>, &mut Snapshot)) -> Verdict {
        let (mut acks, mut snapshot) = truth();
        change(&mut acks, &mut snapshot);
        let verdict = compare(&acks, &snapshot, GuestFiles::Kept);
        assert!(!verdict.holds(), "{verdict}");
        verdict
    }

    #[test]
    fn what_is_true_holds() {
        let (acks, snapshot) = truth();
        let verdict = compare(&acks, &snapshot, GuestFiles::Kept);
        assert!(verdict.holds(), "{:?}", verdict.violations);
        assert_eq!((verdict.acknowledged.runs, verdict.acknowledged.events, verdict.runs_seen), (2, 3, 2));
    }

    #[test]
    fn every_loss_is_found() {
        let lost = judged(|_, seen| drop(seen.runs.remove(0)));
        assert_eq!((lost.runs_lost, lost.events_lost, lost.wrong_ends), (1, 3, 1), "its events and end are lost too");
        assert_eq!(judged(|_, seen| seen.plugins.clear()).plugins_lost, 1);
        assert_eq!(judged(|_, seen| seen.keys.clear()).keys_lost, 1);
        assert_eq!(judged(|_, seen| seen.files.clear()).files_lost, 1);
        let changed = |_: &mut Vec<Ack>, seen: &mut Snapshot| {
            seen.files.insert(("ann".into(), "f".into()), "other".into());
        };
        assert_eq!(judged(changed).files_lost, 1);
        let cut = judged(|_, seen| drop(seen.runs[0].events.pop()));
        assert_eq!((cut.events_lost, cut.wrong_ends), (1, 1), "the log ends before its end");
    }

    #[test]
    fn what_is_there_twice_is_found() {
        assert_eq!(judged(|_, seen| seen.runs[1].events.insert(1, event(1, None))).duplicates, 1);
        assert_eq!(judged(|_, seen| seen.runs.push(seen.runs[1].clone())).duplicates, 1);
        assert_eq!(judged(|acks, _| acks.insert(6, acks[5].clone())).duplicates, 1, "sent twice on a stream");
        let twice = judged(|_, seen| seen.effects.values_mut().for_each(|lines| *lines = 2));
        assert_eq!(twice.effects_wrong, 1);
    }

    #[test]
    fn every_hole_is_found() {
        assert_eq!(judged(|_, seen| drop(seen.runs[1].events.remove(0))).holes, 1, "in a log");
        assert_eq!(judged(|acks, _| drop(acks.remove(6))).holes, 1, "in a stream");
    }

    #[test]
    fn every_change_is_found() {
        assert_eq!(judged(|_, seen| seen.runs[0].events[1].data = "other".into()).events_changed, 1);
        let other = |seen: &mut Snapshot, end: End| seen.runs[0].end = Some(end);
        let failed = judged(|_, seen| other(seen, end("failed", "host_shutdown", "host_shutdown")));
        assert_eq!(failed.wrong_ends, 2, "it is not the end that was told, and not the end that the log tells");
        assert_eq!(judged(|_, seen| other(seen, end("succeeded", "completed", "other"))).wrong_ends, 2);
        let uncancelled = |_: &mut Vec<Ack>, seen: &mut Snapshot| {
            seen.runs[1].end = Some(end("succeeded", "completed", ""));
            seen.runs[1].events[1].stop_reason = Some("completed".into());
        };
        assert_eq!(judged(uncancelled).cancels_broken, 1);
    }

    #[test]
    fn a_run_ends_once_and_its_log_with_it() {
        assert_eq!(judged(|_, seen| seen.runs[1].end = None).runs_unended, 1);
        assert_eq!(judged(|_, seen| seen.runs[1].events[0].stop_reason = Some("cancelled".into())).wrong_ends, 1);
        assert_eq!(judged(|_, seen| seen.runs[1].events.push(event(3, None))).wrong_ends, 1);
    }

    #[test]
    fn what_a_guest_wrote_may_be_missing_after_a_power_cut_but_never_there_twice() {
        let (mut acks, mut snapshot) = truth();
        acks.push(Ack::Run { user: "ann".into(), run: "a".into(), input: None, effect: Some("gone".into()) });
        assert_eq!(compare(&acks, &snapshot, GuestFiles::Kept).effects_wrong, 1);
        assert!(compare(&acks, &snapshot, GuestFiles::MayBeMissing).holds());
        snapshot.effects.insert(("ann".into(), "gone".into()), 2);
        assert_eq!(compare(&acks, &snapshot, GuestFiles::MayBeMissing).effects_wrong, 1);
    }

    #[test]
    fn an_answer_that_nothing_explains_is_a_violation() {
        assert_eq!(judged(|acks, _| acks.push(Ack::Surprise { what: "404".into() })).surprises, 1);
        assert_eq!(judged(|_, seen| seen.surprises.push("a page differs".into())).surprises, 1);
    }
}
