//! Does one thing over and over, for a tool that counts instructions.
//!
//! ```text
//! cargo build --release -p relay-smtp-proto --example count
//! for n in 1000 2000; do valgrind --tool=callgrind target/release/examples/count commands $n; done
//! ```
//!
//! The difference of two runs over the difference of their counts is what one time costs.
#![allow(clippy::print_stdout)]

use std::hint::black_box;

use smtp_proto::limits::{LINE_SKIP_MAX, command_line_max};
use smtp_proto::line::{Line, LineReader};
use smtp_proto::{Command, Extension, Extensions};
use stalwart_smtp_proto::request::receiver::RequestReceiver;

#[path = "../benches/transaction/mod.rs"]
mod transaction;

fn main() -> Result<(), &'static str> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [what, times] = &args[..] else {
        return Err("usage: count commands|commands-reference|transaction|transaction-10k TIMES");
    };
    let times = times.parse().map_err(|_| "TIMES is a number")?;
    match what.as_str() {
        "commands" => commands(times),
        "commands-reference" => commands_reference(times),
        "transaction" => whole(times, 0),
        "transaction-10k" => whole(times, 10_240),
        _ => return Err("no such thing to count"),
    }
    println!("{what}: {times} times");
    Ok(())
}

/// EHLO, MAIL, two RCPT and DATA, read.
fn commands(times: usize) {
    let input = transaction::session();
    let offered: Extensions = Extension::ALL.into_iter().collect();
    let mut reader = LineReader::new();
    for _ in 0..times {
        let mut rest = &black_box(&input)[..];
        while let Ok((used, Line::Whole(line))) = reader.read(rest, command_line_max, LINE_SKIP_MAX)
        {
            rest = &rest[used..];
            black_box(&Command::parse(&line, offered));
        }
    }
}

/// The same by another project's crate.
fn commands_reference(times: usize) {
    let input = transaction::session();
    let mut receiver = RequestReceiver::default();
    for _ in 0..times {
        let mut rest = black_box(&input).iter();
        for _ in 0..5 {
            black_box(&receiver.ingest(&mut rest));
        }
    }
}

/// Client and server, with a body of so many octets.
fn whole(times: usize, octets: usize) {
    let (mut pair, body) = (transaction::Pair::new(), transaction::text(octets));
    for _ in 0..times {
        pair.transact(black_box(&body));
    }
}
