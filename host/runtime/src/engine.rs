//! The sandbox engine: every wasmtime setting, each made on purpose.
//!
//! What touches determinism is settled here for good, because journals of today must replay on hosts of tomorrow: NaN
//! bits are canonical, relaxed SIMD has one meaning, stack traces never reach a guest, fuel has one price list.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::Thread,
    time::{Duration, Instant},
};
use wasmparser::WasmFeatures;
use wasmtime::{Config, InstanceAllocationStrategy, OperatorCost, PoolingAllocationConfig};

/// How often a running guest is asked whether it should stop, and gives way to others. A spinning guest holds a thread
/// no longer than this; half of it is what a stop costs on average.
pub const EPOCH_TICK: Duration = Duration::from_millis(1);

/// The time between two ticks while no guest computes that long: what the first tick of one may be late. Most are done before.
const EPOCH_TICK_IDLE: Duration = Duration::from_millis(5);

/// The least time between two ticks, while guests come to wait for a turn.
const EPOCH_TICK_MIN: Duration = Duration::from_micros(200);

/// The stack of a guest, in bytes. Deeper recursion traps. The fiber it runs on has as much again for host functions.
const GUEST_STACK_BYTES: usize = 1 << 20;

/// Core instances of one sandbox. A Rust agent needs about 4, a Python agent about 20.
pub const INSTANCES_MAX: u32 = 64;
/// Memories of one sandbox. Every toolchain in use needs 1.
pub const MEMORIES_MAX: u32 = 4;
/// Memories in the pool for each sandbox in it. Each takes 4 GiB of address space, of which a process has 128 TiB, so
/// the pool does not hold the most that every sandbox could have.
const MEMORIES_PER_SANDBOX: u32 = 2;
/// Tables of one sandbox.
pub const TABLES_MAX: u32 = 16;
/// Elements of one table. Python needs about 10,000.
pub const TABLE_ELEMENTS_MAX: usize = 65_536;
/// What is kept of each table in the pool, cleared, for the next sandbox in its slot: all of it for a Rust agent, whose
/// tables fit in a page. Wasmtime keeps no more than a hundred unused slots warm.
const TABLE_KEPT_BYTES: usize = 4 << 10;
/// The largest memory that any quota can give to one context, in bytes. Fixes the size of a pool slot.
pub const MEMORY_BYTES_MAX: usize = 256 << 20;

/// Fuel for each 64 KiB page of `memory.grow`, which is otherwise free: about what touching the page costs.
const MEMORY_GROW_FUEL_PER_PAGE: u8 = 255;

/// What WebAssembly may be made of here: exactly this, whatever wasmtime turns on by default. A validator with the same
/// features agrees with the engine about which components are valid. Left out is what no toolchain of agents needs:
/// garbage collection, exceptions, threads, 64-bit memories, and the component model's concurrency.
pub const FEATURES: WasmFeatures = WasmFeatures::WASM2
    .union(WasmFeatures::EXTENDED_CONST)
    .union(WasmFeatures::FUNCTION_REFERENCES)
    .union(WasmFeatures::MULTI_MEMORY)
    .union(WasmFeatures::RELAXED_SIMD)
    .union(WasmFeatures::TAIL_CALL)
    .union(WasmFeatures::COMPONENT_MODEL)
    // References to the host's garbage-collected objects are a feature of their own.
    .difference(WasmFeatures::GC_TYPES);

/// The settings that compiled code depends on: the same in the host and in the compile worker.
fn config() -> Config {
    let mut config = Config::new();
    config
        .wasm_features(WasmFeatures::all().difference(FEATURES), false)
        .wasm_features(FEATURES, true)
        // Guests call, they do not run concurrently inside; see the WIT. Off also means that the store does not set up
        // what only concurrency needs.
        .concurrency_support(false)
        .relaxed_simd_deterministic(true)
        .cranelift_nan_canonicalization(true)
        .consume_fuel(true)
        .epoch_interruption(true)
        .max_wasm_stack(GUEST_STACK_BYTES)
        .async_stack_size(2 * GUEST_STACK_BYTES)
        .memory_init_cow(true);
    let mut cost = OperatorCost::new();
    cost.variable.memory_grow_per_page = MEMORY_GROW_FUEL_PER_PAGE;
    config.operator_cost(cost);
    config
}

/// The engine of the compile worker: without the pool, whose address space would not fit under the worker's limit.
///
/// # Errors
/// When the machine cannot run wasmtime.
pub fn compile_engine() -> wasmtime::Result<wasmtime::Engine> {
    wasmtime::Engine::new(&config())
}

/// The engine of the host, with its pool of `sandboxes_max` slots and its clock.
#[derive(Clone)]
pub struct Engine {
    wasmtime: wasmtime::Engine,
    ticker: Arc<Ticker>,
}

