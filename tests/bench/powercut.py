#!/usr/bin/env python3
"""Power cuts on a real file system, at the instant of each 250.

    tests/bench/powercut.py --binary target/release/smtp-relay --snapshots 1000
    tests/bench/powercut.py --postfix --snapshots 100

The data directory is on an ext4 or xfs whose block device records every write and every flush (`blockdev.py`). Clients send;
at each 250 the number of the last write is noted. From each such number comes a disk as a power cut leaves it: all that was
flushed, and of what was not flushed each write there, gone or torn. It is mounted, which replays its journal, the relay is
started on it, and all that it holds is delivered. For each snapshot it must hold that

    every message that had its 250 by then is delivered, to each recipient that had not had it (0 lost);
    nothing arrives damaged, and nothing is in the quarantine (0 torn).

It shows what the relay, the file system and its journal make of a drive with a volatile cache that honours flushes. It does
not show what a drive does that lies about them. Needs root, /dev/fuse, loop devices, and xfsprogs for xfs.
"""

import argparse
import http.client
import json
import pathlib
import random
import shutil
import socket
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "interop"))

from blockdev import Cuts, Recorder
from harness.base import Failed, Folder, check, free_port, wait_for
from harness.relay import Relay
from kill9 import Client, Ledger
from sink import Sink

SIZES = {"ext4": 96 << 20, "xfs": 320 << 20}
# The other half is turned away while it is recorded, so that it is in the queue at each cut.
LATER = b"@b.test"


class Unix(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=20)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Ours:
    """The relay under test, with its data where it is told."""

    def __init__(self, binary, folder, sink_port):
        route = f'\n[[route]]\ndomain = "*"\nhosts = ["127.0.0.1:{sink_port}"]\ntls = "none"\n'
        self.relay = Relay(binary, folder, "relay", extra=route, config={"delivery": {"retry": "1s*"}})
        self.plain_port = self.relay.plain_port

    def start(self, mount):
        self.relay.data = mount / "data"
        self.relay.write_config()
        self.relay.start(60)

    def kill(self):
        self.relay.kill()

    def ask(self, method, path, body=None):
        conn = Unix(self.relay.data / "admin.sock")
        conn.request(method, "/api/v1/" + path, body, {"Content-Type": "application/json"})
        return json.loads(conn.getresponse().read())

    def drain(self):
        """Delivers all that is in the queue; returns how many records were damaged."""

        def empty():
            status = self.ask("GET", "status")
            if status["store"].get("recovering") is None and status["queued"] == 0:
                return status
            self.ask("POST", "queue/retry", b'{"older_than_secs": 0}')
            return None

        return wait_for("the queue is empty", empty, 60, 0.03)["store"]["quarantined"]


class Postfix:
    """Postfix with its queue where it is told; all else of it is in a folder of its own."""

    def __init__(self, folder, sink_port):
        self.folder, self.sink_port, self.plain_port = folder, sink_port, free_port()
        self.etc, self.home = folder.make("etc"), None
        for part in ("log", "data"):
            folder.make(part)
        shutil.chown(folder / "data", "postfix")
        (self.etc / "master.cf").write_text(self.master())

    def master(self):
        lines = [f"127.0.0.1:{self.plain_port} inet n - n - - smtpd"]
        for line in pathlib.Path("/usr/share/postfix/master.cf.dist").read_text().splitlines():
            part = line.split()
            if line[:1].isalpha() and len(part) >= 8 and part[1] == "unix" and part[7] != "pipe":
                # No chroot; look at the queue at once and often.
                part[4] = "n"
                lines.append(" ".join(part))
        return "\n".join(lines) + "\n"

    def start(self, mount):
        self.home = mount / "spool"
        self.home.mkdir(exist_ok=True)
        (self.etc / "main.cf").write_text(
            f"""compatibility_level = 3.6
queue_directory = {self.home}
data_directory = {self.folder / "data"}
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = peer-postfix.test
mydestination =
alias_maps =
local_recipient_maps =
mynetworks = 127.0.0.0/8
relayhost = [127.0.0.1]:{self.sink_port}
disable_dns_lookups = yes
smtp_host_lookup = native
smtpd_peername_lookup = no
smtpd_relay_restrictions = permit_mynetworks, reject
smtp_tls_security_level = none
smtpd_tls_security_level = none
minimal_backoff_time = 1s
maximal_backoff_time = 1s
queue_run_delay = 1s
smtp_destination_concurrency_failed_cohort_limit = 0
default_process_limit = 50
maillog_file = {self.folder / "log" / "maillog"}
maillog_file_prefixes = /
"""
        )
        self.command("start")

        def greets():
            try:
                socket.create_connection(("127.0.0.1", self.plain_port), 1).close()
                return True
            except OSError:
                return False

        wait_for("Postfix greets", greets, 30)

    def command(self, what):
        return subprocess.run(
            ["postfix", "-c", self.etc, what], capture_output=True, text=True, timeout=60, check=False
        )

    def kill(self):
        """kill -9 of all of it, by the process ids of its session."""
        master = int((self.home / "pid/master.pid").read_text())
        children = pathlib.Path(f"/proc/{master}/task/{master}/children").read_text().split()
        for pid in [str(master), *children]:
            subprocess.run(["kill", "-9", pid], capture_output=True, check=False)
        wait_for("Postfix is gone", lambda: not pathlib.Path(f"/proc/{master}").exists(), 10)
        time.sleep(0.05)

    def drain(self):
        def empty():
            if any(file.is_file() for d in ("incoming", "active", "deferred", "maildrop") for file in (self.home / d).rglob("*")):
                self.command("flush")
                return False
            return True

        wait_for("the queue is empty", empty, 60, 0.2)
        corrupt = self.home / "corrupt"
        return len(list(corrupt.iterdir())) if corrupt.is_dir() else 0


