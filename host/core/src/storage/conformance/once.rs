//! What is to be created once is, and its record is kept with it.

use super::*;

pub(super) async fn check(storage: &dyn Storage) {
    a_run_is_made_once_for_a_key(storage).await;
    an_api_key_is_made_once_for_a_key(storage).await;
    keys_are_forgotten_in_time_and_bounded_per_user(storage).await;
    one_of_many_requests_at_once_makes_the_run(storage).await;
}

async fn a_run_is_made_once_for_a_key(storage: &dyn Storage) {
    let (ann, bob) = (scope("otto"), scope("olga"));
    let earlier = async |scope: &Scope, creating, key: &[u8]| {
        storage.earlier(scope, creating, Digest::of(key)).await.expect("reads")
    };
    assert_eq!(earlier(&ann, Creating::Run, b"kept").await, None);
    let (first, once) = (spec("otto"), once("kept", b"a body"));
    let made = Earlier { id: first.id.to_string(), body: Digest::of(b"a body") };
    assert_eq!(storage.insert_run(&ann, &first, Some(&once)).await.expect("inserts"), Creation::Made);
    assert_eq!(earlier(&ann, Creating::Run, b"kept").await, Some(made.clone()));
    // A write whose answer was lost is written again, and is no second request.
    assert_eq!(storage.insert_run(&ann, &first, Some(&once)).await.expect("inserts again"), Creation::Made);
    assert_run(storage, &ann, &RunView::queued(&first)).await;

    // Another request under the key makes nothing, whatever its body.
    for body in [&b"a body"[..], b"another body"] {
        let second = spec("otto");
        let stands = storage.insert_run(&ann, &second, Some(&self::once("kept", body))).await.expect("answers");
        assert_eq!(stands, Creation::Stands(made.clone()));
        assert_eq!(storage.run(&ann, second.id).await.expect("reads"), None, "the second was kept");
    }
    // Other keys, users and things to be made are apart from it.
    for (scope, creating, key) in
        [(&ann, Creating::Run, &b"other"[..]), (&bob, Creating::Run, b"kept"), (&ann, Creating::ApiKey, b"kept")]
    {
        assert_eq!(earlier(scope, creating, key).await, None);
    }
    let his = spec("olga");
    assert_eq!(storage.insert_run(&bob, &his, Some(&once)).await.expect("inserts"), Creation::Made);
    assert_eq!(earlier(&ann, Creating::Run, b"kept").await, Some(made.clone()));
    // It stands when the run has long ended.
    storage.finish(&ann, batch(first.id, []), completed("1")).await.expect("finishes");
    storage.finish(&bob, batch(his.id, []), completed("1")).await.expect("finishes");
    assert_eq!(earlier(&ann, Creating::Run, b"kept").await, Some(made));
}

async fn an_api_key_is_made_once_for_a_key(storage: &dyn Storage) {
    let (operator, caller) = (Operator::host(), scope("opal"));
    let key = |secret: &[u8]| ApiKey {
        id: KeyId::generate(),
        user: scope("kim").user().clone(),
        role: Role::User,
        secret_digest: Digest::of(secret),
        created_at: at(4),
    };
    let (first, second, once) = (key(b"made once"), key(b"not made"), once("a", b"kim"));
    let count = storage.keys_count(operator).await.expect("counts");
    let made = storage.insert_key(operator, &first, Some((&caller, &once))).await.expect("inserts");
    assert_eq!(made, Creation::Made);
    let stands = Earlier { id: first.id.to_string(), body: once.body };
    for _ in 0..2 {
        let again = storage.insert_key(operator, &second, Some((&caller, &once))).await.expect("answers");
        assert_eq!(again, Creation::Stands(stands.clone()));
    }
    assert_eq!(storage.earlier(&caller, Creating::ApiKey, once.key).await.expect("reads"), Some(stands));
    assert_eq!(storage.keys_count(operator).await.expect("counts"), count + 1);
    assert_eq!(storage.authenticate(second.secret_digest).await.expect("reads"), None, "the second was kept");
    assert!(storage.authenticate(first.secret_digest).await.expect("reads").is_some());
}

