//! Of the state of users.

use super::*;

pub(super) async fn state_is_set_under_conditions(storage: &dyn Storage) {
    let space = space("stan", "notes", None);
    assert_eq!(storage.state_get(&space, "kept").await.expect("reads"), None);
    assert!(!storage.state_delete(&space, "kept", None).await.expect("deletes"), "what is absent cannot be deleted");

    let conflict = |refused| match refused {
        Err(StateRefused::Conflict(version)) => version,
        other => panic!("a conflict, not {other:?}"),
    };
    let under =
        |expected, value: &[u8]| storage.state_set(&space, StateWrite { expected, ..state_write("kept", value) });
    assert_eq!(conflict(under(Expected::Version(1), b"no").await), None);
    assert_eq!(storage.state_get(&space, "kept").await.expect("reads"), None, "a refused write has written");

    let first = under(Expected::Absent, b"one").await.expect("sets");
    assert_state(storage, &space, "kept", b"one", first).await;
    assert_eq!(conflict(under(Expected::Absent, b"no").await), Some(first));
    for wrong in [0, first + 1, u64::MAX] {
        assert_eq!(conflict(under(Expected::Version(wrong), b"no").await), Some(first));
    }
    assert_state(storage, &space, "kept", b"one", first).await;
    let second = under(Expected::Version(first), b"two").await.expect("sets");
    let third = under(Expected::Any, b"\0\xff").await.expect("sets");
    assert!(first < second && second < third, "versions grow: {first}, {second}, {third}");
    assert_state(storage, &space, "kept", b"\0\xff", third).await;
    assert_eq!(conflict(under(Expected::Version(second), b"no").await), Some(third));

    assert!(storage.state_delete(&space, "kept", None).await.expect("deletes"), "what is there can be deleted");
    assert!(!storage.state_delete(&space, "kept", None).await.expect("deletes"), "but once only");
    assert_eq!(storage.state_get(&space, "kept").await.expect("reads"), None);
    let fourth = under(Expected::Absent, b"").await.expect("sets");
    assert!(third < fourth, "a key that comes again does not have an old version: {fourth} after {third}");
    assert_state(storage, &space, "kept", b"", fourth).await;
}

pub(super) async fn state_spaces_are_apart(storage: &dyn Storage) {
    let spaces = [
        space("stan", "notes", None),
        space("stan", "notes", Some("t1")),
        space("stan", "notes", Some("t2")),
        space("stan", "other", None),
        space("tess", "notes", None),
    ];
    for (own, n) in spaces.iter().zip(0_u8..) {
        for other in spaces.iter().skip(usize::from(n)) {
            assert_eq!(storage.state_get(other, "same").await.expect("reads"), None, "{own:?} reaches into {other:?}");
        }
        set(storage, own, "same", &[n]).await;
    }
    for (own, n) in spaces.iter().zip(0_u8..) {
        let entry = storage.state_get(own, "same").await.expect("reads").expect("is there");
        assert_eq!(entry.value, [n], "{own:?}");
        let keys = storage.state_keys(own, "same", None, 10).await.expect("lists");
        assert_eq!(keys, ["same"], "{own:?}");
        assert!(storage.state_delete(own, "same", None).await.expect("deletes"));
        assert_eq!(storage.state_get(own, "same").await.expect("reads"), None);
        for other in spaces.iter().skip(usize::from(n) + 1) {
            assert!(storage.state_get(other, "same").await.expect("reads").is_some(), "{own:?} reaches into {other:?}");
        }
    }
}

pub(super) async fn state_keys_are_listed_in_byte_order(storage: &dyn Storage) {
    let space = space("stan", "lists", None);
    let mut keys =
        ["", "A", "a", "a%", "a/1", "a/10", "a/2", "a\0b", "a_b", "ab", "b", "é", "\u{ffff}", "𝄞", "a/\u{10ffff}x"];
    for key in keys {
        set(storage, &space, key, b"1").await;
    }
    keys.sort_unstable();
    let prefixes = ["", "a", "a/", "a%", "a_", "a/1", "A", "b", "c", "é", "\u{10ffff}", "a\0"];
    let afters = [None, Some(""), Some("a"), Some("a/"), Some("a/1"), Some("a/2"), Some("b"), Some("zzz"), Some("𝄞")];
    for prefix in prefixes {
        for after in afters {
            for limit in [0, 1, 2, 15, 16, u32::MAX] {
                let expected =
                    keys.iter().filter(|key| key.starts_with(prefix) && after.is_none_or(|after| **key > after));
                let expected: Vec<_> = expected.take(limit as usize).collect();
                let found = storage.state_keys(&space, prefix, after, limit).await.expect("lists");
                assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{limit} with {prefix:?} after {after:?}");
            }
        }
    }
    for key in keys {
        assert!(storage.state_delete(&space, key, None).await.expect("deletes"));
    }
}

