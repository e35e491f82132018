use super::*;
use crate::scratch::Scratches;
use cofferdam_core::ids::RunId;

const CREATE: Opening = Opening { create: true, exclusive: false, truncate: false, directory: false };

fn tree(workspace_bytes: u64, workspace_files: u64) -> (tempfile::TempDir, Tree) {
    let root = tempfile::tempdir().expect("a directory");
    let quota = Quota { workspace_bytes, workspace_files, ..Quota::default() };
    let tree = Tree::new(Some(root.path().join("tree")), Room::workspace(LiveQuota::fixed(quota)));
    (root, tree)
}

fn held(tree: &Tree) -> (u64, u64) {
    let held = lock(&tree.held);
    held.as_ref().map_or((0, 0), |held| (held.bytes, held.entries))
}

/// What is really there, as it is counted when a tree is first used.
fn counted(tree: &Tree) -> (u64, u64) {
    *lock(&tree.held) = None;
    drop(tree.held().expect("counted"));
    held(tree)
}

#[test]
fn every_way_to_write_is_charged_before_it_happens() {
    let (_root, tree) = tree(100, 4);
    let file = tree.open("a", CREATE).expect("made").1;
    assert_eq!(tree.write_at("a", &file, At::Offset(0), &[1; 60]).expect("room"), 60);
    assert_eq!(tree.write_at("a", &file, At::End, &[2; 40]).expect("room"), 100);
    assert!(matches!(tree.write_at("a", &file, At::End, b"x"), Err(FileError::Full { limit: "bytes", max: 100 })));
    assert!(tree.write_at("a", &file, At::Offset(100), b"x").is_err(), "and so is an offset");
    assert!(tree.write_at("a", &file, At::Offset(u64::MAX), b"x").is_err(), "also one beyond all numbers");
    assert_eq!(tree.write_at("a", &file, At::Offset(0), &[3; 100]).expect("in place"), 100);
    assert!(tree.set_size("a", &file, 101).is_err());
    tree.set_size("a", &file, 10).expect("shorter");
    // A hole is charged as what it says it is.
    assert_eq!(tree.write_at("a", &file, At::Offset(98), b"xx").expect("room"), 100);
    assert!(tree.set_size("a", &file, u64::MAX).is_err());
    assert_eq!(held(&tree), (100, 1));
    tree.make_dir("d").expect("room");
    tree.open("d/b", CREATE).expect("room");
    tree.open("d/c", CREATE).expect("room");
    assert!(matches!(tree.make_dir("e"), Err(FileError::Full { limit: "entries", max: 4 })));
    assert!(matches!(tree.open("e", CREATE), Err(FileError::Full { limit: "entries", max: 4 })));
    tree.rename("a", "d/b").expect("replaced");
    assert_eq!(held(&tree), (100, 3));
    tree.open("d/b", Opening { truncate: true, ..CREATE }).expect("emptied");
    assert_eq!(held(&tree), (0, 3));
    assert_eq!(counted(&tree), (0, 3));
}

#[test]
fn an_open_file_that_is_removed_or_replaced_is_gone_and_its_bytes_are_free() {
    let (_root, tree) = tree(100, 10);
    for _ in 0..50 {
        let file = tree.open("a", CREATE).expect("room").1;
        tree.write_at("a", &file, At::Offset(0), &[1; 100]).expect("room again");
        tree.remove_kind("a", EntryKind::File).expect("removed");
        assert!(matches!(tree.write_at("a", &file, At::Offset(0), b"x"), Err(FileError::NotFound(_))));
    }
    let (old, new) = (tree.open("old", CREATE).expect("made").1, tree.open("new", CREATE).expect("made").1);
    tree.rename("new", "old").expect("replaced");
    assert!(tree.read_at("old", &old, 0, 1).is_err(), "it is another file now");
    assert_eq!(tree.read_at("old", &new, 0, 1).expect("moved"), (Vec::new(), true));
    assert_eq!((held(&tree), counted(&tree)), ((0, 1), (0, 1)));
}

#[test]
fn a_scratch_is_removed_also_after_a_write_that_failed() {
    let root = tempfile::tempdir().expect("a directory");
    let scratches = Scratches::open(root.path().join("scratch")).expect("opened");
    let run = RunId::generate();
    let path = root.path().join("scratch").join(run.to_string());
    let tree = scratches.of(run, LiveQuota::fixed(Quota::default()));
    tree.open("a", CREATE).expect("made");
    // What a failure does: the books are closed until somebody counts anew.
    *lock(&tree.held) = None;
    drop(tree);
    assert!(!path.exists(), "it is left behind");
    drop(scratches.of(run, LiveQuota::fixed(Quota::default())));
    assert!(!path.exists(), "who never used it made none");
}

