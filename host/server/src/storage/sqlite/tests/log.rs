//! The write-ahead log: when it is moved, and how long its file stays.

use super::*;

/// A read that has begun, and goes on when it is waited for.
async fn begun_reading(storage: &SqliteStorage) -> Pin<Box<dyn Future<Output = usize> + '_>> {
    let rows = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n LIMIT 1000000)
        SELECT n, (SELECT count(*) FROM runs) FROM n";
    let read = Arc::new(AtomicUsize::new(0));
    let count = read.clone();
    let mut reading = Box::pin(async move {
        let each = |_: &mut rows::Columns<'_>| Ok(count.fetch_add(1, Ordering::Relaxed));
        storage.readers.all(sqlx::query(rows), each).await.expect("reads").len()
    });
    while read.load(Ordering::Relaxed) == 0 {
        assert!(futures_util::poll!(reading.as_mut()).is_pending());
        tokio::task::yield_now().await;
    }
    reading
}

#[tokio::test]
async fn the_log_is_moved_together_and_at_a_time_when_nobody_reads() {
    let place = place();
    let storage = open(&place).await;
    let ann = scope("ann");
    let reading = begun_reading(&storage).await;
    let before = fs::read(&place.path).expect("reads");
    for _ in 0..120 {
        storage.insert_run(&ann, &spec("ann", 60_000), None).await.expect("inserts while somebody reads");
    }
    assert!(before == fs::read(&place.path).expect("reads"), "part of the log was moved beside a reader");
    // Whoever comes while the move is due waits for it.
    let waits = storage.run(&ann, RunId::generate());
    assert_eq!(reading.await, 1_000_000);
    assert!(waits.await.expect("reads").is_none());
    assert!(fs::read(&place.path).expect("reads").len() > before.len() + 120 * 60_000, "it was not moved at once");
}

#[tokio::test]
async fn reads_wait_for_a_move_and_not_for_what_comes_to_be_written_meanwhile() {
    let place = place();
    let storage = open(&place).await;
    let (ann, writing) = (scope("ann"), AtomicUsize::new(8));
    let before = fs::metadata(&place.path).expect("is there").len();
    let writes = (0..8).map(async |_| {
        for _ in 0..150 {
            storage.insert_run(&ann, &spec("ann", 2_000), None).await.expect("inserts");
        }
        writing.fetch_sub(1, Ordering::Relaxed);
    });
    let reads = async {
        while writing.load(Ordering::Relaxed) > 0 {
            let commits = storage.commits();
            storage.run(&ann, RunId::generate()).await.expect("reads");
            let meanwhile = storage.commits() - commits;
            assert!(meanwhile < 20, "{meanwhile} commits came before a read");
        }
    };
    tokio::join!(futures_util::future::join_all(writes), reads);
    assert!(fs::metadata(&place.path).expect("is there").len() > before + 1_000_000, "the log was not moved");
}

#[tokio::test]
async fn a_read_that_nobody_waits_for_any_more_holds_up_no_move_for_long() {
    let place = place();
    let storage = open(&place).await;
    let before = fs::metadata(&place.path).expect("is there").len();
    for _ in 0..20 {
        drop(begun_reading(&storage).await);
        storage.insert_run(&scope("ann"), &spec("ann", 60_000), None).await.expect("inserts");
    }
    // By now the log was full once.
    let moved = async {
        while fs::metadata(&place.path).expect("is there").len() < before + 8 * 60_000 {
            storage.run(&scope("ann"), RunId::generate()).await.expect("reads");
        }
    };
    tokio::time::timeout(Duration::from_secs(10), moved).await.expect("it is moved");
}

#[tokio::test]
async fn a_write_that_fails_while_a_move_is_due_is_told_once_the_reads_under_way_have_ended() {
    let place = place();
    let options = SqliteConnectOptions::new().filename(&place.path).journal_mode(SqliteJournalMode::Wal);
    let options = options.pragma("max_page_count", "2200").pragma("wal_autocheckpoint", "0");
    let storage = SqliteStorage::open_with(&place.path, options).await.expect("opens");
    let ann = scope("ann");
    let mut reading = begun_reading(&storage).await;
    for _ in 0..120 {
        storage.insert_run(&ann, &spec("ann", 60_000), None).await.expect("inserts");
    }
    let too_much = spec("ann", 8_000_000);
    let mut write = Box::pin(storage.insert_run(&ann, &too_much, None));
    for _ in 0..1_000 {
        assert!(futures_util::poll!(write.as_mut()).is_pending());
        assert!(futures_util::poll!(reading.as_mut()).is_pending());
        tokio::task::yield_now().await;
    }
    drop(reading);
    let told = tokio::time::timeout(Duration::from_secs(10), write).await.expect("it is told");
    assert!(cause(told.expect_err("there is no room")).contains("full"));
    storage.insert_run(&ann, &spec("ann", 0), None).await.expect("and it goes on");
}

#[tokio::test]
async fn a_log_that_has_grown_is_cut_when_it_begins_anew() {
    let place = place();
    let storage = open(&place).await;
    let ann = scope("ann");
    let log_bytes = || fs::metadata(format!("{}-wal", place.path.display())).expect("is there").len();
    storage.insert_run(&ann, &spec("ann", 3 << 23), None).await.expect("inserts");
    assert!(log_bytes() > WAL_FILE_BYTES_MAX);
    // At most as many as until the next look, and those that begin it anew.
    for _ in 0..10 {
        storage.insert_run(&ann, &spec("ann", 0), None).await.expect("inserts");
    }
    assert!(log_bytes() <= WAL_FILE_BYTES_MAX, "{} bytes", log_bytes());
}
