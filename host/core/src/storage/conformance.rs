//! What every storage must do, whatever it is made of. An implementation's tests call [`check`].

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    clippy::indexing_slicing,
    reason = "it is called by tests only, and says what it expects by failing"
)]

use super::*;
use crate::{
    UserExecutionContext,
    context::{Effect, StopSignal},
    event::{LogLevel, ToolFailure},
    grant::Access,
    ids::RequestId,
    quota::{LiveQuota, Quota, RunLimits, STATE_KEY_OVERHEAD_BYTES},
    run::{Durability, Priority, Retries, RunError, StopReason, Usage},
};
use std::{sync::Arc, time::Duration};

mod deployment;
mod log;
mod once;
mod state;
mod usage;
mod waits;

/// What [`check`] has left in a storage, and has to be there after it was closed and opened again.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    runs: Vec<(RunSpec, RunView, Vec<Envelope>)>,
    feed: Vec<FeedEntry>,
    unfinished: Vec<UnfinishedRun>,
    state: Vec<(String, Option<StateEntry>)>,
    plugins: Vec<PluginVersion>,
    grant: Option<Permissions>,
    identity: Option<Identity>,
    keys: u64,
    earlier: Option<Earlier>,
    usage: UsageSum,
}

/// Checks all promises of [`Storage`] on a storage that is empty, and says what it has left there.
pub async fn check(storage: &dyn Storage) -> Kept {
    a_run_is_kept_and_lived_through(storage).await;
    a_run_may_end_without_having_begun(storage).await;
    a_run_is_its_users_only(storage).await;
    log::check(storage).await;
    the_oldest_finished_runs_are_pruned_and_no_live_one(storage).await;
    a_large_run_is_pruned_whole(storage).await;
    what_is_written_again_counts_once_in_the_history(storage).await;
    deployment::check(storage).await;
    runs_are_listed_newest_first(storage).await;
    unfinished_runs_are_listed_oldest_first(storage).await;
    state::state_is_set_under_conditions(storage).await;
    state::state_spaces_are_apart(storage).await;
    state::state_keys_are_listed_in_byte_order(storage).await;
    state::state_that_has_expired_is_absent(storage).await;
    state::state_is_bounded_by_its_users_quota(storage).await;
    state::state_is_set_by_one_of_two(storage).await;
    once::check(storage).await;
    usage::check(storage).await;
    waits::check(storage).await;
    the_first_who_asks_for_a_cancel_stands(storage).await;
    kept(storage).await
}

/// Checks that a storage that was closed and opened again holds what [`check`] left there.
pub async fn check_reopened(storage: &dyn Storage, before: &Kept) {
    let after = kept(storage).await;
    assert_eq!(after.runs.len(), before.runs.len(), "as many runs as before");
    for (after, before) in after.runs.iter().zip(&before.runs) {
        assert_eq!(after, before, "a run is as it was before");
    }
    assert_eq!(&after, before, "all is as it was before");
    // What counts on does so from where it was.
    let space = space("stan", "notes", None);
    let last = storage.state_get(&space, "kept").await.expect("reads").map_or(0, |entry| entry.version);
    let next = set(storage, &space, "kept", b"later").await;
    assert!(next > last, "versions grow across a restart: {next} after {last}");
}

async fn kept(storage: &dyn Storage) -> Kept {
    let operator = Operator::host();
    let scope = scope("rita");
    let mut runs = Vec::new();
    for listed in storage.runs(&scope, &query()).await.expect("lists") {
        let spec = storage.run_spec(&scope, listed.id).await.expect("reads").expect("what is listed is there");
        let view = storage.run(&scope, listed.id).await.expect("reads").expect("what is listed is there");
        runs.push((spec, view, log(storage, &scope, listed.id).await));
    }
    let space = space("stan", "notes", None);
    let mut state = Vec::new();
    for key in storage.state_keys(&space, "", None, u32::MAX).await.expect("lists") {
        let entry = storage.state_get(&space, &key).await.expect("reads");
        state.push((key, entry));
    }
    Kept {
        runs,
        feed: feed(storage, &scope, FeedPlace::default(), u32::MAX).await,
        unfinished: storage.unfinished_runs(operator).await.expect("lists"),
        state,
        plugins: storage.plugins(operator).await.expect("lists"),
        grant: storage.grant(&self::scope("gil"), &plugin("notes")).await.expect("reads"),
        identity: storage.authenticate(Digest::of(b"kim's secret")).await.expect("reads"),
        keys: storage.keys_count(operator).await.expect("counts"),
        earlier: storage.earlier(&self::scope("otto"), Creating::Run, Digest::of(b"kept")).await.expect("reads"),
        usage: usage::of_all_days(storage, &self::scope("udo")).await,
    }
}

