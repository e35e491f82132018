//! What a sandbox takes of memory, summed over everything it holds, and refused at the limit.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};
use wasmtime::ResourceLimiter;

/// The memory of one run: all memories and tables of its own sandbox and of those its tools run in.
#[derive(Debug)]
pub struct RunMemory {
    bytes_max: u64,
    bytes: AtomicU64,
    peak_bytes: AtomicU64,
    refused: AtomicBool,
}

impl RunMemory {
    /// With this limit, in bytes.
    #[must_use]
    pub fn new(bytes_max: u64) -> Arc<Self> {
        Arc::new(Self {
            bytes_max,
            bytes: AtomicU64::new(0),
            peak_bytes: AtomicU64::new(0),
            refused: AtomicBool::new(false),
        })
    }

    /// The most that was held at once, in bytes.
    #[must_use]
    pub fn peak_bytes(&self) -> u64 {
        self.peak_bytes.load(Ordering::Relaxed)
    }

    /// Bytes by which it may still grow.
    #[must_use]
    pub fn bytes_left(&self) -> u64 {
        self.bytes_max.saturating_sub(self.bytes.load(Ordering::Relaxed))
    }

    /// Whether growth was ever refused.
    #[must_use]
    pub fn was_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: u64) -> bool {
        let taken = self.bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| {
            now.checked_add(bytes).filter(|total| *total <= self.bytes_max)
        });
        match taken {
            Ok(before) => {
                self.peak_bytes.fetch_max(before + bytes, Ordering::Relaxed);
                true
            }
            Err(_) => {
                self.refused.store(true, Ordering::Relaxed);
                false
            }
        }
    }

    fn give_back(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::AcqRel);
    }
}

/// The memory of one sandbox. Gives back what it holds when it is dropped.
#[derive(Debug)]
pub struct Meter {
    run: Arc<RunMemory>,
    held_bytes: u64,
    /// What the last growth took, in case wasmtime cannot carry it out.
    last_bytes: u64,
}

impl Meter {
    /// Charges to this run.
    #[must_use]
    pub const fn new(run: Arc<RunMemory>) -> Self {
        Self { run, held_bytes: 0, last_bytes: 0 }
    }

    /// The run's memory.
    #[must_use]
    pub const fn run(&self) -> &Arc<RunMemory> {
        &self.run
    }

    fn grow(&mut self, bytes: u64) -> bool {
        let taken = self.run.take(bytes);
        self.last_bytes = if taken { bytes } else { 0 };
        self.held_bytes += self.last_bytes;
        taken
    }

    fn undo(&mut self) {
        let bytes = std::mem::take(&mut self.last_bytes);
        self.held_bytes -= bytes;
        self.run.give_back(bytes);
        // The pool's own bound was met: to the guest it is the same refusal.
        self.run.refused.store(true, Ordering::Relaxed);
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.run.give_back(self.held_bytes);
    }
}

impl ResourceLimiter for Meter {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow(desired.saturating_sub(current) as u64))
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow((desired.saturating_sub(current) * size_of::<usize>()) as u64))
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

    #[test]
    fn the_limit_is_on_the_sum_and_all_of_it_comes_back() {
        let run = RunMemory::new(1000);
        let (mut a, mut b) = (Meter::new(run.clone()), Meter::new(run.clone()));
        assert!(a.memory_growing(0, 600, None).expect("no error"));
        assert!(!run.was_refused());
        assert!(!b.memory_growing(0, 401, None).expect("no error"), "a second memory is not outside the limit");
        assert!(run.was_refused());
        assert!(b.table_growing(0, 50, None).expect("no error"));
        assert!(!b.table_growing(50, 51, None).expect("no error"), "nor is a table");
        drop(a);
        assert_eq!((run.bytes_left(), run.peak_bytes()), (600, 1000));
        drop(b);
        assert_eq!(run.bytes_left(), 1000);
    }

    #[test]
    fn growth_that_wasmtime_could_not_carry_out_is_not_charged() {
        let run = RunMemory::new(1000);
        let mut meter = Meter::new(run.clone());
        assert!(meter.memory_growing(100, 500, None).expect("no error"));
        meter.memory_grow_failed(wasmtime::Error::msg("no memory")).expect("no error");
        assert_eq!(run.bytes_left(), 1000);
    }
}
