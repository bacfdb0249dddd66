//! The command line as somebody types it: what it prints, what it makes, how it ends.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on may stop")]

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output};

/// A directory of its own for each test, removed at the end.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let name = format!("relay-command-line-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// Runs the relay with these arguments, in this directory.
    fn run(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_smtp-relay-std"))
            .args(args)
            .current_dir(&self.0)
            .output()
            .unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn a_first_run_that_fails_still_shows_the_secret() {
    let place = Place::new("secret");
    // Whether we get it or somebody has it: the relay does not.
    let _taken = TcpListener::bind("127.0.0.1:2587");
    let first = place.run(&["serve"]);
    assert_eq!(first.status.code(), Some(1));
    assert!(text(&first.stdout).contains("Credential \"app\", its secret is shown this once: "));
    let why = text(&first.stderr);
    assert!(why.contains("cannot listen on 127.0.0.1:2587"), "{why}");
    let second = place.run(&["serve"]);
    assert_eq!(second.status.code(), Some(1));
    assert_eq!(text(&second.stdout), "");
}

#[test]
fn exit_codes_tell_a_failure_from_a_wrong_command() {
    let place = Place::new("codes");
    for (args, code) in [
        (&["--help"][..], 0),
        (&["credential", "add", "a", "--sender", "*"], 0),
        (&["credential", "add", "a", "--sender", "*"], 1),
        (&["credential", "add", "b", "--sender", "a..b"], 2),
        (&["credential", "remove", "b"], 1),
        (&["check"], 0),
        (&["check", "--config", "none.toml"], 1),
        (&["status"], 1),
        (&["queue", "retry"], 2),
        (&["queue", "list", "--older-than", "2"], 2),
        (&["report", "none.json"], 1),
        (&["report"], 2),
        (&["bogus"], 2),
        (&[], 2),
    ] {
        let ended = place.run(args);
        assert_eq!(ended.status.code(), Some(code), "{args:?}: {ended:?}");
    }
}

#[test]
fn a_relay_that_does_not_run_is_told_with_where_it_was_looked_for() {
    let place = Place::new("nobody");
    for args in [
        &["status"][..],
        &["reload"],
        &["queue", "list"],
        &["trace", "1M858W02C0000"],
    ] {
        let ended = place.run(args);
        let why = text(&ended.stderr);
        assert!(
            why.contains("no relay answers at relay-data/admin.sock"),
            "{why}"
        );
    }
}
