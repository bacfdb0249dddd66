//! Receiving hosts, and their manners.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use relay_core::channel::{Channel, ServerTls};
use relay_core::rng::Rng;
use relay_core::time::Instant;
use smtp_proto::server::{Config, Connection, Rejection};
use smtp_proto::{Extension, Mechanism};

use super::agenda::Dice;
use super::certs::{Paper, Papers};
use super::names::host_name;
use super::net::ConnId;
use super::profile::{Manner, Profile};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// A receiving host.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) manner: Manner,
    pub(crate) config: Arc<Config>,
    pub(crate) rng: Rng,
    /// When a pair of sender and recipient was seen first.
    pub(crate) known: BTreeMap<String, Instant>,
    pub(crate) greylisted_for: Duration,
    /// What it shows under TLS.
    pub(crate) paper: Paper,
    /// It answers STARTTLS with 220 and then breaks off.
    pub(crate) breaks_tls: bool,
    /// When messages were taken lately.
    pub(crate) recent: Vec<Instant>,
    pub(crate) open: usize,
}

/// One connection to a host.
#[derive(Debug)]
pub(crate) struct Talk {
    pub(crate) host: usize,
    /// Of the relay.
    pub(crate) life: u32,
    /// When its delivery began.
    pub(crate) begun: Instant,
    pub(crate) conn: ConnId,
    pub(crate) smtp: Connection,
    pub(crate) channel: Channel,
    pub(crate) handshaking: bool,
    /// What is said first under implicit TLS, until its handshake is over.
    pub(crate) greeting: Vec<u8>,
    /// The sender: behind a return path, the original one.
    pub(crate) from: String,
    /// The index of the recipient that the return path names.
    pub(crate) verp: Option<u32>,
    pub(crate) recipients: Vec<String>,
    /// The domain that the connection was opened for.
    pub(crate) first: Option<String>,
    pub(crate) body: Vec<u8>,
    pub(crate) messages: u32,
    /// The sender of the last message.
    pub(crate) last: String,
    /// It reads no more and says no more.
    pub(crate) mute: bool,
    /// It will read later.
    pub(crate) sipping: bool,
}

/// Where a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Greeting,
    Hello,
    Mail,
    Rcpt,
    Data,
    Dot,
}

/// What a host does.
#[derive(Debug)]
pub(crate) enum Act {
    Take,
    Refuse(Rejection, &'static str),
    /// Close without a word.
    Drop,
    /// Take it, and close without a word.
    TakeAndDrop,
    Mute,
}

impl Host {
    pub(crate) fn new(
        index: usize,
        manner: Manner,
        profile: &Profile,
        mut rng: Rng,
    ) -> Option<Self> {
        let mut config = Config::new(host_name(index).parse().ok()?)
            .with(Extension::RequireTls)
            .with_auth(&[Mechanism::Plain]);
        let offers = rng.chance(profile.host_tls_per_mille);
        config.extensions = config.extensions.without(Extension::StartTls);
        if offers {
            config = config.with(Extension::StartTls);
        }
        let bad = rng.chance(profile.bad_tls_per_mille);
        for (extension, per_mille) in [
            (Extension::Pipelining, 300),
            (Extension::Chunking, 400),
            (Extension::Dsn, 600),
            (Extension::Size, 200),
        ] {
            if rng.chance(per_mille) {
                config.extensions = config.extensions.without(extension);
            }
        }
        if rng.chance(200) {
            config.limits.recipients = 2;
        }
        Some(Self {
            manner,
            config: Arc::new(config),
            greylisted_for: rng.pick(&[SECOND * 30, MINUTE * 5, MINUTE * 30]),
            paper: if bad {
                rng.pick(&Paper::BAD)
            } else {
                Paper::Good
            },
            breaks_tls: bad && rng.chance(250),
            rng,
            known: BTreeMap::new(),
            recent: Vec::new(),
            open: 0,
        })
    }

