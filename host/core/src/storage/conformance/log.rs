//! A run's log and record are kept once and as they were, and a user's feed has all of them in order.

use super::*;

pub async fn check(storage: &dyn Storage) {
    a_record_is_kept_once_and_comes_in_pages(storage).await;
    events_are_kept_once_and_as_they_were(storage).await;
    events_come_in_pages(storage).await;
    a_feed_has_all_runs_of_its_user_in_the_order_of_commits(storage).await;
    a_feed_comes_in_pages(storage).await;
}

async fn a_record_is_kept_once_and_comes_in_pages(storage: &dyn Storage) {
    let ann = scope("rita");
    let spec = insert(storage, spec("rita")).await;
    let chunk = |number: u64| RecordChunk { number, bytes: vec![u8::try_from(number).unwrap_or(0); 400 << 10] };
    let with = |chunks: Vec<RecordChunk>| RunBatch { chunks, ..batch(spec.id, []) };
    assert_eq!(storage.record(&ann, spec.id, 0).await.expect("reads"), []);
    storage.append(&ann, with(vec![chunk(1), chunk(2)])).await.expect("appends");
    // A chunk whose answer was lost is written again, and what is there stays as it is.
    let again = RecordChunk { number: 2, bytes: vec![0] };
    storage.append(&ann, with(vec![again, chunk(3)])).await.expect("appends");
    storage.finish(&ann, with(vec![chunk(4)]), completed("1")).await.expect("finishes");
    storage.append(&ann, with(vec![chunk(5)])).await.expect("is ignored");
    let first = storage.record(&ann, spec.id, 0).await.expect("reads");
    assert_eq!(first, [chunk(1), chunk(2)], "a page is about 1 MiB");
    assert_eq!(storage.record(&ann, spec.id, 2).await.expect("reads"), [chunk(3), chunk(4)]);
    assert_eq!(storage.record(&ann, spec.id, 4).await.expect("reads"), []);
    assert_eq!(storage.record(&scope("vic"), spec.id, 0).await.expect("reads"), [], "another user's record was read");
}

