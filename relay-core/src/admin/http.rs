//! One HTTP/1.1 connection of an administrator as a machine. RFC 9112 through ureq-proto.
//!
//! ```text
//!   Head ──head──▶ Body ──whole──▶ Ask ──answer──▶ Send ──sent──▶ Head (keep-alive)
//!     │              │                               │
//!     └── too long, malformed: 4xx ──────────────────┴──▶ Close
//! ```
//!
//! `api` maps a request to what is asked of the relay, and its answer to a response. Everything is
//! bounded: the head, the body, the time of a request, and the burst that one poll writes.

use std::time::Duration;

use ureq_proto::http::{Method, Response, StatusCode, header};
use ureq_proto::server::{RecvRequestResult, Reply, SendResponseResult, state};

use super::api::{self, Asked, Call, Origin};
use super::{AdminRequest, AdminResponse};
use crate::config::Secret;
use crate::events::DeliveryEvent;
use crate::id::MessageId;
use crate::machine::{BURST_MAX, Input, Machine, Output, Timer};
use crate::time::{Instant, Now};

/// The longest request head, in octets.
const HEAD_MAX: usize = 16 * 1024;

/// The longest request body, in octets.
const BODY_MAX: usize = 64 * 1024;

/// How long a request may take to arrive, and how long a connection waits for one.
const REQUEST_WAIT: Duration = Duration::from_secs(30);

/// What the connection asks of its runtime.
#[derive(Debug)]
pub enum Request {
    /// Ask the engine. Answered by `Engine`.
    Engine(AdminRequest),
    /// Read the events of a message. Answered by `Trace`.
    Trace(MessageId),
    /// Load the configuration anew. Answered by `Reloaded`.
    Reload,
    /// Only write what is on the wire. Answered by `Flushed`.
    Flush,
}

/// What the runtime answers.
#[derive(Debug)]
pub enum Answer {
    /// To `Engine`.
    Engine(AdminResponse),
    /// To `Trace`: the events in order, or why they could not be read.
    Trace(Result<Vec<DeliveryEvent>, String>),
    /// To `Reload`: what changed, or why nothing did.
    Reloaded(Result<Vec<String>, String>),
    /// To `Flush`.
    Flushed,
}

/// The connection.
#[derive(Debug)]
pub struct Connection {
    state: State,
    /// What came and was not used.
    input: Vec<u8>,
    origin: Origin,
    token: Option<Secret>,
    /// When the request that is awaited must be whole.
    until: Instant,
    /// The relay shuts down: no request after this one.
    interrupted: bool,
}

#[derive(Debug)]
enum State {
    Head(Box<Reply<state::RecvRequest>>),
    Body(Box<Reply<state::RecvBody>>, Call),
    /// The request is to be handed to the runtime.
    Ask(Box<Reply<state::ProvideResponse>>, Request),
    /// The runtime works on it.
    Asked(Box<Reply<state::ProvideResponse>>, Asked),
    /// The response, and how much of it was sent.
    Send {
        response: Vec<u8>,
        sent: usize,
        keep: bool,
    },
    Closed,
}

impl Connection {
    /// A connection that was just accepted. `origin` says over what: a Unix socket is trusted by its
    /// file mode, a TCP port by what the request proves.
    #[must_use]
    pub fn new(origin: Origin, now: Now) -> Self {
        Self {
            state: fresh(),
            input: Vec::new(),
            origin,
            token: None,
            until: now.instant + REQUEST_WAIT,
            interrupted: false,
        }
    }

    /// The same for a relay with a token: over TCP every request must show it.
    #[must_use]
    pub fn with_token(mut self, token: Option<Secret>) -> Self {
        self.token = token;
        self
    }

    /// Asks for an end: at once if no request is under way, else after its response.
    pub fn interrupt(&mut self, _now: Now) {
        self.interrupted = true;
        if matches!(self.state, State::Head(_)) && self.input.is_empty() {
            self.state = State::Closed;
        }
    }

    fn receive(&mut self) {
        loop {
            self.state = match std::mem::replace(&mut self.state, State::Closed) {
                State::Head(reply) => match self.head(reply) {
                    Ok(Some(next)) => next,
                    Ok(None) => return,
                    Err(status) => refuse(status),
                },
                State::Body(reply, call) => match self.body(reply, call) {
                    Ok(Some(next)) => next,
                    Ok(None) => return,
                    Err(status) => refuse(status),
                },
                // One request at a time: what was pipelined waits in `input`, which is not read
                // meanwhile.
                other
                @ (State::Ask(..) | State::Asked(..) | State::Send { .. } | State::Closed) => {
                    self.state = other;
                    return;
                }
            };
        }
    }

    /// Reads the head; `None` if it is not whole yet.
    fn head(
        &mut self,
        mut reply: Box<Reply<state::RecvRequest>>,
    ) -> Result<Option<State>, StatusCode> {
        let parsed = reply
            .try_request(&self.input)
            .map_err(|_| StatusCode::BAD_REQUEST)?;
        let (used, Some(request)) = parsed else {
            if self.input.len() > HEAD_MAX {
                return Err(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
            }
            self.state = State::Head(reply);
            return Ok(None);
        };
        self.input.drain(..used);
        let call = Call::new(&request, self.origin, self.token.as_ref());
        let next = match reply.proceed().ok_or(StatusCode::BAD_REQUEST)? {
            RecvRequestResult::ProvideResponse(reply) => dispatch(Box::new(reply), call),
            RecvRequestResult::RecvBody(reply) => State::Body(Box::new(reply), call),
            // Bodies here are small: nobody needs to ask before sending one.
            RecvRequestResult::Send100(_) => return Err(StatusCode::EXPECTATION_FAILED),
        };
        Ok(Some(next))
    }

    /// Reads the body; `None` if it is not whole yet.
    fn body(
        &mut self,
        mut reply: Box<Reply<state::RecvBody>>,
        mut call: Call,
    ) -> Result<Option<State>, StatusCode> {
        let mut piece = [0; 4096];
        while !reply.is_ended() {
            let (used, read) = reply
                .read(&self.input, &mut piece)
                .map_err(|_| StatusCode::BAD_REQUEST)?;
            self.input.drain(..used);
            call.body.extend_from_slice(&piece[..read]);
            if call.body.len() > BODY_MAX || self.input.len() > BODY_MAX {
                return Err(StatusCode::PAYLOAD_TOO_LARGE);
            }
            if used == 0 && read == 0 {
                break;
            }
        }
        if !reply.is_ended() {
            self.state = State::Body(reply, call);
            return Ok(None);
        }
        let reply = reply.proceed().map_err(|_| StatusCode::BAD_REQUEST)?;
        Ok(Some(dispatch(Box::new(reply), call)))
    }
}

impl Machine for Connection {
    type Request = Request;
    type Answer = Answer;

