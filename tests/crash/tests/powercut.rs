//! The disk that forgets does forget: without this, a test over it would show nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests: a surprise is a failure")]

use crash::{
    powercut::{Disk, Fault},
    writer::{ROWS, rows_kept},
};
use std::{fs, path::Path, process::Command};
use tempfile::TempDir;

struct Place {
    dir: TempDir,
    _work: TempDir,
    disk: Disk,
}

fn place() -> Place {
    let (dir, work) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let disk = Disk::over(dir.path(), work.path()).expect("a disk");
    Place { dir, _work: work, disk }
}

impl Place {
    /// Runs one of the crash test's own writers to its end. Says whether it came there without an error.
    fn write(&self, writing: &str) -> bool {
        let mut program = Command::new(env!("CARGO_BIN_EXE_crash"));
        program.args(["write", "--writing", writing, "--dir"]).arg(self.dir.path()).envs(self.disk.env(0));
        program.output().expect("run").status.success()
    }

    fn text(&self, path: &str) -> Option<String> {
        fs::read_to_string(Path::new(self.dir.path()).join(path)).ok()
    }
}

#[test]
fn what_was_not_synced_is_gone() {
    let place = place();
    assert!(place.write("once-synced"));
    assert_eq!(place.text("file").as_deref(), Some("synced not synced"), "it is there as long as the power is");
    assert_eq!(place.text("dir/file").as_deref(), Some("synced"));
    let counts = place.disk.cut().expect("cut");
    assert_eq!((counts.syncs, counts.unsynced_bytes), (5, "not synced".len() as u64));
    assert_eq!(place.text("file").as_deref(), Some("synced "));
    assert_eq!(place.text("nameless"), None, "its content was synced, its name was not");
    assert!(!place.dir.path().join("dir").exists(), "the name of the directory was not synced");
    place.disk.cut().expect("cut");
    assert_eq!(place.text("file").as_deref(), Some("synced "), "what is durable stays durable");
}

#[tokio::test]
async fn sqlite_keeps_what_it_synced_and_loses_what_it_did_not() {
    let (full, off) = (place(), place());
    assert!(full.write("sqlite-full") && off.write("sqlite-off"));
    for place in [&full, &off] {
        place.disk.cut().expect("cut");
    }
    assert_eq!(rows_kept(full.dir.path()).await.expect("read"), ROWS);
    let kept = rows_kept(off.dir.path()).await.expect("read");
    assert!(kept < ROWS, "a database that does not sync has kept all of its {kept} rows");
}

#[test]
fn every_fault_is_an_error_for_who_writes() {
    for fault in Fault::ALL {
        let place = place();
        place.disk.fail(fault, 1_000).expect("set");
        assert!(!place.write("once-synced"), "{fault:?} went unseen");
        assert!(place.disk.counts().expect("counted").faults_made > 0);
        place.disk.fail(Fault::None, 0).expect("set");
        place.disk.cut().expect("cut");
        assert_eq!(place.text("file"), None, "{fault:?}: nothing was ever synced with success");
    }
}
