//! Events as one short line each, for people.

use std::fmt;

use super::{Attempt, DeliveryEvent, EventKind};

/// Recipients that a line names; the JSON form has all.
const NAMED_MAX: usize = 3;

/// The stages at which whether there is TLS is settled.
const SENDING: [&str; 5] = ["mail", "rcpt", "data", "body", "dot"];

impl fmt::Display for DeliveryEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.id)?;
        match &self.kind {
            EventKind::Accepted {
                from,
                recipients,
                to,
                size,
                credential,
                peer,
                about,
                dkim,
            } => {
                write!(f, "accepted from=<{from}>")?;
                names(f, to)?;
                write!(f, " recipients={recipients} size={size}")?;
                optional(f, " by=", credential.as_ref())?;
                optional(f, " peer=", peer.as_ref())?;
                optional(f, " about=", about.as_ref())?;
                match dkim {
                    Some(dkim) => write!(f, " dkim=({dkim})"),
                    None => Ok(()),
                }
            }
            EventKind::Delivered(attempt) => line(f, "delivered", attempt),
            EventKind::Deferred {
                attempt,
                next,
                in_doubt,
            } => {
                line(f, "deferred", attempt)?;
                match next {
                    Some(next) => write!(f, " next={next}")?,
                    None => f.write_str(" held")?,
                }
                f.write_str(if *in_doubt {
                    " (it may have been delivered)"
                } else {
                    ""
                })
            }
            EventKind::Bounced(attempt) => line(f, "bounced", attempt),
            EventKind::Expired(attempt) => line(f, "expired", attempt),
            EventKind::Changed { change, recipients } => {
                f.write_str(change)?;
                names(f, recipients)
            }
            EventKind::Preflight { findings } => {
                f.write_str("preflight")?;
                for (n, finding) in findings.iter().enumerate() {
                    write!(f, "{} {finding}", if n == 0 { "" } else { " |" })?;
                }
                Ok(())
            }
            EventKind::NotReported { why } => write!(f, "not-reported: {why}"),
            EventKind::Quarantined { why, name } => write!(
                f,
                "quarantined: it is damaged and will not be delivered: {why}; see `queue quarantine show {name}`"
            ),
        }
    }
}

fn line(f: &mut fmt::Formatter<'_>, what: &str, attempt: &Attempt) -> fmt::Result {
    let Attempt {
        recipients,
        lane,
        attempt,
        reason,
        evidence,
    } = attempt;
    f.write_str(what)?;
    names(f, recipients)?;
    write!(f, " lane={lane} attempt={attempt}")?;
    optional(f, " host=", evidence.host.as_ref())?;
    optional(f, " address=", evidence.address.as_ref())?;
    optional(f, " return-path=", evidence.return_path.as_ref())?;
    match &evidence.tls {
        Some(tls) => {
            write!(f, " tls={tls}")?;
            optional(f, " certificate=", evidence.certificate.as_ref())?;
        }
        None if evidence.address.is_some() && SENDING.contains(&reason.stage.as_str()) => {
            f.write_str(" tls=none")?;
        }
        None => {}
    }
    optional(f, " tls-policy=", evidence.tls_policy.as_ref())?;
    optional(f, " tls-failure=", evidence.tls_failure.as_ref())?;
    optional(f, " mta-sts=", evidence.mta_sts.as_ref())?;
    write!(f, " rule={} stage={}: {reason}", reason.rule, reason.stage)?;
    for (n, before) in evidence.before.iter().enumerate() {
        write!(f, "{}{before}", if n == 0 { " before=" } else { "; " })?;
    }
    Ok(())
}

fn names(f: &mut fmt::Formatter<'_>, recipients: &[String]) -> fmt::Result {
    for (n, recipient) in recipients.iter().take(NAMED_MAX).enumerate() {
        write!(f, "{}<{recipient}>", if n == 0 { " to=" } else { "," })?;
    }
    match recipients.len().saturating_sub(NAMED_MAX) {
        0 => Ok(()),
        more => write!(f, " and {more} more"),
    }
}

