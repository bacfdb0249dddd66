//! The command line that both binaries share.

pub mod check;
pub mod credential;
