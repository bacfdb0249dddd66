//! Group CLI: what a receiver may do to the relay.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use relay_core::config::{TlsLevel, TlsMode};
use relay_core::events::{Attempt, EventKind};

use super::bodies::HEADERS;
use super::relay::{Relay, route};
use super::sink::{Act, Notes, Script, Sink, say};
use super::{Row, Runtime, Trouble, ensure, tls};

pub(super) fn rows() -> Vec<Row> {
    vec![
        Row::scene("CLI-01", injected_replies),
        Row::scene("CLI-03", endless_replies),
        Row::scene("CLI-04", malformed_replies),
        Row::scene("CLI-05", disconnects),
        Row::scene("CLI-08", mixed_recipients),
        Row::scene("CLI-10", eight_bit),
        Row::scene("CLI-11", tls_by_route),
        Row::scene("CLI-11b", tls_at_once),
        Row::scene("CLI-12", size),
        Row::scene("CLI-14", logins),
        Row::scene("CLI-14b", login_wanted),
        Row::scene("CLI-15", endless_challenges),
        Row::scene("CLI-16", replies_before_commands),
        Row::scene("CLI-17", odd_offers),
    ]
}

pub(super) const TO: &[&str] = &["b@server.example"];

fn message() -> Vec<u8> {
    format!("{HEADERS}body\r\n").into_bytes()
}

/// What became of the first recipient whose fate is known.
#[derive(Debug, Clone)]
pub(super) struct Fate {
    /// `delivered`, `deferred` or `bounced`.
    pub(super) what: &'static str,
    /// The attempt.
    pub(super) attempt: Attempt,
}

impl Fate {
    fn of(event: &EventKind) -> Option<Self> {
        let (what, attempt) = if let EventKind::Delivered(attempt) = event {
            ("delivered", attempt)
        } else if let EventKind::Deferred { attempt, .. } = event {
            ("deferred", attempt)
        } else if let EventKind::Bounced(attempt) = event {
            ("bounced", attempt)
        } else {
            return None;
        };
        let attempt = attempt.clone();
        Some(Self { what, attempt })
    }

    /// In a few words.
    pub(super) fn words(&self) -> String {
        let reason = &self.attempt.reason;
        format!("{} {} {}", self.what, reason.status, reason.rule)
    }
}

/// Waits for the first fate.
pub(super) fn fate(relay: &Relay) -> Result<Fate, Trouble> {
    relay.event("an outcome", Fate::of)
}

/// Sends one message to a receiver with this script.
fn try_out(runtime: Runtime, script: Script) -> Result<(Fate, Notes), Trouble> {
    let sink = Sink::start(script)?;
    let relay = Relay::to(runtime, &sink)?;
    relay.submit(TO, &message())?;
    Ok((fate(&relay)?, sink.notes()))
}

/// CLI-01: what follows the 220 of STARTTLS in clear text is not believed under TLS.
fn injected_replies(runtime: Runtime) -> Result<String, Trouble> {
    let injected = b"220 go\r\n250-PIPELINING\r\n250 AUTH PLAIN\r\n".to_vec();
    let script = || -> Result<Script, Trouble> {
        let acts = vec![Act::Say(injected.clone()), Act::Tls];
        let script = Script::default().with_tls(tls::receiver("127.0.0.1")?);
        Ok(script.on("starttls", acts))
    };
    // Where TLS is required, nothing is said after it.
    let sink = Sink::start(script()?)?;
    let relay = Relay::start(runtime, |config| {
        config.delivery.tls = TlsLevel::Require;
        let mut route = route("*", &sink);
        (route.username, route.password) = (Some("u".into()), Some("p".into()));
        config.routes.push(route);
    })?;
    relay.submit(TO, &message())?;
    let required = fate(&relay)?;
    ensure!(required.what == "deferred", "{required:?}");
    let notes = sink.notes();
    let said: Vec<&str> = notes.commands.iter().map(|(line, _)| &line[..4]).collect();
    ensure!(
        said.iter().all(|verb| matches!(*verb, "EHLO" | "STAR")),
        "{said:?}"
    );
    // Where it is not, only a connection of its own is in clear text.
    let (opportunistic, notes) = try_out(runtime, script()?)?;
    ensure!(opportunistic.what == "delivered", "{opportunistic:?}");
    ensure!(notes.connections == 2, "{} connections", notes.connections);
    Ok(format!("{}; {}", required.words(), opportunistic.words()))
}

