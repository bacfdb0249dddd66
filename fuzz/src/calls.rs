//! Any calls on the client connection in any order, and any replies between them.

use smtp_proto::address::{ForwardPath, ReversePath};
use smtp_proto::client::{Awaiting, Connection, Event, Hello, Progress, SendError};
use smtp_proto::domain::Host;
use smtp_proto::extension::Mechanism;
use smtp_proto::param::{MailParams, RcptParams};

const EXTENSIONS: &str = "PIPELINING\nSIZE 1000\n8BITMIME\nSMTPUTF8\nDSN\nCHUNKING\nBINARYMIME\nSTARTTLS\n\
    AUTH PLAIN LOGIN\nLIMITS RCPTMAX=3\nREQUIRETLS\nMT-PRIORITY\nDELIVERBY 60\nFUTURERELEASE 100 \
    2030-01-01T00:00:00Z";

/// Pieces of bodies, clean and not.
const PIECES: [&[u8]; 8] = [
    b"a line\r\n",
    b"..\r\n.\r\n",
    b"no end",
    b"a\rb",
    b"\n.\n",
    b"\r",
    b"\n",
    b"",
];

/// Each two bytes are a call or a reply, and which. A call that is refused has written nothing; one that
/// is not is answered in its turn; and whatever is called, the wire holds whole lines and no bare CR or
/// LF. Gives how many calls were carried out.
pub fn client_calls(data: &[u8]) -> usize {
    let (mut smtp, mut wire) = (Connection::new(), Vec::new());
    let (mut carried_out, mut lmtp) = (0, false);
    for step in data.chunks_exact(2) {
        let [what, which] = [step[0], step[1]];
        if what % 2 == 0 {
            if !reply(&mut smtp, which, lmtp) {
                break;
            }
            continue;
        }
        let before = (wire.len(), smtp.awaiting().count());
        let done = call(&mut smtp, what / 2, which, &mut wire);
        let after = (wire.len(), smtp.awaiting().count());
        match done {
            Ok(awaited) => {
                lmtp |= wire[before.0..].starts_with(b"LHLO");
                carried_out += 1;
                assert!(lmtp || after.1 == before.1 + awaited);
            }
            Err(_) => assert_eq!(after, before, "a refused call changes nothing"),
        }
    }
    for (at, &octet) in wire.iter().enumerate() {
        match octet {
            // The LF of the last one may be for the next call to send.
            b'\r' => assert!(matches!(wire.get(at + 1), Some(b'\n') | None)),
            b'\n' => assert_eq!(wire[at - 1], b'\r'),
            _ => {}
        }
    }
    carried_out
}

/// How many replies the call asks for.
fn call(
    smtp: &mut Connection,
    what: u8,
    which: u8,
    wire: &mut Vec<u8>,
) -> Result<usize, SendError> {
    let from = ["<>", "<a@b.example>", "<j\u{f6}rg@b.example>"][usize::from(which) % 3];
    let from: ReversePath = from.parse().expect("a path");
    let to = ["<Postmaster>", "<a@b.example>", "<j\u{f6}rg@b.example>"][usize::from(which) % 3];
    let to: ForwardPath = to.parse().expect("a path");
    let piece = PIECES[usize::from(which) % PIECES.len()];
    match what % 16 {
        0 => {
            let verb = [Hello::Ehlo, Hello::Ehlo, Hello::Helo, Hello::Lhlo][usize::from(which) % 4];
            smtp.hello(verb, &Host::parse("[192.0.2.1]").expect("a host"), wire)?;
        }
        1 => smtp.start_tls(wire)?,
        2 => {
            let initial = [None, Some(&b"\0u\0p"[..]), Some(&b""[..])][usize::from(which) % 3];
            let mechanism = [Mechanism::Plain, Mechanism::Login, Mechanism::XOAuth2];
            smtp.auth(mechanism[usize::from(which) / 3 % 3], initial, wire)?;
        }
        3 if which.is_multiple_of(4) => smtp.auth_cancel(wire)?,
        3 => smtp.auth_respond(piece, wire)?,
        4 | 5 => {
            let params = MailParams {
                size: (which & 8 != 0).then_some(u64::from(which) * 10),
                smtputf8: which & 16 != 0,
                requiretls: which & 224 == 32,
                ..MailParams::default()
            };
            smtp.mail(&from, &params, wire)?;
        }
        6 | 7 => smtp.rcpt(&to, &RcptParams::default(), wire)?,
        8 | 9 => smtp.data(wire)?,
        10 => {
            smtp.body(piece, wire)?;
            return Ok(0);
        }
        11 => smtp.body_end(wire)?,
        12 => smtp.bdat(u64::from(which) % 20, which & 32 != 0, wire)?,
        13 => {
            smtp.body_raw(piece, wire)?;
            return Ok(0);
        }
        14 => smtp.reset(wire)?,
        _ if which.is_multiple_of(8) => smtp.quit(wire)?,
        _ => smtp.noop(wire)?,
    }
    Ok(1)
}

/// Says whether the connection goes on.
fn reply(smtp: &mut Connection, which: u8, lmtp: bool) -> bool {
    let awaited = smtp.awaiting().next();
    // A reply to nothing ends the connection, so it is rare.
    if awaited.is_none() && which != u8::MAX {
        return true;
    }
    let usual = match awaited {
        Some(Awaiting::Greeting | Awaiting::StartTls) => 220,
        Some(Awaiting::Data) => 354,
        Some(Awaiting::Auth) => [334, 235][usize::from(which) % 2],
        Some(_) | None => 250,
    };
    let code = [450, 550, 421, 354, 503][usize::from(which / 8) % 5];
    let code = if which % 8 < 6 { usual } else { code };
    let text = match awaited {
        Some(Awaiting::Hello(_)) => format!("x\n{EXTENSIONS}"),
        Some(_) | None => "AAAA".to_owned(),
    };
    let lines: Vec<&str> = text.lines().collect();
    let mut octets = String::new();
    for (nr, line) in lines.iter().enumerate() {
        let last = nr + 1 == lines.len();
        octets += &format!("{code}{}{line}\r\n", if last { ' ' } else { '-' });
    }
    match smtp.receive(octets.as_bytes()) {
        Ok(Progress::Event {
            used,
            event: Event::Reply { answers, reply },
        }) => {
            assert_eq!((used, reply.code().number()), (octets.len(), code));
            assert!(lmtp || Some(answers) == awaited, "{answers:?}, {awaited:?}");
            if answers == Awaiting::StartTls && code == 220 {
                smtp.tls_started();
            }
            true
        }
        Ok(Progress::Event {
            event: Event::Closing { .. },
            ..
        }) => false,
        Ok(Progress::NeedMore { .. }) => panic!("a whole reply"),
        Err(_) => false,
    }
}
