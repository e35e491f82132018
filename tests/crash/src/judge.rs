//! The checker's other half: what must have come of durable runs. They go on after each kill, so it is the same as if
//! there had been none: every step was done, once.

use crate::{
    acks::Ack,
    check::{EventKind, GuestFiles, Outside, RunSeen, Snapshot, Verdict},
    durable::YOUNG_RUNS_STORED,
    http::text,
    plan::{Child, Step},
};
use serde::Serialize;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// The clock of a run may be read a little before and after it sleeps, in whole milliseconds.
const CLOCK_MS: u64 = 1;

/// What came of durable runs.
#[derive(Debug, Default, Serialize)]
pub struct Durable {
    pub runs: usize,
    pub cancelled: usize,
    pub children: usize,
    /// Calls of `effects.put`, and how many more attempts at them there were.
    pub puts: usize,
    pub put_again: usize,
    /// Calls of `effects.append`, and of how many the run learned that nobody knows what became of them.
    pub appends: usize,
    pub appends_unknown: usize,
    pub changes: u64,
    pub answers: usize,
    pub sleeps: usize,
    /// Runs that the host ended because storage failed, which is no violation where it was made to.
    pub cut_off: usize,
    /// Runs of the user of whom only the youngest are kept, and those of them that are gone.
    pub young: usize,
    pub young_removed: usize,
    /// Runs that have not ended.
    pub stuck: usize,
    /// Runs and effects that are there more than once, or that nothing explains.
    pub doubles: usize,
    /// Runs, effects and words that are not there.
    pub losses: usize,
    pub answers_lost: usize,
    /// Ends that are not those of their plans, and outcomes that are not those of their steps.
    pub outcomes_wrong: usize,
    /// Children that are not those of their parent, or outlived it.
    pub children_wrong: usize,
    /// Old runs that are kept, or young ones that are not.
    pub young_wrong: usize,
}

/// How often a kill met a durable run in what.
#[derive(Debug, Default, Serialize)]
pub struct Met {
    pub between_calls: usize,
    pub in_tool_calls: usize,
    pub asking: usize,
    pub waiting_for_children: usize,
    pub sleeping: usize,
}

struct Judge<'a> {
    verdict: &'a mut Verdict,
    runs: &'a BTreeMap<&'a str, &'a RunSeen>,
    children: BTreeMap<&'a str, Vec<&'a RunSeen>>,
    /// By run and question.
    answers: BTreeMap<(&'a str, &'a str), &'a Value>,
    guest_files: GuestFiles,
}

/// The runs of one user.
struct Theirs<'a> {
    outside: &'a Outside,
    /// Calls of `effects.put` whose keys are known.
    keys: BTreeSet<String>,
    /// Lines that `effects.append` was told to leave.
    lines: BTreeSet<&'a str>,
    /// Changes of their state.
    changes: u64,
}

/// Compares the plans of durable runs with what came of them.
pub fn durable(
    verdict: &mut Verdict,
    acks: &[Ack],
    runs: &BTreeMap<&str, &RunSeen>,
    seen: &Snapshot,
    guest_files: GuestFiles,
) {
    let nothing = Outside::default();
    let mut judge = Judge { verdict, runs, children: BTreeMap::new(), answers: BTreeMap::new(), guest_files };
    for run in &seen.runs {
        if let Some(parent) = &run.parent {
            judge.children.entry(parent).or_default().push(run);
        }
    }
    let (mut plans, mut known) = (BTreeMap::<&str, Vec<_>>::new(), BTreeSet::new());
    for ack in acks {
        match ack {
            Ack::Durable { user, run, plan, endless } => {
                plans.entry(user).or_default().push((run, plan, *endless));
                if !known.insert(run.as_str()) {
                    judge.verdict.count(|v| &mut v.durable.doubles, || format!("run {run} was made twice"));
                }
            }
            Ack::Answer { run, prompt, answer } => {
                judge.verdict.durable.answers += 1;
                judge.answers.insert((run, prompt), answer);
            }
            _ => {}
        }
    }
    for (user, plans) in plans {
        let outside = seen.outside.get(user).unwrap_or(&nothing);
        let mut theirs = Theirs { outside, keys: BTreeSet::new(), lines: BTreeSet::new(), changes: 0 };
        for (run, plan, endless) in plans {
            judge.verdict.durable.runs += 1;
            match runs.get(run.as_str()) {
                Some(there) => judge.run(&mut theirs, there, plan, endless),
                None => judge.verdict.count(|v| &mut v.durable.losses, || format!("durable run {run} is lost")),
            }
        }
        judge.effects(user, &theirs);
        for run in seen.runs.iter().filter(|run| run.user == user && run.parent.is_none()) {
            // Each was asked for under a key until it was acknowledged.
            if !known.contains(run.id.as_str()) {
                judge.verdict.count(|v| &mut v.durable.doubles, || format!("run {} was never asked for", run.id));
            }
        }
    }
    judge.parents();
    judge.young(acks);
}