/// CLI-03.
fn endless_replies(runtime: Runtime) -> Result<String, Trouble> {
    let mut got = Vec::new();
    let long = [&[b'2', b'5', b'0', b' '][..], &[b'x'; 64 * 1024]].concat();
    for (start, endless) in [(None, b"250-x\r\n".to_vec()), (Some(b"250 "), long)] {
        for command in ["greeting", "ehlo", "mail", "rcpt", "data", "."] {
            let mut acts: Vec<Act> = start.iter().map(|s| Act::Say(s.to_vec())).collect();
            acts.push(Act::Flood(endless.clone()));
            let (fate, _) = try_out(runtime, Script::default().on(command, acts))?;
            ensure!(
                fate.what == "deferred" && fate.attempt.reason.text.len() <= 512,
                "{command}: {fate:?}"
            );
            got.push(fate.attempt.reason.rule);
        }
    }
    got.dedup();
    Ok(format!("deferred: {}", got.join(" ")))
}

/// CLI-04.
fn malformed_replies(runtime: Runtime) -> Result<String, Trouble> {
    let malformed: [&[u8]; 9] = [
        b"250-a\r\n550 b\r\n",
        b"250 ok\n",
        b"250 o\0k\r\n",
        b"25 ok\r\n",
        b"25\r\n",
        b"\r\n",
        b"ok\r\n",
        b"650 ok\r\n",
        b"250 a\rb\r\n",
    ];
    let mut got = Vec::new();
    for reply in malformed {
        let script = Script::default().on(".", vec![Act::Say(reply.to_vec()), Act::Close]);
        let (fate, _) = try_out(runtime, script)?;
        ensure!(
            fate.what == "deferred",
            "{}: {fate:?}",
            reply.escape_ascii()
        );
        got.push(fate.attempt.reason.rule);
    }
    // What a host says stays on its line, and in ASCII, wherever it is shown.
    let forged = b"550 5.1.1 \x1b[2J<b>\xe9\r\n".to_vec();
    let (fate, _) = try_out(
        runtime,
        Script::default().on("rcpt", vec![Act::Say(forged)]),
    )?;
    let text = &fate.attempt.reason.text;
    let printable = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    ensure!(fate.what == "bounced" && printable, "{fate:?}");
    got.dedup();
    Ok(format!("deferred: {}; {text:?}", got.join(" ")))
}

/// CLI-05: a connection that ends early costs an attempt and no message.
fn disconnects(runtime: Runtime) -> Result<String, Trouble> {
    let mut got = Vec::new();
    for stage in ["greeting", "ehlo", "mail", "rcpt", "data", "."] {
        let sink = Sink::start(Script::default().on(stage, vec![Act::Close]))?;
        let relay = Relay::to(runtime, &sink)?;
        relay.submit(TO, &message())?;
        let fate = fate(&relay)?;
        ensure!(fate.what == "deferred", "{stage}: {fate:?}");
        sink.change(Script::default());
        relay.retry();
        let taken = sink.wait(1)?;
        let status = relay.until("the queue to empty", |status| status.queued == 0)?;
        ensure!(
            (status.delivered, taken.len(), sink.notes().taken.len()) == (1, 1, 1),
            "{stage}: {status:?}"
        );
        got.push(fate.attempt.reason.rule);
    }
    Ok(format!("deferred, then delivered once: {}", got.join(" ")))
}

