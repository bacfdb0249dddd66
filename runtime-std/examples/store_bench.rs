//! How fast messages become durable, beside the plain way: one file a message.
//!
//! ```text
//! cargo run --release -p runtime-std --example store_bench -- [DIR] [SECONDS] [SIZE]
//! ```
//!
//! Each producer hands over a message, waits for its receipt, discards it, and begins again. The
//! reference writes, syncs, names and syncs the directory, as a queue of files must. Both run in DIR
//! (by default the system's directory for temporary files): choose one on the disk that counts.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use relay_core::id::{MessageId, WriteId};
use relay_core::queue::message::{Body, BodyKind, Envelope, Message, Origin, Recipient};
use relay_core::queue::record::Progress;
use relay_core::queue::store::{Place, Store, StoreFailed, StoreMessage, StoreSink};
use relay_core::time::UnixTime;
use runtime_std::store::{Options, SegmentStore, StdDisk};
use smtp_proto::{Mailbox, ReversePath};

const PRODUCERS: [usize; 4] = [1, 8, 64, 256];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = dir.join(format!("store-bench-{}", std::process::id()));
    let seconds = args.next().map_or(Ok(3), |text| text.parse())?;
    let size = args.next().map_or(Ok(10_240), |text| text.parse())?;
    let time = Duration::from_secs(seconds);
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{size} octets a message, {seconds} s each, in {}",
        dir.display()
    )?;
    writeln!(
        out,
        "producers | store: messages/s  CPU µs | files: messages/s  CPU µs | ratio"
    )?;
    for producers in PRODUCERS {
        let store = run_store(&dir.join("store"), producers, time, size)?;
        let files = run_files(&dir.join("files"), producers, time, size)?;
        writeln!(
            out,
            "{producers:>9} | {:>17.0} {:>7.1} | {:>17.0} {:>7.1} | {:>5.1}",
            store.rate,
            store.cpu,
            files.rate,
            files.cpu,
            store.rate / files.rate
        )?;
        fs::remove_dir_all(&dir)?;
    }
    let (count, took) = run_recovery(&dir)?;
    writeln!(
        out,
        "recovery of {count} messages of 2048 octets: {:.2} s",
        took.as_secs_f64()
    )?;
    fs::remove_dir_all(&dir)?;
    Ok(())
}

/// What a run gave.
struct Figures {
    rate: f64,
    /// Microseconds of processor time a message, of all threads.
    cpu: f64,
}

/// Runs `work` on so many threads for a while, after a second of warming up; `work` says when a message
/// is done.
fn measure(
    producers: usize,
    time: Duration,
    work: impl Fn(usize, &dyn Fn() -> bool) + Sync,
) -> Figures {
    let (done, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let go_on = || {
        done.fetch_add(1, Ordering::Relaxed);
        !over.load(Ordering::Relaxed)
    };
    thread::scope(|scope| {
        for producer in 0..producers {
            let (work, go_on) = (&work, &go_on);
            scope.spawn(move || work(producer, go_on));
        }
        thread::sleep(Duration::from_secs(1));
        let (start, cpu, count) = (Instant::now(), cpu_time(), done.load(Ordering::Relaxed));
        thread::sleep(time);
        let count = (done.load(Ordering::Relaxed) - count) as f64;
        let (wall, cpu) = (start.elapsed(), cpu_time() - cpu);
        over.store(true, Ordering::Relaxed);
        Figures {
            rate: count / wall.as_secs_f64(),
            cpu: cpu.as_secs_f64() * 1e6 / count,
        }
    })
}

/// The processor time of this process, on Linux; elsewhere zero.
fn cpu_time() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or("").split_whitespace();
    // utime and stime, in hundredths of a second: fields 14 and 15 of proc_pid_stat(5).
    let ticks: u64 = fields
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Duration::from_millis(ticks * 10)
}

fn run_store(dir: &Path, producers: usize, time: Duration, size: usize) -> io::Result<Figures> {
    let store = SegmentStore::open(dir, Options::default(), Arc::new(StdDisk));
    let store = store.map_err(|e| io::Error::other(e.to_string()))?;
    store
        .recover(&mut |_| std::ops::ControlFlow::Continue(()))
        .map_err(|e| io::Error::other(e.to_string()))?;
    let desks: Arc<Vec<Desk>> = Arc::new((0..producers).map(|_| Desk::default()).collect());
    store.start(Arc::new(Sink(Arc::clone(&desks))))?;
    let body = Bytes::from(vec![b'x'; size]);
    let figures = measure(producers, time, |producer, go_on| {
        let mut number = producer as u64;
        loop {
            number += producers as u64;
            let message = Arc::new(message(number, size));
            let id = message.id;
            let body = Body::Memory(body.clone());
            store.write(WriteId(producer as u64), StoreMessage { message, body });
            match desks[producer].wait() {
                Ok(place) => store.discard(id, place),
                Err(_) => return,
            }
            if !go_on() {
                return;
            }
        }
    });
    store.close();
    Ok(figures)
}

