//! Publication: nothing signs and no return path is used before its records are in the DNS.
//!
//! ```text
//!  domain add, rotate ─▶ pending ──(every pending key's record is right)──▶ signing; the old keys retire
//!                          │ ▲                                               ▲
//!                          └─┘ missing, wrong, no answer: asked again        └── or the operator says so
//! ```
//!
//! A signature whose key is not in the DNS counts as none, and a MAIL FROM whose domain takes no mail is
//! refused: a key that signs too early harms every message until its record arrives. So new keys wait,
//! and the old ones sign meanwhile. All keys of a domain change together: receivers that know only one
//! algorithm find a signature at any time.
//!
//! The decision is here; a runtime asks the DNS what [`Watch`] wants to know, and carries out what it found.
//!
//! RFC 6376 §3.6.1 (key records) and §3.6.2 (where they are), RFC 7208 §4.5 (SPF records).

use smtp_proto::Domain;

use super::Key;
use crate::config::{Config, KeyState, ReturnPathState, SigningDomain};
use crate::dns::{DnsFailure, MxAnswer, Texts};

/// What the DNS has of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    /// It is there, and right.
    Right,
    /// It is there, and not as it should be, for this reason.
    Wrong(String),
    /// It is not there.
    Missing,
    /// The DNS did not say, for this reason.
    Unknown(String),
}

/// The name of a key's record. RFC 6376 §3.6.2.1.
#[must_use]
pub fn key_name(domain: &Domain, selector: &str) -> String {
    format!("{selector}._domainkey.{domain}")
}

/// Whether an answer holds the record of a key.
#[must_use]
pub fn judge_key(key: &Key, answer: &Result<Texts, DnsFailure>) -> Published {
    let texts = match answer {
        Ok(found) => &found.texts,
        Err(failure) => return not_there(failure),
    };
    let [text] = texts.as_slice() else {
        return wrong("several TXT records; keep one");
    };
    let (there, ours) = (tags(&String::from_utf8_lossy(text)), tags(&key.record()));
    let tag = |tags: &[(String, String)], name: &str| {
        let found = tags.iter().find(|(tag, _)| tag == name);
        found.map(|(_, value)| value.clone())
    };
    let kind = tag(&there, "k").unwrap_or_else(|| "rsa".to_owned());
    let is_test = tag(&there, "t").is_some_and(|flags| flags.split(':').any(|flag| flag == "y"));
    let hashes = tag(&there, "h").is_none_or(|hashes| hashes.split(':').any(|h| h == "sha256"));
    match tag(&there, "p") {
        _ if tag(&there, "v").is_some_and(|version| version != "DKIM1") => {
            wrong("not a record of DKIM1")
        }
        None => wrong("no p= in the record"),
        Some(public) if public.is_empty() => wrong("p= is empty: a revoked key"),
        Some(public) if Some(&public) != tag(&ours, "p").as_ref() => {
            wrong("another key than the one that signs")
        }
        Some(_) if Some(&kind) != tag(&ours, "k").as_ref() => {
            Published::Wrong(format!("k={kind}, and the key is of another kind"))
        }
        Some(_) if !hashes => wrong("h= does not allow sha256"),
        Some(_) if is_test => wrong("t=y: receivers are told to ignore it"),
        Some(_) => Published::Right,
    }
}

/// Whether mail to a return path would reach anybody.
#[must_use]
pub fn judge_mx(answer: &MxAnswer) -> Published {
    match answer {
        // The name itself would be tried (RFC 5321 §5.1), and what `domain add` prints is not there yet.
        Ok(found) if found.implicit => Published::Missing,
        Ok(_) => Published::Right,
        Err(DnsFailure::NullMx) => wrong("a null MX: the domain says that it takes no mail"),
        Err(failure) => not_there(failure),
    }
}

/// Whether there is one SPF record. What it covers is told by `domain check`.
#[must_use]
pub fn judge_spf(answer: &Result<Texts, DnsFailure>) -> Published {
    let texts = match answer {
        Ok(found) => &found.texts,
        Err(failure) => return not_there(failure),
    };
    match texts.iter().filter(|text| is_spf(text)).count() {
        0 => Published::Missing,
        1 => Published::Right,
        _ => wrong("several v=spf1 records: receivers take none"),
    }
}

/// RFC 7208 §4.5: the version, and then a blank or nothing.
fn is_spf(text: &[u8]) -> bool {
    let rest = text
        .get(..6)
        .filter(|start| start.eq_ignore_ascii_case(b"v=spf1"));
    rest.is_some() && matches!(text.get(6), None | Some(b' '))
}

fn wrong(why: &str) -> Published {
    Published::Wrong(why.to_owned())
}

fn not_there(failure: &DnsFailure) -> Published {
    match failure {
        DnsFailure::NoSuchDomain | DnsFailure::NoRecord | DnsFailure::NullMx => Published::Missing,
        DnsFailure::BadName(why) | DnsFailure::Temporary(why) => Published::Unknown(why.clone()),
    }
}

