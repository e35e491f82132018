//! Rebuilds when a migration is added, which `sqlx::migrate!` does not notice by itself, and puts what an author needs into
//! the binary: the WIT, the SDKs and the templates, so that nobody needs this checkout to write an agent.

#![allow(clippy::expect_used, clippy::panic, reason = "a build that cannot go on says why and ends")]

use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// What goes into the kit: a file or folder of this repository, and its name there.
const PARTS: &[(&str, &str)] = &[
    ("wit", "wit"),
    ("guest-sdk/Cargo.toml", "sdk/rust/Cargo.toml"),
    ("guest-sdk/src", "sdk/rust/src"),
    ("guest-sdk/python/pyproject.toml", "sdk/python/pyproject.toml"),
    ("guest-sdk/python/README.md", "sdk/python/README.md"),
    ("guest-sdk/python/tools", "sdk/python/tools"),
    ("guest-sdk/python/cofferdam", "sdk/python/cofferdam"),
    ("guest-sdk/javascript/package.json", "sdk/javascript/package.json"),
    ("guest-sdk/javascript/tsconfig.json", "sdk/javascript/tsconfig.json"),
    ("guest-sdk/javascript/src", "sdk/javascript/src"),
    ("guest-sdk/javascript/wit", "sdk/javascript/wit"),
    ("guest-sdk/javascript/toolchain", "sdk/javascript/toolchain"),
    ("guest-sdk/templates", "templates"),
    // Which versions the SDK and its dependencies are known to build with.
    ("plugins/Cargo.lock", "locks/rust"),
];

/// Names of folders that tools leave behind, and of no source.
const LEFT_BEHIND: &[&str] = &["target", "node_modules", "__pycache__", ".cofferdam"];

fn main() {
    println!("cargo:rerun-if-changed=migrations");
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo says where this is")).join("../..");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo says where to write"));
    let mut files = Vec::new();
    for (part, name) in PARTS {
        let path = root.join(part);
        println!("cargo:rerun-if-changed={}", path.display());
        collect(&path, name, &mut files);
    }
    files.sort();
    let mut code = String::from("&[\n");
    for (name, path) in &files {
        let path = path.canonicalize().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        code += &format!("    ({name:?}, include_bytes!({:?})),\n", path.to_str().expect("a path in UTF-8"));
    }
    code += "]\n";
    fs::write(out.join("kit.rs"), code).expect("the folder for what is generated can be written to");
}

fn collect(path: &Path, name: &str, files: &mut Vec<(String, PathBuf)>) {
    if path.is_file() {
        files.push((name.to_owned(), path.to_owned()));
        return;
    }
    for entry in fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())) {
        let entry = entry.unwrap_or_else(|error| panic!("{}: {error}", path.display())).file_name();
        let entry = entry.to_str().expect("names in UTF-8");
        if !LEFT_BEHIND.contains(&entry) {
            collect(&path.join(entry), &format!("{name}/{entry}"), files);
        }
    }
}
