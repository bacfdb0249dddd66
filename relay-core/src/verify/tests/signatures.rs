//! Signatures that say nothing, however valid.

use super::*;

/// A message with one signature of our key, whose field is made of these tags.
fn signed_with(tags: &str, message: &str, key: &Key) -> Vec<u8> {
    use base64::Engine as _;
    let field = format!("DKIM-Signature: {tags}; b=\r\n");
    let header = Header::new([field.as_bytes(), message.as_bytes()].concat());
    let names: Vec<String> = tags
        .split(';')
        .find_map(|tag| tag.trim().strip_prefix("h="))
        .unwrap_or_default()
        .split(':')
        .map(str::to_owned)
        .collect();
    let mut data = Vec::new();
    header.selected(&names, Form::Relaxed, &mut data);
    header.unsigned(0, Form::Relaxed, &mut data);
    let signature = base64::engine::general_purpose::STANDARD.encode(key.sign(&data).unwrap());
    format!("DKIM-Signature: {tags}; b={signature}\r\n{message}").into()
}

/// DKIM-03 and the rest of RFC 6376 §6.1: a signature that is valid and says nothing.
#[test]
fn valid_signatures_that_do_not_pass() {
    use DkimResult::{Fail, Pass, PermError, Policy};
    let message = "From: user@a.example\r\nSubject: x\r\n\r\nHello.\r\n";
    let hash = "bh=yZQq1c8wjBl0fZ4Wc/oraMCAG1mZJv5v/hlvyFy+t6A=";
    let key = key(&rcgen::PKCS_ED25519);
    let record = key.record();
    let zone = |record: &str| Zone::new().txt("s._domainkey.a.example", &[record]);
    let tags = |more: &str| {
        format!("v=1; a=ed25519-sha256; c=relaxed/relaxed; d=a.example; s=s; {hash}; {more}")
    };
    let own = zone(&record);
    for (more, result) in [
        ("h=from:subject", Pass),
        ("h=from:subject; l=8", Pass),
        ("h=from:subject; x=1795471532", Pass),
        ("h=from; q=dns/txt:other", Pass),
        ("h=from; i=user@sub.a.example", Pass),
        ("h=from; unknown=1", Pass),
        ("h=from:subject; l=0", Policy),
        ("h=from:subject; l=7", Policy),
        ("h=from:subject; l=9", Fail),
        ("h=from:subject; x=1795471530", Fail),
        ("h=from; t=2; x=1", PermError),
        ("h=subject", PermError),
        ("h=from; q=http", PermError),
        ("h=from; i=user@b.example", PermError),
        ("h=from; i=user@xa.example", PermError),
        ("h=from; h=from", PermError),
        ("h=from; l=-1", PermError),
    ] {
        let signed = signed_with(&tags(more), message, &key);
        assert_eq!(dkim(&signed, &own), [result], "{more}");
    }
    let plain = signed_with(&tags("h=from:subject"), message, &key);
    let p = record.rsplit("p=").next().unwrap();
    for (record, result) in [
        (format!("p={p}"), PermError),
        (format!("k=ed25519; p={p}; t=y"), Pass),
        (format!("k=ed25519; p={p}; t=y:s"), Pass),
        (format!("v=DKIM1; k=ed25519; p={p}; h=sha1"), PermError),
        (format!("v=DKIM1; k=ed25519; p={p}; h=sha1:sha256"), Pass),
        (format!("v=DKIM1; k=ed25519; p={p}; s=other"), PermError),
        (format!("k=ed25519; p={p}; v=DKIM1"), PermError),
        (format!("v=DKIM2; k=ed25519; p={p}"), PermError),
        // DKIM-04
        ("v=DKIM1; k=ed25519; p=".into(), PermError),
        ("v=DKIM1; k=ed25519; p=AAAA".into(), PermError),
        ("v=DKIM1; k=rsa; p=AAAA".into(), PermError),
        ("v=DKIM1; k=ed25519; p=%%%".into(), PermError),
        ("=;=;;;p".into(), PermError),
        ("; ; ;".into(), PermError),
    ] {
        assert_eq!(dkim(&plain, &zone(&record)), [result], "{record}");
    }
    let strict = zone(&format!("{record}; t=s"));
    let under = signed_with(&tags("h=from; i=user@sub.a.example"), message, &key);
    assert_eq!(dkim(&under, &strict), [PermError]);
    let failing = Zone::new().failing("s._domainkey.a.example", Failure::ServerFailure);
    assert_eq!(dkim(&plain, &failing), [DkimResult::TempError]);
    assert_eq!(dkim(&plain, &Zone::new()), [PermError]);
    for wrong in [
        "v=2; a=ed25519-sha256",
        "v=1; a=rsa-sha1",
        "v=1; a=ed448-sha512",
    ] {
        let tags = tags("h=from").replace("v=1; a=ed25519-sha256", wrong);
        assert_eq!(
            dkim(&signed_with(&tags, message, &key), &own),
            [PermError],
            "{wrong}"
        );
    }
    // DKIM-04: a selector that is none.
    for selector in ["s\0", "s s", "s..s", "", "../s"] {
        let tags = tags("h=from").replace("s=s;", &format!("s={selector};"));
        let text = String::from_utf8(signed_with(&tags, message, &key)).unwrap();
        let header = Header::new(text.replace("\r\n\r\n", "\r\n").into());
        assert!(
            dkim::candidates(&header)[0].signature().is_none(),
            "{selector:?}"
        );
    }
}

#[test]
fn a_weak_key_is_no_pass() {
    // 512 bits: DER of a modulus of 64 octets and the exponent 65537.
    let mut der = vec![0x30, 0x48, 2, 0x41, 0, 0xc1];
    der.extend([0x55; 63]);
    der.extend([2, 3, 1, 0, 1]);
    let checked = crypto::check(crypto::Algorithm::Rsa, &der, b"x", &[0; 64]);
    assert_eq!(checked, crypto::Checked::WeakKey(512));
}

#[test]
fn only_so_many_signatures_are_looked_at() {
    let message = wire(RFC_8463);
    let field = &RFC_8463[..RFC_8463.find("From:").unwrap()];
    let many = [wire(field).repeat(50), message].concat();
    assert_eq!(dkim(&many, &football()).len(), SIGNATURES_MAX);
}
