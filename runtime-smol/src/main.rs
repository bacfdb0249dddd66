//! `smtp-relay`: the relay on smol.

use std::process::ExitCode;

fn main() -> ExitCode {
    runtime_std::cli::main(&runtime_smol::threads::Smol)
}
