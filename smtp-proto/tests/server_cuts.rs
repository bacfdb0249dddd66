//! The server connection and octets that nobody means: every cut of them gives the same, and never a
//! panic. What commands get is checked against a model in `session_model.rs`.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Session, config};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        cases: 1500,
        ..ProptestConfig::default()
    })]

    /// Octets that nobody means: the same for every cut, and never a panic.
    #[test]
    fn every_cut_of_anything_gives_the_same(
        pieces in prop::collection::vec(piece(), 0..30),
        size in 1usize..30,
        normalise: bool,
        tls: bool,
    ) {
        let input = pieces.concat();
        let mut config = config();
        config.limits.message_size = 40;
        config.limits.discard = 300;
        if normalise {
            config.line_endings = smtp_proto::dot::LineEndings::Normalise;
        }
        let run = |size: usize| {
            let mut session = Session::new(config.clone());
            if tls {
                session.start_tls();
            }
            for part in input.chunks(size) {
                session.receive(part);
            }
            session
        };
        let (whole, parts) = (run(input.len().max(1)), run(size));
        prop_assert_eq!(
            String::from_utf8_lossy(&whole.wire),
            String::from_utf8_lossy(&parts.wire)
        );
        prop_assert_eq!(whole.log, parts.log);
        prop_assert_eq!(whole.messages, parts.messages);
        prop_assert_eq!(whole.fatal, parts.fatal);
    }
}

/// Parts of a session, whole and broken. STARTTLS is not among them: what comes in one piece with
/// it is an attack, and in a later one may be the handshake.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(vec![
        &b"EHLO a\r\n"[..],
        b"EHLO a\r\nMAIL FROM:<ok@a> SIZE=10\r\nRCPT TO:<b@b>\r\n",
        b"EHLO a\r\nMAIL FROM:<nomid@a>\r\nRCPT TO:<b@b>\r\nDATA\r\nx\r\n",
        b"DATA\r\n",
        b"BDAT 5\r\n",
        b"BDAT 4 LAST\r\n",
        b"BDAT 60\r\n",
        b"BDAT x\r\n",
        b"AUTH PLAIN\r\n",
        b"AUTH LOGIN\r\n",
        b"AHUAcA==\r\n",
        b"*\r\n",
        b"RSET\r\n",
        b"NOOP\r\n",
        b"QUIT\r\n",
        b"GET / HTTP/1.1\r\n",
        b".\r\n",
        b"\r\n.\r\n",
        b"text that is longer than most\r\n",
        b"..\r\n",
        b"\r\n",
        b"\r",
        b"\n",
        b".",
        b"\0",
        b"\x16",
    ]);
    prop_oneof![
        12 => known.prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(any::<u8>(), 0..8),
        1 => (1usize..3000).prop_map(|length| vec![b'x'; length]),
    ]
}
