//! Sessions of the server connection as data: `transcripts/server/README.md` says how they read.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Session, config, unescape};
use smtp_proto::Extension;
use smtp_proto::dot::LineEndings;

#[test]
fn all() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/transcripts/server");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    files.sort();
    assert!(files.len() >= 5);
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        for size in [usize::MAX, 7, 1] {
            run(&format!("{} by {size}", path.display()), &text, size);
        }
    }
}

fn run(name: &str, text: &str, size: usize) {
    let mut settings = config();
    let mut tls = false;
    for setting in text.lines().filter_map(|line| line.strip_prefix("? ")) {
        match setting.split_once(' ') {
            None if setting == "tls" => tls = true,
            None if setting == "clear-auth" => settings.auth_without_tls = true,
            None if setting == "xclient" => settings = settings.with(Extension::XClient),
            None if setting == "normalise" => settings.line_endings = LineEndings::Normalise,
            Some(("size", octets)) => settings.limits.message_size = octets.parse().unwrap(),
            Some(("recipients", most)) => settings.limits.recipients = most.parse().unwrap(),
            _ => panic!("{name}: no such setting: {setting}"),
        }
    }
    let mut session = Session::new(settings);
    if tls {
        session.start_tls();
    }
    let mut written = Vec::new().into_iter();
    let mut said = Vec::new();
    for (number, line) in text
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line))
    {
        let (mark, rest) = line.split_at(line.len().min(3));
        match mark {
            "C: " | "C>" | "C> " | "C:" => {
                assert_eq!(
                    written.next(),
                    None,
                    "{name}:{number}: the server says more"
                );
                said.extend(unescape(rest));
                if mark.starts_with("C:") {
                    said.extend(b"\r\n");
                }
                continue;
            }
            "" => continue,
            _ if line.starts_with(['#', '?']) => continue,
            _ => {}
        }
        for part in std::mem::take(&mut said).chunks(size) {
            session.receive(part);
        }
        if written.len() == 0 {
            written = session.take_lines().into_iter();
        }
        match line.split_once(' ').unwrap() {
            ("S:", expected) => {
                assert_eq!(written.next().as_deref(), Some(expected), "{name}:{number}");
            }
            ("=", "tls") => session.start_tls(),
            ("=", "closed") => assert!(session.smtp.is_closed(), "{name}:{number}"),
            ("=", event) => {
                let message = event.strip_prefix("message ").expect("a known event");
                let last = session.messages.last().expect("a message").escape_ascii();
                let expected = unescape(message).escape_ascii().to_string();
                assert_eq!(last.to_string(), expected, "{name}:{number}");
            }
            other => panic!("{name}:{number}: {other:?}"),
        }
    }
    assert!(said.is_empty(), "{name}: ends with what the client says");
    assert_eq!(written.next(), None, "{name}: the server says more");
}
