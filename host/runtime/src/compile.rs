//! Compiling what somebody uploaded, in a child process that has little and can be killed.
//!
//! A hostile component can make a compiler take all memory and abort, and no limit of the engine applies there. So the
//! same binary is started again with nothing but a pipe in and a pipe out; it limits itself before it reads a byte, and
//! whatever becomes of it, the host reads either an artifact or a reason. There is no other way to compile.

use crate::{
    counts::Counts,
    engine::{EPOCH_TICK, compile_engine},
    gate::Shape,
    guest_threads::{AWAY, NICENESS, give_way},
    meter::{HostMemory, Reserved},
};
use cofferdam_core::{ids::UserId, quota::PLUGIN_BYTES_MAX};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::{
    collections::HashMap,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::{ExitCode, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
    sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit},
};

/// The most address space that a worker gets, in bytes. A single function of 2 MB takes about 2.1 GiB.
const WORKER_MEMORY_BYTES_MAX: u64 = 3 << 30;
/// What a worker gets before it has read anything: it takes 36 MiB to start, half of them for its own code.
pub const WORKER_BASE_BYTES: u64 = 96 << 20;
/// What a worker gets for each byte of a component, besides what its functions take. Agents in Rust take about 30.
const WORKER_BYTES_PER_BYTE: u64 = 40;
/// What a worker gets for each function: the smallest take about 6 KiB, with the code that a call from outside needs.
const WORKER_BYTES_PER_FUNCTION: u64 = 8 << 10;
/// What a worker gets besides for each function that is in a table, and so may be called from outside: the smallest take
/// about 5 KiB more.
const WORKER_BYTES_PER_ESCAPING: u64 = 8 << 10;
/// What a worker gets for each byte of the largest function, which it has in memory at once in several forms: straight
/// code, branches and an interpreter's loop take 0.9 to 1.4 KiB.
const WORKER_BYTES_PER_FUNCTION_BYTE: u64 = 2 << 10;
/// CPU time of a worker, in seconds.
const WORKER_CPU_S: u64 = 60;
/// Wall time of a worker: its CPU time ten times over, because it has a tenth of a processor that others want.
const WORKER_WALL: Duration = Duration::from_secs(10 * WORKER_CPU_S);
/// Workers at once, each for another user. Compiling is for authors; runs must not wait for it.
const WORKERS_MAX: usize = 2;
/// Compiles of one user under way at once, of which one has a place and the others wait. More than the tools of five runs can ask for, and few enough that components
/// that wait do not fill the host: each is in memory.
const PER_USER_MAX: usize = 32;
/// How long a worker waits for room in the host's memory. Runs that take it up end, or hold it for longer than anybody
/// waits for an answer.
const ROOM_WAIT: Duration = Duration::from_secs(10);
/// How often a worker that waits for room looks again. At most as many look as there are places.
const ROOM_LOOK: Duration = Duration::from_millis(50);
/// How many users without a compile are remembered before they are forgotten.
const IDLE_USERS_MAX: usize = 1_024;
/// The largest artifact taken from a worker, in bytes.
const ARTIFACT_BYTES_MAX: u64 = 1 << 30;
/// The longest reason taken from a worker, in bytes.
const REASON_BYTES_MAX: u64 = 16 << 10;
/// File descriptors of a worker: its three pipes. It can open no other, and so no socket either.
const WORKER_FILES: u64 = 3;

/// The worker could not limit itself: it has compiled nothing.
const EXIT_UNLIMITED: u8 = 3;
/// An allocation failed where that is an error; elsewhere the process aborts.
const EXIT_NO_MEMORY: u8 = 4;
/// The component is not one, or is not valid.
const EXIT_INVALID: u8 = 1;

/// What a process of Rust's ends with after a panic.
const EXIT_PANICKED: i32 = 101;
/// How much of a panic's text is repeated, in characters.
const REASON_SHOWN_CHARS_MAX: usize = 300;