impl<'a> Judge<'a> {
    fn wrong(&mut self, what: impl FnOnce() -> String) {
        self.verdict.count(|v| &mut v.durable.outcomes_wrong, what);
    }

    /// A run, and the children that it has started.
    fn run(&mut self, theirs: &mut Theirs<'a>, run: &'a RunSeen, plan: &'a [Step], endless: bool) {
        let id = run.id.as_str();
        let Some(end) = &run.end else {
            return self.verdict.count(|v| &mut v.durable.stuck, || format!("durable run {id} has not ended"));
        };
        let succeeded = end.status == "succeeded";
        let planned: Vec<_> = plan
            .iter()
            .filter_map(|step| match step {
                Step::Say { text } => Some(text),
                _ => None,
            })
            .collect();
        let said: Vec<_> = run
            .events
            .iter()
            .filter_map(|event| match &event.kind {
                EventKind::Says(text) => Some(text),
                _ => None,
            })
            .collect();
        if !planned.starts_with(&said) {
            self.verdict.count(|v| &mut v.durable.doubles, || format!("run {id} said {said:?}, not {planned:?}"));
        } else if succeeded && said.len() < planned.len() {
            self.verdict.count(|v| &mut v.durable.losses, || format!("run {id} said only {said:?} of {planned:?}"));
        }
        let children = self.children.get(id).map_or(0, Vec::len);
        let planned: usize = plan.iter().map(Step::children).sum();
        self.verdict.durable.children += children;
        if children > planned || succeeded && children < planned && self.guest_files != GuestFiles::MayBeRefused {
            let what = || format!("run {id} has {children} children, not {planned}");
            self.verdict.count(|v| &mut v.durable.children_wrong, what);
        }
        theirs.lines.extend(plan.iter().filter_map(|step| match step {
            Step::Append { line, .. } => Some(line.as_str()),
            _ => None,
        }));
        if endless {
            self.verdict.durable.cancelled += 1;
            if end.status != "cancelled" {
                self.wrong(|| format!("run {id} has no end, and ended as {}", end.stop_reason));
            }
            return;
        }
        if self.guest_files == GuestFiles::MayBeRefused && end.stop_reason == "host_error" {
            self.verdict.durable.cut_off += 1;
            return;
        }
        let outcomes = run.output.as_array().filter(|_| succeeded);
        let Some(outcomes) = outcomes.filter(|outcomes| outcomes.len() == plan.len()) else {
            let (reason, outcome) = (&end.stop_reason, &end.outcome);
            return self.wrong(|| format!("durable run {id} ended as {reason}: {outcome}"));
        };
        for (number, (step, outcome)) in plan.iter().zip(outcomes).enumerate() {
            let clock = |number: Option<usize>| outcomes.get(number?)?.get("wall_ms")?.as_u64();
            if let Step::Sleep { ms } = step
                && let (Some(before), Some(after)) = (clock(number.checked_sub(1)), clock(number.checked_add(1)))
                && before + ms > after + CLOCK_MS
            {
                self.wrong(|| format!("run {id} slept from {before} to {after} and not {ms} ms"));
            }
            self.step(theirs, run, step, outcome);
        }
    }

