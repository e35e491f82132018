//! What is printed: results on standard output, and nothing of a guest's that could drive a terminal.

use super::failure::Failure;
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

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

/// Something that takes its time, shown on standard error while it does, if that is a terminal.
pub(super) fn spinner(doing: String) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let spinner = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
        spinner.set_style(style);
    }
    spinner.set_message(doing);
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
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
    fn json_on_one_line_is_the_same_json() {
        let text = "{\r\n\t\"a\": \"b\u{9b}\u{7f}\" }";
        let line = json_line(text);
        assert!(!line.contains(|c: char| c.is_control()), "{line:?}");
        let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
        assert_eq!(read(&line), read(text));
    }
}
