//! The server's side of a connection.

mod rejection;

pub use rejection::Rejection;
