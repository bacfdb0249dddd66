//! Groups HDR and LOOP, and AUTH-11: who may say that a message is whose.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use relay_core::config::{Credential, SenderPattern};
use smtp_proto::Domain;

use super::client::Reply;
use super::dialogue::{Dialogue, Start};
use super::relay::Relay;
use super::sink::{Script, Sink, Taken};
use super::{Row, Runtime, Trouble, ensure};

pub(super) fn rows() -> Vec<Row> {
    vec![
        Row::scene("AUTH-11", senders),
        Row::scene("HDR-01", espoofer),
        Row::scene("HDR-04", blind_copies),
        Row::scene("HDR-05", missing_fields),
        Row::dialogue("HDR-05b", message("Subject: nobody\r\n\r\nbody\r\n", "550")),
        Row::scene("HDR-06", binary_headers),
        Row::dialogue(
            "LOOP-01",
            message(&with_received(101), "554").check(is_loop),
        ),
        Row::dialogue(
            "LOOP-01b",
            message(&with_received(99), "250").queues(|_| Ok(())),
        ),
    ]
}

fn message(message: &str, want: &'static str) -> Dialogue {
    Dialogue::new(Start::Data, format!("{message}.\r\n"), want)
}

fn with_received(count: usize) -> String {
    let trace = "Received: from a by b; Mon, 23 Nov 2026 22:05:31 +0000\r\n".repeat(count);
    format!("{trace}From: a@client.example\r\n\r\nbody\r\n")
}

fn is_loop(replies: &[Reply]) -> Result<(), Trouble> {
    let text = replies.first().map_or("", Reply::text);
    ensure!(text.starts_with("5.4.6 "), "{text}");
    Ok(())
}

/// Hands a message in; the first refusal, or the last reply.
fn hand_in(relay: &Relay, mail: &str, rcpt: &str, message: &[u8]) -> Result<Reply, Trouble> {
    let mut client = relay.client()?;
    for line in [format!("MAIL FROM:{mail}"), format!("RCPT TO:{rcpt}")] {
        let reply = client.say(&line)?;
        if reply.code != 250 {
            return Ok(reply);
        }
    }
    client.data(message)
}

/// Hands in a message that must be taken, and gives it as it is delivered.
fn delivered(runtime: Runtime, message: &str) -> Result<Taken, Trouble> {
    let sink = Sink::start(Script::default())?;
    let relay = Relay::to(runtime, &sink)?;
    relay.submit(&["b@server.example"], message.as_bytes())?;
    let taken = sink.wait(1)?.remove(0);
    taken.check_wire()?;
    Ok(taken)
}

/// AUTH-11: what is not of the credential is refused, wherever it stands.
fn senders(runtime: Runtime) -> Result<String, Trouble> {
    let relay = Relay::start(runtime, |_| ())?;
    let from = |headers: &str| {
        let message = format!("{headers}\r\n\r\nbody\r\n");
        let path = "<a@client.example>";
        hand_in(&relay, path, "<b@server.example>", message.as_bytes())
    };
    let mut got = Vec::new();
    let path = hand_in(&relay, "<b@bank.example>", "<b@server.example>", b"")?;
    ensure!(
        (path.code, path.text().starts_with("5.7.1 ")) == (553, true),
        "MAIL FROM of another: {path:?}"
    );
    got.push(path.code);
    for headers in [
        "From: b@bank.example",
        "From: a@client.example\r\nFrom: b@bank.example",
        "From: a@client.example\r\nFrom: a@client.example",
        "From: a@client.example, b@bank.example",
        "From: a@client.example, b@bank.example\r\nSender: a@client.example",
        "From: a@client.example\r\nSender: b@bank.example",
        "From: a@client.example\r\nSender: a@client.example\r\nSender: b@bank.example",
        "From: \"a@client.example\" <b@bank.example>",
        "From: group: a@client.example, b@bank.example;",
    ] {
        let reply = from(headers)?;
        ensure!(
            matches!(reply.code, 550 | 553),
            "{headers:?} got {} {}",
            reply.code,
            reply.text()
        );
        got.push(reply.code);
    }
    let status = relay.idle()?;
    ensure!(status.accepted == 0, "{} were queued", status.accepted);
    Ok(format!("{got:?}, 0 queued"))
}

