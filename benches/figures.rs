//! How figures are shown, in every benchmark.

use std::time::Duration;

/// One figure: what was measured, and what it must not be over.
pub fn row(what: &str, value: f64, unit: &str, most: Option<f64>) {
    let target = most.map_or_else(String::new, |most| format!("(at most {most:.1})"));
    println!("{what:<70} {value:>10.2} {unit:<5} {target}");
    assert!(most.is_none_or(|most| value <= most), "{what}: {value:.2} {unit} is too much");
}

/// The value that so many of a hundred do not exceed, in milliseconds.
pub fn percentile(times: &mut [Duration], of_hundred: usize) -> f64 {
    times.sort_unstable();
    let at = (times.len() * of_hundred).div_ceil(100).clamp(1, times.len()) - 1;
    times[at].as_secs_f64() * 1e3
}

/// Whether a part of a benchmark is to be run: all of them are, unless the command line names some, as in
/// `cargo xtask bench --bench fairness -- growth`.
pub fn asked(part: &str) -> bool {
    let mut named = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).peekable();
    named.peek().is_none() || named.any(|name| name == part)
}
