//! Chains of every shape against records of every shape.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::*;

const NOW: UnixTime = UnixTime::from_secs(1_780_000_000);
const HOST: &str = "mx.example.net";

/// A root, a second authority under it, and a server's certificate under that one.
struct Pki {
    root: CertificateDer<'static>,
    middle: CertificateDer<'static>,
    leaf: CertificateDer<'static>,
}

impl Pki {
    fn new(name: &str, expired: bool) -> Self {
        let root = authority("root");
        let root = CertifiedIssuer::self_signed(root, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let middle = CertifiedIssuer::signed_by(authority("middle"), key, &root).unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        if expired {
            params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        }
        let leaf = params
            .signed_by(&KeyPair::generate().unwrap(), &middle)
            .unwrap();
        Self {
            root: root.der().clone(),
            middle: middle.der().clone(),
            leaf: leaf.der().clone(),
        }
    }

    fn good() -> Self {
        Self::new(HOST, false)
    }

    fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.leaf.clone(), self.middle.clone()]
    }

    fn whole_chain(&self) -> Vec<CertificateDer<'static>> {
        [self.chain(), vec![self.root.clone()]].concat()
    }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

fn key_of(cert: &CertificateDer<'_>) -> Vec<u8> {
    let anchor = webpki::anchor_from_trusted_cert(cert).unwrap();
    webpki::spki_for_anchor(&anchor).to_vec()
}

fn digest(matching: u8, data: &[u8]) -> Vec<u8> {
    match matching {
        1 => Sha256::digest(data).to_vec(),
        2 => Sha512::digest(data).to_vec(),
        _ => data.to_vec(),
    }
}

/// The record with these fields for a certificate.
fn record(usage: u8, selector: u8, matching: u8, cert: &CertificateDer<'_>) -> Tlsa {
    let data = match selector {
        0 => cert.to_vec(),
        _ => key_of(cert),
    };
    Tlsa {
        usage,
        selector,
        matching,
        data: digest(matching, &data),
    }
}

/// The verdict by these records; none if none of them can be used.
fn judge(records: &[Tlsa], chain: &[CertificateDer<'_>], names: &[&str]) -> Option<Verdict> {
    let tls = ClientTls::new(Vec::new()).unwrap();
    let usable = Associations::usable(records)?;
    Some(usable.judge(&tls, chain, names, NOW))
}

fn flaw_of(records: &[Tlsa], chain: &[CertificateDer<'_>]) -> Flaw {
    match judge(records, chain, &[HOST]) {
        Some(Verdict::NotVerified(flaw)) => flaw,
        other => panic!("{other:?}"),
    }
}

/// Selectors and matching types that there are.
const FORMS: [(u8, u8); 6] = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)];

#[test]
fn usage_3_is_about_the_leaf_and_nothing_else() {
    // RFC 7672 §3.1.1: another name, and a time that is over, do not matter.
    for pki in [Pki::good(), Pki::new("other.example", true)] {
        for (selector, matching) in FORMS {
            let own = record(3, selector, matching, &pki.leaf);
            for chain in [pki.chain(), vec![pki.leaf.clone()]] {
                let verdict = judge(std::slice::from_ref(&own), &chain, &[HOST]);
                assert_eq!(verdict, Some(Verdict::Verified), "3 {selector} {matching}");
            }
            for other in [&pki.middle, &pki.root, &Pki::good().leaf] {
                let record = record(3, selector, matching, other);
                assert_eq!(flaw_of(&[record], &pki.whole_chain()).kind, FlawKind::Other);
            }
        }
    }
}

#[test]
fn usage_2_is_a_root_that_the_server_sends_or_that_is_in_the_record() {
    let pki = Pki::good();
    for (selector, matching) in FORMS {
        let of = |cert: &CertificateDer<'_>| vec![record(2, selector, matching, cert)];
        let judge = |records: &[Tlsa], chain: &[_]| judge(records, chain, &[HOST]).unwrap();
        assert!(judge(&of(&pki.middle), &pki.chain()).is_verified());
        assert!(judge(&of(&pki.root), &pki.whole_chain()).is_verified());
        // A digest of what is not sent says nothing; a root in the record is as good as sent.
        let whole = matching == 0;
        let unsent = judge(&of(&pki.root), &pki.chain());
        assert_eq!(unsent.is_verified(), whole, "2 {selector} {matching}");
        let unsent = judge(&of(&pki.middle), std::slice::from_ref(&pki.leaf));
        assert_eq!(unsent.is_verified(), whole, "2 {selector} {matching}");
        // The leaf is nobody's authority, and another's root is not this one's.
        assert!(!judge(&of(&pki.leaf), &pki.whole_chain()).is_verified());
        assert!(!judge(&of(&Pki::good().root), &pki.whole_chain()).is_verified());
        // A root that is sent and signed nothing of this.
        let other = Pki::good();
        let mixed = [pki.leaf.clone(), other.middle.clone()];
        assert!(!judge(&of(&other.middle), &mixed).is_verified());
    }
}

