//! Replays the committed corpus of the fuzz targets of `relay-core`, and cuts and corruptions of it, with
//! a stable compiler. Those of `smtp-proto` are replayed beside it.

// The targets stand outside the workspace; what they check is shared by path.
#[allow(unreachable_pub, missing_docs)]
#[path = "../../fuzz/src/core.rs"]
mod targets;

#[allow(unreachable_pub, missing_docs)]
#[path = "../../fuzz/src/tlsa.rs"]
mod tlsa;

#[allow(unreachable_pub, missing_docs)]
#[path = "../../fuzz/src/published.rs"]
mod published;

#[allow(unreachable_pub, missing_docs)]
#[path = "../../fuzz/src/verify.rs"]
mod verify;

use std::path::Path;

/// Runs a check on every input of the corpus; on the seeds that were written by hand also cut short,
/// and with one byte changed.
fn replay(target: &str, check: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target);
    let mut seeds = 0;
    for entry in std::fs::read_dir(corpus).expect("the corpus is committed") {
        let entry = entry.expect("an entry");
        let mut seed = std::fs::read(entry.path()).expect("a file");
        check(&seed);
        seeds += 1;
        if entry.file_name().as_encoded_bytes().starts_with(b"min-") {
            continue;
        }
        for at in 0..seed.len().min(1000) {
            check(&seed[..at]);
            for other in [0, b'\r', b'\n', b'=', b'5', 0xff] {
                let byte = std::mem::replace(&mut seed[at], other);
                check(&seed);
                seed[at] = byte;
            }
        }
    }
    assert!(seeds > 0, "an empty corpus proves nothing");
}

#[test]
fn config_text() {
    replay("config_text", targets::config_text);
}

#[test]
fn verify() {
    replay("verify", verify::verify);
}

#[test]
fn dns_answer() {
    replay("dns_answer", targets::dns_answer);
}

#[test]
fn tlsa_records() {
    replay("tlsa", tlsa::tlsa);
}

#[test]
fn published() {
    replay("published", published::published);
}

#[test]
fn content() {
    replay("content", targets::content);
}

#[test]
fn store_record() {
    replay("store_record", targets::store_record);
}

#[test]
fn proxy_header() {
    replay("proxy_header", targets::proxy_header);
}
