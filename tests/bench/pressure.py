#!/usr/bin/env python3
"""Both binaries on machines that are too small: what is refused, what is kept, and that nothing ends.

    cargo build --release && python3 tests/bench/pressure.py

descriptors   RLIMIT_NOFILE=64 and 200 clients: some are turned away, the queue goes on, all recovers (RES-06)
memory        a control group of 128 MiB, 500 sessions with 20 MB each: 452 before the system kills (RES-07)
halves        1,000 transactions of 9.9 MB that break off: no spool file is left (RES-08)
small         one core and 64 MiB: 2,000 messages over 50 sessions are relayed

`memory` and `small` need root, for a control group. Python's standard library only.
"""

import argparse
import os
import pathlib
import resource
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "interop"), str(HERE)]

from harness.base import Child, Failed, Folder, check, wait_for  # noqa: E402
from memory import TARGET, Receiver, cpu, inject, memory, read_reply, relay_for  # noqa: E402

MIB = 1 << 20


# A relay with less than the machine has

class Group:
    """A control group with a memory limit; version 2, or 1."""

    def __init__(self, name, limit):
        root = pathlib.Path("/sys/fs/cgroup")
        first = root / "memory"
        self.path = (first if first.is_dir() else root) / name
        self.path.mkdir(exist_ok=True)
        limits = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes") if first.is_dir() else ("memory.max",)
        for file in limits:
            if (self.path / file).exists():
                (self.path / file).write_text(str(limit))

    def enter(self):
        (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def peak(self):
        for file in ("memory.max_usage_in_bytes", "memory.peak"):
            if (self.path / file).exists():
                return int((self.path / file).read_text())
        return 0

    def remove(self):
        self.path.rmdir()


def start_limited(relay, preexec):
    """As Relay.start, with something done in the child first."""
    command = [relay.binary, "serve", "--config", relay.file, "--log", "json"]
    relay.child = Child(command, relay.home / "relay.log", cwd=relay.home, preexec_fn=preexec)
    wait_for(f"{relay.name} greets", relay._greets, 30, 0.02)


def connect(port, index=0):
    return socket.create_connection(("127.0.0.1", port), source_address=(f"127.0.0.{2 + index % 200}", 0), timeout=60)


def say(connection, line):
    connection.sendall(line.encode() + b"\r\n")
    return read_reply(connection).decode()


def send_one(port, size, index=0, declare=False):
    """One message of so many octets: its last reply, or why there is none."""
    try:
        with connect(port, index) as client:
            reply = read_reply(client).decode()
            if not reply.startswith("220"):
                return reply
            say(client, "EHLO load.test")
            declared = f" SIZE={size}" if declare else ""
            reply = say(client, f"MAIL FROM:<from@sender.test>{declared}")
            if not reply.startswith("250"):
                return reply
            say(client, "RCPT TO:<to@dest.test>")
            reply = say(client, "DATA")
            if not reply.startswith("354"):
                return reply
            client.sendall(b"From: from@sender.test\r\n\r\n")
            line = (b"x" * 76 + b"\r\n") * 512
            for _ in range(size // len(line)):
                client.sendall(line)
            return say(client, ".")
    except OSError as error:
        return f"lost: {error}"


def tally(replies):
    counts = {}
    for reply in replies:
        key = reply[:9].strip() if reply[:3].isdigit() else reply.split(":")[0]
        counts[key] = counts.get(key, 0) + 1
    return ", ".join(f"{count} x {key}" for key, count in sorted(counts.items()))


# The cases

def descriptors(binary, folder):
    receiver = Receiver(defers=False)
    relay = relay_for(binary, folder, f"{binary.name}-descriptors", receiver)
    start_limited(relay, lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)))
    pid = relay.child.pid
    clients, greeted, turned_away = [], 0, 0
    for index in range(200):
        client = connect(relay.plain_port, index)
        client.settimeout(0.3)
        try:
            reply = read_reply(client)
            greeted += reply.startswith(b"220")
            turned_away += reply.startswith(b"421")
        except OSError:
            pass
        clients.append(client)
    before, started = cpu(pid), time.monotonic()
    time.sleep(3)
    share = (cpu(pid) - before) / (time.monotonic() - started)
    check(greeted >= 4, "somebody must be served:", greeted)
    check(share < 0.2, "it spins:", share)
    # One of those inside still sends, and it is delivered.
    inside = clients[0]
    inside.settimeout(30)
    for line, code in (("EHLO load.test", "250"), ("MAIL FROM:<a@sender.test>", "250"), ("RCPT TO:<b@dest.test>", "250"), ("DATA", "354")):
        reply = say(inside, line)
        check(reply.startswith(code), line, reply)
    reply = say(inside, "From: a@sender.test\r\n\r\nhello\r\n.")
    check(reply.startswith("250"), reply)
    wait_for("it is delivered", lambda: receiver.messages == 1, 30)
    for client in clients:
        client.close()
    wait_for("new clients are served", lambda: send_one(relay.plain_port, 1000).startswith("250"), 30)
    print(f"{binary.name:<16}descriptors   {greeted} of 200 greeted, {turned_away} told 421, {100 * share:.0f} % of a core while full", flush=True)
    relay.stop()


