//! Groups TLS and RES: what one connection must not do to the relay, and not to another.

use std::net::Ipv4Addr;
use std::sync::Arc;

use relay_core::config::parse_network;
use rustls::version::{TLS12, TLS13};
use rustls::{ALL_VERSIONS, HandshakeKind};

use super::bodies::HEADERS;
use super::client::Client;
use super::dialogue::{Dialogue, End, Start, Way};
use super::relay::{Door, Relay, SECRET};
use super::{Row, Runtime, Trouble, ensure, logins, tls};

pub(super) fn rows() -> Vec<Row> {
    let browser =
        "GET / HTTP/1.1\r\nCookie: HTTP/1.1 secret\r\n\r\nMAIL FROM:<a@client.example>\r\n";
    vec![
        Row::scene("CMD-33b", proxied),
        Row::scene("TLS-06", close_notify),
        Row::scene("TLS-07", truncation),
        Row::scene("TLS-08", alpn),
        Row::dialogue(
            "TLS-09",
            Dialogue::new(Start::Connect, browser, "421")
                .ends(End::Closed)
                .only(&[Way::Implicit, Way::StrangerImplicit, Way::StartTls]),
        ),
        Row::scene("TLS-11", tickets),
        Row::scene("TLS-12", versions),
        Row::scene("RES-01", idle_connections),
        Row::scene("RES-02", connections),
        Row::scene("RES-05", recipients),
        Row::scene("RES-05b", bad_recipients),
        Row::scene("RES-08", half_transactions),
    ]
}

/// A client within DATA, or within a chunk, under TLS.
fn within(relay: &Relay, chunked: bool) -> Result<Client, Trouble> {
    let mut client = relay.client()?;
    client.start_tls()?;
    client.expect("MAIL FROM:<a@client.example>", 250)?;
    client.expect("RCPT TO:<b@server.example>", 250)?;
    if chunked {
        client.write(b"BDAT 1000 LAST\r\n")?;
    } else {
        client.expect("DATA", 354)?;
    }
    client.write(HEADERS.as_bytes())?;
    client.write(b"half a mess")?;
    Ok(client)
}

fn nothing_queued(relay: &Relay) -> Result<(), Trouble> {
    let status = relay.idle()?;
    ensure!(status.accepted == 0, "{} were queued", status.accepted);
    Ok(())
}

/// CMD-33: where a proxy is trusted, the client is who it says; what is no header is not served.
fn proxied(runtime: Runtime) -> Result<String, Trouble> {
    let relay = Relay::start(runtime, |config| {
        let listener = &mut config.listeners[0];
        listener.proxy_protocol = true;
        listener.trusted_proxies = parse_network("127.0.0.0/8").into_iter().collect();
    })?;
    for (header, code) in [
        // The trusted network is that of the client, and not of the proxy.
        ("PROXY TCP4 198.51.100.7 127.0.0.1 40000 25\r\n", 530),
        ("PROXY TCP6 2001:db8::7 ::1 40000 25\r\n", 530),
        ("PROXY TCP4 127.0.0.9 127.0.0.1 40000 25\r\n", 250),
    ] {
        for record in [1, usize::MAX] {
            let mut client = relay.connect(Door::Trusted)?;
            client.record = record;
            client.write(header.as_bytes())?;
            client.hello()?;
            client.expect("MAIL FROM:<a@client.example>", code)?;
        }
    }
    for header in [
        "EHLO client.example\r\n",
        "PROXY TCP4 a b c d\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 70000\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 25\nEHLO a\r\n",
        &"PROXY ".repeat(30),
        "\r\n\r\n\0\r\nQUIT\n\u{7f}\u{7f}\u{7f}\u{7f}",
    ] {
        let mut client = relay.connect(Door::Trusted)?;
        client.write(header.as_bytes())?;
        let replies = client.rest()?;
        ensure!(replies.is_empty(), "{header:?} got {replies:?}");
    }
    Ok("the client's address decides; 6 headers that are none are closed on".into())
}

/// TLS-06: TLS ends in the middle, and clear text follows on the same socket.
fn close_notify(runtime: Runtime) -> Result<String, Trouble> {
    let relay = Relay::start(runtime, |_| ())?;
    for chunked in [false, true] {
        for clear in [&b"x"[..], b"\r\n.\r\nNOOP\r\n"] {
            let mut client = within(&relay, chunked)?;
            client.close_notify()?;
            // The relay may have closed by now.
            let _ = client.write_raw(clear);
            let replies = client.rest()?;
            ensure!(replies.is_empty(), "answered with {replies:?}");
        }
    }
    nothing_queued(&relay)?;
    Ok("closed without a reply, 0 queued".into())
}

