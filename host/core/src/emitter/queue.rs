//! What waits for one socket: in order, bounded in events and bytes, and with an order of who goes first when it is full.

use super::{Next, Outgoing};
use crate::ids::RunId;
use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

/// How many events, and gaps where there were some, wait for one socket.
pub const QUEUE_EVENTS_MAX: usize = 1_000;

/// How many bytes of frames wait for one socket: with three sockets, this is what a user whose clients read nothing
/// costs the host. A single larger frame waits alone.
pub const QUEUE_BYTES_MAX: usize = 1 << 20;

/// How long an event may wait before its reader counts as slow. Until then, reading from storage waits for a reader
/// whose queue is half full, so that a burst that a good reader takes in its stride drops nothing.
pub const PATIENCE: Duration = Duration::from_millis(500);

/// The priorities that may be dropped, the first to go first.
const DROPPED_FIRST: [u8; 2] = [4, 3];

/// How many events of each priority were dropped: of 4, of 3.
pub(super) type Dropped = [u64; DROPPED_FIRST.len()];

#[derive(Debug, Default)]
pub(super) struct Queue {
    entries: BTreeMap<u64, Entry>,
    next: u64,
    bytes: usize,
    /// The places of what may be dropped, by priority as in [`DROPPED_FIRST`], oldest first.
    droppable: [VecDeque<u64>; DROPPED_FIRST.len()],
    /// An event was not taken, because nothing could be dropped for it. Until the socket takes something.
    full: bool,
}

#[derive(Debug)]
struct Entry {
    run: RunId,
    queued_at: Instant,
    what: What,
}

#[derive(Debug)]
enum What {
    Event { seq: u64, priority: u8, text: String },
    Gap { from: u64, to: u64 },
}

fn rank(priority: u8) -> Option<usize> {
    DROPPED_FIRST.iter().position(|droppable| *droppable == priority)
}

impl Queue {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// How long the oldest has waited.
    pub fn oldest_wait(&self, now: Instant) -> Duration {
        let oldest = self.entries.first_key_value();
        oldest.map_or(Duration::ZERO, |(_, entry)| now.saturating_duration_since(entry.queued_at))
    }

    /// How long to wait before more is read from storage; none means until the socket takes something.
    pub fn read_in(&self, catching_up: bool, now: Instant) -> Option<Duration> {
        let half_full = self.entries.len() >= QUEUE_EVENTS_MAX / 2 || self.bytes >= QUEUE_BYTES_MAX / 2;
        match (half_full, self.full || catching_up) {
            (false, _) if !self.full || self.entries.is_empty() => Some(Duration::ZERO),
            (_, true) => None,
            _ => Some(PATIENCE.saturating_sub(self.oldest_wait(now))),
        }
    }

    /// Takes an event and drops what has to go for it, leaving a gap in its place. Not taken, and said so, if there is
    /// nothing left that may go.
    pub fn offer(&mut self, event: Outgoing, now: Instant) -> Result<Dropped, Dropped> {
        let order = self.next;
        self.next += 1;
        let rank_of_new = rank(event.priority);
        if let Some(places) = rank_of_new.and_then(|rank| self.droppable.get_mut(rank)) {
            places.push_back(order);
        }
        self.bytes += event.text.len();
        let what = What::Event { seq: event.seq, priority: event.priority, text: event.text };
        self.entries.insert(order, Entry { run: event.run, queued_at: now, what });
        let mut dropped = Dropped::default();
        while self.is_over() {
            let victim = self.droppable.iter_mut().enumerate().find_map(|(n, places)| Some((n, places.pop_front()?)));
            let Some((rank, victim)) = victim else {
                // What is left may not go. A gap of its own is no better: those are bounded, too.
                self.full = true;
                if let Some(entry) = self.entries.remove(&order) {
                    match entry.what {
                        What::Event { text, .. } => self.bytes -= text.len(),
                        What::Gap { .. } => {
                            if let Some(count) = rank_of_new.and_then(|rank| dropped.get_mut(rank)) {
                                *count -= 1;
                            }
                        }
                    }
                }
                return Err(dropped);
            };
            self.leave_gap(victim);
            if let Some(count) = dropped.get_mut(rank) {
                *count += 1;
            }
        }
        Ok(dropped)
    }