impl Engine {
    /// An engine with room for so many sandboxes at once.
    ///
    /// # Errors
    /// When the machine cannot run wasmtime, or lacks the address space for the pool.
    pub fn new(sandboxes_max: u32) -> wasmtime::Result<Self> {
        let mut pool = PoolingAllocationConfig::new();
        pool.total_component_instances(sandboxes_max)
            .total_core_instances(sandboxes_max.saturating_mul(INSTANCES_MAX))
            .total_memories(sandboxes_max.saturating_mul(MEMORIES_PER_SANDBOX))
            .total_tables(sandboxes_max.saturating_mul(TABLES_MAX))
            .total_stacks(sandboxes_max)
            .max_core_instances_per_component(INSTANCES_MAX)
            .max_memories_per_component(MEMORIES_MAX)
            .max_memories_per_module(MEMORIES_MAX)
            .max_tables_per_component(TABLES_MAX)
            .max_tables_per_module(TABLES_MAX)
            .table_elements(TABLE_ELEMENTS_MAX)
            .max_memory_size(MEMORY_BYTES_MAX)
            // A memory's pages go back to the system with the sandbox: what is kept must be cleared by hand, from its first
            // byte on, which costs a small guest more than it saves, and a later guest must find zeros.
            .linear_memory_keep_resident(0)
            // To clear a small table by hand costs less than to give its page back and to fault it in again.
            .table_keep_resident(TABLE_KEPT_BYTES);
        let mut config = config();
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        let wasmtime = wasmtime::Engine::new(&config)?;
        let weak = wasmtime.weak();
        let ticker = Ticker::start(move || weak.upgrade().inspect(wasmtime::Engine::increment_epoch).is_some())?;
        Ok(Self { wasmtime, ticker: Arc::new(ticker) })
    }

    /// What advances its clock.
    pub(crate) const fn ticker(&self) -> &Arc<Ticker> {
        &self.ticker
    }

    /// Wasmtime's own engine.
    #[must_use]
    pub const fn wasmtime(&self) -> &wasmtime::Engine {
        &self.wasmtime
    }
}

/// The thread that advances the epoch. A thread of its own, because guests that spin can keep every thread of an async
/// runtime, and with it the runtime's timers, busy.
pub(crate) struct Ticker {
    thread: Thread,
    state: Arc<TickerState>,
}

#[derive(Default)]
struct TickerState {
    /// Somebody waits for the next tick.
    awaited: AtomicBool,
    /// A guest has computed up to the last tick.
    computed: AtomicBool,
    stopped: AtomicBool,
}

impl Ticker {
    /// Does this at every tick, for as long as it says so.
    fn start(mut tick: impl FnMut() -> bool + Send + 'static) -> std::io::Result<Self> {
        let state = Arc::<TickerState>::default();
        let of_thread = state.clone();
        let ticking = std::thread::Builder::new().name("epoch".into()).spawn(move || {
            let mut last = Instant::now();
            let mut computes = false;
            while !of_thread.stopped.load(Ordering::Relaxed) {
                let awaited = of_thread.awaited.load(Ordering::Acquire);
                let wait = match (awaited, computes) {
                    (true, _) => EPOCH_TICK_MIN,
                    (false, true) => EPOCH_TICK,
                    (false, false) => EPOCH_TICK_IDLE,
                };
                let left = wait.saturating_sub(last.elapsed());
                if !left.is_zero() {
                    std::thread::park_timeout(left);
                    continue;
                }
                // Who comes to wait from here on is not sure to be seen by this tick.
                of_thread.awaited.store(false, Ordering::Release);
                computes = of_thread.computed.swap(false, Ordering::Relaxed);
                if !tick() {
                    return;
                }
                last = Instant::now();
            }
        })?;
        Ok(Self { thread: ticking.thread().clone(), state })
    }

    /// A guest has computed up to a tick, and goes on.
    pub fn computes(&self) {
        self.state.computed.store(true, Ordering::Relaxed);
    }

    /// Lets the next tick come as soon as it may, for a guest that waits for its turn.
    pub fn soon(&self) {
        if !self.state.awaited.swap(true, Ordering::AcqRel) {
            self.thread.unpark();
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::Relaxed);
        self.thread.unpark();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn who_waits_has_the_next_tick_come_early() {
        let (ticked, ticks) = mpsc::sync_channel(1);
        let ticker = Ticker::start(move || ticked.send(()).is_ok()).expect("a thread");
        let times = 50;
        let until = |soon: bool| {
            let begun = Instant::now();
            for _ in 0..times {
                if soon {
                    ticker.soon();
                }
                ticks.recv().expect("it goes on");
            }
            begun.elapsed()
        };
        assert!(until(false) > EPOCH_TICK_IDLE * (times - 2));
        assert!(until(true) < EPOCH_TICK_IDLE * times / 2);
    }

    #[test]
    fn while_a_guest_computes_ticks_are_close() {
        let (ticked, ticks) = mpsc::sync_channel(1);
        let ticker = Ticker::start(move || ticked.send(()).is_ok()).expect("a thread");
        ticker.computes();
        ticks.recv().expect("it goes on");
        let begun = Instant::now();
        for _ in 0..50 {
            ticker.computes();
            ticks.recv().expect("it goes on");
        }
        assert!(begun.elapsed() < EPOCH_TICK_IDLE * 25, "{:?}", begun.elapsed());
    }
}