#[test]
fn a_file_is_not_the_one_that_got_its_number_after_it() {
    let (_root, tree) = tree(100, 10);
    let (mut before, mut again) = (None, 0);
    for _ in 0..50 {
        let (there, file) = tree.open("a", CREATE).expect("made");
        again += u32::from(before == Some(there.number));
        before = Some(there.number);
        tree.remove_kind("a", EntryKind::File).expect("removed");
        let (_, new) = tree.open("a", CREATE).expect("made again");
        assert_eq!(tree.write_at("a", &new, At::Offset(0), b"new").expect("room"), 3);
        assert!(matches!(tree.read_at("a", &file, 0, 9), Err(FileError::NotFound(_))));
        assert!(matches!(tree.write_at("a", &file, At::Offset(0), b"old"), Err(FileError::NotFound(_))));
        assert!(tree.set_size("a", &file, 0).is_err());
        assert_eq!(tree.read_at("a", &new, 0, 9).expect("there").0, b"new");
        let (_, same) = tree.open("a", Opening::default()).expect("opened again");
        assert!(Arc::ptr_eq(&same, &new), "it is the same file for everybody");
        tree.remove("a").expect("removed");
    }
    println!("{again} of 50 files got the number of the one before");
    for n in 0..2 * OPENED_KEPT {
        drop(tree.open("a", CREATE).expect("made"));
        drop(tree.open(&format!("b{}", n % 2), CREATE).expect("made"));
        tree.rename("a", "b0").expect("replaced");
    }
    assert!(lock(&tree.opened).len() <= OPENED_KEPT, "what nobody has open is forgotten");
}

#[test]
fn two_that_write_at_once_never_share_the_last_bytes() {
    let (_root, tree) = tree(10_000, 200);
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let tree = &tree;
            scope.spawn(move || {
                for n in 0..40 {
                    let path = format!("{writer}-{n}");
                    let file = tree.open(&path, CREATE).expect("entries are enough").1;
                    while tree.write_at(&path, &file, At::End, &[0; 70]).is_ok()
                        && tree.stat(&path).expect("there").bytes < 350
                    {}
                    if n % 3 == 0 {
                        tree.remove_kind(&path, EntryKind::File).expect("removed");
                    }
                }
            });
        }
    });
    let (bytes, entries) = held(&tree);
    assert!(bytes <= 10_000 && bytes > 9_000, "{bytes}");
    assert_eq!(counted(&tree), (bytes, entries), "the books say what is there");
}

#[test]
fn what_an_operator_planted_leads_nowhere_and_blocks_nobody() {
    let (root, tree) = tree(100, 20);
    tree.make_dir("d").expect("made");
    let secret = root.path().join("secret");
    std::fs::write(&secret, "s").expect("written");
    let at = |name: &str| root.path().join("tree").join(name);
    std::os::unix::fs::symlink("../secret", at("out")).expect("linked");
    std::os::unix::fs::symlink("..", at("up")).expect("linked");
    std::os::unix::fs::symlink("up", at("chain")).expect("linked");
    std::os::unix::fs::symlink("d", at("within")).expect("linked");
    let pipe = std::process::Command::new("mkfifo").arg(at("pipe")).status().expect("started");
    assert!(pipe.success());
    for path in ["out", "up/secret", "chain/secret", "within", "pipe"] {
        assert!(tree.open(path, CREATE).is_err(), "{path} was opened");
        assert!(tree.open(path, Opening { truncate: true, ..Opening::default() }).is_err(), "{path} was emptied");
        assert!(tree.stat(path).is_err(), "{path} was looked at");
        assert!(tree.rename(path, "moved").is_err(), "{path} was moved");
        assert!(tree.remove_kind(path, EntryKind::File).is_err(), "{path} was removed");
        assert!(tree.make_dir(&format!("{path}/x")).is_err() || path == "within", "{path} was entered");
    }
    assert_eq!(tree.names("").expect("listed"), [("d".to_owned(), EntryKind::Directory)]);
    assert_eq!(std::fs::read_to_string(secret).expect("still there"), "s");
}

#[test]
fn paths_are_joined_by_their_names_and_never_lead_out() {
    for (from, path, joined_to) in [
        ("", "a", "a"),
        ("", ".", ""),
        ("a", "..", ""),
        ("a/b", "../c", "a/c"),
        ("a", "./b//c/", "a/b/c"),
        ("", "", ""),
    ] {
        assert_eq!(joined(from, path).expect("inside"), joined_to, "{path} from {from}");
    }
    let deep = "a/".repeat(PATH_DEPTH_MAX);
    for (from, path) in [
        ("", ".."),
        ("a", "../.."),
        ("", "/etc"),
        ("", "a\0b"),
        ("", "a\\b"),
        ("x", &*deep),
        ("", &"a".repeat(PATH_BYTES_MAX + 1)),
    ] {
        assert!(joined(from, path).is_err(), "{path} from {from} was taken");
    }
}

#[test]
fn no_directory_is_moved_to_where_no_path_reaches() {
    let (_root, tree) = tree(0, 100);
    let mut path = String::new();
    for n in 0..PATH_DEPTH_MAX {
        path = if n == 0 { "d".into() } else { format!("{path}/d") };
        tree.make_dir(&path).expect("as deep as may be");
    }
    tree.make_dir("e").expect("made");
    assert!(matches!(tree.rename("d", "e/d"), Err(FileError::InvalidPath(_))));
    tree.rename("d", "f").expect("as deep as before");
    assert!(tree.rename("f", "f/d/x").is_err(), "into itself");
    assert_eq!(counted(&tree), (0, PATH_DEPTH_MAX as u64 + 1));
}
