//! What is printed: results on standard output, and nothing of a guest's that could drive a terminal.

use super::failure::Failure;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value};
use std::{
    borrow::Cow,
    convert::Infallible,
    fmt::Write as _,
    io::{self, IsTerminal as _, Write as _},
    sync::mpsc::{self, RecvTimeoutError, SyncSender},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// How long something may take before a line says that it is under way, and how often one does from then on.
const FIRST_LINE_AFTER: Duration = Duration::from_secs(2);
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Prints a line on standard output.
pub(super) fn line(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        // Whoever reads has seen enough: `cofferdam runs list | head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done.map_err(|error| Failure::Host(format!("cannot write to standard output: {error}"))),
    }
}

/// Prints a line on standard error.
pub(super) fn note(text: &str) {
    // Nobody is left to tell that standard error is closed.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Prints bytes on standard output.
pub(super) fn bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done.map_err(|error| Failure::Host(format!("cannot write to standard output: {error}"))),
    }
}

/// A text whose control characters are written out, as in JSON. Agents and file names come from anybody: an escape
/// sequence could repaint the terminal, and an override of direction could make a text read as what it is not.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    let drives = |c: char| {
        c.is_control()
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{061c}')
    };
    if !text.contains(drives) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().fold(String::with_capacity(text.len() + 16), |mut shown, c| {
        // Writing to a string cannot fail. All of these characters have four hexadecimal digits at most.
        let _ = if drives(c) { write!(shown, "\\u{:04x}", u32::from(c)) } else { shown.write_char(c) };
        shown
    }))
}

/// A JSON text on one line. Line breaks in it can only stand between its tokens; other control characters only within
/// strings, where their escape means the same.
pub(super) fn json_line(text: &str) -> String {
    printable(&text.replace(['\n', '\r', '\t'], " ")).into_owned()
}

/// What is another in a JSON object than it was, one member a line.
pub(super) fn changes(old: &Map<String, Value>, new: &Map<String, Value>) -> Vec<String> {
    let gone = old.keys().filter(|name| !new.contains_key(*name));
    let changed = new.keys().chain(gone).filter(|name| old.get(*name) != new.get(*name));
    changed.map(|name| change(name, old.get(name), new.get(name))).collect()
}

/// A value that became another, by its name.
pub(super) fn change(name: &str, old: Option<&Value>, new: Option<&Value>) -> String {
    let shown = |value: Option<&Value>| match value {
        Some(Value::String(text)) => printable(text).into_owned(),
        Some(value) => json_line(&value.to_string()),
        None => "nothing".to_owned(),
    };
    format!("{:<28} {} → {}", printable(name), shown(old), shown(new))
}

/// Something that takes its time, told on standard error while it does, until this is dropped: as it goes on a terminal, and in
/// a line every few seconds elsewhere, so that nobody takes it for something that hangs. With `--json` there are no lines:
/// programs read errors there.
pub(super) fn progress(doing: String, json: bool) -> Progress {
    // Files and projects are called what anybody liked.
    let doing = printable(&doing).into_owned();
    if !io::stderr().is_terminal() {
        return Progress {
            bar: None,
            _lines: (!json).then(|| Lines::start(doing, FIRST_LINE_AFTER, LINE_EVERY, note)),
        };
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
        bar.set_style(style);
    }
    bar.set_message(doing);
    bar.enable_steady_tick(Duration::from_millis(100));
    Progress { bar: Some(bar), _lines: None }
}

/// What is told of something under way.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    _lines: Option<Lines>,
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Lines that say how long something has taken so far, and at its end, if there was one before, how long it took.
struct Lines {
    // Nothing is ever sent: that it is gone is what the thread hears.
    going: Option<SyncSender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

impl Lines {
    fn start(doing: String, first: Duration, every: Duration, tell: impl Fn(&str) + Send + 'static) -> Self {
        let (going, gone) = mpsc::sync_channel::<Infallible>(1);
        let began = Instant::now();
        let lines = move || {
            let (mut pause, mut told) = (first, false);
            while matches!(gone.recv_timeout(pause), Err(RecvTimeoutError::Timeout)) {
                tell(&format!("{doing}: {} s so far", began.elapsed().as_secs()));
                (pause, told) = (every, true);
            }
            if told {
                tell(&format!("{doing}: {} s in all", began.elapsed().as_secs()));
            }
        };
        // Without a thread there are no lines, and all else goes on.
        Self { going: Some(going), thread: thread::Builder::new().spawn(lines).ok() }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        drop(self.going.take());
        // So that its last line comes before what is printed next.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_writes_does_not_drive_the_terminal() {
        assert_eq!(printable("plain é 漢字"), "plain é 漢字");
        assert_eq!(printable("\u{1b}[2J\u{9b}31m\r\n\u{202e}x"), "\\u001b[2J\\u009b31m\\u000d\\u000a\\u202ex");
    }

    #[test]
    fn what_takes_long_is_told_until_it_ends_and_what_is_quick_is_not() {
        let hour = Duration::from_secs(3600);
        let told_of = |first: Duration| {
            let (tell, told) = mpsc::sync_channel(9);
            let tell = move |line: &str| tell.send(line.to_owned()).expect("somebody listens");
            (Lines::start("compiling x".to_owned(), first, hour, tell), told)
        };
        let (lines, told) = told_of(Duration::ZERO);
        assert!(told.recv().expect("a line").starts_with("compiling x: "));
        drop(lines);
        assert!(told.recv().expect("a line").ends_with(" s in all"));
        let (lines, told) = told_of(hour);
        drop(lines);
        assert!(told.recv().is_err());
    }

    #[test]
    fn changes_are_told_old_and_new_and_what_is_the_same_is_not() {
        let object = |value: Value| value.as_object().cloned().expect("an object");
        let old = object(serde_json::json!({"a": 1, "b": "read", "c": ["x"], "e": "\u{1b}"}));
        let new = object(serde_json::json!({"a": 1, "b": "none", "c": ["x", "y"], "d": true}));
        let words = |line: &String| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let told: Vec<_> = changes(&old, &new).iter().map(words).collect();
        assert_eq!(told, ["b read → none", "c [\"x\"] → [\"x\",\"y\"]", "d nothing → true", "e \\u001b → nothing"]);
    }

    #[test]
    fn json_on_one_line_is_the_same_json() {
        let text = "{\r\n\t\"a\": \"b\u{9b}\u{7f}\" }";
        let line = json_line(text);
        assert!(!line.contains(|c: char| c.is_control()), "{line:?}");
        let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
        assert_eq!(read(&line), read(text));
    }
}
