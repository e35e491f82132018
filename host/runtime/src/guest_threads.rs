//! The threads that guests run on, apart from those that serve sockets and storage: a guest holds its thread until the next
//! tick, and no request, event or timer should wait behind it.

use std::{
    future::Future,
    io,
    pin::pin,
    task::{Context, Waker},
};
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

/// How much less than other threads these get of a processor that both want (`nice`). Guests take whatever is left, and a
/// request that comes in meanwhile does not wait for their next tick.
const NICENESS: i32 = 2;

/// How many there are: as many as the machine has processors.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Wakes a task, once this thread has looked at its timers and sockets. It does so when it has nothing else to do, and as
/// long as each guest wakes the next one at once, it always has.
pub fn wake_next(task: &Waker) {
    let looked = pin!(tokio::task::yield_now());
    // The first poll leaves the waker with the scheduler; that is all that is wanted.
    let _ = looked.poll(&mut Context::from_waker(task));
}

/// The threads, until this is dropped.
pub struct GuestThreads(Option<tokio::runtime::Runtime>);

impl GuestThreads {
    /// Starts them: [`threads`].
    ///
    /// # Errors
    /// When threads cannot be made.
    pub fn start() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads())
            .thread_name("guest")
            .on_thread_start(|| {
                // Of the calling thread. A system that refuses it runs guests as everything else.
                let _ = rustix::process::setpriority_process(None, NICENESS);
            })
            .enable_all()
            .build()?;
        Ok(Self(Some(runtime)))
    }

    /// Runs something there. None once the threads are going away.
    #[expect(clippy::disallowed_methods, reason = "callers keep the handle, or track the work")]
    pub fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Option<JoinHandle<T>> {
        Some(self.0.as_ref()?.handle().spawn(work))
    }

    /// Runs something there and waits for it; whoever stops waiting ends it. None if it panicked, or the threads are going
    /// away.
    pub async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Option<T> {
        AbortOnDropHandle::new(self.spawn(work)?).await.ok()
    }
}

impl Drop for GuestThreads {
    fn drop(&mut self) {
        // Whoever lets go of them last may be a task, which must not wait.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