/// Why there is no artifact.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The bytes are not a valid component. The worker's reason.
    #[error("{0}")]
    Invalid(String),
    /// The compiler failed where it should have given a reason: a bug of its own, which the bytes have found.
    #[error("the compiler itself failed on it; please report the component: {0}")]
    Crashed(String),
    /// The compiler met its limit.
    #[error("compiling it took more than {what}; make the component smaller, or split its largest functions")]
    Limit {
        /// Which limit, with its value.
        what: String,
    },
    /// The host has no memory for it now.
    #[error(
        "compiling it needs {need_mib} MiB of the {host_mib} MiB that this host has for guests, and runs and other compiles held too much of them for {} s; try again when fewer are under way", ROOM_WAIT.as_secs()
    )]
    NoRoom {
        /// What it needs.
        need_mib: u64,
        /// What the host has in all.
        host_mib: u64,
    },
    /// The user has too many compiles under way.
    #[error(
        "{PER_USER_MAX} components of this user are compiled or wait for it, which is as many as may; try again when some are done"
    )]
    TooMany,
    /// The worker could not be run.
    #[error("the compile worker failed: {0}")]
    Worker(String),
}

/// Starts compile workers: a few at once, within the memory that the host has for guests, and in turn for each user.
#[derive(Debug)]
pub struct Compiler {
    worker: PathBuf,
    memory: Arc<HostMemory>,
    places: Semaphore,
    users: Mutex<HashMap<UserId, Weak<Queue>>>,
    counts: Arc<Counts>,
}

/// One user's compiles. Only the first of them stands in the host's queue or has a place, so that whoever pushes a hundred
/// components is one of those who wait or compile there, and not a hundred.
#[derive(Debug)]
struct Queue {
    turn: Arc<Semaphore>,
    under_way: AtomicUsize,
}

/// One that waits or has a place. Leaves on drop, also when its client goes away.
#[derive(Debug)]
struct UnderWay(Arc<Queue>);

impl UnderWay {
    fn join(queue: Arc<Queue>) -> Result<Self, CompileError> {
        if queue.under_way.fetch_add(1, Ordering::Relaxed) >= PER_USER_MAX {
            queue.under_way.fetch_sub(1, Ordering::Relaxed);
            return Err(CompileError::TooMany);
        }
        Ok(Self(queue))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One of the host's places, and the user's turn, which ends with it.
#[derive(Debug)]
struct Place<'a> {
    _place: SemaphorePermit<'a>,
    _turn: OwnedSemaphorePermit,
    _under_way: UnderWay,
}

/// Machine code from a worker, and the memory that it was made in, which is free when this is dropped.
#[derive(Debug)]
pub struct Compiled {
    /// The artifact.
    pub artifact: Vec<u8>,
    _memory: Reserved,
}

impl Compiler {
    /// That starts `worker compile-worker`, within this memory.
    #[must_use]
    pub fn new(worker: &Path, memory: Arc<HostMemory>) -> Self {
        let (places, counts) = (Semaphore::new(WORKERS_MAX), Arc::default());
        Self { worker: worker.to_owned(), memory, places, users: Mutex::default(), counts }
    }

    /// With what comes of it counted here.
    #[must_use]
    pub fn counted_by(self, counts: Arc<Counts>) -> Self {
        Self { counts, ..self }
    }

    /// Compiles a component for a user. Whoever drops this ends the worker with it.
    ///
    /// # Errors
    /// When it is not valid, or compiling it meets a limit, or the host has no room, or the worker cannot be run.
    pub async fn compile(&self, user: &UserId, shape: Shape, component: &[u8]) -> Result<Compiled, CompileError> {
        let compiled = self.compile_uncounted(user, shape, component).await;
        self.counts.compiled(&compiled);
        compiled
    }

