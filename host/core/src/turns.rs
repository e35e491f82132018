//! Whose guest runs next: turns on the processors, shared between users by their weights and by the time that their guests
//! actually spent.
//!
//! There are as many [`Turns`] as processors. A guest runs while its [`Turn`] is taken, gives it back while it waits for
//! the host, and asks at every tick whether it may go on. Each user has a virtual time: what the user's guests have spent,
//! divided by the user's weight. The next turn is for the user with the least of it, and of that user's guests for the one
//! with the highest priority that has waited longest. So a user with a hundred guests gets no more than one with a single
//! guest, and who has just come is next.
//!
//! Nobody saves up: a user that comes back starts where the others are now. What a user has overspent stays spent. A guest
//! of low priority may wait for as long as guests of the same user with a higher one want to run: that is what the user
//! asked for, and it is at nobody else's cost.

use crate::{ids::UserId, run::Priority};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
    time::{Duration, Instant},
};

/// The weight of a user of whom nothing else is said. One of twice the weight gets twice the time, where both want it.
pub const WEIGHT_DEFAULT: u32 = 100;

/// Users without a guest that are remembered, with what they owe. Beyond, those that owe nothing are forgotten, and if that
/// is not enough, all: what one owes is no more than a few ticks, and so many together would be memory for nothing.
const USERS_REMEMBERED_MAX: usize = 10_000;

/// Turns over which the waiting is judged: enough for a percentile, and few enough to be the recent ones.
const WAITS_REMEMBERED: usize = 1_024;

/// The turns of a host.
#[derive(Debug)]
pub struct Turns(Mutex<State>);

/// How the turns stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TurnsNow {
    /// Guests that have a turn.
    pub running: u32,
    /// Guests that wait for one.
    pub waiting: u32,
    /// Users that these guests are of: so many are before who comes now.
    pub users_waiting: u32,
    /// How long the last turns were waited for: 99 of 100 no longer than this. Those that were free count as well. Zero
    /// where nobody runs or waits.
    pub wait_p99: Duration,
}

/// The turn of one guest: it has it, waits for it, or waits for something else. Dropping it gives back whatever it is.
#[derive(Debug)]
pub struct Turn {
    turns: Arc<Turns>,
    account: usize,
    priority: Priority,
    place: Place,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    /// It does not want to run.
    Away,
    /// It stands in the queue under this number, or was granted its turn while nobody looked: then it stands there no more.
    Waiting(u64),
    Running,
}

/// Nanoseconds of a processor at [`WEIGHT_DEFAULT`]. In 64 bits, a user of weight 1 could reach the end on a large machine
/// within weeks.
type VirtualTime = u128;

#[derive(Debug)]
struct State {
    turns_max: u32,
    running: u32,
    waiting: u32,
    /// Where the users stand that are served: the latest virtual time at which a turn was given.
    now: VirtualTime,
    /// The latest that any user has reached.
    latest: VirtualTime,
    /// Numbers who comes to wait, so that those who are equal otherwise are served in that order.
    arrivals: u64,
    /// Where each user's account is.
    users: HashMap<UserId, usize>,
    accounts: Vec<Option<Account>>,
    accounts_free: Vec<usize>,
    /// Users that have no guest.
    remembered: usize,
    /// The users with guests that wait, who is next first. One entry for each, kept by its account.
    queue: BTreeSet<(VirtualTime, u64, usize)>,
    waits: Waits,
}

#[derive(Debug)]
struct Account {
    user: UserId,
    weight: u32,
    virtual_time: VirtualTime,
    /// Guests, whatever they do.
    guests: u32,
    /// Guests that wait: the highest priority first, then who came first. No more than the host has sandboxes.
    waiting: BTreeMap<(Priority, u64), Waiting>,
    /// Its entry in the queue.
    queued: Option<(VirtualTime, u64)>,
}

#[derive(Debug)]
struct Waiting {
    waker: Waker,
    since: Instant,
}

/// How long the last turns were waited for, in microseconds; the oldest is overwritten.
#[derive(Debug)]
struct Waits {
    last: Vec<u32>,
    next: usize,
}

