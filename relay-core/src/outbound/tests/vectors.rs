//! CLI-02: the behaviours of fake-mail-server, each under each TLS policy.
//!
//! The files are read where the shared vectors are beside the project, as `../shared/vectors`; nothing
//! of them is copied. Of their format (RON) only what they use is read.

use std::path::{Path, PathBuf};

use super::sink::{Act, say};
use super::tls::Authority;
use super::*;

const FOLDER: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../shared/vectors/fake-mail-server"
);

/// 59 behaviours and 4 certificates.
const FILES: usize = 63;

/// What a file says.
#[derive(Debug, Default)]
struct Case {
    name: String,
    starttls_offered: bool,
    greeting: Option<String>,
    overrides: Vec<(String, String)>,
    hidden: Vec<String>,
    starttls: Option<String>,
    transition: bool,
}

#[test]
fn every_behaviour_ends_by_its_class() {
    let files = files(Path::new(FOLDER));
    if files.is_empty() {
        return skipped();
    }
    assert_eq!(files.len(), FILES, "the vectors are not whole");
    let authority = Authority::new();
    let mut broken = authority.broken().into_iter().cycle();
    for (name, text) in files {
        let case = parse(&name, &text);
        let bad_certificate = name.contains("T_");
        let tls = if bad_certificate {
            broken.next().unwrap().1
        } else {
            authority.good()
        };
        for level in [
            TlsLevel::None,
            TlsLevel::Opportunistic,
            TlsLevel::Require,
            TlsLevel::Verify,
        ] {
            let mut script = case.script();
            script.tls = Some(Arc::clone(&tls));
            let mut world = World::with(script).level(level).mail(&Mail::default());
            world.tls = authority.client();
            let run = world.run();
            let what = format!("{name} under {level:?}: {run:?}");
            assert_eq!(
                run.fates(),
                case.expected(level, bad_certificate).to_string(),
                "{what}"
            );
            assert!(run.took < Duration::from_secs(3600), "{what}");
            let taken = world.mx().taken();
            assert_eq!(taken.len(), usize::from(run.fates() == "d"), "{what}");
            if level >= TlsLevel::Require {
                assert!(taken.iter().all(|taken| taken.tls), "{what}");
                assert!(
                    !world
                        .mx()
                        .commands()
                        .iter()
                        .any(|line| line.starts_with("MAIL")),
                    "{what}"
                );
            }
        }
    }
}

impl Case {
    fn script(&self) -> Script {
        let mut script = Script::default();
        if self.starttls_offered {
            script.offers.push("STARTTLS".into());
        }
        if let Some(greeting) = &self.greeting {
            script.greeting = vec![Act::Say(greeting.clone())];
        }
        for (command, reply) in &self.overrides {
            script = script.on(command, vec![Act::Say(reply.clone())]);
        }
        for command in &self.hidden {
            script = script.on(command, say("502 5.5.1 what?"));
        }
        if let Some(reply) = &self.starttls {
            let mut acts = vec![Act::Say(reply.clone())];
            if self.transition {
                acts.push(Act::StartTls);
            }
            script = script.on("starttls", acts);
        }
        script
    }

    /// RFC 5321 §4.2.1 by hand: the first reply that decides.
    fn expected(&self, level: TlsLevel, bad_certificate: bool) -> char {
        let scripted = |command: &str| {
            let text = self
                .overrides
                .iter()
                .find(|(name, _)| name == command)?
                .1
                .as_str();
            text.get(..3)?.parse::<u16>().ok()
        };
        let greeting = self
            .greeting
            .as_deref()
            .map_or(220, |text| text[..3].parse().unwrap());
        match greeting {
            500.. => return 'b',
            220 => {}
            _ => return 'f',
        }
        let hidden = |command: &str| self.hidden.iter().any(|name| name == command);
        let mut hello = scripted("ehlo").unwrap_or(if hidden("ehlo") { 502 } else { 250 });
        let mut offered = self.starttls_offered && hello == 250 && scripted("ehlo").is_none();
        if hello >= 500 {
            offered = false;
            hello = scripted("helo").unwrap_or(250);
        }
        match hello {
            500.. => return 'b',
            221 => return 'f',
            200..300 => {}
            _ => return 'f',
        }
        let starttls = match (&self.starttls, scripted("starttls")) {
            (Some(text), _) => text[..3].parse().unwrap(),
            (None, Some(code)) => code,
            (None, None) => 220,
        };
        if offered && level > TlsLevel::None && starttls == 421 {
            return 'f';
        }
        let works = offered
            && starttls == 220
            && scripted("starttls").is_none()
            && (self.starttls.is_none() || self.transition);
        match level {
            TlsLevel::None | TlsLevel::Opportunistic => 'd',
            TlsLevel::Require if works => 'd',
            TlsLevel::Verify if works && !bad_certificate => 'd',
            TlsLevel::Require | TlsLevel::Verify | TlsLevel::Dane => 'f',
        }
    }
}

