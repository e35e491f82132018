//! The README says what is true: its walk works as printed, its table has the numbers of the code.

use crate::server::run;
use cofferdam_core::quota::{
    HOST_CALL_BYTES_MAX, LOG_LINE_BYTES_MAX, METADATA_BYTES_MAX, PLUGIN_BYTES_MAX, PLUGIN_DESCRIPTIONS_BYTES_MAX,
    Quota, RUN_INPUT_BYTES_MAX, RUN_OUTPUT_BYTES_MAX, RUNS_LIVE_MAX, RUNS_QUEUED_MAX, STATE_KEY_OVERHEAD_BYTES,
};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the root")
}

fn readme() -> String {
    std::fs::read_to_string(root().join("README.md")).expect("a README")
}

#[test]
fn the_walk_with_curl_works_word_for_word() {
    run(async {
        let readme = readme();
        let walk = readme.split("<!-- walk:").nth(1).and_then(|rest| rest.split("```sh\n").nth(1));
        let walk = walk.and_then(|rest| rest.split("```").next()).expect("the walk");
        // The walk's own files go to a target directory of its own, with what it uses of the real one.
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
        // A walk that fails must not leave its server behind.
        let walk = format!("trap 'kill ${{SERVER:-}} 2>/dev/null || true' EXIT\n{walk}");
        let mut bash = tokio::process::Command::new("bash");
        bash.args(["-euo", "pipefail", "-m", "-c", &walk]).current_dir(dir.path()).kill_on_drop(true);
        let walked = tokio::time::timeout(std::time::Duration::from_secs(120), bash.output()).await.expect("in time");
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

#[test]
fn the_table_of_limits_has_the_numbers_of_the_code() {
    let readme = readme();
    // Destructured without a rest, so that a limit cannot be added without a row.
    let Quota {
        fuel_per_run,
        memory_bytes_per_context,
        memory_bytes_per_user,
        deadline_ms,
        runs_at_once,
        runs_queued,
        queue_wait_ms,
        tool_calls_per_run,
        tool_calls_in_flight,
        events_per_run,
        event_bytes_per_run,
        host_calls_per_run,
        log_bytes_per_run,
        record_bytes_per_run,
        state_bytes,
        workspace_bytes,
        workspace_files,
        scratch_bytes,
        scratch_files,
        runs_stored,
        history_bytes,
        history_days,
        failures_in_a_row,
    } = Quota::default();
    let rows = [
        ("fuel of one run", fuel_per_run, ""),
        ("all memories and tables of one context", memory_bytes_per_context, " bytes"),
        ("memories and tables of all live contexts of one user", memory_bytes_per_user, " bytes"),
        ("run deadline", deadline_ms, " ms"),
        ("runs at once of one user", runs_at_once.into(), ""),
        ("runs waiting of one user", runs_queued.into(), ""),
        ("longest wait for a slot", queue_wait_ms, " ms"),
        ("runs at once on a host", RUNS_LIVE_MAX.into(), ""),
        ("runs waiting on a host", RUNS_QUEUED_MAX.into(), ""),
        ("tool calls of one run", tool_calls_per_run.into(), ""),
        ("tool calls under way in one run", tool_calls_in_flight.into(), ""),
        ("events of one run", events_per_run.into(), ""),
        ("bytes of events of one run, those of its tool calls included", event_bytes_per_run, " bytes"),
        ("bytes of log lines of one run", log_bytes_per_run, " bytes"),
        ("record of one run's host calls and their answers", record_bytes_per_run, " bytes"),
        ("host calls of one run, of every kind", host_calls_per_run, ""),
        ("text or value of one host call", HOST_CALL_BYTES_MAX as u64, " bytes"),
        ("log line", LOG_LINE_BYTES_MAX as u64, " bytes"),
        ("input of one run", RUN_INPUT_BYTES_MAX as u64, " bytes"),
        ("output of one run", RUN_OUTPUT_BYTES_MAX as u64, " bytes"),
        ("metadata of one run", METADATA_BYTES_MAX as u64, " bytes"),
        ("state of one user", state_bytes, " bytes"),
        ("state key, beside its own bytes and its value's", STATE_KEY_OVERHEAD_BYTES, " bytes"),
        ("workspace of one user", workspace_bytes, " bytes"),
        ("entries in one workspace", workspace_files, ""),
        ("`/scratch` of one run", scratch_bytes, " bytes"),
        ("entries in one `/scratch`", scratch_files, ""),
        ("finished runs of one user that are kept", runs_stored, ""),
        ("finished runs of one user: inputs, outputs, events and records", history_bytes, " bytes"),
        ("age of a finished run", history_days.into(), " days"),
        ("runs of one plugin and user that fail one after another", failures_in_a_row.into(), ""),
        ("component pushed", PLUGIN_BYTES_MAX as u64, " bytes"),
        ("what all plugin versions of a host say of themselves", PLUGIN_DESCRIPTIONS_BYTES_MAX as u64, " bytes"),
    ];
    for (limit, value, unit) in rows {
        let row = format!("| {limit} | {}{unit} |", thousands(value));
        assert!(readme.contains(&row), "the README has no row\n{row}");
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
