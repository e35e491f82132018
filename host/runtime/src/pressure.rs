//! What the host does as guests' memory runs low: at the first mark it releases what lies idle and says so, at the second
//! runs wait to be admitted (which the admission does by itself).

use crate::services::Services;
use cofferdam_core::memory::{MARK_RELEASE, MARK_WAIT};
use std::{
    sync::{Arc, Weak},
    time::Duration,
};

/// How often it is looked. Guests can fill all there is within this, and are then refused growth: what is idle is theirs
/// soon after.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How much of the memory for guests is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MemoryMark {
    /// There is enough.
    Enough,
    /// Most of it: what lies idle is released.
    Release,
    /// Nearly all of it: runs wait.
    Wait,
}

impl Services {
    /// How much of the memory for guests is held now.
    #[must_use]
    pub fn memory_mark(&self) -> MemoryMark {
        if self.memory.is_past(MARK_WAIT) {
            MemoryMark::Wait
        } else if self.memory.is_past(MARK_RELEASE) {
            MemoryMark::Release
        } else {
            MemoryMark::Enough
        }
    }
}

/// Watches until the services are gone.
pub async fn watch(services: Weak<Services>) {
    let mut before = MemoryMark::Enough;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(services) = services.upgrade() else { return };
        let mark = services.memory_mark();
        if mark > MemoryMark::Enough {
            services.plugins.release_idle();
        }
        if mark != before {
            said(mark, &services);
            before = mark;
        }
    }
}

/// Once for each change.
fn said(mark: MemoryMark, services: &Arc<Services>) {
    let (bytes, bytes_max) = (services.memory.bytes(), services.memory.bytes_max());
    match mark {
        MemoryMark::Enough => tracing::info!(bytes, bytes_max, "guests hold less of their memory again"),
        MemoryMark::Release => {
            tracing::warn!(bytes, bytes_max, "guests hold {MARK_RELEASE} % of their memory: idle plugins are released");
        }
        MemoryMark::Wait => {
            tracing::warn!(bytes, bytes_max, "guests hold {MARK_WAIT} % of their memory: new runs wait");
        }
    }
}
