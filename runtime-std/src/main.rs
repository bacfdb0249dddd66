//! `smtp-relay-std`: the relay on blocking threads.

use std::process::ExitCode;

fn main() -> ExitCode {
    runtime_std::cli::main(&runtime_std::relay::Threaded)
}