async fn a_run_is_kept_and_lived_through(storage: &dyn Storage) {
    let ann = scope("rita");
    let full = RunSpec {
        session: Some("sess-1".parse().expect("a session id")),
        parent: Some(RunId::generate()),
        metadata: json(r#"{"from": "a test", "n": 1.000000000000000000001}"#),
        input: json(r#"["é", "\u0000", "𝄞"]"#),
        limits: RunLimits { fuel: u64::MAX, memory_bytes: u64::MAX - 1, deadline_ms: 1 },
        priority: Priority::High,
        durability: Durability::Durable,
        retries: Some(Retries::new(3, 250).expect("in range")),
        ..spec("rita")
    };
    storage.insert_run(&ann, &full, None).await.expect("inserts");
    assert_run(storage, &ann, &RunView::queued(&full)).await;
    assert_eq!(storage.run_spec(&ann, full.id).await.expect("reads"), Some(full.clone()));
    assert_eq!(log(storage, &ann, full.id).await, []);

    let begun = RunBatch { started_at: Some(at(10)), ..batch(full.id, [thinking(full.id, 1, "first")]) };
    storage.append(&ann, begun).await.expect("appends");
    let running = RunView { status: RunStatus::Running, started_at: Some(at(10)), ..RunView::queued(&full) };
    assert_run(storage, &ann, &running).await;

    // A write whose answer was lost is written again.
    storage.insert_run(&ann, &full, None).await.expect("inserts again");
    assert_run(storage, &ann, &running).await;

    // Neither takes anything back.
    storage.append(&ann, batch(full.id, [])).await.expect("appends nothing");
    storage.append(&ann, batch(full.id, [thinking(full.id, 2, "second")])).await.expect("appends");
    assert_run(storage, &ann, &running).await;

    let end = completed(r#"{"answer": 42}"#);
    let last = batch(full.id, [thinking(full.id, 3, "third"), ended(full.id, 4)]);
    storage.finish(&ann, last.clone(), end.clone()).await.expect("finishes");
    let finished = running.ended(&end);
    assert_run(storage, &ann, &finished).await;
    assert_eq!(seqs(&log(storage, &ann, full.id).await), [1, 2, 3, 4]);

    // A run ends once: whatever comes later changes nothing.
    storage.finish(&ann, last, end).await.expect("finishes again");
    let other_end = failed(StopReason::HostShutdown);
    storage.finish(&ann, batch(full.id, [ended(full.id, 5)]), other_end).await.expect("finishes otherwise");
    let late = RunBatch { started_at: Some(at(99)), effects: true, ..batch(full.id, [thinking(full.id, 5, "late")]) };
    storage.append(&ann, late).await.expect("appends late");
    storage.insert_run(&ann, &full, None).await.expect("inserts late");
    assert_run(storage, &ann, &finished).await;
    assert_eq!(seqs(&log(storage, &ann, full.id).await), [1, 2, 3, 4]);
}

async fn a_run_may_end_without_having_begun(storage: &dyn Storage) {
    let ann = scope("rita");
    for reason in StopReason::ALL.into_iter().filter(|reason| *reason != StopReason::Completed) {
        let spec = insert(storage, spec("rita")).await;
        let end = failed(reason);
        storage.finish(&ann, batch(spec.id, [ended(spec.id, 1)]), end.clone()).await.expect("finishes");
        assert_run(storage, &ann, &RunView::queued(&spec).ended(&end)).await;
        assert_eq!(seqs(&log(storage, &ann, spec.id).await), [1]);
    }
    // The end says when it began, also where the beginning was not written before.
    let spec = insert(storage, spec("rita")).await;
    let (begun, end) = (RunBatch { started_at: Some(at(20)), ..batch(spec.id, []) }, completed("null"));
    storage.finish(&ann, begun, end.clone()).await.expect("finishes");
    assert_run(storage, &ann, &RunView::queued(&spec).ended(&end)).await;
}

async fn a_run_is_its_users_only(storage: &dyn Storage) {
    let (ann, bob) = (scope("uma"), scope("vic"));
    let spec = insert(storage, spec("uma")).await;
    let before = RunBatch { started_at: Some(at(1)), ..batch(spec.id, [thinking(spec.id, 1, "mine")]) };
    storage.append(&ann, before).await.expect("appends");
    let view = storage.run(&ann, spec.id).await.expect("reads").expect("is there");

    // To another user there is no difference between this run and none.
    for id in [spec.id, RunId::generate()] {
        assert_eq!(storage.run(&bob, id).await.expect("reads"), None, "another user's run was read");
        assert_eq!(storage.run_spec(&bob, id).await.expect("reads"), None, "another user's run was read");
        assert_eq!(log(storage, &bob, id).await, [], "another user's log was read");
        let stranger = RunBatch { effects: true, ..batch(id, [thinking(id, 2, "not yours")]) };
        storage.append(&bob, stranger.clone()).await.expect("is ignored");
        storage.finish(&bob, stranger, failed(StopReason::Cancelled)).await.expect("is ignored");
        assert_eq!(storage.run(&bob, id).await.expect("reads"), None, "a run came from nowhere");
        assert_eq!(log(storage, &bob, id).await, [], "a log came from nowhere");
    }
    assert_eq!(storage.runs(&bob, &query()).await.expect("lists"), [], "another user's run was listed");
    let after = RunQuery { thread: Some(spec.thread.clone()), ..query() };
    assert_eq!(storage.runs(&bob, &after).await.expect("lists"), [], "another user's run was listed");
    assert_run(storage, &ann, &view).await;
    assert_eq!(seqs(&log(storage, &ann, spec.id).await), [1], "another user wrote to the log");
    let unfinished = storage.unfinished_runs(Operator::host()).await.expect("lists");
    assert!(unfinished.iter().any(|run| run.id == spec.id && !run.effects), "another user marked the run");
    storage.finish(&ann, batch(spec.id, []), completed("1")).await.expect("finishes");
}

async fn the_oldest_finished_runs_are_pruned_and_no_live_one(storage: &dyn Storage) {
    let (operator, ida) = (Operator::host(), scope("ida"));
    assert_eq!(storage.history(&ida).await.expect("reads"), History::default());
    let live = insert(storage, spec("ida")).await;
    let mut finished = Vec::new();
    for n in 0..20_u64 {
        let spec = insert(storage, spec("ida")).await;
        let chunks = vec![RecordChunk { number: 1, bytes: vec![7; 5_000] }];
        let last = RunBatch { chunks, ..batch(spec.id, [thinking(spec.id, 1, "x"), ended(spec.id, 2)]) };
        let at = at(1_000_000 + i64::try_from(n).unwrap_or(0));
        storage.finish(&ida, last, RunEnd { finished_at: at, ..completed("1") }).await.expect("finishes");
        finished.push(spec.id);
    }
    let all = storage.history(&ida).await.expect("reads");
    assert_eq!(all.runs, 20);
    assert!((20 * 6_000..20 * 6_600).contains(&all.bytes), "{all:?}");
    assert_eq!(storage.history(&scope("vic")).await.expect("reads").runs, 0, "another user's");
    let left = async || {
        let listed = storage.runs(&ida, &query()).await.expect("lists");
        let mut ids: Vec<_> = listed.iter().map(|run| run.id).filter(|id| *id != live.id).collect();
        assert_eq!(ids.len() + 1, listed.len(), "the live run is there");
        ids.reverse();
        ids
    };
    // Nothing is over.
    storage.prune(operator, ida.user(), all).await.expect("prunes");
    assert_eq!(left().await, finished);
    // A step at a time, the oldest first.
    let few = History { runs: 5, bytes: u64::MAX >> 1 };
    storage.prune(operator, ida.user(), few).await.expect("prunes");
    assert_eq!(left().await, finished[PRUNED_AT_ONCE_MAX as usize..]);
    storage.prune(operator, ida.user(), few).await.expect("prunes");
    assert_eq!(left().await, finished[15..]);
    let each = storage.history(&ida).await.expect("reads").bytes / 5;
    storage.prune(operator, ida.user(), History { runs: 100, bytes: 3 * each }).await.expect("prunes");
    assert_eq!(left().await, finished[17..]);
    assert_eq!(storage.history(&ida).await.expect("reads"), History { runs: 3, bytes: 3 * each });
    // Nothing of what is gone is left.
    assert_eq!(storage.run(&ida, finished[0]).await.expect("reads"), None);
    assert_eq!(log(storage, &ida, finished[0]).await, []);
    assert_eq!(storage.record(&ida, finished[0], 0).await.expect("reads"), []);
    // By age, of one user.
    let oldest = async || {
        let before = "ic".parse().expect("a user id");
        storage.oldest_finishes(operator, Some(&before), 1).await.expect("reads")
    };
    assert_eq!(oldest().await, [(ida.user().clone(), at(1_000_017))]);
    storage.prune_before(operator, &"vic".parse().expect("a user id"), at(1_000_018)).await.expect("prunes");
    storage.prune_before(operator, ida.user(), at(1_000_017)).await.expect("prunes");
    assert_eq!(left().await, finished[17..], "nothing of hers finished before");
    storage.prune_before(operator, ida.user(), at(1_000_018)).await.expect("prunes");
    assert_eq!(left().await, finished[18..]);
    assert_eq!(oldest().await, [(ida.user().clone(), at(1_000_018))]);
    let all = storage.oldest_finishes(operator, None, 100).await.expect("reads");
    assert!(all.is_sorted() && all.iter().any(|(user, _)| user == ida.user()), "{all:?}");
    // What a live run has started stays with it, and what that has.
    let child = insert(storage, RunSpec { parent: Some(live.id), ..spec("ida") }).await;
    let grandchild = insert(storage, RunSpec { parent: Some(child.id), ..spec("ida") }).await;
    for id in [grandchild.id, child.id] {
        storage.finish(&ida, batch(id, [ended(id, 1)]), completed("1")).await.expect("finishes");
    }
    let none = History { runs: 0, bytes: 0 };
    let prune = async || {
        storage.prune(operator, ida.user(), none).await.expect("prunes");
        storage.prune_before(operator, ida.user(), crate::clock::now()).await.expect("prunes");
    };
    prune().await;
    assert_eq!(left().await, [child.id, grandchild.id]);
    // What they take is what stays, and what may go is not counted among it.
    let stay = storage.history(&ida).await.expect("reads").bytes;
    let stays = async |bytes| storage.stays_at_least(&ida, bytes).await.expect("reads");
    let other = insert(storage, spec("ida")).await;
    storage.finish(&ida, batch(other.id, [ended(other.id, 1)]), completed("1")).await.expect("finishes");
    assert!(stays(stay).await && !stays(stay + 1).await, "{stay} bytes");
    assert!(!storage.stays_at_least(&scope("vic"), 1).await.expect("reads"), "another user's");
    prune().await;
    assert!(stays(stay).await && !stays(stay + 1).await, "{stay} bytes");
    // Then a generation after the other. None of it has to stay.
    storage.finish(&ida, batch(live.id, [ended(live.id, 1)]), completed("1")).await.expect("the live run ends");
    assert!(!stays(1).await);
    for _ in 0..3 {
        prune().await;
    }
    assert_eq!(storage.history(&ida).await.expect("reads"), History::default());
}

async fn a_large_run_is_pruned_whole(storage: &dyn Storage) {
    let (operator, ian) = (Operator::host(), scope("ian"));
    // By number, then by age; each time with a small one before it and behind it.
    for left in [1, 0] {
        let mut runs = Vec::new();
        for bytes in [10, 50_000, 10] {
            let run = insert(storage, spec("ian")).await.id;
            let chunks = (1..=3).map(|number| RecordChunk { number, bytes: vec![7; bytes] }).collect();
            let said = (1..=9).map(|seq| thinking(run, seq, &"x".repeat(bytes / 10))).collect::<Vec<_>>();
            storage.append(&ian, RunBatch { chunks, ..batch(run, said) }).await.expect("appends");
            storage.finish(&ian, batch(run, [ended(run, 10)]), completed("1")).await.expect("finishes");
            runs.push(run);
        }
        let mut have = storage.history(&ian).await.expect("reads");
        while have.runs > left {
            if left > 0 {
                storage.prune(operator, ian.user(), History { runs: left, ..have }).await.expect("prunes");
            } else {
                storage.prune_before(operator, ian.user(), crate::clock::now()).await.expect("prunes");
            }
            let before = std::mem::replace(&mut have, storage.history(&ian).await.expect("reads"));
            assert!(have.runs < before.runs && have.bytes < before.bytes, "{before:?}, {have:?}");
        }
        for run in &runs[..2] {
            assert_eq!(storage.run(&ian, *run).await.expect("reads"), None);
            assert_eq!(log(storage, &ian, *run).await, []);
            assert_eq!(storage.record(&ian, *run, 0).await.expect("reads"), []);
        }
        assert_eq!(storage.run(&ian, runs[2]).await.expect("reads").is_some(), left > 0);
        let feed = storage.feed(&ian, FeedPlace::default(), 100).await.expect("reads");
        assert!(feed.iter().all(|entry| left > 0 && entry.envelope.run_id == runs[2]), "{} entries", feed.len());
    }
    assert_eq!(storage.history(&ian).await.expect("reads"), History::default());
}

async fn what_is_written_again_counts_once_in_the_history(storage: &dyn Storage) {
    let ivo = scope("ivo");
    let says = |run, seqs: std::ops::RangeInclusive<u64>, chunks: std::ops::RangeInclusive<u64>| {
        let chunks = chunks.map(|number| RecordChunk { number, bytes: vec![7; 100] }).collect();
        RunBatch { chunks, ..batch(run, seqs.map(|seq| thinking(run, seq, "as long as any other"))) }
    };
    // The first is written once. Of the others the answers to some writes were lost: what they had written comes again, with
    // what has been said since.
    let (mut bytes, mut of_each) = (0, Vec::new());
    for [second, third] in [[3, 4], [1, 4], [3, 3], [1, 1]] {
        let run = insert(storage, spec("ivo")).await.id;
        storage.append(&ivo, says(run, 1..=2, 1..=1)).await.expect("appends");
        storage.append(&ivo, says(run, second..=3, second.min(2)..=2)).await.expect("appends");
        let mut last = says(run, third..=4, third.min(3)..=3);
        last.events.push(ended(run, 5));
        storage.finish(&ivo, last, completed("1")).await.expect("finishes");
        let all = storage.history(&ivo).await.expect("reads").bytes;
        of_each.push(all - bytes);
        bytes = all;
    }
    assert!(of_each.iter().all(|bytes| *bytes == of_each[0] && *bytes > 1_300), "{of_each:?}");
}

async fn runs_are_listed_newest_first(storage: &dyn Storage) {
    let ann = scope("lea");
    let (echo, other, thread) = (plugin("echo"), plugin("other"), "talk".parse::<ThreadId>().expect("a thread id"));
    let mut runs = Vec::new();
    for n in 0..6 {
        let agent = if n % 2 == 0 { echo.clone() } else { other.clone() };
        let own = spec("lea");
        let thread = if n < 3 { thread.clone() } else { own.thread.clone() };
        runs.push(insert(storage, RunSpec { agent, thread, ..own }).await);
    }
    // 0 and 1 have ended, 2 runs, 3 to 5 wait.
    storage.finish(&ann, batch(runs[0].id, []), completed(r#""long output""#)).await.expect("finishes");
    storage.finish(&ann, batch(runs[1].id, []), failed(StopReason::Cancelled)).await.expect("finishes");
    let begun = RunBatch { started_at: Some(at(5)), ..batch(runs[2].id, []) };
    storage.append(&ann, begun).await.expect("appends");

    let all = RunQuery::default;
    let cases: Vec<(RunQuery, &[usize])> = vec![
        (query(), &[5, 4, 3, 2, 1, 0]),
        (RunQuery { limit: 0, ..all() }, &[]),
        (RunQuery { limit: 1, ..all() }, &[5]),
        (RunQuery { limit: 6, ..all() }, &[5, 4, 3, 2, 1, 0]),
        (RunQuery { before: Some(runs[3].id), ..query() }, &[2, 1, 0]),
        (RunQuery { before: Some(runs[3].id), limit: 2, ..all() }, &[2, 1]),
        (RunQuery { before: Some(runs[0].id), ..query() }, &[]),
        (RunQuery { before: Some(RunId::generate()), ..query() }, &[5, 4, 3, 2, 1, 0]),
        (RunQuery { status: Some(RunStatus::Queued), ..query() }, &[5, 4, 3]),
        (RunQuery { status: Some(RunStatus::Running), ..query() }, &[2]),
        (RunQuery { status: Some(RunStatus::Succeeded), ..query() }, &[0]),
        (RunQuery { status: Some(RunStatus::Cancelled), ..query() }, &[1]),
        (RunQuery { status: Some(RunStatus::Failed), ..query() }, &[]),
        (RunQuery { agent: Some(other.clone()), ..query() }, &[5, 3, 1]),
        (RunQuery { agent: Some(plugin("nothing")), ..query() }, &[]),
        (RunQuery { thread: Some(thread.clone()), ..query() }, &[2, 1, 0]),
        (RunQuery { thread: Some(runs[4].thread.clone()), ..query() }, &[4]),
        (RunQuery { thread: Some(thread.clone()), agent: Some(echo), limit: 1, ..all() }, &[2]),
        (
            RunQuery {
                before: Some(runs[2].id),
                status: Some(RunStatus::Cancelled),
                agent: Some(other),
                thread: Some(thread),
                limit: 9,
            },
            &[1],
        ),
    ];
    for (query, expected) in cases {
        let found = storage.runs(&ann, &query).await.expect("lists");
        let expected: Vec<_> = expected.iter().map(|n| runs[*n].id).collect();
        assert_eq!(found.iter().map(|run| run.id).collect::<Vec<_>>(), expected, "{query:?}");
        for listed in found {
            let whole = storage.run(&ann, listed.id).await.expect("reads").expect("what is listed is there");
            assert_eq!(listed, RunView { output: None, ..whole }, "a list has all but the outputs");
        }
    }
    for run in &runs {
        storage.finish(&ann, batch(run.id, []), failed(StopReason::Cancelled)).await.expect("finishes");
    }
}

async fn unfinished_runs_are_listed_oldest_first(storage: &dyn Storage) {
    let (ann, bob) = (scope("rita"), scope("walt"));
    assert_eq!(storage.unfinished_runs(Operator::host()).await.expect("lists"), [], "all runs so far have ended");
    let waiting = insert(storage, RunSpec { priority: Priority::Low, ..spec("rita") }).await;
    let running = insert(storage, RunSpec { priority: Priority::High, ..spec("walt") }).await;
    let careful = insert(storage, spec("rita")).await;
    let gone = insert(storage, spec("rita")).await;
    let events = [thinking(running.id, 1, "a"), thinking(running.id, 2, "b")];
    let begun = RunBatch { started_at: Some(at(1)), effects: true, ..batch(running.id, events) };
    storage.append(&bob, begun).await.expect("appends");
    storage.append(&bob, batch(running.id, [])).await.expect("appends nothing");
    let begun = RunBatch { started_at: Some(at(2)), ..batch(careful.id, [thinking(careful.id, 1, "c")]) };
    storage.append(&ann, begun).await.expect("appends");
    storage.finish(&ann, batch(gone.id, []), completed("1")).await.expect("finishes");

    let unfinished = |spec: &RunSpec, status, effects, last_seq, started_at| UnfinishedRun {
        id: spec.id,
        user: spec.user.clone(),
        agent: spec.agent.clone(),
        digest: spec.digest,
        thread: spec.thread.clone(),
        priority: spec.priority,
        durability: spec.durability,
        retries: spec.retries,
        attempt: 1,
        parent: spec.parent,
        created_at: spec.created_at,
        status,
        cancel: None,
        effects,
        last_seq,
        started_at,
        starts: 0,
    };
    let mut expected = [
        unfinished(&waiting, RunStatus::Queued, false, 0, None),
        unfinished(&running, RunStatus::Running, true, 2, Some(at(1))),
        unfinished(&careful, RunStatus::Running, false, 1, Some(at(2))),
    ];
    assert_eq!(storage.unfinished_runs(Operator::host()).await.expect("lists"), expected);
    for unfinished in &expected {
        let view = storage.run(&scope(unfinished.user.as_str()), unfinished.id).await.expect("reads");
        assert_eq!(view, Some(unfinished.view()));
    }
    let asked = cancel_request("key_1", 3);
    storage.request_cancel(&ann, waiting.id, &asked).await.expect("asks");
    expected[0].cancel = Some(asked);
    assert_eq!(storage.unfinished_runs(Operator::host()).await.expect("lists"), expected);
}

async fn the_first_who_asks_for_a_cancel_stands(storage: &dyn Storage) {
    let (ann, bob) = (scope("rita"), scope("vic"));
    let (first, second) = (cancel_request("key_1", 1), cancel_request("key_2", 2));
    for begun in [false, true] {
        let spec = insert(storage, spec("rita")).await;
        let mut expected = RunView::queued(&spec);
        if begun {
            let begun = RunBatch { started_at: Some(at(1)), ..batch(spec.id, []) };
            storage.append(&ann, begun).await.expect("appends");
            expected = RunView { status: RunStatus::Running, started_at: Some(at(1)), ..expected };
        }
        storage.request_cancel(&bob, spec.id, &second).await.expect("is ignored");
        storage.request_cancel(&bob, RunId::generate(), &second).await.expect("is ignored");
        assert_run(storage, &ann, &expected).await;
        expected.cancel = Some(first.clone());
        for request in [&first, &second] {
            storage.request_cancel(&ann, spec.id, request).await.expect("asks");
            assert_run(storage, &ann, &expected).await;
        }
        let listed = storage.runs(&ann, &RunQuery { limit: 1, ..query() }).await.expect("lists");
        assert_eq!(listed, [expected.clone()]);
        let end = failed(StopReason::Cancelled);
        storage.finish(&ann, batch(spec.id, [cancelled(spec.id, 1)]), end.clone()).await.expect("finishes");
        assert_run(storage, &ann, &expected.ended(&end)).await;
        assert_eq!(log(storage, &ann, spec.id).await, [cancelled(spec.id, 1)]);
    }
    // An end that is no cancel leaves no trace of one, and one that is written again changes nothing.
    let asked = insert(storage, spec("rita")).await;
    storage.request_cancel(&ann, asked.id, &first).await.expect("asks");
    for end in [completed("1"), failed(StopReason::Cancelled)] {
        storage.finish(&ann, batch(asked.id, []), end).await.expect("finishes");
        assert_run(storage, &ann, &RunView::queued(&asked).ended(&completed("1"))).await;
    }
    let spec_kept = insert(storage, spec("rita")).await;
    storage.request_cancel(&ann, spec_kept.id, &first).await.expect("asks");
    for end in [failed(StopReason::Cancelled), completed("1")] {
        storage.finish(&ann, batch(spec_kept.id, []), end).await.expect("finishes");
        let kept = RunView { cancel: Some(first.clone()), ..RunView::queued(&spec_kept) };
        assert_run(storage, &ann, &kept.ended(&failed(StopReason::Cancelled))).await;
    }
    // A run that has ended cannot be asked any more.
    let spec = insert(storage, spec("rita")).await;
    let end = completed("1");
    storage.finish(&ann, batch(spec.id, []), end.clone()).await.expect("finishes");
    storage.request_cancel(&ann, spec.id, &first).await.expect("is ignored");
    assert_run(storage, &ann, &RunView::queued(&spec).ended(&end)).await;
}

fn cancel_request(by: &str, microsecond: i64) -> CancelRequest {
    CancelRequest { by: by.parse().expect("a key id"), at: at(microsecond) }
}

fn cancelled(run_id: RunId, seq: u64) -> Envelope {
    let event = Event::AgentCancelled {
        by: "key_1".into(),
        message: "m".into(),
        usage: Usage::default(),
        children: Children::default(),
    };
    Envelope { seq, run_id, at: at(1001), event }
}

fn scope(user: &str) -> Scope {
    Operator::host().on_behalf_of(&user.parse().expect("a user id"))
}

fn plugin(name: &str) -> PluginName {
    name.parse().expect("a plugin name")
}

fn json(text: &str) -> Json {
    Json::parse(text).expect("JSON")
}

/// Some time. Storage keeps microseconds.
fn at(microsecond: i64) -> Timestamp {
    Timestamp::from_microsecond(1_700_000_000_000_000 + microsecond).expect("a time")
}

/// All runs.
fn query() -> RunQuery {
    RunQuery { limit: u32::MAX, ..RunQuery::default() }
}

fn spec(user: &str) -> RunSpec {
    let id = RunId::generate();
    RunSpec {
        id,
        user: scope(user).user().clone(),
        agent: plugin("echo"),
        digest: Digest::of(b"a component"),
        request: RequestId::generate(),
        thread: ThreadId::of_run(id),
        session: None,
        parent: None,
        metadata: Json::empty_object(),
        input: json("null"),
        limits: RunLimits { fuel: 1, memory_bytes: 2, deadline_ms: 3 },
        priority: Priority::default(),
        durability: Durability::Ephemeral,
        retries: None,
        created_at: at(0),
    }
}

async fn insert(storage: &dyn Storage, spec: RunSpec) -> RunSpec {
    storage.insert_run(&scope(spec.user.as_str()), &spec, None).await.expect("inserts");
    spec
}

fn batch(run: RunId, events: impl IntoIterator<Item = Envelope>) -> RunBatch {
    RunBatch {
        run,
        started_at: None,
        attempt: None,
        effects: false,
        events: events.into_iter().collect(),
        chunks: Vec::new(),
        wait: None,
        start: None,
    }
}

fn thinking(run_id: RunId, seq: u64, text: &str) -> Envelope {
    Envelope { seq, run_id, at: at(seq.cast_signed()), event: Event::AgentThinking { text: text.into() } }
}

fn ended(run_id: RunId, seq: u64) -> Envelope {
    Envelope {
        seq,
        run_id,
        at: at(1000),
        event: Event::AgentCompleted { output_bytes: 2, usage: Usage::default(), children: Children::default() },
    }
}

fn completed(output: &str) -> RunEnd {
    RunEnd {
        stop_reason: StopReason::Completed,
        output: Some(json(output)),
        error: None,
        usage: Usage {
            fuel: u64::MAX,
            memory_peak_bytes: 1,
            wall_ms: 2,
            active_ms: 3,
            host_calls: 4,
            events: 5,
            tool_calls: 6,
            memory_byte_seconds: 7,
        },
        children: Children { succeeded: 8, failed: 9, cancelled: u32::MAX },
        started_at: Some(at(11)),
        finished_at: at(1000),
    }
}

fn failed(stop_reason: StopReason) -> RunEnd {
    RunEnd {
        stop_reason,
        output: None,
        error: Some(RunError { code: "a_code".into(), message: String::new() }),
        usage: Usage::default(),
        children: Children::default(),
        started_at: None,
        finished_at: at(1001),
    }
}

async fn assert_run(storage: &dyn Storage, scope: &Scope, expected: &RunView) {
    assert_eq!(storage.run(scope, expected.id).await.expect("reads").as_ref(), Some(expected));
}

/// The whole log.
async fn log(storage: &dyn Storage, scope: &Scope, run: RunId) -> Vec<Envelope> {
    let mut log = Vec::<Envelope>::new();
    loop {
        let after = log.last().map_or(0, |envelope| envelope.seq);
        let page = storage.events(scope, run, after, u32::MAX).await.expect("reads");
        if page.is_empty() {
            return log;
        }
        log.extend(page);
    }
}

/// The rest of a feed, read in pages.
async fn feed(storage: &dyn Storage, scope: &Scope, after: FeedPlace, limit: u32) -> Vec<FeedEntry> {
    let mut feed = Vec::<FeedEntry>::new();
    loop {
        let after = feed.last().map_or(after, |entry| entry.place);
        let page = storage.feed(scope, after, limit).await.expect("reads");
        if page.is_empty() {
            return feed;
        }
        feed.extend(page);
    }
}

fn seqs(events: &[Envelope]) -> Vec<u64> {
    events.iter().map(|envelope| envelope.seq).collect()
}

fn space(user: &str, agent: &str, thread: Option<&str>) -> StateSpace {
    let own = spec(user);
    let thread_id = thread.map_or(own.thread.clone(), |thread| thread.parse().expect("a thread id"));
    let spec = RunSpec { agent: plugin(agent), thread: thread_id, ..own };
    let permissions = Permissions::new([], Access::ReadWrite);
    let ctx = UserExecutionContext::rest(
        Arc::new(spec),
        permissions,
        LiveQuota::fixed(Quota::default()),
        StopSignal::default(),
    );
    ctx.authorize(Effect::StateWrite).expect("it was granted").state_space(thread.is_some())
}

fn state_write(key: &str, value: &[u8]) -> StateWrite {
    StateWrite {
        key: key.into(),
        value: value.into(),
        expires_at: None,
        expected: Expected::Any,
        by: None,
        user_bytes_max: 1 << 20,
    }
}

async fn set(storage: &dyn Storage, space: &StateSpace, key: &str, value: &[u8]) -> u64 {
    storage.state_set(space, state_write(key, value)).await.expect("sets")
}

async fn assert_state(storage: &dyn Storage, space: &StateSpace, key: &str, value: &[u8], version: u64) {
    let expected = StateEntry { value: value.into(), version };
    assert_eq!(storage.state_get(space, key).await.expect("reads"), Some(expected));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn storage_in_memory_keeps_its_promises() {
        let storage = MemoryStorage::default();
        let kept = check(&storage).await;
        check_reopened(&storage, &kept).await;
    }
}
