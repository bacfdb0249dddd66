//! What each path of the admin API means. All of it is under `/api/v1`, in JSON.
//!
//! | request | answer |
//! |---|---|
//! | `GET /` | the page |
//! | `GET /api/v1/status` | [`super::Status`] |
//! | `GET /api/v1/queue?domain=&sender=&older_than_secs=&after=&limit=` | a list of [`super::QueueEntry`] |
//! | `GET /api/v1/queue/ID` | one [`super::QueueEntry`], or 404 |
//! | `POST /api/v1/queue/ACTION` with a [`Selector`] | `{"messages": N}`; `ACTION` is `retry`, `hold`, `release`, `bounce` or `remove` |
//! | `GET /api/v1/tls-reports?day=&domain=` | a list of [`super::TlsReportEntry`] |
//! | `POST /api/v1/tls-reports/send` with a [`TlsReportSelector`] | `{"reports": N}` |
//! | `GET /api/v1/trace/ID` | a list of [`DeliveryEvent`], or 404 |
//! | `POST /api/v1/reload` | `{"changed": […]}`, or 409 with `{"error": …}` |
//!
//! Where there is a token (`[admin] token_file`), every request over TCP must show it: as
//! `Authorization: Bearer TOKEN` (RFC 6750 §2.1), or as the password of any user by `Basic` (RFC 7617 §2),
//! for which a browser asks by itself. Without one, a request over TCP must name
//! the relay by an IP address or `localhost`, so that no foreign name that resolves to it reaches it. One
//! that changes something must carry the header `X-Relay-Admin: 1`, which no web page can send across
//! origins, unless it shows the token as a bearer.
//!
//! [`DeliveryEvent`]: crate::events::DeliveryEvent

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;
use ureq_proto::http::{self, Method, StatusCode};

use super::http::{Answer, Request, is_read};
use super::{Action, AdminRequest, AdminResponse, Selector, TlsReportSelector};
use crate::config::Secret;
use crate::id::MessageId;

/// The most entries of one list.
pub const LIST_MAX: usize = 1000;

/// The page loads nothing from elsewhere and runs only its own script.
pub(super) const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
     frame-ancestors 'none'";

/// What a browser is told that has shown no token: it asks its user. RFC 7617 §2.
pub(super) const CHALLENGE: &str = "Basic realm=\"smtp-relay\", charset=\"UTF-8\"";

const PAGE: &[u8] = include_bytes!("assets/page.html");

/// What an administrator's connection came over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A Unix socket: who may open it is trusted.
    Local,
    /// A TCP port: a browser may have been tricked into sending the request.
    Tcp,
}

/// A whole request.
#[derive(Debug)]
pub(super) struct Call {
    method: Method,
    path: String,
    query: String,
    trusted: Trust,
    pub(super) body: Vec<u8>,
}

/// What a request proved of where it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    Full,
    ReadOnly,
    /// It names the relay in a way that a foreign zone can.
    ForeignName,
    /// It does not show the token.
    NoToken,
}

impl Call {
    pub(super) fn new(request: &http::Request<()>, origin: Origin, token: Option<&Secret>) -> Self {
        let trusted = match origin {
            Origin::Local => Trust::Full,
            Origin::Tcp => trust(request, token),
        };
        Self {
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            query: request.uri().query().unwrap_or_default().to_owned(),
            trusted,
            body: Vec::new(),
        }
    }
}

