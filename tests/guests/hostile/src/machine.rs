//! Takes more than a share of what WASI gives.

use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::json;

// Straight to the interfaces: the standard library asks for random bytes and timers in small portions only. The C
// library that it stands on brings the types of these interfaces into the component.
#[link(wasm_import_module = "wasi:random/random@0.2.6")]
unsafe extern "C" {
    #[link_name = "get-random-bytes"]
    fn get_random_bytes(length: u64, answer: *mut [usize; 2]);
}

#[link(wasm_import_module = "wasi:clocks/monotonic-clock@0.2.6")]
unsafe extern "C" {
    #[link_name = "subscribe-duration"]
    fn subscribe_duration(ns: u64) -> i32;
}

pub fn random_flood(bytes: u64) -> String {
    let mut answer = [0_usize; 2];
    // SAFETY: the host writes the address and the length of the list, two words, to `answer`. The list itself is
    // left where it is.
    unsafe { get_random_bytes(bytes, &raw mut answer) };
    json!({"bytes": answer[1]}).to_string()
}

pub fn timer_flood(count: u64) -> String {
    for _ in 0..count {
        // SAFETY: takes a number and gives a handle, which is kept and forgotten.
        unsafe { subscribe_duration(3_600_000_000_000) };
    }
    json!({"taken": count}).to_string()
}

pub fn stdout_flood(bytes: usize, line_bytes: usize) -> String {
    let chunk = vec![b'x'; line_bytes.min(64 * 1024).min(bytes)];
    let mut out = std::io::stdout().lock();
    let (mut written, mut in_line) = (0, 0);
    while written < bytes {
        if let Err(error) = out.write_all(&chunk) {
            return json!({"written": written, "refused": error.to_string()}).to_string();
        }
        written += chunk.len();
        in_line += chunk.len();
        if in_line >= line_bytes {
            // A refusal shows at the next piece.
            let _ended = out.write_all(b"\n");
            in_line = 0;
        }
    }
    json!({"written": written, "flushed": out.flush().is_ok()}).to_string()
}

pub fn sleep(ms: u64) -> String {
    let started = Instant::now();
    std::thread::sleep(Duration::from_millis(ms));
    json!({"slept_ms": started.elapsed().as_millis() as u64}).to_string()
}

#[allow(
    clippy::disallowed_methods,
    reason = "nothing here needs its cleanup: that exit ends the guest alone is the test"
)]
pub fn exit(code: i32) -> ! {
    std::process::exit(code)
}
