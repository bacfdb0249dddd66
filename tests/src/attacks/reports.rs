//! Groups DSN and DNS, and LOOP-02: what the relay sends of its own accord, and where it never connects.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use relay_core::config::{Credential, HostPort, SenderPattern};
use relay_core::dns::zone::Zone;
use relay_core::events::EventKind;

use super::bodies::HEADERS;
use super::names::Names;
use super::outbound::fate;
use super::relay::{Relay, route};
use super::sink::{Script, Sink, Taken, say};
use super::tls::HOSTNAME;
use super::{Row, Runtime, Trouble, client, ensure};

pub(super) fn rows() -> Vec<Row> {
    vec![
        Row::scene("LOOP-02", own_listener),
        Row::scene("DNS-07", null_mx),
        Row::scene("DNS-08", prohibited_exchangers),
        Row::scene("DSN-01", null_sender),
        Row::scene("DSN-02", one_report),
        Row::scene("DSN-04", notify),
        Row::scene("DSN-04b", passed_on),
    ]
}

fn message() -> Vec<u8> {
    format!("{HEADERS}body\r\n").into_bytes()
}

/// A place for a listener, at an address that is nobody else's: so is its port.
fn own_place() -> Result<SocketAddr, Trouble> {
    let socket = UdpSocket::bind((client::source(), 0))?;
    Ok(socket.local_addr()?)
}

/// LOOP-02: a way that ends at one of our own listeners, or at our own name, is refused before it is
/// tried. An MX is wrong for good; a route is the operator's, who can mend it.
fn own_listener(runtime: Runtime) -> Result<String, Trouble> {
    let reports = Sink::start(Script::default())?;
    let own = own_place()?;
    let mx = |host| Zone::new().mx("loop.example", 10, host);
    let by_address = mx("mx.loop.example").address("mx.loop.example", own.ip());
    let by_name = mx(HOSTNAME).address(HOSTNAME, "192.0.2.1".parse()?);
    let mut got = Vec::new();
    for (zone, by_route, what, status) in [
        (by_address.clone(), false, "bounced", "5.4.6"),
        (by_name, false, "bounced", "5.4.6"),
        (by_address, true, "deferred", "4.4.6"),
    ] {
        let names = Names::start(zone)?;
        let relay = Relay::start(runtime, |config| {
            config.listeners[0].address = own;
            config.dns.servers = vec![names.address()];
            config.delivery.port = own.port();
            config.delivery.prohibited_hosts = Vec::new();
            let mut loops = route("loop.example", &reports);
            loops.hosts = vec![HostPort {
                host: own.ip().to_string(),
                port: own.port(),
            }];
            config.routes.extend(by_route.then_some(loops));
            config.routes.push(route("client.example", &reports));
        })?;
        relay.submit(&["b@loop.example"], &message())?;
        let fate = fate(&relay)?;
        let fated = (fate.what, fate.attempt.reason.status.as_str());
        ensure!(fated == (what, status), "{fate:?}");
        let ours = relay
            .events()
            .iter()
            .filter(|event| came_in(&event.kind))
            .count();
        ensure!(ours == 1, "it came in again");
        got.push(fate.words());
    }
    Ok(got.join(", "))
}

/// A client's message was queued, and not a report.
fn came_in(event: &EventKind) -> bool {
    matches!(event, EventKind::Accepted { about: None, .. })
}

/// Sends to a domain of a zone; what becomes of it. Nobody may be connected to.
fn by_mx(runtime: Runtime, zone: Zone) -> Result<super::outbound::Fate, Trouble> {
    let names = Names::start(zone)?;
    let sink = Sink::start(Script::default())?;
    let reports = Sink::start(Script::default())?;
    let relay = Relay::start(runtime, |config| {
        config.dns.servers = vec![names.address()];
        config.delivery.port = sink.address().port();
        config.routes.push(route("client.example", &reports));
    })?;
    relay.submit(&["b@server.example"], &message())?;
    let fate = fate(&relay)?;
    let connections = sink.notes().connections;
    ensure!(connections == 0, "{connections} connections");
    Ok(fate)
}

