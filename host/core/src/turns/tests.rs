use super::*;
use proptest::prelude::*;
use std::{
    sync::atomic::{AtomicBool, Ordering},
    task::Wake,
};

const TICK: Duration = Duration::from_millis(5);

/// Remembers that it was woken.
#[derive(Default)]
struct Bell(AtomicBool);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn user(name: &str) -> UserId {
    name.parse().expect("a user")
}

#[test]
fn who_is_next_is_known_and_only_while_there_is_no_turn() {
    let turns = Turns::new(1);
    let mut ann = Spinning::new(&turns, "ann", 1, Priority::Normal);
    assert!(ann.runs && !ann.turn.is_next());
    let bob = Spinning::new(&turns, "bob", 1, Priority::Normal);
    let cid = Spinning::new(&turns, "cid", 1, Priority::Normal);
    assert!(bob.turn.is_next() && !cid.turn.is_next());
    // Bob is given the turn, and Cid is the next.
    assert!(ann.turn.give_back(TICK).is_some());
    assert!(!bob.turn.is_next() && cid.turn.is_next());
}

/// A guest that always wants to run.
struct Spinning {
    turn: Turn,
    bell: Arc<Bell>,
    waker: Waker,
    runs: bool,
    spent: Duration,
}

impl Spinning {
    fn new(turns: &Arc<Turns>, name: &str, weight: u32, priority: Priority) -> Self {
        let bell = Arc::new(Bell::default());
        let mut guest = Self {
            turn: turns.enter(&user(name), weight, priority),
            waker: bell.clone().into(),
            bell,
            runs: false,
            spent: Duration::ZERO,
        };
        guest.runs = guest.turn.poll(&guest.waker).is_ready();
        guest
    }

    /// Runs for so long, if it is its turn.
    fn runs_for(&mut self, spent: Duration) {
        if self.runs {
            self.spent += spent;
            let next = self.turn.tick(spent, &self.waker).expect("somebody is next");
            next.wake();
            self.runs = false;
        }
    }

    /// Looks whether it was woken.
    fn looks(&mut self) {
        if self.bell.0.swap(false, Ordering::Relaxed) {
            self.runs = self.turn.poll(&self.waker).is_ready();
        }
    }
}

/// So many ticks, in which each guest that has its turn runs.
fn ticks(guests: &mut [Spinning], ticks: usize) {
    for _ in 0..ticks {
        guests.iter_mut().for_each(|guest| guest.runs_for(TICK));
        guests.iter_mut().for_each(Spinning::looks);
    }
}

fn spent_ms(guests: &[Spinning]) -> u128 {
    guests.iter().map(|guest| guest.spent.as_millis()).sum()
}

#[test]
fn two_users_share_by_weight_however_many_guests_they_have() {
    for (processors, of_ann, of_bob) in [(1, 1, 1), (1, 5, 1), (2, 5, 2), (2, 2, 9), (4, 20, 20)] {
        for weight_of_bob in [100, 300, 1_000] {
            let turns = Turns::new(processors);
            let mut guests: Vec<_> = (0..of_ann)
                .map(|_| Spinning::new(&turns, "ann", 100, Priority::Normal))
                .chain((0..of_bob).map(|_| Spinning::new(&turns, "bob", weight_of_bob, Priority::Normal)))
                .collect();
            ticks(&mut guests, 4_000);
            let (ann, bob) = guests.split_at(of_ann);
            let (ann, bob) = (spent_ms(ann), spent_ms(bob));
            assert_eq!(ann + bob, 4_000 * 5 * u128::from(processors), "no processor stands idle");
            let expected = ann * u128::from(weight_of_bob) / 100;
            let case = format!("{processors} processors, {of_ann} and {of_bob} guests: {ann} to {bob} ms");
            assert!(bob.abs_diff(expected) * 50 <= expected, "weights 100 to {weight_of_bob}, {case}");
        }
    }
}

#[test]
fn a_user_that_has_just_come_is_next_and_does_not_catch_up_on_what_was_before() {
    let turns = Turns::new(1);
    let mut guests: Vec<_> = (0..5).map(|_| Spinning::new(&turns, "ann", 100, Priority::Normal)).collect();
    ticks(&mut guests, 1_000);
    guests.push(Spinning::new(&turns, "bob", 100, Priority::Normal));
    assert_eq!(turns.now().waiting, 5);
    ticks(&mut guests, 1);
    assert!(guests[5].runs, "the next turn is bob's");
    ticks(&mut guests, 100);
    let bob = spent_ms(&guests[5..]);
    assert!((245..=255).contains(&bob), "half of the 500 ms since, and not more: {bob}");
    assert!(turns.now().wait_p99 < Duration::from_secs(5));
}

