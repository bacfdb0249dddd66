//! Reading a TOML document so that every error is found, with its line and key.
//!
//! A [`Section`] notes which keys it was asked for: the others are unknown, and an error.

use std::cell::RefCell;
use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::ConfigError;
use super::value::Kind;

/// Where something stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file, as it was named to us.
    pub file: String,
    /// The line, from 1.
    pub line: Option<usize>,
    /// The key with its section.
    pub key: String,
}

impl Place {
    /// An error about what stands here.
    #[must_use]
    pub fn error(&self, problem: impl Into<String>, allowed: &str) -> ConfigError {
        ConfigError {
            file: self.file.clone(),
            line: self.line,
            key: self.key.clone(),
            problem: problem.into(),
            allowed: allowed.to_owned(),
        }
    }
}

/// One document and the errors found in it.
pub(super) struct Reader<'t> {
    file: &'t str,
    text: &'t str,
    errors: RefCell<Vec<ConfigError>>,
}

impl<'t> Reader<'t> {
    /// Parses the document; syntax errors are noted, and what could be read is given.
    pub(super) fn parse(file: &'t str, text: &'t str) -> (Self, Spanned<DeTable<'t>>) {
        let (table, errors) = DeTable::parse_recoverable(text);
        let reader = Self {
            file,
            text,
            errors: RefCell::default(),
        };
        for error in errors {
            let place = reader.place(&error.span().unwrap_or_default(), String::new());
            let message = error.message().trim_end().replace('\n', ", ");
            reader.push(place.error(message, ""));
        }
        (reader, table)
    }

    /// The errors, in the order of their lines.
    pub(super) fn into_errors(self) -> Vec<ConfigError> {
        let mut errors = self.errors.into_inner();
        errors.sort_by_key(|error| error.line);
        errors
    }

    pub(super) fn push(&self, error: ConfigError) {
        self.errors.borrow_mut().push(error);
    }

    fn place(&self, span: &Range<usize>, key: String) -> Place {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line = Some(before.bytes().filter(|&b| b == b'\n').count() + 1);
        Place {
            file: self.file.to_owned(),
            line,
            key,
        }
    }
}

/// One table of the document.
pub(super) struct Section<'r, 't> {
    reader: &'r Reader<'t>,
    table: &'r DeTable<'t>,
    span: Range<usize>,
    name: String,
    asked: RefCell<Vec<&'static str>>,
}

impl<'r, 't> Section<'r, 't> {
    /// The document itself.
    pub(super) fn root(reader: &'r Reader<'t>, table: &'r Spanned<DeTable<'t>>) -> Self {
        Self::new(reader, table.get_ref(), table.span(), String::new())
    }

    fn new(
        reader: &'r Reader<'t>,
        table: &'r DeTable<'t>,
        span: Range<usize>,
        name: String,
    ) -> Self {
        Self {
            reader,
            table,
            span,
            name,
            asked: RefCell::default(),
        }
    }

    /// A text of some language. None if it is absent or bad; the latter is noted.
    pub(super) fn value<T>(&self, key: &'static str, kind: &Kind<T>) -> Option<T> {
        let value = self.ask(key)?;
        self.convert(key, value, kind)
    }

    /// As [`Section::value`], of a language whose texts may be bare numbers: the quotes may be missing.
    pub(super) fn value_or_number<T>(&self, key: &'static str, kind: &Kind<T>) -> Option<T> {
        let value = self.ask(key)?;
        match value.get_ref().as_integer() {
            Some(number) => self.parse(key, value.span(), &number.to_string(), kind),
            None => self.convert(key, value, kind),
        }
    }

    /// As [`Section::value`], but absence is an error.
    pub(super) fn required<T>(&self, key: &'static str, kind: &Kind<T>) -> Option<T> {
        if self.ask(key).is_none() {
            self.missing(key, kind.allowed);
        }
        self.value(key, kind)
    }

    /// An array of texts of some language. None if it is absent; bad elements are noted and left out.
    pub(super) fn list<T>(&self, key: &'static str, kind: &Kind<T>) -> Option<Vec<T>> {
        let value = self.ask(key)?;
        let Some(array) = value.get_ref().as_array() else {
            self.wrong(key, value, "an array", kind.allowed);
            return Some(Vec::new());
        };
        Some(
            array
                .iter()
                .filter_map(|value| self.convert(key, value, kind))
                .collect(),
        )
    }

    /// As [`Section::list`], but an absent or empty array is an error: `problem` says what that means.
    pub(super) fn filled_list<T>(
        &self,
        key: &'static str,
        kind: &Kind<T>,
        problem: &str,
    ) -> Vec<T> {
        let array = self.ask(key).map(|value| value.get_ref().as_array());
        if array.is_none() || array.flatten().is_some_and(|array| array.is_empty()) {
            self.error(key, problem, kind.allowed);
        }
        self.list(key, kind).unwrap_or_default()
    }

