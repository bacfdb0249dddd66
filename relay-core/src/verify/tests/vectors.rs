//! The messages and key records that dkimpy publishes.

use std::path::Path;

use super::*;

/// The vectors of dkimpy are beside the project where it is worked on; nothing of them is copied.
#[expect(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    clippy::print_stdout,
    reason = "a test reads vectors and says where they are missing"
)]
fn vector(name: &str) -> Option<Vec<u8>> {
    let directory = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../shared/vectors/dkimpy/data"
    );
    let text = std::fs::read(Path::new(directory).join(name)).ok();
    if text.is_none() {
        println!("NOT RUN: {directory}/{name} is not there");
    }
    let text: String = text?.into_iter().map(char::from).collect();
    let text = text.replace("\r\n", "\n").replace('\n', "\r\n");
    Some(text.chars().map(|c| c as u32 as u8).collect())
}

/// DKIM-01: verifying. What is signed is compared in `sign`.
#[test]
fn the_vectors_of_dkimpy() {
    use DkimResult::{Fail, Pass, PermError};
    for (message, key, results) in [
        ("rfc6376.signed.msg", None, &[Pass, Pass][..]),
        ("rfc6376.signed.rsa.msg", None, &[Pass]),
        // Its `t=` was taken out after it was signed.
        ("rfc6376.signed.no_t.msg", None, &[Fail]),
        (
            "ed25519test2.msg",
            Some(("sed._domainkey.test.ex", "eximtest.dns")),
            &[Pass],
        ),
        // `d=legitimate.com(.attacker.com`
        (
            "test.message.baddomain",
            Some(("test._domainkey.legitimate.com", "test.txt")),
            &[PermError],
        ),
        // Its key is not in the DNS.
        ("test2.message", None, &[PermError]),
        ("test.message", None, &[]),
    ] {
        let Some(text) = vector(message) else { return };
        let mut zone = football();
        if let Some((name, file)) = key {
            let record = String::from_utf8(vector(file).unwrap()).unwrap();
            zone = with_key(zone, name, record.trim_end());
        }
        assert_eq!(dkim(&text, &zone), results, "{message}");
    }
}

/// Records of keys that dkimpy takes, refuses, and takes in another form.
#[test]
fn the_key_records_of_dkimpy() {
    for (file, usable) in [
        ("test.txt", true),
        ("test2.txt", true),
        ("1024_testkey_wo_markers.pub.txt", true),
        ("1024_testkey_wo_markers.pub.rsa.txt", true),
        ("2048_testkey_wo_markers.pub.txt", true),
        ("2048_testkey_wo_markers.pub.rsa.txt", true),
        ("2048_testkey_PKCS8.key.pub.txt", true),
        ("badversion.txt", false),
        ("badk.txt", false),
        ("test_tlsrpt.txt", false),
    ] {
        let Some(text) = vector(file) else { return };
        let record = signature::KeyRecord::parse(text.trim_ascii());
        assert_eq!(record.is_ok(), usable, "{file}: {record:?}");
        if let Ok(record) = record {
            let checked = crypto::check(record.algorithm, &record.key, b"", &[0; 256]);
            assert_eq!(checked, crypto::Checked::Invalid, "{file}");
        }
    }
}
