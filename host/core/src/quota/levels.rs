//! Who may take how much: host → tier → user, of which each only narrows what the one above allows, and all of it can be
//! changed while runs execute.

use super::rows::{Quota, QuotaEdit, RowError};
use crate::ids::{InvalidId, TierName, UserId};
use serde::Serialize;
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;

/// The tier of whoever is in no other.
pub const TIER_DEFAULT: &str = "default";

/// How many tiers a host keeps. Protects its memory; each is a profile that people keep in their heads.
pub const TIERS_MAX: usize = 100;

/// How many users with a quota or a tier of their own a host keeps. Protects its memory, where each takes about 1 KiB.
pub const USER_QUOTAS_MAX: usize = 100_000;

/// How many users are remembered of whom nobody asks any more, before they are looked through.
const IDLE_USERS_MAX: usize = 1_024;

/// What an operator sends: limits by their names.
pub type Document = serde_json::Map<String, serde_json::Value>;

/// What an operator has said of one user.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct UserQuota {
    /// The user's tier; none is the default one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tier: Option<TierName>,
    /// What is less for this user than for their tier.
    #[serde(flatten)]
    pub edit: QuotaEdit,
}

impl UserQuota {
    /// What was stored, as far as this host knows it.
    #[must_use]
    pub fn stored(document: &Document) -> Self {
        let tier = document.get("tier").and_then(|tier| tier.as_str()?.parse().ok());
        Self { tier, edit: QuotaEdit::stored(document) }
    }
}

/// Why a document is not taken. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuotaError {
    /// A row is wrong.
    #[error(transparent)]
    Row(#[from] RowError),
    /// The tier's name is none.
    #[error("tier: {0}")]
    TierName(InvalidId),
    /// There is no such tier.
    #[error("there is no tier {asked:?}; the tiers are {known}")]
    UnknownTier {
        /// What was asked for.
        asked: String,
        /// Which there are.
        known: String,
    },
    /// There are as many as may be.
    #[error("this host has {max} {what} already, which is as many as it keeps; change one that is there")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        max: usize,
    },
}

/// A user's quota as it is now, and as it changes.
#[derive(Debug, Clone)]
pub struct LiveQuota {
    live: watch::Receiver<Arc<Quota>>,
    /// As it was when the receiver last took note of it. A run asks a dozen times, and no lock is needed where nothing has
    /// changed.
    noted: Arc<Quota>,
}

impl LiveQuota {
    /// One that nobody changes.
    #[must_use]
    pub fn fixed(quota: Quota) -> Self {
        Self::of(watch::channel(Arc::new(quota)).1)
    }

    fn of(mut live: watch::Receiver<Arc<Quota>>) -> Self {
        let noted = live.borrow_and_update().clone();
        Self { live, noted }
    }

    fn is_as_noted(&self) -> bool {
        self.live.has_changed().is_ok_and(|changed| !changed)
    }

    /// The quota now.
    #[must_use]
    pub fn now(&self) -> Arc<Quota> {
        if self.is_as_noted() { self.noted.clone() } else { self.live.borrow().clone() }
    }

    /// One figure of it now.
    pub fn get<T>(&self, figure: impl FnOnce(&Quota) -> T) -> T {
        if self.is_as_noted() { figure(&self.noted) } else { figure(&self.live.borrow()) }
    }

    /// Waits until it has changed, since this clone was made or waited last.
    pub async fn changed(&mut self) {
        if self.live.changed().await.is_err() {
            // Nobody changes it any more.
            std::future::pending::<()>().await;
        }
        self.noted.clone_from(&self.live.borrow_and_update());
    }
}

/// The quotas of all users of a host. What is kept here is also kept in storage; whoever edits writes there first.
#[derive(Debug)]
pub struct Quotas {
    /// What a tier has of what it does not set.
    base: Quota,
    ceiling: Quota,
    levels: Mutex<Levels>,
}

#[derive(Debug)]
struct Levels {
    tiers: BTreeMap<TierName, QuotaEdit>,
    users: HashMap<UserId, Box<UserQuota>>,
    /// Of those for whom somebody asks.
    live: HashMap<UserId, watch::Sender<Arc<Quota>>>,
    live_look_at: usize,
}