    /// A whole number in a range.
    pub(super) fn number(&self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let value = self.ask(key)?;
        let allowed = format!("a number from {} to {}", range.start(), range.end());
        let Some(integer) = value.get_ref().as_integer() else {
            self.wrong(key, value, "a number", &allowed);
            return None;
        };
        let number = u64::from_str_radix(integer.as_str(), integer.radix()).ok();
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            self.error_at(
                value.span(),
                key,
                format!("{integer} is out of range"),
                &allowed,
            );
        }
        number
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, key: &'static str) -> Option<bool> {
        let value = self.ask(key)?;
        let flag = value.get_ref().as_bool();
        if flag.is_none() {
            self.wrong(key, value, "true or false", "true, false");
        }
        flag
    }

    /// A `[key]` table.
    pub(super) fn section(&self, key: &'static str) -> Option<Self> {
        let value = self.ask(key)?;
        let section = self.as_section(key, value);
        if section.is_none() {
            self.wrong(key, value, "a table", &format!("[{}]", self.path(key)));
        }
        section
    }

    /// Whether the value of a key is a table.
    pub(super) fn is_section(&self, key: &'static str) -> bool {
        let value = self.ask(key);
        value.is_some_and(|value| value.get_ref().as_table().is_some())
    }

    /// The `[[key]]` tables.
    pub(super) fn sections(&self, key: &'static str) -> Vec<Self> {
        let Some(value) = self.ask(key) else {
            return Vec::new();
        };
        let found: Option<Vec<_>> = value
            .get_ref()
            .as_array()
            .map(|array| {
                array
                    .iter()
                    .map(|value| self.as_section(key, value))
                    .collect()
            })
            .unwrap_or_default();
        found.unwrap_or_else(|| {
            self.wrong(
                key,
                value,
                "an array of tables",
                &format!("[[{}]]", self.path(key)),
            );
            Vec::new()
        })
    }

    /// Whether the key is there.
    pub(super) fn has(&self, key: &'static str) -> bool {
        self.ask(key).is_some()
    }

    /// Where the value of the key stands, or the section if the key is absent.
    pub(super) fn place(&self, key: &'static str) -> Place {
        let span = self.table.get(key).map_or(self.span.clone(), Spanned::span);
        self.reader.place(&span, self.path(key))
    }

    /// Notes an error about the value of a key.
    pub(super) fn error(&self, key: &'static str, problem: impl Into<String>, allowed: &str) {
        self.reader.push(self.place(key).error(problem, allowed));
    }

    /// Notes that a key is needed.
    pub(super) fn missing(&self, key: &'static str, allowed: &str) {
        self.error(key, "is missing", allowed);
    }

    /// Notes every key that was not asked for.
    pub(super) fn finish(self) {
        let asked = self.asked.borrow();
        for key in self.table.keys() {
            let name: &str = key.get_ref();
            if asked.contains(&name) {
                continue;
            }
            let nearest = asked
                .iter()
                .map(|known| (strsim::damerau_levenshtein(known, name), known))
                .filter(|(distance, known)| *distance <= known.len().div_ceil(3))
                .min();
            let problem = match nearest {
                Some((_, known)) => format!("unknown key; did you mean `{known}`?"),
                None => "unknown key".to_owned(),
            };
            self.error_at(key.span(), name, problem, &asked.join(", "));
        }
    }

    fn ask(&self, key: &'static str) -> Option<&'r Spanned<DeValue<'t>>> {
        let mut asked = self.asked.borrow_mut();
        if !asked.contains(&key) {
            asked.push(key);
        }
        self.table.get(key)
    }

    fn as_section(&self, key: &str, value: &'r Spanned<DeValue<'t>>) -> Option<Self> {
        let table = value.get_ref().as_table()?;
        Some(Self::new(self.reader, table, value.span(), self.path(key)))
    }

    fn convert<T>(&self, key: &str, value: &Spanned<DeValue<'t>>, kind: &Kind<T>) -> Option<T> {
        let Some(text) = value.get_ref().as_str() else {
            self.wrong(key, value, "a string", kind.allowed);
            return None;
        };
        self.parse(key, value.span(), text, kind)
    }

    fn parse<T>(&self, key: &str, span: Range<usize>, text: &str, kind: &Kind<T>) -> Option<T> {
        (kind.parse)(text)
            .map_err(|problem| self.error_at(span, key, problem, kind.allowed))
            .ok()
    }

    fn wrong(&self, key: &str, value: &Spanned<DeValue<'t>>, wanted: &str, allowed: &str) {
        let problem = format!("{} where {wanted} is expected", value.get_ref().type_str());
        self.error_at(value.span(), key, problem, allowed);
    }

    fn error_at(&self, span: Range<usize>, key: &str, problem: String, allowed: &str) {
        let place = self.reader.place(&span, self.path(key));
        self.reader.push(place.error(problem, allowed));
    }

    fn path(&self, key: &str) -> String {
        if self.name.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.name)
        }
    }
}
