//! The disk: in memory, it keeps what is durable apart from what is not, fails when told to, and
//! stops in the middle of anything.
//!
//! ```text
//!  write_at ─▶ data, and `dirty` ─ sync_data ─▶ durable
//!  create, rename, unlink ─▶ names, and `pending` ─ sync_dir ─▶ durable names
//!
//!  killed:    data and names stay as they are
//!  power cut: durable; of what is dirty each write survives, vanishes or is torn at its sectors, in
//!             any order; of pending names a prefix survives, as journals keep them
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use relay_core::rng::Rng;
use runtime_std::store::disk::{Lock, LockError};
use runtime_std::store::{Disk, DiskFile};

use super::agenda::Dice;
use super::profile::DiskWeather;

const SECTOR: usize = 512;

/// The octets of the disk when there is no trouble.
const SIZE: u64 = 1 << 30;

/// A disk. Clones are the same disk.
#[derive(Debug, Clone)]
pub(crate) struct SimDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    rng: Rng,
    weather: DiskWeather,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    pending: Vec<(PathBuf, Option<usize>)>,
    nodes: Vec<Node>,
    dirs: BTreeSet<PathBuf>,
    locked: bool,
    /// The machine stops when so many more calls were made.
    stops_in: Option<u64>,
    stopped: bool,
    /// `sync_data` lies: a planted fault.
    lies: bool,
    calls: u64,
    syncs: u64,
    faults: u64,
    wrong: Option<String>,
}

#[derive(Debug, Clone, Default)]
struct Node {
    data: Vec<u8>,
    durable: Vec<u8>,
    dirty: Vec<(usize, Vec<u8>)>,
    /// A sync of it failed.
    failed: bool,
}

/// Kinds of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Read,
    Write { grows: bool },
    Sync,
    Meta,
}

fn apply(data: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if data.len() < at + bytes.len() {
        data.resize(at + bytes.len(), 0);
    }
    data[at..at + bytes.len()].copy_from_slice(bytes);
}

impl State {
    /// Counts a call; true if it is to be done by half.
    fn call(&mut self, call: Call) -> io::Result<bool> {
        self.calls += 1;
        if let Some(left) = &mut self.stops_in {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.stops_in = None;
                self.stopped = true;
            }
        }
        if self.stopped {
            return Err(io::Error::other("the machine has stopped"));
        }
        let weather = self.weather;
        let (per_mille, full) = match call {
            Call::Read => (weather.read_per_mille, false),
            Call::Write { grows } => (weather.write_per_mille, weather.full && grows),
            Call::Sync => (weather.sync_per_mille, false),
            Call::Meta => (weather.meta_per_mille, false),
        };
        if full {
            self.faults += 1;
            return Err(ErrorKind::StorageFull.into());
        }
        if per_mille > 0 && self.rng.chance(per_mille) {
            self.faults += 1;
            return Err(io::Error::other("injected EIO"));
        }
        if weather.short_per_mille > 0 && self.rng.chance(weather.short_per_mille) {
            let short = matches!(call, Call::Read | Call::Write { .. });
            if short && self.rng.chance(300) {
                return Err(ErrorKind::Interrupted.into());
            }
            return Ok(short);
        }
        Ok(false)
    }

    fn set_name(&mut self, path: &Path, node: Option<usize>) {
        match node {
            Some(node) => self.names.insert(path.to_owned(), node),
            None => self.names.remove(path),
        };
        self.pending.push((path.to_owned(), node));
    }

    fn settle_names(&mut self, count: usize) {
        for (path, node) in self.pending.drain(..count) {
            match node {
                Some(node) => self.durable_names.insert(path, node),
                None => self.durable_names.remove(&path),
            };
        }
    }
}

/// Some sectors of an unsynced write reach the disk.
fn survive(durable: &mut Vec<u8>, at: usize, bytes: &[u8], rng: &mut Rng) {
    match rng.below(4) {
        0 => {}
        1 => apply(durable, at, bytes),
        _ => {
            let mut start = 0;
            while start < bytes.len() {
                let end = ((at + start) / SECTOR * SECTOR + SECTOR - at).min(bytes.len());
                if rng.below(2) == 0 {
                    apply(durable, at + start, &bytes[start..end]);
                }
                start = end;
            }
        }
    }
}