/// HDR-01: the published ambiguities, by a credential of the attacker's own domains.
fn espoofer(runtime: Runtime) -> Result<String, Trouble> {
    let file: PathBuf = [
        env!("CARGO_MANIFEST_DIR"),
        "../../shared/vectors/espoofer/cases.json",
    ]
    .iter()
    .collect();
    let Ok(text) = fs::read_to_string(&file) else {
        return Ok(format!(
            "SKIPPED: {} is not there (the vectors of chenjj/espoofer)",
            file.display()
        ));
    };
    let cases: serde_json::Value = serde_json::from_str(&text)?;
    let relay = Relay::start(runtime, |config| {
        let own = ["attack.com", "33.attack.com", "any.attack.com"];
        let domains = own.iter().filter_map(|name| Domain::parse(name).ok());
        let mut senders: Vec<SenderPattern> = domains.map(SenderPattern::Domain).collect();
        let address = "attacker@example.com".parse().map(SenderPattern::Address);
        senders.extend(address);
        for credential in &mut config.credentials {
            *credential = Arc::new(Credential {
                senders: senders.clone(),
                ..Credential::clone(credential)
            });
        }
    })?;
    let cases = cases["cases"].as_array().ok_or("no cases")?;
    for case in cases {
        let text = |key: &str| case[key].as_str().unwrap_or_default();
        let message = format!(
            "{}{}Subject: a\r\n\r\nbody\r\n",
            text("from_header"),
            text("other_headers")
        );
        let (mail, rcpt) = (text("mailfrom"), text("rcptto"));
        let reply = hand_in(&relay, mail, rcpt, message.as_bytes())?;
        ensure!(
            reply.code / 100 == 5,
            "{} ({}) got {} {}",
            text("id"),
            text("description"),
            reply.code,
            reply.text()
        );
    }
    let status = relay.idle()?;
    ensure!(status.accepted == 0, "{} were queued", status.accepted);
    Ok(format!(
        "{} of {} refused, 0 queued",
        cases.len(),
        cases.len()
    ))
}

/// HDR-04.
fn blind_copies(runtime: Runtime) -> Result<String, Trouble> {
    let message = "From: a@client.example\r\nBcc: x@hidden.example,\r\n y@hidden.example\r\n\
                   BCC : z@hidden.example\r\nResent-Bcc: v@hidden.example\r\nTo: b@server.example\r\n\
                   bcc:\r\n\r\nBcc: in the body\r\n";
    let text = delivered(runtime, message)?.text();
    ensure!(!text.contains("hidden.example"), "delivered {text}");
    let (headers, body) = text.split_once("\r\n\r\n").ok_or("no body")?;
    ensure!(
        !headers.to_lowercase().contains("\r\nbcc"),
        "delivered {text}"
    );
    ensure!(
        headers.ends_with("To: b@server.example") && body == "Bcc: in the body\r\n",
        "delivered {text}"
    );
    Ok("Bcc and Resent-Bcc are gone, and nothing else".into())
}

/// HDR-05: Date and Message-ID are added where they are missing, and kept where they are not.
fn missing_fields(runtime: Runtime) -> Result<String, Trouble> {
    let text = delivered(runtime, "From: a@client.example\r\n\r\nbody\r\n")?.text();
    for field in ["\r\nDate: ", "\r\nMessage-ID: <", "Received: from "] {
        let count = text.matches(field).count();
        ensure!(count == 1, "{field:?} is there {count} times in {text}");
    }
    let own = "Date: Mon, 23 Nov 2026 22:05:31 +0000\r\nMessage-ID: <own@client.example>\r\n";
    let text = delivered(
        runtime,
        &format!("From: a@client.example\r\n{own}\r\nbody\r\n"),
    )?
    .text();
    ensure!(
        text.contains(own) && text.matches("Date:").count() == 1,
        "delivered {text}"
    );
    Ok("Date and Message-ID added once, the client's kept".into())
}

/// HDR-06: BINARYMIME is for bodies; a header block has lines whatever BODY says.
fn binary_headers(runtime: Runtime) -> Result<String, Trouble> {
    let relay = Relay::start(runtime, |_| ())?;
    for message in [
        "From: a@client.example\rFrom: b@bank.example\r\n\r\nbody",
        "From: a@client.example\nFrom: b@bank.example\r\n\r\nbody",
        "From: a@client.example\n\nFrom: b@bank.example\r\n\r\nbody",
        "Subject: \0\r\nFrom: a@client.example\r\n\r\nbody",
    ] {
        let mut client = relay.client()?;
        client.expect("MAIL FROM:<a@client.example> BODY=BINARYMIME", 250)?;
        client.expect("RCPT TO:<b@server.example>", 250)?;
        client.write(format!("BDAT {} LAST\r\n{message}", message.len()).as_bytes())?;
        let reply = client.reply()?;
        ensure!(reply.code == 550, "{message:?} got {reply:?}");
    }
    let status = relay.idle()?;
    ensure!(status.accepted == 0, "{} were queued", status.accepted);
    Ok("550 four times, 0 queued".into())
}
