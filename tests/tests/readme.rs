//! README.md says what is true: its table of RFCs is that of the sources, and the tests that it names exist.

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

/// The texts of all Rust files under a directory.
fn read_all(dir: &Path, text: &mut String) {
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("a directory entry").path();
        if path.is_dir() {
            read_all(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(&path).expect("a source file"));
        }
    }
}

#[test]
fn the_table_of_extensions_names_tests_that_exist() {
    let readme = fs::read_to_string(workspace().join("README.md")).expect("README.md");
    let section = readme.split("## Extensions").nth(1).expect("the section");
    let section = section.split("## RFCs").next().expect("its end");
    let of = |crates: &[&str]| {
        let mut text = String::new();
        for dir in crates {
            read_all(&workspace().join(dir), &mut text);
        }
        text
    };
    let smtp = of(&["smtp-proto/src", "smtp-proto/tests"]);
    let core = of(&["relay-core/src"]);
    let whole = of(&["tests/src", "tests/tests"]);
    let mut named = 0;
    for cell in section
        .lines()
        .filter(|line| line.contains('`'))
        .flat_map(|line| line.split('|'))
    {
        // `c: ` and its like hold for all names up to the next one.
        let mut place = None;
        let mut parts = cell.split('`');
        while let (Some(before), Some(name)) = (parts.next(), parts.next()) {
            for (mark, text) in [("s:", &smtp), ("c:", &core), ("t:", &whole)] {
                if before.trim_end().ends_with(mark)
                    || before.contains(&format!("{mark} transcript"))
                {
                    place = Some(text);
                }
            }
            let Some(text) = place else { continue };
            let found = if before.trim_end().ends_with("transcript") {
                let path = format!("smtp-proto/tests/transcripts/server/{name}.txt");
                workspace().join(path).exists()
            } else {
                let client = format!("smtp-proto/tests/transcripts/client/{name}.txt");
                text.contains(&format!("fn {name}(")) || workspace().join(client).exists()
            };
            assert!(
                found,
                "{name} is named in README.md and does not exist: {cell}"
            );
            named += 1;
        }
    }
    assert!(named > 45, "{named} tests are named");
}
