//! Verification of mail that comes in: who vouches for it, as a function of what the DNS says.
//!
//! ```text
//!  header block ─▶ Reading::begin ── push: the body, in pieces ──▶ finish(now) ─▶ Verifier
//!                                                                                  │ poll
//!        ┌───────────── Step::Resolve(Question) ◀──────────────────────────────────┤
//!        └─▶ (the relay's own resolver) ─▶ answer(now, ..) ─▶ poll …               └─▶ Step::Done(Verdict)
//! ```
//!
//! | part | what it owns |
//! |---|---|
//! | [`Reading`] | the header block and the hashes of a body while it passes |
//! | [`Verifier`] | the questions, one after the other, and their deadline |
//! | `spf`, `dkim`, `arc`, `dmarc` | one function each: what is known so far in, a result or a question out |
//! | `results` | the Authentication-Results field |
//! | `header`, `body`, `signature`, `crypto` | what the functions are made of |
//!
//! Nothing here waits, and nothing keeps half-done work: with each answer the functions run again from
//! the start, and stop at the first thing that they do not know. All are short but for the check of a
//! public key, which is reached when all keys of that step are there.
//!
//! Bounds: the header block is held once (at most 256 KiB), a body never; [`SIGNATURES_MAX`]
//! signatures, [`SETS_MAX`] ARC sets; SPF's ten terms and two empty answers; [`QUESTIONS_MAX`] questions
//! in [`TIME_MAX`]. What is past the bounds is a `temperror`, never a `pass`.
//!
//! Why it is not a library: the ones there are read the system's clock, want the message whole in
//! memory, and bring a resolver of their own; here time and names enter as they do everywhere.
//!
//! RFC 7208 (SPF), RFC 6376, RFC 8301 and RFC 8463 (DKIM), RFC 8617 (ARC), RFC 9989 (DMARC), RFC 8601
//! (results).

mod arc;
mod body;
mod crypto;
mod dkim;
mod dmarc;
mod header;
mod known;
pub(crate) mod results;
mod signature;
mod spf;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use smtp_proto::{Domain, Host, Mailbox, ReversePath};

pub use arc::{Arc, ArcResult, SETS_MAX};
pub use dkim::{Dkim, DkimResult, SIGNATURES_MAX};
pub use dmarc::{Dmarc, DmarcResult, Policy};
pub use known::Answer;
pub use spf::SpfResult;

use crate::config::{a_labels, is_or_is_under};
use crate::dns::{DnsFailure, Question};
use crate::inbound::body::Author;
use crate::sign::Before;
use crate::time::{Instant, Now, UnixTime};
use arc::Chain;
use body::{Bodies, Hashes};
use header::Header;
use known::{Known, Unknown};

/// The most questions for one message. SPF alone may take some 110.
pub const QUESTIONS_MAX: usize = 150;

/// The most time for one message. RFC 7208 §4.6.4 wants at least 20 seconds.
pub const TIME_MAX: Duration = Duration::from_secs(30);

/// Who hands a message in, and what for.
#[derive(Debug, Clone)]
pub struct Client {
    /// Its address.
    pub ip: IpAddr,
    /// What it said in HELO or EHLO.
    pub helo: String,
    /// The reverse-path.
    pub from: ReversePath,
    /// Our name.
    pub hostname: Domain,
}

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The client's address.
    pub ip: IpAddr,
    /// Whether the client may send for the domain of the envelope.
    pub spf: Spf,
    /// Each signature, in the order of the header; at most [`SIGNATURES_MAX`].
    pub dkim: Vec<Dkim>,
    /// Whether what was verified is what From says.
    pub dmarc: Dmarc,
    /// What those say who handled the message before.
    pub arc: Arc,
}

impl Verdict {
    /// Whether somebody who answers for the domain of this reverse-path sent the message: by SPF, or by a
    /// signature of the domain or of one above it.
    #[must_use]
    pub fn vouches_for(&self, from: &Mailbox) -> bool {
        let Some(domain) = from.domain() else {
            return false;
        };
        let by_spf =
            self.spf.result == SpfResult::Pass && self.spf.identity == Identified::MailFrom;
        let signs = |dkim: &Dkim| {
            let signer = Domain::parse(&dkim.domain);
            dkim.result == DkimResult::Pass
                && signer.is_ok_and(|signer| is_or_is_under(domain, &signer))
        };
        by_spf || self.dkim.iter().any(signs)
    }
}

