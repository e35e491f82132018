use super::*;
use crate::quota::Quota;
use std::collections::HashMap;

fn user(name: &str) -> UserId {
    name.parse().expect("a user id")
}

fn document(text: &str) -> crate::quota::Document {
    serde_json::from_str(text).expect("a JSON object")
}

const WANT: Want = Want { fuel: 1_000_000, memory_bytes: 1 << 20, priority: Priority::Normal };

fn admission(quota: Quota, runs_live_max: u32, runs_queued_max: u32) -> Admission {
    let memory = Arc::new(HostMemory::new(1 << 40, 0));
    Admission::new(Arc::new(Quotas::same(quota)), memory, runs_live_max, runs_queued_max)
}

#[tokio::test]
async fn two_requests_never_share_the_last_slot() {
    let quota = Quota { runs_at_once: 2, queue_wait_ms: 20, ..Quota::default() };
    let admission = admission(quota, 10, 10);
    let ann = user("ann");
    let enter = || admission.admit(admission.enqueue(&ann, WANT).expect("room"));
    let (a, b) = (enter().await.expect("a slot"), enter().await.expect("a slot"));
    assert_eq!(admission.live(), 2);
    let late = WaitedTooLong { wait_ms: 20, short: Short::Slot };
    assert_eq!(enter().await.map(drop), Err(late));
    assert!(admission.admit(admission.enqueue(&user("bob"), WANT).expect("room")).await.is_ok(), "bob is not ann");
    drop(a);
    drop(enter().await.expect("a slot came back"));
    drop(b);
    assert_eq!((admission.live(), admission.queued()), (0, 0));
    assert_eq!(admission.0.memory.bytes(), 0);
}

#[test]
fn a_full_queue_refuses_and_forgets_nothing() {
    let quota = Quota { runs_queued: 2, ..Quota::default() };
    let admission = admission(quota, 10, 3);
    let ann = user("ann");
    let places: Vec<_> = (0..2).map(|_| admission.enqueue(&ann, WANT).expect("room")).collect();
    assert_eq!(admission.enqueue(&ann, WANT).map(drop), Err(Refused::UserQueueFull(2)));
    let bob = admission.enqueue(&user("bob"), WANT).expect("room");
    assert_eq!(admission.enqueue(&user("cay"), WANT).map(drop), Err(Refused::HostQueueFull(3)));
    drop((places, bob));
    assert_eq!(admission.queued(), 0);
    assert!(admission.enqueue(&ann, WANT).is_ok());
}

#[test]
fn users_who_went_away_are_forgotten() {
    let admission = admission(Quota::default(), 10, 10);
    for n in 0..10 * IDLE_USERS_MAX {
        drop(admission.enqueue(&user(&format!("u{n}")), WANT));
    }
    assert!(admission.0.state().lines.len() <= 2 * IDLE_USERS_MAX);
}

