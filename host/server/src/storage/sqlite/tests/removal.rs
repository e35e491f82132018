//! How runs are removed: small ones at once, large ones in pieces.

use super::*;

/// Of runs whose record is in chunks of 32 KiB, less than this many bytes go at a time: little more than an eighth of them counts.
const PIECE: i64 = 14 * (32 << 10);

/// A finished run with 200 events, a commit each 20, and a record of so many chunks of 32 KiB.
async fn large_run(storage: &SqliteStorage, scope: &Scope, chunks: u64) -> RunSpec {
    let spec = spec(scope.user().as_str(), 100);
    storage.insert_run(scope, &spec, None).await.expect("inserts");
    for n in 1..=10 {
        let mut batch = batch(spec.id, n * 20);
        batch.events.drain(..batch.events.len() - 20);
        storage.append(scope, batch).await.expect("appends");
    }
    for number in 1..=chunks {
        let chunks = vec![RecordChunk { number, bytes: vec![7; 32 << 10] }];
        storage.append(scope, RunBatch { chunks, ..batch(spec.id, 0) }).await.expect("appends");
    }
    storage.finish(scope, batch(spec.id, 0), end()).await.expect("finishes");
    spec
}

/// What is there of all runs: rows of runs, events, commits in feeds and chunks, and the bytes of events and chunks.
async fn left(connection: &mut SqliteConnection) -> (i64, i64, i64, i64, i64) {
    let left = "SELECT (SELECT count(*) FROM runs), (SELECT count(*) FROM events), (SELECT count(*) FROM feed),
            (SELECT count(*) FROM records),
            (SELECT coalesce(sum(octet_length(payload)), 0)
                FROM (SELECT payload FROM events UNION ALL SELECT payload FROM records))";
    sqlx::query_as(left).fetch_one(connection).await.expect("reads")
}

/// A run is nowhere to be found.
async fn is_gone(storage: &SqliteStorage, scope: &Scope, id: RunId) {
    assert_eq!(storage.run(scope, id).await.expect("reads"), None);
    assert_eq!(storage.run_spec(scope, id).await.expect("reads"), None);
    assert_eq!(storage.events(scope, id, 0, 9).await.expect("reads"), []);
    assert_eq!(storage.log_end(scope, id).await.expect("reads"), 0);
    assert_eq!(storage.record(scope, id, 0).await.expect("reads"), []);
    let listed = storage.runs(scope, &RunQuery { limit: 99, ..RunQuery::default() }).await.expect("lists");
    assert!(listed.iter().all(|run| run.id != id), "{listed:?}");
    let feed = storage.feed(scope, FeedPlace::default(), 999).await.expect("reads");
    assert!(feed.iter().all(|entry| entry.envelope.run_id != id), "{} entries", feed.len());
}

