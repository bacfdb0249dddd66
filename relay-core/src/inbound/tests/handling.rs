//! What MAIL asks for beyond the envelope: who is offered it, and that the queue hears of it.

use smtp_proto::{AuthParam, ByMode, Priority};

use super::*;
use crate::queue::handling::{Deadline, Handling, TlsWish};

/// Sends a message with these parameters of MAIL and header fields; what the queue got.
fn handling(mode: Mode, params: &str, fields: &str) -> Handling {
    let mut world = World::ready(mode);
    world.say(&format!(
        "C: MAIL FROM:<a@example.com>{params}
        S: 250 2.1.0
        C: RCPT TO:<b@example.net>
        S: 250 2.1.5
        C: DATA
        S: 354 
        C: From: a@example.com
        {fields}
        C:
        C: text
        C: .
        S: 250 2.0.0 Ok: queued as 0000000000001"
    ));
    world.engine.submitted[0].envelope.handling.clone()
}

fn secured() -> impl Iterator<Item = Mode> {
    let clear = |mode: &Mode| matches!(mode.tls, ListenerTls::None);
    modes().into_iter().filter(move |mode| !clear(mode))
}

#[test]
fn ehlo_offers_what_the_queue_keeps() {
    for mode in modes() {
        let mut world = World::new(mode);
        world.reply();
        let clear = world.ehlo();
        if matches!(mode.tls, ListenerTls::StartTls) {
            world.starttls();
        }
        let lines = world.ehlo();
        let offers = |lines: &[String], word: &str| lines.iter().any(|line| line[4..] == *word);
        for word in [
            "DELIVERBY",
            "MT-PRIORITY",
            "FUTURERELEASE 604800 2026-11-30T22:05:31Z",
            "LIMITS RCPTMAX=5",
            "BINARYMIME",
        ] {
            assert!(
                offers(&clear, word) && offers(&lines, word),
                "{word}: {lines:#?}"
            );
        }
        let tls = !matches!(mode.tls, ListenerTls::None);
        assert_eq!(
            offers(&lines, "REQUIRETLS"),
            tls,
            "RFC 8689 §2: under TLS only"
        );
        let implicit = matches!(mode.tls, ListenerTls::Implicit);
        assert_eq!(offers(&clear, "REQUIRETLS"), implicit);
    }
}

#[test]
fn the_queue_hears_what_was_asked() {
    for mode in modes() {
        let asked = handling(
            mode,
            " HOLDFOR=3600 BY=7200;NT MT-PRIORITY=-4 AUTH=b@example.com",
            "",
        );
        let release = UnixTime::from_secs(1_795_471_531 + 3600);
        let deadline = Deadline {
            at: UnixTime::from_secs(1_795_471_531 + 7200),
            mode: ByMode::Notify,
            trace: true,
        };
        let expected = Handling {
            tls: TlsWish::AsConfigured,
            release: Some(release),
            deadline: Some(deadline),
            priority: Priority::new(-4),
            submitter: AuthParam::parse("b@example.com"),
            return_path: None,
        };
        assert_eq!(asked, expected);
        assert_eq!(handling(mode, "", ""), Handling::default());
    }
}

/// RFC 4954 §5: the credential may send for example.com, and is not believed about others.
#[test]
fn a_submitter_that_the_client_may_not_speak_for_is_unknown() {
    let asked = handling(PLAIN, " AUTH=ceo@example.org", "");
    assert_eq!(asked.submitter, Some(AuthParam::Unknown));
}

#[test]
fn requiretls_is_kept_and_outdoes_the_header_field() {
    for mode in secured() {
        let tls = |params, fields| handling(mode, params, fields).tls;
        assert_eq!(tls(" REQUIRETLS", ""), TlsWish::Required);
        assert_eq!(tls(" REQUIRETLS", "C: TLS-Required: No"), TlsWish::Required);
    }
    let tls = |fields| handling(PLAIN, "", fields).tls;
    assert_eq!(tls("C: tls-required:  no "), TlsWish::NotRequired);
    assert_eq!(tls("C: TLS-Required: maybe"), TlsWish::AsConfigured);
}

#[test]
fn requiretls_in_clear_text_and_holds_without_end_are_refused() {
    let mut world = World::ready(PLAIN);
    world.say(
        "C: MAIL FROM:<a@example.com> REQUIRETLS
        S: 555 5.5.4
        C: MAIL FROM:<a@example.com> HOLDFOR=604801
        S: 501 5.5.4 Held too long; the limit is 604800 seconds
        C: MAIL FROM:<a@example.com> HOLDUNTIL=2026-11-30T22:05:32Z
        S: 501 5.5.4 Held too long; the limit is 2026-11-30T22:05:31Z
        C: MAIL FROM:<a@example.com> HOLDUNTIL=2026-11-30T22:05:31Z
        S: 250 2.1.0",
    );
}
