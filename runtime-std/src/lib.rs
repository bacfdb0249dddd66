//! The SMTP relay on blocking threads, and what every runtime shares because it is blocking anyway: the
//! disk, the loader of configuration and certificates, the command line.

#[cfg(feature = "cli")]
pub mod cli;
pub mod load;
pub mod store;