async fn keys_are_forgotten_in_time_and_bounded_per_user(storage: &dyn Storage) {
    let ann = scope("oleg");
    let past = Timestamp::now() - jiff::SignedDuration::from_secs(1);
    let make = async |key: &str, expires_at, user_keys_max| {
        let spec = spec("oleg");
        let once = Once { expires_at, user_keys_max, ..once(key, b"") };
        let creation = storage.insert_run(&ann, &spec, Some(&once)).await.expect("answers");
        let kept = storage.run(&ann, spec.id).await.expect("reads").is_some();
        assert_eq!(kept, creation == Creation::Made, "a run and the record of its key are kept both or neither");
        if kept {
            storage.finish(&ann, batch(spec.id, []), completed("1")).await.expect("finishes");
        }
        creation
    };
    let later = once("", b"").expires_at;
    // What has expired is forgotten: the key makes another run, and takes no room.
    for _ in 0..3 {
        assert_eq!(make("brief", past, 1).await, Creation::Made);
        assert_eq!(storage.earlier(&ann, Creating::Run, Digest::of(b"brief")).await.expect("reads"), None);
    }
    assert_eq!(make("a", later, 2).await, Creation::Made);
    let much_later = later + jiff::SignedDuration::from_secs(9);
    assert_eq!(make("b", much_later, 2).await, Creation::Made);
    assert_eq!(make("c", later, 2).await, Creation::Full(later), "the one who is refused learns when to come again");
    assert_eq!(make("c", later, 0).await, Creation::Full(later));
    assert!(matches!(make("a", later, 2).await, Creation::Stands(_)), "a full memory still remembers");
    assert_eq!(make("c", later, 3).await, Creation::Made);
    let bob = spec("olga");
    let once = Once { user_keys_max: 2, ..once("c", b"") };
    let made = storage.insert_run(&scope("olga"), &bob, Some(&once)).await.expect("answers");
    assert_eq!(made, Creation::Made, "another user has room of their own");
    storage.finish(&scope("olga"), batch(bob.id, []), completed("1")).await.expect("finishes");
}

async fn one_of_many_requests_at_once_makes_the_run(storage: &dyn Storage) {
    let ann = scope("odo");
    for round in 0..10 {
        let specs: [RunSpec; 4] = std::array::from_fn(|_| spec("odo"));
        let once = once(&format!("round {round}"), b"");
        let insert = |n: usize| storage.insert_run(&ann, &specs[n], Some(&once));
        let (a, b, c, d) = tokio::join!(insert(0), insert(1), insert(2), insert(3));
        let all = [a, b, c, d].map(|creation| creation.expect("answers"));
        let made: Vec<_> = all.iter().zip(&specs).filter(|(creation, _)| **creation == Creation::Made).collect();
        assert_eq!(made.len(), 1, "one of them is first: {all:?}");
        let (first, stands) = (made[0].1, Earlier { id: made[0].1.id.to_string(), body: once.body });
        assert_eq!(all.iter().filter(|creation| **creation == Creation::Stands(stands.clone())).count(), 3);
        let runs = storage.runs(&ann, &RunQuery { status: Some(RunStatus::Queued), ..query() }).await.expect("lists");
        assert_eq!(runs, [RunView::queued(first)]);
        storage.finish(&ann, batch(first.id, []), completed("1")).await.expect("finishes");
    }
    // The limit holds for those who come at once, too.
    let specs: [RunSpec; 3] = std::array::from_fn(|_| spec("odo"));
    let keys = ["x", "y", "z"].map(|key| Once { user_keys_max: 12, ..once(key, b"") });
    let insert = |n: usize| storage.insert_run(&ann, &specs[n], Some(&keys[n]));
    let (a, b, c) = tokio::join!(insert(0), insert(1), insert(2));
    let all = [a, b, c].map(|creation| creation.expect("answers"));
    assert_eq!(all.iter().filter(|creation| **creation == Creation::Made).count(), 2, "{all:?}");
    for (spec, creation) in specs.iter().zip(all) {
        if creation == Creation::Made {
            storage.finish(&ann, batch(spec.id, []), completed("1")).await.expect("finishes");
        }
    }
}

fn once(key: &str, body: &[u8]) -> Once {
    Once {
        key: Digest::of(key.as_bytes()),
        body: Digest::of(body),
        // Storage keeps microseconds.
        expires_at: Timestamp::from_microsecond(Timestamp::now().as_microsecond()).expect("a time")
            + jiff::SignedDuration::from_hours(1),
        user_keys_max: 1_000,
    }
}
