//! The return path: the signed MAIL FROM that brings every later bounce back to its message.
//!
//! Where a `[[domain]]` names a `return_path`, mail from it leaves under an address of the relay's own
//! there (VERP: one for each recipient), so that SPF is checked against a domain that is aligned with
//! From, and what comes back later names its message and recipient. The stored envelope keeps the
//! original sender: reports of the relay's own go to them.
//!
//! ```text
//!  b3-1m858w02c0000-0-20781-9qk3x2m7w0zj5h8d1c4v6b2t@bounces.example.com
//!  ││ └─────┬─────┘ │ └─┬─┘ └──────────┬───────────┘
//!  ││       │       │   │              └ HMAC-SHA-256, its first 120 bits
//!  ││       │       │   └ the last day on which it counts, in days since 1970
//!  ││       │       └ the index of the recipient in the envelope, from 0
//!  ││       └ the message's id, as in the 250 reply and in `trace`
//!  │└ the number of the key that signed
//!  └ the format
//! ```
//!
//! - It is at most 63 octets long (RFC 5321 §4.5.3.1.1 allows 64), of letters, digits and hyphens. Letter case
//!   means nothing: the mail systems on the way may change it. Each address has one spelling otherwise.
//! - The HMAC covers all that it says, and the domain. Nobody without a key of [`Keyring`] makes one, or
//!   one for another recipient, domain or day.
//! - The highest key signs; all verify. A new key is added, and old ones stay until nothing that they
//!   signed counts any more.
//! - It is the same in each attempt at a recipient: receivers that greylist know it again.
//!
//! RFC 5321 §4.4 (the reverse-path is where errors go), RFC 7489 §3.1.2 (SPF alignment), RFC 2104 §5 (a
//! truncated HMAC of at least half its length is as good where nobody can try at will).

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use smtp_proto::{Domain, Host, Mailbox};

use crate::config::a_labels;
use crate::id::MessageId;
use crate::rng::Rng;
use crate::time::UnixTime;

/// Keys of a keyring; when one more is added, the oldest goes.
pub const KEYS_MAX: usize = 16;

/// How long an address counts after the last attempt: a receiver that took a message may try for days,
/// and complaints come later still.
const COUNTS_AFTER: Duration = Duration::from_secs(30 * DAY_SECS);

const FORMAT: char = 'b';
const KEY_LEN: usize = 32;
/// A multiple of 5, for which base 32 needs no padding.
const TAG_LEN: usize = 15;
const DAY_SECS: u64 = 86_400;
/// What the HMAC is for, so that a tag of another purpose is never one of this.
const PURPOSE: &[u8] = b"smtp-relay return path\0";
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// What a return path says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// The message.
    pub message: MessageId,
    /// The index of the recipient in its envelope.
    pub recipient: u32,
    /// The last day on which it counts.
    pub expires: Day,
}

/// A day, counted from 1970-01-01 in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Day(pub u32);

impl Day {
    /// The day of a time.
    #[must_use]
    pub fn of(time: UnixTime) -> Self {
        Self(u32::try_from(time.as_secs() / DAY_SECS).unwrap_or(u32::MAX))
    }

    /// The day on which a return path last counts of a message that was ready to be sent then and is
    /// tried for so long.
    #[must_use]
    pub fn last_for(ready: UnixTime, tried: Duration) -> Self {
        let after = (tried.saturating_add(COUNTS_AFTER)).as_secs();
        let last = ready.as_secs().saturating_add(after) / DAY_SECS;
        // Six digits keep the local part short; they are enough until the year 4707.
        Self(u32::try_from(last).unwrap_or(u32::MAX).min(999_999))
    }
}

/// As `2026-11-23`.
impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let midnight = UnixTime::from_secs(u64::from(self.0) * DAY_SECS).to_rfc3339();
        f.write_str(midnight.split('T').next().unwrap_or_default())
    }
}

/// Why an address is no return path of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotOurs {
    /// It has another form.
    Form,
    /// Its key is not in the keyring any more, or never was.
    UnknownKey(u16),
    /// Its signature is wrong: it was made up, or changed.
    Forged,
    /// It was ours, and counts no more.
    Expired(Token),
}

impl fmt::Display for NotOurs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form => f.write_str("it has not the form of a return path"),
            Self::UnknownKey(number) => write!(f, "its key {number} is not known (any more)"),
            Self::Forged => f.write_str("its signature is wrong"),
            Self::Expired(token) => write!(f, "it counts no more (message {})", token.message),
        }
    }
}

impl std::error::Error for NotOurs {}