/// TLS-07: the connection is cut under TLS.
fn truncation(runtime: Runtime) -> Result<String, Trouble> {
    let relay = Relay::start(runtime, |_| ())?;
    for chunked in [false, true] {
        let mut client = within(&relay, chunked)?;
        client.finish();
        let replies = client.rest()?;
        ensure!(replies.is_empty(), "answered with {replies:?}");
    }
    nothing_queued(&relay)?;
    Ok("closed without a reply, 0 queued".into())
}

/// TLS-08: who wants another protocol is in the wrong place.
fn alpn(runtime: Runtime) -> Result<String, Trouble> {
    let relay = Relay::start(runtime, |_| ())?;
    let mut got = Vec::new();
    for (names, taken) in [
        (&["h2"][..], false),
        (&["http/1.1"], false),
        (&["imap", "pop3"], false),
        (&[], true),
        (&["smtp"], true),
        (&["esmtp"], true),
        (&["h2", "smtp"], true),
    ] {
        let mut client = relay.connect(Door::Submissions)?;
        let result = client.handshake_as(tls::client(ALL_VERSIONS, names)?);
        let greeted = result.is_ok() && client.reply().is_ok_and(|reply| reply.code == 220);
        ensure!(greeted == taken, "{names:?}: greeted {greeted}");
        got.push(format!("{names:?} {greeted}"));
    }
    Ok(got.join(", "))
}

/// TLS-11: a ticket of one listener, or of an authenticated session, is worth nothing anywhere.
fn tickets(runtime: Runtime) -> Result<String, Trouble> {
    let relay = Relay::start(runtime, |_| ())?;
    for versions in [&[&TLS12][..], &[&TLS13]] {
        let config = tls::client(versions, &[])?;
        for door in [Door::TrustedImplicit, Door::Submissions, Door::Submissions] {
            let mut client = relay.connect(door)?;
            client.handshake_as(Arc::clone(&config))?;
            client.hello()?;
            let kind = client.handshake_kind();
            ensure!(kind == Some(HandshakeKind::Full), "{kind:?} at {door:?}");
            if door == Door::Submissions {
                let reply = client.say("MAIL FROM:<a@client.example>")?;
                ensure!(reply.code == 530, "not authenticated, and got {reply:?}");
                let reply = client.login("app", SECRET)?;
                ensure!(reply.code == 235, "the login got {reply:?}");
            }
            client.expect("QUIT", 221)?;
        }
    }
    Ok("every handshake is a full one".into())
}

/// A ClientHello of an old version, with nothing that a newer one brought.
fn old_hello(minor: u8) -> Vec<u8> {
    let mut body = vec![3, minor];
    body.extend([7; 32]);
    body.push(0);
    // TLS_RSA_WITH_AES_128_CBC_SHA, TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA.
    body.extend([0, 4, 0x00, 0x2f, 0xc0, 0x13, 1, 0]);
    let length = u8::try_from(body.len()).unwrap_or(u8::MAX);
    let mut hello = vec![0x16, 3, 1, 0, length + 4, 1, 0, 0, length];
    hello.extend(body);
    hello
}

/// TLS-12: 1.0 and 1.1 are refused, 1.2 and 1.3 are not.
fn versions(runtime: Runtime) -> Result<String, Trouble> {
    let relay = Relay::start(runtime, |_| ())?;
    for minor in [0, 1, 2] {
        let mut client = relay.connect(Door::Submissions)?;
        client.write_raw(&old_hello(minor))?;
        let heard = client.rest()?;
        ensure!(heard.is_empty(), "{minor}: answered with {heard:?}");
    }
    for version in [&TLS12, &TLS13] {
        let mut client = relay.connect(Door::Submissions)?;
        client.handshake_as(tls::client(&[version], &[])?)?;
        client.hello()?;
    }
    Ok("SSL 3.0, TLS 1.0 and 1.1 get an alert; 1.2 and 1.3 are greeted".into())
}

/// RES-01, scaled down: idle connections, clear and TLS, are all still served.
fn idle_connections(runtime: Runtime) -> Result<String, Trouble> {
    let relay = Relay::start(runtime, |_| ())?;
    let mut clients = Vec::new();
    for _ in 0..200 {
        clients.push(relay.client()?);
    }
    for _ in 0..50 {
        clients.push(logins::stranger(&relay)?);
    }
    for client in &mut clients {
        client.expect("NOOP", 250)?;
    }
    for client in &mut clients {
        client.expect("QUIT", 221)?;
    }
    relay.idle()?;
    Ok(format!("{} idle connections, all served", clients.len()))
}