impl Turns {
    /// So many turns, at least one: as many guests run at once.
    #[must_use]
    pub fn new(turns_max: u32) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            turns_max: turns_max.max(1),
            running: 0,
            waiting: 0,
            now: 0,
            latest: 0,
            arrivals: 0,
            users: HashMap::new(),
            accounts: Vec::new(),
            accounts_free: Vec::new(),
            remembered: 0,
            queue: BTreeSet::new(),
            waits: Waits { last: Vec::with_capacity(WAITS_REMEMBERED), next: 0 },
        })))
    }

    /// For a guest of the user's, which does not run yet. The weight is the user's from here on, for all of its guests; 0
    /// counts as 1.
    #[must_use]
    pub fn enter(self: &Arc<Self>, user: &UserId, weight: u32, priority: Priority) -> Turn {
        let account = self.state().enter(user, weight.max(1));
        Turn { turns: self.clone(), account, priority, place: Place::Away }
    }

    /// How the turns stand.
    #[must_use]
    pub fn now(&self) -> TurnsNow {
        let (running, waiting, users, mut waits) = {
            let state = self.state();
            let nobody = state.running == 0 && state.waiting == 0;
            let waits = if nobody { Vec::new() } else { state.waits.last.clone() };
            (state.running, state.waiting, state.queue.len(), waits)
        };
        let at = (waits.len() * 99).div_ceil(100).saturating_sub(1);
        let micros = if waits.is_empty() { 0 } else { *waits.select_nth_unstable(at).1 };
        let users_waiting = u32::try_from(users).unwrap_or(u32::MAX);
        TurnsNow { running, waiting, users_waiting, wait_p99: Duration::from_micros(micros.into()) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// Whether the next turn that comes free is for this guest's user. If so, those that run should be asked soon whether they
    /// may go on.
    #[must_use]
    pub fn is_next(&self) -> bool {
        let Place::Waiting(_) = self.place else { return false };
        self.turns.state().queue.first().is_some_and(|(_, _, account)| *account == self.account)
    }

    /// Whether it is this guest's turn; it has it from then on. If not, the waker is woken when it may be.
    pub fn poll(&mut self, waker: &Waker) -> Poll<()> {
        let has_it = match self.place {
            Place::Running => true,
            Place::Away => {
                let mut state = self.turns.state();
                state.catch_up(self.account);
                if state.running < state.turns_max {
                    state.take_free(self.account);
                    true
                } else {
                    let number = state.wait(self.account, self.priority, waker.clone());
                    self.place = Place::Waiting(number);
                    false
                }
            }
            Place::Waiting(number) => !self.turns.state().waits_still(self.account, (self.priority, number), waker),
        };
        if !has_it {
            return Poll::Pending;
        }
        self.place = Place::Running;
        Poll::Ready(())
    }

    /// The guest has run for so long, and could go on. Whoever's turn it is now is to be woken: its own waker is given back
    /// if that is this guest, and it still has its turn; otherwise it waits.
    #[must_use = "whose turn it is must be woken"]
    pub fn tick(&mut self, spent: Duration, waker: &Waker) -> Option<Waker> {
        let Place::Running = self.place else { return None };
        let mut state = self.turns.state();
        state.charge(self.account, spent);
        if state.queue.is_empty() {
            state.goes_on(self.account);
            return Some(waker.clone());
        }
        // It stands in the queue as all the others, and may be the first there.
        state.running = state.running.saturating_sub(1);
        let number = state.wait(self.account, self.priority, waker.clone());
        let next = state.grant();
        let key = (self.priority, number);
        self.place = if state.waits_still(self.account, key, waker) { Place::Waiting(number) } else { Place::Running };
        next
    }

    /// The guest has run for so long, and waits for something or is done: its turn is another's. That one is to be woken.
    #[must_use = "whose turn it is must be woken"]
    pub fn give_back(&mut self, spent: Duration) -> Option<Waker> {
        let Place::Running = std::mem::replace(&mut self.place, Place::Away) else { return None };
        let mut state = self.turns.state();
        state.charge(self.account, spent);
        state.give_back()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let next = {
            let mut state = self.turns.state();
            let next = match self.place {
                Place::Away => None,
                Place::Running => state.give_back(),
                Place::Waiting(number) if state.leave_queue(self.account, (self.priority, number)) => None,
                // It was granted while nobody looked, and somebody else has to get it.
                Place::Waiting(_) => state.give_back(),
            };
            state.leave(self.account);
            next
        };
        // After the lock is gone: a waker may do anything.
        if let Some(next) = next {
            next.wake();
        }
    }
}

impl State {
    fn account(&mut self, account: usize) -> Option<&mut Account> {
        self.accounts.get_mut(account)?.as_mut()
    }

    fn enter(&mut self, user: &UserId, weight: u32) -> usize {
        if let Some(&number) = self.users.get(user)
            && let Some(account) = self.account(number)
        {
            account.weight = weight;
            account.guests = account.guests.saturating_add(1);
            if account.guests == 1 {
                self.remembered = self.remembered.saturating_sub(1);
            }
            return number;
        }
        let account = Some(Account {
            user: user.clone(),
            weight,
            virtual_time: self.now,
            guests: 1,
            waiting: BTreeMap::new(),
            queued: None,
        });
        let number = self.accounts_free.pop().unwrap_or(self.accounts.len());
        match self.accounts.get_mut(number) {
            Some(place) => *place = account,
            None => self.accounts.push(account),
        }
        self.users.insert(user.clone(), number);
        number
    }

    fn leave(&mut self, number: usize) {
        let Some(account) = self.account(number) else { return };
        account.guests = account.guests.saturating_sub(1);
        if account.guests == 0 {
            self.remembered += 1;
        }
        if self.remembered > USERS_REMEMBERED_MAX {
            let now = self.now;
            self.forget(|account| account.virtual_time <= now);
            // So that this is not done again and again for a few.
            if self.remembered > USERS_REMEMBERED_MAX / 2 {
                self.forget(|_| true);
            }
        }
    }

    /// Forgets users without guests.
    fn forget(&mut self, which: impl Fn(&Account) -> bool) {
        for (number, place) in self.accounts.iter_mut().enumerate() {
            if let Some(account) = place.take_if(|account| account.guests == 0 && which(account)) {
                self.users.remove(&account.user);
                self.accounts_free.push(number);
                self.remembered = self.remembered.saturating_sub(1);
            }
        }
    }

    /// A user that comes back has not saved up.
    fn catch_up(&mut self, number: usize) {
        let now = self.now;
        if let Some(account) = self.account(number) {
            account.virtual_time = account.virtual_time.max(now);
        }
    }

    fn take_free(&mut self, number: usize) {
        self.running += 1;
        self.goes_on(number);
    }

    /// A guest of this user runs from here on, and nobody waits.
    fn goes_on(&mut self, number: usize) {
        let at = self.account(number).map_or(0, |account| account.virtual_time);
        self.now = self.now.max(at);
        self.waits.add(Duration::ZERO);
    }

    /// Adds a guest to the queue, and gives its number there.
    fn wait(&mut self, number: usize, priority: Priority, waker: Waker) -> u64 {
        self.arrivals += 1;
        let arrival = self.arrivals;
        let Some(account) = self.account(number) else { return arrival };
        account.waiting.insert((priority, arrival), Waiting { waker, since: Instant::now() });
        // A user that waits already keeps its place among those that are equal otherwise.
        let since = account.queued.map_or(arrival, |(_, since)| since);
        self.waiting += 1;
        self.requeue(number, since);
        arrival
    }

    /// Whether a guest stands in the queue. If so, this is the waker from here on.
    fn waits_still(&mut self, number: usize, key: (Priority, u64), waker: &Waker) -> bool {
        let waiting = self.account(number).and_then(|account| account.waiting.get_mut(&key));
        let Some(waiting) = waiting else { return false };
        waiting.waker.clone_from(waker);
        true
    }

    /// Takes a guest out of the queue. Says whether it stood there.
    fn leave_queue(&mut self, number: usize, key: (Priority, u64)) -> bool {
        let Some(account) = self.account(number) else { return false };
        if account.waiting.remove(&key).is_none() {
            return false;
        }
        let arrival = account.queued.map_or(0, |(_, arrival)| arrival);
        self.waiting = self.waiting.saturating_sub(1);
        self.requeue(number, arrival);
        true
    }

    /// Brings a user's entry in the queue in line with its account.
    fn requeue(&mut self, number: usize, arrival: u64) {
        let Some(account) = self.accounts.get_mut(number).and_then(Option::as_mut) else { return };
        let wanted = (!account.waiting.is_empty()).then_some((account.virtual_time, arrival));
        if let Some((at, since)) = std::mem::replace(&mut account.queued, wanted) {
            self.queue.remove(&(at, since, number));
        }
        if let Some((at, since)) = wanted {
            self.queue.insert((at, since, number));
        }
    }

    fn charge(&mut self, number: usize, spent: Duration) {
        let Some(account) = self.account(number) else { return };
        let nanos = u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX);
        let weighed = nanos.saturating_mul(WEIGHT_DEFAULT.into()) / u64::from(account.weight);
        account.virtual_time = account.virtual_time.saturating_add(weighed.into());
        let (reached, queued) = (account.virtual_time, account.queued);
        self.latest = self.latest.max(reached);
        if let Some((_, arrival)) = queued {
            self.requeue(number, arrival);
        }
    }

    /// A guest that had a turn has it no more.
    fn give_back(&mut self) -> Option<Waker> {
        self.running = self.running.saturating_sub(1);
        let next = self.grant();
        if self.running == 0 {
            // Nobody wants to run: what anybody owes was owed to nobody.
            self.now = self.latest;
        }
        next
    }

    /// Gives a free turn to the guest that is next.
    fn grant(&mut self) -> Option<Waker> {
        let (at, _, number) = self.queue.pop_first()?;
        let account = self.account(number)?;
        account.queued = None;
        let (_, next) = account.waiting.pop_first()?;
        self.running += 1;
        self.waiting = self.waiting.saturating_sub(1);
        self.now = self.now.max(at);
        self.waits.add(next.since.elapsed());
        // Behind those that are equal otherwise.
        self.arrivals += 1;
        self.requeue(number, self.arrivals);
        Some(next.waker)
    }
}

impl Waits {
    fn add(&mut self, wait: Duration) {
        let micros = u32::try_from(wait.as_micros()).unwrap_or(u32::MAX);
        match self.last.get_mut(self.next) {
            Some(oldest) => *oldest = micros,
            None => self.last.push(micros),
        }
        self.next = (self.next + 1) % WAITS_REMEMBERED;
    }
}

#[cfg(test)]
mod tests;
