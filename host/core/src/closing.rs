//! Who comes first: the end of a run, or a request to stop it.
//!
//! Such a request is made durable before its run is stopped, and meanwhile the run may come to its end by itself. Without an
//! order between the two, a run could end as completed of which somebody had been told that it is cancelled.

use tokio::sync::watch;

/// The order of one run. Clones are of the same run.
#[derive(Debug, Clone)]
pub(crate) struct Order(watch::Sender<Standing>);

#[derive(Debug, Clone, Copy, Default)]
struct Standing {
    /// Requests that are being made durable. Each is one of its user's requests under way.
    asking: u32,
    ending: bool,
}

/// A request to stop a run that is being made durable. The run does not end while this is there.
#[derive(Debug)]
pub struct Asking(Order);

impl Default for Order {
    fn default() -> Self {
        Self(watch::Sender::new(Standing::default()))
    }
}

impl Order {
    pub(crate) fn ask(&self) -> Option<Asking> {
        let in_time = self.0.send_if_modified(|now| {
            now.asking += u32::from(!now.ending);
            !now.ending
        });
        in_time.then(|| Asking(self.clone()))
    }

    pub(crate) async fn end(&self) {
        let mut now = self.0.subscribe();
        self.0.send_modify(|now| now.ending = true);
        // The sender is here.
        let _ = now.wait_for(|now| now.asking == 0).await;
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.0.send_modify(|now| now.asking = now.asking.saturating_sub(1));
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
        let (first, second) = (order.ask().expect("in time"), order.clone().ask().expect("in time"));
        let mut end = pin!(order.end());
        let mut look = || end.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert_eq!(look(), Poll::Pending);
        assert!(order.ask().is_none(), "the end has begun");
        drop(first);
        assert_eq!(look(), Poll::Pending);
        drop(second);
        assert_eq!(look(), Poll::Ready(()));
        assert!(order.ask().is_none(), "and stays begun");
    }
}
