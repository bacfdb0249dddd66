//! The admin connection and API without a socket: every chunking, limits, keep-alive, what is refused.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::http::{Answer, Connection, Request};
use super::{Action, AdminRequest, AdminResponse, Origin, Selector};
use crate::config::Secret;
use crate::events::{DeliveryEvent, EventKind};
use crate::id::MessageId;
use crate::machine::{BURST_MAX, Input, Machine, Output};
use crate::time::{Instant, Now, UnixTime};

const ID: &str = "1M85B98MC0000";

fn now() -> Now {
    Now {
        instant: Instant::default(),
        unix: UnixTime::from_secs(1_795_471_531),
    }
}

/// What a conversation came to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Said {
    asked: Vec<String>,
    wire: String,
    closed: bool,
}

impl Said {
    /// The status codes of the responses.
    fn statuses(&self) -> Vec<&str> {
        let starts = self.wire.split("HTTP/1.1 ").skip(1);
        starts.filter_map(|start| start.get(..3)).collect()
    }

    /// The body of the last response.
    fn body(&self) -> &str {
        self.wire.rsplit("\r\n\r\n").next().unwrap_or_default()
    }
}

/// A relay that answers everything, and a client that sends these pieces.
fn converse(origin: Origin, pieces: &[&[u8]]) -> Said {
    converse_with(Connection::new(origin, now()), pieces)
}

fn converse_with(mut connection: Connection, pieces: &[&[u8]]) -> Said {
    let mut said = Said::default();
    let mut wire = Vec::new();
    let mut pieces = pieces.iter();
    loop {
        let before = wire.len();
        let output = connection.poll_output(&mut wire);
        assert!(wire.len() - before <= BURST_MAX, "a burst is bounded");
        match output {
            Output::Request(request) => {
                let answer = answer(&request);
                if !matches!(request, Request::Flush) {
                    said.asked.push(format!("{request:?}"));
                }
                connection.handle_input(now(), Input::Answer(answer));
            }
            Output::Read { .. } => match pieces.next() {
                Some(piece) => connection.handle_input(now(), Input::Bytes(piece)),
                None => break,
            },
            Output::Close => {
                said.closed = true;
                break;
            }
        }
    }
    said.wire = String::from_utf8(wire).unwrap();
    said
}

fn answer(request: &Request) -> Answer {
    let event = || {
        let kind = EventKind::NotReported { why: "test".into() };
        DeliveryEvent::new(now().unix, ID.parse().unwrap(), kind)
    };
    match request {
        Request::Engine(AdminRequest::Status) => {
            Answer::Engine(AdminResponse::Status(Box::default()))
        }
        Request::Engine(AdminRequest::List { .. }) => Answer::Engine(AdminResponse::List(vec![])),
        Request::Engine(AdminRequest::Show(_)) => Answer::Engine(AdminResponse::Show(None)),
        Request::Engine(AdminRequest::Act(..)) => {
            Answer::Engine(AdminResponse::Acted { messages: 2 })
        }
        Request::Engine(AdminRequest::TlsReports(_)) => {
            Answer::Engine(AdminResponse::TlsReports(Vec::new()))
        }
        Request::Engine(AdminRequest::SendTlsReports(_)) => {
            Answer::Engine(AdminResponse::TlsReportsSent { reports: 2 })
        }
        Request::Trace(id) if id.to_string() == ID => Answer::Trace(Ok(vec![event()])),
        Request::Trace(_) => Answer::Trace(Ok(Vec::new())),
        Request::Reload => Answer::Reloaded(Ok(vec!["limits.message_size".into()])),
        Request::Flush => Answer::Flushed,
    }
}

fn local(text: &str) -> Said {
    converse(Origin::Local, &[text.as_bytes()])
}

fn tcp(text: &str) -> Said {
    converse(Origin::Tcp, &[text.as_bytes()])
}

/// A request over TCP to a relay with this token, with these header lines.
fn guarded(path: &str, lines: &str) -> Said {
    let method = if path.contains("reload") {
        "POST"
    } else {
        "GET"
    };
    let text = format!(
        "{method} {path} HTTP/1.1\r\nHost: relay.example\r\n{lines}Content-Length: 0\r\n\r\n"
    );
    let token = Some(Secret::new("a token of the test"));
    let connection = Connection::new(Origin::Tcp, now()).with_token(token);
    converse_with(connection, &[text.as_bytes()])
}

