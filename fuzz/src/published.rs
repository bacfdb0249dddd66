//! Checks of what a domain publishes about TLS: `relay_core::sts` and `relay_core::tlsrpt`.

use relay_core::sts::{MAX_AGE_MAX, Mode, Policy, parse, record_id};
use relay_core::tlsrpt::{Rua, check_record, ruas};

/// The texts of TXT records, each up to a NUL; then the text of a policy.
pub fn published(data: &[u8]) {
    let mut texts: Vec<&[u8]> = data.split(|&b| b == 0).collect();
    let policy = texts.pop().unwrap_or_default();
    if let Ok(id) = record_id(texts.iter().copied()) {
        assert!((1..=32).contains(&id.len()), "{id}");
        assert!(id.bytes().all(|b| b.is_ascii_alphanumeric()), "{id}");
    }
    reports(&texts);
    rules(policy);
}

fn reports(texts: &[&[u8]]) {
    let served = ruas(texts.iter().copied());
    assert!(served.len() <= 4);
    for rua in &served {
        let text = rua.to_string();
        assert!(!text.contains(['\r', '\n']), "{text:?}");
        if matches!(rua, Rua::Https { .. }) {
            let record = format!("v=TLSRPTv1; rua={text}");
            let again = ruas([record.as_bytes()]);
            assert_eq!(again, std::slice::from_ref(rua), "{text}");
        }
    }
    if let Ok(named) = check_record(texts.iter().copied()) {
        let mut first: Vec<Rua> = Vec::new();
        for rua in named {
            if first.len() < 4 && !first.contains(&rua) {
                first.push(rua);
            }
        }
        assert_eq!(first, served, "a record without a fault is served as it is");
    }
}

fn rules(text: &[u8]) {
    let Ok(read) = parse(text) else {
        return;
    };
    assert!(read.max_age <= MAX_AGE_MAX);
    assert!(!read.mx.is_empty() || read.mode == Mode::None);
    let mut lines = format!("version: STSv1\nmode: {}\r\n", read.mode);
    for mx in &read.mx {
        lines.push_str(&format!("mx: {mx}\r\n"));
    }
    lines.push_str(&format!("max_age: {}", read.max_age));
    assert_eq!(parse(lines.as_bytes()).as_ref(), Ok(&read), "{lines}");
    let policy = Policy {
        domain: "example.com".into(),
        id: "1".into(),
        mode: read.mode,
        mx: read.mx,
        max_age: read.max_age,
        fetched: 0,
    };
    for mx in &policy.mx {
        match mx.strip_prefix("*.") {
            Some(parent) => {
                assert!(policy.allows(&format!("a.{parent}")));
                let named = policy.mx.iter().any(|other| other == parent);
                let above = parent.split_once('.').is_some_and(|(_, above)| {
                    policy.mx.iter().any(|other| *other == format!("*.{above}"))
                });
                assert_eq!(policy.allows(parent), named || above, "{mx}");
            }
            None => assert!(policy.allows(mx)),
        }
    }
    assert!(!policy.allows("") && !policy.allows("."));
}
