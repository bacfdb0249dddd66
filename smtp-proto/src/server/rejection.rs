//! A refusal: a reply that can be nothing but one.

use core::fmt;

use crate::code::{Class, Code, EnhancedCode, Severity};

/// A 4yz or 5yz reply code with an enhanced code of the same class: a success cannot be made one,
/// and the two cannot contradict each other. RFC 5321 §4.2.1, RFC 2034 §4.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rejection {
    code: Code,
    enhanced: EnhancedCode,
}

impl Rejection {
    /// 421 4.3.2: the server is shutting down.
    pub const SHUTTING_DOWN: Self = Self::transient(421, 3, 2);
    /// 421 4.4.2: the client was silent for too long.
    pub const TIMED_OUT: Self = Self::transient(421, 4, 2);
    /// 421 4.7.0: too many connections or too many errors.
    pub const GO_AWAY: Self = Self::transient(421, 7, 0);
    /// 450 4.7.1: over a rate.
    pub const RATE: Self = Self::transient(450, 7, 1);
    /// 451 4.3.0: a failure of ours.
    pub const LOCAL_ERROR: Self = Self::transient(451, 3, 0);
    /// 452 4.3.1: no room.
    pub const STORAGE_FULL: Self = Self::transient(452, 3, 1);
    /// 452 4.5.3: too many recipients.
    pub const TOO_MANY_RECIPIENTS: Self = Self::transient(452, 5, 3);
    /// 454 4.7.0: TLS or authentication does not work now.
    pub const SECURITY_UNAVAILABLE: Self = Self::transient(454, 7, 0);
    /// 530 5.7.0: authenticate first.
    pub const AUTH_REQUIRED: Self = Self::permanent(530, 7, 0);
    /// 535 5.7.8: wrong credentials.
    pub const WRONG_CREDENTIALS: Self = Self::permanent(535, 7, 8);
    /// 550 5.1.1: no such mailbox.
    pub const NO_SUCH_MAILBOX: Self = Self::permanent(550, 1, 1);
    /// 550 5.6.0: the message is not well formed.
    pub const BAD_MESSAGE: Self = Self::permanent(550, 6, 0);
    /// 550 5.7.1: policy.
    pub const POLICY: Self = Self::permanent(550, 7, 1);
    /// 552 5.3.4: the message is too large.
    pub const TOO_LARGE: Self = Self::permanent(552, 3, 4);
    /// 553 5.7.1: this sender is not allowed.
    pub const SENDER_NOT_ALLOWED: Self = Self::permanent(553, 7, 1);
    /// 554 5.4.6: a mail loop.
    pub const LOOP: Self = Self::permanent(554, 4, 6);
    /// 554 5.7.1: relaying denied.
    pub const RELAY_DENIED: Self = Self::permanent(554, 7, 1);

    /// From codes that come from elsewhere; `None` unless both refuse in the same class.
    #[must_use]
    pub const fn new(code: Code, enhanced: EnhancedCode) -> Option<Self> {
        match code.severity() {
            Severity::Transient | Severity::Permanent if enhanced.class().fits(code.severity()) => {
                Some(Self { code, enhanced })
            }
            Severity::Success
            | Severity::Intermediate
            | Severity::Transient
            | Severity::Permanent => None,
        }
    }

    /// `code 4.subject.detail`, for codes that are known when the program is built.
    ///
    /// # Panics
    /// If `code` is not 400 to 499, which in a `const` fails the build.
    #[must_use]
    pub const fn transient(code: u16, subject: u16, detail: u16) -> Self {
        Self::constant(code, Class::Transient, subject, detail)
    }

    /// `code 5.subject.detail`, for codes that are known when the program is built.
    ///
    /// # Panics
    /// If `code` is not 500 to 599, which in a `const` fails the build.
    #[must_use]
    pub const fn permanent(code: u16, subject: u16, detail: u16) -> Self {
        Self::constant(code, Class::Permanent, subject, detail)
    }

    const fn constant(code: u16, class: Class, subject: u16, detail: u16) -> Self {
        let Some(code) = Code::new(code) else {
            panic!("RFC 5321 §4.2: no such reply code")
        };
        match Self::new(code, EnhancedCode::constant(class, subject, detail)) {
            Some(rejection) => rejection,
            None => panic!("RFC 2034 §4: the enhanced code is of another class"),
        }
    }

    /// The reply code, 400 to 599.
    #[must_use]
    pub const fn code(self) -> Code {
        self.code
    }

    /// The enhanced code, of the same class.
    #[must_use]
    pub const fn enhanced(self) -> EnhancedCode {
        self.enhanced
    }

    /// Whether the client may try again later.
    #[must_use]
    pub const fn is_transient(self) -> bool {
        matches!(self.code.severity(), Severity::Transient)
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.enhanced)
    }
}

impl fmt::Debug for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_refusals_of_one_class_can_be_made() {
        for (code, enhanced, made) in [
            (450, "4.7.1", true),
            (550, "5.1.1", true),
            (250, "2.0.0", false),
            (354, "2.0.0", false),
            (450, "5.7.1", false),
            (550, "4.1.1", false),
            (550, "2.1.1", false),
        ] {
            let code = Code::new(code).unwrap();
            let rejection = Rejection::new(code, EnhancedCode::parse(enhanced).unwrap());
            assert_eq!(rejection.is_some(), made, "{code} {enhanced}");
        }
    }
}