    /// From now on it offers good TLS, and everything it does is as it should be.
    pub(crate) fn mend(&mut self) {
        self.manner = Manner::Healthy;
        self.paper = Paper::Good;
        self.breaks_tls = false;
        let config = Config::clone(&self.config).with(Extension::StartTls);
        self.config = Arc::new(config);
    }

    /// What it serves TLS with.
    pub(crate) fn tls(&self) -> Option<&'static Arc<ServerTls>> {
        Papers::get()?.host(self.paper)
    }

    /// Whether a connection is answered; if not, whether it is refused.
    pub(crate) fn answers(&mut self) -> Result<(), bool> {
        match self.manner {
            Manner::Down if self.rng.chance(850) => Err(self.rng.chance(500)),
            Manner::Down
            | Manner::Healthy
            | Manner::Moody
            | Manner::Greylisting
            | Manner::Dropping
            | Manner::Limiting
            | Manner::Slow
            | Manner::Sipping => Ok(()),
        }
    }

    pub(crate) fn act(&mut self, stage: Stage, who: &str, now: Instant) -> Act {
        match self.manner {
            Manner::Healthy | Manner::Slow | Manner::Sipping | Manner::Down => Act::Take,
            Manner::Moody => self.moody(stage),
            Manner::Greylisting => self.greylist(stage, who, now),
            Manner::Dropping => self.drop_now(stage),
            Manner::Limiting => self.limit(stage, now),
        }
    }

    fn moody(&mut self, stage: Stage) -> Act {
        if !self.rng.chance(70) {
            return Act::Take;
        }
        let (why, text) = self.rng.pick(&[
            (Rejection::SHUTTING_DOWN, "Going down"),
            (Rejection::RATE, "Too fast"),
            (Rejection::LOCAL_ERROR, "Something broke"),
            (Rejection::STORAGE_FULL, "No room"),
            (Rejection::TOO_MANY_RECIPIENTS, "Enough"),
            (Rejection::NO_SUCH_MAILBOX, "Nobody here"),
            (Rejection::POLICY, "We do not like it"),
            (Rejection::TOO_LARGE, "Too large"),
        ]);
        // A hello that is refused for good bounces everything; once in a while is enough.
        if matches!(stage, Stage::Greeting | Stage::Hello) && !why.is_transient() {
            return Act::Take;
        }
        Act::Refuse(why, text)
    }

    fn greylist(&mut self, stage: Stage, who: &str, now: Instant) -> Act {
        if stage != Stage::Rcpt {
            return Act::Take;
        }
        let first = *self.known.entry(who.to_owned()).or_insert(now);
        if now.since(first) >= self.greylisted_for {
            return Act::Take;
        }
        let text = match self.greylisted_for.as_secs() {
            30 => "Greylisted, try again in 30 seconds",
            300 => "Greylisted for 5 minutes",
            _ => "Greylisted, please try again later",
        };
        Act::Refuse(Rejection::transient(451, 7, 1), text)
    }

    fn drop_now(&mut self, stage: Stage) -> Act {
        match self.rng.below(100) {
            0..7 => Act::Drop,
            7..12 if stage == Stage::Dot => Act::TakeAndDrop,
            12 => Act::Mute,
            _ => Act::Take,
        }
    }

    fn limit(&mut self, stage: Stage, now: Instant) -> Act {
        match stage {
            Stage::Greeting if self.open > 2 => {
                Act::Refuse(Rejection::GO_AWAY, "Too many connections")
            }
            Stage::Mail => {
                self.recent.retain(|&at| now.since(at) < MINUTE);
                if self.recent.len() >= 6 {
                    return Act::Refuse(Rejection::RATE, "Too many messages");
                }
                self.recent.push(now);
                Act::Take
            }
            Stage::Greeting | Stage::Hello | Stage::Rcpt | Stage::Data | Stage::Dot => Act::Take,
        }
    }

    pub(crate) fn delay(&mut self, stage: Stage) -> Duration {
        if self.manner != Manner::Slow {
            return Duration::ZERO;
        }
        if stage == Stage::Dot && self.rng.chance(100) {
            return MINUTE * 9 + SECOND * 30;
        }
        self.rng.time(SECOND / 100, SECOND * 40)
    }
}