fn optional(
    f: &mut fmt::Formatter<'_>,
    label: &str,
    value: Option<&impl fmt::Display>,
) -> fmt::Result {
    value.map_or(Ok(()), |value| write!(f, "{label}{value}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{name_recipients, rfc3339};
    use crate::id::MessageId;
    use crate::outbound::{Evidence, Reason, TlsFailureKind};
    use crate::time::UnixTime;

    fn attempt() -> Attempt {
        Attempt {
            recipients: (0..5).map(|n| format!("{n}@example.com")).collect(),
            lane: "example.com".into(),
            attempt: 2,
            reason: Reason {
                stage: "rcpt".into(),
                code: Some(450),
                status: "4.2.0".into(),
                text: "Greylisted".into(),
                rule: "rcpt-4xx".into(),
            },
            evidence: Evidence {
                host: Some("mx.example.com".into()),
                address: Some("192.0.2.1:25".parse().unwrap()),
                before: vec!["mx1.example.com: refused".into()],
                ..Evidence::default()
            },
        }
    }

    fn event(kind: EventKind) -> DeliveryEvent {
        DeliveryEvent::new(
            UnixTime::from_secs(1_718_824_965),
            MessageId::from_u64(1),
            kind,
        )
    }

    #[test]
    fn times_are_rfc_3339_whatever_the_clock_says() {
        assert_eq!(
            rfc3339(UnixTime::from_millis(1_718_824_965_120)),
            "2024-06-19T19:22:45.120Z"
        );
        assert_eq!(
            rfc3339(UnixTime::from_millis(0)),
            "1970-01-01T00:00:00.000Z"
        );
        assert!(rfc3339(UnixTime::from_millis(u64::MAX)).starts_with("9999-12-"));
    }

    #[test]
    fn a_line_names_what_decided() {
        let next = Some("2024-06-19T19:27:45.120Z".to_owned());
        let deferred = EventKind::Deferred {
            attempt: attempt(),
            next,
            in_doubt: true,
        };
        assert_eq!(
            event(deferred).to_string(),
            "0000000000001 deferred to=<0@example.com>,<1@example.com>,<2@example.com> and 2 more \
             lane=example.com attempt=2 host=mx.example.com address=192.0.2.1:25 tls=none rule=rcpt-4xx stage=rcpt: 450 \
             4.2.0 Greylisted before=mx1.example.com: refused next=2024-06-19T19:27:45.120Z (it may have been delivered)"
        );
    }

    #[test]
    fn a_status_is_said_once() {
        let mut reason = attempt().reason;
        for text in ["Greylisted", "4.2.0 Greylisted"] {
            reason.text = text.into();
            assert_eq!(reason.to_string(), "450 4.2.0 Greylisted");
        }
        reason.code = None;
        reason.text = "4.2.01 is not the status".into();
        assert_eq!(reason.to_string(), "4.2.0 4.2.01 is not the status");
    }

    #[test]
    fn a_line_says_which_tls() {
        let mut attempt = attempt();
        attempt.evidence.tls = Some("TLSv1.3".into());
        attempt.evidence.certificate = Some("expired".into());
        attempt.evidence.tls_policy = Some("require (dane)".into());
        attempt.evidence.tls_failure = Some(TlsFailureKind::TlsaInvalid);
        let line = event(EventKind::Delivered(attempt)).to_string();
        let said =
            " tls=TLSv1.3 certificate=expired tls-policy=require (dane) tls-failure=tlsa-invalid ";
        assert!(line.contains(said), "{line}");
        // By whichever name: in a line, in JSON.
        let kind = TlsFailureKind::StarttlsNotSupported;
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.to_string());
    }

    #[test]
    fn a_story_told_without_the_message_gets_its_addresses() {
        let accepted = event(EventKind::Accepted {
            from: "s@example.net".into(),
            recipients: 2,
            to: vec!["a@one.example".into(), "b@Two.Example".into()],
            size: 9,
            credential: None,
            peer: None,
            about: None,
            dkim: None,
        });
        let line = accepted.to_string();
        assert!(
            line.contains(" to=<a@one.example>,<b@Two.Example> "),
            "{line}"
        );
        let mut attempt = attempt();
        attempt.recipients = [
            "#1@two.example",
            "#0@two.example",
            "#7@x.example",
            "c@x.example",
        ]
        .map(str::to_owned)
        .to_vec();
        let mut story = [accepted, event(EventKind::Bounced(attempt))];
        name_recipients(&mut story);
        let EventKind::Bounced(attempt) = &story[1].kind else {
            panic!("{story:?}");
        };
        let named = [
            "b@Two.Example",
            "#0@two.example",
            "#7@x.example",
            "c@x.example",
        ];
        assert_eq!(attempt.recipients, named);
    }

    #[test]
    fn an_event_reads_back_from_json() {
        for kind in [
            EventKind::Bounced(attempt()),
            EventKind::Deferred {
                attempt: attempt(),
                next: Some("x".into()),
                in_doubt: false,
            },
            EventKind::NotReported {
                why: "null sender".into(),
            },
            EventKind::Quarantined {
                why: "its checksum is wrong".into(),
                name: "00000000-00001000".into(),
            },
            EventKind::Preflight {
                findings: vec![crate::inbound::preflight::Finding {
                    rule: "date".into(),
                    what: "x".into(),
                    fix: "y".into(),
                }],
            },
            EventKind::Changed {
                change: "held".into(),
                recipients: Vec::new(),
            },
        ] {
            let event = event(kind);
            let json = serde_json::to_string(&event).unwrap();
            assert!(!json.contains('\n'));
            assert_eq!(
                serde_json::from_str::<DeliveryEvent>(&json).unwrap(),
                event,
                "{json}"
            );
        }
    }
}