#[tokio::test]
async fn a_large_run_is_hidden_at_once_and_goes_in_pieces_and_its_children_may_go() {
    let place = place();
    let storage = open(&place).await;
    let ann = scope("ann");
    let parent = large_run(&storage, &ann, 64).await;
    let children = [(); 2].map(|()| RunSpec { parent: Some(parent.id), ..spec("ann", 0) });
    for child in &children {
        storage.insert_run(&ann, child, None).await.expect("inserts");
    }
    storage.finish(&ann, batch(children[0].id, 1), end()).await.expect("finishes");
    let end_of_feed = storage.feed_end(&ann).await.expect("reads");
    let mut connection = beside(&place).await;
    let may_go = "SELECT group_concat(id) FROM may_go JOIN runs ON number = run";
    let may_go = async |connection: &mut SqliteConnection| {
        sqlx::query_scalar::<_, String>(may_go).fetch_one(connection).await.expect("reads")
    };
    assert_eq!(may_go(&mut connection).await, parent.id.to_string());
    let before = left(&mut connection).await;

    // The commits that the writer makes, one at a time. With the first, nothing of it is shown or counted any more.
    let prune = "INSERT INTO writes (kind, user, v1, v2, v3) VALUES ('prune', 'ann', 0, 0, 8)";
    sqlx::query(prune).execute(&mut connection).await.expect("prunes");
    assert_eq!(left(&mut connection).await, before, "the first commit removes nothing");
    is_gone(&storage, &ann, parent.id).await;
    assert_eq!(storage.history(&ann).await.expect("reads").runs, 1);
    assert_eq!(may_go(&mut connection).await, children[0].id.to_string());
    storage.finish(&ann, batch(children[1].id, 1), end()).await.expect("finishes");
    assert_eq!(may_go(&mut connection).await, format!("{},{}", children[0].id, children[1].id));
    assert_eq!(storage.waits().children(&ann, parent.id).await.expect("lists"), children.map(|child| child.id));

    // A bounded piece with each.
    let (mut pieces, mut there) = (0, left(&mut connection).await);
    while there.0 == 3 {
        sqlx::query("INSERT INTO writes (kind) VALUES ('rest')").execute(&mut connection).await.expect("removes");
        let after = left(&mut connection).await;
        assert!((1..PIECE).contains(&(there.4 - after.4)), "{there:?}, {after:?}");
        (pieces, there) = (pieces + 1, after);
        is_gone(&storage, &ann, parent.id).await;
        assert!(storage.feed_end(&ann).await.expect("reads") >= end_of_feed, "a cursor from before is not ahead");
        assert_eq!(storage.feed(&ann, FeedPlace::default(), 999).await.expect("reads").len(), 2);
    }
    assert!((5..8).contains(&pieces), "{pieces} pieces for 2 MiB");
    assert_eq!((there.0, there.1, there.2, there.3), (2, 2, 2, 0));
    // With nothing to remove it removes nothing.
    sqlx::query("INSERT INTO writes (kind) VALUES ('rest')").execute(&mut connection).await.expect("removes");
    assert_eq!(left(&mut connection).await, there);
}

#[tokio::test]
async fn others_write_while_a_large_run_goes() {
    let place = place();
    let storage = open(&place).await;
    let (ann, bob, his) = (scope("ann"), scope("bob"), spec("bob", 0));
    let hers = large_run(&storage, &ann, 1024).await;
    storage.insert_run(&bob, &his, None).await.expect("inserts");
    let mut connection = beside(&place).await;
    let before = storage.commits();
    let mut prune = pin!(storage.prune(Operator::host(), ann.user(), NONE));
    let (mut commits, mut there) = (before, left(&mut connection).await.4);
    let (mut writes, mut while_it_goes) = (0, 0);
    loop {
        writes += 1;
        let mut says = batch(his.id, writes);
        says.events.drain(..says.events.len() - 1);
        let said = async {
            storage.append(&bob, says).await.expect("appends");
            (storage.commits(), left(&mut connection).await.4)
        };
        let (commits_before, now) = tokio::select! {
            biased;
            pruned = &mut prune => break pruned.expect("prunes"),
            said = said => said,
        };
        // No commit was larger than a piece. The last one is counted when it is over.
        let made = i64::try_from(storage.commits() + 1 - commits).expect("few");
        assert!(there - now <= made * PIECE, "{there} to {now} bytes with {made} commits");
        (commits, there) = (commits_before, now);
        is_gone(&storage, &ann, hers.id).await;
        while_it_goes += u64::from(now > PIECE);
    }
    // His writes came in between.
    let all = storage.commits() - before;
    assert!(all > 80, "{all} commits");
    assert!(while_it_goes >= 1, "{writes} writes, {while_it_goes} of them while there was more to remove");
    assert_eq!(left(&mut connection).await.3, 0, "it is answered when all is gone");
}

#[tokio::test]
async fn what_is_removed_goes_nearly_as_fast_as_others_write() {
    let place = place();
    let storage = open(&place).await;
    let (ann, bob) = (scope("ann"), scope("bob"));
    large_run(&storage, &ann, 512).await;
    let before = storage.commits();
    let (is_gone, written) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let floods = (0..6).map(async |_| {
        while is_gone.load(Ordering::Relaxed) == 0 {
            storage.insert_run(&bob, &spec("bob", 60_000), None).await.expect("inserts");
            written.fetch_add(1, Ordering::Relaxed);
        }
    });
    let removal = async {
        storage.prune(Operator::host(), ann.user(), NONE).await.expect("prunes");
        is_gone.store(1, Ordering::Relaxed);
    };
    tokio::join!(futures_util::future::join_all(floods), removal);
    // Each of them is a commit by itself, and so is a piece.
    let (commits, written) = (storage.commits() - before, written.load(Ordering::Relaxed));
    let removed = usize::try_from(commits).expect("few") - written;
    assert!(removed > 30 && 3 * written < 4 * removed, "{written} written while {removed} pieces went");
}

