//! The `cofferdam` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything else, and before there is a second thread: the worker limits itself, then reads a component that
    // may be hostile.
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|verb| verb == "compile-worker") {
        return cofferdam_runtime::compile::worker_main(args.next().as_deref().and_then(|bytes| bytes.to_str()));
    }
    cofferdam_server::cli::main()
}
