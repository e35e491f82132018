//! Who comes first: the end of a run, or a request to stop it.
//!
//! Such a request is made durable before its run is stopped, and meanwhile the run may come to its end by itself. Without an
//! order between the two, a run could end as completed of which somebody had been told that it is cancelled.

use std::sync::atomic::{AtomicU32, Ordering};
use tokio::sync::Notify;

/// The order of one run.
#[derive(Debug, Default)]
pub(crate) struct Order {
    /// How many requests are being made durable, each of which is one of its user's requests under way; and [`ENDING`].
    standing: AtomicU32,
    /// The end has begun, and nobody asks any more.
    settled: Notify,
}

/// The run has begun to end.
const ENDING: u32 = 1 << 31;

impl Order {
    /// Takes note of a request that is being made durable, until it is [`asked`](Self::asked), unless the end has begun.
    pub(crate) fn ask(&self) -> bool {
        let in_time = |now: u32| (now & ENDING == 0).then_some(now + 1);
        self.standing.fetch_update(Ordering::AcqRel, Ordering::Acquire, in_time).is_ok()
    }

    pub(crate) fn asked(&self) {
        if self.standing.fetch_sub(1, Ordering::AcqRel) == ENDING | 1 {
            self.settled.notify_waiters();
        }
    }

    /// Begins the end, and waits for those who ask.
    pub(crate) async fn end(&self) {
        self.standing.fetch_or(ENDING, Ordering::AcqRel);
        loop {
            // Before the look, so that whoever is done after it is heard.
            let settled = self.settled.notified();
            if self.standing.load(Ordering::Acquire) == ENDING {
                return;
            }
            settled.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        pin::pin,
        task::{Context, Poll, Waker},
    };

    #[test]
    fn an_end_waits_for_those_who_ask_and_is_too_late_for_those_who_come_after() {
        let order = Order::default();
        assert!(order.ask() && order.ask(), "in time");
        let mut end = pin!(order.end());
        let mut look = || end.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert_eq!(look(), Poll::Pending);
        assert!(!order.ask(), "the end has begun");
        order.asked();
        assert_eq!(look(), Poll::Pending);
        order.asked();
        assert_eq!(look(), Poll::Ready(()));
        assert!(!order.ask(), "and stays begun");
    }
}
