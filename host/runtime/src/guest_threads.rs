//! The threads that guests run on, apart from those that serve sockets and storage: a guest holds its thread until the next
//! tick, and no request, event or timer should wait behind it.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::{runtime::Handle, task::JoinHandle};
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

/// Which threads a task is polled on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Those of sockets and storage.
    Host,
    Guests,
}

/// A task that can move, while it is polled.
#[derive(Debug, Clone, Copy)]
struct Moves {
    is_on: Place,
    /// Where it is polled next, unless it is ready.
    goes_on: Place,
}

thread_local! {
    static MOVES: Cell<Option<Moves>> = const { Cell::new(None) };
}

/// Whether a guest may execute in the task that is being polled here. If not, the task is polled again where one may, once
/// it is pending. One that cannot move is where it is on purpose.
pub fn may_execute(cx: &Context<'_>) -> bool {
    let Some(moves) = MOVES.get() else { return true };
    MOVES.set(Some(Moves { goes_on: Place::Guests, ..moves }));
    let may = moves.is_on == Place::Guests;
    if !may {
        // Whatever stands between, and polls only who was woken.
        cx.waker().wake_by_ref();
    }
    may
}

/// The guest that executed in the task that is being polled here has ended, or is to: the task goes on on the host's threads.
pub fn executes_no_more() {
    if let Some(moves) = MOVES.get() {
        MOVES.set(Some(Moves { goes_on: Place::Host, ..moves }));
    }
}

/// Does something on the guests' threads that takes them a while, as a guest does.
pub async fn among_guests<T>(work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    let done = poll_fn(|cx| if may_execute(cx) { work.as_mut().poll(cx) } else { Poll::Pending }).await;
    executes_no_more();
    done
}

/// Polls a task. Says where it is to go on, if that is elsewhere.
fn poll_on<T>(
    place: Place,
    work: Pin<&mut (impl Future<Output = T> + ?Sized)>,
    cx: &mut Context<'_>,
) -> Poll<Option<Place>> {
    /// Also when it panics.
    struct Polled;
    impl Drop for Polled {
        fn drop(&mut self) {
            MOVES.set(None);
        }
    }
    MOVES.set(Some(Moves { is_on: place, goes_on: Place::Host }));
    let _polled = Polled;
    match (work.poll(cx), MOVES.get()) {
        (Poll::Ready(_), _) => Poll::Ready(None),
        (Poll::Pending, Some(Moves { goes_on, .. })) if goes_on != place => Poll::Ready(Some(goes_on)),
        (Poll::Pending, _) => Poll::Pending,
    }
}

/// The threads, until this is dropped.
pub struct GuestThreads {
    guests: Option<tokio::runtime::Runtime>,
    /// Those of sockets and storage, on which this was started.
    host: Handle,
}

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
        Ok(Self { guests: Some(runtime), host: Handle::current() })
    }

    /// Runs something there. None once the threads are going away.
    #[expect(clippy::disallowed_methods, reason = "callers keep the handle, or track the work")]
    pub fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Option<JoinHandle<T>> {
        Some(self.guests.as_ref()?.handle().spawn(work))
    }

    /// Starts a task on the threads of sockets and storage, which is polled on the guests' for as long as a guest executes in
    /// it, so that neither its begin nor its end waits for other guests' ticks.
    pub fn spawn_moving(&self, work: impl Future<Output = ()> + Send + 'static) {
        let Some(guests) = &self.guests else { return };
        go_on(self.host.clone(), guests.handle().clone(), Place::Host, Box::pin(work));
    }

    /// Threads beside these, for the host's own work.
    pub fn aside(&self) -> Aside {
        Aside(self.guests.as_ref().map(|guests| guests.handle().clone()))
    }

    /// Runs something there and waits for it; whoever stops waiting ends it. None if it panicked, or the threads are going
    /// away.
    pub async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Option<T> {
        AbortOnDropHandle::new(self.spawn(work)?).await.ok()
    }
}

/// Threads for what is done with components, which blocks or takes a while: they give way as guests' do.
#[derive(Debug, Clone)]
pub struct Aside(Option<Handle>);

impl Aside {
    /// Does something there and waits for it.
    ///
    /// # Errors
    /// When it panicked, or the threads are going away.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        let Some(threads) = &self.0 else { return Err(io::Error::other("the host is going away")) };
        threads.spawn_blocking(work).await.map_err(io::Error::other)
    }
}

/// Polls a task there until it is ready or is to go on elsewhere.
#[expect(clippy::disallowed_methods, reason = "callers track the work")]
fn go_on(host: Handle, guests: Handle, place: Place, mut work: Pin<Box<dyn Future<Output = ()> + Send>>) {
    let threads = match place {
        Place::Host => host.clone(),
        Place::Guests => guests.clone(),
    };
    threads.spawn(async move {
        if let Some(place) = poll_fn(|cx| poll_on(place, work.as_mut(), cx)).await {
            go_on(host, guests, place, work);
        }
    });
}

impl Drop for GuestThreads {
    fn drop(&mut self) {
        // Whoever lets go of them last may be a task, which must not wait.
        if let Some(runtime) = self.guests.take() {
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

    /// Polls a task that gives way once where it is.
    async fn once_more() {
        tokio::task::yield_now().await;
    }

    fn thread() -> String {
        std::thread::current().name().unwrap_or_default().to_owned()
    }

    /// Which threads it is polled on while a guest executes in it.
    async fn guest_executes() -> String {
        let mut polls = 0;
        let thread = poll_fn(|cx| {
            if may_execute(cx) {
                polls += 1;
                if polls > 1 {
                    return Poll::Ready(thread());
                }
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        })
        .await;
        executes_no_more();
        thread
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_task_is_on_the_guests_threads_while_a_guest_executes_in_it() {
        let threads = GuestThreads::start().expect("threads");
        let (told, mut hears) = tokio::sync::mpsc::channel(8);
        threads.spawn_moving(async move {
            for _ in 0..2 {
                once_more().await;
                told.send(thread()).await.expect("heard");
                told.send(guest_executes().await).await.expect("heard");
                once_more().await;
                told.send(thread()).await.expect("heard");
            }
        });
        let mut on = Vec::new();
        while let Some(name) = hears.recv().await {
            on.push(name == "guest");
        }
        assert_eq!(on, [false, true, false, false, true, false]);
    }

    #[tokio::test]
    async fn a_task_that_cannot_move_executes_guests_where_it_is() {
        assert_ne!(guest_executes().await, "guest");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    #[expect(clippy::disallowed_methods, reason = "a test waits for its task")]
    async fn a_panic_of_one_task_leaves_nothing_to_the_next() {
        let threads = GuestThreads::start().expect("threads");
        let (told, heard) = tokio::sync::oneshot::channel::<()>();
        threads.spawn_moving(async move {
            let _told = told;
            poll_fn::<(), _>(|cx| {
                assert!(!may_execute(cx), "it begins on the host's");
                panic!("on purpose");
            })
            .await;
        });
        assert!(heard.await.is_err());
        // On the same thread, which has one.
        let next = Handle::current().spawn(poll_fn(|cx| Poll::Ready(may_execute(cx))));
        assert!(next.await.expect("no panic"), "it cannot move, and executes where it is");
    }
}
