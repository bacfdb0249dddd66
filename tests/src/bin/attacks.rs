//! Prints what each row of the attack catalogue gets of each runtime.
//!
//! `attacks [ID…]` runs the rows whose ids begin so, or all; `attacks --list` names them.

#![allow(clippy::print_stdout)]

use std::process::ExitCode;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use relay_tests::attacks::{Got, Row, Runtime, rows};

/// Rows at once. Most of their time is waiting for a disk or a peer.
const WORKERS: usize = 4;

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let rows = rows();
    if wanted.iter().any(|argument| argument == "--list") {
        rows.iter().for_each(|row| println!("{}", row.id));
        return ExitCode::SUCCESS;
    }
    let is_wanted =
        |id: &str| wanted.is_empty() || wanted.iter().any(|start| id.starts_with(start));
    let runs: Vec<Run<'_>> = rows
        .iter()
        .filter(|row| is_wanted(row.id))
        .flat_map(|row| Runtime::ALL.map(|runtime| Run::new(row, runtime)))
        .collect();
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(run) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    run.got.get_or_init(|| run.row.run(run.runtime));
                }
            });
        }
    });
    let (mut passed, mut failed) = (0, 0);
    for run in &runs {
        for Got {
            variant,
            what,
            pass,
        } in run.got.get().into_iter().flatten()
        {
            let verdict = if *pass { "pass" } else { "FAIL" };
            let runtime = run.runtime.name();
            println!(
                "{:<9} {runtime:<4} {verdict} {variant:<23} {what}",
                run.row.id
            );
            *(if *pass { &mut passed } else { &mut failed }) += 1;
        }
    }
    let rows = runs.len() / Runtime::ALL.len();
    println!("{rows} rows on both runtimes: {passed} variants passed, {failed} failed");
    ExitCode::from(u8::from(failed > 0))
}

/// One row against one runtime.
struct Run<'r> {
    row: &'r Row,
    runtime: Runtime,
    got: OnceLock<Vec<Got>>,
}

impl<'r> Run<'r> {
    fn new(row: &'r Row, runtime: Runtime) -> Self {
        let got = OnceLock::new();
        Self { row, runtime, got }
    }
}
