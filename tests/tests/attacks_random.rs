//! Random dialogues over real sockets: both runtimes give the same replies, take the same messages, and
//! what leaves them has whole lines and one end.

use relay_tests::attacks::random::compare;

#[test]
fn both_runtimes_say_the_same() {
    compare(0, 1500).unwrap();
}
