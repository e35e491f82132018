//! Tries to take what it was not given: one component, with an attack for each limit of the host.
//!
//! The input names the attack, as `{"scenario": "spin"}`, with its size where it has one. An attack that the host lets
//! return gives JSON that says how far it got. The bindings are used directly, without the SDK, so that outputs,
//! arguments and handles need not be what they should be. See [`attack`] for all of it.

wit_bindgen::generate!({ path: "../../../wit", world: "agent" });

mod disk;
mod machine;
mod reach;
mod take;

use serde_json::Value;

use cofferdam::agent::agents::Failure;
use cofferdam::agent::types::{Access, Needs};

struct Hostile;

impl Guest for Hostile {
    /// Honest: a host that refused the description would never see the attacks.
    fn describe() -> Descriptor {
        Descriptor {
            name: "hostile".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            description: "Tries to take what it was not given. For tests of the host.".to_owned(),
            input_schema: r#"{"type":"object","properties":{"scenario":{"type":"string"}},"required":["scenario"]}"#
                .to_owned(),
            output_schema: "true".to_owned(),
            needs: Needs {
                tools: vec!["file.*".to_owned()],
                state: Access::ReadWrite,
                workspace: Access::ReadWrite,
                agents: Vec::new(),
                human: false,
                durable: false,
            },
        }
    }

    fn run(input: String) -> Result<String, AgentError> {
        let input: Value =
            serde_json::from_str(&input).map_err(|why| AgentError::InvalidInput(format!("not JSON: {why}")))?;
        attack(&Scenario(input))
    }
}

export!(Hostile);

/// The input: a scenario's name and its numbers and texts.
struct Scenario(Value);

impl Scenario {
    fn name(&self) -> &str {
        self.text("scenario", "")
    }

    fn number(&self, name: &str, default: u64) -> u64 {
        self.0.get(name).and_then(Value::as_u64).unwrap_or(default)
    }

    fn size(&self, name: &str, default: usize) -> usize {
        self.number(name, default as u64) as usize
    }

    fn text<'a>(&'a self, name: &str, default: &'a str) -> &'a str {
        self.0.get(name).and_then(Value::as_str).unwrap_or(default)
    }
}

