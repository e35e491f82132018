//! Uploads that a generator made: modules out of nothing, and real plugins changed in a few places.
//!
//! Whatever is pushed, the host lives, answers no 5xx, and calls a component valid exactly if WebAssembly's own validator
//! does, told the same features. `cargo xtask fuzz --count N` pushes more, from another seed if one is given.

use crate::{
    server::{Answer, Server, guest, run},
    uploads::Isolated,
};
use arbitrary::Unstructured;
use cofferdam_core::quota::Quota;
use cofferdam_runtime::engine::FEATURES;
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Instant};
use wasm_encoder::{Component, RawSection};
use wasmparser::{Parser, Payload};

/// Inputs of a normal test run.
const COUNT: u64 = 2_000;
/// The seed of a normal test run.
const SEED: u64 = 0x0C0F_FE2D;
/// Pushes under way at once: one more than compile at once.
const PUSHES_AT_ONCE: usize = 3;
/// The largest change of a plugin, in bytes.
const CHANGE_BYTES_MAX: usize = 64;

/// A small generator of numbers (splitmix64): the same inputs from the same seed, on every machine.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).expect("below a usize")
    }
}

/// What inputs are made of.
struct Sources {
    small: Vec<u8>,
    large: [Vec<u8>; 2],
}

impl Sources {
    fn input(&self, seed: u64) -> Vec<u8> {
        let mut numbers = Numbers(seed);
        numbers.next();
        match numbers.below(16) {
            0..6 => module(&mut numbers),
            // Compiling one of the large takes ten times as long.
            6..13 => changed(&self.small, &self.large[0], &mut numbers),
            _ => {
                let which = numbers.below(2);
                changed(&self.large[which], &self.small, &mut numbers)
            }
        }
    }
}

/// A valid core module that has never been seen, in a component. Every second one has what this host leaves out, too.
fn module(numbers: &mut Numbers) -> Vec<u8> {
    let dna: Vec<u8> = (0..256 + numbers.below(2_048)).map(|_| numbers.next().to_le_bytes()[0]).collect();
    let within = numbers.below(2) == 0;
    let mut config = wasm_smith::Config { max_memories: 3, max_tables: 4, ..wasm_smith::Config::default() };
    if within {
        config.gc_enabled = false;
        config.exceptions_enabled = false;
        config.threads_enabled = false;
        config.memory64_enabled = false;
        // With them come references to the host's objects, which are garbage-collected.
        config.reference_types_enabled = numbers.below(4) == 0;
    }
    let module = wasm_smith::Module::new(config, &mut Unstructured::new(&dna)).expect("enough to make a module of");
    let mut component = Component::new();
    component
        .section(&RawSection { id: wasm_encoder::ComponentSectionId::CoreModule.into(), data: &module.to_bytes() });
    component.finish()
}

/// A plugin with a few changes: bits, bytes, what is left out, repeated, moved, or another's.
fn changed(plugin: &[u8], other: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = plugin.to_vec();
    for _ in 0..=numbers.below(4) / 2 {
        if bytes.is_empty() {
            break;
        }
        // Many of the changes are where most of the structure is: before the code.
        let end = if numbers.below(3) == 0 { bytes.len().min(2_048) } else { bytes.len() };
        let at = numbers.below(end);
        let length = (1 + numbers.below(CHANGE_BYTES_MAX)).min(bytes.len() - at);
        match numbers.below(8) {
            0..3 => bytes[at] ^= 1 << numbers.below(8),
            3 => bytes[at] = [0, 1, 0x7F, 0x80, 0xFF, 0x0B, 0x41, 0x60][numbers.below(8)],
            4 => bytes.truncate(at),
            5 => {
                bytes.drain(at..at + length);
            }
            6 => {
                let copy = bytes[at..at + length].to_vec();
                bytes.splice(at..at, copy);
            }
            _ => {
                let from = numbers.below(other.len());
                let part = other[from..(from + length).min(other.len())].to_vec();
                let end = (at + part.len()).min(bytes.len());
                bytes.splice(at..end, part);
            }
        }
    }
    bytes
}

/// What became of one input.
struct Verdict {
    seed: u64,
    word: String,
    detail: String,
    valid: Result<(), String>,
    ended: Option<String>,
}