    fn handle_input(&mut self, now: Now, input: Input<'_, Answer>) {
        match input {
            Input::Bytes(bytes) => {
                self.input.extend_from_slice(bytes);
                self.receive();
            }
            Input::Answer(Answer::Flushed) => {}
            Input::Answer(answer) => {
                self.state = match std::mem::replace(&mut self.state, State::Closed) {
                    State::Asked(reply, asked) => respond(*reply, &api::response(asked, answer)),
                    other @ (State::Head(_)
                    | State::Body(..)
                    | State::Ask(..)
                    | State::Send { .. }
                    | State::Closed) => other,
                };
            }
            Input::Timeout | Input::Closed(_) | Input::WriteFailed(_) => {
                self.state = State::Closed;
            }
        }
        if matches!(self.state, State::Send { .. }) {
            self.until = now.instant + REQUEST_WAIT;
        }
    }

    fn poll_output(&mut self, wire: &mut Vec<u8>) -> Output<Request> {
        loop {
            self.state = match std::mem::replace(&mut self.state, State::Closed) {
                State::Closed => return Output::Close,
                State::Ask(reply, request) => {
                    self.state = State::Asked(reply, Asked::of(&request));
                    return Output::Request(request);
                }
                State::Send {
                    response,
                    sent,
                    keep,
                } if sent < response.len() => {
                    let end = response.len().min(sent + BURST_MAX);
                    wire.extend_from_slice(&response[sent..end]);
                    self.state = State::Send {
                        response,
                        sent: end,
                        keep,
                    };
                    return Output::Request(Request::Flush);
                }
                State::Send { keep, .. } if !keep || self.interrupted => State::Closed,
                State::Send { .. } => {
                    self.state = fresh();
                    self.receive();
                    continue;
                }
                waiting @ (State::Head(_) | State::Body(..) | State::Asked(..)) => {
                    self.state = waiting;
                    return Output::Read {
                        until: self.until,
                        why: Timer::Http,
                    };
                }
            };
        }
    }
}

fn fresh() -> State {
    Reply::new().map_or(State::Closed, |reply| State::Head(Box::new(reply)))
}

/// Decides what a whole request asks for.
fn dispatch(reply: Box<Reply<state::ProvideResponse>>, call: Call) -> State {
    match api::request(call) {
        Ok(request) => State::Ask(reply, request),
        Err(answer) => respond(*reply, &answer),
    }
}

/// Writes a response whole; it is sent in bursts.
fn respond(reply: Reply<state::ProvideResponse>, answer: &api::Reply) -> State {
    write(reply, answer).unwrap_or(State::Closed)
}

fn write(
    reply: Reply<state::ProvideResponse>,
    answer: &api::Reply,
) -> Result<State, ureq_proto::Error> {
    let response = Response::builder()
        .status(answer.status)
        .header(header::CONTENT_TYPE, answer.content_type)
        .header(header::CONTENT_LENGTH, answer.body.len())
        .header(header::CACHE_CONTROL, "no-store")
        .header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
        .header(header::CONTENT_SECURITY_POLICY, api::PAGE_POLICY);
    let response = match answer.status {
        StatusCode::UNAUTHORIZED => response.header(header::WWW_AUTHENTICATE, api::CHALLENGE),
        _ => response,
    };
    let response = response
        .body(())
        .map_err(|error| ureq_proto::Error::BadHeader(error.to_string()))?;
    let mut reply = reply.provide(response)?;
    let mut out = vec![0; 2048];
    let mut len = 0;
    while !reply.is_finished() {
        len += reply.write(&mut out[len..])?;
    }
    let cleanup = match reply.proceed() {
        SendResponseResult::Cleanup(cleanup) => cleanup,
        SendResponseResult::SendBody(mut body) => {
            out.resize(len + answer.body.len() + 64, 0);
            let mut rest = &answer.body[..];
            while !body.is_finished() {
                let (used, written) = body.write(rest, &mut out[len..])?;
                rest = &rest[used..];
                len += written;
            }
            body.proceed()
        }
    };
    out.truncate(len);
    Ok(State::Send {
        response: out,
        sent: 0,
        keep: !cleanup.must_close_connection(),
    })
}

/// A response to what is not HTTP enough to be answered through the protocol's machine.
fn refuse(status: StatusCode) -> State {
    let reason = status.canonical_reason().unwrap_or("Error");
    let head = format!(
        "HTTP/1.1 {} {reason}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        status.as_u16()
    );
    State::Send {
        response: head.into_bytes(),
        sent: 0,
        keep: false,
    }
}

/// What of a request's method matters here.
pub(super) fn is_read(method: &Method) -> bool {
    *method == Method::GET || *method == Method::HEAD
}
