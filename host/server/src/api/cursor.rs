//! The cursor of a user's feed, as clients hold it: a place, and a check that it is this user's.
//!
//! Clients take it as it is. The check is no secret: what a cursor opens is decided by who asks, and another user's
//! would only name a place that means something else here. It turns a mistake that would go unseen into an error.

use super::{Api, problem::Problem};
use cofferdam_core::{identity::Scope, ids::Digest, storage::FeedPlace};

/// The cursor that stands for what has not happened yet.
const NOW: &str = "now";

/// How many hexadecimal digits the check has.
const CHECK_DIGITS: usize = 8;

fn check(scope: &Scope, place: FeedPlace) -> String {
    let mut digits = Digest::of(format!("{} {}.{}", scope.user(), place.position, place.seq).as_bytes()).hex();
    digits.truncate(CHECK_DIGITS);
    digits
}

/// A place as its cursor.
pub(super) fn of(scope: &Scope, place: FeedPlace) -> String {
    format!("{}.{}.{}", place.position, place.seq, check(scope, place))
}

/// The place that a cursor names, if it is this user's.
fn parse(scope: &Scope, text: &str) -> Option<FeedPlace> {
    let mut parts = text.split('.');
    let (position, seq) = (parts.next()?, parts.next()?);
    let place = FeedPlace { position: position.parse().ok()?, seq: seq.parse().ok()? };
    // Comparing it with the cursor as we write it leaves one spelling.
    (of(scope, place) == text).then_some(place)
}

/// Where somebody begins to read their feed: after a cursor, with what comes from now on, or with the first event.
pub(super) async fn start(
    api: &Api,
    scope: &Scope,
    cursor: Option<&str>,
    field: &'static str,
) -> Result<FeedPlace, Problem> {
    let Some(text) = cursor else { return Ok(FeedPlace::default()) };
    let end = api.runtime.storage().feed_end(scope).await?;
    if text == NOW {
        return Ok(end);
    }
    let place = parse(scope, text)
        .ok_or_else(|| Problem::invalid_cursor(field, "a cursor that this API gave you, as it was, or `now`"))?;
    if place > end { Err(Problem::cursor_ahead(field)) } else { Ok(place) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cofferdam_core::identity::Operator;

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