#[test]
fn a_relay_with_a_token_asks_for_it() {
    let basic = |text: &str| format!("Authorization: Basic {}\r\n", BASE64.encode(text));
    let bearer = |text: &str| format!("Authorization: Bearer {text}\r\n");
    for path in ["/", "/api/v1/status", "/api/v1/reload"] {
        for lines in [
            String::new(),
            "X-Relay-Admin: 1\r\n".into(),
            bearer("a token of the tesT"),
            bearer(""),
            basic("admin:a token of the tes"),
            basic("a token of the test"),
            "Authorization: Basic !\r\n".into(),
            "Authorization: Other a token of the test\r\n".into(),
        ] {
            let said = guarded(path, &lines);
            assert_eq!(said.statuses(), ["401"], "{path} {lines}");
            let wire = said.wire.to_ascii_lowercase();
            assert!(wire.contains("www-authenticate: basic realm="), "{wire}");
            assert!(said.asked.is_empty());
        }
    }
    let right = bearer("a token of the test");
    assert_eq!(guarded("/", &right).statuses(), ["200"]);
    assert_eq!(guarded("/api/v1/reload", &right).statuses(), ["200"]);
    // A browser sends these by itself: what changes something must be meant.
    let right = basic("anybody:a token of the test");
    assert_eq!(guarded("/api/v1/status", &right).statuses(), ["200"]);
    assert_eq!(guarded("/api/v1/reload", &right).statuses(), ["403"]);
    let meant = format!("{right}X-Relay-Admin: 1\r\n");
    assert_eq!(guarded("/api/v1/reload", &meant).statuses(), ["200"]);
    let text = get("/api/v1/status");
    let token = Some(Secret::new("a token of the test"));
    let socket = Connection::new(Origin::Local, now()).with_token(token);
    assert_eq!(
        converse_with(socket, &[text.as_bytes()]).statuses(),
        ["200"]
    );
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

fn post(path: &str, body: &str) -> String {
    let len = body.len();
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len}\r\n\r\n{body}")
}

/// Requests of every kind, one after the other on one connection.
fn script() -> String {
    [
        get("/api/v1/status"),
        get("/"),
        post("/api/v1/queue/hold", "{\"domain\":\"example.net\"}"),
        "POST /api/v1/queue/remove HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n\
         5\r\n{\"id\"\r\n3;x=y\r\n:\"A\r\n2\r\n\"}\r\n0\r\n\r\n"
            .to_owned(),
        get("/nowhere"),
        "HEAD /api/v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        post("/api/v1/reload", ""),
        get(&format!("/api/v1/trace/{ID}")),
        get("/api/v1/queue?limit=5&domain=ex%61mple.net"),
    ]
    .concat()
}

#[test]
fn however_the_requests_are_cut_the_responses_are_the_same() {
    let script = script();
    let bytes = script.as_bytes();
    let whole = converse(Origin::Local, &[bytes]);
    let statuses = [
        "200", "200", "200", "200", "404", "200", "200", "200", "200",
    ];
    assert_eq!(whole.statuses(), statuses);
    assert_eq!(whole.asked.len(), 7, "{:?}", whole.asked);
    assert!(!whole.closed, "it is kept alive");
    for at in 1..bytes.len() {
        let cut = converse(Origin::Local, &[&bytes[..at], &bytes[at..]]);
        assert_eq!(cut, whole, "cut at {at}");
    }
    for size in [1, 2, 3, 7] {
        let pieces: Vec<&[u8]> = bytes.chunks(size).collect();
        assert_eq!(converse(Origin::Local, &pieces), whole, "pieces of {size}");
    }
}