/// DNS-07.
fn null_mx(runtime: Runtime) -> Result<String, Trouble> {
    let fate = by_mx(runtime, Zone::new().mx("server.example", 0, "."))?;
    let status = fate.attempt.reason.status.as_str();
    ensure!((fate.what, status) == ("bounced", "5.1.10"), "{fate:?}");
    Ok(fate.words())
}

/// DNS-08: an MX that points at us, or into our network, is not connected to.
fn prohibited_exchangers(runtime: Runtime) -> Result<String, Trouble> {
    let mut got = Vec::new();
    for address in [
        "127.0.0.1",
        "::1",
        "0.0.0.0",
        "::",
        "::ffff:127.0.0.1",
        "10.1.2.3",
        "169.254.169.254",
        "fe80::1",
        "224.0.0.1",
        "ff02::1",
    ] {
        let zone = Zone::new()
            .mx("server.example", 10, "mx.server.example")
            .address("mx.server.example", address.parse()?);
        let fate = by_mx(runtime, zone)?;
        let status = fate.attempt.reason.status.clone();
        let known = matches!(status.as_str(), "5.4.4" | "5.4.6");
        ensure!(fate.what == "bounced" && known, "{address}: {fate:?}");
        got.push(status);
    }
    got.dedup();
    Ok(format!("10 addresses: bounced {}", got.join(" ")))
}

/// Whoever sends as anybody, as those do who hand in reports.
fn anybody(credentials: &mut [Arc<Credential>]) {
    for credential in credentials {
        *credential = Arc::new(Credential {
            senders: vec![SenderPattern::Any],
            ..Credential::clone(credential)
        });
    }
}

/// DSN-01.
fn null_sender(runtime: Runtime) -> Result<String, Trouble> {
    let sink = Sink::start(Script::default().on("rcpt", say("550 5.1.1 no")))?;
    let relay = Relay::start(runtime, |config| {
        anybody(&mut config.credentials);
        config.routes.push(route("*", &sink));
    })?;
    let mut client = relay.client()?;
    let reply = client.send("", &["b@server.example"], &message())?;
    ensure!(reply.code == 250, "{reply:?}");
    let why = relay.event("the report that is not due", |event| match event {
        EventKind::NotReported { why } => Some(why.clone()),
        EventKind::Accepted { .. }
        | EventKind::Preflight { .. }
        | EventKind::Quarantined { .. }
        | EventKind::Delivered(_)
        | EventKind::Deferred { .. }
        | EventKind::Bounced(_)
        | EventKind::Expired(_)
        | EventKind::Changed { .. } => None,
    })?;
    let status = relay.until("the queue to empty", |status| status.queued == 0)?;
    ensure!(status.accepted == 1, "{} were queued", status.accepted);
    Ok(format!("bounced, no report: {why}"))
}

/// The reports that a sink has, once there is one and nothing more is queued.
fn report(relay: &Relay, reports: &Sink) -> Result<Taken, Trouble> {
    reports.wait(1)?;
    relay.until("the queue to empty", |status| status.queued == 0)?;
    let mut all = reports.wait(1)?;
    ensure!(all.len() == 1, "{} reports", all.len());
    all[0].check_wire()?;
    ensure!(all[0].mail.starts_with("MAIL FROM:<>"), "{}", all[0].mail);
    Ok(all.remove(0))
}

/// DSN-02, scaled down: a thousand failures of a large message make one small report.
fn one_report(runtime: Runtime) -> Result<String, Trouble> {
    let sink = Sink::start(Script::default().on("rcpt", say("550 5.1.1 no")))?;
    let reports = Sink::start(Script::default())?;
    let relay = Relay::start(runtime, |config| {
        config.routes = vec![route("client.example", &reports), route("*", &sink)];
    })?;
    let mut client = relay.client()?;
    client.expect("MAIL FROM:<a@client.example> RET=FULL", 250)?;
    for block in 0..10 {
        let to = |n| format!("RCPT TO:<u{block}-{n}@server{}.example>\r\n", n % 4);
        let lines: String = (0..100).map(to).collect();
        client.write(lines.as_bytes())?;
        for _ in 0..100 {
            let reply = client.reply()?;
            ensure!(reply.code == 250, "{reply:?}");
        }
    }
    let line = "the body of a large message, as it was\r\n";
    let reply = client.data(format!("{HEADERS}{}", line.repeat(50_000)).as_bytes())?;
    ensure!(reply.code == 250, "{reply:?}");
    let report = report(&relay, &reports)?;
    let text = report.text();
    ensure!(!text.contains(line.trim_end()), "the body comes back");
    ensure!(text.contains("Subject: a\r\n"), "the headers do not");
    ensure!(text.len() < 256 * 1024, "a report of {} octets", text.len());
    let told = text.matches("Final-Recipient:").count();
    ensure!(told == 1000, "it tells of {told}");
    Ok(format!(
        "one report of {} octets for 1000 recipients",
        text.len()
    ))
}