    async fn compile_uncounted(&self, user: &UserId, shape: Shape, component: &[u8]) -> Result<Compiled, CompileError> {
        let _place = self.place(user).await?;
        let bytes = memory_bytes(shape, self.memory.compiling_bytes_max());
        let memory = self.room(bytes, ROOM_WAIT).await?;
        let worker = |error: std::io::Error| CompileError::Worker(format!("{}: {error}", self.worker.display()));
        let mut child = Command::new(&self.worker)
            .arg("compile-worker")
            .arg(bytes.to_string())
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(worker)?;
        let (Some(mut stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(CompileError::Worker("it was started without pipes".into()));
        };
        let (mut artifact, mut reason) = (Vec::new(), Vec::new());
        let exchange = async {
            let feed = async {
                // A worker that refuses early closes its end; its exit says why.
                let _ = stdin.write_all(component).await;
                drop(stdin);
            };
            let mut stdout = stdout.take(ARTIFACT_BYTES_MAX);
            let mut stderr = stderr.take(REASON_BYTES_MAX);
            let ((), out, err) = tokio::join!(feed, stdout.read_to_end(&mut artifact), stderr.read_to_end(&mut reason));
            out.and(err)?;
            // Whoever writes on past the bounds above waits for ever, until the wall clock ends it.
            child.wait().await
        };
        let status = match tokio::time::timeout(WORKER_WALL, exchange).await {
            Ok(status) => status.map_err(worker)?,
            Err(_) => return Err(CompileError::Limit { what: format!("{} s", WORKER_WALL.as_secs()) }),
        };
        let artifact = outcome(status, bytes, artifact, &String::from_utf8_lossy(&reason))?;
        Ok(Compiled { artifact, _memory: memory })
    }

    /// One of the host's places, when it is this user's turn.
    async fn place(&self, user: &UserId) -> Result<Place<'_>, CompileError> {
        let closed = |error: tokio::sync::AcquireError| CompileError::Worker(error.to_string());
        let under_way = UnderWay::join(self.queue(user))?;
        let turn = under_way.0.turn.clone().acquire_owned().await.map_err(closed)?;
        Ok(Place { _place: self.places.acquire().await.map_err(closed)?, _turn: turn, _under_way: under_way })
    }

    /// Memory for a worker, as soon as there is, if that is soon enough.
    async fn room(&self, bytes: u64, wait: Duration) -> Result<Reserved, CompileError> {
        let look = async {
            loop {
                if let Some(reserved) = self.memory.reserve(bytes) {
                    return reserved;
                }
                tokio::time::sleep(ROOM_LOOK).await;
            }
        };
        let no_room = |_| CompileError::NoRoom { need_mib: bytes >> 20, host_mib: self.memory.bytes_max() >> 20 };
        tokio::time::timeout(wait, look).await.map_err(no_room)
    }

    fn queue(&self, user: &UserId) -> Arc<Queue> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = users.get(user).and_then(Weak::upgrade) {
            return queue;
        }
        if users.len() >= IDLE_USERS_MAX {
            users.retain(|_, queue| queue.strong_count() > 0);
        }
        let queue = Arc::new(Queue { turn: Arc::new(Semaphore::new(1)), under_way: AtomicUsize::new(0) });
        users.insert(user.clone(), Arc::downgrade(&queue));
        queue
    }
}

/// The memory that a worker gets for a component: what such components are known to take, with room to spare, and on a
/// small host no more than three quarters of what there is for compiling, so that a compile there meets its limit instead
/// of waiting for ever, and leaves room for a usual one beside it.
fn memory_bytes(shape: Shape, compiling_bytes: u64) -> u64 {
    let need = WORKER_BASE_BYTES
        .saturating_add(shape.bytes.saturating_mul(WORKER_BYTES_PER_BYTE))
        .saturating_add(shape.functions.saturating_mul(WORKER_BYTES_PER_FUNCTION))
        .saturating_add(shape.escaping.saturating_mul(WORKER_BYTES_PER_ESCAPING))
        .saturating_add(shape.function_bytes_max.saturating_mul(WORKER_BYTES_PER_FUNCTION_BYTE));
    need.min(WORKER_MEMORY_BYTES_MAX).min((compiling_bytes / 4 * 3).max(WORKER_BASE_BYTES))
}

