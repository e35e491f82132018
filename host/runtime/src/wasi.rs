//! What a guest sees of the machine: clocks, random numbers, and an output whose lines become `log` events. No
//! environment, no arguments, no input, no directory, no socket. What it learns that way is kept in the run's record.

use crate::{sandbox::Guest, services::Seeds};
use chacha20::{
    ChaCha20Rng,
    rand_core::{Rng as _, SeedableRng as _},
};
use cofferdam_core::{
    UserExecutionContext,
    event::{Event, LogLevel},
    journal::{Recorder, RunJournal},
    quota::LOG_LINE_BYTES_MAX,
    record::Asked,
    replay::{Known, Over},
};
use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::io::AsyncWrite;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi::{
    HostMonotonicClock, HostWallClock, WasiCtx, WasiView,
    cli::{IsTerminal, StdoutStream},
    clocks::WasiClocksView as _,
    p2::{DynPollable, OutputStream, Pollable, StreamError, StreamResult, bindings::clocks::monotonic_clock},
};
use wasmtime_wasi_io::bindings::wasi::io::poll;

/// The most random bytes a guest gets in one call. More traps.
const RANDOM_BYTES_MAX: u64 = 1 << 20;

/// How much output is taken in one go before the guest has to ask again.
const OUTPUT_STEP_BYTES: usize = 64 << 10;

/// Links what a guest may import of WASI 0.2: everything of `wasi:cli`'s world but the sockets, and the files, which
/// are ours.
///
/// # Errors
/// When an interface is defined twice.
pub fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    type T = Guest;
    use wasmtime_wasi::{
        cli::{WasiCli, WasiCliView as _},
        clocks::WasiClocks,
        p2::bindings::{cli, clocks, random},
        random::WasiRandom,
    };
    wasmtime_wasi_io::bindings::wasi::io::error::add_to_linker::<T, Io>(linker, |t| t.ctx().table)?;
    poll::add_to_linker::<T, Polls>(linker, |t| Polled(t.called()))?;
    wasmtime_wasi_io::bindings::wasi::io::streams::add_to_linker::<T, Io>(linker, |t| t.ctx().table)?;
    clocks::wall_clock::add_to_linker::<T, WasiClocks>(linker, T::clocks)?;
    clocks::monotonic_clock::add_to_linker::<T, Polls>(linker, |t| Polled(t))?;
    random::random::add_to_linker::<T, WasiRandom>(linker, |t| t.ctx().ctx.random())?;
    random::insecure::add_to_linker::<T, WasiRandom>(linker, |t| t.ctx().ctx.random())?;
    random::insecure_seed::add_to_linker::<T, WasiRandom>(linker, |t| t.ctx().ctx.random())?;
    cli::exit::add_to_linker::<T, WasiCli>(linker, T::cli)?;
    cli::environment::add_to_linker::<T, WasiCli>(linker, T::cli)?;
    cli::stdin::add_to_linker::<T, WasiCli>(linker, T::cli)?;
    cli::stdout::add_to_linker::<T, WasiCli>(linker, T::cli)?;
    cli::stderr::add_to_linker::<T, WasiCli>(linker, T::cli)?;
    cli::terminal_input::add_to_linker::<T, WasiCli>(linker, T::cli)?;
    cli::terminal_output::add_to_linker::<T, WasiCli>(linker, T::cli)?;
    cli::terminal_stdin::add_to_linker::<T, WasiCli>(linker, T::cli)?;
    cli::terminal_stdout::add_to_linker::<T, WasiCli>(linker, T::cli)?;
    cli::terminal_stderr::add_to_linker::<T, WasiCli>(linker, T::cli)
}

/// Waiting for several things at once, whose outcome depends on the time and is kept.
struct Polls;

impl wasmtime::component::HasData for Polls {
    type Data<'a> = Polled<'a>;
}

struct Polled<'a>(&'a mut Guest);

impl Polled<'_> {
    /// What a guest has waited for is there when it goes on: the piece of a file that it reads next, for example. An
    /// execution in which that is known comes to the same, but for timers, for which nobody waits twice.
    async fn settle(&mut self, pollable: u32) -> wasmtime::Result<()> {
        if self.0.timers.contains(&pollable) {
            return Ok(());
        }
        poll::HostPollable::block(&mut self.0.table, Resource::new_borrow(pollable)).await
    }
}

impl monotonic_clock::Host for Polled<'_> {
    fn now(&mut self) -> wasmtime::Result<u64> {
        self.0.clocks().now()
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        self.0.clocks().resolution()
    }

    fn subscribe_instant(&mut self, when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let timer = self.0.clocks().subscribe_instant(when)?;
        self.0.timers.insert(timer.rep());
        Ok(timer)
    }

    fn subscribe_duration(&mut self, duration: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let timer = self.0.clocks().subscribe_duration(duration)?;
        self.0.timers.insert(timer.rep());
        Ok(timer)
    }
}

