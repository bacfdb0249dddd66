//! From an open connection to one that takes MAIL: greeting, EHLO, STARTTLS, AUTH.
//!
//! ```text
//!              220            250, nothing more to do
//!  Greeting ───────▶ Hello ────────────────────────────────▶ Ready
//!     ▲               │ ▲ │ ▲                                  ▲
//!     │ (implicit)    │ │ │ └─ 5yz: HELO                       │
//!  Handshake ◀── 220 ─┼─┘ └──── a login is wanted ───▶ Auth ───┘ 235
//!     ▲               ▼                                 │ ▲
//!     └────────── StartTls ── 4yz, 5yz, if clear text   └─┘ 334
//!                             will do: as if not offered
//! ```
//!
//! Every way out is a [`Progress`]: what a failure means is decided by [`super::outcome`], what TLS is
//! needed by [`super::tls_policy`]. Each phase has one deadline, whatever drips in meanwhile.
//!
//! RFC 5321 §3.1, §3.2, §4.1.4, §4.5.3.2.1; RFC 3207 §4; RFC 4954 §4; RFC 7628 §3; RFC 8314 §3.3 (implicit TLS); RFC 2033 §4.1 (LHLO).

use std::sync::Arc;
use std::time::Duration;

use smtp_proto::client::{Connection, Event, Hello, SendError};
use smtp_proto::{Extension, Host, Mechanism, Reply, Severity};

use super::finding::{Finding, Loss, Stage};
use super::io::{Lane, LoginSecret, Request, Token};
use super::link::{Asked, End, Link, Received};
use super::tls_policy::{Choice, TlsFault};
use crate::channel::ClientTls;
use crate::config::{Config, Protocol};
use crate::machine::Timer;
use crate::rng::Rng;
use crate::sasl;
use crate::time::{Instant, Now};

/// RFC 5321 §4.5.3.2.1.
const GREETING: Duration = Duration::from_secs(5 * 60);

/// The reply to EHLO, HELO, STARTTLS or AUTH. RFC 5321 §4.5.3.2 leaves it to us.
const HELLO: Duration = Duration::from_secs(5 * 60);

/// The whole TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(60);

/// What is needed to make a connection ready.
pub(super) struct Setup<'a> {
    /// What the connection is for.
    pub(super) lane: &'a Lane,
    /// Where the message in hand goes.
    pub(super) domain: &'a str,
    /// Our name.
    pub(super) config: &'a Config,
    /// Our roots.
    pub(super) tls: &'a Arc<ClientTls>,
    /// For SCRAM.
    pub(super) rng: &'a mut Rng,
    /// The time.
    pub(super) now: Now,
}

/// A connection on its way to be ready.
#[derive(Debug)]
pub(super) struct Opening {
    phase: Phase,
    until: Instant,
    /// The token that was shown, and whether it is the second one.
    shown: Option<(Token, Shown)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    First,
    /// The host did not take the first one, which may have expired meanwhile.
    Second,
}

#[derive(Debug)]
enum Phase {
    Handshake(Asked),
    Greeting,
    Hello(Hello),
    StartTls,
    /// The runtime was asked for a token.
    Token(sasl::Mechanism),
    Auth(sasl::Client),
}

/// What comes next.
#[derive(Debug)]
pub(super) enum Progress {
    /// Read.
    Wait(Instant, Timer),
    /// Ask the runtime; the answer goes to [`Opening::token`].
    Ask(Request),
    /// It takes MAIL.
    Ready,
    /// It is of no use.
    Failed(Stage, Finding),
    /// TLS failed, and the policy lets clear text take its place on a new connection.
    InClear(TlsFault),
}

/// What is to be said next.
enum Say {
    Nothing,
    Hello(Hello),
    StartTls,
    Handshake,
    Auth(sasl::Mechanism),
    /// Get a token, another one than that if the host did not take it.
    Token(sasl::Mechanism, Option<Token>),
    Respond(Vec<u8>),
    Done,
}

