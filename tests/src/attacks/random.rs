//! Dialogues that nobody wrote, the same to both runtimes: they must get the same.

use relay_core::rng::Rng;

use super::bodies::{FALSE_ENDS, HEADERS};
use super::relay::{Door, Relay};
use super::sink::{Script, Sink};
use super::{Runtime, Trouble, ensure};

/// What dialogues are made of. Chunks count right or wrong, bodies end or do not.
const PIECES: &[&str] = &[
    "EHLO client.example\r\n",
    "HELO client.example\r\n",
    "EHLO\r\n",
    "MAIL FROM:<a@client.example>\r\n",
    "MAIL FROM:<a@client.example> BODY=BINARYMIME SIZE=1000\r\n",
    "MAIL FROM:<a@client.example> SIZE=99999999999\r\n",
    "MAIL FROM:<a@bank.example>\r\n",
    "MAIL FROM:<>\r\n",
    "MAIL FROM:<a@client.example\r\n",
    "RCPT TO:<b@server.example>\r\n",
    "RCPT TO:<b@server.example> NOTIFY=NEVER\r\n",
    "RCPT TO:<b@[127.0.0.1]>\r\n",
    "RCPT TO:<>\r\n",
    "DATA\r\n",
    "DATA now\r\n",
    "From: a@client.example\r\n",
    "Subject: a\r\n",
    "\r\n",
    "text\r\n",
    "bare\nLF",
    ".\r\n",
    "..\r\n",
    "BDAT 6\r\ntext\r\n",
    "BDAT 6 LAST\r\ntext\r\n",
    "BDAT 29 LAST\r\nFrom: a@client.example\r\n\r\na\r\n",
    "BDAT 0\r\n",
    "BDAT 0 LAST\r\n",
    "BDAT 3\r\n.\r\n",
    "RSET\r\n",
    "NOOP\r\n",
    "VRFY a\r\n",
    "AUTH PLAIN AGEAYg==\r\n",
    "STARTTLS now\r\n",
    "QUIT now\r\n",
    "BOGUS\r\n",
    "\0\r\n",
];

/// Runs so many dialogues, beginning with this seed, against both; each has its own connections.
///
/// # Errors
/// The first dialogue that differs, and how.
pub fn compare(first_seed: u64, count: u64) -> Result<(), String> {
    run(first_seed, count).map_err(|trouble| trouble.to_string())
}

fn run(first_seed: u64, count: u64) -> Result<(), Trouble> {
    let sink = Sink::start(Script::default())?;
    let [a, b] = Runtime::ALL.map(|runtime| Relay::to(runtime, &sink));
    let (a, b) = (a?, b?);
    for seed in first_seed..first_seed + count {
        let (text, sizes) = dialogue(seed);
        let (left, right) = (talk(&a, &text, &sizes)?, talk(&b, &text, &sizes)?);
        ensure!(
            left == right,
            "seed {seed}: {}\n{left:#?}\n{right:#?}",
            text.escape_ascii()
        );
    }
    let counted = |relay: &Relay| -> Result<_, Trouble> {
        let status = relay.until("the queue to empty", |status| status.queued == 0)?;
        Ok((status.accepted, status.delivered, status.bounced))
    };
    let (left, right) = (counted(&a)?, counted(&b)?);
    ensure!(left == right, "counted {left:?} and {right:?}");
    for taken in sink.notes().taken {
        taken.check_wire()?;
    }
    let faults = sink.notes().faults;
    ensure!(faults.is_empty(), "{faults:?}");
    Ok(())
}

/// A dialogue, and how it is cut.
fn dialogue(seed: u64) -> (Vec<u8>, Vec<usize>) {
    let mut rng = Rng::from_number(seed);
    let mut below = |bound: usize| {
        let bound = u64::try_from(bound).unwrap_or(1);
        usize::try_from(rng.below(bound)).unwrap_or(0)
    };
    let mut text = b"EHLO client.example\r\n".to_vec();
    for _ in 0..below(30) {
        match below(12) {
            // Most random commands lead nowhere; a transaction that begins well goes deeper.
            0..=2 => text
                .extend(b"MAIL FROM:<a@client.example>\r\nRCPT TO:<b@server.example>\r\nDATA\r\n"),
            3 => text.extend(HEADERS.as_bytes()),
            4 => text.extend(FALSE_ENDS[below(FALSE_ENDS.len())].1.as_bytes()),
            _ => text.extend(PIECES[below(PIECES.len())].as_bytes()),
        }
    }
    // Whatever state that was, here it ends.
    text.extend(b"\r\n.\r\nQUIT\r\n");
    let sizes = (0..8).map(|_| 1 + below(200)).collect();
    (text, sizes)
}

/// The replies, without what differs between two runs.
fn talk(relay: &Relay, text: &[u8], sizes: &[usize]) -> Result<Vec<String>, Trouble> {
    let mut client = relay.connect(Door::Trusted)?;
    let mut rest = text;
    for &size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, left) = rest.split_at(size.min(rest.len()));
        if client.write(piece).is_err() {
            break;
        }
        rest = left;
    }
    client.finish();
    let mut lines = Vec::new();
    for reply in client.rest()? {
        let shown: Vec<&str> = reply
            .lines
            .iter()
            .map(|line| {
                // A message's id, and the time until which FUTURERELEASE may hold.
                ["queued as", "FUTURERELEASE "]
                    .iter()
                    .find_map(|mark| line.split_once(mark))
                    .map_or(line.as_str(), |(start, _)| start)
            })
            .collect();
        lines.push(format!("{} {}", reply.code, shown.join("|")));
    }
    Ok(lines)
}