/// The tags of a record: names, and values without white space. RFC 6376 §3.2.
#[must_use]
pub fn tags(text: &str) -> Vec<(String, String)> {
    let tags = text.split(';').filter_map(|tag| tag.split_once('='));
    tags.map(|(name, value)| {
        let value = value.split_ascii_whitespace().collect();
        (name.trim().to_owned(), value)
    })
    .collect()
}

/// What a [`Watch`] wants to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// The TXT records of a name; answered by [`Watch::texts`].
    Texts(String),
    /// The mail exchangers of a domain; answered by [`Watch::exchangers`].
    Exchangers(String),
}

/// What is to change, since its records are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The pending keys of this domain sign from now on, and those that signed retire.
    Keys(Domain),
    /// The return path of this domain is used from now on.
    ReturnPath(Domain),
}

/// One look at all that is pending in a configuration: asks until [`Self::question`] gives none.
#[derive(Debug)]
pub struct Watch {
    /// What is to be asked, the next at the end, with the change that hangs on it.
    asked: Vec<(Question, usize, Option<Key>)>,
    /// The changes, and whether all that was heard of their records is right.
    changes: Vec<(Change, bool)>,
}

impl Watch {
    /// What there is to look for.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let mut watch = Self {
            asked: Vec::new(),
            changes: Vec::new(),
        };
        for domain in &config.domains {
            watch.add_keys(domain);
            watch.add_return_path(domain);
        }
        watch
    }

    /// Whether nothing is pending.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    fn add_keys(&mut self, domain: &SigningDomain) {
        let pending = domain
            .keys
            .iter()
            .filter(|key| key.state == KeyState::Pending);
        let mut pending = pending.peekable();
        if pending.peek().is_none() {
            return;
        }
        let change = self.changes.len();
        // A key that was not loaded cannot sign, whatever the DNS says.
        let loaded = pending.clone().all(|key| key.key.is_some());
        self.changes
            .push((Change::Keys(domain.name.clone()), loaded));
        for key in pending {
            let name = key_name(&domain.name, &key.selector);
            self.asked
                .push((Question::Texts(name), change, key.key.clone()));
        }
    }

    fn add_return_path(&mut self, domain: &SigningDomain) {
        let Some(path) = &domain.return_path else {
            return;
        };
        if path.state != ReturnPathState::Pending {
            return;
        }
        let change = self.changes.len();
        self.changes
            .push((Change::ReturnPath(domain.name.clone()), true));
        let name = path.domain.to_string();
        self.asked
            .push((Question::Exchangers(name.clone()), change, None));
        self.asked.push((Question::Texts(name), change, None));
    }

    /// What is to be asked next; none when all is known that matters.
    pub fn question(&mut self) -> Option<Question> {
        // One record that is not right settles its change.
        while let Some((_, change, _)) = self.asked.last() {
            if self.changes.get(*change).is_some_and(|(_, right)| *right) {
                break;
            }
            self.asked.pop();
        }
        self.asked.last().map(|(question, ..)| question.clone())
    }

    /// The answer to [`Question::Texts`].
    pub fn texts(&mut self, answer: &Result<Texts, DnsFailure>) {
        if let Some((_, change, key)) = self.asked.pop() {
            let found = match key {
                Some(key) => judge_key(&key, answer),
                None => judge_spf(answer),
            };
            self.heard(change, &found);
        }
    }

    /// The answer to [`Question::Exchangers`].
    pub fn exchangers(&mut self, answer: &MxAnswer) {
        if let Some((_, change, _)) = self.asked.pop() {
            self.heard(change, &judge_mx(answer));
        }
    }

    fn heard(&mut self, change: usize, found: &Published) {
        if let Some((_, right)) = self.changes.get_mut(change) {
            *right &= *found == Published::Right;
        }
    }

    /// What is to change, when everything was asked.
    #[must_use]
    pub fn finish(self) -> Vec<Change> {
        let all_asked = self.asked.is_empty();
        let right = self
            .changes
            .into_iter()
            .filter(|(_, right)| *right && all_asked);
        right.map(|(change, _)| change).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::config::{DkimKey, ReturnPath};
    use crate::dns::MxSet;

    fn key() -> Key {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        Key::new(key.serialize_der().try_into().unwrap()).unwrap()
    }

    fn texts(all: &[&str]) -> Result<Texts, DnsFailure> {
        let texts = all.iter().map(|text| text.as_bytes().to_vec()).collect();
        Ok(Texts {
            texts,
            authentic: false,
        })
    }

    fn mx() -> MxAnswer {
        Ok(MxSet {
            hosts: Vec::new(),
            implicit: false,
            authentic: false,
        })
    }

    #[test]
    fn a_record_is_judged_by_what_receivers_do_with_it() {
        let (ours, other) = (key(), key());
        let right = |text: &str| judge_key(&ours, &texts(&[text])) == Published::Right;
        let public = ours.public();
        assert!(right(&ours.record()));
        assert!(right(&format!("k=ed25519;p={public}")));
        assert!(right(&format!(
            "v=DKIM1; h=sha1:sha256; k=ed25519; p={} {}",
            &public[..9],
            &public[9..]
        )));
        for bad in [
            String::new(),
            format!("p={public}"),
            format!("v=DKIM2; k=ed25519; p={public}"),
            format!("v=DKIM1; k=ed25519; t=s:y; p={public}"),
            format!("v=DKIM1; k=ed25519; h=sha1; p={public}"),
            "v=DKIM1; k=ed25519; p=".into(),
            other.record(),
        ] {
            let found = judge_key(&ours, &texts(&[&bad]));
            assert!(matches!(found, Published::Wrong(_)), "{bad}: {found:?}");
        }
        let record = ours.record();
        let twice = judge_key(&ours, &texts(&[&record, &record]));
        assert!(matches!(twice, Published::Wrong(_)));
        assert_eq!(
            judge_key(&ours, &Err(DnsFailure::NoRecord)),
            Published::Missing
        );
        let down = Err(DnsFailure::Temporary("SERVFAIL".into()));
        assert_eq!(
            judge_key(&ours, &down),
            Published::Unknown("SERVFAIL".into())
        );
    }

    /// A configuration whose domain has these states, and what the DNS should have.
    fn world(states: &[KeyState]) -> (Config, BTreeMap<String, String>) {
        let mut config = Config::new("relay.example.com".parse().unwrap(), "data");
        let mut domain = SigningDomain::new("example.com".parse().unwrap());
        let mut zone = BTreeMap::new();
        for (at, &state) in states.iter().enumerate() {
            let key = key();
            zone.insert(format!("s{at}._domainkey.example.com"), key.record());
            domain.keys.push(DkimKey {
                selector: format!("s{at}"),
                key_file: "".into(),
                state,
                key: Some(key),
            });
        }
        config.domains.push(Arc::new(domain));
        (config, zone)
    }

    fn look(config: &Config, zone: &BTreeMap<String, String>) -> (Vec<String>, Vec<Change>) {
        let mut watch = Watch::new(config);
        let mut asked = Vec::new();
        while let Some(question) = watch.question() {
            match question {
                Question::Texts(name) => {
                    let found = zone.get(&name);
                    watch
                        .texts(&found.map_or(Err(DnsFailure::NoSuchDomain), |text| texts(&[text])));
                    asked.push(name);
                }
                Question::Exchangers(name) => {
                    let there = zone.contains_key(&format!("mx {name}"));
                    watch.exchangers(&if there {
                        mx()
                    } else {
                        Err(DnsFailure::NoRecord)
                    });
                    asked.push(format!("mx {name}"));
                }
            }
        }
        (asked, watch.finish())
    }

    #[test]
    fn keys_sign_when_all_that_are_pending_are_published() {
        use KeyState::{Pending, Retired, Signing};
        let keys = [Change::Keys("example.com".parse().unwrap())];
        let (config, mut zone) = world(&[Retired, Signing, Pending, Pending]);
        let (asked, changes) = look(&config, &zone);
        assert_eq!(
            asked,
            ["s3._domainkey.example.com", "s2._domainkey.example.com"]
        );
        assert_eq!(changes, keys);
        zone.insert("s3._domainkey.example.com".into(), "v=DKIM1; p=".into());
        let (asked, changes) = look(&config, &zone);
        assert_eq!(asked.len(), 1, "one that is not right is enough");
        assert_eq!(changes, []);
        zone.remove("s3._domainkey.example.com");
        assert_eq!(look(&config, &zone).1, []);
        let (config, zone) = world(&[Signing, Retired]);
        assert!(Watch::new(&config).is_empty());
        assert_eq!(look(&config, &zone), (Vec::new(), Vec::new()));
    }

    #[test]
    fn a_return_path_is_used_when_it_takes_mail_and_has_spf() {
        let (mut config, _) = world(&[]);
        Arc::make_mut(&mut config.domains[0]).return_path = Some(ReturnPath {
            domain: "bounces.example.com".parse().unwrap(),
            state: ReturnPathState::Pending,
        });
        let spf = ("bounces.example.com".to_owned(), "v=spf1 -all".to_owned());
        let mx = ("mx bounces.example.com".to_owned(), String::new());
        let change = [Change::ReturnPath("example.com".parse().unwrap())];
        let zone = |lines: &[&(String, String)]| lines.iter().map(|&line| line.clone()).collect();
        assert_eq!(look(&config, &zone(&[&spf, &mx])).1, change);
        assert_eq!(look(&config, &zone(&[&spf])).1, []);
        assert_eq!(look(&config, &zone(&[&mx])).1, []);
        let text = ("bounces.example.com".to_owned(), "v=spf10".to_owned());
        assert_eq!(look(&config, &zone(&[&text, &mx])).1, []);
    }

    #[test]
    fn a_look_that_was_broken_off_changes_nothing() {
        let (config, _) = world(&[KeyState::Pending]);
        assert_eq!(Watch::new(&config).finish(), []);
    }
}