/// RES-02: over the caps 421 at once, and nobody else notices.
fn connections(runtime: Runtime) -> Result<String, Trouble> {
    let relay = Relay::start(runtime, |config| {
        config.limits.connections = 5;
        config.limits.connections_per_ip = 2;
    })?;
    let from = Ipv4Addr::new(127, 9, 9, 8);
    let again = || Client::connect_from(from, relay.address(Door::Trusted));
    let mut served = [again()?, again()?, relay.connect(Door::Trusted)?];
    for client in &mut served {
        client.hello()?;
    }
    let site = again()?.rest()?;
    ensure!(
        site.len() == 1 && site[0].code == 421 && site[0].text().starts_with("4.7.0 "),
        "over the cap of an address: {site:?}"
    );
    let mut more = [relay.connect(Door::Trusted)?, relay.connect(Door::Trusted)?];
    for client in &mut more {
        client.hello()?;
    }
    let all = relay.connect(Door::Trusted)?.rest()?;
    ensure!(
        all.len() == 1 && all[0].code == 421 && all[0].text().starts_with("4.3.2 "),
        "over the cap of all: {all:?}"
    );
    for client in served.iter_mut().chain(&mut more) {
        client.expect("NOOP", 250)?;
    }
    // A place that is given back can be taken.
    served[0].expect("QUIT", 221)?;
    relay.until("the session to end", |status| status.sessions == 4)?;
    again()?.hello()?;
    Ok(format!("421 {}; 421 {}", site[0].text(), all[0].text()))
}

/// RES-05: more recipients than the limit wait for the next message; it takes thousands of them.
fn recipients(runtime: Runtime) -> Result<String, Trouble> {
    let relay = Relay::start(runtime, |_| ())?;
    let mut client = relay.client()?;
    client.expect("MAIL FROM:<a@client.example>", 250)?;
    let lines = |count: usize| "RCPT TO:<b@server.example>\r\n".repeat(count);
    for block in 0..10 {
        client.write(lines(100).as_bytes())?;
        for _ in 0..100 {
            let reply = client.reply()?;
            ensure!(reply.code == 250, "in block {block}: {reply:?}");
        }
    }
    for block in 0..90 {
        client.write(lines(100).as_bytes())?;
        for _ in 0..100 {
            let reply = client.reply()?;
            let over = reply.code == 452 && reply.text().starts_with("4.5.3 ");
            ensure!(over, "in block {block} over the limit: {reply:?}");
        }
    }
    let reply = client.data(format!("{HEADERS}body\r\n").as_bytes())?;
    ensure!(reply.code == 250, "the message got {reply:?}");
    let accepted = relay.idle_but(1)?.accepted;
    ensure!(accepted == 1000, "{accepted} were queued");
    Ok("250×1000 452×9000, 1000 queued".into())
}

/// RES-05: bad recipients are heard for so long only.
fn bad_recipients(runtime: Runtime) -> Result<String, Trouble> {
    let relay = Relay::start(runtime, |_| ())?;
    let mut client = relay.client()?;
    client.expect("MAIL FROM:<a@client.example>", 250)?;
    // The relay may close before all is written.
    let _ = client.write("RCPT TO:<b@[127.0.0.1]>\r\n".repeat(1000).as_bytes());
    let replies = client.rest()?;
    ensure!(
        replies.last().is_some_and(|last| last.code == 421) && replies.len() < 1000,
        "{} replies, the last {:?}",
        replies.len(),
        replies.last()
    );
    nothing_queued(&relay)?;
    Ok(format!("550×{} 421", replies.len() - 1))
}

/// RES-08, scaled down: what half a transaction wrote to the spool is gone at once.
fn half_transactions(runtime: Runtime) -> Result<String, Trouble> {
    let relay = Relay::start(runtime, |_| ())?;
    let line = [&[b'x'; 998][..], b"\r\n"].concat();
    for end in 0..8 {
        let mut client = relay.client()?;
        client.expect("MAIL FROM:<a@client.example>", 250)?;
        client.expect("RCPT TO:<b@server.example>", 250)?;
        client.expect("DATA", 354)?;
        client.write(HEADERS.as_bytes())?;
        client.write(&line.repeat(1000))?;
        match end % 3 {
            0 => client.finish(),
            // What is refused is dropped, though the client goes on.
            1 => {
                client.write(b"bare\nLF\r\n")?;
                client.write(&line.repeat(10))?;
            }
            _ => drop(client),
        }
    }
    relay.idle()?;
    let left = relay.spool_files()?;
    ensure!(left.is_empty(), "the spool holds {left:?}");
    nothing_queued(&relay)?;
    Ok("8 halves, the spool is empty".into())
}
