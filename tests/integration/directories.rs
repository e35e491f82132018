//! `/scratch` and `/workspace` as guests have them, through the standard library: what they are for, what they cost, and
//! that no path, link, race or flood gets more out of them.

use crate::server::{Server, User, run, shared};
use cofferdam_core::quota::Quota;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::{path::Path, time::Duration};

const MIB: u64 = 1 << 20;

/// Lets the probe do one thing after another in one run, and gives what came of each.
async fn steps(user: &User, steps: &[Value]) -> Vec<Value> {
    user.probe(&json!({"do": "seq", "steps": steps})).await.as_array().expect("outcomes").clone()
}

fn op(op: &str, path: &str) -> Value {
    json!({"do": "std", "op": op, "path": path})
}

fn write(path: &str, text: &str) -> Value {
    json!({"do": "std", "op": "write", "path": path, "text": text})
}

/// What a guest's standard library says when the quota is met.
const FULL: &str = "StorageFull";

/// The same of a write: whatever a stream fails with, the guest's C library has one word for it.
const WRITE_FAILED: &str = "I/O error (os error 29)";

/// The kind of an error; its text, where the standard library has no kind for it.
fn kind(outcome: &Value) -> &str {
    match outcome["error"]["kind"].as_str().unwrap_or("ok") {
        "Uncategorized" => outcome["error"]["text"].as_str().expect("a text"),
        kind => kind,
    }
}

async fn attack(user: &User, input: Value) -> Value {
    let run = user.finish(&json!({"agent": "hostile", "input": input})).await;
    assert_eq!(run["stop_reason"], "completed", "{input}: {run}");
    run["output"].clone()
}

/// What is below a directory on the host's disk: entries and bytes.
fn on_disk(path: &Path) -> (u64, u64) {
    let Ok(entries) = std::fs::read_dir(path) else { return (0, 0) };
    entries.fold((0, 0), |(count, bytes), entry| {
        let entry = entry.expect("an entry");
        let metadata = entry.metadata().expect("metadata");
        let below = if metadata.is_dir() { on_disk(&entry.path()) } else { (0, metadata.len()) };
        (count + 1 + below.0, bytes + below.1)
    })
}

/// Waits until no run has a scratch directory: they are removed beside the runs' ends.
async fn scratch_is_gone(server: &Server) {
    let root = server.dir.path().join("scratch");
    let gone = async {
        while on_disk(&root).0 > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(2), gone).await.expect("scratch directories are removed");
}

#[test]
fn a_guest_has_a_scratch_of_its_own_that_starts_empty_and_goes_with_the_run() {
    run(async {
        let server = Server::start().await;
        let ann = server.trusted().await;
        for _ in 0..2 {
            let outcomes = steps(
                &ann,
                &[
                    op("list", "/scratch"),
                    write("/scratch/a", "hello"),
                    json!({"do": "std", "op": "append", "path": "/scratch/a", "text": " world"}),
                    op("make_dir", "/scratch/d"),
                    json!({"do": "std", "op": "rename", "path": "/scratch/a", "to": "/scratch/d/b"}),
                    op("read", "/scratch/d/b"),
                    json!({"do": "std", "op": "copy", "path": "/scratch/d/b", "to": "/scratch/c"}),
                    op("list", "/scratch"),
                    json!({"do": "std", "op": "resize", "path": "/scratch/c", "size": 3}),
                    op("read", "/scratch/c"),
                    op("size", "/scratch/d/b"),
                    op("remove", "/scratch/d"),
                    op("remove_dir", "/scratch/d"),
                    op("remove", "/scratch/d/b"),
                    op("remove_dir", "/scratch/d"),
                    op("read", "/scratch/d/b"),
                ],
            )
            .await;
            assert_eq!(outcomes[0]["ok"], json!([]), "nothing is there from the run before");
            assert_eq!((&outcomes[5]["ok"], &outcomes[6]["ok"]), (&json!("hello world"), &json!(11)));
            assert_eq!(outcomes[7]["ok"], json!(["c", "d"]), "sorted");
            assert_eq!((&outcomes[9]["ok"], &outcomes[10]["ok"]), (&json!("hel"), &json!(11)));
            let kinds: Vec<_> = outcomes[11..].iter().map(kind).collect();
            assert_eq!(kinds, ["IsADirectory", "Directory not empty (os error 55)", "ok", "ok", "NotFound"]);
            scratch_is_gone(&server).await;
        }
        // However the run ends.
        let fill = json!({"do": "seq", "steps": [write("/scratch/a", "x"), {"do": "sleep", "ms": 60_000}]});
        let id = ann.submit(&json!({"agent": "probe", "input": fill})).await;
        while on_disk(&server.dir.path().join("scratch")).1 == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        ann.post(&format!("/v1/runs/{id}/cancel"), &json!({})).await.is(StatusCode::OK);
        scratch_is_gone(&server).await;
        // A run that has no use for files makes none.
        ann.finish(&json!({"agent": "echo", "input": 1})).await;
        assert_eq!(server.app.runtime().host_panics(), 0);
    });
}

