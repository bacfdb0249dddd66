//! The journal of delivery events: one JSON line each, in files by day and size, kept for `trace`; and the log.
//!
//! Events are pushed from under the engine's lock and written by one thread. The files are not synced:
//! the journal tells the story of a message, the store keeps the message.

mod files;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use relay_core::events::{ClientEvent, DeliveryEvent, EventKind, name_recipients};
use relay_core::id::MessageId;

use files::{Files, Limits};

/// Events that wait to be written, at most: past it, the disk stands still and the oldest are dropped.
const WAITING_MAX: usize = 20_000;

/// The same for what clients did, of which the engine tells little.
const TOLD_MAX: usize = 2000;

/// How long events are gathered before they are written: a busy relay then makes few system calls for
/// many events.
const GATHER: Duration = Duration::from_millis(50);

/// How delivery events are logged on stderr.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogEvents {
    /// Not at all: an embedder has its own sink.
    #[default]
    Off,
    /// The journal's own JSON lines.
    Json,
    /// Short lines for people.
    Human(Colour),
}

/// Whether lines for people are coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// For a terminal.
    On,
    /// For a file or a pipe.
    Off,
}

/// Writes events to `data_dir/events/` and reads them back.
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
    queue: Mutex<Queue>,
    /// There is something to write, or somebody waits until all is written, or the journal is closed.
    wanted: Condvar,
    /// A batch was written.
    written: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<Box<DeliveryEvent>>,
    /// What clients did: for the log only, since no message's story has it.
    told: Vec<ClientEvent>,
    dropped: u64,
    /// Events that were pushed since the start, and how many of them are written or dropped.
    pushed: u64,
    settled: u64,
    /// The thread waits for events: wake it.
    idle: bool,
    /// How many wait until something is written.
    draining: usize,
    closed: bool,
}