#[test]
fn usage_2_needs_the_name_and_the_time() {
    let other = Pki::new("other.example", false);
    let flaw = flaw_of(&[record(2, 0, 1, &other.middle)], &other.chain());
    assert_eq!(flaw.kind, FlawKind::Name);
    assert!(flaw.why.contains(HOST), "{flaw:?}");
    let old = Pki::new(HOST, true);
    for (selector, matching) in FORMS {
        let flaw = flaw_of(&[record(2, selector, matching, &old.middle)], &old.chain());
        assert_eq!(flaw.kind, FlawKind::Time);
    }
    // RFC 7672 §3.2.2: any of the names that the host may be called by.
    let names = [HOST, "other.example"];
    let records = [record(2, 1, 1, &other.middle)];
    assert!(
        judge(&records, &other.chain(), &names)
            .unwrap()
            .is_verified()
    );
    let wild = Pki::new("*.example.net", false);
    let records = [record(2, 1, 1, &wild.middle)];
    assert!(
        judge(&records, &wild.chain(), &[HOST])
            .unwrap()
            .is_verified()
    );
    assert!(
        !judge(&records, &wild.chain(), &["a.mx.example.net"])
            .unwrap()
            .is_verified()
    );
    assert!(
        !judge(&records, &wild.chain(), &["", "["])
            .unwrap()
            .is_verified()
    );
}

/// A root of this kind, and a server's certificate with this many authorities in between, in the order of a
/// handshake: the root is last.
fn chain_under(root: CertificateParams, between: usize) -> Vec<CertificateDer<'static>> {
    let mut issuer = CertifiedIssuer::self_signed(root, KeyPair::generate().unwrap()).unwrap();
    let mut chain = vec![issuer.der().clone()];
    for n in 0..between {
        let params = authority(&format!("between {n}"));
        let key = KeyPair::generate().unwrap();
        issuer = CertifiedIssuer::signed_by(params, key, &issuer).unwrap();
        chain.insert(0, issuer.der().clone());
    }
    let params = CertificateParams::new(vec![HOST.to_owned()]).unwrap();
    let key = KeyPair::generate().unwrap();
    chain.insert(0, params.signed_by(&key, &issuer).unwrap().der().clone());
    chain
}

#[test]
fn what_a_root_of_usage_2_says_of_itself_counts() {
    let over = |mut root: CertificateParams| {
        root.not_after = rcgen::date_time_ymd(2020, 1, 1);
        root
    };
    let early = |mut root: CertificateParams| {
        root.not_before = rcgen::date_time_ymd(2090, 1, 1);
        root
    };
    let nobody = |mut root: CertificateParams| {
        root.is_ca = IsCa::ExplicitNoCa;
        root
    };
    let short = |mut root: CertificateParams| {
        root.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        root
    };
    for between in [0, 1, 2] {
        for (what, root, flaw) in [
            ("good", authority("root"), None),
            ("over", over(authority("root")), Some(FlawKind::Time)),
            ("early", early(authority("root")), Some(FlawKind::Time)),
            ("nobody", nobody(authority("root")), Some(FlawKind::Trust)),
            (
                "short",
                short(authority("root")),
                (between > 0).then_some(FlawKind::Trust),
            ),
        ] {
            let chain = chain_under(root, between);
            let root = chain.last().unwrap();
            for (selector, matching) in FORMS {
                let records = [record(2, selector, matching, root)];
                let found = match judge(&records, &chain, &[HOST]).unwrap() {
                    Verdict::Verified => None,
                    Verdict::NotVerified(flaw) => {
                        assert!(flaw.why.contains("the authority that"), "{flaw:?}");
                        Some(flaw.kind)
                    }
                };
                assert_eq!(found, flaw, "{what} {between} 2 {selector} {matching}");
                // What is in the record needs not be sent. A bare key has nothing to say of itself.
                if matching == 0 {
                    let sent = &chain[..chain.len() - 1];
                    let verified = judge(&records, sent, &[HOST]).unwrap().is_verified();
                    let bare = selector == 1;
                    assert_eq!(verified, bare || flaw.is_none(), "{what} 2 {selector} 0");
                }
            }
        }
    }
}

#[test]
fn an_authority_whose_certificate_was_renewed_with_the_same_key() {
    let key = KeyPair::generate().unwrap();
    let root = |year| {
        let mut params = authority("root");
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = KeyPair::from_pem(&key.serialize_pem()).unwrap();
        CertifiedIssuer::self_signed(params, key).unwrap()
    };
    let (old, new) = (root(2020), root(2090));
    let params = CertificateParams::new(vec![HOST.to_owned()]).unwrap();
    let leaf = params
        .signed_by(&KeyPair::generate().unwrap(), &new)
        .unwrap();
    let [leaf, old, new] = [leaf.der(), old.der(), new.der()].map(Clone::clone);
    let by_key = [record(2, 1, 1, &new)];
    for chain in [
        vec![leaf.clone(), old.clone(), new.clone()],
        vec![leaf.clone(), new.clone(), old.clone()],
    ] {
        assert!(judge(&by_key, &chain, &[HOST]).unwrap().is_verified());
        let by_cert = |root| judge(&[record(2, 0, 1, root)], &chain, &[HOST]).unwrap();
        assert!(by_cert(&new).is_verified());
        assert!(!by_cert(&old).is_verified());
    }
    assert_eq!(flaw_of(&by_key, &[leaf, old]).kind, FlawKind::Time);
}

