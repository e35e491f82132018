//! A guest's turns on a processor: taken before it runs, given back while it waits for the host, or because its user's runs
//! write faster than they may.

use crate::{
    guest_threads::{let_others_go_first, wake_next},
    services::Services,
};
use cofferdam_core::{UserExecutionContext, turns::Turn};
use std::{
    future::Future as _,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::{Duration, Instant},
};
use tokio::time::{Sleep, sleep_until};

/// How much a user's runs may write at once, as time at their pace: a usual file, or what a run says at its begin, waits for
/// nothing.
pub const WRITTEN_AT_ONCE: Duration = Duration::from_secs(1);

/// How much a run writes before it is held against the pace, in bytes. Short runs, whose number is limited, stay below it.
const WRITTEN_HELD_BYTES: u64 = 8 << 10;

/// The turns that one sandbox runs in. It must be polled by a task of its own: inside of another guest's turn, it would wait
/// for one that its caller has.
pub struct InTurns {
    turn: Turn,
    services: Arc<Services>,
    ctx: Arc<UserExecutionContext>,
    /// The guest has computed up to a tick, and goes on.
    computes: bool,
    /// The run wrote faster than its user's runs may, and waits this long.
    paced: Option<Pin<Box<Sleep>>>,
    relay: Arc<Relay>,
    /// The relay as a waker.
    waker: Waker,
}

impl InTurns {
    /// For the context's user; a tool's are those of the run that called it.
    pub fn of(services: &Arc<Services>, ctx: &Arc<UserExecutionContext>) -> Self {
        let spec = ctx.spec();
        let turn = services.turns.enter(&spec.user, ctx.live_quota().get(|quota| quota.cpu_weight), spec.priority);
        let relay = Arc::new(Relay { state: AtomicU8::new(IDLE), task: Mutex::new(Waker::noop().clone()) });
        let (services, ctx) = (services.clone(), ctx.clone());
        Self { turn, services, ctx, computes: false, paced: None, waker: relay.clone().into(), relay }
    }

    /// Takes the guest's turn, or its place in the line, in which it stands also before it is where it can execute. If it is
    /// next, the tick comes early at which a turn is free.
    pub fn come(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.paced.is_some() {
            return Poll::Pending;
        }
        let has_it = self.turn.poll(cx.waker());
        if has_it.is_pending() && self.turn.is_next() {
            self.services.engine.ticker().soon();
        }
        has_it
    }

    /// Lets the guest execute if it is its turn, and says for how long it has. A guest that yields goes on if nobody has
    /// more right to the next turn; one that waits has given its turn back.
    pub fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        execute: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> (Poll<T>, Duration) {
        if let Some(paced) = &mut self.paced {
            if paced.as_mut().poll(cx).is_pending() {
                return (Poll::Pending, Duration::ZERO);
            }
            self.paced = None;
        }
        if self.come(cx).is_pending() {
            return (Poll::Pending, Duration::ZERO);
        }
        // Not when it had to stop: who has just come may be next on this thread, and goes first.
        if std::mem::take(&mut self.computes) && self.services.askers.anybody() {
            let_others_go_first();
        }
        let Self { relay, waker, .. } = self;
        relay.begin(cx.waker());
        let begun = Instant::now();
        let polled = execute(&mut Context::from_waker(waker));
        let spent = begun.elapsed();
        let could_go_on = relay.end() && polled.is_pending();
        // Also one that waits for the host, as who floods always does.
        let could_go_on = !self.is_paced(cx) && could_go_on;
        let turn = &mut self.turn;
        let next = if could_go_on { turn.tick(spent, cx.waker()) } else { turn.give_back(spent) };
        if let Some(next) = next {
            wake_next(&next);
        }
        if could_go_on {
            self.computes = true;
            self.services.engine.ticker().computes();
        }
        (polled, spent)
    }

    /// How long the guest would have to wait now, had it gone on: it has written too fast, and is at its end. None is the rule.
    pub const fn owed(&mut self) -> Option<Pin<Box<Sleep>>> {
        self.paced.take()
    }

    /// Holds what was written against the pace, and has the run wait if that was too fast.
    fn is_paced(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(bytes) = self.ctx.written().take(WRITTEN_HELD_BYTES) else { return false };
        let pace = self.services.writing.of(&self.ctx.spec().user);
        pace.set(self.ctx.live_quota().get(|quota| quota.written_bytes_per_second));
        let Some(wait) = pace.took(bytes) else { return false };
        // The run's time is for what it does, and not for what others have the disk for.
        self.ctx.written().waits_beside_others(wait.beside_others);
        let mut paced = Box::pin(sleep_until(wait.until));
        if paced.as_mut().poll(cx).is_ready() {
            return false;
        }
        self.paced = Some(paced);
        true
    }
}

/// The guest does not execute, and nobody has woken it since.
const IDLE: u8 = 0;
/// The guest executes.
const EXECUTING: u8 = 1;
/// The guest was woken.
const WOKEN: u8 = 2;

/// The waker that a guest's work is given. It tells a guest that yields, at a tick or after so much fuel, from one that
/// waits: who yields wakes itself before it gives way. Such a wake is not passed on, because the turns decide when the guest
/// goes on.
struct Relay {
    state: AtomicU8,
    task: Mutex<Waker>,
}

impl Relay {
    fn begin(&self, task: &Waker) {
        self.task.lock().unwrap_or_else(PoisonError::into_inner).clone_from(task);
        self.state.store(EXECUTING, Ordering::Release);
    }

    /// Whether the guest was woken while it executed. A later wake is passed on.
    fn end(&self) -> bool {
        self.state.swap(IDLE, Ordering::AcqRel) == WOKEN
    }
}

impl Wake for Relay {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.swap(WOKEN, Ordering::AcqRel) == IDLE {
            let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).clone();
            task.wake();
        }
    }
}