impl Verdict {
    /// What is wrong with it, if something is.
    fn wrong(&self) -> Option<String> {
        let refused_as_invalid = matches!(self.word.as_str(), "malformed" | "compile_failed");
        let problem = match (&self.valid, self.word.as_str()) {
            (_, word) if word.starts_with('5') => "the host failed",
            (Ok(()), _) if refused_as_invalid && !self.is_the_compilers_own() => "a valid component is called invalid",
            (Err(_), word)
                if !refused_as_invalid && !matches!(word, "too_complex" | "not_a_component" | "too_many_plugins") =>
            {
                "an invalid component is not called invalid"
            }
            _ => return None,
        };
        Some(format!("seed {}: {problem}: {}: {}; validator: {:?}", self.seed, self.word, self.detail, self.valid))
    }

    /// What is valid, and more than the compiler has room for: it says which.
    fn is_the_compilers_own(&self) -> bool {
        ["implementation limit", "not supported", "unsupported", "Unsupported"]
            .iter()
            .any(|word| self.detail.contains(word))
    }
}

/// What the validator says. It leaves to its caller to check that inner modules and components end within the bytes.
fn validated(bytes: &[u8]) -> Result<(), String> {
    wasmparser::Validator::new_with_features(FEATURES).validate_all(bytes).map_err(|error| error.to_string())?;
    for payload in Parser::new(0).parse_all(bytes) {
        if let Payload::ModuleSection { unchecked_range, .. } | Payload::ComponentSection { unchecked_range, .. } =
            payload.map_err(|error| error.to_string())?
            && unchecked_range.end > bytes.len()
        {
            return Err("a part goes on beyond the end".into());
        }
    }
    Ok(())
}

async fn pushed(server: &Server, user: &crate::server::User, seed: u64, bytes: Vec<u8>) -> Verdict {
    let valid = validated(&bytes);
    let answer = server.operator.push("generated", bytes).await;
    let said: Value = serde_json::from_str(&answer.text).unwrap_or_default();
    let word = match (answer.status.as_u16(), said["code"].as_str()) {
        (status @ 500.., code) => format!("{status} {}", code.unwrap_or_default()),
        (_, Some(code)) => code.to_owned(),
        (200 | 201, None) => "taken".to_owned(),
        (status, None) => format!("{status}"),
    };
    let detail = said["detail"].as_str().unwrap_or_default().chars().take(300).collect();
    let mut ended = None;
    if let Some(digest) = said["digest"].as_str().filter(|_| word == "taken" && said["kind"] == "agent") {
        let limits = json!({"fuel": 50_000_000, "memory_bytes": 32 << 20, "deadline_ms": 2_000});
        let run = json!({"agent": format!("generated@{digest}"), "input": "x", "limits": limits});
        let request = user.request(reqwest::Method::POST, "/v1/runs").header("prefer", "wait=60").json(&run);
        let run = Answer::of(request.send().await.expect("answered")).await.is(reqwest::StatusCode::OK);
        ended =
            Some(run["stop_reason"].as_str().unwrap_or_else(|| panic!("seed {seed}: it has not ended: {run}")).into());
    }
    Verdict { seed, word, detail, valid, ended }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

#[test]
fn what_a_generator_makes_is_taken_or_refused_as_the_validator_says() {
    run(async {
        let (count, seed) = (number("COFFERDAM_FUZZ_COUNT", COUNT), number("COFFERDAM_FUZZ_SEED", SEED));
        let isolated = Isolated::start(Quota::default()).await;
        let server = &isolated.server;
        let user = server.stranger().await;
        let sources = Sources { small: guest("undescribed"), large: [guest("echo"), guest("units")] };
        let began = Instant::now();
        let verdicts = stream::iter(0..count).map(|i| {
            let seed = seed.wrapping_add(i);
            let bytes = sources.input(seed);
            pushed(server, &user, seed, bytes)
        });
        let verdicts: Vec<Verdict> = verdicts.buffer_unordered(PUSHES_AT_ONCE).collect().await;
        let (mut words, mut ends) = (BTreeMap::new(), BTreeMap::new());
        for verdict in &verdicts {
            let valid = if verdict.valid.is_ok() { "valid" } else { "invalid" };
            *words.entry(format!("{} ({valid})", verdict.word)).or_insert(0_u64) += 1;
            if let Some(end) = &verdict.ended {
                *ends.entry(end.clone()).or_insert(0_u64) += 1;
            }
        }
        println!(
            "{count} inputs from seed {seed} in {:.1} s: {words:?}; runs: {ends:?}",
            began.elapsed().as_secs_f64()
        );
        let wrong: Vec<_> = verdicts.iter().filter_map(Verdict::wrong).collect();
        assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong[..wrong.len().min(10)].join("\n"));
        isolated.is_well().await;
    });
}
