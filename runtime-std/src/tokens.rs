//! Bearer tokens for routes: from a file, or from a command that is run for them.
//!
//! A file is read at each login: whoever renews the token writes it there. What a command wrote is used for
//! a minute, so that a burst of connections runs it once; a token that a host refused is never used again.
//! Everything is bounded: the size of what is read, and the time that a command has.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use relay_core::config::TokenSource;
use relay_core::sasl::is_token;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process_group};

/// The most octets of a file or of what a command writes.
const OCTETS_MAX: usize = 16 * 1024;

/// How long a command may run.
const COMMAND_MAX: Duration = Duration::from_secs(10);

/// How long the token of a command is used.
const KEPT: Duration = Duration::from_mins(1);

/// The tokens of all routes.
#[derive(Default)]
pub(crate) struct Tokens {
    /// What commands wrote last, each behind its own lock: one runs at a time.
    commands: Mutex<BTreeMap<TokenSource, Arc<Mutex<Option<Written>>>>>,
}

struct Written {
    token: String,
    at: Instant,
}

impl Tokens {
    /// A token. `refused` is one that a host did not take: another one is wanted.
    ///
    /// # Errors
    /// What is wrong, without what was read. It may block for [`COMMAND_MAX`].
    pub(crate) fn token(
        &self,
        source: &TokenSource,
        refused: Option<&str>,
    ) -> Result<String, String> {
        let said = |why: String| format!("no token from {source}: {why}");
        let token = match source {
            TokenSource::File(path) => read_file(path).map_err(said)?,
            TokenSource::Command(words) => self.of_command(source, words, refused).map_err(said)?,
        };
        match refused {
            Some(refused) if refused == token => Err(said("the host refused the one there".into())),
            _ => Ok(token),
        }
    }

    fn of_command(
        &self,
        source: &TokenSource,
        words: &[String],
        refused: Option<&str>,
    ) -> Result<String, String> {
        let written = Arc::clone(lock(&self.commands).entry(source.clone()).or_default());
        let mut written = lock(&written);
        if let Some(Written { token, at }) = &*written
            && at.elapsed() < KEPT
            && refused != Some(token)
        {
            return Ok(token.clone());
        }
        let token = first_line(&run(words)?)?;
        *written = Some(Written {
            token: token.clone(),
            at: Instant::now(),
        });
        Ok(token)
    }
}

/// The token in a file.
///
/// # Errors
/// It cannot be read, or holds none.
pub(crate) fn read_file(path: &Path) -> Result<String, String> {
    let mut octets = Vec::new();
    File::open(path)
        .and_then(|file| file.take(OCTETS_MAX as u64).read_to_end(&mut octets))
        .map_err(|error| error.to_string())?;
    first_line(&octets)
}

fn first_line(octets: &[u8]) -> Result<String, String> {
    let line = octets.split(|&octet| octet == b'\n').next().unwrap_or(&[]);
    let line = std::str::from_utf8(line).map(str::trim).unwrap_or_default();
    match is_token(line) {
        true => Ok(line.to_owned()),
        false => Err("its first line is no token: printable characters without spaces".into()),
    }
}

/// Runs a command and gives what it wrote. It is killed, with all that it started, when its time is over
/// or it writes too much.
fn run(words: &[String]) -> Result<Vec<u8>, String> {
    let (program, arguments) = words.split_first().ok_or("no command")?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|error| format!("cannot be run: {error}"))?;
    let until = Instant::now() + COMMAND_MAX;
    let written = match child.stdout.take() {
        Some(out) => {
            read_until(out, until).and_then(|octets| wait_until(&mut child, until, octets))
        }
        None => Err("has no output".to_owned()),
    };
    if written.is_err() {
        if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            // It may be gone already.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = child.wait();
    }
    written
}

fn read_until(mut out: ChildStdout, until: Instant) -> Result<Vec<u8>, String> {
    let mut octets = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timespec = Timespec::try_from(left).ok();
        let mut fds = [PollFd::from_borrowed_fd(out.as_fd(), PollFlags::IN)];
        match poll(&mut fds, timespec.as_ref()) {
            Ok(0) => return Err(format!("took longer than {} s", COMMAND_MAX.as_secs())),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.to_string()),
        }
        match out.read(&mut piece) {
            Ok(0) => return Ok(octets),
            Ok(len) => octets.extend_from_slice(&piece[..len]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.to_string()),
        }
        if octets.len() > OCTETS_MAX {
            return Err(format!("wrote more than {OCTETS_MAX} octets"));
        }
    }
}

/// A command that closed its output is about to end.
fn wait_until(child: &mut Child, until: Instant, octets: Vec<u8>) -> Result<Vec<u8>, String> {
    loop {
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) if status.success() => return Ok(octets),
            Some(status) => return Err(format!("failed: {status}")),
            None if Instant::now() >= until => {
                return Err(format!("took longer than {} s", COMMAND_MAX.as_secs()));
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> TokenSource {
        TokenSource::Command(vec!["/bin/sh".into(), "-c".into(), script.into()])
    }

    fn scratch(name: &str) -> std::path::PathBuf {
        let name = format!("relay-token-{}-{name}", std::process::id());
        std::env::temp_dir().join(name)
    }

    #[test]
    fn a_file_is_read_anew_and_a_refused_token_is_not_given_again() {
        let path = scratch("file");
        let (tokens, source) = (Tokens::default(), TokenSource::File(path.clone()));
        assert!(tokens.token(&source, None).is_err());
        std::fs::write(&path, "first\nsecond line\n").unwrap();
        assert_eq!(tokens.token(&source, None).unwrap(), "first");
        let error = tokens.token(&source, Some("first")).unwrap_err();
        assert!(error.contains("refused"), "{error}");
        std::fs::write(&path, "second\n").unwrap();
        assert_eq!(tokens.token(&source, Some("first")).unwrap(), "second");
        for bad in ["", "two words\n", "\u{1b}[1m\n"] {
            std::fs::write(&path, bad).unwrap();
            assert!(tokens.token(&source, None).is_err(), "{bad:?}");
        }
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_command_runs_once_for_many_and_again_for_a_refusal() {
        let count = scratch("count");
        let path = count.display();
        let source = shell(&format!("echo x >> {path}; echo token-$(wc -l < {path})"));
        let tokens = Tokens::default();
        assert_eq!(tokens.token(&source, None).unwrap(), "token-1");
        assert_eq!(tokens.token(&source, None).unwrap(), "token-1");
        assert_eq!(tokens.token(&source, Some("token-1")).unwrap(), "token-2");
        assert_eq!(tokens.token(&source, None).unwrap(), "token-2");
        std::fs::remove_file(&count).unwrap();
    }

    #[test]
    fn a_command_that_fails_or_talks_too_much_gives_no_token() {
        let tokens = Tokens::default();
        for (script, why) in [
            ("echo token; exit 3", "exit status: 3"),
            ("exit 0", "no token"),
            ("yes | head -c 100000", "more than"),
        ] {
            let error = tokens.token(&shell(script), None).unwrap_err();
            assert!(error.contains(why), "{script}: {error}");
        }
        let absent = TokenSource::Command(vec!["/nowhere/at all".into(), "a secret".into()]);
        let error = tokens.token(&absent, None).unwrap_err();
        assert!(
            error.contains("cannot be run") && !error.contains("secret"),
            "{error}"
        );
    }
}
