//! What DMARC makes of what SPF and DKIM found.

use super::*;

fn spf_zone() -> Zone {
    Zone::new().txt("a.example", &["v=spf1 ip4:192.0.2.0/24 -all"])
}

fn dmarc(zone: Zone, from: &str) -> (DmarcResult, Policy) {
    let message = format!("From: <user@{from}>\r\n\r\nHello.\r\n");
    let verdict = verdict(message.as_bytes(), &zone);
    (verdict.dmarc.result, verdict.dmarc.policy)
}

/// SPF passes for a.example; From varies.
#[test]
fn alignment_and_policy() {
    use DmarcResult::{Fail, None, Pass, PermError, TempError};
    use Policy::{Quarantine, Reject};
    let record = |name: &str, text: &str| spf_zone().txt(&format!("_dmarc.{name}"), &[text]);
    for (at, text, from, wanted) in [
        (
            "a.example",
            "v=DMARC1; p=reject",
            "a.example",
            (Pass, Reject),
        ),
        (
            "a.example",
            "v=DMARC1; p=reject",
            "sub.a.example",
            (Pass, Reject),
        ),
        (
            "a.example",
            "v=DMARC1; p=reject; aspf=s",
            "a.example",
            (Pass, Reject),
        ),
        (
            "a.example",
            "v=DMARC1; p=reject; aspf=s",
            "sub.a.example",
            (Fail, Reject),
        ),
        (
            "a.example",
            "v=DMARC1; p=reject; aspf=s; sp=quarantine",
            "sub.a.example",
            (Fail, Quarantine),
        ),
        (
            "b.example",
            "v=DMARC1; p=reject",
            "b.example",
            (Fail, Reject),
        ),
        (
            "b.example",
            "v=DMARC1;p=reject;t=y",
            "b.example",
            (Fail, Quarantine),
        ),
        (
            "b.example",
            "v=DMARC1; p=quarantine; pct=10",
            "b.example",
            (Fail, Policy::None),
        ),
        (
            "b.example",
            "v=DMARC1; p=none; np=reject",
            "no.b.example",
            (Fail, Reject),
        ),
        (
            "b.example",
            "v=DMARC1; p=nonsense; rua=mailto:x@b.example",
            "b.example",
            (Fail, Policy::None),
        ),
        (
            "b.example",
            "v=DMARC1; p=nonsense",
            "b.example",
            (None, Policy::None),
        ),
        (
            "b.example",
            "v=DMARC2; p=reject",
            "b.example",
            (None, Policy::None),
        ),
        (
            "b.example",
            "p=reject; v=DMARC1",
            "b.example",
            (None, Policy::None),
        ),
        // Under one suffix there are two organizations.
        (
            "example",
            "v=DMARC1; p=reject; psd=y",
            "b.example",
            (Fail, Reject),
        ),
        ("example", "v=DMARC1; p=reject", "b.example", (Pass, Reject)),
    ] {
        assert_eq!(
            dmarc(record(at, text), from),
            wanted,
            "{text:?} at {at}, From {from}"
        );
    }
    assert_eq!(dmarc(spf_zone(), "a.example"), (None, Policy::None));
    let twice =
        record("b.example", "v=DMARC1; p=reject").txt("_dmarc.b.example", &["v=DMARC1; p=none"]);
    assert_eq!(dmarc(twice, "b.example").0, None);
    let failing = spf_zone().failing("_dmarc.b.example", Failure::ServerFailure);
    assert_eq!(dmarc(failing, "b.example").0, TempError);
    let no_spf = Zone::new()
        .failing("a.example", Failure::ServerFailure)
        .txt("_dmarc.b.example", &["v=DMARC1; p=reject"]);
    assert_eq!(
        dmarc(no_spf, "b.example").0,
        TempError,
        "it might have passed"
    );
    let two = "From: <x@a.example>, <y@b.example>\r\nSender: <x@a.example>\r\n\r\n";
    assert_eq!(verdict(two.as_bytes(), &spf_zone()).dmarc.result, PermError);
}

#[test]
fn a_walk_asks_for_eight_names_at_most() {
    let name = "a.b.c.d.e.f.g.h.i.j.k.l.m.example";
    let known = known::Known::default();
    let identifiers = dmarc::Identifiers {
        spf: Option::None,
        dkim: Vec::new(),
        incomplete: false,
    };
    let mut known = known;
    let mut asked = Vec::new();
    let verdict = loop {
        match dmarc::judge(Some(name), &identifiers, &known) {
            Ok(verdict) => break verdict,
            Err(Unknown(question)) => {
                asked.push(question.clone());
                known.insert(question, Err(DnsFailure::NoSuchDomain));
            }
        }
    };
    assert_eq!(verdict.result, DmarcResult::None);
    let txt = |name: &str| Question::Txt(format!("_dmarc.{name}"));
    assert_eq!(asked.len(), 8);
    assert_eq!(asked[..2], [txt(name), txt("h.i.j.k.l.m.example")]);
    assert_eq!(asked[7], txt("example"));
}
