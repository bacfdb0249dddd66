//! One HTTPS request to a server of the internet as a machine: for the policies of MTA-STS and the
//! reports of TLS-RPT.
//!
//! ```text
//!              addresses          connected        verified         sent          head        whole
//!   Resolving ──────────▶ Connecting ─────▶ Handshake ─────▶ Sending ─────▶ Head ─────▶ Body ─────▶ Done
//!       │                  ▲       │            │               │            │           │
//!       │                  └ next ─┤            │               │            │           │
//!       └──────────────────────────┴────────────┴───────────────┴────────────┴───────────┴──▶ Failed
//! ```
//!
//! A stranger names the host, so that nothing is taken on trust: its addresses must be of the internet,
//! its certificate must verify for its name, no redirect is followed and no compression asked for; time,
//! head and body are bounded. HTTP itself is of ureq-proto.
//!
//! RFC 9112 (HTTP/1.1), RFC 9110 (its meaning).

use std::collections::VecDeque;
use std::fmt;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ureq_proto::client::{Call, RecvResponseResult, SendRequestResult, state};
use ureq_proto::http::{self, header};

use crate::channel::{Channel, ClientTls, TlsFailure, Verify};
use crate::config::Config;
use crate::dns::{AddressAnswer, DnsFailure, Texts};
use crate::machine::{BURST_MAX, Input, Output, Timer};
use crate::time::{Instant, Now};

/// Connecting to one address: there may be others.
const CONNECT: Duration = Duration::from_secs(15);

/// Addresses that are tried.
const ADDRESSES_MAX: usize = 4;

/// The longest head of a response, in octets.
const HEAD_MAX: usize = 16 * 1024;

/// What a machine on its way through HTTPS asks of its runtime.
#[derive(Debug)]
pub enum Request {
    /// Find TXT records. Answered by `Texts`.
    Texts(String),
    /// Find the addresses of a host. Answered by `Resolved`.
    Resolve(String),
    /// Close what is open and connect. Answered by `Connected`.
    Connect {
        /// Where to.
        to: SocketAddr,
        /// When to give up.
        until: Instant,
    },
    /// Only write what is on the wire, so that the next burst has room. Answered by `Flushed`.
    Flush,
}

/// What the runtime answers.
#[derive(Debug)]
pub enum Answer {
    /// To `Texts`.
    Texts(Result<Texts, DnsFailure>),
    /// To `Resolve`.
    Resolved(AddressAnswer),
    /// To `Connect`.
    Connected(Result<(), ErrorKind>),
    /// To `Flush`.
    Flushed,
}

/// What is asked of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Its name: for the DNS, for its certificate, and for the Host field.
    pub host: String,
    /// The port; 443 as a rule.
    pub port: u16,
    /// Path and query.
    pub path: String,
    /// What is posted, with its media type; none for a GET.
    pub post: Option<(&'static str, Vec<u8>)>,
    /// The longest body that is taken, in octets.
    pub body_max: usize,
    /// All of it takes no longer.
    pub timeout: Duration,
    /// The host may be at an address that `prohibited_hosts` names.
    pub allow_private: bool,
}

/// What a server answered. The body of an answer that is not 200 is not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The media type without its parameters, in lower case; empty if there is none.
    pub media_type: String,
    /// The body.
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The host has no address, or the DNS does not say.
    Dns(String),
    /// The host is at an address that is not for strangers to name.
    Prohibited(String),
    /// No address took a connection, or the connection broke.
    Connection(String),
    /// TLS failed; the certificate may be fine.
    Tls(String),
    /// The certificate does not verify.
    Certificate(String),
    /// The time is over.
    TimedOut,
    /// The answer is not HTTP, too long, or compressed.
    Response(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(why) | Self::Prohibited(why) | Self::Connection(why) => f.write_str(why),
            Self::Tls(why) | Self::Certificate(why) | Self::Response(why) => f.write_str(why),
            Self::TimedOut => f.write_str("it took too long"),
        }
    }
}

/// The exchange. It is driven like a machine; its owner passes inputs on and reads the result.
#[derive(Debug)]
pub struct Exchange {
    ask: Ask,
    tls: Arc<ClientTls>,
    config: Arc<Config>,
    state: State,
    channel: Channel,
    until: Instant,
    now: Now,
    /// What came and was not used.
    input: Vec<u8>,
    /// The request, and how much of it was sent.
    request: Vec<u8>,
    sent: usize,
}