fn outcome(status: ExitStatus, memory_bytes: u64, artifact: Vec<u8>, reason: &str) -> Result<Vec<u8>, CompileError> {
    use std::os::unix::process::ExitStatusExt as _;
    let reason: String = reason.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let no_memory = CompileError::Limit { what: format!("{} MiB", memory_bytes >> 20) };
    match (status.code(), status.signal()) {
        (Some(0), _) if !artifact.is_empty() => Ok(artifact),
        (Some(code), _) if code == i32::from(EXIT_INVALID) => Err(CompileError::Invalid(reason)),
        (Some(code), _) if code == i32::from(EXIT_UNLIMITED) => {
            Err(CompileError::Worker(format!("{reason}; uploads are refused on a machine that cannot limit it")))
        }
        (Some(EXIT_PANICKED), _) => Err(CompileError::Crashed(reason.chars().take(REASON_SHOWN_CHARS_MAX).collect())),
        (Some(code), _) if code == i32::from(EXIT_NO_MEMORY) => Err(no_memory),
        // SIGXCPU, or SIGKILL at the hard limit.
        (None, Some(24 | 9)) => Err(CompileError::Limit { what: format!("{WORKER_CPU_S} s of CPU time") }),
        // SIGABRT and SIGSEGV are what an allocator out of memory and a stack out of bounds end in.
        (None, Some(6 | 11)) => Err(no_memory),
        _ => Err(CompileError::Worker(format!("it ended with {status}: {reason}"))),
    }
}

/// The whole of the worker: limits itself, reads a component, writes an artifact. Called before anything else in the
/// process has happened, and the process ends with it. The argument is its memory in bytes; without one it has the base.
#[must_use]
pub fn worker_main(memory_bytes: Option<&str>) -> ExitCode {
    let memory_bytes = memory_bytes.and_then(|bytes| bytes.parse().ok()).unwrap_or(WORKER_BASE_BYTES);
    if let Err(error) = limit_itself(memory_bytes) {
        let _ = writeln!(std::io::stderr(), "the worker cannot limit itself: {error}");
        return ExitCode::from(EXIT_UNLIMITED);
    }
    match compile_stdin() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error:#}");
            let is_read = |error: &std::io::Error| error.kind() == std::io::ErrorKind::OutOfMemory;
            let is_memory = error.is::<wasmtime::OutOfMemory>() || error.downcast_ref().is_some_and(is_read);
            ExitCode::from(if is_memory { EXIT_NO_MEMORY } else { EXIT_INVALID })
        }
    }
}

/// Closes what the host's own starter left open for all its children: a log, a terminal, a listening socket.
#[expect(unsafe_code, reason = "only the first lines of a process know that no descriptor in it has an owner")]
fn close_inherited() -> std::io::Result<()> {
    use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
    let mut open: Vec<RawFd> = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        open.extend(entry?.file_name().to_str().and_then(|number| number.parse::<RawFd>().ok()));
    }
    for number in open.into_iter().filter(|number| *number > 2) {
        // The list held the descriptor that it was read from, which is closed by now.
        if std::fs::read_link(format!("/proc/self/fd/{number}")).is_ok() {
            // SAFETY: this process has just begun, has one thread, and has opened nothing that it still holds; so nobody
            // in it owns this descriptor, and it is there.
            drop(unsafe { OwnedFd::from_raw_fd(number) });
        }
    }
    Ok(())
}

/// Leaves the processor for a moment at each tick, as guests that compute do.
#[expect(unsafe_code, reason = "no library that we have asks the system for a timer")]
fn let_others_go_first_at_times() -> std::io::Result<()> {
    extern "C" fn away(_signal: libc::c_int) {
        let away = libc::timespec { tv_sec: 0, tv_nsec: AWAY.subsec_nanos().into() };
        // SAFETY: it may be called by who handles a signal, reads one struct and writes nothing. What it interrupts finds
        // `errno` as it was, because no other signal is handled here, so it never fails.
        unsafe { libc::nanosleep(&raw const away, std::ptr::null_mut()) };
    }
    let every = libc::timeval { tv_sec: 0, tv_usec: EPOCH_TICK.subsec_micros().into() };
    let timer = libc::itimerval { it_interval: every, it_value: every };
    // SAFETY: `sigaction` is plain numbers, of which zeros are a valid one: no flags, an empty mask. The handler is a function
    // of the type that these flags ask for, and both calls read what they are given and keep nothing of it.
    let set = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = away as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_RESTART;
        libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut()) == 0
            && libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) == 0
    };
    if set { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

fn limit_itself(memory_bytes: u64) -> std::io::Result<()> {
    close_inherited()?;
    // Whoever serves others goes first; what is limited is the time that it computes.
    give_way(NICENESS);
    let_others_go_first_at_times()?;
    let limit = |resource, value| -> std::io::Result<()> {
        Ok(setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })?)
    };
    limit(Resource::As, memory_bytes.min(WORKER_MEMORY_BYTES_MAX))?;
    limit(Resource::Cpu, WORKER_CPU_S)?;
    // It opens nothing, not even a socket; it writes no file, leaves no core and starts nobody.
    limit(Resource::Fsize, 0)?;
    limit(Resource::Core, 0)?;
    limit(Resource::Nproc, 0)?;
    limit(Resource::Nofile, WORKER_FILES)
}