async fn events_are_kept_once_and_as_they_were(storage: &dyn Storage) {
    let ann = scope("rita");
    let spec = insert(storage, spec("rita")).await;
    let RunEnd { usage, children, .. } = completed("1");
    let failure = ToolFailure { code: "denied".into(), message: "no".into() };
    let written: Vec<_> = [
        Event::started(&spec.agent, &spec.digest, Duration::ZERO),
        Event::AgentThinking { text: "a\0b 𝄞".into() },
        Event::ToolExecuting {
            call: 1,
            tool: "file.read".into(),
            arguments: Some(json("[1,  2]")),
            arguments_bytes: 7,
        },
        Event::ToolExecuting { call: 2, tool: "file.read".into(), arguments: None, arguments_bytes: u64::MAX },
        Event::ToolCompleted { call: 2, tool: "t".into(), error: Some(failure), result_bytes: 0, elapsed_ms: 9 },
        Event::ToolCompleted { call: u32::MAX, tool: "t".into(), error: None, result_bytes: 1, elapsed_ms: 0 },
        Event::Progress { fraction: 0.1, note: String::new() },
        Event::Log { level: LogLevel::Warn, text: "line\n".into() },
        Event::Custom { name: "chart".into(), payload: json(r#"{"b": 1e300, "a": 1.0}"#) },
        Event::AgentError { stop_reason: StopReason::Trap, code: "c".into(), message: "m".into(), usage, children },
    ]
    .into_iter()
    .zip(1..)
    .map(|(event, seq)| Envelope { seq, run_id: spec.id, at: at(seq.cast_signed()), event })
    .collect();
    storage.append(&ann, batch(spec.id, written[..4].iter().cloned())).await.expect("appends");
    // Two of these are there; one of the two is not the same.
    let again = [thinking(spec.id, 3, "not what was written first")];
    let again = again.into_iter().chain(written[3..7].iter().cloned());
    storage.append(&ann, batch(spec.id, again)).await.expect("appends again");
    storage.finish(&ann, batch(spec.id, written.iter().cloned()), completed("[]")).await.expect("finishes");
    assert_eq!(log(storage, &ann, spec.id).await, written);

    // Many events in one step stay in one step.
    let many = insert(storage, self::spec("rita")).await;
    let events = (1..=3000).map(|seq| thinking(many.id, seq, "one of many"));
    storage.finish(&ann, batch(many.id, events), completed("[]")).await.expect("finishes");
    assert_eq!(seqs(&log(storage, &ann, many.id).await), (1..=3000).collect::<Vec<_>>());
}

async fn events_come_in_pages(storage: &dyn Storage) {
    let ann = scope("paul");
    let spec = insert(storage, spec("paul")).await;
    let events = (1..=10).map(|seq| thinking(spec.id, seq, "short"));
    storage.append(&ann, batch(spec.id, events)).await.expect("appends");
    for (after, limit, expected) in [
        (0, 0, vec![]),
        (0, 1, vec![1]),
        (0, 9, (1..=9).collect()),
        (0, 10, (1..=10).collect()),
        (0, 11, (1..=10).collect()),
        (0, u32::MAX, (1..=10).collect()),
        (4, 3, vec![5, 6, 7]),
        (9, 3, vec![10]),
        (10, 3, vec![]),
        (11, 3, vec![]),
        (i64::MAX.cast_unsigned(), 3, vec![]),
        (i64::MAX.cast_unsigned() + 1, 3, vec![]),
        (u64::MAX, u32::MAX, vec![]),
    ] {
        let page = storage.events(&ann, spec.id, after, limit).await.expect("reads");
        assert_eq!(seqs(&page), expected, "the page of {limit} after {after}");
    }

    // A page is bounded in bytes too, and yet goes on over an event that is larger than a page.
    let large = insert(storage, self::spec("paul")).await;
    let sizes = [1 << 20, 1 << 20, 1 << 20, 1 << 20, EVENTS_PAGE_BYTES_MAX + 1, 10, 1 << 20];
    for (size, seq) in sizes.into_iter().zip(1..) {
        let event = thinking(large.id, seq, &"x".repeat(size));
        storage.append(&ann, batch(large.id, [event])).await.expect("appends");
    }
    let (mut after, mut pages) = (0, 0);
    loop {
        let page = storage.events(&ann, large.id, after, u32::MAX).await.expect("reads");
        let Some(last) = page.last() else { break };
        let bytes: usize = page.iter().map(|envelope| envelope.event.bytes()).sum();
        assert!(page.len() == 1 || bytes <= EVENTS_PAGE_BYTES_MAX, "{} events of {bytes} bytes in a page", page.len());
        assert_eq!(page[0].seq, after + 1, "a page goes on where the last one ended");
        (after, pages) = (last.seq, pages + 1);
    }
    assert_eq!(after, sizes.len() as u64, "all events were read");
    assert!(pages >= 3, "{pages} pages are too few to be bounded");
    for id in [spec.id, large.id] {
        storage.finish(&ann, batch(id, []), completed("1")).await.expect("finishes");
    }
}

async fn a_feed_has_all_runs_of_its_user_in_the_order_of_commits(storage: &dyn Storage) {
    let (ann, bob) = (scope("fay"), scope("gus"));
    let start = FeedPlace::default();
    assert_eq!(storage.feed_end(&ann).await.expect("reads"), start, "a feed begins empty");
    let (one, two) = (insert(storage, spec("fay")).await, insert(storage, spec("fay")).await);
    let his = insert(storage, spec("gus")).await;
    let add = async |scope: &Scope, run: RunId, seqs: std::ops::RangeInclusive<u64>| {
        let events = seqs.map(|seq| thinking(run, seq, "in order"));
        storage.append(scope, batch(run, events)).await.expect("appends");
    };
    add(&ann, two.id, 1..=2).await;
    add(&ann, one.id, 1..=1).await;
    let seen = storage.feed_end(&ann).await.expect("reads");
    add(&bob, his.id, 1..=3).await;
    add(&ann, two.id, 3..=3).await;
    // What is written again is not told again; what is new with it is.
    add(&ann, two.id, 1..=3).await;
    add(&ann, one.id, 1..=3).await;
    // Neither a stranger's words nor late ones are told.
    add(&bob, one.id, 4..=4).await;
    storage.append(&ann, batch(one.id, [])).await.expect("appends nothing");
    storage.finish(&ann, batch(two.id, [ended(two.id, 4)]), completed("1")).await.expect("finishes");
    storage.finish(&ann, batch(two.id, [ended(two.id, 4)]), completed("1")).await.expect("finishes again");
    add(&ann, two.id, 5..=5).await;
    storage.finish(&ann, batch(one.id, []), completed("1")).await.expect("finishes without a word");

    let expected = [(two.id, 1), (two.id, 2), (one.id, 1), (two.id, 3), (one.id, 2), (one.id, 3), (two.id, 4)];
    let told = |feed: &[FeedEntry]| -> Vec<_> { feed.iter().map(|e| (e.envelope.run_id, e.envelope.seq)).collect() };
    let all = feed(storage, &ann, start, u32::MAX).await;
    assert_eq!(told(&all), expected);
    assert!(all.windows(2).all(|pair| pair[0].place < pair[1].place), "places grow");
    assert!(all.iter().all(|entry| entry.place.seq == entry.envelope.seq));
    let commits: Vec<_> = all.iter().map(|entry| (entry.place.position, entry.ends_commit)).collect();
    assert_eq!(
        commits,
        [(1, false), (1, true), (2, true), (3, true), (4, false), (4, true), (5, true)],
        "without holes"
    );
    assert_eq!(storage.feed_end(&ann).await.expect("reads"), all[6].place);
    assert_eq!(told(&feed(storage, &ann, seen, u32::MAX).await), expected[3..], "from where somebody had seen it end");
    for limit in 1..=8 {
        assert_eq!(feed(storage, &ann, start, limit).await, all, "in pages of {limit}");
    }
    for (entry, n) in all.iter().zip(1..) {
        assert_eq!(feed(storage, &ann, entry.place, 3).await, all[n..], "after each place, also within a commit");
    }
    for (id, end) in [(one.id, 3), (two.id, 4), (his.id, 0), (RunId::generate(), 0)] {
        assert_eq!(storage.log_end(&ann, id).await.expect("reads"), end);
    }
    let mut logs = log(storage, &ann, one.id).await;
    logs.extend(log(storage, &ann, two.id).await);
    for entry in &all {
        assert!(logs.contains(&entry.envelope), "the feed and the logs are one");
    }
    let future = FeedPlace { position: i64::MAX.cast_unsigned() + 9, seq: u64::MAX };
    assert_eq!(storage.feed(&ann, future, 9).await.expect("reads"), []);
    assert_eq!(told(&feed(storage, &bob, start, 2).await), [(his.id, 1), (his.id, 2), (his.id, 3)]);
    assert_eq!(storage.feed(&scope("nobody"), start, 9).await.expect("reads"), []);
    storage.finish(&bob, batch(his.id, []), completed("1")).await.expect("finishes");
}

async fn a_feed_comes_in_pages(storage: &dyn Storage) {
    let ann = scope("hal");
    let large = insert(storage, spec("hal")).await;
    for (size, seq) in [10, EVENTS_PAGE_BYTES_MAX + 1, 600 << 10, 600 << 10, 10].into_iter().zip(1..) {
        let event = thinking(large.id, seq, &"x".repeat(size));
        storage.append(&ann, batch(large.id, [event])).await.expect("appends");
    }
    let (mut after, mut pages) = (FeedPlace::default(), Vec::new());
    loop {
        let page = storage.feed(&ann, after, u32::MAX).await.expect("reads");
        let Some(last) = page.last() else { break };
        after = last.place;
        pages.push(page.len());
    }
    assert_eq!(pages, [1, 1, 1, 2], "a page is bounded in bytes, and yet goes on over an event larger than a page");
    assert_eq!(storage.feed(&ann, FeedPlace::default(), 0).await.expect("reads"), []);
    storage.finish(&ann, batch(large.id, []), completed("1")).await.expect("finishes");
}