#[test]
fn a_user_that_waited_for_the_host_has_not_saved_up() {
    let turns = Turns::new(1);
    let mut guests =
        vec![Spinning::new(&turns, "ann", 100, Priority::Normal), Spinning::new(&turns, "bob", 100, Priority::Normal)];
    ticks(&mut guests, 10);
    // Bob's guest waits for the host for a long time.
    while !guests[1].runs {
        ticks(&mut guests, 1);
    }
    guests[1].runs = false;
    guests[1].turn.give_back(TICK).expect("ann's guest is next").wake();
    ticks(&mut guests, 1_000);
    let before = spent_ms(&guests[1..]);
    let bob = &mut guests[1];
    bob.runs = bob.turn.poll(&bob.waker).is_ready();
    ticks(&mut guests, 100);
    let since = spent_ms(&guests[1..]) - before;
    assert!((245..=260).contains(&since), "half of 500 ms: {since}");
}

#[test]
fn what_was_overspent_stays_spent_also_of_a_user_without_a_guest() {
    let turns = Turns::new(1);
    let mut ann = Spinning::new(&turns, "ann", 100, Priority::Normal);
    let mut bob = Spinning::new(&turns, "bob", 100, Priority::Normal);
    assert!(ann.runs && !bob.runs);
    // One instruction that nothing interrupts.
    ann.turn.give_back(Duration::from_millis(400)).expect("bob is next").wake();
    bob.looks();
    drop(ann);
    let ann = Spinning::new(&turns, "ann", 100, Priority::Normal);
    let mut guests = [bob, ann];
    ticks(&mut guests, 100);
    let (bob, ann) = guests.split_at(1);
    assert_eq!(spent_ms(bob) - spent_ms(ann), 400);
}

#[test]
fn what_is_owed_to_nobody_is_forgotten() {
    let turns = Turns::new(1);
    let mut ann = Spinning::new(&turns, "ann", 100, Priority::Normal);
    assert!(ann.turn.give_back(Duration::from_secs(10)).is_none());
    let mut guests =
        [Spinning::new(&turns, "bob", 100, Priority::Normal), Spinning::new(&turns, "ann", 100, Priority::Normal)];
    ticks(&mut guests, 100);
    assert_eq!(spent_ms(&guests[..1]), 250);
}

#[test]
fn a_users_guests_go_by_priority_and_in_turn_within_one() {
    let turns = Turns::new(1);
    let of = |name, priority| Spinning::new(&turns, name, 100, priority);
    let mut guests = vec![
        of("ann", Priority::Low),
        of("ann", Priority::Normal),
        of("ann", Priority::Normal),
        of("ann", Priority::High),
        of("bob", Priority::Low),
    ];
    ticks(&mut guests, 400);
    let of_each: Vec<_> = guests.iter().map(|guest| guest.spent.as_millis()).collect();
    assert!(of_each[0] <= 5, "low waits: {of_each:?}");
    assert_eq!(of_each[1] + of_each[2], 0, "normal, too: {of_each:?}");
    assert!(of_each[3].abs_diff(of_each[4]) <= 10, "and it is at nobody else's cost: {of_each:?}");
    // The one of high priority ends, and those of normal priority share.
    drop(guests.remove(3));
    ticks(&mut guests, 400);
    let since: Vec<_> = guests.iter().zip(&of_each).map(|(guest, before)| guest.spent.as_millis() - before).collect();
    assert!(since[0] <= 5 && since[1].abs_diff(since[2]) <= 5 && since[1] > 480, "{since:?}");
}

#[test]
fn no_user_of_many_starves() {
    let turns = Turns::new(2);
    let mut guests: Vec<_> = (0..50)
        .map(|n| Spinning::new(&turns, &format!("user-{n}"), if n == 0 { 10_000 } else { 100 }, Priority::Normal))
        .collect();
    // The guest of the first can be on one processor only, and the others share the other one.
    ticks(&mut guests, 49 * 20);
    for guest in &guests {
        assert!(guest.spent.as_millis() >= 95, "{} ms", guest.spent.as_millis());
    }
}

#[test]
fn a_turn_that_was_given_to_a_guest_that_has_gone_is_passed_on() {
    let turns = Turns::new(1);
    let mut ann = Spinning::new(&turns, "ann", 100, Priority::Normal);
    let (bob, mut kim) =
        (Spinning::new(&turns, "bob", 100, Priority::Normal), Spinning::new(&turns, "kim", 100, Priority::Normal));
    ann.runs_for(TICK);
    assert!(bob.bell.0.load(Ordering::Relaxed), "bob is next");
    assert_eq!(turns.now(), TurnsNow { running: 1, waiting: 2, users_waiting: 2, wait_p99: turns.now().wait_p99 });
    drop(bob);
    kim.looks();
    assert!(kim.runs, "and kim after him");
    drop((ann, kim));
    assert_eq!(turns.now(), TurnsNow { running: 0, waiting: 0, users_waiting: 0, wait_p99: Duration::ZERO });
}