fn compile_stdin() -> wasmtime::Result<()> {
    let mut component = Vec::new();
    std::io::stdin().lock().take(PLUGIN_BYTES_MAX as u64 + 1).read_to_end(&mut component)?;
    // Text and precompiled bytes were refused by the host already; `from_binary` takes neither.
    let artifact = wasmtime::component::Component::from_binary(&compile_engine()?, &component)?.serialize()?;
    std::io::stdout().lock().write_all(&artifact)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cofferdam_core::quota::{LiveQuota, Quota};
    use std::os::unix::fs::PermissionsExt as _;

    fn user(name: &str) -> UserId {
        name.parse().expect("a user id")
    }

    const SHAPE: Shape = Shape { bytes: 0, functions: 0, escaping: 0, function_bytes_max: 0 };

    /// A worker that takes so long, and gives one byte.
    fn slow(seconds: &str, host_bytes: u64) -> (tempfile::TempDir, Arc<HostMemory>, Compiler) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("worker");
        std::fs::write(&path, format!("#!/bin/sh\ncat > /dev/null\nsleep {seconds}\nprintf x\n")).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).expect("executable");
        let memory = Arc::new(HostMemory::new(host_bytes, WORKER_BASE_BYTES));
        let compiler = Compiler::new(&path, memory.clone());
        (dir, memory, compiler)
    }

    #[test]
    fn memory_follows_the_shape_and_stays_within_the_host() {
        let host = 64 << 30;
        assert_eq!(memory_bytes(SHAPE, host), WORKER_BASE_BYTES);
        // The largest of the test agents takes 66 MiB.
        let probe = Shape { bytes: 580_636, functions: 1_500, escaping: 300, function_bytes_max: 20_000 };
        assert!((100 << 20..256 << 20).contains(&memory_bytes(probe, host)));
        // One function of 2 MB takes 2.1 GiB, 300,000 of the smallest 1.8 GiB.
        let large = Shape { bytes: 2 << 20, functions: 1, escaping: 0, function_bytes_max: 2 << 20 };
        assert_eq!(memory_bytes(large, host), WORKER_MEMORY_BYTES_MAX);
        let many = Shape { bytes: 1_800_042, functions: 300_000, escaping: 0, function_bytes_max: 4 };
        assert!((2 << 30..3 << 30).contains(&memory_bytes(many, host)));
        // 60,000 of them in one table take between 600 and 900 MiB.
        let table = Shape { bytes: 977_680, functions: 60_000, escaping: 60_000, function_bytes_max: 4 };
        assert!((900 << 20..1_200 << 20).contains(&memory_bytes(table, host)));
        assert_eq!(memory_bytes(large, 1 << 30), 768 << 20, "not all of a small host");
        assert_eq!(memory_bytes(large, 1 << 20), WORKER_BASE_BYTES, "less than a worker can start in is of no use");
        let absurd = Shape { bytes: u64::MAX, functions: u64::MAX, escaping: u64::MAX, function_bytes_max: u64::MAX };
        assert_eq!(memory_bytes(absurd, u64::MAX), WORKER_MEMORY_BYTES_MAX);
    }

    #[tokio::test]
    async fn a_worker_holds_the_hosts_memory_until_its_artifact_is_dropped() {
        let (_dir, memory, compiler) = slow("0", 1 << 30);
        let compiled = compiler.compile(&user("ann"), SHAPE, b"").await.expect("compiled");
        assert_eq!((compiled.artifact.as_slice(), memory.bytes()), (b"x".as_slice(), WORKER_BASE_BYTES));
        drop(compiled);
        assert_eq!(memory.bytes(), 0);
    }

    #[test]
    fn a_limit_that_was_met_is_never_called_an_invalid_component() {
        use std::os::unix::process::ExitStatusExt as _;
        let exit = |code: u8| ExitStatus::from_raw(i32::from(code) << 8);
        let told = |status| outcome(status, 100 << 20, Vec::new(), "why").expect_err("no artifact").to_string();
        for (status, word) in [
            (exit(EXIT_NO_MEMORY), "more than 100 MiB"),
            (ExitStatus::from_raw(6), "more than 100 MiB"),
            (ExitStatus::from_raw(11), "more than 100 MiB"),
            (ExitStatus::from_raw(24), "60 s of CPU time"),
            (ExitStatus::from_raw(9), "60 s of CPU time"),
        ] {
            assert!(told(status).contains(word), "{status}: {}", told(status));
        }
        assert_eq!(told(exit(EXIT_INVALID)), "why");
        let crashed = outcome(exit(101), 100 << 20, Vec::new(), "why").expect_err("no artifact");
        assert!(matches!(crashed, CompileError::Crashed(_)), "a compiler's panic is no failure of the host: {crashed}");
        assert!(told(exit(EXIT_UNLIMITED)).contains("cannot limit"));
        assert!(told(exit(0)).contains("worker failed"), "an empty artifact is none");
    }

    #[tokio::test]
    async fn without_room_a_compile_waits_and_then_is_refused() {
        let (_dir, memory, compiler) = slow("0", 200 << 20);
        let runs =
            memory.run(&user("bob"), 200 << 20, LiveQuota::fixed(Quota::ceiling())).hold(150 << 20).expect("room");
        let refused = compiler.room(WORKER_BASE_BYTES, Duration::from_millis(200)).await.expect_err("no room");
        assert!(matches!(refused, CompileError::NoRoom { need_mib: 96, host_mib: 200 }), "{refused}");
        let free = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            drop(runs);
        };
        let (room, ()) = tokio::join!(compiler.room(WORKER_BASE_BYTES, ROOM_WAIT), free);
        assert!(room.is_ok(), "room that comes free is taken");
    }

    #[tokio::test]
    async fn whoever_has_many_to_compile_is_one_of_those_who_wait() {
        let (_dir, memory, compiler) = slow("0.2", 1 << 30);
        let (ann, bob) = (user("ann"), user("bob"));
        let done = Mutex::new(Vec::new());
        let one = async |user: &UserId, after: Duration| {
            tokio::time::sleep(after).await;
            compiler.compile(user, SHAPE, b"").await.expect("compiled");
            done.lock().expect("no panic").push(user.as_str().to_owned());
        };
        let anns = futures(8, |_| one(&ann, Duration::ZERO));
        tokio::join!(anns, one(&bob, Duration::from_millis(50)));
        let done = done.into_inner().expect("no panic");
        let place = done.iter().position(|name| name == "bob").expect("done");
        // One was being compiled when Bob came; the other place was free.
        assert!(place <= 1, "{done:?}");
        assert_eq!(memory.bytes(), 0);
    }

    #[tokio::test]
    async fn a_user_has_so_many_waiting_and_whoever_leaves_makes_room() {
        let (_dir, memory, compiler) = slow("5", 8 << 30);
        let ann = user("ann");
        {
            let mut waiting: Vec<_> = (0..PER_USER_MAX).map(|_| Box::pin(compiler.compile(&ann, SHAPE, b""))).collect();
            for compile in &mut waiting {
                let first = tokio::time::timeout(Duration::from_millis(1), compile).await;
                assert!(first.is_err(), "{:?}", first.map(|compiled| compiled.map(|_| ())));
            }
            let refused = compiler.compile(&ann, SHAPE, b"").await.expect_err("one too many");
            assert!(matches!(refused, CompileError::TooMany), "{refused}");
        }
        assert_eq!(memory.bytes(), 0, "workers that nobody waits for hold nothing");
        assert_eq!(compiler.queue(&ann).under_way.load(Ordering::Relaxed), 0);
        assert_eq!(compiler.places.available_permits(), WORKERS_MAX);
    }

    async fn futures<F: Future<Output = ()>>(count: usize, make: impl Fn(usize) -> F) {
        let mut all: Vec<_> = (0..count).map(|i| Box::pin(make(i))).collect();
        std::future::poll_fn(|cx| {
            all.retain_mut(|future| future.as_mut().poll(cx).is_pending());
            if all.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
    }
}
