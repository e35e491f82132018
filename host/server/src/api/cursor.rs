//! The cursors of a user's feed and list of runs, as clients hold them: a place, and a check that it is this user's.
//!
//! Clients take it as it is. The check is no secret: what a cursor opens is decided by who asks, and another user's
//! would only name a place that means something else here. It turns a mistake that would go unseen into an error.

use super::{Api, problem::Problem};
use cofferdam_core::{
    identity::Scope,
    ids::{Digest, RunId},
    storage::{FeedEntry, FeedPlace},
};

/// The cursor that stands for what has not happened yet.
const NOW: &str = "now";

/// How many hexadecimal digits the check has.
const CHECK_DIGITS: usize = 8;

fn check(scope: &Scope, place: &str) -> String {
    let mut digits = Digest::of(format!("{} {place}", scope.user()).as_bytes()).hex();
    digits.truncate(CHECK_DIGITS);
    digits
}

/// A place as its cursor.
pub(super) fn of(scope: &Scope, place: FeedPlace) -> String {
    let place = format!("{}.{}", place.position, place.seq);
    format!("{place}.{}", check(scope, &place))
}

/// The place in the user's list of runs that is behind a run. It means the same when the run is not there any more.
pub(super) fn of_run(scope: &Scope, run: RunId) -> String {
    format!("{run}.{}", check(scope, &run.to_string()))
}

/// The run behind which a page of runs begins, if a page of this user's said so.
pub(super) fn parse_run(scope: &Scope, text: &str) -> Option<RunId> {
    let run = text.split_once('.')?.0.parse().ok()?;
    (of_run(scope, run) == text).then_some(run)
}

/// The place that a cursor names, if it is this user's.
fn parse(scope: &Scope, text: &str) -> Option<FeedPlace> {
    let mut parts = text.split('.');
    let (position, seq) = (parts.next()?, parts.next()?);
    let place = FeedPlace { position: position.parse().ok()?, seq: seq.parse().ok()? };
    // Comparing it with the cursor as we write it leaves one spelling.
    (of(scope, place) == text).then_some(place)
}

/// How far somebody has read their feed, to see where something is missing of it: a run that is removed takes its events
/// along, whether or not everybody has read them.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReadTo {
    /// The last commit of which something was read; none if nothing was, so that nothing can be missing either.
    position: Option<u64>,
    /// It was read to its last event.
    whole: bool,
}

impl ReadTo {
    /// Whether something was removed between what was read and this.
    pub fn misses_before(self, entry: &FeedEntry) -> bool {
        let next = entry.place.position;
        self.position.is_some_and(|read| next > read.saturating_add(1) || (next != read && !self.whole))
    }

    /// The place before an entry: whoever goes on there is not told again of what is missing.
    pub fn before(entry: &FeedEntry) -> FeedPlace {
        FeedPlace { position: entry.place.position.saturating_sub(1), seq: 0 }
    }

    /// Of somebody who has all up to this place.
    pub fn place(place: FeedPlace) -> Self {
        // Of a commit that is gone nobody knows where it ended. Most who come with a cursor had read it all.
        Self { position: Some(place.position), whole: true }
    }

    pub fn entry(entry: &FeedEntry) -> Self {
        Self { position: Some(entry.place.position), whole: entry.ends_commit }
    }
}

/// Where somebody begins to read their feed: after a cursor, with what comes from now on, or with the first event there is.
pub(super) async fn start(
    api: &Api,
    scope: &Scope,
    cursor: Option<&str>,
    field: &'static str,
) -> Result<(FeedPlace, ReadTo), Problem> {
    let Some(text) = cursor else {
        return Ok((FeedPlace::default(), ReadTo { position: None, whole: true }));
    };
    let end = api.runtime.storage().feed_end(scope).await?;
    if text == NOW {
        return Ok((end, ReadTo::place(end)));
    }
    let place = parse(scope, text)
        .ok_or_else(|| Problem::invalid_cursor(field, "a cursor that this API gave you, as it was, or `now`"))?;
    if place > end { Err(Problem::cursor_ahead(field)) } else { Ok((place, ReadTo::place(place))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cofferdam_core::identity::Operator;

    #[test]
    fn a_place_in_the_list_of_runs_is_its_users_only() {
        let scope = |user: &str| Operator::host().on_behalf_of(&user.parse().expect("a user"));
        let (ann, bob, run) = (scope("ann"), scope("bob"), RunId::generate());
        let text = of_run(&ann, run);
        assert_eq!(parse_run(&ann, &text), Some(run));
        assert_eq!(parse_run(&bob, &text), None);
        for other in [run.to_string(), format!("{text}.1"), format!("{run}."), text.to_uppercase(), String::new()] {
            assert_eq!(parse_run(&ann, &other), None, "{other}");
        }
    }

    #[test]
    fn what_is_missing_shows_in_the_numbers_of_commits() {
        let entry = |position, ends_commit| {
            let run_id = RunId::generate();
            let event = cofferdam_core::event::Event::AgentThinking { text: String::new() };
            let envelope = cofferdam_core::event::Envelope { seq: 3, run_id, at: jiff::Timestamp::UNIX_EPOCH, event };
            FeedEntry { place: FeedPlace { position, seq: 3 }, ends_commit, envelope }
        };
        let nothing = ReadTo { position: None, whole: true };
        for (read, next, misses) in [
            (nothing, 9, false),
            (ReadTo::place(FeedPlace::default()), 1, false),
            (ReadTo::place(FeedPlace::default()), 2, true),
            (ReadTo::entry(&entry(4, true)), 5, false),
            (ReadTo::entry(&entry(4, true)), 6, true),
            (ReadTo::entry(&entry(4, false)), 4, false),
            (ReadTo::entry(&entry(4, false)), 5, true),
            (ReadTo::place(ReadTo::before(&entry(6, false))), 6, false),
            (ReadTo::place(FeedPlace { position: u64::MAX, seq: 1 }), u64::MAX, false),
        ] {
            assert_eq!(read.misses_before(&entry(next, true)), misses, "{read:?}, then {next}");
        }
    }

    #[test]
    fn a_cursor_reads_back_as_its_place_and_is_its_users_only() {
        let scope = |user: &str| Operator::host().on_behalf_of(&user.parse().expect("a user"));
        let (ann, bob) = (scope("ann"), scope("bob"));
        for place in
            [FeedPlace::default(), FeedPlace { position: 7, seq: 12 }, FeedPlace { position: u64::MAX, seq: 1 }]
        {
            let text = of(&ann, place);
            assert_eq!(parse(&ann, &text), Some(place), "{text}");
            assert_eq!(parse(&bob, &text), None, "{text}");
            for other in [&format!("0{text}"), &format!("+{text}"), &format!("{text}.1"), &text.replace('.', "-")] {
                assert_eq!(parse(&ann, other), None, "{other}");
            }
        }
        for text in ["", "now", "1", "1.2", "1.2.3", "..", "7.12.", "-1.2.00000000", "é"] {
            assert_eq!(parse(&ann, text), None, "{text}");
        }
    }
}
