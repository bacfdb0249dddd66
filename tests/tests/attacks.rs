//! The attack catalogue against both runtimes over real sockets: a test for each row, named by its id.
//! `cargo run -p relay-tests --bin attacks` prints what each of them got.

#![allow(clippy::print_stderr)]

use relay_tests::attacks::{Runtime, row, rows};

/// Each row is a test of each runtime.
macro_rules! catalogue {
    ($($name:ident)*) => {
        const NAMES: &[&str] = &[$(stringify!($name)),*];

        mod threads {
            $(#[test]
            fn $name() {
                super::check(stringify!($name), super::Runtime::Threads);
            })*
        }

        mod smol {
            $(#[test]
            fn $name() {
                super::check(stringify!($name), super::Runtime::Smol);
            })*
        }
    };
}

catalogue! {
    eod_01 eod_02 eod_03 eod_04 eod_05 eod_06 eod_07 eod_08 eod_09 eod_10 eod_11 eod_12 eod_12b
    eod_12c eod_13 eod_14 eod_15 eod_16 eod_17 eod_18 eod_19
    cmd_01 cmd_02 cmd_03 cmd_04 cmd_06 cmd_06b cmd_08 cmd_09 cmd_10 cmd_11 cmd_11b cmd_12 cmd_13
    cmd_14 cmd_14b cmd_15 cmd_15b cmd_17 cmd_18 cmd_19 cmd_21 cmd_22 cmd_24 cmd_25 cmd_25b
    cmd_26 cmd_28 cmd_29 cmd_30 cmd_31 cmd_32 cmd_33 cmd_33b cmd_34 cmd_35 cmd_36 cmd_37
    bdat_01 bdat_02 bdat_03 bdat_04 bdat_05 bdat_07 bdat_08 bdat_09 bdat_11 bdat_12 bdat_13
    bdat_15 bdat_15b bdat_16 bdat_16b bdat_17 bdat_17b bdat_18 bdat_18b bdat_20 bdat_22
    auth_01 auth_01b auth_02 auth_03 auth_04 auth_04b auth_06 auth_06b auth_08 auth_08b auth_09
    auth_10 auth_11 auth_13 auth_14
    tls_01 tls_02 tls_05 tls_06 tls_07 tls_08 tls_09 tls_11 tls_12
    out_01 out_02 out_03
    cli_01 cli_03 cli_04 cli_05 cli_08 cli_10 cli_11 cli_11b cli_12 cli_14 cli_14b cli_15 cli_16 cli_17
    hdr_01 hdr_03 hdr_03b hdr_04 hdr_05 hdr_05b hdr_06
    dns_07 dns_08
    dane_01 dane_02 dane_03 dane_04 dane_05
    sts_01 sts_02 sts_03 sts_05 sts_06
    loop_01 loop_01b loop_02
    dsn_01 dsn_02 dsn_04 dsn_04b
    res_01 res_02 res_05 res_05b res_08
}

/// `eod_01` is the row `EOD-01`.
fn id(name: &str) -> String {
    let (group, number) = name.split_once('_').unwrap_or((name, ""));
    format!("{}-{number}", group.to_ascii_uppercase())
}

fn check(name: &str, runtime: Runtime) {
    let row = row(&id(name)).unwrap_or_else(|| panic!("there is no row {}", id(name)));
    let got = row.run(runtime);
    assert!(!got.is_empty(), "{name} has no variant");
    for skipped in got.iter().filter(|got| got.what.starts_with("SKIPPED")) {
        eprintln!("{}: {}", row.id, skipped.what);
    }
    let failed: Vec<_> = got.iter().filter(|got| !got.pass).collect();
    assert!(
        failed.is_empty(),
        "{} on {}: {failed:#?}",
        row.id,
        runtime.name()
    );
}

#[test]
fn every_row_is_a_test() {
    let ids: Vec<String> = rows().iter().map(|row| row.id.to_owned()).collect();
    let names: Vec<String> = NAMES.iter().map(|name| id(name)).collect();
    assert_eq!(names, ids);
}