/// In short, for events and replies: `spf=pass, dkim=pass (a.example), dmarc=pass`.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spf={}", self.spf.result)?;
        for dkim in &self.dkim {
            write!(f, ", dkim={}", dkim.result)?;
            if !dkim.domain.is_empty() {
                write!(f, " ({})", dkim.domain)?;
            }
        }
        if self.dkim.is_empty() {
            f.write_str(", dkim=none")?;
        }
        write!(f, ", dmarc={}", self.dmarc.result)
    }
}

/// What SPF says of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spf {
    /// What came out.
    pub result: SpfResult,
    /// Which name was checked.
    pub identity: Identified,
    /// The domain.
    pub domain: String,
    /// What the domain says about a `fail`, in printable ASCII.
    pub explanation: Option<String>,
}

/// Which of a client's names SPF checked. RFC 7208 §2.3, §2.4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identified {
    /// The domain of MAIL FROM.
    MailFrom,
    /// The name in HELO, where MAIL FROM is null.
    Helo,
}

/// A message that is being read: its header is known, its body comes.
#[derive(Debug)]
pub struct Reading {
    client: Client,
    from: Option<String>,
    header: Header,
    signatures: Vec<dkim::Candidate>,
    chain: Chain,
    bodies: Bodies,
}

impl Reading {
    /// Begins with a complete header block as it came, of lines that end in CRLF, and the authors that
    /// it names.
    #[must_use]
    pub fn begin(client: Client, header: Vec<u8>, from: &Author) -> Self {
        let header = Header::new(header);
        let signatures = dkim::candidates(&header);
        let chain = Chain::read(&header);
        let mut bodies = Bodies::default();
        let forms = signatures
            .iter()
            .filter_map(|candidate| Some(candidate.signature()?.body_form));
        for form in forms.chain(chain.body_form()) {
            bodies.want(form);
        }
        Self {
            client,
            from: author_domain(from),
            header,
            signatures,
            chain,
            bodies,
        }
    }

    /// Takes a piece of the body.
    pub fn push(&mut self, body: &[u8]) {
        self.bodies.push(body);
    }

    /// The body is complete: what is left is to ask.
    #[must_use]
    pub fn finish(self, now: Now) -> Verifier {
        Verifier {
            until: now.instant + TIME_MAX,
            time: now.unix,
            hashes: self.bodies.finish(),
            client: self.client,
            from: self.from,
            header: self.header,
            signatures: self.signatures,
            chain: self.chain,
            known: Known::default(),
            asked: None,
            spf: None,
            dkim: None,
            arc: None,
        }
    }
}

/// The one domain of From, in A-labels, if there is one.
fn author_domain(from: &Author) -> Option<String> {
    let Author::Mailboxes(mailboxes) = from else {
        return None;
    };
    let mut domains = mailboxes
        .iter()
        .map(|mailbox| mailbox.domain().map(a_labels));
    let first = domains.next()??;
    domains
        .all(|other| other.as_ref() == Some(&first))
        .then_some(first)
}

/// What a verifier wants next.
#[derive(Debug)]
pub enum Step {
    /// Find this, and hand it to [`Verifier::answer`].
    Resolve(Question),
    /// That is all.
    Done(Box<Verdict>),
}

/// A message that was read, and what is known about it.
#[derive(Debug)]
pub struct Verifier {
    client: Client,
    from: Option<String>,
    header: Header,
    signatures: Vec<dkim::Candidate>,
    chain: Chain,
    hashes: Hashes,
    time: UnixTime,
    until: Instant,
    known: Known,
    /// The question that is out.
    asked: Option<Question>,
    // What is settled.
    spf: Option<Spf>,
    dkim: Option<Vec<Dkim>>,
    arc: Option<Arc>,
}

impl Verifier {
    /// Says what to do next. Between a question and its answer it is not called.
    pub fn poll(&mut self, now: Now) -> Step {
        loop {
            let question = match self.verdict() {
                Ok(verdict) => return Step::Done(Box::new(verdict)),
                Err(Unknown(question)) => question,
            };
            if self.known.len() < QUESTIONS_MAX && now.instant < self.until {
                self.asked = Some(question.clone());
                return Step::Resolve(question);
            }
            let failure = DnsFailure::Temporary("too much to ask for one message".into());
            self.known.insert(question, Err(failure));
        }
    }