#[derive(Debug)]
enum State {
    /// Ask for the addresses.
    Resolve,
    Resolving,
    /// Connect to the first of these.
    Connect(VecDeque<SocketAddr>),
    Connecting(VecDeque<SocketAddr>),
    Handshake(Call<state::RecvResponse>),
    Sending(Call<state::RecvResponse>),
    Head(Call<state::RecvResponse>),
    Body(Call<state::RecvBody>, Response),
    Done(Result<Response, Failure>),
}

impl Exchange {
    /// An exchange that begins now.
    #[must_use]
    pub fn new(ask: Ask, tls: Arc<ClientTls>, config: Arc<Config>, now: Now) -> Self {
        Self {
            until: now.instant + ask.timeout,
            ask,
            tls,
            config,
            state: State::Resolve,
            channel: Channel::plain(),
            now,
            input: Vec::new(),
            request: Vec::new(),
            sent: 0,
        }
    }

    /// The time of its last input.
    pub(crate) const fn now(&self) -> Now {
        self.now
    }

    /// What came of it; [`Failure::Connection`] if it was not driven to its end.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn into_result(self) -> Result<Response, Failure> {
        match self.state {
            State::Done(result) => result,
            State::Resolve
            | State::Resolving
            | State::Connect(_)
            | State::Connecting(_)
            | State::Handshake(_)
            | State::Sending(_)
            | State::Head(_)
            | State::Body(..) => Err(Failure::Connection("it was given up".to_owned())),
        }
    }

    /// Takes one input.
    pub fn handle_input(&mut self, now: Now, input: Input<'_, Answer>) {
        self.now = now;
        if now.instant >= self.until && !matches!(self.state, State::Done(_)) {
            return self.fail(Failure::TimedOut);
        }
        match input {
            Input::Answer(answer) => self.answered(answer),
            Input::Bytes(bytes) => self.receive(bytes),
            Input::Timeout => self.fail(Failure::TimedOut),
            Input::Closed(why) => self.closed(why),
            Input::WriteFailed(kind) => {
                self.fail(Failure::Connection(format!("the connection broke: {kind}")));
            }
        }
    }

    /// Says the one next thing to do.
    pub fn poll_output(&mut self, wire: &mut Vec<u8>) -> Output<Request> {
        match self.take_state() {
            State::Resolve => Output::Request(Request::Resolve(self.ask.host.clone())),
            State::Connect(mut addresses) => match addresses.pop_front() {
                Some(to) => {
                    self.state = State::Connecting(addresses);
                    let until = self.until.min(self.now.instant + CONNECT);
                    Output::Request(Request::Connect { to, until })
                }
                None => {
                    self.fail(Failure::Connection("no address is left".to_owned()));
                    Output::Close
                }
            },
            State::Sending(call) => {
                let end = self.request.len().min(self.sent + BURST_MAX);
                self.channel.send(&self.request[self.sent..end], wire);
                self.sent = end;
                if end < self.request.len() {
                    self.state = State::Sending(call);
                    return Output::Request(Request::Flush);
                }
                self.request = Vec::new();
                self.state = State::Head(call);
                self.read()
            }
            done @ State::Done(_) => {
                self.state = done;
                self.channel.close(wire);
                Output::Close
            }
            waiting @ (State::Resolving
            | State::Connecting(_)
            | State::Handshake(_)
            | State::Head(_)
            | State::Body(..)) => {
                self.state = waiting;
                self.channel.flush(wire);
                self.read()
            }
        }
    }

    fn read(&self) -> Output<Request> {
        Output::Read {
            until: self.until,
            why: Timer::Http,
        }
    }

    fn fail(&mut self, failure: Failure) {
        if !matches!(self.state, State::Done(_)) {
            self.state = State::Done(Err(failure));
        }
    }

    fn answered(&mut self, answer: Answer) {
        match (self.take_state(), answer) {
            (State::Resolving, Answer::Resolved(answer)) => self.resolved(answer),
            (State::Connecting(_), Answer::Connected(Ok(()))) => self.connected(),
            (State::Connecting(rest), Answer::Connected(Err(kind))) if rest.is_empty() => {
                self.fail(Failure::Connection(format!(
                    "it takes no connection: {kind}"
                )));
            }
            (State::Connecting(rest), Answer::Connected(Err(_))) => {
                self.state = State::Connect(rest)
            }
            (state, _) => self.state = state,
        }
    }

    /// RFC 8461 lets anybody name a host here: it must not be one of our own network.
    fn resolved(&mut self, answer: AddressAnswer) {
        let found = match answer {
            Ok(found) => found.addresses,
            Err(why) => return self.fail(Failure::Dns(dns_words(&why))),
        };
        let usable = |ip: &&IpAddr| self.prohibited(**ip).is_none();
        let addresses: VecDeque<SocketAddr> = found
            .iter()
            .filter(usable)
            .take(ADDRESSES_MAX)
            .map(|&ip| SocketAddr::new(ip, self.ask.port))
            .collect();
        if !addresses.is_empty() {
            self.state = State::Connect(addresses);
            return;
        }
        let why = found.iter().find_map(|&ip| self.prohibited(ip));
        let why = why.unwrap_or_else(|| "it has no address".to_owned());
        self.fail(Failure::Prohibited(why));
    }

    fn prohibited(&self, ip: IpAddr) -> Option<String> {
        if self.ask.allow_private {
            return None;
        }
        let ip = crate::outbound::embedded(ip);
        self.config.delivery.prohibits(ip)
    }

    fn connected(&mut self) {
        let begun = self.begin().and_then(|call| {
            let (tls, host) = (&self.tls, &self.ask.host);
            self.channel = Channel::plain();
            self.channel
                .start_client(tls, Verify::Roots, host, self.now.unix)
                .map_err(tls_failure)?;
            Ok(call)
        });
        match begun {
            Ok(call) => self.state = State::Handshake(call),
            Err(failure) => self.fail(failure),
        }
    }

    /// Writes the request, and gives what will read the response.
    fn begin(&mut self) -> Result<Call<state::RecvResponse>, Failure> {
        let wrong =
            |error: &dyn fmt::Display| Failure::Response(format!("cannot be asked: {error}"));
        let Ask {
            host,
            port,
            path,
            post,
            ..
        } = &self.ask;
        let uri = match port {
            443 => format!("https://{host}{path}"),
            port => format!("https://{host}:{port}{path}"),
        };
        let builder = http::Request::builder()
            .uri(uri)
            .header(header::CONNECTION, "close")
            .header(header::USER_AGENT, "smtp-relay");
        let builder = match post {
            None => builder.method(http::Method::GET),
            Some((media_type, body)) => builder
                .method(http::Method::POST)
                .header(header::CONTENT_TYPE, *media_type)
                .header(header::CONTENT_LENGTH, body.len()),
        };
        let request = builder.body(()).map_err(|error| wrong(&error))?;
        let call = Call::new(request).map_err(|error| wrong(&error))?;
        write(
            call.proceed(),
            post.as_ref().map(|(_, body)| &body[..]),
            &mut self.request,
        )
        .map_err(|error| wrong(&error))
    }

    fn receive(&mut self, bytes: &[u8]) {
        let mut scratch = Vec::new();
        let plain = match self.channel.receive(bytes, &mut scratch) {
            Ok(plain) => plain,
            Err(why) => return self.fail(tls_failure(why)),
        };
        self.input.extend_from_slice(plain);
        if let State::Handshake(_) = self.state {
            if self.channel.handshaking() {
                return;
            }
            if let State::Handshake(call) = self.take_state() {
                self.state = State::Sending(call);
            }
            return;
        }
        if let Err(failure) = self.advance() {
            self.fail(failure);
        }
        if self.channel.peer_closed() {
            self.closed(None);
        }
    }

    /// Reads what has come of the response.
    fn advance(&mut self) -> Result<(), Failure> {
        while matches!(self.state, State::Head(_)) {
            if let State::Head(call) = self.take_state()
                && !self.head(call)?
            {
                return Ok(());
            }
        }
        if matches!(self.state, State::Body(..))
            && let State::Body(call, response) = self.take_state()
        {
            return self.body(call, response);
        }
        Ok(())
    }

    /// What is next is put in its place by whoever takes it.
    fn take_state(&mut self) -> State {
        std::mem::replace(&mut self.state, State::Resolving)
    }

    /// Reads the head; false if it is not whole yet.
    fn head(&mut self, mut call: Call<state::RecvResponse>) -> Result<bool, Failure> {
        let (used, head) = call
            .try_response(&self.input, false)
            .map_err(|error| Failure::Response(format!("the answer is not HTTP: {error}")))?;
        self.input.drain(..used);
        let Some(head) = head else {
            if self.input.len() > HEAD_MAX {
                return Err(Failure::Response(
                    "the head of the answer has no end".to_owned(),
                ));
            }
            self.state = State::Head(call);
            // An informational answer was skipped: the next may have come with it.
            return Ok(used > 0);
        };
        let encoding = head.headers().get(header::CONTENT_ENCODING);
        if encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
            return Err(Failure::Response(
                "the answer is compressed, unasked".to_owned(),
            ));
        }
        let media_type = head.headers().get(header::CONTENT_TYPE);
        let media_type = media_type
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let media_type = media_type.split(';').next().unwrap_or_default();
        let response = Response {
            status: head.status().as_u16(),
            media_type: media_type.trim().to_ascii_lowercase(),
            body: Vec::new(),
        };
        self.state = match call.proceed() {
            Some(RecvResponseResult::RecvBody(call)) if response.status == 200 => {
                State::Body(call, response)
            }
            Some(_) => State::Done(Ok(response)),
            None => return Err(Failure::Response("the answer is not HTTP".to_owned())),
        };
        Ok(true)
    }

    fn body(
        &mut self,
        mut call: Call<state::RecvBody>,
        mut response: Response,
    ) -> Result<(), Failure> {
        let mut piece = [0; 4096];
        loop {
            let (used, read) = call
                .read(&self.input, &mut piece)
                .map_err(|error| Failure::Response(format!("the answer is not HTTP: {error}")))?;
            self.input.drain(..used);
            response.body.extend_from_slice(&piece[..read]);
            if response.body.len() > self.ask.body_max
                || self.input.len() > HEAD_MAX + self.ask.body_max
            {
                let most = self.ask.body_max;
                return Err(Failure::Response(format!(
                    "the answer is longer than {most} octets"
                )));
            }
            if used == 0 && read == 0 {
                break;
            }
        }
        // A body that ends with the connection is whole when TLS says so: see `closed`.
        let ends_by_close = matches!(call.body_mode(), ureq_proto::BodyMode::CloseDelimited);
        self.state = if call.can_proceed() && !ends_by_close {
            State::Done(Ok(response))
        } else {
            State::Body(call, response)
        };
        Ok(())
    }

    /// The peer closed. Only a close_notify tells the end of a body from a cut. RFC 9112 §9.8.
    fn closed(&mut self, why: Option<ErrorKind>) {
        let whole = self.channel.peer_closed();
        match self.take_state() {
            State::Body(call, response) if whole && call.can_proceed() => {
                self.state = State::Done(Ok(response));
            }
            done @ State::Done(_) => self.state = done,
            State::Resolve
            | State::Resolving
            | State::Connect(_)
            | State::Connecting(_)
            | State::Handshake(_)
            | State::Sending(_)
            | State::Head(_)
            | State::Body(..) => {
                let why = why.map_or("it closed the connection".to_owned(), |kind| {
                    format!("the connection broke: {kind}")
                });
                self.fail(Failure::Connection(why));
            }
        }
    }
}

