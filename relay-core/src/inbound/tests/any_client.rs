//! Whatever a client sends, and however it is cut: the same replies, and nothing left behind.

use proptest::prelude::*;

use super::*;

/// What a client may say: commands in and out of order, messages whole, broken and cut short.
fn words() -> impl Strategy<Value = Vec<u8>> {
    let fixed = prop::sample::select(vec![
        "EHLO client.example.com\r\n",
        "HELO c\r\n",
        "MAIL FROM:<a@example.com>\r\n",
        "MAIL FROM:<a@example.com> BODY=BINARYMIME\r\n",
        "MAIL FROM:<a@example.org>\r\n",
        "RCPT TO:<b@example.net>\r\n",
        "RCPT TO:<b@[127.0.0.1]>\r\n",
        "RCPT TO:<Postmaster>\r\n",
        "DATA\r\n",
        "From: a@example.com\r\n\r\ntext\r\n.\r\n",
        "From: a@example.com\r\n\r\nbare\nline\r\n.\r\n",
        "From: a@example.org\r\n\r\ntext\r\n.\r\n",
        "no header\r\n.\r\n",
        ".\r\n",
        "BDAT 27\r\nFrom: a@example.com\r\n\r\ntext",
        "BDAT 6 LAST\r\nlast\r\n",
        "BDAT 0 LAST\r\n",
        "BDAT 0\r\n",
        "BDAT -1\r\n",
        "RSET\r\n",
        "NOOP\r\n",
        "STARTTLS\r\n",
        "AUTH PLAIN\r\n",
        "AUTH PLAIN AGFwcABzZWNyZXQ=\r\n",
        "AUTH SCRAM-SHA-256 biwsbj1hcHAscj1hYmM=\r\n",
        "*\r\n",
        "AGFwcABzZWNyZXQ=\r\n",
        "QUIT\r\n",
    ]);
    let opened = prop::sample::select(vec![
        "MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.net>\r\n",
        "MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n",
        "MAIL FROM:<a@example.com> SIZE=900000\r\nRCPT TO:<b@example.net>\r\nDATA\r\n",
        "EHLO c\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.net>\r\nBDAT 27\r\nFrom: a@example.com\r\n\r\ntext",
    ]);
    let open = "MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n";
    let whole = |message: &[u8]| Just([open.as_bytes(), message].concat());
    prop_oneof![
        6 => opened.prop_map(|text| text.as_bytes().to_vec()),
        12 => fixed.prop_map(|text| text.as_bytes().to_vec()),
        6 => whole(b"From: a@example.com\r\n\r\ntext\r\n.\r\n"),
        2 => whole(&large_message()),
        1 => Just(large_message()),
        1 => prop::collection::vec(any::<u8>(), 0..40),
    ]
}

fn large_message() -> Vec<u8> {
    let line = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcd\r\n";
    format!("From: a@example.com\r\n\r\n{}.\r\n", line.repeat(5000)).into_bytes()
}

fn run(said: &[u8], cuts: &[usize]) -> World {
    let mut world = World::ready(PLAIN);
    let mut rest = said;
    let mut cuts = cuts.iter().cycle();
    while !rest.is_empty() && !world.closed {
        let (piece, after) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
        world.send(piece);
        rest = after;
    }
    if !world.closed {
        world.input(Input::Closed(None));
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn no_client_leaves_anything_behind_and_cuts_change_nothing(
        said in prop::collection::vec(words(), 1..24),
        cuts in prop::collection::vec(prop_oneof![1usize..40, 100usize..40_000], 1..8),
    ) {
        let said = said.concat();
        let whole = run(&said, &[usize::MAX]);
        let cut = run(&said, &cuts);
        for world in [&whole, &cut] {
            world.assert_over();
            let engine = &world.engine;
            let mut ended: Vec<MessageId> = engine.submitted.iter().map(|s| s.id).collect();
            ended.extend(&engine.abandoned);
            ended.sort();
            let granted: Vec<MessageId> = (1..=engine.ids).map(MessageId::from_u64).collect();
            prop_assert_eq!(ended, granted, "each id is submitted or given back, once");
            let spooled: Vec<MessageId> = engine.spool.keys().copied().collect();
            let kept = engine.submitted.iter().filter(|s| s.body == Body::Spooled);
            prop_assert_eq!(spooled, kept.map(|s| s.id).collect::<Vec<_>>());
        }
        let replies = |world: &World| String::from_utf8_lossy(&world.replies).into_owned();
        prop_assert_eq!(replies(&whole), replies(&cut));
        let texts = |world: &World| {
            (0..world.engine.submitted.len()).map(|at| world.engine.text(at)).collect::<Vec<_>>()
        };
        prop_assert_eq!(texts(&whole), texts(&cut));
    }
}
