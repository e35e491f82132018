use super::*;
use cofferdam_core::{
    Json, UserExecutionContext,
    context::{Effect, StopSignal},
    event::Event,
    grant::Access,
    ids::{RequestId, ThreadId},
    quota::{LiveQuota, Quota, RunLimits, STATE_KEY_OVERHEAD_BYTES},
    run::{Children, Durability, Priority, RunStatus, StopReason, Usage},
    storage::{Expected, PRUNED_AT_ONCE_MAX, conformance},
};
use std::{
    path::PathBuf,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tempfile::TempDir;

mod log;
mod removal;

struct Place {
    path: PathBuf,
    _dir: TempDir,
}

fn place() -> Place {
    let dir = tempfile::tempdir().expect("a directory");
    Place { path: dir.path().join("cofferdam.db"), _dir: dir }
}

async fn open(place: &Place) -> SqliteStorage {
    SqliteStorage::open(&place.path).await.expect("opens")
}

fn scope(user: &str) -> Scope {
    Operator::host().on_behalf_of(&user.parse().expect("a user id"))
}

fn spec(user: &str, input_bytes: usize) -> RunSpec {
    let id = RunId::generate();
    RunSpec {
        id,
        user: scope(user).user().clone(),
        agent: "echo".parse().expect("a name"),
        digest: Digest::of(b"a component"),
        request: RequestId::generate(),
        thread: ThreadId::of_run(id),
        session: None,
        parent: None,
        metadata: Json::empty_object(),
        input: Json::of(&"x".repeat(input_bytes)),
        limits: RunLimits { fuel: 1, memory_bytes: 2, deadline_ms: 3 },
        priority: Priority::default(),
        durability: Durability::Ephemeral,
        retries: None,
        created_at: Timestamp::UNIX_EPOCH,
    }
}

fn batch(run: RunId, events: u64) -> RunBatch {
    let event = |seq| Envelope {
        seq,
        run_id: run,
        at: Timestamp::UNIX_EPOCH,
        event: Event::AgentThinking { text: "about it".into() },
    };
    RunBatch {
        run,
        started_at: None,
        attempt: None,
        effects: false,
        events: (1..=events).map(event).collect(),
        chunks: Vec::new(),
        wait: None,
        start: None,
    }
}

fn end() -> RunEnd {
    RunEnd {
        stop_reason: StopReason::Completed,
        output: Some(Json::empty_object()),
        error: None,
        usage: Usage::default(),
        children: Children::default(),
        started_at: None,
        finished_at: Timestamp::UNIX_EPOCH,
    }
}

fn space(user: &str) -> StateSpace {
    let permissions = Permissions::new([], Access::ReadWrite);
    let quota = LiveQuota::fixed(Quota::default());
    let ctx = UserExecutionContext::rest(Arc::new(spec(user, 0)), permissions, quota, StopSignal::default());
    ctx.authorize(Effect::StateWrite).expect("it was granted").state_space(false)
}

fn state_write(key: &str, value_bytes: usize) -> StateWrite {
    StateWrite {
        key: key.into(),
        value: vec![1; value_bytes],
        expires_at: None,
        expected: Expected::Any,
        by: None,
        user_bytes_max: 1 << 30,
    }
}

/// The innermost words of an error, which are for the operator.
fn cause(error: StorageError) -> String {
    error.source.to_string()
}

#[tokio::test]
async fn storage_in_a_file_keeps_its_promises_also_over_a_restart() {
    let place = place();
    let storage = open(&place).await;
    let kept = conformance::check(&storage).await;
    storage.close().await;
    let files: Vec<_> = fs::read_dir(place.path.parent().expect("a directory")).expect("lists").collect();
    assert_eq!(files.len(), 1, "after a close, all is in the one file: {files:?}");

    let storage = open(&place).await;
    conformance::check_reopened(&storage, &kept).await;
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_crash() {
    let (place, copy) = (place(), self::place());
    let storage = open(&place).await;
    let kept = conformance::check(&storage).await;
    // The files as a crash would leave them: nobody has closed anything.
    for suffix in ["", "-wal"] {
        let file = |place: &Place| format!("{}{suffix}", place.path.display());
        fs::copy(file(&place), file(&copy)).expect("copies");
    }
    conformance::check_reopened(&open(&copy).await, &kept).await;
}

#[tokio::test]
async fn nothing_is_appended_to_a_log_that_was_found_or_that_failed() {
    let (place, copy) = (place(), self::place());
    let log_bytes = |place: &Place| fs::metadata(format!("{}-wal", place.path.display())).map_or(0, |m| m.len());
    let options = SqliteConnectOptions::new().filename(&place.path).journal_mode(SqliteJournalMode::Wal);
    let storage = SqliteStorage::open_with(&place.path, options.pragma("max_page_count", "200")).await.expect("opens");
    let (ann, first) = (scope("ann"), spec("ann", 0));
    storage.insert_run(&ann, &first, None).await.expect("inserts");
    assert!(log_bytes(&place) > 0);
    for suffix in ["", "-wal"] {
        let file = |place: &Place| format!("{}{suffix}", place.path.display());
        fs::copy(file(&place), file(&copy)).expect("copies");
    }
    let found = open(&copy).await;
    assert_eq!(log_bytes(&copy), 0, "a start begins the log again");
    assert!(found.run(&ann, first.id).await.expect("reads").is_some());

    storage.insert_run(&ann, &spec("ann", 900_000), None).await.expect_err("there is no room");
    assert_eq!(log_bytes(&place), 0, "a write that failed is gone before anyone is told");
    assert!(storage.run(&ann, first.id).await.expect("reads").is_some());
    storage.insert_run(&ann, &spec("ann", 0), None).await.expect("and it goes on");
}

#[cfg(unix)]
#[tokio::test]
async fn only_the_owner_may_read_the_files() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = place();
    let storage = open(&place).await;
    storage.insert_run(&scope("ann"), &spec("ann", 0), None).await.expect("inserts");
    let mut files = 0;
    for file in fs::read_dir(place.path.parent().expect("a directory")).expect("lists") {
        let file = file.expect("lists");
        assert_eq!(file.metadata().expect("is there").permissions().mode() & 0o777, 0o600, "{file:?}");
        files += 1;
    }
    assert_eq!(files, 3, "the database, the log and its index");
}

#[tokio::test]
async fn a_database_of_a_newer_schema_is_refused() {
    let place = place();
    open(&place).await.close().await;
    let mut connection = SqliteConnectOptions::new().filename(&place.path).connect().await.expect("connects");
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
        VALUES (9998, 'from the future', TRUE, x'00', 0), (9999, 'and from beyond', TRUE, x'00', 0)";
    sqlx::query(newer).execute(&mut connection).await.expect("writes");
    connection.close().await.expect("closes");
    let error = SqliteStorage::open(&place.path).await.map(drop).expect_err("it is newer");
    let known = MIGRATIONS.iter().map(|migration| migration.version).max().expect("there are some");
    let said = format!(
        "the database has schema 9999, this host knows schemas up to {known}; start the Cofferdam that last used this database, or a newer one"
    );
    assert_eq!(cause(error), said);
}

#[tokio::test]
async fn what_is_no_database_is_refused() {
    let place = place();
    fs::write(&place.path, "hello ".repeat(1000)).expect("writes");
    let error = SqliteStorage::open(&place.path).await.map(drop).expect_err("it is no database");
    assert_eq!(cause(error), "the file is not a sound database; restore it from a backup");
    let nowhere = place.path.with_file_name("nowhere").join("cofferdam.db");
    let error = SqliteStorage::open(&nowhere).await.map(drop).expect_err("it cannot be made");
    assert!(cause(error).ends_with("give the host a directory that exists and that it may write to"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::disallowed_methods, reason = "the writers are tasks of their own, as requests are")]
async fn two_hundred_writers_are_all_served() {
    let place = place();
    let storage = Arc::new(open(&place).await);
    let work = (0..200).map(|n| {
        let storage = storage.clone();
        tokio::spawn(async move {
            let (user, spec) = (scope(&format!("u{}", n % 10)), spec(&format!("u{}", n % 10), n));
            storage.insert_run(&user, &spec, None).await.expect("inserts");
            // Some of what shares a commit is refused; its neighbours are not.
            let write = StateWrite { expected: Expected::Absent, ..state_write("once", n) };
            let won = storage.state_set(&space(user.user().as_str()), write).await.is_ok();
            storage.append(&user, batch(spec.id, 2)).await.expect("appends");
            // Some write more than fits into one statement.
            storage.finish(&user, batch(spec.id, if n % 20 == 0 { 700 } else { 4 }), end()).await.expect("finishes");
            (user, spec.id, won)
        })
    });
    let mut winners = 0;
    for work in work.collect::<Vec<_>>() {
        let (user, id, won) = work.await.expect("does not panic");
        winners += u32::from(won);
        let view = storage.run(&user, id).await.expect("reads").expect("is there");
        let log = storage.events(&user, id, 0, u32::MAX).await.expect("reads");
        assert_eq!(view.stop_reason, Some(StopReason::Completed));
        assert!([4, 700].contains(&log.len()), "{} events", log.len());
        assert!(log.iter().map(|envelope| envelope.seq).eq(1..=log.len() as u64));
    }
    assert_eq!(winners, 10, "each of ten users has one winner");
}

#[tokio::test]
async fn a_write_whose_caller_went_away_does_not_stop_the_writer() {
    let place = place();
    let storage = open(&place).await;
    let (ann, specs) = (scope("ann"), [spec("ann", 0), spec("ann", 1), spec("ann", 2)]);
    for spec in &specs {
        let mut insert = pin!(storage.insert_run(&ann, spec, None));
        let first = std::future::poll_fn(|cx| std::task::Poll::Ready(insert.as_mut().poll(cx).is_ready())).await;
        assert!(!first, "the commit takes longer than a poll");
        let mut set = pin!(async { storage.state_set(&space("ann"), state_write("key", 9)).await.is_ok() });
        let _ = std::future::poll_fn(|cx| std::task::Poll::Ready(set.as_mut().poll(cx).is_ready())).await;
        // The writes have been asked for; the callers go.
    }
    storage.append(&ann, batch(specs[2].id, 1)).await.expect("appends");
    // Writes happen in the order in which they were asked for, so the earlier ones are done.
    assert_eq!(storage.runs(&ann, &RunQuery { limit: 9, ..RunQuery::default() }).await.expect("lists").len(), 3);
    assert!(storage.state_get(&space("ann"), "key").await.expect("reads").is_some());
}

#[tokio::test]
async fn a_full_disk_fails_the_write_and_nothing_else() {
    let place = place();
    let options = SqliteConnectOptions::new().filename(&place.path).journal_mode(SqliteJournalMode::Wal);
    let storage = SqliteStorage::open_with(&place.path, options.pragma("max_page_count", "200")).await.expect("opens");
    let (ann, first) = (scope("ann"), spec("ann", 0));
    storage.insert_run(&ann, &first, None).await.expect("inserts");
    storage.state_set(&space("ann"), state_write("large", 400_000)).await.expect("sets");

    let large = spec("ann", 700_000);
    let insert = storage.insert_run(&ann, &large, None);
    let (refused, _) = tokio::join!(insert, storage.append(&ann, batch(first.id, 1)));
    let told = cause(refused.expect_err("there is no room"));
    assert!(told.starts_with("the disk that holds the database is full; free some space"), "{told}");
    assert_eq!(storage.run(&ann, large.id).await.expect("reads"), None, "a failed write has left something");
    storage.append(&ann, batch(first.id, 1)).await.expect("a small write still fits");
    let refused = storage.state_set(&space("ann"), state_write("too much", 700_000)).await;
    assert!(matches!(refused, Err(StateRefused::Storage(_))), "{refused:?}");
    assert!(storage.state_get(&space("ann"), "too much").await.expect("reads").is_none());

    // As soon as there is room, all goes on.
    assert!(storage.state_delete(&space("ann"), "large", None).await.expect("deletes"));
    storage.insert_run(&ann, &spec("ann", 300_000), None).await.expect("inserts");
    storage.finish(&ann, batch(first.id, 2), end()).await.expect("finishes");
    assert_eq!(storage.events(&ann, first.id, 0, 9).await.expect("reads").len(), 2);
}

#[tokio::test]
async fn a_failed_transaction_of_several_statements_leaves_nothing() {
    let place = place();
    let options = SqliteConnectOptions::new().filename(&place.path).journal_mode(SqliteJournalMode::Wal);
    let storage = SqliteStorage::open_with(&place.path, options.pragma("max_page_count", "60")).await.expect("opens");
    let (ann, spec) = (scope("ann"), spec("ann", 0));
    storage.insert_run(&ann, &spec, None).await.expect("inserts");
    let told = cause(storage.append(&ann, batch(spec.id, 20_000)).await.expect_err("there is no room"));
    assert!(told.starts_with("the disk that holds the database is full"), "{told}");
    assert_eq!(storage.events(&ann, spec.id, 0, 9).await.expect("reads"), []);
    storage.finish(&ann, batch(spec.id, 300), end()).await.expect("finishes");
    assert_eq!(storage.events(&ann, spec.id, 0, 999).await.expect("reads").len(), 300);
}

#[tokio::test]
async fn more_expired_keys_than_one_commit_removes_make_room_all_the_same() {
    let place = place();
    let storage = open(&place).await;
    let ann = space("ann");
    let mut keys = Vec::new();
    let soon = Timestamp::now() + Duration::from_secs(3600);
    for n in 0..2500 {
        let write = StateWrite { expires_at: Some(soon), ..state_write(&format!("{n:04}"), 6) };
        keys.push(storage.state_set(&ann, write));
        if keys.len() == 100 {
            for set in futures_util::future::join_all(keys.drain(..)).await {
                set.expect("sets");
            }
        }
    }
    // An hour later, as far as the database knows.
    let mut connection = SqliteConnectOptions::new().filename(&place.path).connect().await.expect("connects");
    sqlx::query("UPDATE state SET expires_at = 0").execute(&mut connection).await.expect("writes");
    connection.close().await.expect("closes");

    let write = |key, user_bytes_max| StateWrite { user_bytes_max, ..state_write(key, 99) };
    let with_its_overhead = 100 + STATE_KEY_OVERHEAD_BYTES;
    let refused = storage.state_set(&ann, write("k", with_its_overhead - 1)).await;
    assert!(matches!(refused, Err(StateRefused::Full(_))), "{refused:?}");
    storage.state_set(&ann, write("k", with_its_overhead)).await.expect("nothing else counts");
    assert_eq!(storage.state_keys(&ann, "", None, 9).await.expect("lists"), ["k"]);
    let refused = storage.state_set(&ann, write("l", 2 * with_its_overhead - 1)).await;
    assert!(matches!(refused, Err(StateRefused::Full(_))), "{refused:?}");
}

/// What was stored before keys had a price of their own is counted with it from the first start on.
#[tokio::test]
async fn keys_that_were_there_before_they_cost_anything_are_counted() {
    let place = place();
    let storage = open(&place).await;
    let ann = space("ann");
    for key in ["a", "b", "c"] {
        storage.state_set(&ann, state_write(key, 9)).await.expect("sets");
    }
    storage.close().await;
    let mut connection = SqliteConnectOptions::new().filename(&place.path).connect().await.expect("connects");
    let without = "UPDATE state_users SET bytes = 30; DELETE FROM _sqlx_migrations WHERE version = 6;";
    sqlx::raw_sql(without).execute(&mut connection).await.expect("writes");
    connection.close().await.expect("closes");

    let storage = open(&place).await;
    let all = 4 * (10 + STATE_KEY_OVERHEAD_BYTES);
    let write = |user_bytes_max| StateWrite { user_bytes_max, ..state_write("d", 9) };
    let refused = storage.state_set(&ann, write(all - 1)).await;
    assert!(matches!(refused, Err(StateRefused::Full(_))), "{refused:?}");
    storage.state_set(&ann, write(all)).await.expect("fits");
}

/// A connection beside the storage's own.
async fn beside(place: &Place) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(&place.path).foreign_keys(true);
    options.connect().await.expect("connects")
}

#[tokio::test]
async fn what_an_earlier_host_wrote_is_in_the_feed_of_its_user() {
    let place = place();
    let storage = open(&place).await;
    let (ann, bob) = (scope("ann"), scope("bob"));
    let (one, two, his) = (spec("ann", 0), spec("ann", 0), spec("bob", 0));
    for (scope, spec, events) in [(&ann, &one, 2), (&ann, &two, 3), (&bob, &his, 1)] {
        storage.insert_run(scope, spec, None).await.expect("inserts");
        storage.append(scope, batch(spec.id, events)).await.expect("appends");
    }
    storage.insert_run(&ann, &spec("ann", 0), None).await.expect("inserts one that has said nothing");
    storage.close().await;
    // As it was before there was a feed.
    let mut connection = beside(&place).await;
    for undo in [
        "DROP TRIGGER writes_rest",
        "DROP TRIGGER writes_feed",
        "DROP TABLE feed",
        "DROP TABLE feed_removed",
        "DROP TRIGGER writes_record",
        "DROP TRIGGER runs_finished",
        "ALTER TABLE records DROP COLUMN bytes_so_far",
        "DROP TRIGGER runs_removed",
        "DROP VIEW may_go",
        "CREATE VIEW may_go AS SELECT user, run, finished_at, bytes FROM history",
        "DROP INDEX history_that_may_go",
        "ALTER TABLE history DROP COLUMN stays",
        "DROP VIEW may_go",
        "DROP TABLE going",
        "DELETE FROM _sqlx_migrations WHERE version IN (3, 18, 19, 20, 21)",
    ] {
        sqlx::query(undo).execute(&mut connection).await.expect(undo);
    }
    connection.close().await.expect("closes");

    let storage = open(&place).await;
    storage.append(&ann, batch(one.id, 3)).await.expect("goes on");
    let feed = storage.feed(&ann, FeedPlace::default(), 99).await.expect("reads");
    let told: Vec<_> =
        feed.iter().map(|entry| (entry.envelope.run_id, entry.place.position, entry.place.seq)).collect();
    let (a, b) = (one.id, two.id);
    assert_eq!(told, [(a, 1, 1), (a, 1, 2), (b, 2, 1), (b, 2, 2), (b, 2, 3), (a, 3, 3)]);
    assert_eq!(storage.feed_end(&bob).await.expect("reads"), FeedPlace { position: 1, seq: 1 });
    // What was there before counts in the history as what came after.
    let before = storage.history(&ann).await.expect("reads").bytes;
    storage.finish(&ann, batch(two.id, 0), end()).await.expect("finishes");
    let of_events = storage.history(&ann).await.expect("reads").bytes - before;
    let again = spec("ann", 0);
    storage.insert_run(&ann, &again, None).await.expect("inserts");
    storage.append(&ann, batch(again.id, 3)).await.expect("appends");
    storage.finish(&ann, batch(again.id, 0), end()).await.expect("finishes");
    assert_eq!(storage.history(&ann).await.expect("reads").bytes - before, 2 * of_events);
}

#[tokio::test]
async fn who_lists_runs_leaves_readers_to_others() {
    let place = place();
    let storage = open(&place).await;
    let (ann, spec) = (scope("ann"), spec("ann", 0));
    storage.insert_run(&ann, &spec, None).await.expect("inserts");
    let query = RunQuery { status: None, agent: None, thread: None, before: None, limit: 9 };
    let as_many_as_may = storage.lists.acquire_many(LISTS_AT_ONCE.try_into().expect("few")).await.expect("open");
    let list = storage.runs(&ann, &query);
    let list = std::pin::pin!(list);
    let found = tokio::select! {
        biased;
        _ = list => panic!("one more than may"),
        found = storage.run(&ann, spec.id) => found,
    };
    assert!(found.expect("reads").is_some());
    drop(as_many_as_may);
    assert_eq!(storage.runs(&ann, &query).await.expect("lists").len(), 1);
}

#[tokio::test]
async fn places_in_a_feed_are_not_given_out_again_when_runs_are_removed() {
    let place = place();
    let storage = open(&place).await;
    let ann = scope("ann");
    for _ in 0..3 {
        let spec = spec("ann", 0);
        storage.insert_run(&ann, &spec, None).await.expect("inserts");
        storage.finish(&ann, batch(spec.id, 2), end()).await.expect("finishes");
    }
    let end = storage.feed_end(&ann).await.expect("reads");
    let mut connection = beside(&place).await;
    sqlx::query("DELETE FROM runs").execute(&mut connection).await.expect("removes");
    assert_eq!(storage.feed(&ann, FeedPlace::default(), 99).await.expect("reads"), []);
    assert!(storage.feed_end(&ann).await.expect("reads") >= end, "a cursor from before is not one of the future");
    let spec = spec("ann", 0);
    storage.insert_run(&ann, &spec, None).await.expect("inserts");
    storage.append(&ann, batch(spec.id, 2)).await.expect("appends");
    let after = storage.feed(&ann, end, 99).await.expect("reads");
    assert_eq!(after.iter().map(|entry| entry.place.position).collect::<Vec<_>>(), [4, 4]);
    assert_eq!(storage.feed_end(&ann).await.expect("reads"), FeedPlace { position: 4, seq: 2 });

    // Reading a feed sorts nothing: the page of a user with a long one costs no more than another.
    let plan = "EXPLAIN QUERY PLAN SELECT feed.position, runs.id, events.seq FROM feed
        CROSS JOIN runs ON runs.number = feed.run AND runs.user = feed.user
        CROSS JOIN events ON events.run = feed.run AND events.seq BETWEEN feed.seq_from AND feed.seq_to
        WHERE feed.user = 'ann' AND feed.position >= 1 AND (feed.position > 1 OR events.seq > 1)
        ORDER BY feed.position, events.seq LIMIT 9";
    let steps = sqlx::query_as::<_, (i64, i64, i64, String)>(plan).fetch_all(&mut connection).await.expect("explains");
    assert!(steps.iter().all(|step| step.3.starts_with("SEARCH")), "{steps:?}");
    assert!(steps[0].3.contains("INDEX feed_in_order"), "{steps:?}");
}

#[tokio::test]
async fn a_list_of_what_has_not_ended_looks_at_no_run_that_has() {
    let place = place();
    let storage = open(&place).await;
    let (ann, begun) = (scope("ann"), spec("ann", 0));
    for run in [&begun, &spec("ann", 0), &spec("ann", 0)] {
        storage.insert_run(&ann, run, None).await.expect("inserts");
        if run.id != begun.id {
            storage.finish(&ann, batch(run.id, 1), end()).await.expect("finishes");
        }
    }
    let query = RunQuery { status: Some(RunStatus::Queued), limit: 9, ..RunQuery::default() };
    let found = storage.runs(&ann, &query).await.expect("lists");
    assert_eq!(found.iter().map(|run| run.id).collect::<Vec<_>>(), [begun.id]);
    let plan = concat!("EXPLAIN QUERY PLAN ", list_of_runs!("finished_at IS NULL"));
    let mut connection = beside(&place).await;
    let plan = sqlx::query_as::<_, (i64, i64, i64, String)>(plan).bind("ann").fetch_all(&mut connection);
    let steps: Vec<_> = plan.await.expect("explains").into_iter().map(|step| step.3).collect();
    assert_eq!(steps[0], "SEARCH runs USING INDEX runs_unfinished (user=? AND id>? AND id<?)");
}

#[tokio::test]
async fn what_prunes_looks_at_no_run_that_stays() {
    let place = place();
    let storage = open(&place).await;
    let mut connection = beside(&place).await;
    let plan = "EXPLAIN QUERY PLAN SELECT run, bytes FROM may_go WHERE user = 'ann' ORDER BY run LIMIT 8";
    let steps = sqlx::query_as::<_, (i64, i64, i64, String)>(plan).fetch_all(&mut connection).await.expect("explains");
    let steps: Vec<_> = steps.into_iter().map(|step| step.3).collect();
    assert_eq!(steps, ["SEARCH history USING INDEX history_that_may_go (user=?)"]);
    // It has those that may go and no others, whichever of a family ends first.
    let (ann, parent) = (scope("ann"), spec("ann", 0));
    let children = [(); 3].map(|()| RunSpec { parent: Some(parent.id), ..spec("ann", 0) });
    let may_go = async |connection: &mut SqliteConnection| {
        let count = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM may_go").fetch_one(connection);
        count.await.expect("counts")
    };
    for run in [&parent, &children[0], &children[1], &children[2]] {
        storage.insert_run(&ann, run, None).await.expect("inserts");
    }
    for (run, left) in [(&children[0], 0), (&parent, 1), (&children[1], 1)] {
        storage.finish(&ann, batch(run.id, 1), end()).await.expect("finishes");
        assert_eq!(may_go(&mut connection).await, left);
    }
    storage.prune(Operator::host(), ann.user(), NONE).await.expect("prunes");
    assert_eq!((storage.history(&ann).await.expect("reads").runs, may_go(&mut connection).await), (2, 2));
    storage.finish(&ann, batch(children[2].id, 1), end()).await.expect("finishes");
    storage.prune(Operator::host(), ann.user(), NONE).await.expect("prunes");
    assert_eq!(storage.history(&ann).await.expect("reads"), NONE);
}

const NONE: History = History { runs: 0, bytes: 0 };

#[tokio::test]
async fn a_closed_storage_says_so() {
    let place = place();
    let storage = open(&place).await;
    storage.close().await;
    storage.close().await;
    let told = "the storage has been closed; start the host again";
    assert_eq!(cause(storage.insert_run(&scope("ann"), &spec("ann", 0), None).await.expect_err("it is closed")), told);
    assert_eq!(cause(storage.run(&scope("ann"), RunId::generate()).await.expect_err("it is closed")), told);
}

/// Reads have a few connections, which all users share.
#[tokio::test]
async fn who_goes_away_in_the_middle_of_a_long_read_keeps_nobody_waiting() {
    let place = place();
    let storage = open(&place).await;
    for _ in 0..50 {
        let long = sqlx::query(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000000000) SELECT max(i) FROM n",
        );
        let read = storage.readers.first(long, |columns| columns.unsigned());
        tokio::time::timeout(Duration::from_millis(2), read).await.expect_err("it would take days");
    }
    let bob = scope("bob");
    let read =
        tokio::time::timeout(Duration::from_secs(10), storage.history(&bob)).await.expect("it is not waited for");
    assert_eq!(read.expect("reads"), History::default());
}