#[tokio::test]
async fn what_was_going_when_the_host_ended_is_hidden_and_goes_with_the_next() {
    let place = place();
    let storage = open(&place).await;
    let ann = scope("ann");
    let hers = large_run(&storage, &ann, 512).await;
    // A storage that closes does not wait for it, and one that is dropped neither.
    let (refused, ()) = tokio::join!(storage.prune(Operator::host(), ann.user(), NONE), storage.writer.close());
    storage.close().await;
    assert_eq!(cause(refused.expect_err("it is not done")), "the storage has been closed; start the host again");
    let mut connection = beside(&place).await;
    assert!(left(&mut connection).await.3 > 250);
    for _ in 0..2 {
        is_gone(&open(&place).await, &ann, hers.id).await;
    }
    // As soon as a host is there, it goes, though nobody asks.
    let storage = open(&place).await;
    is_gone(&storage, &ann, hers.id).await;
    let all_gone = async { while left(&mut connection).await.0 > 0 {} };
    tokio::time::timeout(Duration::from_secs(30), all_gone).await.expect("goes");
    assert_eq!(left(&mut connection).await, (0, 0, 0, 0, 0));
    assert_eq!(storage.history(&ann).await.expect("reads"), NONE);
}

#[tokio::test]
async fn what_could_not_be_removed_goes_once_something_can_be_written_again() {
    let place = place();
    let storage = open(&place).await;
    let ann = scope("ann");
    let hers = large_run(&storage, &ann, 64).await;
    let mut connection = beside(&place).await;
    let fails = "CREATE TRIGGER fails BEFORE DELETE ON records BEGIN SELECT raise(ABORT, 'as it is tested'); END";
    sqlx::query(fails).execute(&mut connection).await.expect("creates");
    storage.prune(Operator::host(), ann.user(), NONE).await.expect_err("its record cannot be removed");
    is_gone(&storage, &ann, hers.id).await;
    sqlx::query("DROP TRIGGER fails").execute(&mut connection).await.expect("drops");
    storage.insert_run(&ann, &spec("ann", 0), None).await.expect("inserts");
    let all_gone = async { while left(&mut connection).await.0 > 1 {} };
    tokio::time::timeout(Duration::from_secs(30), all_gone).await.expect("goes");
    assert_eq!(left(&mut connection).await, (1, 0, 0, 0, 0));
}

#[tokio::test]
async fn small_runs_go_together_in_one_commit() {
    let place = place();
    let storage = open(&place).await;
    let ann = scope("ann");
    for _ in 0..PRUNED_AT_ONCE_MAX {
        let spec = spec("ann", 100);
        storage.insert_run(&ann, &spec, None).await.expect("inserts");
        let chunks = vec![RecordChunk { number: 1, bytes: vec![7; 6_000] }];
        storage.finish(&ann, RunBatch { chunks, ..batch(spec.id, 10) }, end()).await.expect("finishes");
    }
    let before = storage.commits();
    storage.prune(Operator::host(), ann.user(), NONE).await.expect("prunes");
    assert_eq!((storage.history(&ann).await.expect("reads"), storage.commits() - before), (NONE, 1));

    // A large one among them goes when it is the first, and no other with it.
    for large in [false, true, false] {
        if large {
            large_run(&storage, &ann, 3).await;
        } else {
            let spec = spec("ann", 100);
            storage.insert_run(&ann, &spec, None).await.expect("inserts");
            storage.finish(&ann, batch(spec.id, 1), end()).await.expect("finishes");
        }
    }
    for left in (0..3).rev() {
        storage.prune_before(Operator::host(), ann.user(), Timestamp::now()).await.expect("prunes");
        assert_eq!(storage.history(&ann).await.expect("reads").runs, left);
    }
    let mut connection = beside(&place).await;
    assert_eq!(self::left(&mut connection).await, (0, 0, 0, 0, 0));
}
