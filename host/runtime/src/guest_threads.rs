//! The threads that guests run on, apart from those that serve sockets and storage: a guest holds its thread until the next
//! tick, and no request, event or timer should wait behind it.

use std::{
    future::Future,
    io,
    pin::pin,
    task::{Context, Waker},
    time::Duration,
};
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

/// How much less than other threads guests and the compiler get of a processor that both want (`nice`): about a tenth of it.
/// They take whatever is left. Less would be nothing: whoever sends requests without a pause would stop everybody's guests.
pub const NICENESS: i32 = 10;

/// The most there is.
const NICENESS_MAX: i32 = 19;

/// How long a guest's thread asks to execute at once. Linux 6.12 and later let a thread that asks for less go before one that
/// asks for more as soon as it wakes, and the most is a tenth of a second; so a request, an event or a commit does not wait for
/// the scheduler's next tick. Earlier ones ignore it.
const SLICE: Duration = Duration::from_millis(100);

/// Lets every thread that does not call this go before the calling one and those that it makes, which also have so much less of
/// a processor that others want (`nice`). A system that refuses it executes them as everything else.
#[expect(unsafe_code, reason = "no library has this call of the system")]
pub fn give_way(nicer_by: i32) {
    let nice = rustix::process::getpriority_process(None).unwrap_or_default();
    let attributes = libc::sched_attr {
        size: u32::try_from(size_of::<libc::sched_attr>()).unwrap_or_default(),
        sched_policy: libc::SCHED_OTHER.unsigned_abs(),
        sched_flags: 0,
        sched_nice: nice.saturating_add(nicer_by).min(NICENESS_MAX),
        sched_priority: 0,
        sched_runtime: u64::try_from(SLICE.as_nanos()).unwrap_or(u64::MAX),
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the system reads as many bytes of the struct as its first field says, which is all of it, and keeps nothing.
    // 0 is the calling thread.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
}

/// How long a guest that computes, or a compile, leaves its processor at a tick: about as long as an answer takes on its way
/// through a thread. With one microsecond the p99 of others was 7 to 8 ms instead of 5 to 6; 40 and 100 were no better.
pub const AWAY: Duration = Duration::from_micros(70);

/// Lets whatever waits for this processor have it. The scheduler owes a tenth of it to guests, and pays that in pieces of up to
/// 4 ms, in which a request, an event or a commit waits; a thread that sleeps is not paid.
pub fn let_others_go_first() {
    std::thread::sleep(AWAY);
}

/// Lets this thread's sleep be as short as it asks for: usually it may be 50 us longer.
#[expect(unsafe_code, reason = "no library that we have has this call of the system")]
fn sleep_exactly() {
    let slack: libc::c_ulong = 1;
    // SAFETY: it takes a number, and changes nothing but this thread's timers.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, slack) };
}

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
                give_way(NICENESS);
                sleep_exactly();
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Field by field, as `sched(7)` has them for a thread.
    fn of_this_thread() -> (i32, String) {
        let field = |name: &str| {
            let text = std::fs::read_to_string("/proc/thread-self/sched").ok()?;
            text.lines().find(|line| line.starts_with(name))?.split_whitespace().next_back().map(str::to_owned)
        };
        let stat = std::fs::read_to_string("/proc/thread-self/stat").expect("a Linux");
        let nice = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(16)).expect("a field");
        (nice.parse().expect("a number"), field("se.slice").unwrap_or_default())
    }

    #[tokio::test]
    async fn guests_let_everything_else_go_first() {
        let threads = GuestThreads::start().expect("threads");
        let (nice, slice) = threads.run(async { of_this_thread() }).await.expect("run");
        assert_eq!(nice, (of_this_thread().0 + NICENESS).min(NICENESS_MAX));
        // Systems without it do not show it.
        assert!(slice.is_empty() || slice == SLICE.as_nanos().to_string(), "{slice}");
        assert_ne!(of_this_thread().1, SLICE.as_nanos().to_string(), "only guests do");
    }
}