    /// What an ARC set of our own follows; none if nothing may be added, or not now. RFC 8617 §5.1.
    pub(crate) fn before(&self, verdict: &Verdict) -> Option<Before> {
        let sets = self.chain.len();
        if sets >= SETS_MAX || self.chain.was_given_up() {
            return None;
        }
        let (chain, covered) = match verdict.arc.result {
            ArcResult::None => ("none", 0),
            ArcResult::Pass => ("pass", sets),
            // RFC 8617 §5.1.2: the seal of a chain that fails covers its own set alone.
            ArcResult::Fail if sets > 0 => ("fail", 0),
            ArcResult::Fail | ArcResult::TempError => return None,
        };
        Some(Before {
            canonical: self.chain.canonical(&self.header, covered),
            instance: sets + 1,
            chain,
        })
    }

    /// The answer to the last question.
    pub fn answer(&mut self, answer: Answer) {
        if let Some(question) = self.asked.take() {
            self.known.insert(question, answer);
        }
    }

    fn verdict(&mut self) -> Result<Verdict, Unknown> {
        let spf = settle(&mut self.spf, || {
            check_spf(&self.client, self.time, &self.known)
        })?;
        let dkim = settle(&mut self.dkim, || {
            let questions = self.signatures.iter().filter_map(dkim::Candidate::question);
            for question in questions {
                self.known.find(question)?;
            }
            let (header, hashes, known) = (&self.header, &self.hashes, &self.known);
            let verify =
                |candidate: &dkim::Candidate| candidate.verify(header, hashes, known, self.time);
            self.signatures.iter().map(verify).collect()
        })?;
        let arc = settle(&mut self.arc, || {
            let (header, hashes, known) = (&self.header, &self.hashes, &self.known);
            self.chain.validate(header, hashes, known, self.time)
        })?;
        let passed = dkim.iter().filter(|dkim| dkim.result == DkimResult::Pass);
        let spf_domain = spf.domain.to_ascii_lowercase();
        let identifiers = dmarc::Identifiers {
            spf: (spf.result == SpfResult::Pass).then_some(spf_domain.as_str()),
            dkim: passed.map(|dkim| dkim.domain.as_str()).collect(),
            incomplete: spf.result == SpfResult::TempError
                || dkim.iter().any(|dkim| dkim.result == DkimResult::TempError),
        };
        let dmarc = dmarc::judge(self.from.as_deref(), &identifiers, &self.known)?;
        Ok(Verdict {
            ip: self.client.ip,
            spf: spf.clone(),
            dkim: dkim.clone(),
            dmarc,
            arc: arc.clone(),
        })
    }
}

/// What is settled, or is now.
fn settle<T>(
    place: &mut Option<T>,
    find: impl FnOnce() -> Result<T, Unknown>,
) -> Result<&T, Unknown> {
    match place {
        Some(value) => Ok(value),
        None => Ok(place.insert(find()?)),
    }
}

fn check_spf(client: &Client, time: UnixTime, known: &Known) -> Result<Spf, Unknown> {
    let receiver = client.hostname.to_string();
    let mailbox = client.from.mailbox();
    let (identity, local_part, domain) = match mailbox.map(|mailbox| (mailbox, mailbox.host())) {
        Some((mailbox, Host::Domain(domain))) => {
            let local_part: String = mailbox.local_part_chars().collect();
            (Identified::MailFrom, local_part, a_labels(domain))
        }
        // RFC 7208 §4.3: of an address literal there is nothing to ask.
        Some((mailbox, Host::Literal(_))) => {
            let local_part = mailbox.local_part_chars().collect();
            (Identified::MailFrom, local_part, String::new())
        }
        None => {
            let helo = client.helo.clone();
            (Identified::Helo, "postmaster".to_owned(), helo)
        }
    };
    let outcome = spf::check(
        &spf::Identity {
            ip: client.ip.to_canonical(),
            helo: &client.helo,
            local_part: &local_part,
            domain: &domain,
            receiver: &receiver,
            time,
        },
        known,
    )?;
    Ok(Spf {
        result: outcome.result,
        identity,
        domain,
        explanation: outcome.explanation,
    })
}