impl poll::Host for Polled<'_> {
    async fn poll(&mut self, pollables: Vec<Resource<DynPollable>>) -> wasmtime::Result<Vec<u32>> {
        let count = pollables.len();
        let asked = || Asked::of("poll.poll").value(count);
        if let Some(known) = self.0.recall::<Vec<u32>>(asked)? {
            for ready in &known {
                if let Some(pollable) = usize::try_from(*ready).ok().and_then(|ready| pollables.get(ready)) {
                    self.settle(pollable.rep()).await?;
                }
            }
            return Ok(known);
        }
        let ready = poll::Host::poll(&mut self.0.table, pollables).await?;
        self.0.record(asked, &ready);
        Ok(ready)
    }
}

impl poll::HostPollable for Polled<'_> {
    async fn ready(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<bool> {
        let asked = || Asked::of("poll.ready");
        if let Some(known) = self.0.recall(asked)? {
            if known {
                self.settle(pollable.rep()).await?;
            }
            return Ok(known);
        }
        let ready = poll::HostPollable::ready(&mut self.0.table, pollable).await?;
        self.0.record(asked, &ready);
        Ok(ready)
    }

    async fn block(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        // Kept although it answers nothing: who looks at the run later need not wait.
        let asked = || Asked::of("poll.block");
        if let Some(()) = self.0.recall(asked)? {
            return self.settle(pollable.rep()).await;
        }
        poll::HostPollable::block(&mut self.0.table, pollable).await?;
        self.0.record(asked, &());
        Ok(())
    }

    fn drop(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        self.0.timers.remove(&pollable.rep());
        poll::HostPollable::drop(&mut self.0.table, pollable)
    }
}

struct Io;

impl wasmtime::component::HasData for Io {
    type Data<'a> = &'a mut wasmtime::component::ResourceTable;
}

/// The machine as one guest sees it. A run that is executed again has the seed that it had.
pub fn machine(output: &Output, seeds: &Seeds, recorder: Option<&Recorder>) -> WasiCtx {
    let seed = recorder.and_then(Recorder::known).and_then(Known::seed).unwrap_or_else(|| {
        let seed = seeds.next();
        if let Some(recorder) = recorder {
            recorder.seeded(seed);
        }
        seed
    });
    // Three sequences of one seed.
    let sequence = |number: u64| {
        let mut random = ChaCha20Rng::from_seed(seed);
        random.set_stream(number);
        random
    };
    let mut last = [0_u8; 16];
    sequence(2).fill_bytes(&mut last);
    let clock = || Clock { begun: OnceLock::new(), recorder: recorder.cloned() };
    // A first execution counts from here; one that goes on, from where it does.
    let monotonic = clock();
    if recorder.is_none_or(|recorder| recorder.known().is_none()) {
        monotonic.uptime();
    }
    WasiCtx::builder()
        .stdout(output.out.clone())
        .stderr(output.err.clone())
        .secure_random(sequence(0))
        .insecure_random(sequence(1))
        .insecure_random_seed(u128::from_le_bytes(last))
        .max_random_size(RANDOM_BYTES_MAX)
        .wall_clock(clock())
        .monotonic_clock(monotonic)
        .allow_tcp(false)
        .allow_udp(false)
        .build()
}

/// The time, which is kept whenever the guest looks at it.
struct Clock {
    /// When the guest began to be told the time of this machine, and what it had been told before.
    begun: OnceLock<(Instant, Duration)>,
    recorder: Option<Recorder>,
}

impl Clock {
    fn uptime(&self) -> Duration {
        let (begun, before) = self.begun.get_or_init(|| {
            let before = self.recorder.as_ref().map_or(Duration::ZERO, Recorder::uptime);
            (Instant::now(), before)
        });
        before.saturating_add(begun.elapsed())
    }

    /// What was told here before, or the time now.
    fn told(
        &self,
        known: impl FnOnce(&Known) -> Result<Option<Duration>, Over>,
        now: impl FnOnce() -> Duration,
        asked: &Asked,
    ) -> Duration {
        let Some(recorder) = &self.recorder else { return now() };
        match recorder.known().map_or(Ok(None), known) {
            Ok(Some(time)) => time,
            Ok(None) => {
                let time = now();
                recorder.called(asked.clone(), &time);
                time
            }
            // A clock cannot fail; the guest is ended at its next call, or told from at its end.
            Err(_) => Duration::ZERO,
        }
    }
}

/// What both clocks tell the time to.
const RESOLUTION: Duration = Duration::from_nanos(1);

impl HostWallClock for Clock {
    fn resolution(&self) -> Duration {
        RESOLUTION
    }

    fn now(&self) -> Duration {
        let asked = Asked::of("wall-clock.now");
        // A machine whose clock stands before 1970 has none.
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.told(|known| known.recall(asked.clone()), now, &asked)
    }
}

impl HostMonotonicClock for Clock {
    fn resolution(&self) -> u64 {
        1
    }

    fn now(&self) -> u64 {
        let asked = Asked::of("monotonic-clock.now");
        let time = self.told(|known| known.recall_uptime(asked.clone()), || self.uptime(), &asked);
        u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
    }
}

