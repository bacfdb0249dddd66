//! A deferral's reason as one line: what notes, `queue list` and the memory of a waiting job hold.
//!
//! `450 4.2.0 rcpt rcpt-4xx mx.example.com Greylisted, try again later`: the code, the enhanced code,
//! the stage, the rule, the host, the text; `-` for what there is not.

use crate::outbound::Reason;

/// The longest line, in octets; the text is cut to fit. See `DeferredState::reason`.
pub(crate) const LINE_MAX: usize = 512;

/// Writes a reason, and the host that gave it, as one line.
pub(crate) fn to_line(reason: &Reason, host: Option<&str>) -> String {
    let code = reason
        .code
        .map_or_else(|| "-".to_owned(), |code| code.to_string());
    let mut line = [
        &code,
        &reason.status,
        &reason.stage,
        &reason.rule,
        host.unwrap_or("-"),
    ]
    .map(|word| {
        if word.is_empty() {
            "-".to_owned()
        } else {
            word.replace(' ', "_")
        }
    })
    .join(" ");
    line.push(' ');
    line.push_str(&reason.text);
    truncate(&mut line, LINE_MAX);
    line
}

/// Reads a line back. Any text is a line: what is not in the form is the text of an unknown reason.
pub(crate) fn from_line(line: &str) -> (Reason, Option<String>) {
    let mut words = line.splitn(6, ' ');
    let mut word = || words.next();
    let (Some(code), Some(status), Some(stage), Some(rule), Some(host), Some(text)) =
        (word(), word(), word(), word(), word(), word())
    else {
        return (unknown(line), None);
    };
    if code != "-" && code.parse::<u16>().is_err() {
        return (unknown(line), None);
    }
    let or_empty = |word: &str| {
        if word == "-" {
            String::new()
        } else {
            word.to_owned()
        }
    };
    let reason = Reason {
        stage: or_empty(stage),
        code: code.parse().ok(),
        status: or_empty(status),
        text: text.to_owned(),
        rule: or_empty(rule),
    };
    (reason, (host != "-").then(|| host.to_owned()))
}

/// A line with few values: the codes and the rule without host and text.
pub(crate) fn short_line(line: &str) -> String {
    let (mut reason, _) = from_line(line);
    reason.text = String::new();
    to_line(&reason, None)
}

/// Cuts a text to at most `max` octets, between characters.
pub(crate) fn truncate(text: &mut String, max: usize) {
    if text.len() > max {
        text.truncate(text.floor_char_boundary(max));
    }
}

fn unknown(line: &str) -> Reason {
    Reason {
        stage: String::new(),
        code: None,
        status: "4.0.0".to_owned(),
        text: line.to_owned(),
        rule: "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(code: Option<u16>, text: &str) -> Reason {
        Reason {
            stage: "rcpt".into(),
            code,
            status: "4.2.0".into(),
            text: text.into(),
            rule: "rcpt-4xx".into(),
        }
    }

    #[test]
    fn a_line_reads_back_what_it_writes() {
        for code in [None, Some(450)] {
            for text in ["", "Greylisted, try  again later ", "é"] {
                for host in [None, Some("mx.example.com")] {
                    let reason = reason(code, text);
                    let line = to_line(&reason, host);
                    assert_eq!(
                        from_line(&line),
                        (reason, host.map(str::to_owned)),
                        "{line}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_line_is_bounded_and_any_text_is_one() {
        let line = to_line(&reason(Some(450), &"é".repeat(600)), Some("mx.example.com"));
        assert!(line.len() <= LINE_MAX && line.len() > LINE_MAX - 2);
        assert_eq!(from_line("who knows").0.text, "who knows");
        assert_eq!(from_line("a b c d e f g").0.text, "a b c d e f g");
        assert_eq!(short_line(&line), "450 4.2.0 rcpt rcpt-4xx - ");
    }
}