    fn step(&mut self, theirs: &mut Theirs<'a>, run: &'a RunSeen, step: &'a Step, outcome: &'a Value) {
        let id = run.id.as_str();
        let refused = self.guest_files == GuestFiles::MayBeRefused && outcome.get("error").is_some();
        let nothing = json!({"ok": null});
        let is_right = match step {
            _ if refused => true,
            Step::Say { .. } => *outcome == nothing,
            Step::Sleep { .. } => {
                self.verdict.durable.sleeps += 1;
                *outcome == nothing
            }
            Step::Clock => outcome.get("wall_ms").is_some_and(Value::is_u64),
            Step::Puts { holds_ms } => {
                let answers = outcome.as_array().map(Vec::as_slice).unwrap_or_default();
                for answer in answers {
                    self.put(theirs, id, answer);
                }
                answers.len() == holds_ms.len()
            }
            Step::Append { line, .. } => {
                self.verdict.durable.appends += 1;
                let lines = theirs.outside.appends.iter().filter(|other| *other == line).count();
                let ok = outcome.get("ok").is_some();
                if ok && lines == 0 && self.guest_files == GuestFiles::Kept {
                    self.verdict.count(|v| &mut v.durable.losses, || format!("the line {line} of run {id} is lost"));
                }
                let unknown = outcome.pointer("/error/kind").and_then(Value::as_str) == Some("outcome_unknown");
                self.verdict.durable.appends_unknown += usize::from(unknown);
                ok || unknown
            }
            Step::Make { .. } => {
                theirs.changes += 1;
                outcome.get("ok").is_some_and(Value::is_u64)
            }
            Step::Change { key } => {
                theirs.changes += 1;
                let (told, version) = (outcome.get("ok").and_then(Value::as_u64), theirs.outside.versions.get(key));
                if told.as_ref() != version {
                    let what = || format!("{key} of run {id} had the version {told:?}, and has {version:?}");
                    self.verdict.count(|v| &mut v.durable.losses, what);
                }
                told.is_some()
            }
            Step::Ask { prompt } => {
                let acknowledged = self.answers.get(&(id, prompt.as_str())).copied();
                if acknowledged.is_some_and(|answer| outcome.get("ok") != Some(answer)) {
                    let what = || format!("run {id} was answered {acknowledged:?}, and has {outcome}");
                    self.verdict.count(|v| &mut v.durable.answers_lost, what);
                }
                outcome.get("ok").is_some()
            }
            Step::Children { children } => {
                let answers = outcome.as_array().map(Vec::as_slice).unwrap_or_default();
                for (child, answer) in children.iter().zip(answers) {
                    self.child(theirs, id, child, answer);
                }
                answers.len() == children.len()
            }
            Step::Leave => {
                let child = self.runs.get(text(outcome, "id"));
                let end = child.and_then(|child| child.end.as_ref());
                if end.is_none_or(|end| end.status != "cancelled") {
                    let what = || format!("a child that run {id} left behind is {end:?}");
                    self.verdict.count(|v| &mut v.durable.children_wrong, what);
                }
                child.is_some_and(|child| child.parent.as_deref() == Some(id))
            }
        };
        if !is_right {
            self.wrong(|| format!("run {id}: {step:?} came to {outcome}"));
        }
    }

    /// A call of `effects.put` that was answered.
    fn put(&mut self, theirs: &mut Theirs<'a>, run: &str, answer: &Value) {
        if self.guest_files == GuestFiles::MayBeRefused && answer.get("error").is_some() {
            return;
        }
        let done = answer.get("ok").unwrap_or(&Value::Null);
        let key = text(done, "key");
        if key.is_empty() || text(done, "run_id") != run {
            return self.wrong(|| format!("run {run}: effects.put came to {answer}"));
        }
        if !theirs.keys.insert(key.to_owned()) {
            self.verdict.count(|v| &mut v.durable.doubles, || format!("two calls have the key {key}"));
        }
        self.verdict.durable.puts += 1;
        let content = theirs.outside.puts.get(key);
        if content.is_none_or(|content| content != key) && self.guest_files == GuestFiles::Kept {
            let what = || format!("the file of the call {key} of run {run} holds {content:?}");
            self.verdict.count(|v| &mut v.durable.losses, what);
        }
    }

