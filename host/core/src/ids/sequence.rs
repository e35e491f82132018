//! What new identifiers are made of: version 7 UUIDs, each later than all before it in this process.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::{LazyLock, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};
use uuid::{Builder, Uuid};

/// How many bits of an identifier count within a millisecond.
const COUNTER_BITS: u32 = 42;
/// How many of these the first of a millisecond takes from chance: the highest stays free, so that two million million can
/// follow.
const COUNTER_RANDOM_BITS: u32 = COUNTER_BITS - 1;

/// Identifiers have to differ, and need not be secret. So their random bits are a hash under a key that the system's random
/// numbers have made once: asking the system for each takes a call into the kernel.
static RANDOM: LazyLock<RandomState> = LazyLock::new(RandomState::new);

static LAST: Mutex<Last> = Mutex::new(Last { millis: 0, counter: 0, hashed: 0 });

struct Last {
    millis: u64,
    counter: u64,
    /// How many random numbers there have been.
    hashed: u64,
}

impl Last {
    fn random(&mut self) -> u64 {
        self.hashed = self.hashed.wrapping_add(1);
        RANDOM.hash_one(self.hashed)
    }
}

/// The next one.
pub(super) fn next() -> Uuid {
    // A machine whose clock stands before 1970 counts from there.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    let now = u64::try_from(now).unwrap_or(u64::MAX);
    let (millis, counter, random) = {
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        last.counter += 1;
        // Also when the clock was set back, or a millisecond had more than there are numbers for.
        let full = last.counter >> COUNTER_BITS != 0;
        if now > last.millis || full {
            last.millis = now.max(last.millis + u64::from(full));
            last.counter = last.random() >> (u64::BITS - COUNTER_RANDOM_BITS);
        }
        (last.millis, last.counter, last.random())
    };
    // Of the first two bytes the version takes the upper four bits, of the next the variant takes the upper two.
    let [.., high_1, high_2] = (counter >> 30).to_be_bytes();
    let [.., middle_1, middle_2, middle_3, middle_4] = (counter & 0x3fff_ffff).to_be_bytes();
    let [low_1, low_2, low_3, low_4, ..] = random.to_be_bytes();
    let bytes = [high_1, high_2, middle_1, middle_2, middle_3, middle_4, low_1, low_2, low_3, low_4];
    Builder::from_unix_timestamp_millis(millis, &bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn each_is_later_than_all_before_it_whoever_asks() {
        let made = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| (0..20_000).map(|_| next()).collect::<Vec<_>>())).collect();
            threads.into_iter().map(|thread| thread.join().expect("not panicked")).collect::<Vec<_>>()
        });
        assert!(made.iter().all(|own| own.is_sorted_by(|a, b| a < b)));
        let all: HashSet<_> = made.iter().flatten().collect();
        assert_eq!(all.len(), 80_000);
        assert!(all.iter().all(|id| id.get_version_num() == 7 && id.get_variant() == uuid::Variant::RFC4122));
    }
}