#[test]
fn the_workspace_is_a_directory_for_whom_it_was_granted_and_the_same_files_as_the_tools_have() {
    run(async {
        let server = shared().await;
        let ann = server.stranger().await;
        let with = async |access: &str, input: &[Value]| {
            server.grant(&ann, "probe", &json!({"tools": ["file.*"], "workspace": access})).await;
            steps(&ann, input).await
        };
        let tool = json!({"do": "file_write", "path": "notes/a", "text": "by tool"});
        let outcomes = with("none", &[tool, op("read", "/workspace/notes/a"), op("list", "/workspace")]).await;
        assert_eq!((kind(&outcomes[1]), kind(&outcomes[2])), ("NotFound", "NotFound"), "{outcomes:?}");
        let look = [
            op("read", "/workspace/notes/a"),
            op("list", "/workspace"),
            write("/workspace/notes/b", "x"),
            write("/workspace/notes/a", "x"),
            op("remove", "/workspace/notes/a"),
            op("make_dir", "/workspace/d"),
            json!({"do": "std", "op": "rename", "path": "/workspace/notes/a", "to": "/workspace/b"}),
            json!({"do": "std", "op": "resize", "path": "/workspace/notes/a", "size": 0}),
        ];
        let outcomes = with("read", &look).await;
        assert_eq!((&outcomes[0]["ok"], &outcomes[1]["ok"]), (&json!("by tool"), &json!(["notes"])));
        for outcome in &outcomes[2..] {
            assert_eq!(kind(outcome), "ReadOnlyFilesystem", "{outcome}");
        }
        let change = [
            write("/workspace/notes/b", "by std"),
            json!({"do": "file_read", "path": "notes/b"}),
            json!({"do": "std", "op": "rename", "path": "/workspace/notes/b", "to": "/scratch/b"}),
            json!({"do": "std", "op": "copy", "path": "/workspace/notes/b", "to": "/scratch/b"}),
        ];
        let outcomes = with("read_write", &change).await;
        assert!(outcomes[1].to_string().contains("by std"), "{outcomes:?}");
        assert_eq!((kind(&outcomes[2]), kind(&outcomes[3])), ("CrossesDevices", "ok"));
        let over_http = ann.get("/v1/files/notes/b").await;
        assert_eq!(over_http.text, "by std");
        // Another user has other files, whatever was granted.
        let bob = server.stranger().await;
        server.grant(&bob, "probe", &json!({"workspace": "read_write"})).await;
        assert_eq!(steps(&bob, &[op("list", "/workspace")]).await[0]["ok"], json!([]));
    });
}

#[test]
fn no_way_leads_out_of_a_directory() {
    run(async {
        let server = shared().await;
        let ann = server.trusted().await;
        for (dir, other) in [("/scratch", "/workspace"), ("/workspace", "/scratch")] {
            let found = attack(&ann, json!({"scenario": "ways_out", "dir": dir, "other": other})).await;
            for (what, outcome) in found.as_object().expect("an object") {
                let may = what == "make x";
                assert_eq!(outcome == "ok", may, "{what} of {dir}: {outcome}");
            }
        }
        // Links that an operator left in a user's workspace lead nowhere either.
        let theirs = server.dir.path().join("workspaces").join(&ann.name);
        std::os::unix::fs::symlink("/etc", theirs.join("out")).expect("linked");
        std::os::unix::fs::symlink("out/passwd", theirs.join("chain")).expect("linked");
        let found = steps(
            &ann,
            &[
                op("read", "/workspace/out/passwd"),
                op("read", "/workspace/chain"),
                op("list", "/workspace/out"),
                write("/workspace/out/x", "x"),
                op("list", "/workspace"),
            ],
        )
        .await;
        assert!(found[..4].iter().all(|outcome| kind(outcome) != "ok"), "{found:?}");
        assert!(!found[4]["ok"].to_string().contains("out"), "{found:?}");
    });
}