    fn child(&mut self, theirs: &mut Theirs<'a>, parent: &str, child: &'a Child, answer: &'a Value) {
        if self.guest_files == GuestFiles::MayBeRefused && answer.pointer("/answer/ok").is_none() {
            return;
        }
        let there = self.runs.get(text(answer, "id")).filter(|run| run.parent.as_deref() == Some(parent));
        let Some(there) = there else {
            let what = || format!("run {parent} was told of a child that it does not have: {answer}");
            return self.verdict.count(|v| &mut v.durable.children_wrong, what);
        };
        let told = answer.pointer("/answer/ok");
        if told != Some(&there.output) {
            self.wrong(|| format!("run {parent} was told {answer} of its child, which gave {}", there.output));
        }
        match child {
            Child::Echo { token } => {
                if there.output != *token {
                    self.wrong(|| format!("run {} gave {} and not {token}", there.id, there.output));
                }
            }
            Child::Probe { plan } => self.run(theirs, there, plan, false),
        }
    }

    /// What lies outside, and no answer tells of.
    fn effects(&mut self, user: &str, theirs: &Theirs<'a>) {
        let mut lines: BTreeMap<&str, usize> = BTreeMap::new();
        for line in &theirs.outside.appends {
            *lines.entry(line).or_default() += 1;
        }
        for (line, count) in lines {
            if count > 1 {
                self.verdict.count(|v| &mut v.durable.doubles, || format!("{user} has the line {line} {count} times"));
            } else if !theirs.lines.contains(line) && self.guest_files == GuestFiles::Kept {
                self.verdict.count(|v| &mut v.durable.doubles, || format!("{user} has a line of no run: {line}"));
            }
        }
        // A call that was told of an error has no key that is known.
        if self.guest_files == GuestFiles::MayBeRefused {
            return;
        }
        self.verdict.durable.changes += theirs.changes;
        // Each change of a user's state has the next number.
        let newest = theirs.outside.versions.values().max().copied().unwrap_or_default();
        if newest != theirs.changes {
            let what = || format!("{} changes of the state of {user} have come to version {newest}", theirs.changes);
            self.verdict.count(|v| &mut v.durable.doubles, what);
        }
        for key in theirs.outside.puts.keys().filter(|key| !theirs.keys.contains(*key)) {
            self.verdict.count(|v| &mut v.durable.doubles, || format!("{user} has a file of no call: {key}"));
        }
        if self.guest_files == GuestFiles::Kept {
            let again = theirs.outside.attempts.len().checked_sub(theirs.keys.len());
            self.verdict.durable.put_again += again.unwrap_or_default();
            let tried: BTreeSet<_> = theirs.outside.attempts.iter().collect();
            for key in tried.into_iter().filter(|key| !theirs.keys.contains(*key)) {
                self.verdict.count(|v| &mut v.durable.doubles, || format!("{user} has an attempt of no call: {key}"));
            }
        }
    }

    /// A child has a parent, and does not outlive it.
    fn parents(&mut self) {
        let children: Vec<_> = self.children.values().flatten().copied().collect();
        for child in children {
            let id = &child.id;
            let parent = child.parent.as_deref().and_then(|parent| self.runs.get(parent));
            match (parent, &child.end) {
                (None, _) => {
                    self.verdict.count(|v| &mut v.durable.children_wrong, || format!("child {id} has no parent"));
                }
                (Some(_), Some(_)) => {}
                (Some(_), None) => {
                    self.verdict.count(|v| &mut v.durable.stuck, || format!("child {id} has not ended"));
                }
            }
        }
    }

