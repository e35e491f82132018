//! Random choices that a seed repeats.

use std::{ops::Range, time::Duration};

/// SplitMix64: small, and good enough to choose moments and kinds of work.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A sequence of its own for each seed and each number beside it.
    #[must_use]
    pub fn new(seed: u64, beside: u64) -> Self {
        let mut random = Self(seed ^ beside.wrapping_mul(0xd134_2543_de82_ef95));
        random.next();
        random
    }

    #[expect(clippy::should_implement_trait, reason = "it never ends, so it is no iterator to loop over")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from `low` up to and without `high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low).max(1)
    }

    /// Waits for so many milliseconds.
    pub async fn pause(&mut self, range_ms: Range<u64>) {
        tokio::time::sleep(Duration::from_millis(self.between(range_ms.start, range_ms.end))).await;
    }
}