/// Why there is nothing to say.
type Stop = Progress;

impl Opening {
    /// Begins with a connection that was just made.
    pub(super) fn begin(link: &mut Link, setup: &mut Setup<'_>) -> (Self, Progress) {
        let mode = setup.lane.tls_mode(link.candidate.address.port());
        let until = setup.now.instant + GREETING;
        let mut opening = Self {
            phase: Phase::Greeting,
            until,
            shown: None,
        };
        if link.policy.implicit(mode, link.candidate.tls_given_up) {
            let progress = opening.handshake(Asked::Port, link, setup);
            return (opening, progress);
        }
        let progress = opening.wait();
        (opening, progress)
    }

    /// Bytes came.
    pub(super) fn receive(
        &mut self,
        received: Received,
        link: &mut Link,
        setup: &mut Setup<'_>,
    ) -> Progress {
        let mut say = Say::Nothing;
        if received.secured {
            match self.secured(link, setup) {
                Ok(next) => say = next,
                Err(stop) => return stop,
            }
        }
        for event in received.events {
            let heard = match event {
                Event::Reply { reply, .. } => self.heard(reply, link, setup),
                Event::Closing { reply } => {
                    Err(Progress::Failed(self.stage(), Finding::Reply(reply)))
                }
            };
            match heard {
                Ok(next) => say = next,
                // A host that says too much with its last reply is not ready.
                Err(Progress::Ready) if received.end.is_some() => {}
                Err(stop) => return stop,
            }
        }
        if let Some(end) = received.end {
            return self.ended(end, link);
        }
        self.say(say, link, setup)
    }

    /// The connection ended, or a deadline passed.
    pub(super) fn lost(&mut self, loss: Loss, link: &Link) -> Progress {
        match self.tls_trouble(link) {
            Some(asked) => {
                let why = match &loss {
                    Loss::Closed => "the host closed the connection".to_owned(),
                    Loss::Broken(kind) => format!("the connection broke: {kind}"),
                    Loss::Timeout => "timed out".to_owned(),
                    Loss::Protocol(why) => why.clone(),
                };
                tls_failed(asked, why, link)
            }
            None => Progress::Failed(self.stage(), Finding::Lost(loss)),
        }
    }

    fn ended(&mut self, end: End, link: &Link) -> Progress {
        match end {
            // Whatever the phase, this is not about what was said under TLS.
            End::Tls(why) if !link.is_secured() => {
                let asked = self.tls_trouble(link).unwrap_or(Asked::StartTls);
                tls_failed(asked, why.to_string(), link)
            }
            End::Closed | End::Tls(_) | End::Smtp(_) => self.lost(end.into(), link),
        }
    }

    /// Whether a loss now is the fault of TLS: it is until the host said something under it, since under
    /// TLS 1.3 a client believes the handshake to be over before the server does.
    fn tls_trouble(&self, link: &Link) -> Option<Asked> {
        match &self.phase {
            Phase::Handshake(asked) => Some(*asked),
            Phase::StartTls => Some(Asked::StartTls),
            Phase::Hello(Hello::Ehlo | Hello::Lhlo) if link.is_secured() => Some(Asked::StartTls),
            Phase::Greeting if link.is_secured() => Some(Asked::Port),
            Phase::Hello(_) | Phase::Greeting | Phase::Token(_) | Phase::Auth(_) => None,
        }
    }

    fn stage(&self) -> Stage {
        match self.phase {
            Phase::Handshake(_) | Phase::StartTls => Stage::Tls,
            Phase::Greeting => Stage::Greeting,
            Phase::Hello(_) => Stage::Hello,
            Phase::Token(_) | Phase::Auth(_) => Stage::Auth,
        }
    }

    fn wait(&self) -> Progress {
        let why = match self.phase {
            Phase::Handshake(_) => Timer::Handshake,
            Phase::Greeting => Timer::Greeting,
            Phase::Hello(_) | Phase::StartTls | Phase::Token(_) | Phase::Auth(_) => Timer::Hello,
        };
        Progress::Wait(self.until, why)
    }

