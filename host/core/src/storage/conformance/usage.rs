//! What runs took is counted once, by day, and outlives them.

use super::*;
use crate::usage::SUM_MAX;

/// A day of no other test's: what is forgotten is of whichever user.
const DAY: i64 = 20_000;

fn day(number: i64) -> Day {
    Day::from_number(number)
}

pub(super) async fn of_all_days(storage: &dyn Storage, scope: &Scope) -> UsageSum {
    storage.usage(scope, day(0), day(1 << 20)).await.expect("reads")
}

async fn finish(storage: &dyn Storage, on: i64, end: RunEnd) -> (RunSpec, RunEnd) {
    let spec = insert(storage, spec("udo")).await;
    let end = RunEnd { finished_at: Timestamp::from_second(on * 86_400 + 7).expect("a time"), ..end };
    storage.finish(&scope("udo"), batch(spec.id, [ended(spec.id, 1)]), end.clone()).await.expect("finishes");
    (spec, end)
}

pub(super) async fn check(storage: &dyn Storage) {
    let (operator, udo) = (Operator::host(), scope("udo"));
    let of = async |first, last| storage.usage(&udo, day(first), day(last)).await.expect("reads");
    assert_eq!(of_all_days(storage, &udo).await, UsageSum::default());

    let took = |n: u64| Usage {
        fuel: 1_000 * n,
        memory_peak_bytes: 9,
        wall_ms: 8,
        active_ms: n,
        host_calls: 2 * n,
        events: 3 * n,
        tool_calls: 4 * n,
        memory_byte_seconds: 5_000_000_000 * n,
    };
    let (spec, end) = finish(storage, DAY, RunEnd { usage: took(1), ..completed("1") }).await;
    // An end whose answer was lost is written again, and may then say something else.
    for usage in [took(1), took(50)] {
        let children = Children { failed: 50, ..Children::default() };
        let again = RunEnd { usage, children, ..end.clone() };
        storage.finish(&udo, batch(spec.id, [ended(spec.id, 1)]), again).await.expect("finishes again");
    }
    assert_eq!(storage.run(&udo, spec.id).await.expect("reads").map(|run| run.usage), Some(took(1)));
    let read = storage.run(&udo, spec.id).await.expect("reads");
    assert_eq!(read.map(|run| run.children), Some(end.children));
    finish(storage, DAY, RunEnd { usage: took(2), ..completed("1") }).await;
    finish(storage, DAY, RunEnd { usage: took(3), ..failed(StopReason::Trap) }).await;
    finish(storage, DAY + 1, RunEnd { usage: took(10), ..failed(StopReason::Trap) }).await;
    let sum = |runs, n: u64, ends: &[(StopReason, u64)]| UsageSum {
        runs,
        runs_by_stop_reason: ends.iter().copied().collect(),
        fuel: 1_000 * n,
        active_ms: n,
        host_calls: 2 * n,
        events: 3 * n,
        tool_calls: 4 * n,
        memory_byte_seconds: 5_000_000_000 * n,
    };
    let first = sum(3, 6, &[(StopReason::Completed, 2), (StopReason::Trap, 1)]);
    let second = sum(1, 10, &[(StopReason::Trap, 1)]);
    let both = sum(4, 16, &[(StopReason::Completed, 2), (StopReason::Trap, 2)]);
    assert_eq!(of(DAY, DAY).await, first);
    assert_eq!(of(DAY + 1, DAY + 1).await, second);
    assert_eq!(of(DAY, DAY + 1).await, both);
    assert_eq!(of(0, DAY - 1).await, UsageSum::default());
    assert_eq!(of(DAY + 1, DAY).await, UsageSum::default());
    assert_eq!(of_all_days(storage, &scope("nobody")).await, UsageSum::default(), "another user's usage was read");

    // Nobody else's end counts, and a removed run does as before.
    storage.finish(&scope("vic"), batch(spec.id, [ended(spec.id, 2)]), completed("2")).await.expect("is ignored");
    storage.prune(operator, udo.user(), History::default()).await.expect("prunes");
    assert_eq!(storage.run(&udo, spec.id).await.expect("reads"), None);
    assert_eq!(of(DAY, DAY + 1).await, both);

    // Sums that are too large stay where they are.
    for _ in 0..2 {
        finish(storage, DAY + 2, completed("1")).await;
    }
    let large = of(DAY + 2, DAY + 2).await;
    assert_eq!((large.fuel, large.runs, large.tool_calls), (SUM_MAX, 2, 12));
    assert_eq!(of(DAY, DAY + 2).await.fuel, SUM_MAX);

    // The oldest days go, and no others.
    assert!(storage.oldest_usage(operator).await.expect("reads").is_some_and(|oldest| oldest <= day(DAY)));
    for _ in 0..2 {
        storage.prune_usage(operator, day(DAY + 1)).await.expect("prunes");
        assert_eq!(storage.oldest_usage(operator).await.expect("reads"), Some(day(DAY + 1)));
        assert_eq!(of(0, DAY + 1).await, second);
    }
    state_is_counted(storage).await;
}

async fn state_is_counted(storage: &dyn Storage) {
    let scope = scope("ugo");
    assert_eq!(storage.state_bytes(&scope).await.expect("reads"), 0);
    let space = space("ugo", "notes", None);
    set(storage, &space, "key", b"value").await;
    assert_eq!(storage.state_bytes(&scope).await.expect("reads"), 8 + STATE_KEY_OVERHEAD_BYTES);
    storage.state_delete(&space, "key", None).await.expect("removes");
    assert_eq!(storage.state_bytes(&scope).await.expect("reads"), 0);
}