/// DSN-04: who is told of what, and what is quoted comes back as it was.
fn notify(runtime: Runtime) -> Result<String, Trouble> {
    let sink = Sink::start(Script::default().on("rcpt to:<no", say("550 5.1.1 no")))?;
    let ask = |mail: &str, rcpt: &str| -> Result<(Relay, Sink), Trouble> {
        let reports = Sink::start(Script::default())?;
        let relay = Relay::start(runtime, |config| {
            config.routes = vec![route("client.example", &reports), route("*", &sink)];
        })?;
        let mut client = relay.client()?;
        client.expect(&format!("MAIL FROM:<a@client.example>{mail}"), 250)?;
        client.expect(&format!("RCPT TO:{rcpt}"), 250)?;
        let reply = client.data(&message())?;
        ensure!(reply.code == 250, "{reply:?}");
        fate(&relay)?;
        Ok((relay, reports))
    };
    for rcpt in [
        "<no@server.example> NOTIFY=NEVER",
        "<no@server.example> NOTIFY=SUCCESS",
        "<yes@server.example> NOTIFY=FAILURE",
        "<yes@server.example>",
    ] {
        let (relay, reports) = ask("", rcpt)?;
        let status = relay.until("the queue to empty", |status| status.queued == 0)?;
        let told = status.accepted - 1 + reports.notes().taken.len() as u64;
        ensure!(told == 0, "{rcpt}: {told} reports");
    }
    let (relay, reports) = ask("", "<yes@server.example> NOTIFY=SUCCESS")?;
    let success = report(&relay, &reports)?.text();
    ensure!(success.contains("Action: relayed\r\n"), "{success}");
    let (relay, reports) = ask(
        " RET=HDRS ENVID=a+2Bb+3Dc",
        "<no@server.example> NOTIFY=FAILURE ORCPT=rfc822;x+2By@server.example",
    )?;
    let text = report(&relay, &reports)?.text();
    for line in [
        "Original-Envelope-Id: a+b=c\r\n",
        "Original-Recipient: rfc822; x+y@server.example\r\n",
        "Action: failed\r\n",
        "Status: 5.1.1\r\n",
    ] {
        ensure!(text.contains(line), "no {line:?} in {text}");
    }
    ensure!(!text.contains("body\r\n"), "RET=HDRS: {text}");
    Ok("NEVER none, SUCCESS relayed, FAILURE failed with ENVID and ORCPT".into())
}

/// DSN-04: a host that offers DSN is told what the client asked for, and reports itself.
fn passed_on(runtime: Runtime) -> Result<String, Trouble> {
    let sink = Sink::start(Script::default().offers(&["DSN"]))?;
    let relay = Relay::to(runtime, &sink)?;
    let mut client = relay.client()?;
    client.expect("MAIL FROM:<a@client.example> RET=FULL ENVID=a+2Bb+3Dc", 250)?;
    let rcpt = "RCPT TO:<b@server.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;x+2By@server.example";
    client.expect(rcpt, 250)?;
    let reply = client.data(&message())?;
    ensure!(reply.code == 250, "{reply:?}");
    let taken = sink.wait(1)?.remove(0);
    for param in [" RET=FULL", " ENVID=a+2Bb+3Dc"] {
        ensure!(taken.mail.contains(param), "{}", taken.mail);
    }
    ensure!(taken.rcpts == [rcpt], "{:?}", taken.rcpts);
    let status = relay.until("the queue to empty", |status| status.queued == 0)?;
    ensure!(status.accepted == 1, "{} were queued", status.accepted);
    Ok(format!("{}; {}", taken.mail, taken.rcpts[0]))
}
