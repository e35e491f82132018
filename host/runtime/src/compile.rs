//! Compiling what somebody uploaded, in a child process that has little and can be killed.
//!
//! A hostile component can make a compiler take all memory and abort, and no limit of the engine applies there. So the
//! same binary is started again with nothing but a pipe in and a pipe out; it limits itself before it reads a byte, and
//! whatever becomes of it, the host reads either an artifact or a reason. There is no other way to compile.

use crate::engine::compile_engine;
use cofferdam_core::quota::PLUGIN_BYTES_MAX;
use rustix::process::{Resource, Rlimit, setrlimit};
use std::{
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::{ExitCode, ExitStatus, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
    sync::Semaphore,
};

/// Address space of a worker, in bytes.
const WORKER_MEMORY_BYTES: u64 = 3 << 30;
/// CPU time of a worker, in seconds.
const WORKER_CPU_S: u64 = 60;
/// Wall time of a worker: its CPU time twice over, for a busy machine.
const WORKER_WALL: Duration = Duration::from_secs(2 * WORKER_CPU_S);
/// Workers at once. Compiling is for authors; runs must not wait for it.
const WORKERS_MAX: usize = 2;
/// The largest artifact taken from a worker, in bytes.
const ARTIFACT_BYTES_MAX: u64 = 1 << 30;
/// The longest reason taken from a worker, in bytes.
const REASON_BYTES_MAX: u64 = 16 << 10;

/// The worker could not limit itself: it has compiled nothing.
const EXIT_UNLIMITED: u8 = 3;
/// The component is not one, or is not valid.
const EXIT_INVALID: u8 = 1;

/// Why there is no artifact.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The bytes are not a valid component. The worker's reason.
    #[error("{0}")]
    Invalid(String),
    /// The compiler met its limit.
    #[error("compiling it took more than {0}; make the component smaller or simpler")]
    Limit(&'static str),
    /// The worker could not be run.
    #[error("the compile worker failed: {0}")]
    Worker(String),
}

/// Starts compile workers.
#[derive(Debug)]
pub struct Compiler {
    worker: PathBuf,
    places: Semaphore,
}

impl Compiler {
    /// That starts `worker compile-worker`.
    #[must_use]
    pub fn new(worker: &Path) -> Self {
        Self { worker: worker.to_owned(), places: Semaphore::new(WORKERS_MAX) }
    }

    /// Compiles a component.
    ///
    /// # Errors
    /// When it is not valid, or compiling it meets a limit, or the worker cannot be run.
    pub async fn compile(&self, component: &[u8]) -> Result<Vec<u8>, CompileError> {
        let worker = |error: std::io::Error| CompileError::Worker(format!("{}: {error}", self.worker.display()));
        let _place = self.places.acquire().await.map_err(|e| CompileError::Worker(e.to_string()))?;
        let mut child = Command::new(&self.worker)
            .arg("compile-worker")
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
            Err(_) => return Err(CompileError::Limit("its time")),
        };
        outcome(status, artifact, &String::from_utf8_lossy(&reason))
    }
}

fn outcome(status: ExitStatus, artifact: Vec<u8>, reason: &str) -> Result<Vec<u8>, CompileError> {
    use std::os::unix::process::ExitStatusExt as _;
    let reason: String = reason.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match (status.code(), status.signal()) {
        (Some(0), _) if !artifact.is_empty() => Ok(artifact),
        (Some(code), _) if code == i32::from(EXIT_INVALID) => Err(CompileError::Invalid(reason)),
        (Some(code), _) if code == i32::from(EXIT_UNLIMITED) => {
            Err(CompileError::Worker(format!("{reason}; uploads are refused on a machine that cannot limit it")))
        }
        // SIGXCPU, or SIGKILL at the hard limit.
        (None, Some(24 | 9)) => Err(CompileError::Limit("its CPU time")),
        // SIGABRT and SIGSEGV are what an allocator out of memory and a stack out of bounds end in.
        (None, Some(6 | 11)) => Err(CompileError::Limit("its memory")),
        _ => Err(CompileError::Worker(format!("it ended with {status}: {reason}"))),
    }
}

/// The whole of the worker: limits itself, reads a component, writes an artifact. Called before anything else in the
/// process has happened, and the process ends with it.
#[must_use]
pub fn worker_main() -> ExitCode {
    if let Err(error) = limit_itself() {
        let _ = writeln!(std::io::stderr(), "the worker cannot limit itself: {error}");
        return ExitCode::from(EXIT_UNLIMITED);
    }
    match compile_stdin() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error:#}");
            ExitCode::from(EXIT_INVALID)
        }
    }
}

fn limit_itself() -> rustix::io::Result<()> {
    let limit = |resource, value| setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) });
    limit(Resource::As, WORKER_MEMORY_BYTES)?;
    limit(Resource::Cpu, WORKER_CPU_S)?;
    // It opens nothing, writes no file, leaves no core and starts nobody.
    limit(Resource::Fsize, 0)?;
    limit(Resource::Core, 0)?;
    limit(Resource::Nproc, 0)?;
    limit(Resource::Nofile, 16)
}

fn compile_stdin() -> wasmtime::Result<()> {
    let mut component = Vec::new();
    std::io::stdin().lock().take(PLUGIN_BYTES_MAX as u64 + 1).read_to_end(&mut component)?;
    // Text and precompiled bytes were refused by the host already; `from_binary` takes neither.
    let artifact = wasmtime::component::Component::from_binary(&compile_engine()?, &component)?.serialize()?;
    std::io::stdout().lock().write_all(&artifact)?;
    Ok(())
}
