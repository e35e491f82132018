//! The `cofferdam` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything else, and before there is a second thread: the worker limits itself, then reads a component that
    // may be hostile.
    if std::env::args_os().nth(1).is_some_and(|verb| verb == "compile-worker") {
        return cofferdam_runtime::compile::worker_main();
    }
    cofferdam_server::cli::main()
}
