use super::*;
use crate::storage::sqlite::state::StateKey;

fn pending<T>() -> Pending<T> {
    Pending { outcome: None, reply: oneshot::channel().0 }
}

/// So many bytes, by which it is known.
fn write(bytes: usize) -> Write {
    Write { bytes, change: Change::Rows(Vec::new(), pending()), passed_over: 0 }
}

fn change_of_state(user: &str, bytes: usize) -> Write {
    let key = StateKey {
        user: user.parse().expect("a user"),
        plugin: "a".parse().expect("a name"),
        thread: String::new(),
        key: "k".into(),
    };
    Write { bytes, change: Change::DeleteState(DeleteState { key, by: None }, pending()), passed_over: 0 }
}

/// What is committed, one commit after the other, until nothing waits, with what comes meanwhile.
fn commits(mut waiting: VecDeque<Write>, mut comes: impl FnMut() -> Option<Write>) -> Vec<Vec<usize>> {
    let (mut commits, mut overdue_first) = (Vec::new(), true);
    while !waiting.is_empty() {
        let mut batch = Batch::default();
        overdue_first = !batch.fill(&mut waiting, overdue_first);
        commits.push(batch.writes.iter().map(|write| write.bytes).collect());
        waiting.extend(comes());
    }
    commits
}

const LARGE: usize = COMMIT_BYTES_MAX;

#[test]
fn what_is_small_goes_first_and_by_itself() {
    let waiting = [LARGE, 1, SMALL_BYTES_MAX + 1, 2].map(write).into();
    assert_eq!(commits(waiting, || None), [vec![1, 2], vec![LARGE], vec![SMALL_BYTES_MAX + 1]]);
}

#[test]
fn what_is_large_comes_to_its_turn_and_not_two_after_one_another_while_there_is_something_small() {
    let waiting = std::iter::repeat_with(|| write(LARGE)).take(20).chain([write(1)]).collect();
    let mut small = 0..400;
    let commits = commits(waiting, || small.next().map(|_| write(1)));
    let large: Vec<_> = (0..commits.len()).filter(|n| commits[*n].contains(&LARGE)).collect();
    assert_eq!(large.len(), 20);
    assert!(large[19] < 60, "they came together, and are overdue together: {large:?}");
    assert!(large.windows(2).all(|two| two[1] - two[0] >= 2), "{large:?}");
}

#[test]
fn changes_of_one_users_state_keep_their_order_whatever_their_size() {
    let waiting = [change_of_state("ann", LARGE), change_of_state("ann", 1), change_of_state("bob", 2)].into();
    assert_eq!(commits(waiting, || None), [vec![2], vec![LARGE], vec![1]]);
}

#[test]
fn a_piece_of_what_is_being_removed_has_a_commit_of_its_own_and_lets_others_go_first() {
    let rest = || Write::rest(pending());
    let waiting = [rest(), write(1), write(LARGE), write(2), rest()].into();
    assert_eq!(commits(waiting, || None), [vec![1, 2], vec![LARGE], vec![LARGE], vec![LARGE]]);
    let again = rest().answer(&Ok(true)).expect("there is a rest");
    assert!(matches!(again.change, Change::Remove(None, _)) && again.passed_over == 0);
    assert!(rest().answer(&Ok(false)).is_none(), "that was all");
    assert!(rest().answer(&Err(Arc::new(SqliteError::Closed))).is_none(), "whoever asked may ask again");
}