    /// The handshake is over: its certificate is judged before anything is said.
    fn secured(&mut self, link: &mut Link, setup: &Setup<'_>) -> Result<Say, Stop> {
        link.judge(setup.domain, setup.tls, setup.now.unix)
            .map_err(|fault| Progress::Failed(Stage::Tls, Finding::Tls(fault)))?;
        match self.phase {
            Phase::Handshake(Asked::Port) => {
                self.phase = Phase::Greeting;
                self.until = setup.now.instant + GREETING;
                Ok(Say::Nothing)
            }
            // RFC 3207 §4.2: "the client SHOULD send an EHLO command as the first command".
            Phase::Handshake(Asked::StartTls) => Ok(Say::Hello(hello(setup.lane))),
            Phase::Greeting
            | Phase::Hello(_)
            | Phase::StartTls
            | Phase::Token(_)
            | Phase::Auth(_) => Ok(Say::Nothing),
        }
    }

    fn heard(&mut self, reply: Reply, link: &mut Link, setup: &Setup<'_>) -> Result<Say, Stop> {
        let failed = |stage, reply| Err(Progress::Failed(stage, Finding::Reply(reply)));
        let renews = self.may_renew(&reply);
        match (&mut self.phase, reply.severity()) {
            (Phase::Greeting, Severity::Success) => Ok(Say::Hello(hello(setup.lane))),
            (Phase::Hello(_), Severity::Success) => after_hello(link, setup),
            (Phase::StartTls, Severity::Success) => Ok(Say::Handshake),
            // RFC 5321 §3.2: "the client SHOULD be able to fall back and send HELO."
            (Phase::Hello(Hello::Ehlo), Severity::Permanent) => Ok(Say::Hello(Hello::Helo)),
            (Phase::StartTls, _) if reply.code().number() != 421 => {
                let said = reply.sanitised();
                let fault = link.policy.refusal(said.clone());
                link.policy
                    .after_failure(fault)
                    .map_err(|fault| Progress::Failed(Stage::Tls, Finding::Tls(fault)))?;
                link.tls_refused = Some(said);
                after_hello(link, setup)
            }
            (Phase::Auth(client), Severity::Intermediate) => {
                let challenge = reply.challenge().ok_or(sasl::ClientError::Malformed);
                challenge
                    .and_then(|challenge| client.respond(&challenge))
                    .map(Say::Respond)
                    .map_err(|why| login_failed(why.to_string()))
            }
            (Phase::Auth(_), Severity::Success) => Ok(Say::Done),
            (Phase::Auth(_), Severity::Permanent) if renews => {
                let mechanism = token_mechanism(link, setup);
                let refused = self.shown.as_ref().map(|(token, _)| token.clone());
                mechanism
                    .map(|mechanism| Say::Token(mechanism, refused))
                    .ok_or(Progress::Failed(Stage::Auth, Finding::Reply(reply)))
            }
            (
                Phase::Greeting
                | Phase::Hello(_)
                | Phase::Token(_)
                | Phase::Auth(_)
                | Phase::StartTls,
                _,
            ) => failed(self.stage(), reply),
            (Phase::Handshake(_), _) => failed(Stage::Tls, reply),
        }
    }

