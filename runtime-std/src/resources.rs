//! What the machine gives this process: memory, and descriptors.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// More descriptors than anybody has connections.
const DESCRIPTORS_MAX: u64 = 1 << 20;

/// The memory of the machine or, if that is less, what the control groups of this process may use.
#[must_use]
pub fn memory() -> u64 {
    let system = rustix::system::sysinfo();
    #[allow(clippy::useless_conversion)] // Its type differs between architectures.
    let machine = u64::from(system.totalram).saturating_mul(system.mem_unit.into());
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    limit_files(&groups, Path::new("/sys/fs/cgroup"))
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok())
        .fold(machine, u64::min)
}

/// How many descriptors this process may have open.
#[must_use]
pub fn descriptors() -> u64 {
    let limit = getrlimit(Resource::Nofile).current;
    limit.unwrap_or(DESCRIPTORS_MAX).min(DESCRIPTORS_MAX)
}

/// Raises the limit of descriptors as far as it may be. The soft limit is low by default for programs
/// that call select(2) only. For a program's `main`: it concerns the whole process.
pub fn raise_descriptors() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(DESCRIPTORS_MAX).min(DESCRIPTORS_MAX);
    if current.is_some_and(|current| current < wanted) {
        let raised = Rlimit {
            current: Some(wanted),
            maximum,
        };
        // Then it stays as it was, and the relay plans with that.
        let _ = setrlimit(Resource::Nofile, raised);
    }
}

/// Where the limits of the groups in a /proc/PID/cgroup stand, and of those above them.
fn limit_files(groups: &str, root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (_, Some(controllers), Some(group)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let (top, name) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|c| c == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => continue,
        };
        // A container may see the name that its group has outside: the top is its own then.
        let group = Path::new(group.trim_start_matches('/'));
        let groups = group.ancestors().map(|group| top.join(group).join(name));
        files.extend(groups);
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_groups_are_found_in_both_versions() {
        let files = |groups| -> Vec<_> {
            let files = limit_files(groups, Path::new("/g"));
            files.into_iter().map(|f| f.display().to_string()).collect()
        };
        assert_eq!(
            files("0::/system.slice/relay.service\n"),
            [
                "/g/system.slice/relay.service/memory.max",
                "/g/system.slice/memory.max",
                "/g/memory.max"
            ]
        );
        assert_eq!(
            files("5:cpu,cpuacct:/x\n4:memory:/docker/1\nrubbish\n"),
            [
                "/g/memory/docker/1/memory.limit_in_bytes",
                "/g/memory/docker/memory.limit_in_bytes",
                "/g/memory/memory.limit_in_bytes"
            ]
        );
        assert_eq!(files("0::/\n"), ["/g/memory.max"]);
    }

    #[test]
    fn the_machine_has_something() {
        assert!(memory() > 16 << 20);
        assert!(descriptors() > 16);
    }
}
