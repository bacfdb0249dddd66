#!/bin/sh
# Proves that smtp-proto needs no standard library, by building it for a target that has none.
#
# Where that target is not installed and cannot be, it links the crate and all that it depends on with a
# panic handler of its own: the compiler refuses that ("duplicate lang item") if anything brings std.
set -eu
cd "$(dirname "$0")"
target=thumbv7em-none-eabi

if rustup target list --installed 2>/dev/null | grep -qx "$target" ||
    rustup target add "$target" >/dev/null 2>&1; then
    cargo build --locked -p relay-smtp-proto --no-default-features --target "$target"
    echo "no_std: built for $target"
    exit 0
fi

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cargo build --locked -p relay-smtp-proto --no-default-features --target-dir "$dir/target"
cat >"$dir/bare.rs" <<'RUST'
#![no_std]
extern crate smtp_proto;
use core::alloc::{GlobalAlloc, Layout};

struct NoMemory;
unsafe impl GlobalAlloc for NoMemory {
    unsafe fn alloc(&self, _: Layout) -> *mut u8 {
        core::ptr::null_mut()
    }
    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}
#[global_allocator]
static ALLOCATOR: NoMemory = NoMemory;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(no_mangle)]
pub extern "C" fn parses(octets: *const u8) -> bool {
    !octets.is_null() && smtp_proto::Domain::parse("example.com").is_ok()
}
RUST
rustc --edition 2024 --crate-type staticlib -C panic=abort --out-dir "$dir" \
    -L "dependency=$dir/target/debug/deps" \
    --extern "smtp_proto=$dir/target/debug/libsmtp_proto.rlib" "$dir/bare.rs"
echo "no_std: linked without std"
