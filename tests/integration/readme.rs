//! The README says what is true: its walk works as printed, its table has the numbers of the code.

use crate::server::run;
use cofferdam_core::quota::{
    HOST_CALL_BYTES_MAX, LOG_LINE_BYTES_MAX, METADATA_BYTES_MAX, PLUGIN_BYTES_MAX, PLUGIN_DESCRIPTIONS_BYTES_MAX,
    Quota, RUNS_LIVE_MAX, RUNS_QUEUED_MAX, STATE_KEY_OVERHEAD_BYTES, USER_QUOTAS_MAX,
};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use tempfile::TempDir;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the root")
}

fn readme() -> String {
    std::fs::read_to_string(root().join("README.md")).expect("a README")
}

/// How long it may take to do what the README shows.
const WALK_MAX: Duration = Duration::from_secs(120);

/// Where a reader is: a folder with what the README's commands use of the real one, and a target directory of its own.
fn reader() -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let binary = Path::new(env!("CARGO_BIN_EXE_cofferdam"));
    let target = binary.parent().and_then(Path::parent).expect("a directory");
    std::fs::create_dir_all(dir.path().join("target/debug")).expect("made");
    for (there, here) in [
        (root().join("plugins"), "plugins"),
        (target.join("guests"), "target/guests"),
        (binary.to_owned(), "target/debug/cofferdam"),
    ] {
        std::os::unix::fs::symlink(there, dir.path().join(here)).expect("linked");
    }
    dir
}