/// The keys of return paths.
#[derive(Clone, PartialEq, Eq)]
pub struct Keyring {
    /// By their numbers, ascending; never empty.
    keys: Vec<(u16, [u8; KEY_LEN])>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers = self.keys.iter().map(|(number, _)| number);
        f.debug_list().entries(numbers).finish()
    }
}

/// A line of a keyring's text, counted from 1, that cannot be read, or 0 for a text without a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadKeyring(pub usize);

impl fmt::Display for BadKeyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("it holds no key"),
            line => write!(
                f,
                "line {line} is not a number of its own and a key of 32 octets in base64"
            ),
        }
    }
}

impl std::error::Error for BadKeyring {}

impl Keyring {
    /// A keyring with one key.
    #[must_use]
    pub fn generate(rng: &mut Rng) -> Self {
        Self {
            keys: vec![(1, random(rng))],
        }
    }

    /// Reads what [`Self::to_text`] writes: a line for each key, its number and the key in base64. Lines
    /// that are empty or begin with `#` say nothing.
    ///
    /// # Errors
    /// [`BadKeyring`]
    pub fn parse(text: &str) -> Result<Self, BadKeyring> {
        let mut keys: Vec<(u16, [u8; KEY_LEN])> = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let key = key_of(line).filter(|(number, _)| keys.iter().all(|(n, _)| n != number));
            keys.push(key.ok_or(BadKeyring(at + 1))?);
        }
        if keys.is_empty() {
            return Err(BadKeyring(0));
        }
        keys.sort_unstable_by_key(|(number, _)| *number);
        Ok(Self { keys })
    }

    /// The keys as text. It is a secret.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::from(
            "# Keys of return paths. The highest number signs, all verify. `smtp-relay domain rotate\n\
             # --return-path` adds one. Relays that share a return path share this file.\n",
        );
        for (number, key) in &self.keys {
            text.push_str(&format!("{number} {}\n", STANDARD.encode(key)));
        }
        text
    }

    /// Adds a key, which signs from now on, and drops the oldest of too many. Gives its number.
    pub fn rotate(&mut self, rng: &mut Rng) -> u16 {
        let last = self.keys.last().map_or(0, |(number, _)| *number);
        if last == NUMBER_MAX {
            // After so many, numbers begin again; nothing that the old ones signed counts any more.
            for (at, (number, _)) in self.keys.iter_mut().enumerate() {
                *number = u16::try_from(at + 1).unwrap_or(NUMBER_MAX);
            }
        }
        let number = 1 + self.keys.last().map_or(0, |(number, _)| *number);
        self.keys.push((number, random(rng)));
        let more = self.keys.len().saturating_sub(KEYS_MAX);
        self.keys.drain(..more);
        number
    }

    /// The numbers of its keys; the last one signs.
    pub fn numbers(&self) -> impl Iterator<Item = u16> + '_ {
        self.keys.iter().map(|(number, _)| *number)
    }

    /// The return path of a message's recipient at this domain.
    #[must_use]
    pub fn sign(&self, domain: &Domain, token: Token) -> Option<Mailbox> {
        let (number, key) = self.keys.last()?;
        let tag = mac(*number, key, &a_labels(domain), token).finalize();
        let local = written(*number, token, &tag.into_bytes()[..TAG_LEN]);
        Mailbox::new(&local, Host::Domain(domain.clone())).ok()
    }

    /// What an address says, if it is one that a key of ours made and that counts today.
    ///
    /// # Errors
    /// [`NotOurs`]
    pub fn verify(&self, address: &Mailbox, now: UnixTime) -> Result<Token, NotOurs> {
        let domain = a_labels(address.domain().ok_or(NotOurs::Form)?);
        let local = address.local_part().to_ascii_lowercase();
        let (number, token, tag) = read(&local).ok_or(NotOurs::Form)?;
        let key = self.keys.iter().find(|(known, _)| *known == number);
        let (_, key) = key.ok_or(NotOurs::UnknownKey(number))?;
        mac(number, key, &domain, token)
            .verify_truncated_left(&tag)
            .map_err(|_| NotOurs::Forged)?;
        if token.expires < Day::of(now) {
            return Err(NotOurs::Expired(token));
        }
        Ok(token)
    }
}

/// The highest number of a key.
const NUMBER_MAX: u16 = 9999;

fn key_of(line: &str) -> Option<(u16, [u8; KEY_LEN])> {
    let (number, key) = line.split_once(char::is_whitespace)?;
    let number = number.parse().ok()?;
    let key = STANDARD.decode(key.trim()).ok()?.try_into().ok()?;
    (1..=NUMBER_MAX).contains(&number).then_some((number, key))
}