#[test]
fn a_disk_is_filled_no_further_than_the_quota() {
    run(async {
        let quota = Quota {
            scratch_bytes: 8 * MIB,
            scratch_files: 50,
            workspace_bytes: 4 * MIB,
            workspace_files: 30,
            ..Quota::default()
        };
        let server = Server::start_with(quota).await;
        for (dir, bytes, entries) in [("/scratch", 8 * MIB, 50), ("/workspace", 4 * MIB, 30)] {
            let filled = async |scenario: &str| {
                let ann = server.trusted().await;
                (attack(&ann, json!({"scenario": scenario, "dir": dir, "times": 100})).await, ann)
            };
            let (fill, ann) = filled("disk_fill").await;
            assert_eq!((&fill["done"], &fill["refused"]), (&json!(bytes / MIB), &json!(WRITE_FAILED)));
            if dir == "/workspace" {
                assert_eq!(on_disk(&server.dir.path().join("workspaces").join(&ann.name)), (1, bytes));
                let more = ann.request(Method::PUT, "/v1/files/more").body("x").send().await.expect("answered");
                assert_eq!(more.status(), StatusCode::TOO_MANY_REQUESTS, "the tools and the API share the count");
            }
            let (append, _) = filled("disk_append").await;
            assert_eq!((&append["done"], &append["refused"]), (&json!(bytes / (64 << 10)), &json!(WRITE_FAILED)));
            let (many, _) = filled("disk_entries").await;
            assert_eq!((&many["files"]["done"], &many["directory"]), (&json!(entries), &json!(FULL)));
            let (holes, _) = filled("disk_holes").await;
            for (what, outcome) in holes.as_object().expect("an object") {
                assert_eq!(outcome, if what.starts_with("resized") { FULL } else { WRITE_FAILED }, "{holes}");
            }
            // Bytes of files that are gone are free, and nothing is kept of them under another name.
            let (unlinked, ann) = filled("disk_unlinked").await;
            assert!(unlinked["done"].as_u64().is_some_and(|done| done > 50), "{unlinked}");
            assert!(on_disk(&server.dir.path().join("workspaces").join(&ann.name)).1 <= MIB);
            let (renames, _) = filled("disk_renames").await;
            assert_eq!(renames["done"], 100, "{renames}");
            let (deep, _) = filled("disk_deep").await;
            assert!(deep["done"].as_u64().is_some_and(|done| (25..=32).contains(&done)), "{deep}");
        }
        // Handles run out before anything of the host's does.
        let ann = server.trusted().await;
        let run = ann.finish(&json!({"agent": "hostile", "input": {"scenario": "disk_handles"}})).await;
        assert_eq!(run["stop_reason"], "trap", "{run}");
        scratch_is_gone(&server).await;
        assert_eq!((server.app.runtime().host_panics(), server.app.panics()), (0, 0));
        assert_eq!(server.app.runtime().memory_bytes(), 0);
    });
}

#[test]
fn a_file_that_was_removed_is_not_the_next_one_under_its_name() {
    run(async {
        let ann = shared().await.trusted().await;
        for dir in ["/scratch", "/workspace"] {
            let outcome = attack(&ann, json!({"scenario": "disk_remade", "dir": dir})).await;
            assert_eq!((&outcome["read"], &outcome["written"]), (&json!(0), &json!(0)), "{dir}: {outcome}");
        }
    });
}

#[test]
fn nothing_is_left_of_a_scratch_when_its_run_has_ended() {
    run(async {
        let server = Server::start().await;
        let ann = server.trusted().await;
        for _ in 0..3 {
            attack(&ann, json!({"scenario": "disk_entries"})).await;
            assert_eq!(on_disk(&server.dir.path().join("scratch")), (0, 0), "the answer came before it was gone");
        }
    });
}

#[test]
fn runs_that_write_side_by_side_share_one_quota() {
    run(async {
        let server = Server::start_with(Quota { workspace_bytes: 4 * MIB, ..Quota::default() }).await;
        let ann = server.trusted().await;
        let fill = async |n: u64| {
            attack(&ann, json!({"scenario": "disk_fill", "dir": "/workspace", "bytes": 10_000 + n})).await
        };
        // All of them write the same file from its beginning, in chunks of sizes of their own.
        tokio::join!(fill(0), fill(1), fill(2), fill(3), fill(4));
        let path = server.dir.path().join("workspaces").join(&ann.name);
        let (entries, bytes) = on_disk(&path);
        assert!(entries == 1 && bytes <= 4 * MIB, "{entries} entries, {bytes} bytes");
        ann.send(Method::DELETE, "/v1/files/fill", None).await;
        let filled = attack(&ann, json!({"scenario": "disk_fill", "dir": "/workspace"})).await;
        assert_eq!(filled["done"], 4, "the books are right after it: {filled}");
    });
}
