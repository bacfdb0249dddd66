//! What the wire costs, and beside each figure what a reference costs in the same run.
//!
//! `cargo bench -p relay-smtp-proto`
//!
//! The references: the published crate `smtp-proto` of another project, and passes over the same
//! octets that do no protocol at all (memchr, memcpy).
#![allow(missing_docs)]

use std::hint::black_box;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use smtp_proto::dot::{DotDecoder, DotEncoder, LineEndings, Piece};
use smtp_proto::limits::{LINE_SKIP_MAX, command_line_max};
use smtp_proto::line::{Line, LineReader};
use smtp_proto::{Command, Extension, Extensions};
use stalwart_smtp_proto::request::receiver::{DataReceiver, RequestReceiver};

mod transaction;

fn main() {
    divan::main();
}

/// EHLO, MAIL, two RCPT and DATA, from octets to values.
#[divan::bench_group(sample_size = 1000, counters = [ItemsCount::new(5_usize)])]
mod commands {
    use super::*;

    #[divan::bench]
    fn ours(bencher: Bencher<'_, '_>) {
        let input = transaction::session();
        let offered: Extensions = Extension::ALL.into_iter().collect();
        let mut reader = LineReader::new();
        bencher.bench_local(|| {
            let mut rest = &black_box(&input)[..];
            while let Ok((used, Line::Whole(line))) =
                reader.read(rest, command_line_max, LINE_SKIP_MAX)
            {
                rest = &rest[used..];
                assert!(black_box(&Command::parse(&line, offered)).is_ok());
            }
            assert!(rest.is_empty());
        });
    }

    /// Our whole server, after its EHLO: order, limits, events and replies too.
    #[divan::bench(counters = [ItemsCount::new(4_usize)])]
    fn ours_with_session_and_replies(bencher: Bencher<'_, '_>) {
        let config = smtp_proto::server::Config::new("mx.example.org".parse().expect("a domain"));
        let mut input = transaction::commands();
        input.extend_from_slice(b".\r\n");
        let mut wire = Vec::new();
        let config = std::sync::Arc::new(config);
        let mut server = smtp_proto::server::Connection::new(&config, &mut wire);
        transaction::accept_all(&mut server, b"EHLO a.example.com\r\n", &mut wire, |_| {});
        bencher.bench_local(|| {
            wire.clear();
            transaction::accept_all(&mut server, black_box(&input), &mut wire, |_| {});
            assert!(wire.ends_with(b"250 2.0.0 Ok\r\n"));
        });
    }

    #[divan::bench]
    fn stalwart(bencher: Bencher<'_, '_>) {
        let input = transaction::session();
        let mut receiver = RequestReceiver::default();
        bencher.bench_local(|| {
            let mut rest = black_box(&input).iter();
            for _ in 0..5 {
                assert!(black_box(&receiver.ingest(&mut rest)).is_ok());
            }
            assert!(rest.as_slice().is_empty());
        });
    }
}

/// A body without dots at line starts, by its size: within a cache, and beyond it.
#[divan::bench_group(sample_count = 50)]
mod data {
    use super::*;

    const SIZES: [usize; 3] = [8 << 10, 64 << 10, 32 << 20];

    fn body(octets: usize) -> Vec<u8> {
        let mut body = transaction::text(octets);
        body.extend_from_slice(b".\r\n");
        body
    }

    fn bench(bencher: Bencher<'_, '_>, octets: usize, mut pass: impl FnMut(&[u8])) {
        let body = body(octets);
        bencher
            .counter(BytesCount::new(body.len()))
            .bench_local(|| pass(black_box(&body)));
    }

    #[divan::bench(args = SIZES)]
    fn decode_ours(bencher: Bencher<'_, '_>, octets: usize) {
        bench(bencher, octets, |body| {
            let (mut decoder, mut rest) = (DotDecoder::new(LineEndings::Reject), body);
            loop {
                let (used, piece) = decoder.decode(rest);
                rest = &rest[used..];
                match black_box(piece) {
                    Piece::Body(_) => {}
                    Piece::End => break,
                    Piece::Fault(_) | Piece::NeedMore => panic!("a whole body"),
                }
            }
        });
    }

    #[divan::bench(args = SIZES)]
    fn decode_stalwart(bencher: Bencher<'_, '_>, octets: usize) {
        let mut out = Vec::with_capacity(octets + 1024);
        bench(bencher, octets, |body| {
            out.clear();
            let ended = DataReceiver::new().ingest(&mut body.iter(), black_box(&mut out));
            assert!(ended);
        });
    }

    #[divan::bench(args = SIZES)]
    fn encode_ours(bencher: Bencher<'_, '_>, octets: usize) {
        let mut out = Vec::with_capacity(octets + octets / 16 + 1024);
        bench(bencher, octets, |body| {
            out.clear();
            let mut encoder = DotEncoder::new();
            encoder.encode(&body[..body.len() - 3], black_box(&mut out));
            encoder.finish(&mut out);
        });
    }

    /// One pass that stops at every line end, as any reader of lines must.
    #[divan::bench(args = SIZES)]
    fn memchr_lines(bencher: Bencher<'_, '_>, octets: usize) {
        bench(bencher, octets, |body| {
            memchr::memchr_iter(b'\n', body).for_each(|at| {
                black_box(at);
            });
        });
    }

    /// One pass that finds nothing: no search can be faster.
    #[divan::bench(args = SIZES)]
    fn memchr_nothing(bencher: Bencher<'_, '_>, octets: usize) {
        bench(bencher, octets, |body| {
            assert!(black_box(memchr::memchr(0xff, body)).is_none());
        });
    }

    #[divan::bench(args = SIZES)]
    fn memcpy(bencher: Bencher<'_, '_>, octets: usize) {
        let mut out = vec![0; octets + 1024];
        bench(bencher, octets, |body| {
            black_box(&mut out)[..body.len()].copy_from_slice(body);
        });
    }
}

/// Client and server together: MAIL, two RCPT, DATA, a body, all replies read.
#[divan::bench_group]
mod pipelined_transaction {
    use super::*;

    #[divan::bench(args = [1 << 10, 10 << 10, 1 << 20])]
    fn client_and_server(bencher: Bencher<'_, '_>, octets: usize) {
        let (mut pair, body) = (transaction::Pair::new(), transaction::text(octets));
        bencher
            .counter(BytesCount::new(body.len()))
            .bench_local(|| assert_eq!(pair.transact(black_box(&body)), body.len()));
    }
}
