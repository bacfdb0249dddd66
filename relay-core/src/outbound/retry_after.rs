//! When a host wants to be asked again, read from the text of its 4yz.
//!
//! RFC 6647 §5 (greylisting) leaves the words to the host.

use std::time::Duration;

/// The most that "try again in N minutes" is believed. The least is the schedule's.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(6 * 3600);

/// "Please try again in 5 minutes", "greylisted for 300 seconds", "retry after 00:04:30".
///
/// Nobody has written down how a host says it, so: the first number with a unit of time after it, in a
/// text that has a word of waiting.
pub(super) fn retry_after(text: &str) -> Option<Duration> {
    const WAITING: [&str; 7] = ["try", "again", "later", "wait", "delay", "grey", "gray"];
    let text = text.to_ascii_lowercase();
    if !WAITING.iter().any(|word| text.contains(word)) {
        return None;
    }
    let mut words = text
        .split(|c: char| c.is_whitespace() || "()[]<>,;!?\"'=".contains(c))
        .map(|word| word.trim_end_matches('.'))
        .filter(|word| !word.is_empty())
        .peekable();
    while let Some(word) = words.next() {
        let digits = word.bytes().take_while(u8::is_ascii_digit).count();
        let (number, rest) = word.split_at(digits);
        let secs = match (number.parse::<u64>(), rest) {
            (Ok(number), "") => words
                .peek()
                .and_then(|unit| unit_secs(unit))
                .map(|unit| number.saturating_mul(unit)),
            (Ok(_), rest) if rest.starts_with(':') => clock_secs(word),
            (Ok(number), rest) => unit_secs(rest).map(|unit| number.saturating_mul(unit)),
            (Err(_), _) => None,
        };
        if let Some(secs) = secs {
            return Some(Duration::from_secs(secs).min(RETRY_AFTER_MAX));
        }
    }
    None
}

fn unit_secs(unit: &str) -> Option<u64> {
    match unit {
        "s" | "sec" | "secs" | "second" | "seconds" => Some(1),
        "m" | "min" | "mins" | "minute" | "minutes" => Some(60),
        "h" | "hr" | "hrs" | "hour" | "hours" => Some(3600),
        _ => None,
    }
}

/// `MM:SS` or `HH:MM:SS`.
fn clock_secs(text: &str) -> Option<u64> {
    let mut parts = 0;
    let secs = text.split(':').try_fold(0u64, |secs, part| {
        parts += 1;
        let valid = part.len() <= 2 && part.bytes().all(|b| b.is_ascii_digit());
        let part = part.parse::<u64>().ok().filter(|_| valid)?;
        Some(secs * 60 + part)
    })?;
    (2..=3).contains(&parts).then_some(secs)
}
