//! Runs that wait are found when there is what they wait for, and an answer is taken once.

use super::*;
use crate::{
    clock,
    run::Retries,
    wait::{Answer, Answered, Earlier, StoredWait, TakenBefore, ToolsTook, WaitFor},
};
use jiff::{ToSpan as _, Unit};

fn human() -> WaitFor {
    WaitFor::Human { prompt: "go on?".into(), schema: json(r#"{"type":"boolean"}"#), default: Some(json("false")) }
}

fn wait(call: u64, waits_for: WaitFor, until: Option<i64>) -> Wait {
    let earlier = Earlier { attempts: 1, usage: Usage { fuel: u64::MAX, events: 3, ..Usage::default() } };
    let tools = ToolsTook { host_calls: 6, events: 7, event_bytes: 8, log_bytes: 9 };
    let taken =
        TakenBefore { wall_ms: 1, active_ms: 2, fuel: u64::MAX, memory_byte_seconds: 4, host_waits: 5, tools, earlier };
    Wait { call, waits_for, since: at(7), until: until.map(at), taken, told: None }
}

fn answer(value: &str, by: &str) -> Answer {
    Answer { by: by.parse().expect("a key id"), at: at(20), value: json(value) }
}

async fn waits(storage: &dyn Storage, spec: &RunSpec, seq: u64, wait: &Wait) {
    let scope = scope(spec.user.as_str());
    let started_at = Some(at(5));
    let put_away =
        RunBatch { started_at, wait: Some(wait.clone()), ..batch(spec.id, [thinking(spec.id, seq, "waits")]) };
    storage.append(&scope, put_away).await.expect("appends");
}

fn ids(runs: &[UnfinishedRun]) -> Vec<RunId> {
    runs.iter().map(|run| run.id).collect()
}

/// A time that is not over while this is tested.
const FAR: i64 = 9_000_000_000_000_000;

pub(super) async fn check(storage: &dyn Storage) {
    let (operator, wanda, other) = (Operator::host(), scope("wanda"), scope("other"));
    let own = storage.waits();
    let durable = RunSpec { durability: Durability::Durable, ..spec("wanda") };
    let (asks, sleeps, parent) =
        (insert(storage, durable).await, insert(storage, spec("wanda")).await, insert(storage, spec("wanda")).await);
    let child = insert(storage, RunSpec { parent: Some(parent.id), ..spec("wanda") }).await;
    assert_eq!(own.waiting(&wanda, asks.id).await.expect("reads"), None);
    assert_eq!(own.answer(&wanda, asks.id, 3, &answer("true", "key_1")).await.expect("keeps"), Answered::NotWaiting);

    let (question, time) = (wait(3, human(), Some(FAR)), wait(1, WaitFor::Time, Some(50)));
    let for_child = wait(2, WaitFor::Child { run_id: child.id }, None);
    waits(storage, &asks, 1, &question).await;
    waits(storage, &sleeps, 1, &time).await;
    waits(storage, &parent, 1, &for_child).await;

    // It reads as waiting, and for what, by itself and in a list.
    let expected = RunView {
        status: RunStatus::Waiting,
        started_at: Some(at(5)),
        wait: Some(question.clone()),
        ..RunView::queued(&asks)
    };
    assert_run(storage, &wanda, &expected).await;
    let waiting = RunQuery { status: Some(RunStatus::Waiting), ..query() };
    let listed = storage.runs(&wanda, &waiting).await.expect("lists");
    assert_eq!(listed.iter().map(|run| run.id).collect::<Vec<_>>(), [parent.id, sleeps.id, asks.id]);
    assert_eq!(own.waiting_runs(&wanda, &[]).await.expect("counts"), 3);
    assert_eq!(own.waiting_runs(&wanda, &[asks.id, child.id, RunId::generate()]).await.expect("counts"), 2);
    assert_eq!(own.waiting_runs(&other, &[]).await.expect("counts"), 0);
    // What waits is nothing that a starting host has to end or take up.
    let unfinished = storage.unfinished_runs(operator).await.expect("lists");
    assert!(unfinished.iter().all(|run| ![asks.id, sleeps.id, parent.id].contains(&run.id)));
    let of_asks = own.unfinished(&wanda, asks.id).await.expect("reads").expect("it has not ended");
    assert_eq!(
        (of_asks.status, of_asks.durability, of_asks.last_seq, of_asks.started_at),
        (RunStatus::Waiting, Durability::Durable, 1, Some(at(5)))
    );
    assert_eq!(own.unfinished(&other, asks.id).await.expect("reads"), None);

    // Times come in their order.
    assert_eq!(own.next_wake(operator).await.expect("reads"), Some(at(50)));
    for (now, after, limit, due) in [
        (49, None, 9, vec![]),
        (50, None, 9, vec![sleeps.id]),
        (FAR, None, 9, vec![asks.id, sleeps.id]),
        (FAR, None, 1, vec![asks.id]),
        (FAR, Some(asks.id), 9, vec![sleeps.id]),
    ] {
        assert_eq!(ids(&own.due(operator, at(now), after, limit).await.expect("lists")), due, "at {now}");
    }

    // An answer comes too late for a question that has expired, though nobody has noticed yet.
    let late = insert(storage, spec("wanda")).await;
    waits(storage, &late, 1, &wait(1, human(), Some(100))).await;
    assert_eq!(own.answer(&wanda, late.id, 1, &answer("true", "key_1")).await.expect("keeps"), Answered::NotWaiting);
    storage.finish(&wanda, batch(late.id, [ended(late.id, 2)]), completed("1")).await.expect("finishes");

    // That is so from the microsecond on at which it expires. Each is tried at its very moment, wherever that is within a
    // millisecond.
    let question_until = |until| Wait { until: Some(until), ..wait(1, human(), None) };
    let from_now = |microseconds: i64| clock::now().checked_add(microseconds.microseconds()).expect("a time");
    for nth in 0..20 {
        let asked = insert(storage, spec("wanda")).await;
        let soon = from_now(10_000);
        let expires = soon.round(Unit::Millisecond).expect("a time").checked_add((47 * nth + 1).microseconds());
        let expires = expires.expect("a time");
        waits(storage, &asked, 1, &question_until(expires)).await;
        while clock::now() < expires {
            std::hint::spin_loop();
        }
        let late = own.answer(&wanda, asked.id, 1, &answer("true", "key_1")).await.expect("keeps");
        assert_eq!(late, Answered::NotWaiting, "{nth}");
        storage.finish(&wanda, batch(asked.id, [ended(asked.id, 2)]), completed("1")).await.expect("finishes");
    }
    let in_time = insert(storage, spec("wanda")).await;
    waits(storage, &in_time, 1, &question_until(from_now(3_600_000_000))).await;
    assert_eq!(own.answer(&wanda, in_time.id, 1, &answer("true", "key_1")).await.expect("keeps"), Answered::Taken);
    storage.finish(&wanda, batch(in_time.id, [ended(in_time.id, 2)]), completed("1")).await.expect("finishes");

    // The first answer to its own question stands, also when it is written again.
    let first = answer("true", "key_1");
    assert_eq!(own.answer(&other, asks.id, 3, &first).await.expect("keeps"), Answered::NotWaiting);
    assert_eq!(own.answer(&wanda, asks.id, 2, &first).await.expect("keeps"), Answered::NotWaiting);
    assert_eq!(ids(&own.told(operator).await.expect("lists")), []);
    for _ in 0..2 {
        assert_eq!(own.answer(&wanda, asks.id, 3, &first).await.expect("keeps"), Answered::Taken);
    }
    assert_eq!(own.answer(&wanda, asks.id, 3, &answer("false", "key_2")).await.expect("keeps"), Answered::Already);
    waits(storage, &asks, 1, &question).await;
    let stored = StoredWait { wait: question.clone(), answer: Some(first) };
    assert_eq!(own.waiting(&wanda, asks.id).await.expect("reads"), Some(stored));
    assert_eq!(own.waiting(&other, asks.id).await.expect("reads"), None);
    assert_eq!(ids(&own.told(operator).await.expect("lists")), [asks.id]);

    // A child is found by its parent and a parent by its child, and the child's end tells.
    assert_eq!(own.parent_of(&wanda, child.id).await.expect("reads").map(|run| run.id), Some(parent.id));
    assert_eq!(own.parent_of(&other, child.id).await.expect("reads"), None);
    assert_eq!(own.children(&wanda, parent.id).await.expect("lists"), [child.id]);
    assert_eq!(own.children(&other, parent.id).await.expect("lists"), []);
    storage.finish(&wanda, batch(child.id, [ended(child.id, 1)]), completed("1")).await.expect("finishes");
    assert_eq!(ids(&own.told(operator).await.expect("lists")), [asks.id, parent.id]);

    // What goes on waits no more, and keeps what it was told until it waits again.
    let again = RunBatch { started_at: Some(at(5)), ..batch(asks.id, []) };
    storage.append(&wanda, again).await.expect("appends");
    let running = RunView { status: RunStatus::Running, wait: None, ..expected };
    assert_run(storage, &wanda, &running).await;
    assert_eq!(ids(&own.told(operator).await.expect("lists")), [parent.id]);
    assert_eq!(ids(&own.due(operator, at(FAR), None, 9).await.expect("lists")), [sleeps.id]);
    assert!(own.waiting(&wanda, asks.id).await.expect("reads").is_some_and(|stored| stored.answer.is_some()));
    assert_eq!(own.answer(&wanda, asks.id, 3, &answer("1", "key_3")).await.expect("keeps"), Answered::Already);
    waits(storage, &asks, 2, &wait(9, human(), None)).await;
    assert!(own.waiting(&wanda, asks.id).await.expect("reads").is_some_and(|stored| stored.answer.is_none()));
    assert_eq!(own.answer(&wanda, asks.id, 9, &answer("1", "key_3")).await.expect("keeps"), Answered::Taken);

    // A cancel tells, too; and nothing is left of a wait behind the end.
    let request = CancelRequest { by: "key_9".parse().expect("a key id"), at: at(30) };
    storage.request_cancel(&wanda, sleeps.id, &request).await.expect("keeps");
    assert_eq!(ids(&own.told(operator).await.expect("lists")), [asks.id, sleeps.id, parent.id]);
    for run in [&asks, &sleeps, &parent] {
        storage.finish(&wanda, batch(run.id, [ended(run.id, 9)]), completed("1")).await.expect("finishes");
        assert_eq!(own.waiting(&wanda, run.id).await.expect("reads"), None);
        assert_eq!(own.unfinished(&wanda, run.id).await.expect("reads"), None);
    }
    assert_eq!(ids(&own.told(operator).await.expect("lists")), []);
    assert_eq!(own.next_wake(operator).await.expect("reads"), None);

    a_change_of_state_is_known_by_its_call(storage).await;
    a_child_that_has_outlived_its_parent_is_found(storage).await;
    starts_are_counted_until_the_run_comes_further(storage).await;
    another_attempt_is_counted_when_it_begins(storage).await;
    children_are_counted_by_how_they_ended(storage).await;
}

async fn children_are_counted_by_how_they_ended(storage: &dyn Storage) {
    let wanda = scope("wanda");
    let parent = insert(storage, spec("wanda")).await;
    let children_of = async |scope: &Scope| storage.waits().children_ended(scope, parent.id).await.expect("counts");
    assert_eq!(children_of(&wanda).await, Children::default());
    let ends = [completed("1"), completed("2"), failed(StopReason::Trap), failed(StopReason::Cancelled)];
    for end in ends.into_iter().map(Some).chain([None]) {
        let child = insert(storage, RunSpec { parent: Some(parent.id), ..spec("wanda") }).await;
        if let Some(end) = end {
            storage.finish(&wanda, batch(child.id, [ended(child.id, 1)]), end).await.expect("finishes");
        }
    }
    let children = Children { succeeded: 2, failed: 1, cancelled: 2 };
    assert_eq!(children_of(&wanda).await, children);
    assert_eq!(children_of(&scope("other")).await, Children::default());
    let end = RunEnd { children, ..completed("3") };
    storage.finish(&wanda, batch(parent.id, [ended(parent.id, 1)]), end.clone()).await.expect("finishes");
    let view = RunView::queued(&parent).ended(&end);
    assert!(view.is_partial_failure());
    assert_run(storage, &wanda, &view).await;
    // An end whose answer was lost is written again, and may then say something else.
    let alone = insert(storage, spec("wanda")).await;
    let (end, last) = (completed("5"), batch(alone.id, [ended(alone.id, 1)]));
    for children in [Children::default(), children] {
        storage.finish(&wanda, last.clone(), RunEnd { children, ..end.clone() }).await.expect("finishes");
        let read = storage.run(&wanda, alone.id).await.expect("reads").expect("it is there");
        assert_eq!((read.children, read.is_partial_failure()), (Children::default(), false));
    }
    // So that nothing is left that has not ended.
    for child in storage.waits().orphans(Operator::host()).await.expect("lists") {
        if child.parent == Some(parent.id) {
            storage.finish(&wanda, batch(child.id, [ended(child.id, 1)]), completed("4")).await.expect("finishes");
        }
    }
}

async fn another_attempt_is_counted_when_it_begins(storage: &dyn Storage) {
    let wanda = scope("wanda");
    let retries = Some(Retries::new(4, 100).expect("in range"));
    let run = insert(storage, RunSpec { retries, ..spec("wanda") }).await;
    assert_run(storage, &wanda, &RunView::queued(&run)).await;
    let failed = WaitFor::Retry {
        attempt: 1,
        stop_reason: StopReason::Trap,
        code: "trap".into(),
        message: "it \"trapped\"".into(),
    };
    let wait = wait(0, failed, Some(50));
    waits(storage, &run, 1, &wait).await;
    let view =
        RunView { status: RunStatus::Waiting, started_at: Some(at(5)), wait: Some(wait), ..RunView::queued(&run) };
    assert_run(storage, &wanda, &view).await;
    assert_eq!(ids(&storage.waits().due(Operator::host(), at(50), None, 9).await.expect("lists")), [run.id]);
    // Written again, because an answer was lost.
    for _ in 0..2 {
        let begins = RunBatch { started_at: Some(at(5)), attempt: Some(2), ..batch(run.id, []) };
        storage.append(&wanda, begins).await.expect("appends");
        storage.insert_run(&wanda, &run, None).await.expect("inserts");
        let view = RunView { status: RunStatus::Running, wait: None, attempt: 2, ..view.clone() };
        assert_run(storage, &wanda, &view).await;
        let unfinished = storage.waits().unfinished(&wanda, run.id).await.expect("reads").expect("it has not ended");
        assert_eq!((unfinished.retries, unfinished.attempt), (retries, 2));
    }
    // The last one begins in the commit in which it ends; it is another user's no more than any other write is.
    let stranger = RunBatch { attempt: Some(9), ..batch(run.id, []) };
    storage.append(&scope("other"), stranger).await.expect("does nothing");
    let last = RunBatch { attempt: Some(3), ..batch(run.id, [ended(run.id, 2)]) };
    let end = RunEnd { started_at: Some(at(5)), ..completed("1") };
    storage.finish(&wanda, last, end.clone()).await.expect("finishes");
    let ended = RunView { attempt: 3, ..RunView::queued(&run) }.ended(&end);
    assert_run(storage, &wanda, &ended).await;
    storage.append(&wanda, RunBatch { attempt: Some(4), ..batch(run.id, []) }).await.expect("does nothing");
    assert_run(storage, &wanda, &ended).await;
}

async fn starts_are_counted_until_the_run_comes_further(storage: &dyn Storage) {
    let wanda = scope("wanda");
    let run = insert(storage, RunSpec { durability: Durability::Durable, ..spec("wanda") }).await;
    let starts = async || {
        let unfinished = storage.waits().unfinished(&wanda, run.id).await.expect("reads").expect("it has not ended");
        let listed = storage.unfinished_runs(Operator::host()).await.expect("lists");
        assert!(listed.iter().filter(|it| it.id == run.id).all(|it| it.starts == unfinished.starts));
        unfinished.starts
    };
    let started = |at_second, events: Vec<Envelope>| RunBatch {
        started_at: Some(at(5)),
        start: Some(Start::At(at(at_second))),
        ..batch(run.id, events)
    };
    assert_eq!(starts().await, 0);
    // What is in the same commit was there before the start.
    storage.append(&wanda, started(1, vec![thinking(run.id, 1, "begins")])).await.expect("appends");
    assert_eq!(starts().await, 1);
    for second in [2, 3, 3, 3] {
        // Written again, because an answer was lost, it is the same start.
        storage.append(&wanda, started(second, Vec::new())).await.expect("appends");
    }
    assert_eq!(starts().await, 3);
    storage.append(&scope("other"), started(4, Vec::new())).await.expect("is ignored");
    assert_eq!(starts().await, 3);
    // Anything new in the log or the record is progress.
    storage.append(&wanda, batch(run.id, [thinking(run.id, 2, "goes on")])).await.expect("appends");
    assert_eq!(starts().await, 0);
    storage.append(&wanda, started(5, Vec::new())).await.expect("appends");
    storage.append(&wanda, started(6, Vec::new())).await.expect("appends");
    assert_eq!(starts().await, 2);
    let recorded = RunBatch { chunks: vec![RecordChunk { number: 1, bytes: vec![1, 2] }], ..batch(run.id, []) };
    storage.append(&wanda, recorded).await.expect("appends");
    assert_eq!(starts().await, 0);
    // One that was left in good order counts from the beginning.
    storage.append(&wanda, started(7, Vec::new())).await.expect("appends");
    let left = RunBatch { start: Some(Start::Left), ..batch(run.id, []) };
    storage.append(&scope("other"), left.clone()).await.expect("is ignored");
    assert_eq!(starts().await, 1);
    storage.append(&wanda, left).await.expect("appends");
    assert_eq!(starts().await, 0);
    storage.append(&wanda, started(8, Vec::new())).await.expect("appends");
    assert_eq!(starts().await, 1);
    storage.finish(&wanda, batch(run.id, [ended(run.id, 3)]), completed("1")).await.expect("finishes");
}

async fn a_child_that_has_outlived_its_parent_is_found(storage: &dyn Storage) {
    let wanda = scope("wanda");
    let parent = insert(storage, spec("wanda")).await;
    let child = insert(storage, RunSpec { parent: Some(parent.id), ..spec("wanda") }).await;
    waits(storage, &child, 1, &wait(1, WaitFor::Time, Some(50))).await;
    let is_orphan = async || {
        let orphans = storage.waits().orphans(Operator::host()).await.expect("lists");
        ids(&orphans).contains(&child.id)
    };
    assert!(!is_orphan().await, "its parent goes on");
    storage.finish(&wanda, batch(parent.id, [ended(parent.id, 1)]), completed("1")).await.expect("finishes");
    assert!(is_orphan().await);
    storage.finish(&wanda, batch(child.id, [ended(child.id, 2)]), completed("1")).await.expect("finishes");
    assert!(!is_orphan().await, "it has ended");
}

async fn a_change_of_state_is_known_by_its_call(storage: &dyn Storage) {
    let wanda = scope("wanda");
    let run = insert(storage, RunSpec { durability: Durability::Durable, ..spec("wanda") }).await;
    let space = space("wanda", "notes", None);
    let own = storage.waits();
    let by = |call| MadeBy { run: run.id, attempt: 1, call };
    let change = async |call| own.state_change(&wanda, by(call)).await.expect("reads");
    assert_eq!(change(1).await, None);
    let write = StateWrite {
        key: "k".into(),
        value: b"v".to_vec(),
        expires_at: None,
        expected: Expected::Any,
        user_bytes_max: u64::MAX,
        by: Some(by(1)),
    };
    let version = storage.state_set(&space, write.clone()).await.expect("sets");
    assert_eq!((change(1).await, change(2).await), (Some(version), None));
    // What was refused has changed nothing.
    let refused = StateWrite { expected: Expected::Absent, by: Some(by(2)), ..write.clone() };
    storage.state_set(&space, refused).await.expect_err("it is there");
    assert_eq!(change(2).await, None);
    assert!(storage.state_delete(&space, "k", Some(by(3))).await.expect("deletes"));
    assert_eq!((change(3).await, change(1).await), (Some(1), None));
    assert!(!storage.state_delete(&space, "k", Some(by(4))).await.expect("deletes"));
    assert_eq!(change(4).await, Some(0));
    assert_eq!(own.state_change(&scope("other"), by(4)).await.expect("reads"), None);
    // The same call of another attempt has not made it, and then is the only one that has.
    let later = MadeBy { attempt: 2, ..by(4) };
    assert_eq!(own.state_change(&wanda, later).await.expect("reads"), None);
    let again = StateWrite { by: Some(later), ..write };
    let version = storage.state_set(&space, again).await.expect("sets");
    assert_eq!(own.state_change(&wanda, later).await.expect("reads"), Some(version));
    assert_eq!(change(4).await, None);
    storage.finish(&wanda, batch(run.id, [ended(run.id, 1)]), completed("1")).await.expect("finishes");
    assert_eq!((change(4).await, own.state_change(&wanda, later).await.expect("reads")), (None, None));
}