fn random(rng: &mut Rng) -> [u8; KEY_LEN] {
    let mut key = [0; KEY_LEN];
    rng.fill(&mut key);
    key
}

fn mac(number: u16, key: &[u8; KEY_LEN], domain: &str, token: Token) -> Hmac<Sha256> {
    let mut block = [0; 64];
    block[..KEY_LEN].copy_from_slice(key);
    let mut mac = Hmac::<Sha256>::new(&block.into());
    mac.update(PURPOSE);
    mac.update(&number.to_be_bytes());
    mac.update(&token.message.as_u64().to_be_bytes());
    mac.update(&token.recipient.to_be_bytes());
    mac.update(&token.expires.0.to_be_bytes());
    // Last, since it alone has no length of its own.
    mac.update(domain.as_bytes());
    mac
}

fn written(number: u16, token: Token, tag: &[u8]) -> String {
    let id = token.message.to_string().to_ascii_lowercase();
    let (recipient, day) = (token.recipient, token.expires.0);
    let mut local = format!("{FORMAT}{number}-{id}-{recipient}-{day}-");
    // Five octets are eight digits.
    for five in tag.chunks(5) {
        let bits = five.iter().fold(0u64, |bits, &b| bits << 8 | u64::from(b));
        for digit in (0..8).rev() {
            local.push(char::from(DIGITS[(bits >> (5 * digit)) as usize & 31]));
        }
    }
    local
}