impl Levels {
    fn effective(&self, base: &Quota, user: &UserId) -> Quota {
        let own = self.users.get(user);
        let tier = own.and_then(|own| own.tier.as_ref());
        let tier = match tier {
            Some(tier) => self.tiers.get(tier),
            None => self.tiers.iter().find(|(name, _)| name.as_str() == TIER_DEFAULT).map(|(_, edit)| edit),
        };
        let quota = tier.map_or_else(|| base.clone(), |edit| base.with(edit));
        own.map_or_else(|| quota.clone(), |own| quota.narrowed(&own.edit))
    }

    fn publish(&self, base: &Quota, whom: impl Fn(&UserId) -> bool) {
        for (user, quota) in self.live.iter().filter(|(user, _)| whom(user)) {
            let new = self.effective(base, user);
            quota.send_if_modified(|now| {
                let changed = **now != new;
                if changed {
                    *now = Arc::new(new);
                }
                changed
            });
        }
    }
}

impl Quotas {
    /// With what a tier has of what it does not set, and with what was stored.
    #[must_use]
    pub fn new(
        base: Quota,
        tiers: impl IntoIterator<Item = (TierName, QuotaEdit)>,
        users: impl IntoIterator<Item = (UserId, UserQuota)>,
    ) -> Self {
        let levels = Levels {
            tiers: tiers.into_iter().collect(),
            users: users.into_iter().map(|(user, quota)| (user, Box::new(quota))).collect(),
            live: HashMap::new(),
            live_look_at: IDLE_USERS_MAX,
        };
        Self { base, ceiling: Quota::ceiling(), levels: Mutex::new(levels) }
    }

    /// The same for everybody.
    #[must_use]
    pub fn same(base: Quota) -> Self {
        Self::new(base, [], [])
    }

    fn levels(&self) -> MutexGuard<'_, Levels> {
        self.levels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A user's quota, as it is and as it changes.
    #[must_use]
    pub fn of(&self, user: &UserId) -> LiveQuota {
        let mut levels = self.levels();
        if let Some(quota) = levels.live.get(user) {
            return LiveQuota::of(quota.subscribe());
        }
        if levels.live.len() >= levels.live_look_at {
            levels.live.retain(|_, quota| quota.receiver_count() > 0);
            // Looking through them again at twice as many costs each user a fixed part of one look.
            levels.live_look_at = (levels.live.len() * 2).max(IDLE_USERS_MAX);
        }
        let (sender, quota) = watch::channel(Arc::new(levels.effective(&self.base, user)));
        levels.live.insert(user.clone(), sender);
        LiveQuota::of(quota)
    }

    /// A user's quota now.
    #[must_use]
    pub fn now(&self, user: &UserId) -> Arc<Quota> {
        let levels = self.levels();
        levels
            .live
            .get(user)
            .map_or_else(|| Arc::new(levels.effective(&self.base, user)), |quota| quota.borrow().clone())
    }

    /// What was said of a user; nothing if nothing was.
    #[must_use]
    pub fn of_user(&self, user: &UserId) -> UserQuota {
        self.levels().users.get(user).map(|quota| (**quota).clone()).unwrap_or_default()
    }

    /// What a tier sets, and what its users may take; none if there is no such tier. The default one is always there.
    #[must_use]
    pub fn of_tier(&self, tier: &TierName) -> Option<(QuotaEdit, Quota)> {
        let edit = self.levels().tiers.get(tier).cloned();
        let edit = edit.or_else(|| (tier.as_str() == TIER_DEFAULT).then(QuotaEdit::default))?;
        let quota = self.base.with(&edit);
        Some((edit, quota))
    }

    /// The names of all tiers.
    #[must_use]
    pub fn tiers(&self) -> Vec<String> {
        let levels = self.levels();
        let mut names: Vec<_> = levels.tiers.keys().map(|name| name.as_str().to_owned()).collect();
        if !names.iter().any(|name| name == TIER_DEFAULT) {
            names.insert(0, TIER_DEFAULT.to_owned());
        }
        names
    }

