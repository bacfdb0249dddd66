//! A disk in memory that keeps what is durable apart from what is not, and fails when told to.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use relay_core::rng::Rng;

use crate::store::disk::{Disk, DiskFile, Lock, LockError};

const SECTOR: usize = 512;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Full,
    Quota,
    Io,
    ReadOnly,
    Interrupted,
    /// Half of a write is done; other calls work.
    Short,
}

impl Fault {
    pub(super) const ALL: [Self; 6] = [
        Self::Full,
        Self::Quota,
        Self::Io,
        Self::ReadOnly,
        Self::Interrupted,
        Self::Short,
    ];

    fn error(self) -> io::Result<()> {
        Err(match self {
            Self::Full => ErrorKind::StorageFull.into(),
            Self::Quota => ErrorKind::QuotaExceeded.into(),
            Self::Io => io::Error::other("injected EIO"),
            Self::ReadOnly => ErrorKind::ReadOnlyFilesystem.into(),
            Self::Interrupted => ErrorKind::Interrupted.into(),
            Self::Short => return Ok(()),
        })
    }
}

/// The kinds of calls, to aim a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Open,
    Create,
    Read,
    Write,
    Sync,
    Rename,
    Unlink,
    List,
}

#[derive(Clone, Default)]
pub(super) struct MemDisk(Arc<Mutex<World>>);

#[derive(Clone)]
struct World {
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    /// Changes of names that are not durable yet, in order: a crash keeps a prefix.
    pending_names: Vec<(PathBuf, Option<usize>)>,
    nodes: Vec<Node>,
    dirs: BTreeSet<PathBuf>,
    locked: bool,
    free: u64,
    calls: u64,
    /// The number of the call to fail from (counting those of the kind), for how many calls, and how.
    plan: Option<Plan>,
    pub(super) syncs: u64,
}

#[derive(Clone, Copy)]
struct Plan {
    only: Option<Call>,
    skip: u64,
    times: u64,
    fault: Fault,
}

#[derive(Clone, Default)]
struct Node {
    data: Vec<u8>,
    durable: Vec<u8>,
    /// Writes that no sync covered.
    dirty: Vec<(usize, Vec<u8>)>,
    /// A sync of it failed.
    failed: bool,
}

impl Default for World {
    fn default() -> Self {
        Self {
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending_names: Vec::new(),
            nodes: Vec::new(),
            dirs: BTreeSet::new(),
            locked: false,
            free: 1 << 30,
            calls: 0,
            plan: None,
            syncs: 0,
        }
    }
}

impl World {
    /// Counts a call; says how it fails, if it does.
    fn call(&mut self, call: Call) -> io::Result<Option<Fault>> {
        self.calls += 1;
        let Some(plan) = &mut self.plan else {
            return Ok(None);
        };
        if plan.only.is_some_and(|only| only != call) {
            return Ok(None);
        }
        if plan.skip > 0 {
            plan.skip -= 1;
            return Ok(None);
        }
        let fault = plan.fault;
        plan.times -= 1;
        if plan.times == 0 {
            self.plan = None;
        }
        fault.error()?;
        Ok(Some(fault))
    }

    /// Another process: it may use every file, if it writes it first.
    fn restart(&mut self) {
        self.locked = false;
        self.plan = None;
        self.nodes.iter_mut().for_each(|node| node.failed = false);
    }

    fn set_name(&mut self, path: &Path, node: Option<usize>) {
        match node {
            Some(node) => self.names.insert(path.to_owned(), node),
            None => self.names.remove(path),
        };
        self.pending_names.push((path.to_owned(), node));
    }
}

fn apply(data: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if data.len() < at + bytes.len() {
        data.resize(at + bytes.len(), 0);
    }
    data[at..at + bytes.len()].copy_from_slice(bytes);
}

impl MemDisk {
    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    /// From the `skip`-th call (of one kind) on, `times` calls fail.
    pub(super) fn fail(&self, only: Option<Call>, skip: u64, times: u64, fault: Fault) {
        self.world().plan = Some(Plan {
            only,
            skip,
            times,
            fault,
        });
    }

    /// No call fails any more. True if the plan was used up before.
    pub(super) fn heal(&self) -> bool {
        self.world().plan.take().is_none()
    }

    pub(super) fn calls(&self) -> u64 {
        self.world().calls
    }

    pub(super) fn syncs(&self) -> u64 {
        self.world().syncs
    }

    pub(super) fn set_free(&self, free: u64) {
        self.world().free = free;
    }

    /// The process died: what it wrote is there.
    pub(super) fn killed(&self) -> Self {
        let mut world = self.world().clone();
        world.restart();
        Self(Arc::new(Mutex::new(world)))
    }