/// Runs one attack. In brackets: its parameters, with their defaults.
fn attack(it: &Scenario) -> Result<String, AgentError> {
    let found = match it.name() {
        // Of the processor.
        // An infinite loop.
        "spin" => take::spin(),
        // An infinite loop of host calls, which use hardly any fuel.
        "spin_in_host_calls" => take::spin_in_host_calls(),
        // So many rounds of arithmetic [rounds 1e9], then returns.
        "burn" => take::burn(it.number("rounds", 1_000_000_000)),
        // Bulk memory operations [bytes 64 MiB, times 1000], each of which the host cannot interrupt.
        "bulk" => take::bulk(it.size("bytes", 64 << 20), it.number("times", 1000)),
        // Recursion without an end: of large frames, which end in the guest's memory, and of small ones, which end in
        // the stack that the host gives it.
        "overflow_stack" => take::overflow_stack(it.number("seed", 1)),
        "overflow_host_stack" => take::overflow_host_stack(it.number("seed", 1)).to_string(),

        // Of the memory.
        // Grows the memory by [step_bytes 1 MiB] until it is refused, and says how far it got.
        "grow" => take::grow(it.size("step_bytes", 1 << 20)),
        // The same, and then fails with an error of its own.
        "grow_then_fail" => {
            take::grow(it.size("step_bytes", 1 << 20));
            return Err(AgentError::Failed(Failure { code: "no_room".to_owned(), message: "no room left".to_owned() }));
        }
        // Allocates blocks of [bytes 1 MiB] until the allocation fails, which ends the guest.
        "grow_until_abort" => take::allocate_until_abort(it.size("bytes", 1 << 20)),
        // The same with many small blocks [bytes 64].
        "small_allocations" => take::allocate_until_abort(it.size("bytes", 64)),

        // Of the host's own machinery.
        // Events with a text of so many bytes [bytes 2 MiB], of each kind.
        "giant_events" => take::giant_events(it.size("bytes", 2 << 20)),
        // So many events [count 1e6], log lines, tool calls; says how many were taken.
        "event_flood" => take::event_flood(it.number("count", 1_000_000), it.size("bytes", 16)),
        "log_flood" => take::log_flood(it.number("count", 1_000_000), it.size("bytes", 16)),
        "tool_flood" => take::tool_flood(it.number("count", 100_000), it.text("name", "file.list")),
        // Arguments of so many bytes [bytes 2 MiB].
        "giant_arguments" => take::giant_arguments(it.size("bytes", 2 << 20)),
        // So many calls started and never waited for [count 10,000].
        "pending_flood" => take::pending_flood(it.number("count", 10_000), it.text("name", "file.list")),
        // So many keys of so many bytes [keys 100,000, bytes 1 MiB].
        "state_flood" => take::state_flood(it.number("keys", 100_000), it.size("bytes", 1 << 20)),
        // One request for so many random bytes [bytes 256 MiB].
        "random_flood" => machine::random_flood(it.number("bytes", 256 << 20)),
        // So many bytes on standard output [bytes 64 MiB], without an end of line unless [line_bytes].
        "stdout_flood" => machine::stdout_flood(it.size("bytes", 64 << 20), it.size("line_bytes", usize::MAX)),
        // So many timers that nobody waits for [count 1e6].
        "timer_flood" => machine::timer_flood(it.number("count", 1_000_000)),
        "sleep_long" => machine::sleep(it.number("ms", 3_600_000)),

        // Of the disk, below [dir /scratch].
        // One file of chunks of [bytes 1 MiB]; the same by appending; files with nothing in them; files that end at
        // [bytes] with nothing before; files that are full, open and removed.
        "disk_fill" => disk::fill(it.text("dir", "/scratch"), it.size("bytes", 1 << 20)),
        "disk_append" => disk::append(it.text("dir", "/scratch"), it.size("bytes", 64 << 10)),
        "disk_entries" => disk::entries(it.text("dir", "/scratch")),
        "disk_holes" => disk::holes(it.text("dir", "/scratch"), it.number("bytes", 1 << 40)),
        "disk_unlinked" => {
            disk::unlinked(it.text("dir", "/scratch"), it.size("bytes", 1 << 20), it.number("times", 1000))
        }
        // Reads and writes files that were removed and made anew, by who had the old one open [times 50].
        "disk_remade" => disk::remade(it.text("dir", "/scratch"), it.number("times", 50)),
        "disk_handles" => disk::handles(it.text("dir", "/scratch")),
        "disk_renames" => disk::renames(it.text("dir", "/scratch"), it.number("times", 100)),
        "disk_deep" => disk::deep(it.text("dir", "/scratch")),
        // Ways out of it, also into [other /workspace].
        "ways_out" => disk::ways_out(it.text("dir", "/scratch"), it.text("other", "/workspace")),

        // Of what belongs to others.
        // Reads and writes paths that lead out of the workspace [paths: its own list].
        "forged_paths" => reach::forged_paths(&it.0),
        // Keys that the contract rules out.
        "forged_keys" => reach::forged_keys(),
        // Event names, fractions and log lines that the contract rules out, or that a terminal would obey.
        "forged_events" => reach::forged_events(),
        // Tool names that nobody declared or granted.
        "forged_tools" => reach::forged_tools(),
        // Arguments and payloads that are not JSON, or too deep.
        "forged_json" => reach::forged_json(it.size("depth", 100_000)),
        // A handle that the host never gave out [handle 9999].
        "forged_handle" => reach::forged_handle(it.number("handle", 9999) as u32),
        // A text that is not UTF-8, into a host call.
        "forged_text" => reach::forged_text(),

        // Of its own end.
        "trap" => core::arch::wasm32::unreachable(),
        "panic" => panic!("{}", it.text("message", "told to panic")),
        "exit" => machine::exit(it.number("code", 1) as i32),
        // An error of so many bytes [bytes 1 MiB], with a code that the contract rules out.
        "giant_error" => {
            let message = "\u{1b}[31mé".repeat(it.size("bytes", 1 << 20) / 7);
            return Err(AgentError::Failed(Failure { code: "Not a code!\n".repeat(100), message }));
        }
        // An output of so many bytes [bytes 8 MiB].
        "giant_output" => json_text_of(it.size("bytes", 8 << 20)),
        "not_json" => r#"{"a":"#.to_owned(),
        // JSON nested so deep [depth 100,000].
        "deep_output" => nested(it.size("depth", 100_000)),
        "not_utf8" => not_utf8(),
        other => return Err(AgentError::InvalidInput(format!("there is no scenario `{other}`"))),
    };
    Ok(found)
}

/// A JSON string whose text is `bytes` long, quotes included.
fn json_text_of(bytes: usize) -> String {
    format!("\"{}\"", "x".repeat(bytes.saturating_sub(2)))
}

fn nested(depth: usize) -> String {
    format!("{}{}", "[".repeat(depth), "]".repeat(depth))
}

fn not_utf8() -> String {
    // SAFETY: a `String` like this must not be looked at, and is not: it goes to the host as it is, which is the attack.
    unsafe { String::from_utf8_unchecked(vec![b'"', 0xff, 0xc0, b'"']) }
}
