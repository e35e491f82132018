//! What a guest sees of the machine: clocks, random numbers, and an output whose lines become `log` events. No
//! environment, no arguments, no input, no directory, no socket. What it learns that way is kept in the run's record.

use crate::sandbox::Guest;
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
};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::io::AsyncWrite;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi::{
    HostMonotonicClock, HostWallClock, WasiCtx, WasiView,
    cli::{IsTerminal, StdoutStream},
    p2::{DynPollable, OutputStream, Pollable, StreamError, StreamResult},
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
        clocks::{WasiClocks, WasiClocksView as _},
        p2::bindings::{cli, clocks, random},
        random::WasiRandom,
    };
    wasmtime_wasi_io::bindings::wasi::io::error::add_to_linker::<T, Io>(linker, |t| t.ctx().table)?;
    poll::add_to_linker::<T, Polls>(linker, |t| Polled(t.called()))?;
    wasmtime_wasi_io::bindings::wasi::io::streams::add_to_linker::<T, Io>(linker, |t| t.ctx().table)?;
    clocks::wall_clock::add_to_linker::<T, WasiClocks>(linker, T::clocks)?;
    clocks::monotonic_clock::add_to_linker::<T, WasiClocks>(linker, T::clocks)?;
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

impl poll::Host for Polled<'_> {
    async fn poll(&mut self, pollables: Vec<Resource<DynPollable>>) -> wasmtime::Result<Vec<u32>> {
        let count = pollables.len();
        let ready = poll::Host::poll(&mut self.0.table, pollables).await?;
        self.0.record(|| Asked::of("poll.poll").value(count), &ready);
        Ok(ready)
    }
}

impl poll::HostPollable for Polled<'_> {
    async fn ready(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<bool> {
        let ready = poll::HostPollable::ready(&mut self.0.table, pollable).await?;
        self.0.record(|| Asked::of("poll.ready"), &ready);
        Ok(ready)
    }

    async fn block(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        poll::HostPollable::block(&mut self.0.table, pollable).await
    }

    fn drop(&mut self, pollable: Resource<DynPollable>) -> wasmtime::Result<()> {
        poll::HostPollable::drop(&mut self.0.table, pollable)
    }
}

struct Io;

impl wasmtime::component::HasData for Io {
    type Data<'a> = &'a mut wasmtime::component::ResourceTable;
}

/// The machine as one guest sees it.
pub fn machine(output: &Output, seed: [u8; 32], recorder: Option<&Recorder>) -> WasiCtx {
    if let Some(recorder) = recorder {
        recorder.seeded(seed);
    }
    // Three sequences of one seed.
    let sequence = |number: u64| {
        let mut random = ChaCha20Rng::from_seed(seed);
        random.set_stream(number);
        random
    };
    let mut last = [0_u8; 16];
    sequence(2).fill_bytes(&mut last);
    let clock = || Clock { begun: Instant::now(), recorder: recorder.cloned() };
    WasiCtx::builder()
        .stdout(output.out.clone())
        .stderr(output.err.clone())
        .secure_random(sequence(0))
        .insecure_random(sequence(1))
        .insecure_random_seed(u128::from_le_bytes(last))
        .max_random_size(RANDOM_BYTES_MAX)
        .wall_clock(clock())
        .monotonic_clock(clock())
        .allow_tcp(false)
        .allow_udp(false)
        .build()
}

/// The time, which is kept whenever the guest looks at it.
struct Clock {
    begun: Instant,
    recorder: Option<Recorder>,
}

impl Clock {
    fn told(&self, clock: &str, time: Duration) -> Duration {
        if let Some(recorder) = &self.recorder {
            recorder.called(Asked::of(clock), &time);
        }
        time
    }
}

/// What both clocks tell the time to.
const RESOLUTION: Duration = Duration::from_nanos(1);

impl HostWallClock for Clock {
    fn resolution(&self) -> Duration {
        RESOLUTION
    }

    fn now(&self) -> Duration {
        // A machine whose clock stands before 1970 has none.
        self.told("wall-clock.now", SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }
}

impl HostMonotonicClock for Clock {
    fn resolution(&self) -> u64 {
        1
    }

    fn now(&self) -> u64 {
        let time = self.told("monotonic-clock.now", self.begun.elapsed());
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
        let lines = |level| Lines {
            ctx: ctx.clone(),
            journal: journal.cloned(),
            recorder: recorder.cloned(),
            level,
            line: Arc::default(),
            permitted: 0,
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

    /// Over budget, a line is dropped: standard output has no way to say so that guests would understand.
    fn log(&self, line: &mut Vec<u8>) {
        let text = String::from_utf8_lossy(line).into_owned();
        line.clear();
        if let Some(journal) = &self.journal
            && self.ctx.take_log_line(text.len()).is_ok()
        {
            journal.append_now(Event::Log { level: self.level, text });
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
        let full = self.journal.as_ref().is_some_and(RunJournal::is_full);
        self.permitted = if full { 0 } else { OUTPUT_STEP_BYTES };
        // That there is room is the rule and follows from nothing; that there is none depends on how fast the disk is.
        if full && let Some(recorder) = &self.recorder {
            recorder.called(Asked::of("output-stream.check-write"), &0_u64);
        }
        Ok(self.permitted)
    }
}
