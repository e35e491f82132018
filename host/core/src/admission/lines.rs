//! The users whose runs execute, wait, or have left something to be remembered: found by name once, then by number.

use super::{Slot, Throttle, Want, fuel::FuelAccount};
use crate::{ids::UserId, memory::UserMemory, quota::LiveQuota, run::Priority};
use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::Arc,
    time::Instant,
};
use tokio::sync::oneshot;

/// Where a line is. It means the same one for as long as a run of its user executes or waits.
pub(super) type LineNumber = usize;

/// One user's runs.
#[derive(Debug)]
pub(super) struct Line {
    pub user: UserId,
    pub quota: LiveQuota,
    pub memory: Arc<UserMemory>,
    pub running: u32,
    /// Places taken, those that do not wait yet included.
    pub queued: u32,
    pub waiting: BTreeMap<(Priority, u64), Waiter>,
    pub at: At,
    /// What the user has had, in nanoseconds of a processor at the usual weight.
    pub had: u64,
    pub fuel: FuelAccount,
}

/// Where a user stands whose runs wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    Nowhere,
    Ready(u64),
    Short(Instant),
}

#[derive(Debug)]
pub(super) struct Waiter {
    pub want: Want,
    pub grant: oneshot::Sender<Slot>,
    pub throttle: Arc<Throttle>,
}

/// All lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    users: HashMap<UserId, LineNumber>,
    lines: Vec<Option<Line>>,
    free: Vec<LineNumber>,
}

impl Lines {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// The number of a user's.
    pub fn of(&self, user: &UserId) -> Option<LineNumber> {
        self.users.get(user).copied()
    }

    pub fn get(&self, number: LineNumber) -> Option<&Line> {
        self.lines.get(number)?.as_ref()
    }

    pub fn get_mut(&mut self, number: LineNumber) -> Option<&mut Line> {
        self.lines.get_mut(number)?.as_mut()
    }

    /// Every number that a line may have.
    pub fn numbers(&self) -> Range<LineNumber> {
        0..self.lines.len()
    }

    /// Adds the line of a user who has none.
    pub fn begin(&mut self, line: Line) -> LineNumber {
        let number = self.free.pop().unwrap_or(self.lines.len());
        self.users.insert(line.user.clone(), number);
        match self.lines.get_mut(number) {
            Some(place) => *place = Some(line),
            None => self.lines.push(Some(line)),
        }
        number
    }

    /// Keeps those of which this is true.
    pub fn retain(&mut self, mut keep: impl FnMut(&mut Line) -> bool) {
        for (number, place) in self.lines.iter_mut().enumerate() {
            if let Some(line) = place.take_if(|line| !keep(line)) {
                self.users.remove(&line.user);
                self.free.push(number);
            }
        }
    }
}