def many_large(binary, folder):
    receiver = Receiver(defers=False)
    relay = relay_for(binary, folder, f"{binary.name}-memory", receiver)
    group = Group(f"relay-{os.getpid()}-{binary.name}", 128 * MIB)
    start_limited(relay, group.enter)
    with ThreadPoolExecutor(500) as pool:
        replies = list(pool.map(lambda n: send_one(relay.plain_port, 20_000_000, n), range(500)))
    taken = sum(reply.startswith("250") for reply in replies)
    check(relay.child.running(), "the relay was killed")
    check(taken > 0, "something must be taken:", tally(replies))
    check(not any(reply.startswith("5") for reply in replies), tally(replies))
    wait_for("all that was taken is delivered", lambda: receiver.messages >= taken, 300, 0.2)
    now = memory(relay.child.pid)
    print(f"{binary.name:<16}128 MiB       {tally(replies)}; rss {now['rss'] / 1024:.0f} MiB after, group's peak {group.peak() / MIB:.0f} MiB (file cache included)", flush=True)
    relay.stop()
    group.remove()


def halves(binary, folder):
    receiver = Receiver(defers=False)
    relay = relay_for(binary, folder, f"{binary.name}-halves", receiver)
    relay.start()
    pid = relay.child.pid
    before = memory(pid)

    def half(index):
        with connect(relay.plain_port, index) as client:
            read_reply(client)
            for line in ("EHLO load.test", "MAIL FROM:<a@sender.test>", "RCPT TO:<b@dest.test>", "DATA"):
                say(client, line)
            client.sendall(b"From: a@sender.test\r\n\r\n" + (b"x" * 76 + b"\r\n") * 126_900)

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(half, range(1000)))
    spool = relay.data / "queue" / "spool"
    wait_for("the spool is empty", lambda: not any(spool.iterdir()), 30, 0.2)
    wait_for("sessions end", lambda: relay.status()["sessions"] == 0, 30, 0.2)
    now = memory(pid)
    grown = (now["anonymous"] - before["anonymous"]) / 1024
    print(f"{binary.name:<16}halves        1,000 x 9.9 MB broken off: spool empty, {grown:.1f} MiB more than before", flush=True)
    relay.stop()


def small(binary, folder):
    receiver = Receiver(defers=False)
    relay = relay_for(binary, folder, f"{binary.name}-small", receiver)
    group = Group(f"relay-{os.getpid()}-{binary.name}", 64 * MIB)

    def confine():
        group.enter()
        os.sched_setaffinity(0, {0})

    start_limited(relay, confine)
    pid = relay.child.pid
    inject(relay.plain_port, 2000, 10_000, 50)
    wait_for("all is delivered", lambda: receiver.messages >= 2000, 120, 0.2)
    now = memory(pid)
    print(f"{binary.name:<16}one core, 64 MiB   2,000 relayed, CPU s/1000 {cpu(pid) / 2:.2f}, rss {now['rss'] / 1024:.1f} MiB, group's peak {group.peak() / MIB:.0f} MiB", flush=True)
    relay.stop()
    group.remove()


CASES = {"descriptors": descriptors, "memory": many_large, "halves": halves, "small": small}


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--binary", action="append", type=pathlib.Path, help="default: both, from target/release")
    options.add_argument("cases", nargs="*", metavar="case", help=f"of {', '.join(CASES)}; default: all")
    chosen = options.parse_args()
    folder = Folder("relay-pressure-")
    failed = False
    for binary in chosen.binary or [TARGET / "smtp-relay", TARGET / "smtp-relay-std"]:
        for name in chosen.cases or CASES:
            try:
                CASES[name](binary, folder)
            except Failed as error:
                failed = True
                print(f"{binary.name:<16}{name:<14}FAILED: {error}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