#[test]
fn users_that_are_gone_are_forgotten() {
    let turns = Turns::new(1);
    let hog = Spinning::new(&turns, "hog", 100, Priority::Normal);
    for n in 0..3 * USERS_REMEMBERED_MAX {
        let mut guest = Spinning::new(&turns, &format!("user-{n}"), 100, Priority::Normal);
        assert!(!guest.runs && guest.turn.give_back(TICK).is_none());
    }
    let state = turns.state();
    assert!(state.users.len() <= USERS_REMEMBERED_MAX + 1, "{}", state.users.len());
    assert_eq!(state.users.len(), state.remembered + 1);
    assert_eq!(state.accounts.iter().flatten().count(), state.users.len());
    assert!(state.accounts.len() <= USERS_REMEMBERED_MAX + 2);
    drop(state);
    drop(hog);
}

/// What a guest may do next.
#[derive(Debug, Clone)]
enum Step {
    Enter { user: u8, weight: u32, priority: usize },
    Poll(usize),
    Tick(usize, u64),
    GiveBack(usize, u64),
    Drop(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let nanos = prop_oneof![0..10_000_000_u64, Just(u64::MAX)];
    prop_oneof![
        (0..4_u8, prop_oneof![Just(0), 1..1_000_u32, Just(u32::MAX)], 0..3_usize)
            .prop_map(|(user, weight, priority)| Step::Enter { user, weight, priority }),
        (0..12_usize).prop_map(Step::Poll),
        (0..12_usize).prop_map(Step::Poll),
        (0..12_usize, nanos.clone()).prop_map(|(guest, nanos)| Step::Tick(guest, nanos)),
        (0..12_usize, nanos).prop_map(|(guest, nanos)| Step::GiveBack(guest, nanos)),
        (0..12_usize).prop_map(Step::Drop),
    ]
}

proptest! {
    #[test]
    fn turns_are_never_given_twice_and_never_lost(processors in 1..4_u32, steps in prop::collection::vec(step(), 1..200)) {
        let turns = Turns::new(processors);
        let mut guests: Vec<Spinning> = Vec::new();
        for step in steps {
            match step {
                Step::Enter { user, weight, priority } if guests.len() < 12 => {
                    let name = format!("user-{user}");
                    guests.push(Spinning::new(&turns, &name, weight, Priority::ALL[priority]));
                }
                Step::Enter { .. } => {}
                Step::Poll(n) => {
                    if let Some(guest) = guests.get_mut(n) {
                        guest.runs = guest.turn.poll(&guest.waker).is_ready();
                    }
                }
                Step::Tick(n, nanos) => {
                    if let Some(guest) = guests.get_mut(n).filter(|guest| guest.runs) {
                        guest.runs_for(Duration::from_nanos(nanos));
                    }
                }
                Step::GiveBack(n, nanos) => {
                    if let Some(guest) = guests.get_mut(n).filter(|guest| guest.runs) {
                        guest.runs = false;
                        guest.turn.give_back(Duration::from_nanos(nanos)).into_iter().for_each(Waker::wake);
                    }
                }
                Step::Drop(n) => {
                    if n < guests.len() {
                        drop(guests.remove(n));
                    }
                }
            }
            let (mut granted, mut waiting) = (0, 0);
            for guest in &mut guests {
                match guest.turn.place {
                    Place::Away => {}
                    Place::Running => granted += 1,
                    Place::Waiting(number) => {
                        let key = (guest.turn.priority, number);
                        let account = guest.turn.account;
                        if turns.state().account(account).expect("there").waiting.contains_key(&key) {
                            waiting += 1;
                        } else {
                            granted += 1;
                            prop_assert!(guest.bell.0.load(Ordering::Relaxed), "who is next was woken");
                        }
                    }
                }
            }
            let now = turns.now();
            prop_assert_eq!((now.running, now.waiting), (granted, waiting));
            prop_assert!(granted <= processors);
            prop_assert!(waiting == 0 || granted == processors, "nobody waits beside a free turn");
            let state = turns.state();
            let queued: Vec<_> = state.accounts.iter().flatten().filter(|account| account.queued.is_some()).collect();
            prop_assert_eq!(queued.len(), state.queue.len());
            prop_assert!(queued.iter().all(|account| account.queued.is_some_and(|(at, _)| at == account.virtual_time)));
        }
        drop(guests);
        let now = turns.now();
        prop_assert_eq!((now.running, now.waiting), (0, 0));
        prop_assert_eq!(turns.state().remembered, turns.state().users.len());
    }
}