    fn is_over(&self) -> bool {
        self.entries.len() > QUEUE_EVENTS_MAX || (self.bytes > QUEUE_BYTES_MAX && self.entries.len() > 1)
    }

    /// Puts a gap in the place of an event, or makes the gap beside it larger. Only the order within a run counts, so
    /// the gap beside it is that of its run, whatever of other runs stands between.
    fn leave_gap(&mut self, order: u64) {
        let Some(Entry { run, queued_at, what: What::Event { seq, text, .. } }) = self.entries.remove(&order) else {
            return;
        };
        self.bytes -= text.len();
        let after = self.entries.range(order..).find(|(_, entry)| entry.run == run);
        let after = after.and_then(|(place, entry)| match entry.what {
            What::Gap { from, to } if from == seq + 1 => Some((*place, to)),
            _ => None,
        });
        let last = after.map_or(seq, |(_, to)| to);
        if let Some((place, _)) = after {
            self.entries.remove(&place);
        }
        let before = self.entries.range_mut(..order).rev().find(|(_, entry)| entry.run == run);
        match before {
            Some((_, Entry { what: What::Gap { to, .. }, .. })) if *to + 1 == seq => *to = last,
            _ => {
                let what = What::Gap { from: seq, to: last };
                self.entries.insert(order, Entry { run, queued_at, what });
            }
        }
    }

    /// Lets go of what waits of a run, or of everything, because its reader does not follow that any more.
    pub fn forget(&mut self, run: Option<RunId>) {
        self.entries.retain(|_, entry| run.is_some_and(|run| entry.run != run));
        self.full = false;
        self.bytes = 0;
        for entry in self.entries.values() {
            if let What::Event { text, .. } = &entry.what {
                self.bytes += text.len();
            }
        }
        for places in &mut self.droppable {
            places.retain(|place| self.entries.contains_key(place));
        }
    }