    /// Reads a tier's document, and checks that it is within what a host can have.
    ///
    /// # Errors
    /// When it is not, or there is no room for another tier.
    pub fn read_tier(&self, tier: &TierName, document: &Document) -> Result<QuotaEdit, QuotaError> {
        let levels = self.levels();
        if !levels.tiers.contains_key(tier) && levels.tiers.len() >= TIERS_MAX {
            return Err(QuotaError::TooMany { what: "tiers", max: TIERS_MAX });
        }
        drop(levels);
        let mut edit = QuotaEdit::default();
        for (name, value) in document.iter().filter(|(name, _)| !READ_ONLY.contains(&name.as_str())) {
            edit.take(name, value, &self.ceiling, None)?;
        }
        Ok(edit)
    }

    /// Reads a user's document, and checks that it is within what their tier has.
    ///
    /// # Errors
    /// When it is not, or there is no room for another user's.
    pub fn read_user(&self, user: &UserId, document: &Document) -> Result<UserQuota, QuotaError> {
        let mut quota = UserQuota::default();
        match document.get("tier") {
            None | Some(serde_json::Value::Null) => {}
            Some(tier) => {
                let name = tier.as_str().unwrap_or_default().parse::<TierName>().map_err(QuotaError::TierName)?;
                quota.tier = Some(name).filter(|name| name.as_str() != TIER_DEFAULT);
            }
        }
        let tier: TierName = match &quota.tier {
            Some(tier) => tier.clone(),
            None => TIER_DEFAULT.parse().map_err(QuotaError::TierName)?,
        };
        let Some((_, above)) = self.of_tier(&tier) else {
            return Err(QuotaError::UnknownTier { asked: tier.to_string(), known: self.tiers().join(", ") });
        };
        let whose = format!("tier {:?}", tier.as_str());
        for (name, value) in document.iter().filter(|(name, _)| !READ_ONLY.contains(&name.as_str()) && *name != "tier")
        {
            quota.edit.take(name, value, &above, Some(&whose))?;
        }
        let levels = self.levels();
        if quota != UserQuota::default() && !levels.users.contains_key(user) && levels.users.len() >= USER_QUOTAS_MAX {
            return Err(QuotaError::TooMany { what: "users with a quota of their own", max: USER_QUOTAS_MAX });
        }
        Ok(quota)
    }

    /// Makes a tier what it was read as: for its users' next runs, and for those that execute.
    pub fn put_tier(&self, tier: TierName, edit: QuotaEdit) {
        let mut levels = self.levels();
        levels.tiers.insert(tier, edit);
        levels.publish(&self.base, |_| true);
    }

    /// Makes a user's quota what it was read as: for the next runs, and for those that execute.
    pub fn put_user(&self, user: &UserId, quota: UserQuota) {
        let mut levels = self.levels();
        if quota == UserQuota::default() {
            levels.users.remove(user);
        } else {
            levels.users.insert(user.clone(), Box::new(quota));
        }
        levels.publish(&self.base, |whom| whom == user);
    }
}

/// What a document tells besides what is set in it: whoever sends it back means no harm.
const READ_ONLY: [&str; 3] = ["user", "name", "effective"];

