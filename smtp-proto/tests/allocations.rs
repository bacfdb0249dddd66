//! What allocates: nothing of ours in the server's part of a transaction, and in the client's the
//! text of each reply.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use allocation_counter::measure;
use smtp_proto::dot::{DotDecoder, DotEncoder, LineEndings, Piece};
use smtp_proto::server::{Config, Connection};
use smtp_proto::{Command, Extension, Extensions, ReversePath};

#[path = "../benches/transaction/mod.rs"]
mod transaction;

/// A warm buffer and a server after EHLO.
fn server() -> (Connection, Vec<u8>) {
    let config = Arc::new(Config::new("mx.example.org".parse().unwrap()));
    let mut wire = Vec::with_capacity(4096);
    let mut server = Connection::new(&config, &mut wire);
    let hello = b"EHLO mail.example.com\r\n";
    transaction::accept_all(&mut server, hello, &mut wire, |_| {});
    (server, wire)
}

#[test]
fn a_transaction_allocates_nothing_in_the_server() {
    let (mut server, mut wire) = server();
    let (envelope, body) = (transaction::commands(), transaction::text(64 << 10));
    let mut octets = 0;
    let taken = measure(|| {
        for piece in [&envelope[..], &body, b".\r\nRSET\r\nNOOP\r\n"] {
            wire.clear();
            transaction::accept_all(&mut server, piece, &mut wire, |body| octets += body.len());
        }
    });
    assert_eq!((taken.count_total, octets), (0, body.len()));
    assert!(wire.ends_with(b"250 2.0.0 Ok\r\n"));
}

#[test]
fn chunks_allocate_only_the_number_in_their_reply() {
    let (mut server, mut wire) = server();
    let envelope = b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\n";
    let taken = measure(|| {
        transaction::accept_all(&mut server, envelope, &mut wire, |_| {});
        for chunk in [&b"BDAT 4\r\na\r\n\r"[..], b"BDAT 3 LAST\r\n\nb\r"] {
            transaction::accept_all(&mut server, chunk, &mut wire, |_| {});
        }
    });
    assert!(taken.count_total <= 3, "{taken:?}");
}

#[test]
fn commands_allocate_nothing_and_paths_only_for_what_is_long() {
    let all: Extensions = Extension::ALL.into_iter().collect();
    let count =
        |line: &str| measure(|| drop(Command::parse(line.as_bytes(), all).unwrap())).count_total;
    for line in [
        "EHLO mail.example.com",
        "MAIL FROM:<> SIZE=1 BODY=8BITMIME SMTPUTF8 RET=HDRS REQUIRETLS MT-PRIORITY=-3 BY=60;R",
        "MAIL FROM:<twenty-three-octets-xxx@twenty-three.example.or> SIZE=1",
        "RCPT TO:<first.last@example.org> NOTIFY=SUCCESS,FAILURE",
        "RCPT TO:<a@[192.0.2.1]>",
        "BDAT 1000 LAST",
        "NOOP whatever",
    ] {
        assert_eq!(count(line), 0, "{line}");
    }
    let session = String::from_utf8(transaction::session()).unwrap();
    assert!(session.lines().all(|line| count(line) == 0));
    let long = "<more-than-twenty-three-octets@more-than-twenty-three-octets.example>";
    assert_eq!(count(&format!("MAIL FROM:{long}")), 0);
    let owned = measure(|| drop(long.parse::<ReversePath>().unwrap()));
    assert_eq!(owned.count_total, 2);
}

#[test]
fn the_dot_codec_allocates_nothing() {
    let mut body = transaction::text(64 << 10);
    body.extend_from_slice(b"\r\n.a dot\r\n..\r\n");
    let mut wire = Vec::with_capacity(2 * body.len());
    let taken = measure(|| {
        let mut encoder = DotEncoder::new();
        encoder.encode(&body, &mut wire);
        encoder.finish(&mut wire);
        let (mut decoder, mut rest, mut octets) =
            (DotDecoder::new(LineEndings::Reject), &wire[..], 0);
        loop {
            let (used, piece) = decoder.decode(rest);
            rest = &rest[used..];
            match piece {
                Piece::Body(piece) => octets += piece.len(),
                Piece::End => break,
                Piece::Fault(_) | Piece::NeedMore => panic!("a whole body"),
            }
        }
        assert_eq!(octets, body.len());
    });
    assert_eq!(taken.count_total, 0);
}

/// Six commands and replies: six texts, the queue of what is awaited, the list of who was accepted.
#[test]
fn a_client_allocates_the_texts_of_replies() {
    let (mut pair, body) = (transaction::Pair::new(), transaction::text(1024));
    pair.transact(&body);
    let taken = measure(|| {
        pair.transact(&body);
    });
    assert!(taken.count_total <= 8, "{taken:?}");
}
