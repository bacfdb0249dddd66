#!/usr/bin/env python3
"""An I/O fault at the n-th call, for every n, in the real binaries; and what else happens to a disk and a process.

    tests/bench/iofault.py --binary target/release/smtp-relay                 # every case below
    tests/bench/iofault.py --binary target/release/smtp-relay --only calls --step 7

    calls     the n-th call on a file of the data directory fails, for every n of a life (`calls.py`, `shim.c`): no 250 may
              be false, nothing may panic, and the relay accepts again without a restart.
    cut       each file of a real queue directory is cut at each octet (or at about `--places` of them);
    flip      and one bit of each octet is flipped: the relay starts and delivers all but at most one message, and what it does not
              deliver is in the quarantine. Of a run of zeros only the first is touched.
    second    a second process on the same directory refuses to start.
    term      SIGTERM under load: it ends in order within 10 s, and nothing that had its 250 is lost.
    full      a file system that is full: 452, and accepting again without a restart once there is room.
    clock     the wall clock jumps by seconds to decades, under load and while the relay is down (`clocks.py`): nothing is lost, comes
              twice or expires, and attempts come as scheduled.

Needs a C compiler for `calls` and `clock`, and root for `full` (a tmpfs).
"""

import argparse
import os
import pathlib
import queue
import random
import shutil
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "interop"))

from calls import Shimmed, calls, send
from clocks import clocks
from harness.base import Failed, Folder, check, free_port, wait_for
from harness.relay import Relay
from kill9 import Client, Ledger
from sink import Sink


def filled(server, folder, sink_port):
    """A data directory with messages in it, of a relay that was killed: (path, idents)."""
    refusing = Sink(sink_port, refused=b"@b.test")
    data = folder / "data-filled"
    shutil.rmtree(data, ignore_errors=True)
    check(server.begins(data), "it starts")
    idents = [f"w{n}" for n in range(6)]
    for ident in idents:
        check(send(server.plain_port, ident, [f"{ident}@b.test"], 60), "it accepts")
    time.sleep(1.5)
    server.kill()
    refusing.stop()
    (data / "admin.sock").unlink()
    return data, idents