#[tokio::test]
async fn a_list_that_has_to_look_at_many_runs_gives_way_to_others_and_finds_what_there_is() {
    let place = place();
    let storage = open(&place).await;
    let (ann, oldest) = (scope("ann"), spec("ann", 0));
    storage
        .insert_run(&ann, &RunSpec { agent: "rare".parse().expect("a name"), ..oldest.clone() }, None)
        .await
        .expect("inserts");
    // More of another agent's after it than are looked at in two steps.
    let more = "INSERT INTO runs (user, id, status, agent, digest, request_id, thread_id, limit_fuel, limit_memory_bytes,
            limit_deadline_ms, created_at, metadata, input)
        WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
        SELECT user, 'run_ff' || printf('%06x', i) || substr(id, 13), status, iif(i % 5000 = 1, 'rare', 'often'), digest,
            request_id, thread_id, 1, 2, 3, 0, metadata, input FROM runs, n";
    let many = 2 * LIST_STEP + 1;
    sqlx::query(more).bind(many).execute(&mut beside(&place).await).await.expect("inserts");
    let rare = |limit| RunQuery { agent: Some("rare".parse().expect("a name")), limit, ..RunQuery::default() };

    // There is room for one, and somebody comes to wait while it looks.
    let _other = storage.lists.acquire_many(u32::try_from(LISTS_AT_ONCE).expect("few") - 1).await.expect("open");
    let query = rare(100);
    let (mut list, mut turn) = (storage.runs(&ann, &query), pin!(storage.lists.acquire()));
    let turn = tokio::select! {
        biased;
        _ = &mut list => panic!("it has looked at all of them"),
        turn = &mut turn => turn,
    };
    drop(turn);
    let found = list.await.expect("lists");
    assert_eq!((found.len(), found.last().map(|run| run.id)), (6, Some(oldest.id)));
    assert!(found.iter().map(|run| run.id.to_string()).rev().is_sorted());
    // A page ends where it is full, also in a later step, and the next one begins there.
    let page = storage.runs(&ann, &rare(4)).await.expect("lists");
    assert_eq!(page, found[..4]);
    let rest = RunQuery { before: Some(page[3].id), ..rare(4) };
    assert_eq!(storage.runs(&ann, &rest).await.expect("lists"), found[4..]);
}