    /// The oldest, and how long it has waited.
    pub fn take(&mut self, now: Instant) -> Option<(Next, Duration)> {
        let (order, Entry { run, queued_at, what }) = self.entries.pop_first()?;
        self.full = false;
        let next = match what {
            What::Gap { from, to } => Next::Gap { run, from, to },
            What::Event { seq, priority, text } => {
                self.bytes -= text.len();
                if let Some(places) = rank(priority).and_then(|rank| self.droppable.get_mut(rank)) {
                    // The oldest of all is the oldest of its priority.
                    debug_assert_eq!(places.front(), Some(&order));
                    places.pop_front();
                }
                Next::Event(Outgoing { run, seq, priority, text })
            }
        };
        Some((next, now.saturating_duration_since(queued_at)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A queue with what it was offered, for as long as it took it.
    struct Bench {
        queue: Queue,
        now: Instant,
        seqs: BTreeMap<RunId, u64>,
        dropped: Dropped,
    }

    impl Bench {
        fn new() -> Self {
            Self { queue: Queue::default(), now: Instant::now(), seqs: BTreeMap::new(), dropped: [0, 0] }
        }

        fn offer_sized(&mut self, run: RunId, priority: u8, bytes: usize) -> bool {
            let seq = self.seqs.entry(run).or_insert(1);
            let event = Outgoing { run, seq: *seq, priority, text: "x".repeat(bytes) };
            let offered = self.queue.offer(event, self.now);
            *seq += u64::from(offered.is_ok());
            let taken = offered.is_ok();
            let (Ok(dropped) | Err(dropped)) = offered;
            self.dropped = [self.dropped[0] + dropped[0], self.dropped[1] + dropped[1]];
            assert!(self.queue.len() <= QUEUE_EVENTS_MAX);
            assert!(self.queue.bytes <= QUEUE_BYTES_MAX || self.queue.len() == 1, "{}", self.queue.bytes);
            taken
        }

        fn offer(&mut self, run: RunId, priority: u8) -> bool {
            self.offer_sized(run, priority, 10)
        }

        fn drain(&mut self) -> Vec<Next> {
            std::iter::from_fn(|| self.queue.take(self.now)).map(|(next, _)| next).collect()
        }
    }

    /// Checks that what came covers each run's log without holes or repetition, and gives the priorities that came.
    fn covered(came: &[Next], offered: &BTreeMap<RunId, u64>) -> Vec<u8> {
        let mut next = BTreeMap::new();
        let mut priorities = Vec::new();
        for item in came {
            let (run, from, to) = match item {
                Next::Event(event) => {
                    priorities.push(event.priority);
                    (event.run, event.seq, event.seq)
                }
                Next::Gap { run, from, to } => (*run, *from, *to),
            };
            let expected = next.entry(run).or_insert(1);
            assert_eq!(*expected, from, "{run}");
            assert!(from <= to);
            *expected = to + 1;
        }
        assert_eq!(&next, offered);
        priorities
    }

    #[test]
    fn what_fits_comes_as_it_was_offered() {
        let (mut bench, run) = (Bench::new(), RunId::generate());
        for n in 0..QUEUE_EVENTS_MAX {
            assert!(bench.offer(run, u8::try_from(n % 4).expect("small") + 1));
        }
        let came = bench.drain();
        assert_eq!(covered(&came, &bench.seqs).len(), QUEUE_EVENTS_MAX);
        assert_eq!((bench.dropped, bench.queue.bytes), ([0, 0], 0));
        assert!(bench.queue.droppable.iter().all(VecDeque::is_empty));
    }

    #[test]
    fn four_goes_first_then_three_and_one_and_two_never() {
        let (mut bench, run) = (Bench::new(), RunId::generate());
        for priority in [1, 2, 3, 4] {
            for _ in 0..QUEUE_EVENTS_MAX / 4 {
                assert!(bench.offer(run, priority));
            }
        }
        // Each pushes an oldest one out; the first leaves a gap where it stood and frees nothing.
        for n in 1..=100 {
            assert!(bench.offer(run, 2));
            assert_eq!(bench.dropped, [n + 1, 0]);
        }
        let mut more = 0;
        while bench.offer(run, 1) {
            more += 1;
        }
        assert_eq!(bench.dropped, [250, 250], "all that may go has gone");
        assert!(!bench.offer(run, 4), "and now even that is not taken");
        let came = bench.drain();
        let priorities = covered(&came, &bench.seqs);
        assert!(priorities.iter().all(|priority| *priority <= 2));
        assert_eq!(priorities.len(), 500 + 100 + more);
        let gaps = came.iter().filter(|item| matches!(item, Next::Gap { .. })).count();
        assert_eq!(gaps, 1, "what was dropped side by side is one gap");
        assert!(bench.offer(run, 4), "there is room again");
    }

    #[test]
    fn gaps_of_interleaved_runs_are_as_few_as_their_logs_allow() {
        let (mut bench, runs) = (Bench::new(), [RunId::generate(), RunId::generate(), RunId::generate()]);
        for _ in 0..3_000 {
            for run in runs {
                assert!(bench.offer(run, 4));
            }
        }
        assert_eq!(bench.queue.len(), QUEUE_EVENTS_MAX);
        let came = bench.drain();
        covered(&came, &bench.seqs);
        assert_eq!(came.iter().filter(|item| matches!(item, Next::Gap { .. })).count(), 3);
    }

    #[test]
    fn bytes_are_bounded_and_one_large_event_waits_alone() {
        let (mut bench, run) = (Bench::new(), RunId::generate());
        assert!(bench.offer_sized(run, 2, 4 * QUEUE_BYTES_MAX), "an empty queue takes any event");
        assert!(!bench.offer(run, 4) && !bench.offer(run, 1));
        assert_eq!(bench.drain().len(), 1);
        for _ in 0..20 {
            assert!(bench.offer_sized(run, 3, 100 << 10));
        }
        assert!(bench.dropped[1] >= 9, "{:?}", bench.dropped);
        let came = bench.drain();
        assert!(matches!(came.first(), Some(Next::Gap { from: 2, .. })), "the large one was the first");
        assert!(bench.offer(run, 4));
    }

    #[test]
    fn what_is_forgotten_leaves_the_rest_in_order_and_room_for_more() {
        let (mut bench, gone, stays) = (Bench::new(), RunId::generate(), RunId::generate());
        for n in 0..2_000_usize {
            bench.offer(if n % 2 == 0 { gone } else { stays }, u8::try_from(n % 4).expect("small") + 1);
        }
        while bench.offer(stays, 1) {}
        bench.queue.forget(Some(gone));
        bench.seqs.remove(&gone);
        assert!(bench.offer(stays, 4) && bench.offer(stays, 1), "there is room again");
        covered(&bench.drain(), &bench.seqs);
        assert_eq!(bench.queue.bytes, 0);
        assert!(bench.queue.droppable.iter().all(VecDeque::is_empty));
        assert!(bench.offer(stays, 3));
        bench.queue.forget(None);
        assert_eq!((bench.queue.len(), bench.queue.bytes), (0, 0));
    }

    #[test]
    fn whatever_is_offered_and_taken_in_whatever_order_nothing_is_lost_unsaid() {
        // A small generator of our own: the same numbers every time.
        let mut state = 7_u64;
        let mut random = move |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for _ in 0..20 {
            let (mut bench, mut came) = (Bench::new(), Vec::new());
            let runs: Vec<_> = (0..=random(6)).map(|_| RunId::generate()).collect();
            for _ in 0..5_000 {
                let run = runs[usize::try_from(random(runs.len() as u64)).expect("small")];
                let priority = u8::try_from(random(4)).expect("small") + 1;
                bench.offer_sized(run, priority, usize::try_from(random(4_000)).expect("small"));
                if random(3) == 0 {
                    came.extend(bench.queue.take(bench.now).map(|(next, _)| next));
                }
            }
            came.extend(bench.drain());
            let of_one_and_two = |items: &[Next]| {
                items.iter().filter(|item| matches!(item, Next::Event(event) if event.priority <= 2)).count()
            };
            covered(&came, &bench.seqs);
            assert!(of_one_and_two(&came) > 0);
            assert_eq!(bench.queue.bytes, 0);
        }
    }

    #[test]
    fn reading_waits_for_a_good_reader_and_goes_on_for_a_slow_one() {
        let (mut bench, run) = (Bench::new(), RunId::generate());
        for _ in 0..QUEUE_EVENTS_MAX / 2 - 1 {
            bench.offer(run, 4);
        }
        assert_eq!(bench.queue.read_in(true, bench.now), Some(Duration::ZERO));
        bench.offer(run, 4);
        assert_eq!(bench.queue.read_in(false, bench.now), Some(PATIENCE), "half full");
        assert_eq!(bench.queue.read_in(false, bench.now + PATIENCE / 2), Some(PATIENCE / 2));
        assert_eq!(bench.queue.read_in(false, bench.now + PATIENCE), Some(Duration::ZERO), "the reader is slow");
        assert_eq!(bench.queue.read_in(true, bench.now + PATIENCE), None, "history waits for its reader");
        while bench.offer(run, 1) {}
        assert_eq!(bench.queue.read_in(false, bench.now + PATIENCE), None, "nothing could be dropped any more");
        bench.queue.take(bench.now);
        assert_eq!(bench.queue.read_in(false, bench.now + PATIENCE), Some(Duration::ZERO));
        assert_eq!(bench.queue.oldest_wait(bench.now + PATIENCE), PATIENCE);
    }
}
