//! The SMTP relay on smol and async-io. No tokio anywhere.
//!
//! | module | what it owns |
//! |---|---|
//! | [`relay`] | the relay as tasks: start, submit, reload, shut down |
//! | [`drive`] | the loop that drives any machine as a task |
//! | [`resolve`] | carrying the resolver's datagrams |
//! | [`threads`] | an executor on several threads, for the binary |

pub mod drive;
pub mod relay;
pub mod resolve;
mod serve;
mod tasks;
pub mod threads;

pub use relay::Relay;
