//! What sandboxes take of memory: what of a wasm store is counted, and how a growth is refused.

use crate::sandbox::Waits;
pub use cofferdam_core::memory::{HeldBytes, HostMemory, Refusal, Reserved, RunMemory};
use cofferdam_core::wait::WaitFor;
use std::sync::Arc;
use wasmtime::ResourceLimiter;

/// Half of the machine's memory, in bytes: the other half is for the host itself, and for the page cache.
#[must_use]
pub fn half_of_machine() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|total| total.split_whitespace().next()).and_then(|kib| kib.parse::<u64>().ok());
    // A machine that does not say gets the reference design's figure.
    kib.map_or(2 << 30, |kib| kib * 1024 / 2)
}

/// The memory of one sandbox. Gives back what it holds when it is dropped.
#[derive(Debug)]
pub struct Meter {
    run: Arc<RunMemory>,
    held_bytes: u64,
    /// What the last growth took, in case wasmtime cannot carry it out.
    last_bytes: u64,
    /// Where others are in the way of a growth, the guest is put away and does not learn of it.
    waits: bool,
}

impl Meter {
    /// Charges to this run; whether it waits where others are in the way of a growth.
    #[must_use]
    pub const fn new(run: Arc<RunMemory>, waits: bool) -> Self {
        Self { run, held_bytes: 0, last_bytes: 0, waits }
    }

    /// The run's memory.
    #[must_use]
    pub const fn run(&self) -> &Arc<RunMemory> {
        &self.run
    }

    fn grow(&mut self, bytes: u64) -> wasmtime::Result<bool> {
        let taken = self.run.take(bytes);
        self.last_bytes = if taken { bytes } else { 0 };
        self.held_bytes += self.last_bytes;
        if !taken && self.waits && matches!(self.run.refused(), Some(Refusal::User | Refusal::Host)) {
            return Err(Waits { call: 0, waits_for: WaitFor::Memory, until: None }.into());
        }
        Ok(taken)
    }

    fn undo(&mut self) {
        let bytes = std::mem::take(&mut self.last_bytes);
        self.held_bytes -= bytes;
        self.run.give_back(bytes);
        // A bound of the engine's was met: to the guest it is the same refusal.
        self.run.refuse(Refusal::Run);
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.run.give_back(self.held_bytes);
    }
}

impl ResourceLimiter for Meter {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        self.grow(desired.saturating_sub(current) as u64)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        self.grow((desired.saturating_sub(current) * size_of::<usize>()) as u64)
    }

    fn memory_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.undo();
        Ok(())
    }

    fn table_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.undo();
        Ok(())
    }

    fn instances(&self) -> usize {
        crate::engine::INSTANCES_MAX as usize
    }

    fn memories(&self) -> usize {
        crate::engine::MEMORIES_MAX as usize
    }

    fn tables(&self) -> usize {
        crate::engine::TABLES_MAX as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cofferdam_core::{
        ids::UserId,
        quota::{LiveQuota, Quota},
    };

    fn quota() -> LiveQuota {
        LiveQuota::fixed(Quota { memory_bytes_per_user: 1000, ..Quota::ceiling() })
    }

    fn user(name: &str) -> UserId {
        name.parse().expect("a user id")
    }

    #[test]
    fn the_limit_is_on_the_sum_and_all_of_it_comes_back() {
        let host = Arc::new(HostMemory::new(u64::MAX, 0));
        let run = host.run(&user("ann"), 1000, quota());
        let (mut a, mut b) = (Meter::new(run.clone(), false), Meter::new(run.clone(), false));
        assert!(a.memory_growing(0, 600, None).expect("no error"));
        assert_eq!(run.refused(), None);
        assert!(!b.memory_growing(0, 401, None).expect("no error"), "a second memory is not outside the limit");
        assert_eq!(run.refused(), Some(Refusal::Run));
        assert!(b.table_growing(0, 50, None).expect("no error"));
        assert!(!b.table_growing(50, 51, None).expect("no error"), "nor is a table");
        drop(a);
        assert_eq!((run.bytes_left(), run.peak_bytes()), (600, 1000));
        drop(b);
        assert_eq!((run.bytes_left(), host.bytes()), (1000, 0));
    }

    #[test]
    fn a_user_and_the_host_have_limits_of_their_own() {
        let host = Arc::new(HostMemory::new(1500, 0));
        let (one, two) = (host.run(&user("ann"), 800, quota()), host.run(&user("ann"), 800, quota()));
        let (mut a, mut b) = (Meter::new(one.clone(), false), Meter::new(two.clone(), false));
        assert!(a.memory_growing(0, 800, None).expect("no error"));
        assert!(!b.memory_growing(0, 201, None).expect("no error"));
        assert_eq!(two.refused(), Some(Refusal::User));
        let three = host.run(&user("bob"), 800, quota());
        let mut c = Meter::new(three.clone(), false);
        assert!(!c.memory_growing(0, 701, None).expect("no error"));
        assert_eq!(three.refused(), Some(Refusal::Host));
        assert!(c.memory_growing(0, 700, None).expect("what was refused was not charged"));
        drop((a, b, c));
        assert_eq!(host.bytes(), 0);
        assert_eq!((one.bytes_left(), three.bytes_left()), (800, 800));
    }

    #[test]
    fn what_the_host_holds_for_a_guest_counts_as_the_guests() {
        let host = Arc::new(HostMemory::new(1500, 0));
        let run = host.run(&user("ann"), 800, quota());
        let mut meter = Meter::new(run.clone(), false);
        assert!(meter.memory_growing(0, 500, None).expect("no error"));
        let held = run.hold(300).expect("room");
        assert!(run.hold(1).is_none());
        assert_eq!(run.refused(), Some(Refusal::Run));
        assert!(run.hold_beside(201).is_none(), "the user's limit holds beside the run's too");
        drop(run.hold_beside(200).expect("room beside the run's own limit"));
        let reserved = host.reserve(700).expect("room");
        assert!(host.reserve(1).is_none());
        drop((held, reserved));
        assert_eq!((run.bytes_left(), host.bytes()), (300, 500));
    }

    #[test]
    fn growth_that_wasmtime_could_not_carry_out_is_not_charged() {
        let host = Arc::new(HostMemory::new(u64::MAX, 0));
        let run = host.run(&user("ann"), 1000, quota());
        let mut meter = Meter::new(run.clone(), false);
        assert!(meter.memory_growing(100, 500, None).expect("no error"));
        meter.memory_grow_failed(wasmtime::Error::msg("no memory")).expect("no error");
        assert_eq!((run.bytes_left(), host.bytes()), (1000, 0));
    }
}