/// Writes a request whole.
fn write(
    mut call: Call<state::SendRequest>,
    body: Option<&[u8]>,
    out: &mut Vec<u8>,
) -> Result<Call<state::RecvResponse>, ureq_proto::Error> {
    out.clear();
    out.resize(4096, 0);
    let mut len = 0;
    while !call.can_proceed() {
        len += call.write(&mut out[len..])?;
    }
    let call = match call.proceed()? {
        Some(SendRequestResult::RecvResponse(call)) => Some(call),
        Some(SendRequestResult::SendBody(mut call)) => {
            let mut rest = body.unwrap_or_default();
            out.resize(len + rest.len() + 64, 0);
            while !rest.is_empty() {
                let (used, written) = call.write(rest, &mut out[len..])?;
                rest = &rest[used..];
                len += written;
            }
            call.proceed()
        }
        Some(SendRequestResult::Await100(_)) | None => None,
    };
    out.truncate(len);
    call.ok_or(ureq_proto::Error::BodyNotAllowed)
}

fn tls_failure(why: TlsFailure) -> Failure {
    match why {
        TlsFailure::Certificate(_) => Failure::Certificate(why.to_string()),
        TlsFailure::Name(_) | TlsFailure::Protocol(_) | TlsFailure::AlreadyStarted => {
            Failure::Tls(why.to_string())
        }
    }
}

fn dns_words(why: &DnsFailure) -> String {
    match why {
        DnsFailure::NoSuchDomain => "the host does not exist".to_owned(),
        DnsFailure::NoRecord | DnsFailure::NullMx => "the host has no address".to_owned(),
        DnsFailure::BadName(why) | DnsFailure::Temporary(why) => why.clone(),
    }
}