/// What a request over TCP may do.
fn trust(request: &http::Request<()>, token: Option<&Secret>) -> Trust {
    let header = |name: &str| {
        request
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let host = header("host").or_else(|| request.uri().authority().map(|host| host.as_str()));
    let meant = header("x-relay-admin") == Some("1");
    let shown = header("authorization").and_then(|value| value.split_once(' '));
    match (token, shown) {
        (None, _) if !host.is_some_and(is_own_name) => Trust::ForeignName,
        (Some(token), Some((scheme, shown))) if scheme.eq_ignore_ascii_case("bearer") => {
            match token.is(shown.trim().as_bytes()) {
                true => Trust::Full,
                false => Trust::NoToken,
            }
        }
        (Some(token), Some((scheme, shown)))
            if scheme.eq_ignore_ascii_case("basic") && is_password(token, shown) =>
        {
            Trust::of(meant)
        }
        (Some(_), _) => Trust::NoToken,
        (None, _) => Trust::of(meant),
    }
}

impl Trust {
    /// Of a request that a web page may have sent: a change must be meant.
    const fn of(meant: bool) -> Self {
        if meant { Self::Full } else { Self::ReadOnly }
    }
}

/// Whether these Basic credentials have the token for a password. RFC 7617 §2.
fn is_password(token: &Secret, credentials: &str) -> bool {
    let decoded = BASE64.decode(credentials.trim()).unwrap_or_default();
    let password = decoded.splitn(2, |&octet| octet == b':').nth(1);
    password.is_some_and(|password| token.is(password))
}

/// Whether a Host header names this machine in a way that no foreign zone can.
fn is_own_name(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

/// What was asked, as far as the response depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Engine,
    Trace(MessageId),
    Reload,
}

impl Asked {
    pub(super) fn of(request: &Request) -> Self {
        match request {
            Request::Trace(id) => Self::Trace(*id),
            Request::Reload => Self::Reload,
            Request::Engine(_) | Request::Flush => Self::Engine,
        }
    }
}

/// A response before it is HTTP.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    pub(super) body: Vec<u8>,
}

impl Reply {
    fn json(status: StatusCode, value: &impl serde::Serialize) -> Self {
        let body = serde_json::to_vec(value).unwrap_or_default();
        Self {
            status,
            content_type: "application/json",
            body,
        }
    }

    fn error(status: StatusCode, text: impl std::fmt::Display) -> Self {
        Self::json(status, &json!({ "error": text.to_string() }))
    }
}

/// What a request asks of the relay, or the response that needs nobody.
pub(super) fn request(call: Call) -> Result<Request, Reply> {
    let segments: Vec<&str> = call.path.trim_matches('/').split('/').collect();
    let read = is_read(&call.method);
    match call.trusted {
        Trust::ForeignName => {
            let text = "over TCP, name the relay by its address or as localhost";
            return Err(Reply::error(StatusCode::FORBIDDEN, text));
        }
        Trust::NoToken => {
            let text = "show the token of [admin] token_file: as `Authorization: Bearer TOKEN`, \
                        or as the password of any user";
            return Err(Reply::error(StatusCode::UNAUTHORIZED, text));
        }
        Trust::ReadOnly if !read => {
            let text = "over TCP, a change needs the header X-Relay-Admin: 1";
            return Err(Reply::error(StatusCode::FORBIDDEN, text));
        }
        Trust::ReadOnly | Trust::Full => {}
    }
    match (&segments[..], read) {
        ([""], true) => Err(Reply {
            status: StatusCode::OK,
            content_type: "text/html; charset=utf-8",
            body: PAGE.to_vec(),
        }),
        (["api", "v1", "status"], true) => Ok(Request::Engine(AdminRequest::Status)),
        (["api", "v1", "queue"], true) => list(&call.query).map(Request::Engine),
        (["api", "v1", "queue", id], true) => {
            Ok(Request::Engine(AdminRequest::Show(message_id(id)?)))
        }
        (["api", "v1", "tls-reports"], true) => {
            let selector = report_selector(&call.query)?;
            Ok(Request::Engine(AdminRequest::TlsReports(selector)))
        }
        (["api", "v1", "tls-reports", "send"], false) if call.method == Method::POST => {
            let selector = selector(&call.body)?;
            Ok(Request::Engine(AdminRequest::SendTlsReports(selector)))
        }
        (["api", "v1", "trace", id], true) => Ok(Request::Trace(message_id(id)?)),
        (["api", "v1", "reload"], false) if call.method == Method::POST => Ok(Request::Reload),
        (["api", "v1", "queue", action], false) if call.method == Method::POST => {
            let action: Action = serde_json::from_value(json!(action))
                .map_err(|_| Reply::error(StatusCode::NOT_FOUND, "no such action"))?;
            let selector = selector(&call.body)?;
            Ok(Request::Engine(AdminRequest::Act(action, selector)))
        }
        (["" | "api", ..], _) => Err(Reply::error(
            StatusCode::NOT_FOUND,
            "no such path, or not with this method; GET / shows the page",
        )),
        _ => Err(Reply::error(
            StatusCode::NOT_FOUND,
            "no such path; the API is under /api/v1",
        )),
    }
}

