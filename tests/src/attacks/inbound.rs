//! Mail from strangers, at a listener with `role = "inbound"`.

use relay_core::config::{Config, DmarcAction, Role};

use super::relay::{Door, Relay, route};
use super::sink::{Script, Sink};
use super::tls::HOSTNAME;
use super::{Row, Runtime, Trouble, ensure};

pub(super) fn rows() -> Vec<Row> {
    vec![
        Row::scene("HDR-03", forged_results),
        Row::scene("HDR-03b", no_open_relay),
    ]
}

/// What comes to [`Door::Submission`] is from anybody, for `server.example` alone.
fn inbound(sink: &Sink) -> impl FnOnce(&mut Config) {
    let routes = vec![route("server.example", sink), route("*", sink)];
    move |config| {
        for listener in &mut config.listeners {
            if listener.trusted_as.is_none() {
                listener.role = Role::Inbound(DmarcAction::Tag);
            }
        }
        config.routes = routes;
    }
}

/// HDR-03: results that claim to be ours are gone before ours stand there.
fn forged_results(runtime: Runtime) -> Result<String, Trouble> {
    let sink = Sink::start(Script::default())?;
    let relay = Relay::start(runtime, inbound(&sink))?;
    let us = HOSTNAME;
    let mut client = relay.connect(Door::Submission)?;
    client.hello()?;
    client.expect("MAIL FROM:<a@bank.example>", 250)?;
    client.expect("RCPT TO:<b@server.example>", 250)?;
    let forged = format!(
        "Authentication-Results: {us}; dmarc=pass header.from=bank.example\r\n\
         AUTHENTICATION-RESULTS : (really) \"{us}\" 1 ; dkim=pass\r\n\
         Authentication-Results: other.example; spf=pass\r\n\
         From: a@bank.example\r\n\r\nbody\r\n"
    );
    let reply = client.data(forged.as_bytes())?;
    ensure!(reply.code == 250, "got {reply:?}");
    let text = sink.wait(1)?.remove(0).text();
    let first = format!("Authentication-Results: {us};\r\n\tspf=");
    ensure!(text.starts_with(&first), "delivered {text}");
    ensure!(
        text.matches(us).count() == 2,
        "in ours and in Received: {text}"
    );
    ensure!(!text.contains("=pass\r\n\tdmarc"), "delivered {text}");
    ensure!(text.contains("other.example; spf=pass"), "delivered {text}");
    Ok("two forged ones gone, ours on top".into())
}

/// HDR-03b: a stranger reaches the domains that a route names, and no other, whatever the route.
fn no_open_relay(runtime: Runtime) -> Result<String, Trouble> {
    let sink = Sink::start(Script::default())?;
    let relay = Relay::start(runtime, inbound(&sink))?;
    let mut client = relay.connect(Door::Submission)?;
    let offered = client.hello()?;
    ensure!(!offered.text().contains("AUTH"), "offered {offered:?}");
    client.expect("MAIL FROM:<>", 250)?;
    let recipients = [
        "b@elsewhere.example",
        "b@sub.server.example",
        "b%elsewhere.example@server.example",
        "elsewhere.example!b@server.example",
        "\"b@elsewhere.example\"@server.example",
        "b@[192.0.2.1]",
        "postmaster",
    ];
    for recipient in recipients {
        let reply = client.say(&format!("RCPT TO:<{recipient}>"))?;
        ensure!(reply.code == 550, "{recipient} got {reply:?}");
    }
    client.expect("RCPT TO:<b@server.example>", 250)?;
    Ok(format!(
        "{} of {} refused",
        recipients.len(),
        recipients.len()
    ))
}