    fn say(&mut self, say: Say, link: &mut Link, setup: &mut Setup<'_>) -> Progress {
        let said = match say {
            Say::Nothing => return self.wait(),
            Say::Done => return self.logged_in(),
            Say::Handshake => return self.handshake(Asked::StartTls, link, setup),
            Say::Hello(verb) => {
                self.phase = Phase::Hello(verb);
                let name = Host::Domain(setup.config.hostname.clone());
                link.send(|smtp, wire| smtp.hello(verb, &name, wire))
            }
            Say::StartTls => {
                self.phase = Phase::StartTls;
                link.send(Connection::start_tls)
            }
            Say::Auth(mechanism) => {
                let Some((client, initial)) = start_login(mechanism, link, setup) else {
                    return Progress::Ready;
                };
                self.phase = Phase::Auth(client);
                say_auth(mechanism, initial.as_deref(), link)
            }
            Say::Token(mechanism, refused) => return self.get_token(mechanism, refused, setup),
            Say::Respond(response) => link.send(|smtp, wire| smtp.auth_respond(&response, wire)),
        };
        self.until = setup.now.instant + HELLO;
        match said {
            Ok(()) => self.wait(),
            // The client knows better than we do what the host can still be told.
            Err(why) => {
                Progress::Failed(self.stage(), Finding::Lost(Loss::Protocol(why.to_string())))
            }
        }
    }

    /// Whether another token may be taken: once, if this one is refused for good. RFC 7628 §3.2.2 has a
    /// client get a new one where the status is that of an invalid token.
    fn may_renew(&self, reply: &Reply) -> bool {
        let first = matches!(self.shown, Some((_, Shown::First)));
        first && reply.code().number() == 535
    }

    fn get_token(
        &mut self,
        mechanism: sasl::Mechanism,
        refused: Option<Token>,
        setup: &Setup<'_>,
    ) -> Progress {
        let login = setup.lane.login.as_ref();
        let Some(LoginSecret::Token(source)) = login.map(|login| &login.secret) else {
            return login_failed("the route has no token".to_owned());
        };
        self.phase = Phase::Token(mechanism);
        Progress::Ask(Request::Token {
            source: source.clone(),
            refused,
        })
    }

    /// The runtime has a token, or says why not.
    pub(super) fn token(
        &mut self,
        token: Result<Token, String>,
        link: &mut Link,
        setup: &mut Setup<'_>,
    ) -> Progress {
        let (Phase::Token(mechanism), Some(login)) = (&self.phase, &setup.lane.login) else {
            return login_failed("a token that nobody asked for".to_owned());
        };
        let mechanism = *mechanism;
        let token = match token {
            Ok(token) => token,
            Err(why) => return login_failed(why),
        };
        let bearer = sasl::Bearer {
            name: Some(login.username.clone()),
            token: token.0.clone(),
        };
        let (host, port) = (link.candidate.host.clone(), link.candidate.address.port());
        let (client, initial) = sasl::Client::bearer(mechanism, &bearer, &host, port);
        let shown = match self.shown {
            None => Shown::First,
            Some(_) => Shown::Second,
        };
        self.shown = Some((token, shown));
        self.phase = Phase::Auth(client);
        self.until = setup.now.instant + HELLO;
        match say_auth(mechanism, initial.as_deref(), link) {
            Ok(()) => self.wait(),
            Err(why) => {
                Progress::Failed(Stage::Auth, Finding::Lost(Loss::Protocol(why.to_string())))
            }
        }
    }

    fn handshake(&mut self, asked: Asked, link: &mut Link, setup: &Setup<'_>) -> Progress {
        self.phase = Phase::Handshake(asked);
        self.until = setup.now.instant + HANDSHAKE;
        match link.start_tls(asked, setup.tls, setup.now.unix) {
            Ok(()) => self.wait(),
            Err(why) => tls_failed(asked, why.to_string(), link),
        }
    }

    /// The host says that it knows the password; some mechanisms make it prove that.
    fn logged_in(&mut self) -> Progress {
        match std::mem::replace(&mut self.phase, Phase::Hello(Hello::Ehlo)) {
            Phase::Auth(client) => match client.finish() {
                Ok(()) => Progress::Ready,
                Err(why) => login_failed(why.to_string()),
            },
            Phase::Handshake(_)
            | Phase::Greeting
            | Phase::Hello(_)
            | Phase::StartTls
            | Phase::Token(_) => Progress::Ready,
        }
    }
}

