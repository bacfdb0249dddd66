//! What is wrong with a configuration, so that the person who wrote it can mend it at once.

use std::fmt;

/// One error: where, what, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, as it was named to us.
    pub file: String,
    /// The line, from 1; none if the error is about the whole file.
    pub line: Option<usize>,
    /// The key with its section, as `listener.tls`; empty for a syntax error.
    pub key: String,
    /// What is wrong.
    pub problem: String,
    /// What is allowed; empty if `problem` says it.
    pub allowed: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.problem)?;
        if !self.allowed.is_empty() {
            write!(f, "; allowed: {}", self.allowed)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
