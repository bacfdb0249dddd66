//! Groups TLS, AUTH and RES: what one connection must not do to the relay, and not to another.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use relay_core::rng::Rng;
use relay_core::sasl;
use rustls::version::{TLS12, TLS13};
use rustls::{ALL_VERSIONS, HandshakeKind};

use super::bodies::HEADERS;
use super::client::{Client, Reply, plain};
use super::dialogue::{Dialogue, End, Start, Way};
use super::relay::{Door, Relay, SECRET};
use super::{Row, Runtime, Trouble, ensure, tls};

pub(super) fn rows() -> Vec<Row> {
    let browser =
        "GET / HTTP/1.1\r\nCookie: HTTP/1.1 secret\r\n\r\nMAIL FROM:<a@client.example>\r\n";
    vec![
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
        Row::scene("AUTH-04b", others_still_log_in),
        Row::scene("AUTH-06b", an_address_that_guesses),
        Row::scene("AUTH-09", unknown_names),
        Row::scene("AUTH-10", guesses_at_once),
        Row::scene("AUTH-13", scram),
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

/// A client that may log in.
fn stranger(relay: &Relay) -> Result<Client, Trouble> {
    stranger_at(relay.address(Door::Submissions))
}

fn stranger_at(address: SocketAddr) -> Result<Client, Trouble> {
    let mut client = Client::connect(address)?;
    client.handshake()?;
    client.hello()?;
    Ok(client)
}

/// AUTH-04: what one client sends as base64 concerns no other.
fn others_still_log_in(runtime: Runtime) -> Result<String, Trouble> {
    let relay = Relay::start(runtime, |_| ())?;
    let mut other = stranger(&relay)?;
    let mut client = stranger(&relay)?;
    client.expect("AUTH PLAIN dXNlckB0ZXN0c2VydmVyAHlalala==", 501)?;
    client.expect("AUTH PLAIN", 334)?;
    client.expect("!", 501)?;
    for client in [&mut other, &mut client] {
        let reply = client.login("app", SECRET)?;
        ensure!(reply.code == 235, "the login got {reply:?}");
    }
    Ok("501, then 235 here and elsewhere".into())
}

/// AUTH-06: an address is limited over all of its connections, and others are not.
fn an_address_that_guesses(runtime: Runtime) -> Result<String, Trouble> {
    let relay = Relay::start(runtime, |_| ())?;
    let from = Ipv4Addr::new(127, 9, 9, 9);
    let guess = format!("AUTH PLAIN {}\r\n", plain("app", "wrong"));
    let (mut guesses, mut last) = (0, Reply::default());
    while !last.text().contains("failed logins from") {
        let mut client = Client::connect_from(from, relay.address(Door::Submissions))?;
        client.handshake()?;
        client.hello()?;
        // The relay closes after the third.
        client.write(guess.repeat(5).as_bytes())?;
        let replies = client.rest()?;
        guesses += replies.iter().filter(|reply| reply.code == 535).count();
        last = replies.last().cloned().unwrap_or_default();
        ensure!(
            last.code == 421 && guesses <= 10,
            "{guesses} guesses, {last:?}"
        );
    }
    let mut client = stranger(&relay)?;
    let reply = client.login("app", SECRET)?;
    ensure!(reply.code == 235, "another address got {reply:?}");
    Ok(format!("{guesses} guesses, then 421 {}", last.text()))
}

/// AUTH-09: nothing that can be read tells a known name from an unknown one.
fn unknown_names(runtime: Runtime) -> Result<String, Trouble> {
    let relay = Relay::start(runtime, |_| ())?;
    let ask = |name: &str| -> Result<Vec<Reply>, Trouble> {
        let mut replies = Vec::new();
        let mut client = stranger(&relay)?;
        replies.push(client.login(name, "wrong")?);
        replies.push(client.say("AUTH LOGIN")?);
        replies.push(client.say(&BASE64.encode(name))?);
        replies.push(client.say(&BASE64.encode("wrong"))?);
        let mut client = stranger(&relay)?;
        let (mut sasl, first) = sasl::Client::start(
            sasl::Mechanism::ScramSha256,
            name,
            "wrong",
            None,
            &mut Rng::from_number(1),
        );
        let first = BASE64.encode(first.unwrap_or_default());
        let challenge = client.expect(&format!("AUTH SCRAM-SHA-256 {first}"), 334)?;
        let decoded = BASE64.decode(challenge.text())?;
        let shown = String::from_utf8(decoded.clone())?;
        let proof = sasl.respond(&decoded).map_err(|error| error.to_string())?;
        replies.push(client.say(&BASE64.encode(proof))?);
        // The nonce differs, and the salt; their lengths and the count must not.
        let shape: Vec<String> = shown
            .split(',')
            .map(|attribute| match attribute.split_at_checked(2) {
                Some(("i=", count)) => count.to_owned(),
                Some((key, value)) => format!("{key}{}", value.len()),
                None => attribute.to_owned(),
            })
            .collect();
        let lines = vec![shape.join(",")];
        replies.push(Reply { code: 334, lines });
        Ok(replies)
    };
    let (known, unknown) = (ask("app")?, ask("nosuch")?);
    ensure!(known == unknown, "known {known:#?}\nunknown {unknown:#?}");
    // A decoy's salt is the same each time, as a true one is.
    let codes: Vec<u16> = known.iter().map(|reply| reply.code).collect();
    Ok(format!("{codes:?} to both, the same text"))
}

/// AUTH-10: many guesses at once delay nobody who does not guess, and are limited by name.
fn guesses_at_once(runtime: Runtime) -> Result<String, Trouble> {
    const GUESSERS: usize = 60;
    let relay = Relay::start(runtime, |_| ())?;
    let mut calm = relay.client()?;
    let address = relay.address(Door::Submissions);
    let guess = || -> Result<Vec<u16>, String> {
        let run = || -> Result<Vec<u16>, Trouble> {
            let mut client = stranger_at(address)?;
            let line = format!("AUTH PLAIN {}\r\n", plain("app", "wrong"));
            client.write(line.repeat(3).as_bytes())?;
            Ok(client.rest()?.iter().map(|reply| reply.code).collect())
        };
        run().map_err(|trouble| trouble.to_string())
    };
    let codes: Vec<Vec<u16>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..GUESSERS).map(|_| scope.spawn(guess)).collect();
        // The rest is served meanwhile.
        for _ in 0..50 {
            calm.expect("NOOP", 250)?;
        }
        let ended = threads.into_iter().map(|thread| {
            let codes = thread.join().map_err(|_| "a guesser panicked")?;
            codes.map_err(Trouble::from)
        });
        ended.collect::<Result<_, Trouble>>()
    })?;
    let count = |code| codes.iter().flatten().filter(|&&c| c == code).count();
    let (wrong, later, closed) = (count(535), count(454), count(421));
    ensure!(
        wrong + later + closed == codes.iter().map(Vec::len).sum::<usize>(),
        "{codes:?}"
    );
    ensure!(
        wrong <= 110 && later > 0,
        "{wrong} guesses at one name were heard"
    );
    let mut client = stranger(&relay)?;
    let reply = client.login("app", SECRET)?;
    ensure!(reply.code == 454, "the name is limited, and got {reply:?}");
    Ok(format!(
        "535×{wrong} 454×{later} 421×{closed}; 50 NOOPs meanwhile"
    ))
}