#[test]
fn the_walk_with_curl_works_word_for_word() {
    run(async {
        let readme = readme();
        let walk = readme.split("<!-- walk:").nth(1).and_then(|rest| rest.split("```sh\n").nth(1));
        let walk = walk.and_then(|rest| rest.split("```").next()).expect("the walk");
        let dir = reader();
        // A walk that fails must not leave its server behind.
        let walk = format!("trap 'kill ${{SERVER:-}} 2>/dev/null || true' EXIT\n{walk}");
        let mut bash = tokio::process::Command::new("bash");
        bash.args(["-euo", "pipefail", "-m", "-c", &walk]).current_dir(dir.path()).kill_on_drop(true);
        let walked = tokio::time::timeout(WALK_MAX, bash.output()).await.expect("in time");
        let walked = walked.expect("bash is there");
        let (out, err) = (String::from_utf8_lossy(&walked.stdout), String::from_utf8_lossy(&walked.stderr));
        assert!(walked.status.success(), "{}\n{out}\n{err}", walked.status);
        for word in
            ["event: agent_started", "event: progress", "event: agent_completed", r#""stop_reason":"completed""#, "# "]
        {
            assert!(out.contains(word), "{word} is not in\n{out}\n{err}");
        }
    });
}

/// Types the commands of the section on runs that last, and looks for each line of the output that it shows.
#[test]
fn the_transcript_of_a_run_that_outlives_its_host_is_true() {
    run(async {
        let readme = readme();
        let section = readme.split("<!-- lasting:").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("it");
        let blocks = section.split("```console\n").skip(1).filter_map(|rest| rest.split("```").next());
        let (mut typed, mut shown) = (String::new(), Vec::new());
        for line in blocks.flat_map(str::lines) {
            match line.strip_prefix("$ ").or_else(|| line.strip_prefix("> ")) {
                Some(command) => typed += &format!("{command}\n"),
                None => shown.push(line),
            }
        }
        assert!(shown.len() > 15, "{shown:#?}");
        let dir = reader();
        let script = format!("exec 2>&1\ntrap 'kill -9 ${{SERVER:-}} 2>/dev/null || true' EXIT\n{typed}");
        let mut bash = tokio::process::Command::new("bash");
        bash.args(["-m", "-c", &script]).current_dir(dir.path()).kill_on_drop(true);
        let done = tokio::time::timeout(WALK_MAX, bash.output()).await.expect("in time").expect("bash is there");
        let printed = String::from_utf8_lossy(&done.stdout);
        // In this order; what the shell itself says, as of a process that was killed, may come in between.
        let mut lines = printed.lines();
        for line in shown {
            assert!(lines.any(|printed| is_shown(printed, line)), "{line:?} does not come in its place in\n{printed}");
        }
    });
}

/// Whether a line is the one that is shown, where `…` stands for anything.
fn is_shown(printed: &str, shown: &str) -> bool {
    let mut parts = shown.split('…');
    let begins = parts.next().and_then(|first| printed.strip_prefix(first));
    let rest = parts.try_fold((begins, false), |(rest, _), part| {
        let (_, after) = rest?.split_once(part)?;
        // After the last `…` of a line, whatever it is may come.
        Some((Some(after), part.is_empty()))
    });
    matches!(rest, Some((Some(rest), open)) if open || rest.is_empty())
}

#[test]
fn a_line_is_recognized_by_what_is_shown_of_it() {
    for (printed, shown, is) in [
        ("a b c", "a b c", true),
        ("a b c", "a b", false),
        ("a b c", "a…", true),
        ("a b c", "a … c", true),
        ("a b c", "a … d", false),
        ("a b c", "b…", false),
    ] {
        assert_eq!(is_shown(printed, shown), is, "{printed} {shown}");
    }
}

#[test]
fn the_agent_shown_is_the_one_that_the_sdk_compiles() {
    let sdk = std::fs::read_to_string(root().join("guest-sdk/src/lib.rs")).expect("the SDK");
    let docs =
        sdk.lines().filter_map(|line| line.strip_prefix("//!")).map(|line| line.strip_prefix(' ').unwrap_or(line));
    // What rustdoc hides is not shown elsewhere either.
    let docs = docs.filter(|line| !line.starts_with("# ")).collect::<Vec<_>>().join("\n");
    let readme = readme();
    let shown = readme.split("```rust\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an agent");
    assert!(docs.contains(shown), "the README's agent is not the example in the SDK's documentation");
}

/// Limits of the host itself, which no quota changes, and what becomes of whoever meets them.
const OF_THE_HOST: [(&str, u64, &str, &str); 9] = [
    ("runs at once on a host", RUNS_LIVE_MAX as u64, "", "they wait"),
    ("runs waiting on a host", RUNS_QUEUED_MAX as u64, "", "429 and `Retry-After`"),
    ("text or value of one host call", HOST_CALL_BYTES_MAX as u64, "bytes", "typed error to the guest"),
    ("log line", LOG_LINE_BYTES_MAX as u64, "bytes", "typed error to the guest"),
    ("metadata of one run", METADATA_BYTES_MAX as u64, "bytes", "422"),
    (
        "state key, beside its own bytes and its value's",
        STATE_KEY_OVERHEAD_BYTES,
        "bytes",
        "counts as state of its user",
    ),
    ("component pushed", PLUGIN_BYTES_MAX as u64, "bytes", "413"),
    ("what all plugin versions of a host say of themselves", PLUGIN_DESCRIPTIONS_BYTES_MAX as u64, "bytes", "429"),
    ("tiers; users with a quota of their own", USER_QUOTAS_MAX as u64, "", "429 (100 tiers)"),
];

/// The table, made from the code. With `UPDATE_EXPECT=1` it is written into the README.
#[test]
fn the_table_of_limits_is_the_one_that_the_code_makes() {
    let mut table =
        String::from("| limit | key | value | can be set from – to | at the limit |\n|---|---|--:|---|---|\n");
    let unit = |unit: &str| if unit.is_empty() { String::new() } else { format!(" {unit}") };
    for row in Quota::ROWS {
        let (value, floor, ceiling) = (thousands(row.default), thousands(row.floor), thousands(row.ceiling));
        let (what, at) = (row.what, row.at_the_limit);
        table += &format!("| {what} | `{}` | {value}{} | {floor} – {ceiling} | {at} |\n", row.name, unit(row.unit));
    }
    table += "| memories and tables of all live contexts of a host | | half of the machine's | | growth is refused |\n";
    for (what, value, of, at) in OF_THE_HOST {
        table += &format!("| {what} | | {}{} | | {at} |\n", thousands(value), unit(of));
    }
    let (begin, end) = ("<!-- limits: made from the code -->\n", "<!-- end of limits -->");
    let readme = readme();
    let (before, rest) = readme.split_once(begin).expect("where the table begins");
    let (shown, after) = rest.split_once(end).expect("where the table ends");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        let text = format!("{before}{begin}{table}{end}{after}");
        std::fs::write(root().join("README.md"), text).expect("written");
    } else {
        assert!(shown == table, "the README's table is not\n{table}; UPDATE_EXPECT=1 writes it");
    }
}

/// What README.md and SECURITY.md promise names the test that tries it, as `file::test`.
#[test]
fn every_test_that_a_promise_names_exists() {
    let mut named = 0;
    for page in ["README.md", "SECURITY.md"] {
        let text = std::fs::read_to_string(root().join(page)).expect("a page");
        for word in text.split('`').filter(|word| word.contains("::") && !word.contains([' ', '/', '(', '*'])) {
            let Some((file, test)) = word.split_once("::") else { continue };
            let places = [
                format!("tests/integration/{file}.rs"),
                format!("tests/integration/{file}/main.rs"),
                format!("tests/integration/languages/{file}.rs"),
                format!("host/core/src/{file}.rs"),
                format!("host/core/src/{file}/tests.rs"),
                format!("host/runtime/src/{file}.rs"),
                format!("host/server/src/{file}.rs"),
            ];
            let source: String =
                places.iter().filter_map(|place| std::fs::read_to_string(root().join(place)).ok()).collect();
            assert!(!source.is_empty(), "{page} names `{word}`, but there is no {file}.rs");
            let test = test.rsplit("::").next().unwrap_or(test);
            assert!(source.contains(&format!("fn {test}()")), "{page} names `{word}`, which does not exist");
            named += 1;
        }
    }
    assert!(named > 30, "{named} tests are named");
}

fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