/// The response to what the relay answered.
pub(super) fn response(asked: Asked, answer: Answer) -> Reply {
    match answer {
        Answer::Engine(AdminResponse::Show(None)) => Reply::error(
            StatusCode::NOT_FOUND,
            "no such message is queued; `trace` may know it",
        ),
        Answer::Engine(response) => Reply::json(StatusCode::OK, &response),
        Answer::Trace(Ok(events)) if events.is_empty() => match asked {
            Asked::Trace(id) => {
                Reply::error(StatusCode::NOT_FOUND, format!("nothing is known of {id}"))
            }
            Asked::Engine | Asked::Reload => Reply::json(StatusCode::OK, &events),
        },
        Answer::Trace(Ok(events)) => Reply::json(StatusCode::OK, &events),
        Answer::Trace(Err(error)) => Reply::error(StatusCode::INTERNAL_SERVER_ERROR, error),
        Answer::Reloaded(Ok(changed)) => {
            Reply::json(StatusCode::OK, &json!({ "changed": changed }))
        }
        Answer::Reloaded(Err(error)) => Reply::error(StatusCode::CONFLICT, error),
        Answer::Flushed => Reply::error(StatusCode::INTERNAL_SERVER_ERROR, "out of turn"),
    }
}

fn message_id(text: &str) -> Result<MessageId, Reply> {
    text.parse()
        .map_err(|error| Reply::error(StatusCode::BAD_REQUEST, error))
}

/// The selector of a change. An empty one would mean every message, so it must be said as `{}`.
fn selector<S: serde::de::DeserializeOwned>(body: &[u8]) -> Result<S, Reply> {
    // A list would be read as a struct too, and an empty one as every message.
    let object = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(body);
    object
        .and_then(|object| serde_json::from_value(object.into()))
        .map_err(|error| {
            Reply::error(
                StatusCode::BAD_REQUEST,
                format!("the body must be a selector: {error}"),
            )
        })
}

fn bad(key: &str, value: &str) -> Reply {
    Reply::error(
        StatusCode::BAD_REQUEST,
        format!("{key}={value} is not understood"),
    )
}

/// The keys and values of a query.
fn pairs(query: &str) -> impl Iterator<Item = Result<(&str, String), Reply>> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decoded = percent_decoded(value).ok_or_else(|| bad(key, value))?;
        Ok((key, decoded))
    })
}

fn report_selector(query: &str) -> Result<TlsReportSelector, Reply> {
    let mut selector = TlsReportSelector::default();
    for pair in pairs(query) {
        let (key, value) = pair?;
        match key {
            "day" => selector.day = Some(value.parse().map_err(|_| bad(key, &value))?),
            "domain" => selector.domain = Some(value),
            _ => return Err(bad(key, &value)),
        }
    }
    Ok(selector)
}

fn list(query: &str) -> Result<AdminRequest, Reply> {
    let mut selector = Selector::default();
    let (mut after, mut limit) = (None, 100);
    for pair in pairs(query) {
        let (key, value) = pair?;
        match key {
            "domain" => selector.domain = Some(value),
            "sender" => selector.sender = Some(value),
            "older_than_secs" => {
                selector.older_than_secs = Some(value.parse().map_err(|_| bad(key, &value))?);
            }
            "after" => after = Some(value.parse().map_err(|_| bad(key, &value))?),
            "limit" => limit = value.parse().map_err(|_| bad(key, &value))?,
            _ => return Err(bad(key, &value)),
        }
    }
    Ok(AdminRequest::List {
        selector,
        after,
        limit: limit.min(LIST_MAX),
    })
}

/// RFC 3986 §2.1. None if it is malformed or not UTF-8.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let hex = tail
            .get(..2)
            .filter(|hex| hex.iter().all(u8::is_ascii_hexdigit))?;
        let hex = std::str::from_utf8(hex).ok()?;
        bytes.push(u8::from_str_radix(hex, 16).ok()?);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).ok()
}
