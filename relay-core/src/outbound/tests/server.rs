//! Our client against our server: every body arrives byte for byte, however the bytes are cut.

use std::cell::RefCell;
use std::rc::Rc;

use proptest::prelude::*;
use smtp_proto::Extension;
use smtp_proto::server::{Config as ServerConfig, Connection, Event, Progress, Rejection};

use super::*;
use crate::rng::Rng;

/// What the server took: MAIL's recipients and the body.
type Taken = Rc<RefCell<Vec<(Vec<String>, Vec<u8>)>>>;

/// A server connection that takes everything but for recipients whose name begins with `x`.
struct Server {
    smtp: Connection,
    input: Vec<u8>,
    out: VecDeque<u8>,
    rcpts: Vec<String>,
    body: Vec<u8>,
    taken: Taken,
    rng: Rng,
    closed: bool,
}

impl Server {
    fn new(config: &Arc<ServerConfig>, taken: &Taken, seed: u64) -> Self {
        let mut wire = Vec::new();
        let smtp = Connection::new(config, &mut wire);
        Self {
            smtp,
            input: Vec::new(),
            out: wire.into(),
            rcpts: Vec::new(),
            body: Vec::new(),
            taken: Rc::clone(taken),
            rng: Rng::from_number(seed),
            closed: false,
        }
    }

    fn hear(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        loop {
            let (mut wire, input) = (Vec::new(), std::mem::take(&mut self.input));
            let used = match self.smtp.receive(&input, &mut wire) {
                Ok(Progress::Event { used, event }) => {
                    match event {
                        Event::Body(piece) => self.body.extend_from_slice(piece),
                        Event::Rcpt(rcpt) => {
                            let to = rcpt.to.mailbox().unwrap().to_string();
                            if to.starts_with('x') {
                                let why = Rejection::NO_SUCH_MAILBOX;
                                self.smtp.reject(why, "nobody", &mut wire).unwrap();
                            } else {
                                self.rcpts.push(to);
                                self.smtp.accept("", &mut wire).unwrap();
                            }
                        }
                        Event::BodyEnd => {
                            let rcpts = std::mem::take(&mut self.rcpts);
                            let body = std::mem::take(&mut self.body);
                            self.taken.borrow_mut().push((rcpts, body));
                            self.smtp.accept("", &mut wire).unwrap();
                        }
                        Event::Hello(_) | Event::Mail(_) | Event::Data { .. } => {
                            self.smtp.accept("", &mut wire).unwrap();
                        }
                        Event::Quit => self.closed = true,
                        Event::Reset => self.rcpts.clear(),
                        event @ (Event::StartTls
                        | Event::Auth(_)
                        | Event::XClient(_)
                        | Event::BodyRefused(_)) => {
                            panic!("{event:?}")
                        }
                    }
                    used
                }
                Ok(Progress::NeedMore { used }) => {
                    self.input = input[used..].to_vec();
                    self.out.extend(wire);
                    return;
                }
                Err(why) => panic!("{why:?}"),
            };
            self.input = input[used..].to_vec();
            self.out.extend(wire);
            if self.closed {
                return;
            }
        }
    }
}

impl Peer for Server {
    fn write(&mut self, _now: Instant, wire: &[u8]) -> bool {
        let mut rest = wire;
        while !rest.is_empty() {
            let len = 1 + self.rng.below(rest.len() as u64) as usize;
            self.hear(&rest[..len]);
            rest = &rest[len..];
        }
        true
    }

    fn next(&mut self, until: Instant, _chunk: usize) -> Option<(Instant, Emit)> {
        if self.out.is_empty() {
            return self.closed.then_some((until, Emit::Close(None)));
        }
        let len = 1 + self.rng.below(self.out.len() as u64) as usize;
        let bytes: Vec<u8> = self.out.drain(..len).collect();
        // Time stands still: the world keeps the later of this and its own.
        Some((Instant::default(), Emit::Bytes(bytes)))
    }
}

/// Lines of dots, of nothing, and of text.
fn bodies() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        3 => "\\.{0,4}",
        2 => "[a-z .]{0,90}",
        1 => "\\.[A-Z]{900}",
    ];
    (prop::collection::vec(line, 0..40), 1usize..200).prop_map(|(lines, times)| {
        let text: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        text.repeat(times).into_bytes()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn bodies_arrive_byte_for_byte(
        bodies in prop::collection::vec((bodies(), any::<bool>(), 0usize..4, 0usize..4), 1..4),
        binary in any::<bool>(),
        pipelining in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let mut config = ServerConfig::new(Domain::parse("mx.example.net").unwrap());
        if !pipelining {
            config.extensions = config.extensions.without(Extension::Pipelining);
        }
        let config = Arc::new(config);
        let taken = Taken::default();
        let server = {
            let taken = Rc::clone(&taken);
            move || Box::new(Server::new(&config, &taken, seed)) as Box<dyn Peer>
        };
        let mut world = World::new().at("mx.example.net", "93.184.216.1", Host::Other(Box::new(server)));
        world.seed = seed;
        for (body, spooled, good, bad) in &bodies {
            let names = (0..*good).map(|n| format!("u{n}@example.net"));
            let recipients: Vec<String> =
                names.chain((0..=*bad).map(|n| format!("x{n}@example.net"))).collect();
            let kind = if binary { BodyKind::Binary } else { BodyKind::SevenBit };
            let mail = Mail { recipients, spooled: *spooled, kind, ..Mail::with_body(body) };
            world = world.mail(&mail);
        }
        let run = world.run();
        prop_assert_eq!(run.reports.len(), bodies.len());
        for (report, (_, _, good, bad)) in run.reports.iter().zip(&bodies) {
            let Report::Tried(tried) = report else { panic!("{report:?}") };
            let fates: String = tried.outcomes.iter().map(|(_, outcome)| fate(outcome)).collect();
            prop_assert_eq!(fates, "d".repeat(*good) + &"b".repeat(bad + 1));
        }
        let taken = taken.borrow();
        let sent: Vec<&Vec<u8>> =
            bodies.iter().filter(|body| body.2 > 0).map(|body| &body.0).collect();
        prop_assert_eq!(taken.iter().map(|(_, body)| body).collect::<Vec<_>>(), sent);
    }
}