pub(super) async fn state_that_has_expired_is_absent(storage: &dyn Storage) {
    let space = space("stan", "notes", Some("t9"));
    let now = Timestamp::now();
    let (past, future) = (now - jiff::SignedDuration::from_secs(1), now + jiff::SignedDuration::from_hours(1));
    let until = |key: &str, expires_at, expected| {
        storage.state_set(&space, StateWrite { expires_at: Some(expires_at), expected, ..state_write(key, b"brief") })
    };
    let lasting = until("lasting", future, Expected::Any).await.expect("sets");
    let gone = until("gone", past, Expected::Any).await.expect("sets");
    assert_state(storage, &space, "lasting", b"brief", lasting).await;
    assert_eq!(storage.state_get(&space, "gone").await.expect("reads"), None);
    assert_eq!(storage.state_keys(&space, "", None, 9).await.expect("lists"), ["lasting"]);
    assert!(!storage.state_delete(&space, "gone", None).await.expect("deletes"), "what has expired cannot be deleted");

    let gone_again = until("gone", past, Expected::Absent).await.expect("what has expired is absent");
    assert!(gone < gone_again);
    let refused = until("gone", future, Expected::Version(gone_again)).await;
    assert!(matches!(refused, Err(StateRefused::Conflict(None))), "what has expired has no version: {refused:?}");
    let back = set(storage, &space, "gone", b"to stay").await;
    assert!(gone_again < back);
    assert_state(storage, &space, "gone", b"to stay", back).await;
    // A key that is set without an end has none, whatever it had before.
    let forever = set(storage, &space, "lasting", b"forever").await;
    assert_state(storage, &space, "lasting", b"forever", forever).await;
    for key in ["gone", "lasting"] {
        assert!(storage.state_delete(&space, key, None).await.expect("deletes"));
    }
}

pub(super) async fn state_is_bounded_by_its_users_quota(storage: &dyn Storage) {
    let (one, two, other) = (space("quinn", "one", None), space("quinn", "two", Some("t")), space("ralf", "one", None));
    // So many bytes of keys and values, and what so many keys take beside them.
    let limit = |bytes: u64, keys: u64| bytes + keys * STATE_KEY_OVERHEAD_BYTES;
    let within = |space, key, value: &[u8], user_bytes_max| {
        let write = StateWrite { user_bytes_max, ..state_write(key, value) };
        async move { storage.state_set(space, write).await }
    };
    let full = |refused: Result<u64, StateRefused>, max| match refused {
        Err(StateRefused::Full(told)) => assert_eq!(told, max, "the error tells the limit"),
        other => panic!("full, not {other:?}"),
    };
    full(within(&one, "key", b"1234567", limit(9, 1)).await, limit(9, 1));
    full(within(&one, "key", b"", 0).await, 0);
    full(within(&one, "k", b"", STATE_KEY_OVERHEAD_BYTES).await, STATE_KEY_OVERHEAD_BYTES);
    assert_eq!(storage.state_get(&one, "key").await.expect("reads"), None, "a refused write has written");
    within(&one, "key", b"1234567", limit(10, 1)).await.expect("keys and values count, to the last byte");
    // The other plugin, thread or none, counts too; the other user does not.
    full(within(&two, "k", b"", limit(10, 2)).await, limit(10, 2));
    within(&two, "k", b"12", limit(13, 2)).await.expect("fits");
    within(&other, "key", b"1234567", limit(10, 1)).await.expect("another user has a quota of their own");
    // What is replaced makes room for what replaces it, and not twice.
    full(within(&one, "key", b"12345678", limit(13, 2)).await, limit(13, 2));
    assert_eq!(
        storage.state_get(&one, "key").await.expect("reads").map(|entry| entry.value),
        Some(b"1234567".to_vec())
    );
    within(&one, "key", b"abcdefg", limit(13, 2)).await.expect("the same size fits");
    within(&one, "key", b"abc", limit(13, 2)).await.expect("less fits");
    within(&two, "more", b"", limit(13, 3)).await.expect("fits into what was freed");
    full(within(&two, "x", b"", limit(13, 4)).await, limit(13, 4));
    within(&two, "x", b"", limit(14, 4)).await.expect("fits");
    // A limit that was lowered below what is there stops what grows and what shrinks too little.
    full(within(&one, "key", b"ab", limit(5, 4)).await, limit(5, 4));
    for (space, key, freed) in [(&one, "key", 6), (&two, "k", 3), (&two, "more", 4), (&two, "x", 1)] {
        assert!(storage.state_delete(space, key, None).await.expect("deletes"), "{key:?} with {freed} bytes");
    }
    within(&one, "0123456789", b"", limit(10, 1)).await.expect("what was deleted is free");
    assert!(storage.state_delete(&one, "0123456789", None).await.expect("deletes"));

    // What has expired does not count, even before anybody has looked.
    let past = Timestamp::now() - jiff::SignedDuration::from_secs(1);
    for key in ["a", "b", "c"] {
        let write = StateWrite {
            expires_at: Some(past),
            by: None,
            user_bytes_max: limit(10, 1),
            ..state_write(key, b"12345678")
        };
        storage.state_set(&one, write).await.expect("what has expired does not count");
    }
    within(&two, "d", b"123456789", limit(10, 1)).await.expect("what has expired does not count");
    within(&two, "d", b"12345678", limit(10, 1)).await.expect("and is not subtracted twice");
    full(within(&one, "a", b"1", limit(10, 2)).await, limit(10, 2));
}

pub(super) async fn state_is_set_by_one_of_two(storage: &dyn Storage) {
    let space = space("tess", "locks", None);
    let mut version = None;
    for round in 0..20_u8 {
        let expected = version.map_or(Expected::Absent, Expected::Version);
        let grab = |who: u8| storage.state_set(&space, StateWrite { expected, ..state_write("lock", &[round, who]) });
        let (a, b) = tokio::join!(grab(0), grab(1));
        let (winner, who) = match (a, b) {
            (Ok(version), Err(StateRefused::Conflict(Some(seen)))) if version == seen => (version, 0),
            (Err(StateRefused::Conflict(Some(seen))), Ok(version)) if version == seen => (version, 1),
            both => panic!("one of two must win, and the other see its version: {both:?}"),
        };
        assert_state(storage, &space, "lock", &[round, who], winner).await;
        version = Some(winner);
    }
}
