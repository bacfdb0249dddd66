//! Why a command that changes what is kept beside `relay.toml` did nothing.

use std::{fmt, io};

use crate::load::{LoadError, credentials, domains};

/// Why a command did nothing; `C` is why what is kept was not changed.
#[derive(Debug)]
pub enum CommandError<C> {
    /// An argument is wrong: exit code 2.
    Usage(String),
    /// The configuration cannot be used.
    Load(LoadError),
    /// What is kept was not changed.
    Change(C),
    /// The output cannot be written.
    Output(io::Error),
}

impl<C: fmt::Display> fmt::Display for CommandError<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) => f.write_str(text),
            Self::Load(error) => error.fmt(f),
            Self::Change(error) => error.fmt(f),
            Self::Output(error) => write!(f, "the output cannot be written: {error}"),
        }
    }
}

impl<C: fmt::Debug + fmt::Display> std::error::Error for CommandError<C> {}

impl<C> From<LoadError> for CommandError<C> {
    fn from(error: LoadError) -> Self {
        Self::Load(error)
    }
}

impl<C> From<io::Error> for CommandError<C> {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl From<credentials::ChangeError> for CommandError<credentials::ChangeError> {
    fn from(error: credentials::ChangeError) -> Self {
        Self::Change(error)
    }
}

impl From<domains::ChangeError> for CommandError<domains::ChangeError> {
    fn from(error: domains::ChangeError) -> Self {
        Self::Change(error)
    }
}