/// How long it takes to find a queue again.
fn run_recovery(dir: &Path) -> io::Result<(u64, Duration)> {
    const EACH: u64 = 400;
    let open = || {
        let store = SegmentStore::open(dir, Options::default(), Arc::new(StdDisk));
        store.map_err(|e| io::Error::other(e.to_string()))
    };
    let recover = |store: &SegmentStore| {
        let mut found = 0;
        let each = &mut |_| {
            found += 1;
            std::ops::ControlFlow::Continue(())
        };
        store
            .recover(each)
            .map_err(|e| io::Error::other(e.to_string()))
            .map(|()| found)
    };
    let store = open()?;
    recover(&store)?;
    let desks: Arc<Vec<Desk>> = Arc::new((0..256).map(|_| Desk::default()).collect());
    store.start(Arc::new(Sink(Arc::clone(&desks))))?;
    let body = Bytes::from(vec![b'x'; 2048]);
    thread::scope(|scope| {
        for (producer, desk) in (0..).zip(desks.iter()) {
            let (store, body) = (&store, &body);
            scope.spawn(move || {
                for number in producer * EACH..(producer + 1) * EACH {
                    let message = Arc::new(message(number, body.len()));
                    let body = Body::Memory(body.clone());
                    store.write(WriteId(producer), StoreMessage { message, body });
                    desk.wait().expect("the disk works");
                }
            });
        }
    });
    store.close();
    let start = Instant::now();
    Ok((recover(&*open()?)?, start.elapsed()))
}

fn message(number: u64, size: usize) -> Message {
    let mailbox = |text: &str| Mailbox::parse(text).expect("a valid address");
    let to = mailbox("someone@example.net");
    Message {
        id: MessageId::from_u64(number),
        accepted: UnixTime::from_secs(1_700_000_000),
        origin: Origin {
            credential: Some("app".to_owned()),
            peer: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        },
        envelope: Envelope {
            from: ReversePath::Mailbox(mailbox("sender@example.com")),
            ret: None,
            envid: None,
            body: BodyKind::SevenBit,
            smtputf8: false,
            handling: Default::default(),
            recipients: vec![Recipient {
                to,
                notify: None,
                orcpt: None,
            }],
        },
        prefix: bytes::Bytes::new(),
        size: size as u64,
        header_size: 100,
    }
}

/// Where a producer waits for its receipt.
#[derive(Default)]
struct Desk {
    receipt: Mutex<Option<Result<Place, StoreFailed>>>,
    came: Condvar,
}

impl Desk {
    fn wait(&self) -> Result<Place, StoreFailed> {
        let mut receipt = self.receipt.lock().expect("no thread panics");
        loop {
            if let Some(result) = receipt.take() {
                return result;
            }
            receipt = self.came.wait(receipt).expect("no thread panics");
        }
    }
}

struct Sink(Arc<Vec<Desk>>);

impl StoreSink for Sink {
    fn stored(&self, results: Vec<(WriteId, Result<Place, StoreFailed>)>) {
        for (write, result) in results {
            let desk = &self.0[usize::try_from(write.0).expect("a producer's number")];
            *desk.receipt.lock().expect("no thread panics") = Some(result);
            desk.came.notify_one();
        }
    }

    fn live(&self, messages: &[(MessageId, Place)]) -> Vec<bool> {
        vec![true; messages.len()]
    }

    fn moved(&self, _messages: &[(MessageId, Place, Place)]) {}

    fn snapshot(&self, _after: Option<MessageId>, _max: usize) -> Vec<(MessageId, Progress)> {
        Vec::new()
    }
}

fn run_files(dir: &Path, producers: usize, time: Duration, size: usize) -> io::Result<Figures> {
    fs::create_dir_all(dir)?;
    let body = vec![b'x'; size];
    let figures = measure(producers, time, |producer, go_on| {
        let mut number = 0;
        loop {
            number += 1;
            let (new, name) = (
                dir.join(format!("{producer}-{number}.new")),
                dir.join(format!("{producer}-{number}")),
            );
            let kept = File::create(&new)
                .and_then(|mut file| file.write_all(&body).and_then(|()| file.sync_data()))
                .and_then(|()| fs::rename(&new, &name))
                .and_then(|()| File::open(dir)?.sync_all())
                .and_then(|()| fs::remove_file(&name));
            if kept.is_err() || !go_on() {
                return;
            }
        }
    });
    Ok(figures)
}