#[test]
fn each_path_asks_for_what_it_says() {
    let id: MessageId = ID.parse().unwrap();
    let of_domain = Selector {
        domain: Some("example.net".into()),
        ..Selector::default()
    };
    let all = AdminRequest::List {
        selector: Selector::default(),
        after: None,
        limit: 100,
    };
    let some = AdminRequest::List {
        selector: Selector {
            sender: Some("@example.com".into()),
            older_than_secs: Some(60),
            ..of_domain.clone()
        },
        after: Some(id),
        limit: 1000,
    };
    let acts = [
        ("retry", Action::Retry),
        ("hold", Action::Hold),
        ("release", Action::Release),
        ("bounce", Action::Bounce),
        ("remove", Action::Remove),
    ]
    .map(|(name, action)| {
        (
            post(
                &format!("/api/v1/queue/{name}"),
                "{\"domain\":\"example.net\"}",
            ),
            Request::Engine(AdminRequest::Act(action, of_domain.clone())),
        )
    });
    let reads = [
        ("/api/v1/status", Request::Engine(AdminRequest::Status)),
        ("/api/v1/status/", Request::Engine(AdminRequest::Status)),
        ("/api/v1/queue", Request::Engine(all)),
        (
            "/api/v1/queue?domain=example.net&sender=%40example.com&older_than_secs=60\
             &after=1M85B98MC0000&limit=99999",
            Request::Engine(some),
        ),
        (
            "/api/v1/queue/1M85B98MC0000",
            Request::Engine(AdminRequest::Show(id)),
        ),
        ("/api/v1/trace/1M85B98MC0000", Request::Trace(id)),
    ]
    .map(|(path, request)| (get(path), request));
    let reload = (post("/api/v1/reload", ""), Request::Reload);
    for (text, wanted) in reads.into_iter().chain(acts).chain([reload]) {
        let asked = local(&text).asked;
        assert_eq!(asked, [format!("{wanted:?}")], "{text}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_and_asks_nothing() {
    for (text, status) in [
        (get("/api/v1/queue/nonsense"), "400"),
        (get("/api/v1/trace/nonsense"), "400"),
        (get("/api/v1/queue?limit=many"), "400"),
        (get("/api/v1/queue?unknown=1"), "400"),
        (get("/api/v1/queue?domain=%4"), "400"),
        (get("/api/v1/queue?domain=%+4"), "400"),
        (get("/api/v1/queue?domain=%ff"), "400"),
        (get("/api/v1/queue?older_than_secs=-1"), "400"),
        (post("/api/v1/queue/hold", ""), "400"),
        (post("/api/v1/queue/hold", "[]"), "400"),
        (post("/api/v1/queue/hold", "{\"domian\":\"x\"}"), "400"),
        (post("/api/v1/queue/hold", "{\"domain\":1}"), "400"),
        (post("/api/v1/queue/explode", "{}"), "404"),
        (post("/api/v1/status", ""), "404"),
        (get("/api/v1/reload"), "404"),
        (get("/api/v2/status"), "404"),
        (get("/etc/passwd"), "404"),
        (
            "DELETE /api/v1/queue/1M85B98MC0000 HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
            "404",
        ),
    ] {
        let said = local(&text);
        assert_eq!(said.statuses(), [status], "{text}");
        assert!(said.asked.is_empty(), "{text}: {:?}", said.asked);
        assert!(said.body().contains("\"error\""), "{}", said.wire);
        assert!(!said.closed, "the next request is taken: {text}");
    }
}

#[test]
fn a_misspelt_selector_selects_nothing() {
    let read = serde_json::from_str::<Selector>;
    assert_eq!(read("{}").unwrap(), Selector::default());
    let error = read(r#"{"domian": "example.com"}"#).unwrap_err();
    assert!(error.to_string().contains("domian"), "{error}");
}

#[test]
fn what_is_not_found_says_so() {
    let queued = local(&get("/api/v1/queue/1M85B98MC0000"));
    assert_eq!(queued.statuses(), ["404"]);
    let traced = local(&get("/api/v1/trace/1M85B98MC0001"));
    assert_eq!(traced.statuses(), ["404"]);
    assert!(traced.body().contains("1M85B98MC0001"), "{}", traced.wire);
}

#[test]
fn what_is_not_http_is_refused_and_closed() {
    for text in [
        "\r\n\r\n\r\nEHLO there\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "GET  /  HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost localhost\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n",
        "POST /api/v1/reload HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        "POST /api/v1/reload HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        "POST /api/v1/reload HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
        "POST /api/v1/reload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ] {
        let said = local(text);
        assert_eq!(said.statuses(), ["400"], "{text:?}: {}", said.wire);
        assert!(said.closed && said.asked.is_empty(), "{text:?}: {said:?}");
    }
}

#[test]
fn two_lengths_are_no_length() {
    // RFC 9112 §6.3: what follows could be read as another request by somebody in between.
    for lengths in [
        "Content-Length: 2\r\nTransfer-Encoding: chunked",
        "Content-Length: 2\r\nContent-Length: 30",
    ] {
        let smuggled = post("/api/v1/queue/remove", "{}");
        let text = format!(
            "POST /api/v1/queue/hold HTTP/1.1\r\nHost: x\r\n{lengths}\r\n\r\n{{}}{smuggled}"
        );
        let said = local(&text);
        let removed = said.asked.iter().any(|asked| asked.contains("Remove"));
        assert!(!removed, "{lengths}: {said:?}");
    }
}

#[test]
fn heads_and_bodies_are_bounded() {
    let long = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(20_000));
    let said = local(&long);
    assert_eq!((said.statuses(), said.closed), (vec!["431"], true));

    let large = post("/api/v1/queue/hold", &" ".repeat(70_000));
    let pieces: Vec<&[u8]> = large.as_bytes().chunks(4096).collect();
    let said = converse(Origin::Local, &pieces);
    assert_eq!((said.statuses(), said.closed), (vec!["413"], true));

    let fits = format!("{{\"domain\":\"example.net\"{}}}", " ".repeat(50_000));
    let said = local(&post("/api/v1/queue/hold", &fits));
    assert_eq!(said.statuses(), ["200"]);

    let expects = "POST /api/v1/queue/hold HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\
                   Expect: 100-continue\r\n\r\n";
    let said = local(expects);
    assert_eq!((said.statuses(), said.closed), (vec!["417"], true));
}

#[test]
fn connections_close_when_the_client_says_so() {
    let close = "GET /api/v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    assert!(local(&format!("{close}{}", get("/"))).closed);
    assert_eq!(local(&format!("{close}{}", get("/"))).statuses(), ["200"]);
    let old = "GET /api/v1/status HTTP/1.0\r\n\r\n";
    assert_eq!(local(old).statuses(), ["200"]);
    assert!(local(old).closed);
}

#[test]
fn a_head_request_gets_no_body() {
    let said = local("HEAD / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(said.statuses(), ["200"]);
    assert!(said.wire.ends_with("\r\n\r\n") && said.wire.contains("content-length: "));
}

#[test]
fn over_tcp_no_foreign_page_reaches_the_relay() {
    let request = |host: &str, extra: &str, method: &str| {
        format!(
            "{method} /api/v1/reload HTTP/1.1\r\nHost: {host}\r\n{extra}Content-Length: 0\r\n\r\n"
        )
    };
    let ours = "X-Relay-Admin: 1\r\n";
    for (host, extra, status) in [
        ("127.0.0.1:8587", ours, "200"),
        ("localhost:8587", ours, "200"),
        ("LOCALHOST", ours, "200"),
        ("[::1]:8587", ours, "200"),
        ("127.0.0.1:8587", "", "403"),
        ("127.0.0.1:8587", "X-Relay-Admin: 0\r\n", "403"),
        ("evil.example:8587", ours, "403"),
        ("localhost.evil.example", ours, "403"),
        ("127.0.0.1.evil.example", ours, "403"),
        ("", ours, "403"),
    ] {
        let said = tcp(&request(host, extra, "POST"));
        assert_eq!(said.statuses(), [status], "{host} {extra}");
        assert_eq!(
            said.asked.len(),
            usize::from(status == "200"),
            "{host} {extra}"
        );
    }
    // Looking needs no header, but the right name.
    assert_eq!(tcp(&get("/api/v1/status")).statuses(), ["200"]);
    let foreign = "GET /api/v1/status HTTP/1.1\r\nHost: evil.example\r\n\r\n";
    assert_eq!(tcp(foreign).statuses(), ["403"]);
    let absolute = "GET http://evil.example/api/v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert_ne!(tcp(absolute).statuses(), ["500"]);
    let nameless = "GET /api/v1/status HTTP/1.0\r\n\r\n";
    assert_eq!(tcp(nameless).statuses(), ["403"]);
    // A Unix socket is trusted by its mode.
    assert_eq!(local(&request("anything", "", "POST")).statuses(), ["200"]);
}

#[test]
fn every_response_forbids_what_a_browser_might_do_with_it() {
    for path in ["/", "/api/v1/status", "/nowhere"] {
        let wire = local(&get(path)).wire.to_ascii_lowercase();
        for header in [
            "cache-control: no-store",
            "x-content-type-options: nosniff",
            "content-security-policy: default-src 'none'",
        ] {
            assert!(wire.contains(header), "{path}: {wire}");
        }
    }
}

#[test]
fn silence_and_the_end_of_the_relay_close() {
    let mut idle = Connection::new(Origin::Local, now());
    assert!(matches!(
        idle.poll_output(&mut Vec::new()),
        Output::Read { .. }
    ));
    idle.handle_input(now(), Input::Timeout);
    assert!(matches!(idle.poll_output(&mut Vec::new()), Output::Close));

    let mut idle = Connection::new(Origin::Local, now());
    idle.interrupt(now());
    assert!(matches!(idle.poll_output(&mut Vec::new()), Output::Close));

    // A request that has begun is answered first.
    let mut busy = Connection::new(Origin::Local, now());
    let request = format!("{}{}", get("/api/v1/status"), get("/"));
    let (begin, rest) = request.as_bytes().split_at(10);
    busy.handle_input(now(), Input::Bytes(begin));
    busy.interrupt(now());
    let mut wire = Vec::new();
    assert!(matches!(busy.poll_output(&mut wire), Output::Read { .. }));
    busy.handle_input(now(), Input::Bytes(rest));
    loop {
        match busy.poll_output(&mut wire) {
            Output::Request(request) => {
                let answer = answer(&request);
                busy.handle_input(now(), Input::Answer(answer));
            }
            Output::Read { .. } => panic!("no request after this one"),
            Output::Close => break,
        }
    }
    assert!(wire.starts_with(b"HTTP/1.1 200"));
    assert_eq!(
        String::from_utf8_lossy(&wire).matches("HTTP/1.1").count(),
        1
    );
}
