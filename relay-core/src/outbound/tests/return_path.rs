//! Mail that leaves under a signed return path: who is named where, and what the sender still gets.

use smtp_proto::{Domain, Mailbox, Notify, ReversePath};

use super::*;
use crate::bounce::return_path::{Day, Keyring};
use crate::config::{ReturnPath, ReturnPathState, SigningDomain};

fn bounces() -> Domain {
    "bounces.example.com".parse().unwrap()
}

/// A world whose configuration has the return path, and the keys.
fn world(script: Script) -> (World, Arc<Keyring>) {
    let mut world = World::with(script);
    let keys = Arc::new(Keyring::generate(&mut Rng::from_number(9)));
    world.config.return_path_keys = Some(Arc::clone(&keys));
    let mut domain = SigningDomain::new("example.com".parse().unwrap());
    domain.return_path = Some(ReturnPath {
        domain: bounces(),
        state: ReturnPathState::Active,
    });
    world.config.domains.push(Arc::new(domain));
    (world, keys)
}

fn mail(count: usize) -> Mail {
    let mut mail = Mail::to(count);
    mail.handling.return_path = Some(bounces());
    mail
}

/// The mailboxes of the MAIL commands that the host heard, and the parameters behind them.
fn senders(world: &World) -> Vec<(ReversePath, String)> {
    let commands = world.mx().commands();
    let said = commands
        .iter()
        .filter_map(|line| line.strip_prefix("MAIL FROM:"));
    said.map(|said| {
        let (path, params) = said.split_once(' ').unwrap_or((said, ""));
        (ReversePath::parse(path).unwrap(), params.to_owned())
    })
    .collect()
}

fn evidence(run: &Run) -> &Evidence {
    match &run.reports[0] {
        Report::Tried(tried) | Report::Unreachable(tried) => &tried.evidence,
        Report::Ended => panic!("no report"),
    }
}

#[test]
fn each_recipient_has_a_mail_from_that_names_it() {
    for offers in [&["PIPELINING", "SIZE 0"][..], &[]] {
        let (world, keys) = world(Script::default().offers(offers));
        let mut world = world.mail(&mail(3));
        let run = world.run();
        assert_eq!(run.fates(), "ddd");
        let senders = senders(&world);
        assert_eq!(senders.len(), 3);
        for (index, (path, _)) in senders.iter().enumerate() {
            let address = path.mailbox().unwrap();
            assert_eq!(address.domain(), Some(&bounces()));
            let token = keys.verify(address, START).unwrap();
            assert_eq!(token.message, MessageId::from_u64(1000));
            assert_eq!(token.recipient, u32::try_from(index).unwrap());
            let expire = world.config.delivery.expire;
            assert_eq!(token.expires, Day::last_for(START, expire));
        }
        let last = senders[2].0.mailbox().map(Mailbox::to_string);
        assert_eq!(evidence(&run).return_path, last);
        for (index, taken) in world.mx().taken().iter().enumerate() {
            assert_eq!(taken.rcpts.len(), 1, "transaction {index}");
        }
    }
}

/// RFC 6647 §2.3: a receiver that greylists remembers client, sender and recipient.
#[test]
fn a_later_attempt_has_the_same_address() {
    let of = |later: Duration| {
        let (world, _) = world(Script::default());
        let mut world = world.mail(&mail(1));
        world.now.unix = START + later;
        world.run();
        senders(&world).remove(0).0
    };
    assert_eq!(of(Duration::ZERO), of(Duration::from_secs(2 * 86_400)));
}

