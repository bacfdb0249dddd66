//! Which domain of ours speaks for the authors of a message: in its signatures, and in its return path.
//!
//! RFC 7489 §3.1: what receivers authenticate must be aligned with the domain of From.

use std::sync::Arc;

use smtp_proto::{Domain, Mailbox};

use super::Unsigned;
use crate::config::{Config, KeyState, ReturnPathState, SigningDomain, a_labels, is_or_is_under};
use crate::inbound::body::Author;

/// The domain that signs for all authors: theirs, or the nearest above with keys that sign.
pub(super) fn signer(
    domains: &[Arc<SigningDomain>],
    from: &Author,
) -> Result<Arc<SigningDomain>, Unsigned> {
    if let Some(found) = covering(domains, from, SigningDomain::has_keys)? {
        return Ok(Arc::clone(found));
    }
    let asked = |domain: &SigningDomain| !domain.keys.is_empty();
    if !domains.iter().any(|domain| asked(domain)) {
        return Err(Unsigned::NotConfigured);
    }
    let pending = |domain: &SigningDomain| {
        let mut keys = domain.keys.iter();
        keys.any(|key| key.state == KeyState::Pending)
    };
    Err(match covering(domains, from, pending)? {
        Some(domain) => Unsigned::NotPublished(a_labels(&domain.name)),
        None => first_domain(from).map_or(Unsigned::NoAuthor, Unsigned::NoKeys),
    })
}

impl Config {
    /// The domain of the return path of mail by these authors; none for the sender's own address.
    #[must_use]
    pub fn return_path_of(&self, from: &Author) -> Option<Domain> {
        let active = |domain: &SigningDomain| domain.active_return_path().is_some();
        let found = covering(&self.domains, from, active).ok()??;
        found.active_return_path().cloned()
    }

    /// Whether some domain sends from this return path now.
    #[must_use]
    pub fn uses_return_path(&self, path: &Domain) -> bool {
        let mut active = self.domains.iter().filter_map(|d| d.active_return_path());
        active.any(|known| known == path)
    }
}

impl SigningDomain {
    fn active_return_path(&self) -> Option<&Domain> {
        let path = self.return_path.as_ref()?;
        (path.state == ReturnPathState::Active).then_some(&path.domain)
    }
}

/// The one domain that is able and is that of every author, or the nearest above it. None if there is
/// none for some author.
fn covering<'d>(
    domains: &'d [Arc<SigningDomain>],
    from: &Author,
    able: impl Fn(&SigningDomain) -> bool,
) -> Result<Option<&'d Arc<SigningDomain>>, Unsigned> {
    let Author::Mailboxes(authors) = from else {
        // Nobody asked for signatures: then there is nothing to be said of the author.
        let any = domains.iter().any(|domain| able(domain));
        return if any {
            Err(Unsigned::NoAuthor)
        } else {
            Ok(None)
        };
    };
    let of = |author: &Mailbox| {
        let name = author.domain()?;
        domains
            .iter()
            .filter(|domain| able(domain) && is_or_is_under(name, &domain.name))
            .max_by_key(|domain| domain.name.as_str().len())
    };
    let mut found = authors.iter().map(of);
    let first = found.next().flatten();
    if found.any(|other| other != first) {
        return Err(Unsigned::NoAuthor);
    }
    Ok(first)
}

fn first_domain(from: &Author) -> Option<String> {
    match from {
        Author::Mailboxes(authors) => authors.first()?.domain().map(a_labels),
        Author::Missing | Author::Repeated | Author::Malformed => None,
    }
}
