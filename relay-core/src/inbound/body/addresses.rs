//! The address lists of From and Sender, read strictly.
//!
//! Implements RFC 5322 §3.4 (`mailbox-list`, with CFWS, quoted strings, comments and dots in display
//! names) and RFC 6854 (groups in From). What receivers are known to read in different ways is not read
//! at all: source routes, text after `>`, unquoted `@` in a display name, empty elements. Whoever is
//! shown as the sender is then one and the same everywhere.

use smtp_proto::Mailbox;

/// The most mailboxes of one field.
const MAILBOXES_MAX: usize = 100;

/// The mailboxes of a `mailbox-list`, at least one; none if it is malformed. The value may be folded.
pub(super) fn parse(value: &[u8]) -> Option<Vec<Mailbox>> {
    let mut parser = Parser {
        tokens: Tokens { rest: value },
        next: None,
        found: Vec::new(),
    };
    parser.advance()?;
    parser.list()?;
    (!parser.found.is_empty()).then_some(parser.found)
}

/// A lexical token of RFC 5322 §3.2, without CFWS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    /// Atom; octets above 127 are of it (RFC 6532 §3.2).
    Atom(&'a str),
    /// Quoted-string, quotes included.
    Quoted(&'a str),
    /// Domain-literal, brackets included.
    Literal(&'a str),
    /// One of `. @ < > , : ;`
    Special(u8),
    End,
}

/// Cuts a value into tokens. None if it cannot be cut.
struct Tokens<'a> {
    rest: &'a [u8],
}

impl<'a> Tokens<'a> {
    fn next(&mut self) -> Option<Token<'a>> {
        self.skip_cfws()?;
        let Some(&first) = self.rest.first() else {
            return Some(Token::End);
        };
        match first {
            b'"' => self.enclosed(b'"').map(Token::Quoted),
            b'[' => self.enclosed(b']').map(Token::Literal),
            b'.' | b'@' | b'<' | b'>' | b',' | b':' | b';' => {
                self.rest = &self.rest[1..];
                Some(Token::Special(first))
            }
            _ => {
                let end = self
                    .rest
                    .iter()
                    .position(|&b| !is_atext(b))
                    .unwrap_or(self.rest.len());
                if end == 0 {
                    None
                } else {
                    self.take(end).map(Token::Atom)
                }
            }
        }
    }

    fn take(&mut self, len: usize) -> Option<&'a str> {
        let (text, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        std::str::from_utf8(text).ok()
    }

    /// From the first octet to the first unescaped `end`, both included.
    fn enclosed(&mut self, end: u8) -> Option<&'a str> {
        let mut at = 1;
        loop {
            match *self.rest.get(at)? {
                b'\\' => at += 2,
                b if b == end => return self.take(at + 1),
                _ => at += 1,
            }
        }
    }

    /// White space, folds, and comments, which nest. None if a comment does not end.
    fn skip_cfws(&mut self) -> Option<()> {
        let mut depth = 0usize;
        let mut at = 0;
        while let Some(&byte) = self.rest.get(at) {
            match byte {
                b'(' => depth += 1,
                b')' if depth > 0 => depth -= 1,
                b'\\' if depth > 0 => at += 1,
                b' ' | b'\t' | b'\r' | b'\n' => {}
                _ if depth > 0 => {}
                _ => break,
            }
            at += 1;
        }
        self.rest = self.rest.get(at..)?;
        (depth == 0).then_some(())
    }
}

fn is_atext(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte > 127 || b"!#$%&'*+-/=?^_`{|}~".contains(&byte)
}

struct Parser<'a> {
    tokens: Tokens<'a>,
    next: Option<Token<'a>>,
    found: Vec<Mailbox>,
}

impl<'a> Parser<'a> {
    fn advance(&mut self) -> Option<()> {
        self.next = Some(self.tokens.next()?);
        Some(())
    }

    fn at(&self, special: u8) -> bool {
        self.next == Some(Token::Special(special))
    }

    /// `element *("," element)` to the end.
    fn list(&mut self) -> Option<()> {
        loop {
            self.element(Groups::Allowed)?;
            if self.next == Some(Token::End) {
                return Some(());
            }
            self.expect(b',')?;
        }
    }

    fn expect(&mut self, special: u8) -> Option<()> {
        if self.at(special) {
            self.advance()
        } else {
            None
        }
    }

    /// A mailbox, or a group where one may stand.
    fn element(&mut self, groups: Groups) -> Option<()> {
        let words = self.words()?;
        match self.next? {
            Token::Special(b'@') => {
                let local = words.local_part()?;
                self.address(&local)
            }
            Token::Special(b'<') => {
                self.advance()?;
                let local = self.words()?.local_part()?;
                self.address(&local)?;
                self.expect(b'>')
            }
            Token::Special(b':') if groups == Groups::Allowed && !words.0.is_empty() => {
                self.advance()?;
                self.group()
            }
            Token::Special(_)
            | Token::End
            | Token::Atom(_)
            | Token::Quoted(_)
            | Token::Literal(_) => None,
        }
    }

    /// The rest of a group, after its colon: RFC 6854 §2.1. It may be empty.
    fn group(&mut self) -> Option<()> {
        while !self.at(b';') {
            self.element(Groups::Nested)?;
            if !self.at(b';') {
                self.expect(b',')?;
            }
        }
        self.advance()
    }

