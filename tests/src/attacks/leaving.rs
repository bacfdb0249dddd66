//! Group OUT: what leaves the relay, whatever came in.

use relay_core::inbound::direct::Draft;
use relay_core::queue::message::Recipient;
use smtp_proto::{BodyType, MailParams, ReversePath};

use super::bodies::{FALSE_ENDS, HEADERS, SMUGGLED};
use super::outbound::TO;
use super::relay::{Relay, route};
use super::sink::{Notes, Script, Sink, Taken};
use super::{Row, Runtime, Trouble, ensure};

pub(super) fn rows() -> Vec<Row> {
    vec![
        Row::scene("OUT-01", embedded),
        Row::scene("OUT-02", false_ends),
        Row::scene("OUT-03", dots),
    ]
}

fn draft(message: &str, binary: bool) -> Result<Draft, Trouble> {
    let recipient = Recipient {
        to: TO[0].parse()?,
        notify: None,
        orcpt: None,
    };
    Ok(Draft {
        credential: None,
        from: ReversePath::Null,
        params: MailParams {
            body: binary.then_some(BodyType::BinaryMime),
            ..MailParams::default()
        },
        recipients: vec![recipient],
        message: message.as_bytes().to_vec(),
    })
}

/// OUT-01: a program hands in what no client could: it leaves with whole lines, and one end.
fn embedded(runtime: Runtime) -> Result<String, Trouble> {
    let sink = Sink::start(Script::default())?;
    let relay = Relay::to(runtime, &sink)?;
    let mut taken = 0;
    for (id, end) in FALSE_ENDS {
        let message = format!("{HEADERS}body{end}{SMUGGLED}");
        match relay.embed(draft(&message, false)?)? {
            Ok(_) => taken += 1,
            Err(refusal) => ensure!(end.contains('\0'), "{id}: {}", refusal.text),
        }
    }
    let all = sink.wait(taken)?;
    for message in &all {
        message.check_wire()?;
        let text = message.text();
        ensure!(
            text.contains("\r\nRCPT TO:<victim@server.example>\r\n"),
            "{text:?}"
        );
    }
    check_commands(&sink.notes())?;
    Ok(format!("{taken} delivered with whole lines and one end"))
}

/// Nothing of what was smuggled was taken for a command.
fn check_commands(notes: &Notes) -> Result<(), Trouble> {
    let evil =
        |(command, _): &&(String, bool)| command.contains("evil") || command.contains("victim");
    let smuggled = notes.commands.iter().find(evil);
    ensure!(smuggled.is_none(), "smuggled: {smuggled:?}");
    ensure!(notes.faults.is_empty(), "{:?}", notes.faults);
    Ok(())
}

/// OUT-02: each false end by DATA, BDAT and BINARYMIME, to a receiver of DATA and one of BDAT.
fn false_ends(runtime: Runtime) -> Result<String, Trouble> {
    let data = Sink::start(Script::default())?;
    let binary = Sink::start(Script::default().offers(&["CHUNKING", "BINARYMIME", "8BITMIME"]))?;
    let reports = Sink::start(Script::default())?;
    let relay = Relay::start(runtime, |config| {
        config.routes = vec![
            route("data.example", &data),
            route("binary.example", &binary),
            route("*", &reports),
        ];
    })?;
    let mut client = relay.client()?;
    let mut sent = Vec::new();
    for (id, end) in FALSE_ENDS {
        let message = format!("{HEADERS}body{end}{SMUGGLED}");
        for (body, chunked) in [("", false), ("", true), (" BODY=BINARYMIME", true)] {
            client.expect(&format!("MAIL FROM:<a@client.example>{body}"), 250)?;
            client.expect("RCPT TO:<b@data.example>", 250)?;
            client.expect("RCPT TO:<b@binary.example>", 250)?;
            let reply = if chunked {
                client.write(format!("BDAT {} LAST\r\n{message}", message.len()).as_bytes())?;
                client.reply()?
            } else {
                // The smuggled part brings the true end.
                client.expect("DATA", 354)?;
                client.write(message.as_bytes())?;
                client.reply()?
            };
            let want = if body.is_empty() { 550 } else { 250 };
            ensure!(reply.code == want, "{id}{body}: {reply:?}");
            if reply.code == 250 {
                sent.push(message.clone());
            }
        }
    }
    let taken = binary.wait(sent.len())?;
    relay.until("the reports", |status| status.queued == 0)?;
    for taken in taken.iter().chain(&data.wait(0)?).chain(&reports.wait(1)?) {
        taken.check_wire()?;
    }
    for notes in [data.notes(), binary.notes(), reports.notes()] {
        check_commands(&notes)?;
    }
    ensure!(data.notes().taken.is_empty(), "binary went out by DATA");
    for message in &sent {
        let body = message.strip_prefix(HEADERS).unwrap_or(message);
        let whole = |taken: &Taken| taken.message.ends_with(body.as_bytes());
        ensure!(taken.iter().any(whole), "changed on the way: {body:?}");
    }
    Ok(format!(
        "28 refused; {} by BINARYMIME delivered octet for octet by BDAT, and bounced where there is only DATA",
        sent.len()
    ))
}

/// OUT-03: dots are stuffed once.
fn dots(runtime: Runtime) -> Result<String, Trouble> {
    let sink = Sink::start(Script::default())?;
    let relay = Relay::to(runtime, &sink)?;
    let body = ".\r\n..\r\n...\r\n.a\r\n\r\n.\r\n a.\r\n";
    let mut client = relay.client()?;
    client.expect("MAIL FROM:<a@client.example>", 250)?;
    client.expect("RCPT TO:<b@server.example>", 250)?;
    let message = format!("{HEADERS}{body}");
    client.write(format!("BDAT {} LAST\r\n{message}", message.len()).as_bytes())?;
    let reply = client.reply()?;
    ensure!(reply.code == 250, "{reply:?}");
    let taken = sink.wait(1)?.remove(0);
    taken.check_wire()?;
    let text = taken.text();
    ensure!(
        text.ends_with(&format!("\r\n\r\n{body}")),
        "delivered {text:?}"
    );
    let wire = String::from_utf8_lossy(&taken.wire).into_owned();
    let stuffed = "\r\n..\r\n...\r\n....\r\n..a\r\n\r\n..\r\n a.\r\n.\r\n";
    ensure!(wire.ends_with(stuffed), "on the wire {wire:?}");
    Ok("stuffed once, delivered as it was".into())
}