impl Journal {
    /// Opens the journal and starts its thread.
    ///
    /// # Errors
    /// If the directory cannot be made or the thread not started.
    pub fn open(data_dir: &Path, log: LogEvents) -> io::Result<Arc<Self>> {
        let dir = data_dir.join("events");
        let files = Files::new(dir.clone(), Limits::default())?;
        let journal = Arc::new(Self {
            dir,
            queue: Mutex::default(),
            wanted: Condvar::new(),
            written: Condvar::new(),
            thread: Mutex::default(),
        });
        let writer = Arc::clone(&journal);
        let thread = std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || writer.write_until_closed(files, log))?;
        *lock(&journal.thread) = Some(thread);
        Ok(journal)
    }

    /// Takes an event, to be written soon. It does not block.
    pub fn push(&self, event: Box<DeliveryEvent>) {
        let mut queue = lock(&self.queue);
        if queue.events.len() >= WAITING_MAX {
            queue.events.pop_front();
            queue.dropped += 1;
        }
        queue.events.push_back(event);
        queue.pushed += 1;
        if std::mem::take(&mut queue.idle) {
            drop(queue);
            self.wanted.notify_one();
        }
    }

    /// Takes something that a client did, to be logged soon. It does not block.
    pub fn tell(&self, event: ClientEvent) {
        let mut queue = lock(&self.queue);
        if queue.told.len() >= TOLD_MAX {
            return;
        }
        queue.told.push(event);
        if std::mem::take(&mut queue.idle) {
            drop(queue);
            self.wanted.notify_one();
        }
    }

    /// Every event of a message that is still kept, in order.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn trace(&self, id: MessageId) -> io::Result<Vec<DeliveryEvent>> {
        self.drain();
        let id = id.to_string();
        let needle = format!("\"id\":\"{id}\"");
        let finder = memchr::memmem::Finder::new(needle.as_bytes());
        let mut events = Vec::new();
        for (path, _) in files::list(&self.dir)? {
            let file = match File::open(path) {
                // The oldest file may go at any time.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                file => file?,
            };
            let mut lines = BufReader::with_capacity(64 * 1024, file);
            let mut line = Vec::new();
            while lines.read_until(b'\n', &mut line)? > 0 {
                if finder.find(&line).is_some()
                    && let Ok(event) = serde_json::from_slice::<DeliveryEvent>(&line)
                    && event.id == id
                {
                    events.push(event);
                }
                line.clear();
            }
        }
        name_recipients(&mut events);
        Ok(events)
    }

    /// Waits until all that was pushed before this call is written.
    pub fn drain(&self) {
        let mut queue = lock(&self.queue);
        let pushed = queue.pushed;
        queue.draining += 1;
        self.wanted.notify_one();
        while queue.settled < pushed && !queue.closed {
            queue = self
                .written
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
        queue.draining -= 1;
    }

    /// Writes what waits and ends the thread.
    pub fn close(&self) {
        lock(&self.queue).closed = true;
        self.wanted.notify_one();
        if let Some(thread) = lock(&self.thread).take() {
            let _ = thread.join();
        }
    }

    fn write_until_closed(&self, mut files: Files, log: LogEvents) {
        let mut text = Vec::new();
        let mut written = 0;
        while let Some(Batch {
            events,
            told,
            dropped,
        }) = self.next_batch(written)
        {
            written = events.len() as u64 + dropped;
            if dropped > 0 {
                tracing::error!(dropped, "the journal cannot keep up; events were dropped");
            }
            text.clear();
            keep(&events, &mut files, &mut text);
            let mut human = String::new();
            if let LogEvents::Human(colour) = log {
                human.extend(events.iter().map(|event| human_line(event, colour)));
            }
            for event in &told {
                match log {
                    LogEvents::Off => {}
                    LogEvents::Json => {
                        let _ = serde_json::to_writer(&mut text, event);
                        text.push(b'\n');
                    }
                    LogEvents::Human(colour) => human.push_str(&told_line(event, colour)),
                }
            }
            // Nothing useful can be done about a log that nobody reads.
            let _ = match log {
                LogEvents::Off => Ok(()),
                LogEvents::Json => io::stderr().write_all(&text),
                LogEvents::Human(_) => io::stderr().write_all(human.as_bytes()),
            };
        }
    }

    /// What waits to be written; `settled` of the last batch are done with. None at the end.
    fn next_batch(&self, settled: u64) -> Option<Batch> {
        let mut queue = lock(&self.queue);
        queue.settled += settled;
        if queue.draining > 0 {
            self.written.notify_all();
        }
        while queue.events.is_empty() && queue.told.is_empty() && !queue.closed {
            queue.idle = true;
            queue = self
                .wanted
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
        queue.idle = false;
        if queue.draining == 0 && !queue.closed {
            queue = self
                .wanted
                .wait_timeout(queue, GATHER)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        if queue.events.is_empty() && queue.told.is_empty() {
            // Nobody waits for what will not come.
            self.written.notify_all();
            return None;
        }
        Some(Batch {
            events: std::mem::take(&mut queue.events),
            told: std::mem::take(&mut queue.told),
            dropped: std::mem::take(&mut queue.dropped),
        })
    }
}

/// What is written at once.
struct Batch {
    events: VecDeque<Box<DeliveryEvent>>,
    told: Vec<ClientEvent>,
    /// Events that were dropped before these.
    dropped: u64,
}

/// What a client did, with its time.
fn told_line(event: &ClientEvent, colour: Colour) -> String {
    let time = &event.time;
    match colour {
        Colour::Off => format!("{time} {event}\n"),
        Colour::On => format!("\x1b[2m{time}\x1b[0m \x1b[33m{event}\x1b[0m\n"),
    }
}

/// Writes each day's events to its file; `text` has the lines of all.
fn keep(events: &VecDeque<Box<DeliveryEvent>>, files: &mut Files, text: &mut Vec<u8>) {
    let (mut day, mut start) = ("", 0);
    for event in events {
        let event_day = event.time.get(..10).unwrap_or("unknown");
        if event_day != day {
            if start < text.len() {
                files.append(day, &text[start..]);
            }
            (day, start) = (event_day, text.len());
        }
        // A struct of strings and numbers always serialises.
        let _ = serde_json::to_writer(&mut *text, event);
        text.push(b'\n');
    }
    if start < text.len() {
        files.append(day, &text[start..]);
    }
}

/// An event with its time; in colour, what needs somebody's eye is yellow or red.
fn human_line(event: &DeliveryEvent, colour: Colour) -> String {
    let time = &event.time;
    let paint = match (&event.kind, colour) {
        (_, Colour::Off) => return format!("{time} {event}\n"),
        (EventKind::Accepted { .. } | EventKind::Changed { .. }, _) => "",
        (EventKind::Delivered(_), _) => "\x1b[32m",
        (
            EventKind::Deferred { .. }
            | EventKind::NotReported { .. }
            | EventKind::Preflight { .. },
            _,
        ) => "\x1b[33m",
        (EventKind::Bounced(_) | EventKind::Expired(_) | EventKind::Quarantined { .. }, _) => {
            "\x1b[31m"
        }
    };
    format!("\x1b[2m{time}\x1b[0m {paint}{event}\x1b[0m\n")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::atomic::{AtomicBool, Ordering};

    use relay_core::time::UnixTime;

    use super::*;

    fn event() -> DeliveryEvent {
        let why = "null sender".to_owned();
        let kind = EventKind::NotReported { why };
        DeliveryEvent::new(UnixTime::from_secs(0), MessageId::from_u64(1), kind)
    }

    #[test]
    fn nobody_else_reads_who_wrote_to_whom() {
        let name = format!("relay-journal-{}", std::process::id());
        let data_dir = std::env::temp_dir().join(name);
        let journal = Journal::open(&data_dir, LogEvents::Off).unwrap();
        journal.push(Box::new(event()));
        assert_eq!(journal.trace(MessageId::from_u64(1)).unwrap(), [event()]);
        journal.close();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&data_dir.join("events")), 0o700);
        assert_eq!(mode(&data_dir.join("events/1970-01-01.0000.jsonl")), 0o600);
        fs::remove_dir_all(&data_dir).unwrap();
    }

    #[test]
    fn a_trace_ends_while_events_keep_coming() {
        let name = format!("relay-journal-busy-{}", std::process::id());
        let data_dir = std::env::temp_dir().join(name);
        let journal = Journal::open(&data_dir, LogEvents::Off).unwrap();
        let mut traced = 0;
        let (stop, busy) = (&AtomicBool::new(false), &journal);
        std::thread::scope(|scope| {
            let pusher = scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    busy.push(Box::new(event()));
                    std::thread::yield_now();
                }
            });
            while traced == 0 {
                traced = journal.trace(MessageId::from_u64(1)).unwrap().len();
            }
            stop.store(true, Ordering::Relaxed);
            pusher.join().unwrap();
        });
        journal.close();
        assert!(traced > 0);
        fs::remove_dir_all(&data_dir).unwrap();
    }

    #[test]
    fn lines_for_people_have_the_time_and_colour_only_where_wanted() {
        let line = human_line(&event(), Colour::Off);
        assert_eq!(
            line,
            "1970-01-01T00:00:00.000Z 0000000000001 not-reported: null sender\n"
        );
        assert!(human_line(&event(), Colour::On).contains("\x1b[33m0000000000001"));
    }

    fn numbered(id: u64, number: u64) -> Box<DeliveryEvent> {
        let kind = EventKind::NotReported {
            why: number.to_string(),
        };
        let event = DeliveryEvent::new(UnixTime::from_secs(number), MessageId::from_u64(id), kind);
        Box::new(event)
    }

    #[test]
    fn a_trace_has_all_that_was_pushed_before_it_in_order() {
        let dir = std::env::temp_dir().join(format!("relay-journal-order-{}", std::process::id()));
        let journal = Journal::open(&dir, LogEvents::Off).unwrap();
        for number in 0..100 {
            journal.push(numbered(number % 3, number));
        }
        let trace = journal.trace(MessageId::from_u64(1)).unwrap();
        let expected: Vec<_> = (0..100).filter(|n| n % 3 == 1).collect();
        let found: Vec<_> = trace.iter().map(|event| event.time.clone()).collect();
        let times: Vec<_> = expected.iter().map(|&n| numbered(1, n).time).collect();
        assert_eq!(found, times);

        journal.push(numbered(7, 1));
        journal.close();
        assert_eq!(journal.trace(MessageId::from_u64(7)).unwrap().len(), 1);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_batch_over_midnight_goes_to_both_days_and_the_log_has_all() {
        let name = format!("relay-journal-midnight-{}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        let mut files = Files::new(dir.clone(), Limits::default()).unwrap();
        let events = VecDeque::from([
            numbered(1, 86_399),
            numbered(1, 86_400),
            numbered(1, 86_401),
        ]);
        let mut text = Vec::new();
        keep(&events, &mut files, &mut text);
        let read = |day: &str| fs::read_to_string(dir.join(format!("{day}.0000.jsonl"))).unwrap();
        let (first, second) = (read("1970-01-01"), read("1970-01-02"));
        assert_eq!((first.lines().count(), second.lines().count()), (1, 2));
        assert_eq!(String::from_utf8(text).unwrap(), first + &second);
        fs::remove_dir_all(dir).unwrap();
    }
}