/// CLI-08: each recipient has the outcome of its own reply.
fn mixed_recipients(runtime: Runtime) -> Result<String, Trouble> {
    let script = Script::default()
        .on("rcpt to:<u2@", say("550 5.1.1 no"))
        .on("rcpt to:<u4@", say("450 4.2.1 later"))
        .on("rcpt to:<u7@", say("421 4.7.0 slow down"));
    let sink = Sink::start(script)?;
    let relay = Relay::start(runtime, |config| {
        let mut first = route("server.example", &sink);
        first.tls = Some(TlsLevel::None);
        config.routes.push(first);
    })?;
    let to: Vec<String> = (0..10).map(|n| format!("u{n}@server.example")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    relay.submit(&to, &message())?;
    let first = relay.until("the outcomes", |status| {
        status.delivered == 7 && status.bounced == 1
    })?;
    sink.change(Script::default());
    relay.retry();
    let taken = sink.wait(2)?;
    let mut all: Vec<&str> = taken
        .iter()
        .flat_map(|t| &t.rcpts)
        .map(|r| &r[9..11])
        .collect();
    all.sort_unstable();
    ensure!(
        all == ["u0", "u1", "u3", "u4", "u5", "u6", "u7", "u8", "u9"],
        "delivered to {all:?}"
    );
    Ok(format!(
        "{} delivered, {} bounced, 2 retried, nobody twice",
        first.delivered, first.bounced
    ))
}

/// CLI-10: what a host does not offer to take is not sent.
fn eight_bit(runtime: Runtime) -> Result<String, Trouble> {
    let mut got = Vec::new();
    for (offers, params, subject, body, what, status) in [
        (&[][..], "BODY=8BITMIME", "a", "\u{e9}", "bounced", "5.6.3"),
        (
            &["8BITMIME"],
            "BODY=8BITMIME",
            "a",
            "\u{e9}",
            "delivered",
            "2.0.0",
        ),
        (&["8BITMIME"], "SMTPUTF8", "\u{e9}", "b", "bounced", "5.6.7"),
        (
            &["8BITMIME", "SMTPUTF8"],
            "SMTPUTF8",
            "\u{e9}",
            "b",
            "delivered",
            "2.0.0",
        ),
        (
            &["8BITMIME"],
            "BODY=BINARYMIME",
            "a",
            "\n\0",
            "bounced",
            "5.6.1",
        ),
        // A client that does not say so is believed no more than its octets.
        (&[], "", "a", "\u{e9}", "bounced", "5.6.3"),
    ] {
        let sink = Sink::start(Script::default().offers(offers))?;
        let relay = Relay::start(runtime, |config| {
            config.routes.push(route("server.example", &sink));
        })?;
        let mut client = relay.client()?;
        client.expect(
            format!("MAIL FROM:<a@client.example> {params}").trim_end(),
            250,
        )?;
        client.expect("RCPT TO:<b@server.example>", 250)?;
        let message = format!("From: a@client.example\r\nSubject: {subject}\r\n\r\n{body}\r\n");
        client.write(format!("BDAT {} LAST\r\n{message}", message.len()).as_bytes())?;
        let reply = client.reply()?;
        ensure!(reply.code == 250, "{params}: {reply:?}");
        let fate = fate(&relay)?;
        ensure!(
            (fate.what, fate.attempt.reason.status.as_str()) == (what, status),
            "{params:?} to {offers:?}: {fate:?}"
        );
        let untouched = sink.notes().taken.is_empty();
        ensure!(untouched == (what == "bounced"), "{:?}", sink.notes());
        got.push(fate.words());
    }
    Ok(got.join(", "))
}

/// CLI-11: mail that must go under TLS never goes on a connection that was made without.
fn tls_by_route(runtime: Runtime) -> Result<String, Trouble> {
    let sink = Sink::start(Script::default().with_tls(tls::receiver("127.0.0.1")?))?;
    let relay = Relay::start(runtime, |config| {
        for (domain, level) in [
            ("weak.example", TlsLevel::None),
            ("strong.example", TlsLevel::Require),
            ("checked.example", TlsLevel::Verify),
        ] {
            let mut route = route(domain, &sink);
            route.tls = Some(level);
            config.routes.push(route);
        }
    })?;
    for round in 1..=5 {
        relay.submit(
            &["b@weak.example", "b@strong.example", "b@checked.example"],
            &message(),
        )?;
        sink.wait(3 * round)?;
    }
    for taken in sink.wait(15)? {
        let weak = taken.rcpts == ["RCPT TO:<b@weak.example>"];
        ensure!(
            taken.tls != weak,
            "{:?} under TLS: {}",
            taken.rcpts,
            taken.tls
        );
    }
    Ok("10 under TLS, 5 in clear text, none on another's connection".into())
}

/// CLI-11b: a route says that TLS comes with the first octet, whatever the port; or that it does not.
fn tls_at_once(runtime: Runtime) -> Result<String, Trouble> {
    let tls = tls::receiver("127.0.0.1")?;
    let greeting = [vec![Act::Tls], say("220 mx.server.example ESMTP")].concat();
    let at_once = Script::default()
        .with_tls(Arc::clone(&tls))
        .on("greeting", greeting);
    let later = Script::default().with_tls(tls);
    for (script, mode) in [(at_once, TlsMode::Implicit), (later, TlsMode::StartTls)] {
        let sink = Sink::start(script)?;
        let relay = Relay::start(runtime, |config| {
            let mut route = route("server.example", &sink);
            (route.tls, route.tls_mode) = (Some(TlsLevel::Verify), Some(mode));
            config.routes.push(route);
        })?;
        relay.submit(TO, &message())?;
        let fate = fate(&relay)?;
        ensure!(fate.what == "delivered", "{mode:?}: {fate:?}");
        ensure!(sink.wait(1)?[0].tls, "{mode:?}: in clear text");
        let notes = sink.notes();
        let asked = notes.commands.iter().any(|(line, _)| line == "STARTTLS");
        ensure!(asked == (mode == TlsMode::StartTls), "{notes:?}");
    }
    Ok("delivered under TLS".into())
}

/// CLI-14b: a smart host that wants a login which the route has not is not the end of the message.
fn login_wanted(runtime: Runtime) -> Result<String, Trouble> {
    let mut got = Vec::new();
    for command in ["mail", "rcpt"] {
        let asks = say("530 5.7.0 Authentication required");
        let (fate, _) = try_out(runtime, Script::default().on(command, asks))?;
        let reason = &fate.attempt.reason;
        ensure!(fate.what == "deferred", "{fate:?}");
        ensure!(reason.rule == "route-login", "{fate:?}");
        ensure!(reason.text.contains("`username`"), "{fate:?}");
        got.push(fate.words());
    }
    Ok(got.join(", "))
}

/// CLI-12.
fn size(runtime: Runtime) -> Result<String, Trouble> {
    let sink = Sink::start(Script::default().offers(&["SIZE 1000"]))?;
    let relay = Relay::start(runtime, |config| {
        config.routes.push(route("server.example", &sink));
    })?;
    let body = "x\r\n".repeat(700);
    relay.submit(TO, format!("{HEADERS}{body}").as_bytes())?;
    let fate = fate(&relay)?;
    ensure!(
        fate.what == "bounced" && fate.attempt.reason.status == "5.3.4",
        "{fate:?}"
    );
    let commands = sink.notes().commands;
    let data = commands
        .iter()
        .any(|(line, _)| line == "DATA" || line.starts_with("MAIL"));
    ensure!(!data, "{commands:?}");
    Ok(fate.words())
}

/// Sends one message to a smart host that wants a login, in clear text on loopback.
fn log_in(runtime: Runtime, script: Script) -> Result<(Fate, Notes), Trouble> {
    let sink = Sink::start(script)?;
    let relay = Relay::start(runtime, |config| {
        let mut route = route("server.example", &sink);
        route.username = Some("u".into());
        route.password = Some("the password".into());
        config.routes.push(route);
    })?;
    relay.submit(TO, &message())?;
    Ok((fate(&relay)?, sink.notes()))
}

/// A smart host that plays with SCRAM learns nothing that it can use. AUTH-13, from the other side.
fn logins(runtime: Runtime) -> Result<String, Trouble> {
    let mut got = Vec::new();
    // i=1 asks for a password that can be guessed; the nonce must begin with ours; 235 without a proof.
    for (what, challenge) in [
        (
            "i=1",
            "r=rOprNGfwEbeRWgbNEkqO,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=1",
        ),
        ("another nonce", "r=abc,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"),
        ("nonsense", "x"),
    ] {
        let challenge = BASE64.encode(challenge);
        let script = Script::default()
            .offers(&["AUTH SCRAM-SHA-256 PLAIN"])
            .on("auth", say(&format!("334 {challenge}")));
        let (fate, notes) = log_in(runtime, script)?;
        ensure!(fate.what == "deferred", "{what}: {fate:?}");
        let lines = notes
            .commands
            .iter()
            .filter(|(line, _)| line.starts_with("AUTH"))
            .count();
        ensure!(lines == 1, "{what}: {:?}", notes.commands);
        got.push(format!("{what}: {}", fate.words()));
    }
    let script = Script::default()
        .offers(&["AUTH SCRAM-SHA-256"])
        .on("auth", say("235 2.7.0 welcome"));
    let (fate, notes) = log_in(runtime, script)?;
    ensure!(
        fate.what == "deferred" && notes.taken.is_empty(),
        "believed without a proof: {fate:?}"
    );
    got.push(format!("no proof: {}", fate.words()));
    Ok(got.join("; "))
}

/// A smart host that asks and asks is left.
fn endless_challenges(runtime: Runtime) -> Result<String, Trouble> {
    let mut got = Vec::new();
    for mechanism in ["PLAIN", "LOGIN"] {
        // The name and the password, in base64, are answered so too.
        let again = say("334 VXNlcm5hbWU6");
        let script = Script::default()
            .offers(&[&format!("AUTH {mechanism}")])
            .on("auth", again.clone())
            .on("dq", again.clone())
            .on("dg", again);
        let (fate, notes) = log_in(runtime, script)?;
        let rule = fate.attempt.reason.rule.as_str();
        ensure!(
            (fate.what, rule) == ("deferred", "login"),
            "{mechanism}: {fate:?}"
        );
        ensure!(
            notes.commands.len() < 10,
            "{mechanism}: {:?}",
            notes.commands
        );
        got.push(format!("{mechanism} {}", fate.words()));
    }
    Ok(got.join(", "))
}

/// Replies that come before their commands answer nothing: no message is taken for delivered by them.
fn replies_before_commands(runtime: Runtime) -> Result<String, Trouble> {
    let mut got = Vec::new();
    let eager = "250 2.1.0 ok\r\n250 2.1.5 ok\r\n354 go on\r\n250 2.0.0 taken\r\n";
    for (stage, reply) in [
        ("greeting", "220 mx ESMTP"),
        ("ehlo", "250-mx\r\n250 PIPELINING"),
        ("mail", "250 2.1.0 ok"),
        ("rcpt", "250 2.1.5 ok"),
    ] {
        let both = format!("{reply}\r\n{eager}").into_bytes();
        let script = Script::default().on(stage, vec![Act::Say(both)]);
        // What comes after the RCPT is read and never answered.
        let script = script.on("data", Vec::new()).on(".", Vec::new());
        let (fate, _) = try_out(runtime, script)?;
        let told = fate.attempt.reason.rule.ends_with("-protocol");
        ensure!(fate.what == "deferred" && told, "{stage}: {fate:?}");
        got.push(fate.attempt.reason.rule);
    }
    Ok(format!("deferred: {}", got.join(" ")))
}

/// What a host offers in its own words is ignored, and bounds nothing to nonsense.
fn odd_offers(runtime: Runtime) -> Result<String, Trouble> {
    let offers = [
        "SIZE",
        "SIZE 0",
        "SIZE -1",
        "SIZE 99999999999999999999999999",
        "LIMITS RCPTMAX=0 MAILMAX=0",
        "LIMITS RCPTMAX=99999999999999999999",
        "PIPELINING yes",
        "AUTH=LOGIN PLAIN",
        "8bitmime",
        "X-\u{e9}",
        "",
    ];
    for offer in offers {
        let (fate, notes) = try_out(runtime, Script::default().offers(&[offer]))?;
        ensure!(fate.what == "delivered", "{offer:?}: {fate:?}");
        ensure!(notes.faults.is_empty(), "{offer:?}: {:?}", notes.faults);
    }
    Ok(format!("delivered {} times", offers.len()))
}