    /// `"@" domain` after a local part.
    fn address(&mut self, local: &str) -> Option<()> {
        self.expect(b'@')?;
        let mut domain = String::new();
        let mut dots_and_labels = 0usize;
        loop {
            match self.next? {
                Token::Atom(label) if dots_and_labels.is_multiple_of(2) => domain.push_str(label),
                Token::Literal(literal) if domain.is_empty() => {
                    domain.push_str(literal);
                    self.advance()?;
                    break;
                }
                Token::Special(b'.') if !dots_and_labels.is_multiple_of(2) => domain.push('.'),
                Token::Special(_)
                | Token::End
                | Token::Atom(_)
                | Token::Quoted(_)
                | Token::Literal(_) => break,
            }
            dots_and_labels += 1;
            self.advance()?;
        }
        if self.found.len() == MAILBOXES_MAX {
            return None;
        }
        self.found
            .push(Mailbox::parse_utf8(&format!("{local}@{domain}")).ok()?);
        Some(())
    }

    /// Atoms, quoted strings and dots: a display name, or a local part.
    fn words(&mut self) -> Option<Words<'a>> {
        let mut words = Vec::new();
        while let Some(token @ (Token::Atom(_) | Token::Quoted(_) | Token::Special(b'.'))) =
            self.next
        {
            words.push(token);
            self.advance()?;
        }
        Some(Words(words))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Groups {
    Allowed,
    Nested,
}

struct Words<'a>(Vec<Token<'a>>);

impl Words<'_> {
    /// One quoted string, or atoms with one dot between each two.
    fn local_part(&self) -> Option<String> {
        if let [Token::Quoted(text)] = self.0.as_slice() {
            return Some((*text).to_owned());
        }
        let mut local = String::new();
        for (at, token) in self.0.iter().enumerate() {
            match token {
                Token::Atom(text) if at.is_multiple_of(2) => local.push_str(text),
                Token::Special(b'.') if !at.is_multiple_of(2) => local.push('.'),
                Token::Special(_)
                | Token::End
                | Token::Atom(_)
                | Token::Quoted(_)
                | Token::Literal(_) => return None,
            }
        }
        (!local.is_empty()).then_some(local)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(value: &str) -> Option<Vec<String>> {
        parse(value.as_bytes()).map(|list| list.iter().map(Mailbox::to_string).collect())
    }

    #[test]
    fn lists_that_everyone_reads_alike() {
        for (value, expected) in [
            (" a@example.com", vec!["a@example.com"]),
            ("<a@example.com>", vec!["a@example.com"]),
            ("Ann Other <a@example.com>", vec!["a@example.com"]),
            ("John Q. Public <a@example.com>", vec!["a@example.com"]),
            (
                "\"b@evil.example, \\\"x\\\"\" <a@example.com>",
                vec!["a@example.com"],
            ),
            (
                "=?utf-8?Q?J=C3=BCrgen?= <a@example.com>",
                vec!["a@example.com"],
            ),
            ("Jürgen <jürgen@exämple.com>", vec!["jürgen@exämple.com"]),
            (
                "a@example.com (b@evil.example (nested \\) ) )",
                vec!["a@example.com"],
            ),
            (
                "pete(his account)@silly.test(his host)",
                vec!["pete@silly.test"],
            ),
            ("\r\n Ann\r\n\t<a@example.com>", vec!["a@example.com"]),
            (
                "\"quoted part\"@example.com",
                vec!["\"quoted part\"@example.com"],
            ),
            ("a@[192.0.2.1]", vec!["a@[192.0.2.1]"]),
            (
                "a@example.com, B <b@example.org>",
                vec!["a@example.com", "b@example.org"],
            ),
            (
                "Team: a@example.com, <b@example.org>;",
                vec!["a@example.com", "b@example.org"],
            ),
            (
                "Team:a@x.example;, b@y.example",
                vec!["a@x.example", "b@y.example"],
            ),
        ] {
            let expected = expected.into_iter().map(str::to_owned).collect();
            assert_eq!(addresses(value), Some(expected), "{value}");
        }
    }

    #[test]
    fn lists_that_are_refused() {
        for value in [
            "",
            " ",
            "a",
            "a@",
            "@example.com",
            "<>",
            "<@attack.com,@any.com:admin@legitimate.com>",
            "<any@attack.com>admin@legitimate.com",
            "<admin@legitimate.com>\\,<second@attack.com>",
            "=?utf-8?B?PGFkbWluQGxlZ2l0aW1hdGUuY29tPg==?=,<second@attack.com>",
            "admin@legitimate.com <a@attack.com>",
            "a@example.com,",
            ",a@example.com",
            "a@example.com,,b@example.com",
            "a@example.com b@example.com",
            "a b@example.com",
            "a..b@example.com",
            ".a@example.com",
            "a.@example.com",
            "a@example..com",
            "a@example.com.",
            "a@.example.com",
            "a@b@example.com",
            "<a@example.com",
            "a@example.com>",
            "<<a@example.com>>",
            "\"a@example.com",
            "(a@example.com",
            "a@example.com)",
            "Team: a@example.com",
            "Team: Sub: a@example.com;;",
            "Team:;",
            ":a@example.com;",
            "\"a\".b@example.com",
            "a@[192.0.2.1].example",
            "a@exa[192.0.2.1]",
            "a\0@example.com",
            "\\a@example.com",
        ] {
            assert_eq!(addresses(value), None, "{value}");
        }
        assert_eq!(parse(b"a@example.com \xff"), None);
        assert_eq!(parse(b"\xff <a@example.com>"), None);
    }

    #[test]
    fn the_work_is_bounded() {
        let many = vec!["a@example.com"; MAILBOXES_MAX].join(",");
        assert_eq!(addresses(&many).map(|list| list.len()), Some(MAILBOXES_MAX));
        assert_eq!(addresses(&format!("{many},a@example.com")), None);
        assert_eq!(addresses(&"(".repeat(200_000)), None);
        assert_eq!(
            addresses(&format!("{}a@b.example", "()".repeat(100_000))),
            Some(vec!["a@b.example".to_owned()])
        );
    }
}