/// RFC 2033 §4.1: LHLO in the place of EHLO, and nothing to fall back to.
fn hello(lane: &Lane) -> Hello {
    match lane.protocol {
        Protocol::Smtp => Hello::Ehlo,
        Protocol::Lmtp => Hello::Lhlo,
    }
}

/// What is to be said to a host whose offers are known.
fn after_hello(link: &Link, setup: &Setup<'_>) -> Result<Say, Stop> {
    let offers = link.offers();
    if !link.is_secured() {
        let given_up = link.candidate.tls_given_up || link.tls_refused.is_some();
        let choice = link
            .policy
            .after_hello(offers.has(Extension::StartTls), given_up);
        match choice {
            Ok(Choice::Start) => return Ok(Say::StartTls),
            Ok(Choice::Clear) => {}
            Err(fault) => return Err(Progress::Failed(Stage::Tls, Finding::Tls(fault))),
        }
    }
    let login = setup.lane.login.as_ref();
    let say = match login.map(|login| &login.secret) {
        None => return Err(Progress::Ready),
        Some(LoginSecret::Password(_)) => password_mechanism(link, setup).map(Say::Auth),
        Some(LoginSecret::Token(_)) => {
            token_mechanism(link, setup).map(|mechanism| Say::Token(mechanism, None))
        }
    };
    say.ok_or_else(|| match login.and_then(|login| login.mechanism) {
        Some(mechanism) => login_failed(format!("the host does not offer {mechanism}")),
        None => login_failed("the host offers no AUTH mechanism that fits the secret".to_owned()),
    })
}

/// How to show a password: as the route says, or in the best way that the host offers.
fn password_mechanism(link: &Link, setup: &Setup<'_>) -> Option<sasl::Mechanism> {
    sasl::Mechanism::best(offered(link, setup), link.tls_exporter().as_ref())
}

/// The same for a token.
fn token_mechanism(link: &Link, setup: &Setup<'_>) -> Option<sasl::Mechanism> {
    sasl::Mechanism::best_for_token(offered(link, setup))
}

/// What the host offers, as far as the route wants it.
fn offered<'a>(link: &'a Link, setup: &Setup<'_>) -> impl Iterator<Item = &'static str> + use<'a> {
    let wanted = setup.lane.login.as_ref().and_then(|login| login.mechanism);
    let names = link.offers().mechanisms.iter().map(Mechanism::name);
    names.filter(move |name| wanted.is_none_or(|wanted| wanted.name() == *name))
}

fn start_login(
    mechanism: sasl::Mechanism,
    link: &Link,
    setup: &mut Setup<'_>,
) -> Option<(sasl::Client, Option<Vec<u8>>)> {
    let login = setup.lane.login.as_ref()?;
    let LoginSecret::Password(password) = &login.secret else {
        return None;
    };
    let binding = link.tls_exporter();
    let (username, rng) = (&login.username, &mut *setup.rng);
    Some(sasl::Client::start(
        mechanism,
        username,
        password,
        binding.as_ref(),
        rng,
    ))
}

fn say_auth(
    mechanism: sasl::Mechanism,
    initial: Option<&[u8]>,
    link: &mut Link,
) -> Result<(), SendError> {
    let name = Mechanism::from_name(mechanism.name());
    let name = name.ok_or(SendError::NotOffered(Extension::Auth))?;
    link.send(|smtp, wire| smtp.auth(name, initial, wire))
}

fn login_failed(why: String) -> Progress {
    Progress::Failed(Stage::Auth, Finding::Login(why))
}

/// The handshake failed, or what began it.
fn tls_failed(asked: Asked, why: String, link: &Link) -> Progress {
    let fault = TlsFault::Handshake(why);
    let clear = link.policy.after_failure(fault.clone());
    match (clear, asked) {
        (Ok(()), Asked::StartTls) => Progress::InClear(fault),
        // Behind a port that is for TLS nobody speaks clear text.
        (Ok(()), Asked::Port) | (Err(_), _) => Progress::Failed(Stage::Tls, Finding::Tls(fault)),
    }
}