#[expect(clippy::print_stderr, reason = "a test that did not run must be seen")]
#[expect(clippy::disallowed_macros, reason = "as above")]
fn skipped() {
    eprintln!("SKIPPED: {FOLDER} is not here: CLI-02 was not run");
}

/// Every `.ron` file under a folder, by name.
#[expect(clippy::disallowed_methods, reason = "a test may read its vectors")]
fn files(folder: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            continue;
        };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "ron") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path.to_string_lossy().into_owned(), text));
            }
        }
    }
    found.sort();
    found
}

fn parse(name: &str, text: &str) -> Case {
    let text = without_comments(text);
    let list = |key: &str| {
        let at = text
            .find(&format!("{key}:"))
            .or_else(|| text.find(&format!("{key} :")))?;
        let rest = &text[at..];
        let start = rest.find(['[', '{'])?;
        let close = if rest[start..].starts_with('[') {
            ']'
        } else {
            '}'
        };
        // `capabilities` holds lists of its own; what is asked of it stands before them or after.
        let end = if key == "capabilities" {
            rest.find("capabilities_tls")?
        } else {
            rest.find(close)?
        };
        Some(rest[start..end].to_owned())
    };
    let value = |key: &str| {
        let at = text.find(&format!("{key}:"))?;
        strings(&text[at..]).into_iter().next()
    };
    let pairs = strings(&list("override_response").unwrap_or_default());
    let overrides = pairs.chunks_exact(2);
    Case {
        name: name.into(),
        starttls_offered: list("capabilities").unwrap().contains("StartTLS"),
        greeting: value("greeting"),
        overrides: overrides
            .map(|pair| (pair[0].to_lowercase(), pair[1].clone()))
            .collect(),
        hidden: strings(&list("hide_commands").unwrap_or_default()),
        starttls: value("stls_response"),
        transition: !text.contains("stls_make_transition: false"),
    }
}

/// The string literals of a text, unescaped.
fn strings(text: &str) -> Vec<String> {
    text.split('"')
        .skip(1)
        .step_by(2)
        .map(|literal| literal.replace("\\r", "\r").replace("\\n", "\n"))
        .collect()
}

/// None of the files has a comment sign within a string.
fn without_comments(text: &str) -> String {
    text.lines()
        .map(|line| line.split("//").next().unwrap_or_default().to_owned() + "\n")
        .collect()
}

#[test]
fn the_reader_of_the_vectors_reads() {
    let case = parse(
        "x",
        r#"(
            capabilities: [StartTLS], // a comment
            capabilities_tls: [Auth([Plain])],
            greeting: "554 no\r\n",
            override_response: { "EHLO": "500 what\r\n", "helo": "221 bye\r\n" },
            //stls_response: "220 go\r\n",
            hide_commands: ["starttls"],
            stls_make_transition: false,
        )"#,
    );
    assert!(case.starttls_offered && !case.transition);
    assert_eq!(case.greeting.as_deref(), Some("554 no\r\n"));
    assert_eq!(
        case.overrides,
        [
            ("ehlo".into(), "500 what\r\n".into()),
            ("helo".into(), "221 bye\r\n".into())
        ]
    );
    assert_eq!(case.hidden, ["starttls"]);
    assert_eq!(case.starttls, None);
    assert_eq!(case.name, "x");
}
