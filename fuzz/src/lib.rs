//! What the fuzz targets check, as functions of bytes.
//!
//! They stand apart from the targets so that a stable compiler can replay the corpus:
//! `smtp-proto/tests/fuzz_corpus.rs` and `tests/tests/fuzz_corpus.rs` include them.

pub mod calls;
pub mod codec;
pub mod core;
pub mod published;
pub mod session;
pub mod tlsa;
pub mod types;
pub mod verify;
pub mod wire;
