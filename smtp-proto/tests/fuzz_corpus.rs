//! Replays the fuzz targets' committed corpus, and cuts and corruptions of it, with a stable compiler.

// The targets stand outside the workspace; what they check is shared by path.
#[allow(unreachable_pub)]
#[path = "../../fuzz/src/calls.rs"]
mod calls;
#[allow(unreachable_pub)]
#[path = "../../fuzz/src/codec.rs"]
mod codec;
#[allow(unreachable_pub)]
#[path = "../../fuzz/src/session.rs"]
mod session;
#[allow(unreachable_pub)]
#[path = "../../fuzz/src/types.rs"]
mod types;
#[allow(unreachable_pub)]
#[path = "../../fuzz/src/wire.rs"]
mod wire;

use std::path::Path;

/// Runs a check on every input of the corpus; on the seeds that were written by hand also cut short,
/// and with one byte changed.
fn replay(target: &str, check: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target);
    let mut seeds = 0;
    for entry in std::fs::read_dir(corpus).expect("the corpus is committed") {
        let path = entry.expect("an entry").path();
        if is_local(&path) {
            continue;
        }
        let is_minimised = name_of(&path).starts_with(b"min-");
        let mut seed = std::fs::read(path).expect("a file");
        check(&seed);
        seeds += 1;
        if is_minimised {
            continue;
        }
        for at in 0..seed.len().min(1000) {
            check(&seed[..at]);
            for other in [0, b'\r', b'\n', b'.', b'5', 0xff] {
                let byte = std::mem::replace(&mut seed[at], other);
                check(&seed);
                seed[at] = byte;
            }
        }
    }
    assert!(seeds > 0, "an empty corpus proves nothing");
}

/// Whether it is what a run of the fuzzer left here, under the hash of its content.
fn is_local(path: &Path) -> bool {
    let name = name_of(path);
    name.len() == 40 && name.iter().all(u8::is_ascii_hexdigit)
}

fn name_of(path: &Path) -> &[u8] {
    path.file_name().unwrap_or_default().as_encoded_bytes()
}

#[test]
fn server_bytes() {
    replay("server_bytes", wire::server_bytes);
}

#[test]
fn client_bytes() {
    replay("client_bytes", wire::client_bytes);
}

#[test]
fn address_roundtrip() {
    replay("address_roundtrip", wire::address_roundtrip);
}

#[test]
fn wire_types() {
    replay("wire_types", types::wire_types);
}

#[test]
fn body_codec() {
    replay("body_codec", codec::body_codec);
}

#[test]
fn session() {
    replay("session", |data| {
        session::session(data);
    });
}

#[test]
fn client_calls() {
    replay("client_calls", |data| {
        calls::client_calls(data);
    });
}
