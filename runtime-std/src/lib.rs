//! The SMTP relay on blocking threads, and what every runtime shares because it is blocking anyway: the
//! disk, the loader of configuration and certificates, the command line.

pub mod store;