impl Quota {
    /// The most that any tier can have.
    #[must_use]
    pub fn ceiling() -> Self {
        let document = Self::ROWS.iter().map(|row| (row.name.to_owned(), row.ceiling.into())).collect();
        Self::default().with(&QuotaEdit::stored(&document))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn user(name: &str) -> UserId {
        name.parse().expect("a user id")
    }

    fn tier(name: &str) -> TierName {
        name.parse().expect("a tier")
    }

    fn json(text: &str) -> Document {
        serde_json::from_str(text).expect("a JSON object")
    }

    #[test]
    fn a_user_has_what_their_tier_has_and_less_where_that_is_said() {
        let quotas = Quotas::same(Quota::default());
        let ann = user("ann");
        let live = quotas.of(&ann);
        let pro = quotas.read_tier(&tier("pro"), &json(r#"{"runs_at_once": 20, "cpu_weight": 300}"#)).expect("a tier");
        quotas.put_tier(tier("pro"), pro);
        assert_eq!(live.get(|quota| quota.runs_at_once), 5, "ann is in no tier");
        let anns = quotas.read_user(&ann, &json(r#"{"tier": "pro", "runs_at_once": 10}"#)).expect("a quota");
        quotas.put_user(&ann, anns);
        assert_eq!(live.get(|quota| (quota.runs_at_once, quota.cpu_weight)), (10, 300));
        // The tier is cut below what ann has, and ann with it.
        let cut = quotas.read_tier(&tier("pro"), &json(r#"{"runs_at_once": 2}"#)).expect("a tier");
        quotas.put_tier(tier("pro"), cut);
        assert_eq!(live.get(|quota| (quota.runs_at_once, quota.cpu_weight)), (2, 100));
        quotas.put_user(&ann, UserQuota::default());
        assert_eq!(*live.now(), Quota::default());
        assert_eq!(*quotas.now(&user("bob")), Quota::default());
    }

    #[test]
    fn what_is_above_the_tier_or_the_host_is_refused_in_words() {
        let quotas = Quotas::same(Quota::default());
        let told = |text| quotas.read_user(&user("ann"), &json(text)).expect_err("refused").to_string();
        let above = told(r#"{"runs_at_once": 6}"#);
        assert_eq!(above, "runs_at_once is 6, but must be from 1 to 5, which is what tier \"default\" allows");
        assert!(told(r#"{"tier": "gold"}"#).contains("the tiers are default"));
        assert!(told(r#"{"tier": 5}"#).contains("tier: "));
        assert!(told(r#"{"runs_at_once": 0}"#).contains("from 1 to 5"));
        let over = quotas.read_tier(&tier("pro"), &json(r#"{"runs_at_once": 2000}"#)).expect_err("refused");
        assert_eq!(over.to_string(), "runs_at_once is 2000, but must be from 1 to 1024");
    }

    #[test]
    fn what_was_read_can_be_sent_back() {
        let quotas = Quotas::same(Quota::default());
        let sent = r#"{"user": "ann", "runs_at_once": 2, "effective": {"runs_at_once": 2}}"#;
        let read = quotas.read_user(&user("ann"), &json(sent)).expect("a quota");
        assert_eq!(serde_json::to_string(&read).expect("JSON"), r#"{"runs_at_once":2}"#);
    }

    #[test]
    fn users_of_whom_nobody_asks_are_forgotten() {
        let quotas = Quotas::same(Quota::default());
        let kept: Vec<_> = (0..10).map(|n| quotas.of(&user(&format!("kept{n}")))).collect();
        for n in 0..10 * IDLE_USERS_MAX {
            drop(quotas.of(&user(&format!("u{n}"))));
        }
        assert!(quotas.levels().live.len() <= 2 * IDLE_USERS_MAX + kept.len());
        quotas.put_user(
            &user("kept3"),
            UserQuota { edit: QuotaEdit { runs_at_once: Some(1), ..QuotaEdit::default() }, ..UserQuota::default() },
        );
        assert_eq!(kept.get(3).map(|quota| quota.get(|quota| quota.runs_at_once)), Some(1));
    }

    proptest! {
        #[test]
        fn each_level_only_narrows(tier_has in 1_u32..2_000, user_has in 1_u32..2_000) {
            let quotas = Quotas::same(Quota::default());
            let of_tier = quotas.read_tier(&tier("t"), &json(&format!(r#"{{"runs_at_once": {tier_has}}}"#)));
            prop_assert_eq!(of_tier.is_ok(), tier_has <= 1_024);
            if let Ok(edit) = of_tier {
                quotas.put_tier(tier("t"), edit);
                let of_user = format!(r#"{{"tier": "t", "runs_at_once": {user_has}}}"#);
                let of_user = quotas.read_user(&user("ann"), &json(&of_user));
                prop_assert_eq!(of_user.is_ok(), user_has <= tier_has);
                if let Ok(of_user) = of_user {
                    quotas.put_user(&user("ann"), of_user);
                }
                prop_assert!(quotas.now(&user("ann")).runs_at_once <= tier_has.max(5));
            }
        }
    }
}
