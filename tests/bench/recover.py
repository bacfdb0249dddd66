#!/usr/bin/env python3
"""Restart of a deep queue: time to the first 220, to a new message taken and delivered, to an old one delivered, to all recovered;
and peak memory.

    cargo build --release --bins && tests/bench/recover.py --messages 1000000

`fill` (tests/src/bin) makes the queue as a killed relay leaves it: deferred messages of 1 KB, 100 destinations. Each binary is
started on it twice: with its checkpoints, and without (they are removed, as if all were damaged). About 3.4 GB of disk.
"""

import argparse
import json
import pathlib
import re
import shutil
import smtplib
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "interop"))

from harness.base import Folder, check, free_port, wait_for
from harness.relay import Relay
from servers import Unix
from sink import Sink

# `fill` leaves one in so many due; the others wait for hours.
DUE = 1000
TARGET = pathlib.Path(__file__).resolve().parents[2] / "target" / "release"


def memory(pid, key):
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(rf"^{key}:\s+(\d+)", text, re.M)[1]) / 1024


def cpu(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def status(relay):
    conn = Unix(relay.data / "admin.sock")
    conn.request("GET", "/api/v1/status")
    return json.loads(conn.getresponse().read())


def measure(relay, sink, count, what):
    began = time.monotonic()
    greeted = relay.start(300)
    with smtplib.SMTP("127.0.0.1", relay.plain_port, timeout=120) as client:
        client.sendmail("new@sender.test", ["new@now.test"], "From: <new@sender.test>\r\nX-Ledger: new\r\nX-Digest: 0\r\n\r\nnew\r\n")
    taken = time.monotonic() - began
    wait_for("the new message is delivered", lambda: ("new", "new@now.test") in sink.taken()[0], 300, 0.02)
    delivered = time.monotonic() - began
    wait_for("an old message is delivered", lambda: len(sink.taken()[0]) > 1, 600, 0.02)
    old = time.monotonic() - began
    first = status(relay)["store"].get("recovering")
    wait_for("all is recovered", lambda: status(relay)["store"].get("recovering") is None, 600, 0.1)
    recovered = time.monotonic() - began
    due = -(-count // DUE)
    wait_for("all that was due is delivered", lambda: len(sink.taken()[0]) == 1 + due, 120, 0.1)
    check(status(relay)["queued"] == count - due, "in the queue:", status(relay)["queued"], "of", count)
    pid = relay.child.pid
    print(
        f"| {relay.binary.name} | {what} | {greeted:.2f} | {taken:.2f} | {delivered:.2f} | {old:.2f} | {recovered:.1f} | {cpu(pid):.1f} | "
        f"{memory(pid, 'VmHWM'):.0f} | {memory(pid, 'VmRSS'):.0f} | {first['done'] if first else 'all'} |",
        flush=True,
    )
    sink.ask("forget")
    relay.kill()


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--binary", action="append", type=pathlib.Path, help="default: both, from target/release")
    args.add_argument("--fill", type=pathlib.Path, default=TARGET / "fill")
    args.add_argument("--messages", type=int, default=1_000_000)
    args.add_argument("--folder", default=None, help="where the queue is kept meanwhile; a real disk")
    given = args.parse_args()
    folder = Folder("recover-", given.folder)
    began = time.monotonic()
    subprocess.run([given.fill, folder / "queue", str(given.messages)], check=True)
    size = sum(file.stat().st_size for file in (folder / "queue").rglob("*") if file.is_file())
    print(f"# {given.messages} messages, {size >> 20} MiB, filled in {time.monotonic() - began:.0f} s\n")
    print("| binary | start | 220 after s | new mail taken | delivered | old mail delivered | all recovered | CPU s | peak RSS, MiB | RSS then | read when old mail was delivered |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    sink = Sink(port := free_port())
    for binary in given.binary or [TARGET / "smtp-relay", TARGET / "smtp-relay-std"]:
        route = f'\n[[route]]\ndomain = "*"\nhosts = ["127.0.0.1:{port}"]\ntls = "none"\n'
        relay = Relay(binary, folder, binary.name, extra=route, config={"delivery": {"retry": "4h*", "expire": "3d"}})
        relay.data = folder / "data"
        relay.write_config()
        for what in ("checkpoints", "none"):
            # Each run delivers what is due.
            shutil.rmtree(relay.data, ignore_errors=True)
            subprocess.run(["cp", "-a", "--reflink=auto", folder / "queue", relay.data], check=True)
            if what == "none":
                for file in (relay.data / "queue").glob("index-*"):
                    file.unlink()
            measure(relay, sink, given.messages, what)
    sink.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