#[test]
fn one_record_that_matches_is_enough() {
    let (pki, other) = (Pki::good(), Pki::good());
    let records = [
        record(3, 1, 1, &other.leaf),
        record(2, 0, 1, &other.root),
        record(2, 1, 1, &pki.middle),
    ];
    assert!(
        judge(&records, &pki.chain(), &[HOST])
            .unwrap()
            .is_verified()
    );
    let records = [record(2, 0, 1, &other.root), record(3, 1, 1, &pki.leaf)];
    assert!(
        judge(&records, &pki.chain(), &["x.example"])
            .unwrap()
            .is_verified()
    );
    assert!(!judge(&records, &[], &[HOST]).unwrap().is_verified());
}

/// DANE-03, DANE-04.
#[test]
fn records_that_cannot_be_used() {
    let pki = Pki::good();
    let mut unusable = Vec::new();
    for (selector, matching) in FORMS {
        for usage in [0, 1, 4, 255] {
            unusable.push(record(usage, selector, matching, &pki.leaf));
        }
    }
    for usage in [2, 3] {
        for (selector, matching) in [(2, 1), (9, 1), (255, 1), (0, 3), (1, 9), (1, 255)] {
            unusable.push(Tlsa {
                selector,
                matching,
                ..record(usage, 1, 1, &pki.leaf)
            });
        }
        for (selector, matching) in FORMS {
            let good = record(usage, selector, matching, &pki.leaf);
            let mut lengths = vec![0, 1, good.data.len() - 1];
            if matching != 0 {
                lengths.extend([20, 31, 33, 63, 65]);
            }
            for length in lengths {
                let mut data = good.data.clone();
                data.resize(length, 0);
                unusable.push(Tlsa {
                    data,
                    ..good.clone()
                });
            }
            let mut data = good.data.clone();
            data.push(0);
            unusable.push(Tlsa { data, ..good });
        }
    }
    for one in &unusable {
        assert_eq!(
            Associations::usable(std::slice::from_ref(one)),
            None,
            "{one}"
        );
    }
    assert_eq!(Associations::usable(&unusable), None);
    // Beside one that can be used they count for nothing.
    unusable.push(record(3, 1, 1, &pki.leaf));
    assert!(
        judge(&unusable, &pki.chain(), &[HOST])
            .unwrap()
            .is_verified()
    );
}

/// RFC 7671 §9.
#[test]
fn of_two_digests_the_stronger_counts() {
    let (pki, other) = (Pki::good(), Pki::good());
    let verified = |records: &[Tlsa]| judge(records, &pki.chain(), &[HOST]).unwrap().is_verified();
    let weak = record(3, 1, 1, &pki.leaf);
    assert!(verified(std::slice::from_ref(&weak)));
    // SHA-512 is published and does not match: SHA-256 may be forged by then.
    assert!(!verified(&[weak.clone(), record(3, 1, 2, &other.leaf)]));
    assert!(verified(&[
        record(3, 1, 1, &other.leaf),
        record(3, 1, 2, &pki.leaf)
    ]));
    // One that cannot be used is no rival; neither are those of another usage or selector.
    let short = Tlsa {
        data: vec![7; 63],
        ..record(3, 1, 2, &other.leaf)
    };
    assert!(verified(&[weak.clone(), short]));
    assert!(verified(&[weak.clone(), record(3, 0, 2, &other.leaf)]));
    assert!(verified(&[weak.clone(), record(2, 1, 2, &other.middle)]));
    // A whole key is no digest, and neither outdoes one nor is outdone.
    assert!(verified(&[weak.clone(), record(3, 1, 0, &other.leaf)]));
    assert!(verified(&[
        record(3, 1, 0, &pki.leaf),
        record(3, 1, 2, &other.leaf)
    ]));
}

#[test]
fn der_sequences_are_read_whole() {
    let long = [&[0x30, 0x81, 0x80][..], &[5; 0x80]].concat();
    let longer = [&[0x30, 0x82, 0x01, 0x00][..], &[5; 0x100]].concat();
    for (der, length) in [
        (&[0x30, 0x00][..], Some(0)),
        (&[0x30, 0x01, 0x05], Some(1)),
        (&long, Some(0x80)),
        (&longer, Some(0x100)),
        (&[], None),
        (&[0x30], None),
        (&[0x30, 0x81], None),
        (&[0x30, 0x82, 0x01], None),
        (&[0x30, 0x80, 0, 0], None),
        (&[0x30, 0x02, 0x05], None),
        (&[0x30, 0x01, 0x05, 0x05], None),
        (&[0x31, 0x01, 0x05], None),
    ] {
        assert_eq!(sequence(der).map(<[u8]>::len), length, "{der:?}");
    }
}