impl SimDisk {
    pub(crate) fn new(rng: Rng) -> Self {
        Self(Arc::new(Mutex::new(State {
            rng,
            weather: DiskWeather::default(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending: Vec::new(),
            nodes: Vec::new(),
            dirs: BTreeSet::new(),
            locked: false,
            stops_in: None,
            stopped: false,
            lies: false,
            calls: 0,
            syncs: 0,
            faults: 0,
            wrong: None,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_weather(&self, weather: DiskWeather) {
        self.state().weather = weather;
    }

    /// Syncs do nothing from now on: a planted fault.
    pub(crate) fn lie(&self) {
        self.state().lies = true;
    }

    /// The machine stops at the `calls`-th call from now, in the middle of whatever that belongs to.
    pub(crate) fn stop_in(&self, calls: u64) {
        self.state().stops_in = Some(calls);
    }

    /// The machine goes on.
    pub(crate) fn go_on(&self) {
        self.state().stops_in = None;
    }

    pub(crate) fn stop(&self) {
        self.state().stopped = true;
    }

    pub(crate) fn has_stopped(&self) -> bool {
        self.state().stopped
    }

    /// Calls and failed calls so far.
    pub(crate) fn faults(&self) -> u64 {
        self.state().faults
    }

    /// What was done to the disk that must not be done.
    pub(crate) fn wrong(&self) -> Option<String> {
        self.state().wrong.take()
    }

    /// The machine runs again. Without a power cut all that was written is there.
    pub(crate) fn reboot(&self, power_cut: bool) {
        let mut state = self.state();
        let state = &mut *state;
        state.locked = false;
        state.stopped = false;
        state.stops_in = None;
        // A new process cannot know which syncs failed in the old one.
        state.nodes.iter_mut().for_each(|node| node.failed = false);
        if !power_cut {
            return;
        }
        let keep = state.rng.below(state.pending.len() as u64 + 1) as usize;
        state.settle_names(keep);
        state.pending.clear();
        state.names = state.durable_names.clone();
        for node in &mut state.nodes {
            for (at, bytes) in node.dirty.drain(..) {
                survive(&mut node.durable, at, &bytes, &mut state.rng);
            }
            node.data.clone_from(&node.durable);
        }
    }

    /// Turns one bit of a file that is not empty. Says which.
    pub(crate) fn flip(&self) -> Option<String> {
        let mut state = self.state();
        let state = &mut *state;
        let files: Vec<(PathBuf, usize)> = state
            .names
            .iter()
            .filter(|(_, node)| !state.nodes[**node].data.is_empty())
            .map(|(path, node)| (path.clone(), *node))
            .collect();
        let index = usize::try_from(state.rng.below(files.len() as u64)).ok()?;
        let (path, node) = files.get(index)?;
        let node = &mut state.nodes[*node];
        // Most of a segment is zeros; what is at its start is more likely to matter.
        let len = node.data.iter().rposition(|&byte| byte != 0)? + 1;
        let at = usize::try_from(state.rng.below(len as u64)).ok()?;
        let bit = 1u8 << state.rng.below(8);
        for copy in [&mut node.data, &mut node.durable] {
            if let Some(byte) = copy.get_mut(at) {
                *byte ^= bit;
            }
        }
        Some(format!("{}@{at}", path.display()))
    }
}

struct SimFile {
    disk: SimDisk,
    node: usize,
}

impl DiskFile for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.state();
        let short = state.call(Call::Read)?;
        let data = &state.nodes[self.node].data;
        let start = usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .min(data.len());
        let mut len = buf.len().min(data.len() - start);
        if short {
            len = len.div_ceil(2);
        }
        buf[..len].copy_from_slice(&data[start..start + len]);
        Ok(len)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.state();
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let grows = offset + buf.len() > state.nodes[self.node].data.len();
        let (len, failed) = match state.call(Call::Write { grows }) {
            Ok(false) => (buf.len(), None),
            Ok(true) => (buf.len().div_ceil(2), None),
            // A write that fails may have written something all the same.
            Err(error) if error.kind() == ErrorKind::Other => {
                let most = buf.len() as u64 + 1;
                (state.rng.below(most) as usize, Some(error))
            }
            Err(error) => return Err(error),
        };
        let node = &mut state.nodes[self.node];
        apply(&mut node.data, offset, &buf[..len]);
        node.dirty.push((offset, buf[..len].to_vec()));
        failed.map_or(Ok(len), Err)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.syncs += 1;
        let called = state.call(Call::Sync);
        if state.stopped {
            return called.map(|_| ());
        }
        if state.lies {
            return Ok(());
        }
        let state = &mut *state;
        let node = &mut state.nodes[self.node];
        if node.failed {
            // QUE-04: what a failed sync did not write, no later sync writes, and it does not say so.
            let wrong = "a file whose sync had failed was synced again, and believed";
            state.wrong.get_or_insert_with(|| wrong.to_owned());
        }
        let dirty = std::mem::take(&mut node.dirty);
        if let Err(error) = called {
            node.failed = true;
            for (at, bytes) in dirty {
                survive(&mut node.durable, at, &bytes, &mut state.rng);
            }
            return Err(error);
        }
        for (at, bytes) in dirty {
            apply(&mut node.durable, at, &bytes);
        }
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        let mut state = self.disk.state();
        state.call(Call::Meta)?;
        Ok(state.nodes[self.node].data.len() as u64)
    }
}

struct SimLock(SimDisk);

impl Lock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.0.state().locked = false;
    }
}

impl SimDisk {
    fn file(&self, node: usize) -> Arc<dyn DiskFile> {
        let disk = self.clone();
        Arc::new(SimFile { disk, node })
    }
}

impl Disk for SimDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.call(Call::Meta)?;
        state.dirs.insert(dir.to_owned());
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut state = self.state();
        state.call(Call::Meta)?;
        let here = state.names.keys().filter(|path| path.parent() == Some(dir));
        let name = |path: &PathBuf| Some(path.file_name()?.to_str()?.to_owned());
        Ok(here.filter_map(name).collect())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        state.call(Call::Write { grows: true })?;
        if state.names.contains_key(path) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        state.nodes.push(Node::default());
        let node = state.nodes.len() - 1;
        state.set_name(path, Some(node));
        drop(state);
        Ok(self.file(node))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        state.call(Call::Meta)?;
        let node = *state.names.get(path).ok_or(ErrorKind::NotFound)?;
        drop(state);
        Ok(self.file(node))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.call(Call::Meta)?;
        let node = *state.names.get(from).ok_or(ErrorKind::NotFound)?;
        // The new name comes first: a crash between the two leaves both, never none.
        state.names.remove(from);
        state.set_name(to, Some(node));
        state.pending.push((from.to_owned(), None));
        Ok(())
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.call(Call::Meta)?;
        if !state.names.contains_key(path) {
            return Err(ErrorKind::NotFound.into());
        }
        state.set_name(path, None);
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.call(Call::Sync)?;
        if state.lies {
            return Ok(());
        }
        // A journal keeps the order of all changes: what was before the last of this directory is
        // durable with it.
        let last = state
            .pending
            .iter()
            .rposition(|(path, _)| path.parent() == Some(dir));
        if let Some(last) = last {
            state.settle_names(last + 1);
        }
        Ok(())
    }

    fn free_space(&self, _dir: &Path) -> io::Result<u64> {
        let mut state = self.state();
        state.call(Call::Meta)?;
        if state.weather.full {
            return Ok(0);
        }
        let used: u64 = state
            .names
            .values()
            .map(|&node| state.nodes[node].data.len() as u64)
            .sum();
        Ok(SIZE.saturating_sub(used))
    }

    fn lock(&self, _path: &Path) -> Result<Box<dyn Lock>, LockError> {
        let mut state = self.state();
        state.call(Call::Meta).map_err(LockError::Io)?;
        if std::mem::replace(&mut state.locked, true) {
            return Err(LockError::Held(Some(1)));
        }
        drop(state);
        Ok(Box::new(SimLock(self.clone())))
    }
}
