//! Group AUTH as far as it takes several connections, or a client that computes.

use std::net::{Ipv4Addr, SocketAddr};
use std::thread;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use relay_core::rng::Rng;
use relay_core::sasl;

use super::client::{Client, Reply, plain};
use super::relay::{Door, Relay, SECRET};
use super::{Row, Runtime, Trouble, ensure};

pub(super) fn rows() -> Vec<Row> {
    vec![
        Row::scene("AUTH-04b", others_still_log_in),
        Row::scene("AUTH-06b", an_address_that_guesses),
        Row::scene("AUTH-09", unknown_names),
        Row::scene("AUTH-10", guesses_at_once),
        Row::scene("AUTH-13", scram),
        Row::scene("AUTH-14", identities),
    ]
}

/// A client that may log in.
pub(super) fn stranger(relay: &Relay) -> Result<Client, Trouble> {
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

/// AUTH-14: who logs in as one name does not act as another. RFC 4616 §2, RFC 5802 §5.1.
fn identities(runtime: Runtime) -> Result<String, Trouble> {
    let relay = Relay::start(runtime, |_| ())?;
    let mut got = Vec::new();
    for (message, welcome) in [
        (format!("app\0app\0{SECRET}"), true),
        (format!("printers\0app\0{SECRET}"), false),
        (format!("\0printers\0{SECRET}"), false),
        ("\0printers\0".to_owned(), false),
        (format!("\0app\0{SECRET}\0"), false),
        (format!("\0\0{SECRET}"), false),
        (format!("\0app\0{}", SECRET.to_uppercase()), false),
        (format!("\0APP\0{SECRET}"), false),
    ] {
        let mut client = stranger(&relay)?;
        let reply = client.say(&format!("AUTH PLAIN {}", BASE64.encode(&message)))?;
        ensure!((reply.code == 235) == welcome, "{message:?} got {reply:?}");
        let mail = client.say("MAIL FROM:<a@client.example>")?;
        ensure!(
            mail.code == if welcome { 250 } else { 530 },
            "{message:?}: {mail:?}"
        );
        got.push(reply.code);
    }
    Ok(format!("{got:?}"))
}
