//! Takes more than a share of the disk, and reaches for files that are not its own.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};

use serde_json::{Value, json};

fn word<T>(result: io::Result<T>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(error) => name(&error),
    }
}

/// The kind of an error; its text, where the standard library has no kind for it.
fn name(error: &io::Error) -> String {
    match format!("{:?}", error.kind()).as_str() {
        "Uncategorized" => error.to_string(),
        kind => kind.to_owned(),
    }
}

/// Does it until it is refused, or `most` times, and says how often it was let and what it was told.
fn until_refused(most: u64, mut once: impl FnMut(u64) -> io::Result<()>) -> String {
    for done in 0..most {
        if let Err(error) = once(done) {
            return json!({"done": done, "refused": name(&error)}).to_string();
        }
    }
    json!({"done": most, "refused": null}).to_string()
}

/// Writes one file a chunk at a time.
pub fn fill(dir: &str, bytes: usize) -> String {
    let chunk = vec![b'x'; bytes];
    let mut file = match File::create(format!("{dir}/fill")) {
        Ok(file) => file,
        Err(error) => return json!({"done": 0, "refused": name(&error)}).to_string(),
    };
    until_refused(1 << 20, |_| file.write_all(&chunk))
}

/// Appends to one file, opened anew each time.
pub fn append(dir: &str, bytes: usize) -> String {
    let chunk = vec![b'x'; bytes];
    until_refused(1 << 20, |_| {
        OpenOptions::new().append(true).create(true).open(format!("{dir}/append"))?.write_all(&chunk)
    })
}

/// Makes empty files, and then a directory.
pub fn entries(dir: &str) -> String {
    let files = until_refused(1 << 20, |n| File::create(format!("{dir}/entry-{n}")).map(drop));
    json!({"files": serde_json::from_str::<Value>(&files).unwrap_or_default(), "directory": word(fs::create_dir(format!("{dir}/d")))})
        .to_string()
}

/// Files with nothing in them but an end far away.
pub fn holes(dir: &str, bytes: u64) -> String {
    let sparse = |name: &str, end: u64| {
        let mut file = File::create(format!("{dir}/{name}"))?;
        file.seek(SeekFrom::Start(end))?;
        file.write_all(b"x")
    };
    let resized = |end: u64| File::create(format!("{dir}/resized")).and_then(|file| file.set_len(end));
    json!({
        "within": word(sparse("within", bytes / 2)),
        "sparse": word(sparse("sparse", bytes)),
        "resized": word(resized(bytes)),
        "resized to the end of numbers": word(resized(i64::MAX as u64)),
    })
    .to_string()
}

/// Keeps files open, writes them full, and removes them.
pub fn unlinked(dir: &str, bytes: usize, times: u64) -> String {
    let chunk = vec![b'x'; bytes];
    let mut open = Vec::new();
    let path = format!("{dir}/unlinked");
    until_refused(times, |_| {
        let mut file = File::create(&path)?;
        file.write_all(&chunk)?;
        fs::remove_file(&path)?;
        open.push(file);
        Ok(())
    })
}

/// Opens a file, removes it, makes another under its name, and counts how often the one that is open leads to it.
pub fn remade(dir: &str, times: u64) -> String {
    let path = format!("{dir}/remade");
    let (mut read, mut written, mut told) = (0, 0, "ok".to_owned());
    for n in 0..times {
        let done = (|| {
            fs::write(&path, "old")?;
            let mut old = OpenOptions::new().read(true).write(true).open(&path)?;
            fs::remove_file(&path)?;
            fs::write(&path, format!("new {n}"))?;
            let mut text = String::new();
            let outcome = old.read_to_string(&mut text);
            read += u64::from(outcome.is_ok());
            told = word(outcome);
            let _ = old.rewind().and_then(|()| old.write_all(b"forged")).and_then(|()| old.flush());
            written += u64::from(fs::read_to_string(&path)? != format!("new {n}"));
            fs::remove_file(&path)
        })();
        if let Err(error) = done {
            return json!({"failed": name(&error)}).to_string();
        }
    }
    json!({"read": read, "written": written, "told": told}).to_string()
}

/// Opens one file over and over, and closes none.
pub fn handles(dir: &str) -> String {
    let path = format!("{dir}/open");
    let mut open = Vec::new();
    until_refused(1 << 20, |_| {
        open.push(OpenOptions::new().write(true).create(true).truncate(false).open(&path)?);
        Ok(())
    })
}

/// Replaces a file by another, back and forth, as fast as it can.
pub fn renames(dir: &str, times: u64) -> String {
    let at = |name: &str| format!("{dir}/{name}");
    until_refused(times, |n| {
        fs::write(at("a"), n.to_string())?;
        fs::write(at("b"), "b")?;
        fs::rename(at("a"), at("b"))?;
        fs::rename(at("b"), at("a"))?;
        fs::remove_file(at("a"))
    })
}

/// Directories, each in the one before.
pub fn deep(dir: &str) -> String {
    let mut path = dir.to_owned();
    until_refused(1 << 20, |_| {
        path.push_str("/d");
        fs::create_dir(&path)
    })
}

/// Ways out of a directory, with what came of each.
pub fn ways_out(dir: &str, other: &str) -> String {
    let mut found = serde_json::Map::new();
    let mut note = |what: &str, outcome: String| found.insert(what.to_owned(), Value::from(outcome));
    let at = |name: &str| format!("{dir}/{name}");
    for way in
        ["..", "../..", "../../etc/passwd", "x/../../..", "/etc/passwd", "//etc/passwd", "a\\..\\..", "./../secret"]
    {
        note(&format!("read {way}"), word(fs::read(at(way))));
        note(&format!("write {way}"), word(fs::write(at(way), "forged")));
        note(&format!("list {way}"), word(fs::read_dir(at(way))));
    }
    for way in
        ["/etc/passwd", "/proc/self/environ", "/", "/..", "etc/passwd", "~", "/dev/zero", "/scratch/../etc/passwd"]
    {
        note(&format!("read {way} itself"), word(fs::read(way)));
    }
    note("make x", word(fs::write(at("x"), "x")));
    #[allow(deprecated, reason = "the one way to a symbolic link that every target has")]
    let linked = fs::soft_link("/etc/passwd", at("link"));
    note("symbolic link", word(linked));
    note("read it", word(fs::read(at("link"))));
    note("hard link", word(fs::hard_link(at("x"), at("hard"))));
    note("rename out", word(fs::rename(at("x"), at("../x"))));
    note("rename across", word(fs::rename(at("x"), format!("{other}/x"))));
    note("rename root", word(fs::rename(dir, format!("{dir}2"))));
    note("remove root", word(fs::remove_dir_all(dir)));
    note("read link", word(fs::read_link(at("x"))));
    let long = "n".repeat(300);
    note("long name", word(fs::write(at(&long), "x")));
    note("very long path", word(fs::write(at(&"a/".repeat(10_000)), "x")));
    let mut read = String::new();
    let opened = File::open(dir).and_then(|mut file| file.read_to_string(&mut read));
    note("read a directory", word(opened));
    Value::Object(found).to_string()
}