/// AUTH-13: what a SCRAM client must not send.
fn scram(runtime: Runtime) -> Result<String, Trouble> {
    let relay = Relay::start(runtime, |_| ())?;
    // A good exchange, kept.
    let mut client = stranger(&relay)?;
    let (first, proof) = exchange(&mut client, &|first| first, &|proof| proof)?;
    let reply = client.reply()?;
    ensure!(reply.code == 334, "a good proof got {reply:?}");
    client.expect("", 235)?;

    let mut got = Vec::new();
    let mut refused = |what: &str, reply: &Reply| -> Result<(), Trouble> {
        ensure!(matches!(reply.code, 501 | 535), "{what} got {reply:?}");
        got.push(format!("{what} {}", reply.code));
        Ok(())
    };
    let mut client = stranger(&relay)?;
    client.expect(
        &format!("AUTH SCRAM-SHA-256 {}", BASE64.encode(&first)),
        334,
    )?;
    refused("replay", &client.say(&BASE64.encode(&proof))?)?;

    let changes: [(&str, &dyn Fn(String) -> String); 4] = [
        ("r= changed", &|proof| proof.replace("r=", "r=x")),
        ("r= shortened", &|proof| {
            let (start, rest) = proof.split_once("r=").unwrap_or((&proof, ""));
            format!("{start}r={}", rest.get(1..).unwrap_or(""))
        }),
        ("c= changed", &|proof| proof.replace("c=biws", "c=eSws")),
        ("no proof", &|proof| {
            proof.split(",p=").next().unwrap_or("").to_owned()
        }),
    ];
    for (what, change) in changes {
        let mut client = stranger(&relay)?;
        exchange(&mut client, &|first| first, change)?;
        refused(what, &client.reply()?)?;
    }
    // "y": the client has channel binding and believes that the server has not; the server has.
    // "p=" without PLUS, and a binding that the server does not know.
    for header in [
        "y,,",
        "p=tls-exporter,,",
        "p=tls-unique,,",
        "n,a=admin,",
        "x,,",
    ] {
        let mut client = stranger(&relay)?;
        let first = BASE64.encode(format!("{header}n=app,r=abcdefghijkl"));
        refused(header, &client.say(&format!("AUTH SCRAM-SHA-256 {first}"))?)?;
    }
    // PLUS with the binding of another connection.
    let mut client = stranger(&relay)?;
    let (mut sasl, first) = sasl::Client::start(
        sasl::Mechanism::ScramSha256Plus,
        "app",
        SECRET,
        Some(&[1; 32]),
        &mut Rng::from_number(1),
    );
    let first = BASE64.encode(first.unwrap_or_default());
    let challenge = client.expect(&format!("AUTH SCRAM-SHA-256-PLUS {first}"), 334)?;
    let challenge = BASE64.decode(challenge.text())?;
    let proof = sasl
        .respond(&challenge)
        .map_err(|error| error.to_string())?;
    refused("another binding", &client.say(&BASE64.encode(proof))?)?;
    Ok(got.join(", "))
}