#[tokio::test]
async fn a_thousand_at_once_against_five_never_run_six() {
    let quota = Quota { runs_at_once: 5, runs_queued: 1_000, ..Quota::default() };
    let admission = admission(quota, 100, 1_000);
    let ann = user("ann");
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..1_000 {
        let (admission, place) = (admission.clone(), admission.enqueue(&ann, WANT).expect("room"));
        tasks.spawn(async move {
            let slot = admission.admit(place).await.expect("a slot");
            assert!(admission.live() <= 5);
            tokio::task::yield_now().await;
            assert!(admission.live() <= 5);
            drop(slot);
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("not panicked");
    }
    assert_eq!((admission.live(), admission.queued(), admission.0.memory.bytes()), (0, 0, 0));
}

/// Runs that wait for the host's only slot, one after another: who gets it?
async fn served(admission: &Admission, rounds: usize, users: &[(&str, Duration)]) -> HashMap<String, usize> {
    let first = admission.try_admit(admission.enqueue(&user("first"), WANT).expect("room")).expect("a slot");
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
    let mut tasks = tokio::task::JoinSet::new();
    for (name, active) in users {
        for _ in 0..rounds {
            let (admission, sender, active) = (admission.clone(), sender.clone(), *active);
            let (place, name) = (admission.enqueue(&user(name), WANT).expect("room"), (*name).to_owned());
            tasks.spawn(async move {
                if let Ok(slot) = admission.admit(place).await {
                    slot.used(0, active);
                    let _ = sender.send((name, slot)).await;
                }
            });
        }
    }
    tokio::task::yield_now().await;
    drop(first);
    let mut served = HashMap::new();
    for _ in 0..rounds {
        let (name, slot) = receiver.recv().await.expect("one is served");
        *served.entry(name).or_insert(0) += 1;
        drop(slot);
    }
    tasks.abort_all();
    served
}

#[tokio::test]
async fn what_is_free_goes_to_who_has_had_least() {
    let quota = Quota { runs_queued: 1_000, queue_wait_ms: 60_000, ..Quota::default() };
    let admission = admission(quota, 1, 10_000);
    let second = Duration::from_secs(1);
    // Three seconds of one are as much as one second each of three of another's.
    let served = served(&admission, 100, &[("ann", second), ("bob", 3 * second)]).await;
    let (ann, bob) = (served.get("ann").copied().unwrap_or(0), served.get("bob").copied().unwrap_or(0));
    assert!((72..=78).contains(&ann), "{ann} of ann's, {bob} of bob's");
}

#[tokio::test]
async fn weight_counts_in_the_line() {
    let quotas = Quotas::same(Quota { runs_queued: 1_000, queue_wait_ms: 60_000, ..Quota::default() });
    let heavy = "heavy".parse().expect("a tier");
    let edit = quotas.read_tier(&heavy, &document(r#"{"cpu_weight": 300}"#)).expect("a tier");
    quotas.put_tier(heavy, edit);
    let ann = quotas.read_user(&user("ann"), &document(r#"{"tier": "heavy"}"#)).expect("a quota");
    quotas.put_user(&user("ann"), ann);
    let admission = Admission::new(Arc::new(quotas), Arc::new(HostMemory::new(1 << 40, 0)), 1, 10_000);
    let served = served(&admission, 100, &[("ann", Duration::from_secs(1)), ("bob", Duration::from_secs(1))]).await;
    let ann = served.get("ann").copied().unwrap_or(0);
    assert!((72..=78).contains(&ann), "{ann} of ann's");
}

#[tokio::test]
async fn fuel_of_a_minute_is_waited_for_and_then_refused() {
    let quota = Quota { fuel_per_minute: 1_000_000, runs_at_once: 1, queue_wait_ms: 30, ..Quota::default() };
    let admission = admission(quota, 10, 10);
    let ann = user("ann");
    let slot = admission.try_admit(admission.enqueue(&ann, WANT).expect("room")).expect("a slot");
    slot.used(1_000_000, Duration::ZERO);
    drop(slot);
    let place = admission.enqueue(&ann, WANT).expect("room");
    let throttle = place.throttle();
    let late = admission.admit(place).await.expect_err("no fuel");
    assert_eq!(late.short, Short::Fuel);
    assert!(throttle.is_on());
    assert!(late.to_string().contains("fuel_per_minute"), "{late}");
    assert!(admission.standing(&ann).fuel_left < 10_000);
}

#[tokio::test]
async fn what_waits_for_fuel_or_memory_begins_when_it_is_there() {
    let quota = Quota { fuel_per_minute: 60_000_000, runs_at_once: 1, ..Quota::default() };
    let memory = Arc::new(HostMemory::new(64 << 20, 0));
    let admission = Admission::new(Arc::new(Quotas::same(quota)), memory.clone(), 10, 10);
    #[expect(clippy::disallowed_methods, reason = "as a host does")]
    let tending = tokio::spawn(admission.tend(|| Duration::ZERO));
    let ann = user("ann");
    let want = Want { fuel: 60_000_000, memory_bytes: 1 << 20, ..WANT };
    let slot = admission.try_admit(admission.enqueue(&ann, want).expect("room")).expect("a slot");
    slot.used(100_000, Duration::ZERO);
    drop(slot);
    // A tenth of a second makes the fuel that was used.
    drop(admission.admit(admission.enqueue(&ann, want).expect("room")).await.expect("a slot"));
    let held = memory.reserve(32 << 20).expect("room");
    let rest = memory.run(&user("bob"), 1 << 30, LiveQuota::fixed(Quota::ceiling())).hold(29 << 20).expect("room");
    let place = admission.enqueue(&ann, want).expect("room");
    let free = async {
        tokio::time::sleep(Duration::from_millis(120)).await;
        assert_eq!(admission.live(), 0, "no run begins without memory");
        drop((held, rest));
    };
    let (slot, ()) = tokio::join!(admission.admit(place), free);
    assert!(slot.is_ok());
    tending.abort();
}

#[tokio::test]
async fn under_pressure_less_runs_at_once_and_the_reason_is_told() {
    let quota = Quota { runs_at_once: 8, queue_wait_ms: 20, ..Quota::default() };
    let admission = admission(quota, 100, 100);
    let ann = user("ann");
    let shared = Arc::downgrade(&admission.0);
    judge(&shared, PROCESSOR_WAIT_MAX + Duration::from_millis(1));
    judge(&shared, PROCESSOR_WAIT_MAX + Duration::from_millis(1));
    let standing = admission.standing(&ann);
    assert_eq!((standing.at_once, standing.narrowed_by), (2, Some(Pressure::Processors)));
    let enter = || admission.try_admit(admission.enqueue(&ann, WANT).expect("room"));
    let slots = [enter().expect("a slot"), enter().expect("a slot")];
    assert!(enter().is_err());
    for _ in 0..8 {
        judge(&shared, Duration::ZERO);
    }
    let standing = admission.standing(&ann);
    assert_eq!((standing.at_once, standing.narrowed_by), (8, None));
    assert!(enter().is_ok());
    drop(slots);
}

#[tokio::test]
async fn a_raised_quota_starts_what_waits_and_a_cut_one_lets_what_runs_end() {
    let quotas = Arc::new(Quotas::same(Quota { runs_at_once: 1, ..Quota::default() }));
    let admission = Admission::new(quotas.clone(), Arc::new(HostMemory::new(1 << 40, 0)), 10, 10);
    let ann = user("ann");
    let first = admission.try_admit(admission.enqueue(&ann, WANT).expect("room")).expect("a slot");
    let second = admission.admit(admission.enqueue(&ann, WANT).expect("room"));
    let edit = quotas.read_tier(&"default".parse().expect("a tier"), &document(r#"{"runs_at_once": 2}"#));
    let raise = async {
        quotas.put_tier("default".parse().expect("a tier"), edit.expect("a tier"));
        admission.quota_changed();
    };
    let (second, ()) = tokio::join!(second, raise);
    assert!(second.is_ok());
    quotas.put_tier("default".parse().expect("a tier"), crate::quota::QuotaEdit::default());
    admission.quota_changed();
    assert_eq!(admission.live(), 2);
    drop(first);
    assert!(
        admission.try_admit(admission.enqueue(&ann, WANT).expect("room")).is_err(),
        "one runs, which is as many as may"
    );
}