/// The parts of a local part in lower case. Only what [`written`] writes is read.
fn read(local: &str) -> Option<(u16, Token, [u8; TAG_LEN])> {
    let mut parts = local.strip_prefix(FORMAT)?.split('-');
    let number = parts.next()?.parse().ok()?;
    let token = Token {
        message: parts.next()?.parse().ok()?,
        recipient: parts.next()?.parse().ok()?,
        expires: Day(parts.next()?.parse().ok()?),
    };
    let digits = parts
        .next()
        .filter(|digits| digits.len() == TAG_LEN / 5 * 8)?;
    let mut tag = [0; TAG_LEN];
    for (eight, five) in digits.as_bytes().chunks(8).zip(tag.chunks_mut(5)) {
        let mut bits = 0u64;
        for digit in eight {
            bits = bits << 5 | DIGITS.iter().position(|d| d == digit)? as u64;
        }
        five.copy_from_slice(&bits.to_be_bytes()[3..]);
    }
    (written(number, token, &tag) == local).then_some((number, token, tag))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{prop_assert, prop_assert_eq, proptest};

    const NOW: UnixTime = UnixTime::from_secs(1_795_471_531);

    fn keyring() -> Keyring {
        Keyring::generate(&mut Rng::from_number(1))
    }

    fn domain() -> Domain {
        "bounces.example.com".parse().unwrap()
    }

    fn token() -> Token {
        Token {
            message: MessageId::from_u64(NOW.as_millis() << 20 | 7),
            recipient: 0,
            expires: Day::of(NOW),
        }
    }

    fn of(text: &str) -> Mailbox {
        Mailbox::parse(text).unwrap()
    }

    #[test]
    fn the_format_is_fixed() {
        let keys = Keyring::parse(&format!("7 {}", STANDARD.encode([7; 32]))).unwrap();
        let token = Token {
            message: "1M858W02C0000".parse().unwrap(),
            recipient: 12,
            expires: Day(20_781),
        };
        let address = keys.sign(&domain(), token).unwrap().to_string();
        assert_eq!(
            address,
            "b7-1m858w02c0000-12-20781-qye2bt1xhasbgy8jfw348yyf@bounces.example.com"
        );
    }

    #[test]
    fn every_change_is_found() {
        let keys = keyring();
        let good = keys.sign(&domain(), token()).unwrap().to_string();
        assert_eq!(keys.verify(&of(&good), NOW), Ok(token()));
        let at = good.find('@').unwrap();
        for place in 0..at {
            for other in ['0', '1', '9', 'a', 'z', '-'] {
                let mut changed = good.clone().into_bytes();
                if changed[place] == other as u8 {
                    continue;
                }
                changed[place] = other as u8;
                let changed = String::from_utf8(changed).unwrap();
                let Ok(changed) = Mailbox::parse(&changed) else {
                    continue;
                };
                assert!(keys.verify(&changed, NOW).is_err(), "{changed}");
            }
        }
        let elsewhere = good.replace("bounces.example.com", "bounces.example.net");
        assert_eq!(keys.verify(&of(&elsewhere), NOW), Err(NotOurs::Forged));
        let other = Keyring::generate(&mut Rng::from_number(2));
        assert_eq!(other.verify(&of(&good), NOW), Err(NotOurs::Forged));
    }

    #[test]
    fn letter_case_means_nothing_and_no_other_spelling_is_read() {
        let keys = keyring();
        let good = keys.sign(&domain(), token()).unwrap().to_string();
        assert_eq!(keys.verify(&of(&good.to_uppercase()), NOW), Ok(token()));
        let (local, domain) = good.split_once('@').unwrap();
        for other in [
            local.replacen("b1-", "b01-", 1),
            local.replacen("b1-", "b+1-", 1),
            local.replacen("-0-", "-00-", 1),
            format!("{local}-"),
            format!("{local}0"),
            format!("x{local}"),
            local.replacen("b1-", "c1-", 1),
            local.replace('-', "."),
            "b1".into(),
            "b----".into(),
        ] {
            let other = of(&format!("{other}@{domain}"));
            assert_eq!(keys.verify(&other, NOW), Err(NotOurs::Form), "{other}");
        }
    }

    #[test]
    fn it_counts_to_the_end_of_its_last_day() {
        let keys = keyring();
        let address = keys.sign(&domain(), token()).unwrap();
        let midnight = UnixTime::from_secs((NOW.as_secs() / DAY_SECS + 1) * DAY_SECS);
        let before = UnixTime::from_secs(midnight.as_secs() - 1);
        assert_eq!(keys.verify(&address, before), Ok(token()));
        let expired = NotOurs::Expired(token());
        assert_eq!(keys.verify(&address, midnight), Err(expired));
        let three_days = Duration::from_secs(3 * DAY_SECS);
        let last = Day::last_for(NOW, three_days);
        assert_eq!(last, Day(Day::of(NOW).0 + 33));
        assert_eq!(Day::last_for(NOW, Duration::MAX), Day(999_999));
    }

    #[test]
    fn old_keys_verify_and_the_new_one_signs() {
        let mut rng = Rng::from_number(3);
        let mut keys = Keyring::generate(&mut rng);
        let old = keys.sign(&domain(), token()).unwrap();
        assert_eq!(keys.rotate(&mut rng), 2);
        let new = keys.sign(&domain(), token()).unwrap();
        assert_ne!(old, new);
        for address in [&old, &new] {
            assert_eq!(keys.verify(address, NOW), Ok(token()));
        }
        let read_back = Keyring::parse(&keys.to_text()).unwrap();
        assert_eq!(read_back, keys);
        for _ in 0..KEYS_MAX {
            keys.rotate(&mut rng);
        }
        assert_eq!(keys.verify(&old, NOW), Err(NotOurs::UnknownKey(1)));
        assert_eq!(keys.numbers().count(), KEYS_MAX);
        keys.keys.last_mut().unwrap().0 = NUMBER_MAX;
        assert!(keys.rotate(&mut rng) < NUMBER_MAX);
        assert!(keys.numbers().is_sorted());
    }

    #[test]
    fn a_keyring_that_is_damaged_is_told() {
        let key = STANDARD.encode([1; 32]);
        for (text, line) in [
            (String::new(), 0),
            ("# nothing\n".into(), 0),
            (format!("1 {key}\n1 {key}"), 2),
            (format!("0 {key}"), 1),
            (format!("10000 {key}"), 1),
            (format!("x {key}"), 1),
            ("1 AAAA".into(), 1),
            ("1".into(), 1),
        ] {
            assert_eq!(Keyring::parse(&text), Err(BadKeyring(line)), "{text}");
        }
        assert!(!format!("{:?}", keyring()).contains("AAAA"));
    }

    proptest! {
        #[test]
        fn what_is_signed_verifies_and_fits(
            id: u64, recipient: u32, day in 0..1_000_000u32, number in 1..=NUMBER_MAX, seed: u64
        ) {
            let key = random(&mut Rng::from_number(seed));
            let keys = Keyring { keys: vec![(number, key)] };
            let expires = Day(day);
            let token = Token { message: MessageId::from_u64(id), recipient, expires };
            let address = keys.sign(&domain(), token).unwrap();
            prop_assert!(address.local_part().len() <= 63, "{}", address);
            let then = UnixTime::from_secs(u64::from(day) * DAY_SECS);
            prop_assert_eq!(keys.verify(&address, then), Ok(token));
        }

        #[test]
        fn anything_else_is_refused_without_a_panic(local in "[b0-9a-z-]{1,64}") {
            if let Ok(address) = Mailbox::parse(&format!("{local}@bounces.example.com")) {
                prop_assert!(keyring().verify(&address, NOW).is_err());
            }
        }
    }
}