    /// Of the user of whom few runs are kept, it is the youngest that are.
    fn young(&mut self, acks: &[Ack]) {
        let told: Vec<_> = acks
            .iter()
            .filter_map(|ack| match ack {
                Ack::Young { run, .. } => Some(run.as_str()),
                _ => None,
            })
            .collect();
        let gone = told.iter().filter(|run| !self.runs.contains_key(*run)).count();
        let kept = told.len() - gone;
        self.verdict.durable.young += told.len();
        self.verdict.durable.young_removed += gone;
        if kept > YOUNG_RUNS_STORED {
            self.verdict.count(|v| &mut v.durable.young_wrong, || format!("{kept} young runs are kept"));
        }
        // Runs whose acknowledgement was lost take places, too; the youngest of all is there in any case.
        if let Some(youngest) = told.last().filter(|run| !self.runs.contains_key(*run)) {
            self.verdict.count(|v| &mut v.durable.young_wrong, || format!("the youngest run {youngest} is gone"));
        }
    }
}

impl Met {
    /// What the kills met durable runs in, and their children, by the logs.
    #[must_use]
    pub fn by(kills_at_us: &[u64], acks: &[Ack], seen: &Snapshot) -> Self {
        let users: BTreeSet<_> = acks
            .iter()
            .filter_map(|ack| match ack {
                Ack::Durable { user, .. } => Some(user),
                _ => None,
            })
            .collect();
        let mut met = Self::default();
        for run in seen.runs.iter().filter(|run| users.contains(&run.user)) {
            for kill in kills_at_us {
                let before = run.events.iter().take_while(|event| event.at_us < *kill);
                let (mut calls, mut last) = (0_usize, None);
                for event in before {
                    match &event.kind {
                        EventKind::CallBegins => calls += 1,
                        EventKind::CallEnds => calls = calls.saturating_sub(1),
                        _ => {}
                    }
                    last = Some(event);
                }
                let Some(last) = last.filter(|last| last.stop_reason.is_none()) else { continue };
                let place = match &last.kind {
                    EventKind::Waits(what) => match what.as_str() {
                        "human" => &mut met.asking,
                        "child" => &mut met.waiting_for_children,
                        "time" => &mut met.sleeping,
                        _ => continue,
                    },
                    _ if calls > 0 => &mut met.in_tool_calls,
                    _ => &mut met.between_calls,
                };
                *place += 1;
            }
        }
        met
    }

    /// Whether nothing was left out.
    #[must_use]
    pub const fn everything(&self) -> bool {
        self.between_calls > 0
            && self.in_tool_calls > 0
            && self.asking > 0
            && self.waiting_for_children > 0
            && self.sleeping > 0
    }
}

impl fmt::Display for Met {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "kills met durable runs {} times between calls, {} in tool calls, {} asking, {} waiting for children, \
             {} sleeping",
            self.between_calls, self.in_tool_calls, self.asking, self.waiting_for_children, self.sleeping,
        )
    }
}

