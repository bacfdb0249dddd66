//! README.md says what is true: its table of RFCs is that of the sources.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The numbers after each "RFC " in a text.
fn rfcs(text: &str) -> impl Iterator<Item = u32> {
    text.split("RFC ").skip(1).filter_map(|rest| {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    })
}

fn collect(dir: &Path, found: &mut BTreeSet<u32>) {
    for entry in fs::read_dir(dir).expect("a source directory") {
        let path = entry.expect("a directory entry").path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "tests") {
                collect(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && path.file_name().is_some_and(|name| name != "tests.rs")
        {
            found.extend(rfcs(&fs::read_to_string(path).expect("a source file")));
        }
    }
}

#[test]
fn the_table_of_rfcs_names_those_of_the_sources() {
    let mut in_sources = BTreeSet::new();
    for name in ["smtp-proto", "relay-core", "runtime-std", "runtime-smol"] {
        collect(&workspace().join(name).join("src"), &mut in_sources);
    }
    let readme = fs::read_to_string(workspace().join("README.md")).expect("README.md");
    let table = readme.split("## RFCs").nth(1).expect("the section on RFCs");
    let in_table: BTreeSet<u32> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(' ').next()?.parse().ok())
        .collect();
    assert_eq!(in_table, in_sources);
}
