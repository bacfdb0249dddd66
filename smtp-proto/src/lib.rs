//! SMTP without IO: wire types, and the server and the client of a connection as state machines.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod address;
pub mod client;
pub mod code;
pub mod domain;
pub mod dot;
pub mod extension;
pub mod param;
pub mod reply;
pub mod server;
mod time_text;
mod xtext;

pub use address::{AddressError, ForwardPath, Mailbox, ReversePath};
pub use code::{Class, Code, EnhancedCode, Severity};
pub use domain::{AddressLiteral, Domain, DomainError, Host, HostError};
pub use extension::{Extension, Extensions, Mechanism, Mechanisms};
pub use param::{
    AuthParam, BodyType, ByMode, DeliverBy, EnvId, Hold, MailParams, Notify, Occasion, Orcpt,
    ParamError, Priority, RcptParams, Ret,
};
pub use reply::{Reply, ReplyError};