impl fmt::Display for Durable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "durable: {} runs ({} cancelled, {} ended by storage that failed), {} children, {} puts ({} made again), {} appends ({} unknown), \
             {} changes of state, {} answers, {} sleeps; {} stuck, {} doubles, {} losses, {} answers lost, \
             {} outcomes wrong, {} children wrong; of {} young runs {} removed, {} wrong",
            self.runs,
            self.cancelled,
            self.cut_off,
            self.children,
            self.puts,
            self.put_again,
            self.appends,
            self.appends_unknown,
            self.changes,
            self.answers,
            self.sleeps,
            self.stuck,
            self.doubles,
            self.losses,
            self.answers_lost,
            self.outcomes_wrong,
            self.children_wrong,
            self.young,
            self.young_removed,
            self.young_wrong,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        acks::End,
        check::{EventSeen, compare},
    };

    fn run(id: &str, parent: Option<&str>, output: Value, said: &[&str]) -> RunSeen {
        let said = said.iter().map(|text| EventKind::Says((*text).to_owned()));
        let end = End { status: "succeeded".into(), stop_reason: "completed".into(), outcome: String::new() };
        let mut events: Vec<_> =
            said.zip(1..).map(|(kind, seq)| EventSeen { seq, at_us: seq, kind, ..EventSeen::default() }).collect();
        let seq = 1 + events.len() as u64;
        let stop_reason = Some(end.stop_reason.clone());
        events.push(EventSeen { seq, at_us: seq, stop_reason, ..EventSeen::default() });
        RunSeen { id: id.into(), user: "ann".into(), parent: parent.map(str::to_owned), output, end: Some(end), events }
    }

    /// A run with every kind of step, and a server that has done all of it.
    fn truth() -> (Vec<Ack>, Snapshot) {
        let say = |text: &str| Step::Say { text: text.into() };
        let plan = vec![
            say("a"),
            Step::Puts { holds_ms: vec![1] },
            Step::Append { line: "l".into(), hold_ms: 1 },
            Step::Make { key: "k".into() },
            Step::Change { key: "k".into() },
            Step::Clock,
            Step::Sleep { ms: 1_000 },
            Step::Clock,
            Step::Ask { prompt: "q".into() },
            Step::Children { children: vec![Child::Probe { plan: vec![say("c")] }] },
            say("b"),
        ];
        let ok = |value: Value| json!({ "ok": value });
        let output = json!([
            ok(Value::Null),
            [ok(json!({"key": "p:1", "run_id": "p"}))],
            ok(json!({})),
            ok(json!(1)),
            ok(json!(2)),
            {"wall_ms": 5_000},
            ok(Value::Null),
            {"wall_ms": 6_000},
            ok(json!({"number": 7})),
            [{"id": "c", "answer": ok(json!([ok(Value::Null)]))}],
            ok(Value::Null),
        ]);
        let acks = vec![
            Ack::Durable { user: "ann".into(), run: "p".into(), plan, endless: false },
            Ack::Answer { run: "p".into(), prompt: "q".into(), answer: json!({"number": 7}) },
            Ack::Young { user: "young".into(), run: "y1".into() },
            Ack::Young { user: "young".into(), run: "y2".into() },
        ];
        let mut young = run("y2", None, Value::Null, &[]);
        young.user = "young".into();
        let outside = Outside {
            puts: [("p:1".into(), "p:1".into())].into(),
            attempts: vec!["p:1".into(), "p:1".into()],
            appends: vec!["l".into()],
            versions: [("k".into(), 2)].into(),
        };
        let runs =
            vec![run("p", None, output, &["a", "b"]), run("c", Some("p"), json!([ok(Value::Null)]), &["c"]), young];
        (acks, Snapshot { runs, outside: [("ann".into(), outside)].into(), ..Snapshot::default() })
    }

    fn judged(change: impl FnOnce(&mut Vec<Ack>, &mut Snapshot)) -> Durable {
        let (mut acks, mut snapshot) = truth();
        change(&mut acks, &mut snapshot);
        let verdict = compare(&acks, &snapshot, GuestFiles::Kept);
        assert!(!verdict.holds(), "{verdict}");
        verdict.durable
    }

    fn outside(seen: &mut Snapshot) -> &mut Outside {
        seen.outside.get_mut("ann").expect("ann")
    }

    #[test]
    fn what_was_done_once_holds() {
        let (acks, snapshot) = truth();
        let verdict = compare(&acks, &snapshot, GuestFiles::Kept);
        assert!(verdict.holds(), "{:?}", verdict.violations);
        let durable = verdict.durable;
        assert_eq!((durable.runs, durable.children, durable.answers, durable.sleeps), (1, 1, 1, 1));
        assert_eq!((durable.puts, durable.put_again, durable.changes, durable.young_removed), (1, 1, 2, 1));
    }

    #[test]
    fn what_was_done_twice_is_found() {
        assert_eq!(judged(|_, seen| drop(outside(seen).puts.insert("p:9".into(), "p:9".into()))).doubles, 1);
        assert_eq!(judged(|_, seen| outside(seen).attempts.push("p:9".into())).doubles, 1);
        assert_eq!(judged(|_, seen| outside(seen).appends.push("l".into())).doubles, 1);
        assert_eq!(judged(|_, seen| outside(seen).appends.push("other".into())).doubles, 1);
        let changed = judged(|_, seen| {
            outside(seen).versions.insert("k".into(), 3);
        });
        assert_eq!((changed.doubles, changed.losses), (1, 1), "nobody was told of the version that there is");
        assert_eq!(judged(|_, seen| seen.runs.push(run("x", None, Value::Null, &[]))).doubles, 1, "never asked for");
        assert_eq!(judged(|acks, _| acks.push(acks[0].clone())).doubles, 3, "two runs, one key");
        let twice = judged(|_, seen| seen.runs[0].events[1].kind = EventKind::Says("a".into()));
        assert_eq!(twice.doubles, 1, "words");
    }

    #[test]
    fn what_was_not_done_is_found() {
        assert_eq!(judged(|_, seen| outside(seen).puts.clear()).losses, 1);
        assert_eq!(judged(|_, seen| outside(seen).appends.clear()).losses, 1);
        assert_eq!(judged(|_, seen| seen.runs[0].events[1].kind = EventKind::Other).losses, 1, "words");
        assert_eq!(judged(|_, seen| seen.runs[0].end = None).stuck, 1);
        assert_eq!(judged(|_, seen| seen.runs[1].end = None).stuck, 2, "as a child, and as a part of the plan");
        assert_eq!(judged(|_, seen| seen.runs[0].output[8] = json!({"ok": {"number": 8}})).answers_lost, 1);
        assert_eq!(judged(|_, seen| seen.runs[0].output[7] = json!({"wall_ms": 5_900})).outcomes_wrong, 1);
        assert_eq!(judged(|_, seen| seen.runs[0].output[2] = json!({"error": {"kind": "failed"}})).outcomes_wrong, 1);
        let shutdown = |_: &mut Vec<Ack>, seen: &mut Snapshot| {
            let stop_reason = "host_shutdown".to_owned();
            seen.runs[0].events[2].stop_reason = Some(stop_reason.clone());
            seen.runs[0].end = Some(End { status: "failed".into(), stop_reason, outcome: String::new() });
        };
        assert_eq!(judged(shutdown).outcomes_wrong, 1);
    }

    #[test]
    fn children_and_young_runs_are_counted() {
        assert_eq!(judged(|_, seen| seen.runs.push(run("d", Some("p"), Value::Null, &[]))).children_wrong, 1);
        assert_eq!(judged(|_, seen| seen.runs.push(run("d", Some("q"), Value::Null, &[]))).children_wrong, 1);
        assert_eq!(judged(|_, seen| drop(seen.runs.remove(1))).children_wrong, 2, "not counted, and not found");
        assert_eq!(judged(|_, seen| drop(seen.runs.pop())).young_wrong, 1);
    }

    #[test]
    fn an_append_of_which_nobody_knows_may_have_happened_or_not() {
        let (acks, mut snapshot) = truth();
        snapshot.runs[0].output[2] = json!({"error": {"kind": "outcome_unknown"}});
        assert!(compare(&acks, &snapshot, GuestFiles::Kept).holds());
        outside(&mut snapshot).appends.clear();
        let verdict = compare(&acks, &snapshot, GuestFiles::Kept);
        assert!(verdict.holds(), "{:?}", verdict.violations);
        assert_eq!(verdict.durable.appends_unknown, 1);
    }

    #[test]
    fn a_kill_is_counted_for_what_the_log_says_last() {
        let (acks, mut snapshot) = truth();
        snapshot.runs[0].events[1].kind = EventKind::Waits("human".into());
        snapshot.runs[0].events[2].at_us = 9;
        let met = Met::by(&[5, 20], &acks, &snapshot);
        assert_eq!((met.asking, met.between_calls, met.in_tool_calls), (1, 0, 0), "{met:?}");
    }
}