    /// The power failed: of what was not synced, any part may be there, in pieces.
    pub(super) fn power_cut(&self, rng: &mut Rng) -> Self {
        let mut world = self.world().clone();
        world.restart();
        let keep = rng.below(world.pending_names.len() as u64 + 1) as usize;
        for (path, node) in world.pending_names.drain(..).take(keep) {
            match node {
                Some(node) => world.durable_names.insert(path, node),
                None => world.durable_names.remove(&path),
            };
        }
        world.names = world.durable_names.clone();
        for node in &mut world.nodes {
            for (at, bytes) in node.dirty.drain(..) {
                survive(&mut node.durable, at, &bytes, rng);
            }
            node.data = node.durable.clone();
        }
        Self(Arc::new(Mutex::new(world)))
    }

    /// The names that a process sees, without directories.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.world().names.keys().cloned().collect()
    }

    pub(super) fn read(&self, path: &Path) -> Vec<u8> {
        let world = self.world();
        world.nodes[world.names[path]].data.clone()
    }

    /// Changes the octets at rest.
    pub(super) fn damage(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut world = self.world();
        let node = world.names[path];
        let node = &mut world.nodes[node];
        change(&mut node.data);
        node.durable = node.data.clone();
        node.dirty.clear();
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

struct MemFile {
    world: Arc<Mutex<World>>,
    node: usize,
}

impl DiskFile for MemFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut world = self.world.lock().unwrap();
        let short = world.call(Call::Read)?.is_some();
        let data = &world.nodes[self.node].data;
        let start = (offset as usize).min(data.len());
        let mut len = buf.len().min(data.len() - start);
        if short {
            len = len.div_ceil(2);
        }
        buf[..len].copy_from_slice(&data[start..start + len]);
        Ok(len)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let mut world = self.world.lock().unwrap();
        let len = match world.call(Call::Write) {
            Ok(None) => buf.len(),
            Ok(Some(_)) => buf.len().div_ceil(2),
            Err(e) => {
                // A write that fails may have written something all the same.
                let part = buf[..buf.len() / 3].to_vec();
                let node = &mut world.nodes[self.node];
                apply(&mut node.data, offset as usize, &part);
                node.dirty.push((offset as usize, part));
                return Err(e);
            }
        };
        let node = &mut world.nodes[self.node];
        apply(&mut node.data, offset as usize, &buf[..len]);
        node.dirty.push((offset as usize, buf[..len].to_vec()));
        Ok(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut world = self.world.lock().unwrap();
        world.syncs += 1;
        let called = world.call(Call::Sync);
        let node = &mut world.nodes[self.node];
        // QUE-04: what a failed sync did not write, no later sync writes, and it does not say so.
        assert!(!node.failed, "a file whose sync failed was synced again");
        if let Err(e) = called {
            node.failed = true;
            node.dirty.clear();
            return Err(e);
        }
        for (at, bytes) in std::mem::take(&mut node.dirty) {
            apply(&mut node.durable, at, &bytes);
        }
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.world.lock().unwrap().nodes[self.node].data.len() as u64)
    }
}

struct MemLock(Arc<Mutex<World>>);

impl Lock for MemLock {}

impl Drop for MemLock {
    fn drop(&mut self) {
        self.0.lock().unwrap().locked = false;
    }
}

impl Disk for MemDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.world().dirs.insert(dir.to_owned());
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut world = self.world();
        world.call(Call::List)?;
        let here = world.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(here
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut world = self.world();
        world.call(Call::Create)?;
        if world.names.contains_key(path) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        world.nodes.push(Node::default());
        let node = world.nodes.len() - 1;
        world.set_name(path, Some(node));
        Ok(Arc::new(MemFile {
            world: Arc::clone(&self.0),
            node,
        }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut world = self.world();
        world.call(Call::Open)?;
        let node = *world.names.get(path).ok_or(ErrorKind::NotFound)?;
        Ok(Arc::new(MemFile {
            world: Arc::clone(&self.0),
            node,
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.call(Call::Rename)?;
        let node = *world.names.get(from).ok_or(ErrorKind::NotFound)?;
        // One step: a crash keeps both changes or none.
        world.names.remove(from);
        world.set_name(to, Some(node));
        world.pending_names.push((from.to_owned(), None));
        Ok(())
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.call(Call::Unlink)?;
        if !world.names.contains_key(path) {
            return Err(ErrorKind::NotFound.into());
        }
        world.set_name(path, None);
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut world = self.world();
        world.call(Call::Sync)?;
        let (now, later): (Vec<_>, Vec<_>) = std::mem::take(&mut world.pending_names)
            .into_iter()
            .partition(|(path, _)| path.parent() == Some(dir));
        world.pending_names = later;
        for (path, node) in now {
            match node {
                Some(node) => world.durable_names.insert(path, node),
                None => world.durable_names.remove(&path),
            };
        }
        Ok(())
    }

    fn free_space(&self, _dir: &Path) -> io::Result<u64> {
        Ok(self.world().free)
    }

    fn lock(&self, _path: &Path) -> Result<Box<dyn Lock>, LockError> {
        let mut world = self.world();
        if std::mem::replace(&mut world.locked, true) {
            return Err(LockError::Held(Some(1)));
        }
        Ok(Box::new(MemLock(Arc::clone(&self.0))))
    }
}
