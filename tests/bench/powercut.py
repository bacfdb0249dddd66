#!/usr/bin/env python3
"""Power cuts on a real file system, at the instant of each 250.

    tests/bench/powercut.py --binary target/release/smtp-relay --snapshots 1000
    tests/bench/powercut.py --postfix --snapshots 100

The data directory is on an ext4 or xfs whose block device records every write and every flush (`blockdev.py`). Clients send;
at each 250 the number of the last write is noted. From each such number comes a disk as a power cut leaves it: all that was
flushed, and of what was not flushed each write there, gone or torn. It is mounted, which replays its journal, the relay is
started on it, and all that it holds is delivered. For each snapshot it must hold that

    every message that had its 250 by then is delivered, to each recipient that had not had it (0 lost);
    nothing arrives damaged (0 torn), and nothing is put aside: what was cut off before its 250 is no damage.

It shows what the relay, the file system and its journal make of a drive with a volatile cache that honours flushes. It does
not show what a drive does that lies about them. Needs root, /dev/fuse, loop devices, and xfsprogs for xfs.
"""

import argparse
import os
import pathlib
import random
import shutil
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "interop"))

from blockdev import Cuts, Recorder
from harness.base import Failed, Folder, check, free_port, wait_for
from kill9 import Client, Ledger
from servers import Ours, Postfix
from sink import Sink

SIZES = {"ext4": 96 << 20, "xfs": 320 << 20}
# The other half is turned away while it is recorded, so that it is in the queue at each cut.
LATER = b"@b.test"


class Marked(Ledger):
    """A ledger that notes with each 250 how far the device was written."""

    def __init__(self, recorder):
        super().__init__()
        self.recorder, self.marks = recorder, []

    def acknowledged(self, ident):
        self.marks.append((self.recorder.count(), time.monotonic(), ident))


def record(server, home, kind, sink_port, messages, number):
    """Runs the server on a new file system until enough was acknowledged: (recorder, ledger, what was delivered)."""
    sink = Sink(sink_port, refused=LATER)
    recorder = Recorder(home, kind, SIZES[kind])
    ledger, stop = Marked(recorder), threading.Event()
    # Names of messages are never used twice, whatever the round.
    clients = [Client(number * 100 + n, server, ledger, None, stop, large=90_000) for n in range(4)]
    try:
        server.start(recorder.mount)
        for client in clients:
            client.start()
        wait_for("messages are taken", lambda: len(ledger.marks) >= messages, 120, 0.005)
        stop.set()
        for client in clients:
            client.join(70)
        time.sleep(0.2)
        taken, *_ = sink.taken()
    finally:
        server.kill()
        sink.stop()
        recorder.close()
    return recorder, ledger, taken


def verify(server, mount, disk, sink, ledger, delivered, mark):
    """(lost, arrived damaged, put aside, repeated) of one snapshot."""
    # A device of its own: `mount -o loop` would take the last cut's, if a mount namespace that somebody made meanwhile still
    # holds that, with all that the kernel remembers of it. For the same reason xfs may see a UUID twice.
    kind, image = disk
    found = subprocess.run(["losetup", "--show", "-f", image], check=True, capture_output=True, text=True)
    loop = found.stdout.strip()
    options = ["-o", "nouuid"] if kind == "xfs" else []
    subprocess.run(["mount", *options, loop, mount], check=True)
    try:
        server.start(mount)
        quarantined = server.drain()
        taken, _, _, damaged, _ = sink.taken()
        sink.ask("forget")
    finally:
        server.kill()
        subprocess.run(["umount", mount], check=True)
        subprocess.run(["losetup", "-d", loop], check=True)
        image.unlink()
    _, when, _ = mark
    lost, again = [], 0
    for _, at, ident in ledger.marks:
        if at > when:
            continue
        for rcpt in ledger.acked[ident]:
            before = delivered.get((ident, rcpt), when + 1) <= when
            if (ident, rcpt) not in taken and not before:
                lost.append((ident, rcpt))
            again += before and (ident, rcpt) in taken
    told = {ident for _, at, ident in ledger.marks if at <= when}
    return lost, len(damaged), (quarantined, len(told.intersection(server.aside))), again


def run(given):
    folder = Folder("powercut-", given.folder)
    sink_port = free_port()
    if given.postfix:
        server = Postfix(folder, sink_port)
    else:
        server = Ours(given.binary, folder, sink_port)
    mount = folder.make("mount")
    done, lost, torn, aside, told, again, messages = 0, [], 0, 0, 0, 0, 0
    fates = [0, 0, 0]
    began, number = time.monotonic(), 0
    while done < given.snapshots:
        kind = given.fs[number % len(given.fs)]
        number += 1
        home = folder.make(f"round-{number}")
        recorder, ledger, delivered = record(server, home, kind, sink_port, min(given.round, given.snapshots - done), number)
        cuts = Cuts(recorder.base, recorder.log, home, given.seed + number)
        sink = Sink(sink_port)
        for mark in sorted(ledger.marks)[: given.snapshots - done]:
            image = home / f"cut-{done}.img"
            cuts.at(mark[0], image)
            missing, damaged, (quarantined, acknowledged), repeated = verify(server, mount, (kind, image), sink, ledger, delivered, mark)
            lost += missing
            torn += damaged
            aside += quarantined
            told += acknowledged
            again += repeated
            done += 1
        sink.stop()
        messages += len(ledger.marks)
        fates = [a + b for a, b in zip(fates, (cuts.kept, cuts.dropped, cuts.torn))]
        shutil.rmtree(home)
        print(f"# {done} snapshots, {kind}: {len(lost)} lost, {torn} torn, {aside} put aside", flush=True)
    print(
        f"""
| snapshots | file systems | messages with a 250 | lost | torn | put aside | of these with a 250 | delivered twice | unflushed writes: kept, dropped, torn | seconds |
|---|---|---|---|---|---|---|---|---|---|
| {done} | {", ".join(given.fs)} | {messages} | {len(lost)} | {torn} | {aside} | {told} | {again} | {fates[0]}, {fates[1]}, {fates[2]} | {time.monotonic() - began:.0f} |
"""
    )
    check(not lost, "lost:", lost[:10])
    check(torn == 0, "something was torn")
    check(given.postfix or aside == 0, "an alarm for what was never acknowledged")
    if sum(fates) == 0:
        # A few cuts may all fall into moments of quiet; many cannot.
        check(done < 100, "no write was under way at any cut: this shows nothing")
        print("# no write was under way at any of these few cuts: they only show that what was flushed is enough")
    print("1 passed, 0 failed")
    return 0


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = args.add_mutually_exclusive_group(required=True)
    which.add_argument("--binary")
    which.add_argument("--postfix", action="store_true", help="the reference, in the same harness")
    args.add_argument("--snapshots", type=int, default=1000)
    args.add_argument("--round", type=int, default=50, help="snapshots of one recording")
    args.add_argument("--fs", nargs="+", choices=SIZES, default=list(SIZES))
    args.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    args.add_argument("--folder", default="/dev/shm" if pathlib.Path("/dev/shm").is_dir() else None)
    args.add_argument("--if-possible", action="store_true", help="succeed where there is no root or /dev/fuse")
    given = args.parse_args()
    if given.if_possible and not (os.geteuid() == 0 and os.path.exists("/dev/fuse") and os.path.exists("/dev/loop-control")):
        print("skipped: power cuts need root, /dev/fuse and loop devices")
        return 0
    print(f"# {given.binary or 'postfix'}, {given.snapshots} snapshots, seed {given.seed}", flush=True)
    try:
        return run(given)
    except Failed as why:
        print(f"FAILED: {why}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
