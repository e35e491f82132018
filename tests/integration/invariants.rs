//! What must stay true of the source itself.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the root")
}

/// Every Rust file below a folder, with its path from the root.
fn sources(folder: &str) -> Vec<(String, String)> {
    let mut files = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root()).expect("below the root").display().to_string();
                files.push((name, std::fs::read_to_string(&path).expect("text")));
            }
        }
    }
    assert!(!files.is_empty(), "{folder} has no sources");
    files
}

/// The lines that are code, without comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim_start).filter(|line| !line.starts_with("//"))
}

#[test]
fn only_the_runtime_names_wasmtime() {
    for folder in ["host/core/src", "host/server/src"] {
        for (name, text) in sources(folder) {
            assert!(!code(&text).any(|line| line.contains("wasmtime")), "{name} names wasmtime");
        }
    }
    for manifest in ["host/core/Cargo.toml", "host/server/Cargo.toml"] {
        let text = std::fs::read_to_string(root().join(manifest)).expect("a manifest");
        let dependencies = text.split("[dev-dependencies]").next().expect("a part");
        assert!(!dependencies.contains("wasmtime"), "{manifest} depends on wasmtime");
    }
}

#[test]
fn stores_are_made_in_one_place() {
    for (name, text) in sources("host") {
        let makes = code(&text).any(|line| line.contains("Store::new("));
        assert!(!makes || name.ends_with("runtime/src/sandbox.rs"), "{name} makes a store");
    }
}

#[test]
fn no_channel_is_unbounded() {
    for (name, text) in sources("host") {
        let unbounded = code(&text).any(|line| line.contains("unbounded_channel") || line.contains("mpsc::channel()"));
        assert!(!unbounded, "{name} has a channel without a bound");
    }
}

#[test]
fn core_does_no_io_and_server_is_the_only_crate_that_knows_http_and_sql() {
    for (name, text) in sources("host/core/src") {
        let reaches_out = code(&text)
            .any(|line| ["std::fs", "std::net", "tokio::fs", "tokio::net"].iter().any(|io| line.contains(io)));
        assert!(!reaches_out, "{name} does I/O");
    }
    for folder in ["host/core/src", "host/runtime/src"] {
        for (name, text) in sources(folder) {
            let foreign =
                code(&text).any(|line| ["axum", "hyper", "reqwest", "sqlx"].iter().any(|word| line.contains(word)));
            assert!(!foreign, "{name} knows HTTP or SQL");
        }
    }
}

#[test]
fn every_storage_method_asks_for_the_right_to_act() {
    let text = std::fs::read_to_string(root().join("host/core/src/storage.rs")).expect("a file");
    let body = text.split("pub trait Storage").nth(1).and_then(|rest| rest.split("\n}").next()).expect("the trait");
    let methods: Vec<_> = body.split("async fn ").skip(1).collect();
    assert!(methods.len() > 10);
    for method in methods {
        let name = method.split('(').next().unwrap_or_default();
        let first = method.split("&self,").nth(1).unwrap_or_default().trim_start();
        let right =
            ["scope: &Scope", "operator: Operator", "space: &StateSpace"].iter().any(|right| first.starts_with(right));
        // Before there is an identity there is only the key.
        assert!(right || name == "authenticate", "{name} asks for no right: {first}");
    }
}