/// Runs SCRAM-SHA-256 up to the proof, each message changed on the way; gives both as sent.
fn exchange(
    client: &mut Client,
    change_first: &dyn Fn(String) -> String,
    change_proof: &dyn Fn(String) -> String,
) -> Result<(String, String), Trouble> {
    let (mut sasl, first) = sasl::Client::start(
        sasl::Mechanism::ScramSha256,
        "app",
        SECRET,
        None,
        &mut Rng::from_number(1),
    );
    let first = change_first(String::from_utf8(first.unwrap_or_default())?);
    let line = format!("AUTH SCRAM-SHA-256 {}", BASE64.encode(&first));
    let challenge = client.expect(&line, 334)?;
    let challenge = BASE64.decode(challenge.text())?;
    let proof = sasl
        .respond(&challenge)
        .map_err(|error| error.to_string())?;
    let proof = change_proof(String::from_utf8(proof)?);
    client.write(format!("{}\r\n", BASE64.encode(&proof)).as_bytes())?;
    Ok((first, proof))
}

/// RES-01, scaled down: idle connections, clear and TLS, are all still served.
fn idle_connections(runtime: Runtime) -> Result<String, Trouble> {
    let relay = Relay::start(runtime, |_| ())?;
    let mut clients = Vec::new();
    for _ in 0..200 {
        clients.push(relay.client()?);
    }
    for _ in 0..50 {
        clients.push(stranger(&relay)?);
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