/// The output of one guest.
pub struct Output {
    out: Lines,
    err: Lines,
}

impl Output {
    /// That goes to the run's journal, or nowhere.
    pub fn new(ctx: &Arc<UserExecutionContext>, journal: Option<&RunJournal>, recorder: Option<&Recorder>) -> Self {
        let (checks, said) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let lines = |level| Lines {
            ctx: ctx.clone(),
            journal: journal.cloned(),
            recorder: recorder.cloned(),
            level,
            line: Arc::default(),
            permitted: 0,
            checks: checks.clone(),
            said: said.clone(),
        };
        Self { out: lines(LogLevel::Info), err: lines(LogLevel::Warn) }
    }

    /// Logs what the guest wrote without ending the line.
    pub fn finish(&self) {
        self.out.end_line();
        self.err.end_line();
    }
}

/// Turns bytes into lines, and lines into `log` events.
#[derive(Clone)]
struct Lines {
    ctx: Arc<UserExecutionContext>,
    journal: Option<RunJournal>,
    recorder: Option<Recorder>,
    level: LogLevel,
    line: Arc<Mutex<Vec<u8>>>,
    /// Bytes that the guest was told it may write on this stream.
    permitted: usize,
    /// How often the guest has asked how much it may write, on both outputs together.
    checks: Arc<AtomicU64>,
    /// Lines that there was room for, on both outputs together.
    said: Arc<AtomicU64>,
}

impl Lines {
    fn take(&self, mut bytes: &[u8]) {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        while !bytes.is_empty() {
            let room = LOG_LINE_BYTES_MAX - line.len();
            let (now, rest) = bytes.split_at(bytes.len().min(room));
            match now.iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    let (now, after) = bytes.split_at(end);
                    line.extend_from_slice(now);
                    self.log(&mut line);
                    bytes = after.get(1..).unwrap_or_default();
                }
                None => {
                    line.extend_from_slice(now);
                    bytes = rest;
                    if line.len() == LOG_LINE_BYTES_MAX {
                        self.log(&mut line);
                    }
                }
            }
        }
    }

    fn end_line(&self) {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        if !line.is_empty() {
            self.log(&mut line);
        }
    }

    /// Over budget, a line is dropped: standard output has no way to say so that guests would understand. That it was is
    /// recorded, so that it is dropped again, and what was said is said again, whatever the quota is then.
    fn log(&self, line: &mut Vec<u8>) {
        let text = String::from_utf8_lossy(line).into_owned();
        line.clear();
        let bytes = text.len();
        let event = Event::Log { level: self.level, text };
        let asked = || Asked::of("printed").value(self.said.load(Ordering::Relaxed));
        if let Some(known) = self.recorder.as_ref().and_then(Recorder::known)
            && known.recall_rare::<()>(&asked()).is_some()
        {
            return;
        }
        if self.recorder.as_ref().is_some_and(|recorder| recorder.says_again(&event)) {
            self.ctx.note_event(bytes, true);
        } else if self.ctx.take_log_line(bytes).is_err() {
            if let Some(recorder) = &self.recorder {
                recorder.called(asked(), &());
            }
            return;
        }
        self.said.fetch_add(1, Ordering::Relaxed);
        match (&self.recorder, &self.journal) {
            // What differs ends the guest at its next call, or is told from at its end.
            (Some(recorder), _) => drop(recorder.say_now(event)),
            (None, Some(journal)) => journal.append_now(event),
            (None, None) => {}
        }
    }
}

impl IsTerminal for Lines {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Lines {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        // Only the third preview of WASI asks for this, which is not linked.
        Box::new(tokio::io::sink())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Lines {
    async fn ready(&mut self) {
        if let Some(journal) = &self.journal {
            // A failing storage ends the run at its next event or at its close; output alone does not.
            let _ = journal.relieve().await;
        }
    }
}

impl OutputStream for Lines {
    fn write(&mut self, bytes: bytes::Bytes) -> StreamResult<()> {
        // A guest that does not ask first would go around the journal's back-pressure.
        let Some(permitted) = self.permitted.checked_sub(bytes.len()) else {
            return Err(StreamError::Trap(wasmtime::Error::msg("wrote more output than check-write had permitted")));
        };
        self.permitted = permitted;
        self.take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        let check = self.checks.fetch_add(1, Ordering::Relaxed);
        let asked = || Asked::of("output-stream.check-write").value(check);
        let known = self.recorder.as_ref().and_then(Recorder::known);
        let known: Option<u64> = known.and_then(|known| known.recall_rare(&asked()));
        let full = known.is_some() || self.journal.as_ref().is_some_and(RunJournal::is_full);
        self.permitted = if full { 0 } else { OUTPUT_STEP_BYTES };
        // That there is room is the rule and follows from nothing; that there is none depends on how fast the disk is.
        if full
            && known.is_none()
            && let Some(recorder) = &self.recorder
        {
            recorder.called(asked(), &0_u64);
        }
        Ok(self.permitted)
    }
}