def places(octets, count):
    """Where to damage a file: at each octet, or at about so many; of a run of zeros, its first."""
    used = [at for at in range(len(octets.rstrip(b"\0"))) if octets[at] or (at and octets[at - 1])]
    step = max(1, len(used) // count) if count else 1
    return used[random.randrange(step) :: step]


class Wrecks:
    """A relay and a receiver, for one damaged directory after another."""

    def __init__(self, binary, folder, number):
        self.sink = Sink(port := free_port())
        self.server = Shimmed(binary, folder, port, f"wreck-{number}")
        self.data = folder / f"data-wreck-{number}"

    def deliver(self, filled, file, octets):
        """What is delivered where the file holds this instead: (idents, how many parts are in the quarantine)."""
        shutil.rmtree(self.data, ignore_errors=True)
        subprocess.run(["cp", "-a", filled, self.data], check=True)
        (self.data / "queue" / file).write_bytes(octets)
        check(self.server.begins(self.data), "it does not start:", file, self.server.relay.child.text()[-500:])
        aside = self.server.drain()
        taken = {ident for ident, _ in self.sink.taken()[0]}
        self.server.kill()
        self.sink.ask("forget")
        return taken, aside


def damaged(octets, at, how):
    return octets[:at] if how == "cut" else octets[:at] + bytes([octets[at] ^ 1 << at % 8]) + octets[at + 1 :]


def wreck(given, folder, how):
    wrecks = [Wrecks(given.binary, folder, number) for number in range(given.jobs)]
    data, idents = filled(Shimmed(given.binary, folder, port := free_port()), folder, port)
    todo, found, failed = queue.SimpleQueue(), [], []
    for file in sorted(f for f in (data / "queue").iterdir() if f.is_file() and f.name != "lock"):
        octets = file.read_bytes()
        for at in places(octets, given.places):
            todo.put((file.name, octets, at))

    def work(one):
        while not todo.empty() and not failed:
            try:
                file, octets, at = todo.get_nowait()
                taken, aside = one.deliver(data, file, damaged(octets, at, how))
                found.append((file, at, len(set(idents) - taken), aside))
            except queue.Empty:
                return
            except Failed as why:
                failed.append(why)

    threads = [threading.Thread(target=work, args=(one,)) for one in wrecks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in wrecks:
        one.sink.stop()
    check(not failed, *failed)
    # Of a file that is cut, what was behind the cut and never known to be synced leaves no trace.
    explained = [aside for file, _, _, aside in found]
    strange = [case for case, known in zip(found, explained) if case[2] and not known]
    most = max(missing for _, _, missing, _ in found)
    print(f"| {how}: cases | not delivered, in all | at most in one | not delivered and not in the quarantine |\n|---|---|---|---|")
    print(f"| {len(found)} | {sum(case[2] for case in found)} | {most} | {len(strange)} |")
    check(not strange, "see above", strange[:5])
    check(how == "cut" or most <= 1, "a bit costs more than its message")


def second(given, folder):
    server = Shimmed(given.binary, folder, free_port())
    server.spawn(folder / "data-second")
    wait_for("the relay greets", lambda: Relay._greets(server.relay), 30, 0.02)
    other = Relay(given.binary, folder, "other")
    other.data = folder / "data-second"
    other.write_config()
    code, _, err = other.command("serve")
    check(code != 0 and "uses this queue" in err, "a second process:", code, err[-300:])
    server.kill()
    print("| second process | refused, with the id of the first |")


def term(given, folder):
    sink = Sink(port := free_port())
    server = Shimmed(given.binary, folder, port)
    data, ledger, longest = folder / "data-term", Ledger(), 0.0
    for number in range(given.terms):
        stop = threading.Event()
        server.spawn(data)
        wait_for("the relay greets", lambda: Relay._greets(server.relay), 30, 0.02)
        clients = [Client(number * 100 + n, server, ledger, None, stop, large=90_000) for n in range(8)]
        for client in clients:
            client.start()
        time.sleep(random.uniform(0.3, 1))
        began = time.monotonic()
        server.relay.stop()
        longest = max(longest, time.monotonic() - began)
        stop.set()
        for client in clients:
            client.join(70)
    server.spawn(data)
    wait_for("the relay greets", lambda: Relay._greets(server.relay), 30, 0.02)
    server.drain()
    taken, again, *_ = sink.taken()
    server.kill()
    sink.stop()
    lost = [key for key in ledger.expected() if key not in taken]
    print(f"| SIGTERM under load: rounds | messages with a 250 | lost | delivered twice | longest end |\n|---|---|---|---|---|\n| {given.terms} | {len(ledger.acked)} | {len(lost)} | {len(again)} | {longest:.1f} s |")
    check(not lost and not again and longest < 10.5, "see above")


def full(given, folder):
    mount = folder.make("small")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", mount], check=True)
    sink = Sink(port := free_port())
    server = Shimmed(given.binary, folder, port)
    try:
        server.spawn(mount / "data")
        wait_for("the relay greets", lambda: Relay._greets(server.relay), 30, 0.02)
        check(send(server.plain_port, "f0", ["f0@a.test"]), "it accepts at first")
        with open(mount / "filler", "wb") as filler:
            try:
                while True:
                    filler.write(b"x" * 65536)
                    filler.flush()
            except OSError:
                pass
        refused = [send(server.plain_port, f"x{n}", [f"x{n}@a.test"]) for n in range(5)]
        check(refused == [False] * 5, "on a full disk:", refused)
        (mount / "filler").unlink()
        began = time.monotonic()
        wait_for("it accepts again", lambda: send(server.plain_port, "f1", ["f1@a.test"]), 30, 0.2)
        print(f"| disk full and freed | 5 of 5 refused with 4xx | accepts again after {time.monotonic() - began:.1f} s |")
        server.drain()
        taken = {ident for ident, _ in sink.taken()[0]}
        check({"f0", "f1"} <= taken, "delivered:", taken)
    finally:
        server.kill()
        sink.stop()
        subprocess.run(["umount", mount], check=True)


def main():
    cases = {
        "calls": calls,
        "cut": lambda given, folder: wreck(given, folder, "cut"),
        "flip": lambda given, folder: wreck(given, folder, "flip"),
        "second": second,
        "term": term,
        "full": full,
        "clock": clocks,
    }
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--binary", required=True)
    args.add_argument("--only", choices=cases, nargs="+", default=list(cases))
    args.add_argument("--step", type=int, default=1, help="calls: every STEP-th call")
    args.add_argument("--jobs", type=int, default=2, help="calls, cut and flip: so many relays at once")
    args.add_argument("--places", type=int, default=200, help="cut and flip: so many places in each file; 0: each octet")
    args.add_argument("--jumps", type=int, default=60, help="clock: so many under load, and a quarter of them at restarts")
    args.add_argument("--terms", type=int, default=10, help="term: so many rounds")
    args.add_argument("--if-possible", action="store_true", help="leave out what this machine does not let us do")
    given = args.parse_args()
    if given.if_possible and os.geteuid() != 0:
        print("skipped: `full` needs root")
        given.only = [name for name in given.only if name != "full"]
    folder, failed = Folder("iofault-"), 0
    print(f"# {given.binary}", flush=True)
    for name in given.only:
        try:
            cases[name](given, folder)
        except Failed as why:
            print(f"FAILED: {name}: {why}", flush=True)
            failed += 1
    print(f"{len(given.only) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