#[test]
fn the_senders_own_address_stays_where_there_is_no_return_path() {
    let sender = ReversePath::parse("<sender@example.com>").unwrap();
    // Mail of a domain without one; one that is not used yet; one that was taken away; no keys.
    type Change = fn(&mut World);
    let pending: Change = |world| {
        let domain = Arc::make_mut(&mut world.config.domains[0]);
        domain.return_path.as_mut().unwrap().state = ReturnPathState::Pending;
    };
    let cases: [(Mail, Change); 4] = [
        (Mail::to(2), |_| {}),
        (mail(2), pending),
        (mail(2), |world| world.config.domains.clear()),
        (mail(2), |world| world.config.return_path_keys = None),
    ];
    for (mail, change) in cases {
        let (mut world, _) = world(Script::default());
        change(&mut world);
        let mut world = world.mail(&mail);
        let run = world.run();
        let heard = senders(&world);
        assert_eq!(heard.len(), 1, "one transaction for both");
        assert_eq!(heard[0].0, sender);
        assert_eq!(evidence(&run).return_path, None);
    }
}

#[test]
fn a_null_sender_stays_null() {
    let (world, _) = world(Script::default());
    let mut world = world.mail(&Mail {
        from: String::new(),
        ..mail(1)
    });
    world.run();
    assert_eq!(senders(&world)[0].0, ReversePath::Null);
}

/// RFC 3461 §6.1: what the host reports goes to MAIL FROM, so success is told to the sender by us, and
/// the rest of DSN is passed on as it was.
#[test]
fn reports_of_success_are_ours() {
    for (asked, said) in [
        ("SUCCESS,FAILURE,DELAY", " NOTIFY=FAILURE,DELAY"),
        ("SUCCESS", " NOTIFY=NEVER"),
        ("NEVER", " NOTIFY=NEVER"),
        ("FAILURE", " NOTIFY=FAILURE"),
    ] {
        let (world, _) = world(Script::default().offers(&["DSN"]));
        let mut world = world.mail(&mail(1));
        let id = MessageId::from_u64(1000);
        let mut loaded = Loaded::clone(world.store[&id].as_ref().unwrap());
        let envelope = &mut loaded.message.envelope;
        envelope.recipients[0].notify = Notify::parse(asked);
        envelope.recipients[0].orcpt = smtp_proto::Orcpt::parse("rfc822;first@example.net");
        envelope.envid = smtp_proto::EnvId::parse("QQ314159");
        world.store.insert(id, Ok(Arc::new(loaded)));
        let run = world.run();
        assert!(!evidence(&run).dsn, "the engine reports what was asked for");
        let commands = world.mx().commands().join("\n");
        let rcpt = format!("RCPT TO:<u0@example.net>{said} ORCPT=rfc822;first@example.net");
        assert!(commands.contains(&rcpt), "{commands}");
        assert!(commands.contains(" ENVID=QQ314159"), "{commands}");
    }
}

/// A sender that needs SMTPUTF8 is not named to the host, which then need not offer it.
#[test]
fn a_host_without_smtputf8_takes_mail_of_a_sender_that_needs_it() {
    let (world, keys) = world(Script::default().offers(&[]));
    let utf8 = Mail {
        from: "jürgen@example.com".into(),
        smtputf8: true,
        ..mail(1)
    };
    let mut world = world.mail(&utf8);
    assert_eq!(world.run().fates(), "d");
    let (path, params) = senders(&world).remove(0);
    assert!(keys.verify(path.mailbox().unwrap(), START).is_ok());
    assert!(!params.contains("SMTPUTF8"));
}

/// One recipient that is refused says nothing about the next.
#[test]
fn recipients_are_judged_apart() {
    let script = Script::default().on("RCPT TO:<u1@", sink::say("550 5.1.1 no such user"));
    let (world, _) = world(script);
    let mut world = world.mail(&mail(3));
    assert_eq!(world.run().fates(), "dbd");
    assert_eq!(senders(&world).len(), 3);
}

#[test]
fn lmtp_has_it_too() {
    let (mut world, keys) = world(Script::default());
    world.lane.protocol = Protocol::Lmtp;
    let mut world = world.mail(&mail(2));
    world.run();
    for (index, (path, _)) in senders(&world).iter().enumerate() {
        let token = keys.verify(path.mailbox().unwrap(), START).unwrap();
        assert_eq!(token.recipient, u32::try_from(index).unwrap());
    }
}