class Marked(Ledger):
    """A ledger that notes with each 250 how far the device was written."""

    def __init__(self, recorder):
        super().__init__()
        self.recorder, self.marks = recorder, []

    def acknowledged(self, ident):
        self.marks.append((self.recorder.count(), time.monotonic(), ident))


def record(server, home, kind, sink_port, messages, number):
    """Runs the server on a new file system until enough was acknowledged: (recorder, marks, what was delivered)."""
    sink = Sink(sink_port, refused=LATER)
    recorder = Recorder(home, kind, SIZES[kind])
    server.start(recorder.mount)
    ledger, stop = Marked(recorder), threading.Event()
    # Names of messages are never used twice, whatever the round.
    clients = [Client(number * 100 + n, server, ledger, None, stop, large=90_000) for n in range(4)]
    for client in clients:
        client.start()
    wait_for("messages are taken", lambda: len(ledger.marks) >= messages, 120, 0.005)
    stop.set()
    for client in clients:
        client.join(70)
    time.sleep(0.2)
    taken, *_ = sink.taken()
    server.kill()
    sink.stop()
    recorder.close()
    return recorder, ledger, taken


def verify(server, mount, image, sink, ledger, delivered, mark):
    """(lost, damaged, repeated) of one snapshot."""
    subprocess.run(["mount", "-o", "loop", image, mount], check=True)
    try:
        server.start(mount)
        quarantined = server.drain()
        taken, _, _, damaged, _ = sink.taken()
        sink.ask("forget")
        server.kill()
    finally:
        subprocess.run(["umount", mount], check=True)
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
    return lost, len(damaged) + quarantined, again


def run(given):
    folder = Folder("powercut-", given.folder)
    sink_port = free_port()
    if given.postfix:
        server = Postfix(folder, sink_port)
    else:
        server = Ours(given.binary, folder, sink_port)
    mount = folder.make("mount")
    done, lost, torn, again, messages = 0, [], 0, 0, 0
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
            cuts.at(mark[0], home / "cut.img")
            missing, damaged, repeated = verify(server, mount, home / "cut.img", sink, ledger, delivered, mark)
            lost += missing
            torn += damaged
            again += repeated
            done += 1
        sink.stop()
        messages += len(ledger.marks)
        fates = [a + b for a, b in zip(fates, (cuts.kept, cuts.dropped, cuts.torn))]
        shutil.rmtree(home)
        print(f"# {done} snapshots, {kind}: {len(lost)} lost, {torn} torn", flush=True)
    print(
        f"""
| snapshots | file systems | messages with a 250 | lost | torn | delivered twice | unflushed writes: kept, dropped, torn | seconds |
|---|---|---|---|---|---|---|---|
| {done} | {", ".join(given.fs)} | {messages} | {len(lost)} | {torn} | {again} | {fates[0]}, {fates[1]}, {fates[2]} | {time.monotonic() - began:.0f} |
"""
    )
    check(not lost, "lost:", lost[:10])
    check(torn == 0, "something was torn")
    check(sum(fates) > 0, "no write was under way at any cut: this shows nothing")
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
    given = args.parse_args()
    print(f"# {given.binary or 'postfix'}, {given.snapshots} snapshots, seed {given.seed}", flush=True)
    try:
        return run(given)
    except Failed as why:
        print(f"FAILED: {why}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
