#!/bin/sh
# Usage: minimise.sh TARGET GROWN...
#
# Replaces the minimised part of corpus/TARGET by the fewest inputs, out of it and of the folders GROWN
# that runs filled, that reach every edge that all of them reach. They are named min-HASH; the seeds
# that were written by hand, under names that say what they are, are left alone.
set -eu
target=$1
shift
cd "$(dirname "$0")"
kept=$(mktemp -d)
trap 'rm -rf "$kept"' EXIT
cargo +nightly fuzz run "$target" "$kept" -- \
    -set_cover_merge=1 -use_counters=0 -max_len=2048 "corpus/$target" "$@"
rm -f "corpus/$target"/min-*
for input in "$kept"/*; do
    hash=$(sha1sum <"$input" | cut -c 1-12)
    cp "$input" "corpus/$target/min-$hash"
done
