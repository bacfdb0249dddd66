//! Macro strings: how a record's text becomes a name, or an explanation. RFC 7208 §7.

/// A macro string whose syntax is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MacroString(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Macro {
        letter: Letter,
        /// The letter was a capital: what it stands for is percent-encoded.
        escaped: bool,
        /// How many parts are kept, from the right.
        kept: Option<usize>,
        reversed: bool,
        /// Where it is cut into parts.
        delimiters: String,
    },
}

/// What a macro stands for. RFC 7208 §7.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Letter {
    /// `s`: the sender.
    Sender,
    /// `l`: the local part of the sender.
    LocalPart,
    /// `o`: the domain of the sender.
    SenderDomain,
    /// `d`: the domain that is checked.
    Domain,
    /// `i`: the client's address, in labels.
    Ip,
    /// `p`: the client's name, if it has one that is true.
    Validated,
    /// `v`: `in-addr` or `ip6`.
    Version,
    /// `h`: what the client said in HELO.
    Helo,
    /// `c`: the client's address as people write it. In explanations only.
    Client,
    /// `r`: the name of the host that checks. In explanations only.
    Receiver,
    /// `t`: the time, in seconds. In explanations only.
    Time,
}

/// What a macro string is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A name, in a record.
    Name,
    /// A modifier that nobody knows.
    Modifier,
    /// A text for people: it may hold spaces, and the letters `c`, `r` and `t`.
    Explanation,
}

/// The longest name that comes of an expansion. RFC 7208 §7.3.
const NAME_MAX: usize = 253;

/// The longest explanation.
const EXPLANATION_MAX: usize = 2048;

impl MacroString {
    /// Reads a macro string; none if its syntax is wrong. RFC 7208 §7.1.
    pub(super) fn parse(text: &str, purpose: Purpose) -> Option<Self> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            if c != '%' {
                let space = c == ' ' && purpose == Purpose::Explanation;
                if !c.is_ascii_graphic() && !space {
                    return None;
                }
                literal.push(c);
                continue;
            }
            match rest.next()? {
                '%' => literal.push('%'),
                '_' => literal.push(' '),
                '-' => literal.push_str("%20"),
                '{' => {
                    let (body, after) = rest.as_str().split_once('}')?;
                    if !literal.is_empty() {
                        parts.push(Part::Literal(std::mem::take(&mut literal)));
                    }
                    parts.push(Part::parse(body, purpose)?);
                    rest = after.chars();
                }
                _ => return None,
            }
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Some(Self(parts))
    }

    /// Reads a domain-spec: a macro string that ends in a macro or in a top label. RFC 7208 §7.1.
    pub(super) fn parse_domain_spec(text: &str) -> Option<Self> {
        let ends_in_macro =
            text.ends_with('}') || ["%%", "%_", "%-"].iter().any(|end| text.ends_with(end));
        if !ends_in_macro {
            let (_, top) = text.strip_suffix('.').unwrap_or(text).rsplit_once('.')?;
            if !is_top_label(top) {
                return None;
            }
        }
        Self::parse(text, Purpose::Name)
    }

    /// The text that it stands for.
    pub(super) fn expand<E>(
        &self,
        mut value: impl FnMut(Letter) -> Result<String, E>,
    ) -> Result<String, E> {
        let mut out = String::new();
        for part in &self.0 {
            match part {
                Part::Literal(text) => out.push_str(text),
                Part::Macro {
                    letter,
                    escaped,
                    kept,
                    reversed,
                    delimiters,
                } => {
                    let value = value(*letter)?;
                    let text = transform(&value, *kept, *reversed, delimiters);
                    if *escaped {
                        escape(&mut out, &text);
                    } else {
                        out.push_str(&text);
                    }
                }
            }
            // Longer ones are cut to a name's length anyway.
            if out.len() > EXPLANATION_MAX {
                break;
            }
        }
        Ok(out)
    }

    /// The name that it stands for: labels on the left are dropped until it fits. RFC 7208 §7.3.
    pub(super) fn expand_name<E>(
        &self,
        value: impl FnMut(Letter) -> Result<String, E>,
    ) -> Result<String, E> {
        let name = self.expand(value)?;
        let mut name = name.strip_suffix('.').unwrap_or(&name);
        while name.len() > NAME_MAX {
            match name.split_once('.') {
                Some((_, shorter)) => name = shorter,
                None => break,
            }
        }
        Ok(name.to_owned())
    }
}

impl Part {
    /// Reads what is between the braces.
    fn parse(body: &str, purpose: Purpose) -> Option<Self> {
        let mut chars = body.chars();
        let c = chars.next()?;
        let letter = Letter::parse(c)?;
        if letter.for_people_only() && purpose == Purpose::Name {
            return None;
        }
        let rest = chars.as_str();
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (digits, rest) = rest.split_at(digits);
        let kept = match digits {
            "" => None,
            digits => Some(digits.parse().unwrap_or(usize::MAX)),
        };
        if kept == Some(0) {
            return None;
        }
        let (reversed, delimiters) = match rest.strip_prefix(['r', 'R']) {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        if !delimiters.chars().all(|c| ".-+,/_=".contains(c)) {
            return None;
        }
        Some(Self::Macro {
            letter,
            escaped: c.is_ascii_uppercase(),
            kept,
            reversed,
            delimiters: if delimiters.is_empty() {
                ".".into()
            } else {
                delimiters.into()
            },
        })
    }
}

impl Letter {
    fn parse(c: char) -> Option<Self> {
        Some(match c.to_ascii_lowercase() {
            's' => Self::Sender,
            'l' => Self::LocalPart,
            'o' => Self::SenderDomain,
            'd' => Self::Domain,
            'i' => Self::Ip,
            'p' => Self::Validated,
            'v' => Self::Version,
            'h' => Self::Helo,
            'c' => Self::Client,
            'r' => Self::Receiver,
            't' => Self::Time,
            _ => return None,
        })
    }

    fn for_people_only(self) -> bool {
        matches!(self, Self::Client | Self::Receiver | Self::Time)
    }
}

/// RFC 7208 §7.3: split, reverse, keep so many on the right, join with dots.
fn transform(value: &str, kept: Option<usize>, reversed: bool, delimiters: &str) -> String {
    let mut parts: Vec<&str> = value.split(|c| delimiters.contains(c)).collect();
    if reversed {
        parts.reverse();
    }
    let from = kept.map_or(0, |kept| parts.len().saturating_sub(kept));
    parts[from..].join(".")
}

/// Percent-encodes all but what RFC 3986 §2.3 calls unreserved.
fn escape(out: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
}

/// A label that is not all digits. RFC 7208 §7.1.
fn is_top_label(label: &str) -> bool {
    let inside = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    label.chars().all(inside)
        && ends(label.chars().next())
        && ends(label.chars().next_back())
        && !label.chars().all(|c| c.is_ascii_digit())
}
