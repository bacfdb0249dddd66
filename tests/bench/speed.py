#!/usr/bin/env python3
"""Speed and memory of both binaries, beside Postfix in the same run; prints Markdown.

    cargo build --release && tests/bench/speed.py                      everything, some ten minutes
    tests/bench/speed.py --only accept --seconds 5 --rounds 5
    tests/bench/speed.py --only memory --jobs 20000

| part | what it measures |
|---|---|
| `accept` | Postfix's smtp-source, sessions kept open → server, which holds delivery: durable accepts a second |
| `relay` | smtp-source → server → Postfix's smtp-sink: from the first connect to the last message at the sink |
| `memory` | resident and proportional size: idle, with idle connections (plain, TLS), with deferred jobs |

Servers take turns (A B C, A B C, …), and the medians of the rounds are compared, since the machine is not ours alone. CPU
seconds are those of the server's processes and of those that they have ended. Postfix needs root; without it, only the
relay is measured. All traffic stays on 127.0.0.1. FOLDER (default: the temporary folder) should be on a real disk.
"""

import argparse
import os
import pathlib
import re
import socket
import statistics
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "interop"))

from harness import certs, peers
from harness.base import Child, Failed, Folder, check, free_port, tool, wait_for
from harness.relay import Relay

TICK = os.sysconf("SC_CLK_TCK")
SIZE = 10_240


# Processes


def family(pid):
    """A process and its descendants."""
    children = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = pathlib.Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue
            children.setdefault(int(stat[stat.rindex(")") + 2 :].split()[1]), []).append(int(entry))
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        todo += children.get(found[-1], [])
    return found


def cpu_secs(pid):
    """CPU seconds of a process, its descendants, and those of them that ended."""
    ticks = 0
    for member in family(pid):
        try:
            stat = pathlib.Path(f"/proc/{member}/stat").read_text()
        except OSError:
            continue
        ticks += sum(int(part) for part in stat[stat.rindex(")") + 2 :].split()[11:15])
    return ticks / TICK


def memory_kib(pid):
    """(resident, proportional) KiB of a process and its descendants."""
    totals = [0, 0]
    for member in family(pid):
        try:
            text = pathlib.Path(f"/proc/{member}/smaps_rollup").read_text()
        except OSError:
            continue
        for place, key in enumerate(("Rss", "Pss")):
            found = re.search(rf"^{key}:\s+(\d+)", text, re.M)
            totals[place] += int(found[1]) if found else 0
    return totals


# Load


class Sink:
    """smtp-sink that counts."""

    def __init__(self, folder, port, *flags):
        read, write = os.pipe()
        command = [tool("smtp-sink"), "-c", "-m", "4000", *flags]
        if os.geteuid() == 0:
            command += ["-u", "nobody"]
        self.child = Child(
            [*command, f"127.0.0.1:{port}", "1024"], folder / f"sink-{port}.log", stdout=write
        )
        os.close(write)
        self.read, self.count, self.last = read, 0, time.monotonic()
        threading.Thread(target=self._watch, daemon=True).start()
        wait_for("smtp-sink listens", lambda: peers.greets(self.child, "127.0.0.1", port), 10)

    def _watch(self):
        text = b""
        while piece := os.read(self.read, 65536):
            text = (text + piece)[-400:]
            found = re.findall(rb"mesg=(\d+)\s", text)
            if found and int(found[-1]) != self.count:
                self.count, self.last = int(found[-1]), time.monotonic()

    def wait(self, count):
        """Waits for that many messages; fails when none came for a long time."""
        started = time.monotonic()
        while self.count < count:
            check(
                time.monotonic() - max(self.last, started) < 60,
                "the sink has",
                self.count,
                "of",
                count,
            )
            time.sleep(0.005)
        return self.last


def source(port, count, sessions, keep, size=SIZE):
    """smtp-source: sends `count` messages; returns its seconds."""
    command = [
        tool("smtp-source"),
        "-s",
        sessions,
        "-m",
        count,
        "-l",
        size,
        "-C",
        50,
        "-M",
        "load.test",
        "-f",
        "from@source.test",
        "-t",
        "to@dest.test",
        *(["-d"] if keep else []),
        f"127.0.0.1:{port}",
    ]
    started = time.monotonic()
    done = subprocess.run(
        [str(part) for part in command], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    check(done.returncode == 0, "smtp-source:", done.stderr.decode(errors="replace").strip()[-500:])
    return time.monotonic() - started


# Servers


class OurServer:
    """One binary; `to` is where all mail goes."""

    def __init__(self, folder, binary, name, to, certificate=None):
        self.name = pathlib.Path(binary).name
        route = f'\n[[route]]\ndomain = "*"\nhosts = ["127.0.0.1:{to}"]\ntls = "none"\n'
        self.relay = Relay(
            binary,
            folder,
            f"{self.name}-{name}",
            extra=route,
            certificate=certificate,
            config={
                "delivery": {"retry": "1h*", "expire": "1d", "connections_per_lane": 20},
                "limits": {"connections": 20000, "connections_per_ip": 20000},
            },
        )
        self.relay.start(120)
        self.port, self.pid = self.relay.plain_port, self.relay.child.pid

    def stop(self):
        self.relay.stop()


class PostfixServer:
    """Postfix that relays all mail to `to`, or holds it."""

    name = "Postfix"

    def __init__(self, folder, name, to):
        self.port = free_port()
        hold = " -o smtpd_client_restrictions=static:HOLD" if name == "accept" else ""
        self.postfix = peers.Postfix(
            Sub(folder, f"postfix-{name}"),
            f"""myhostname = postfix.test
mynetworks = 127.0.0.0/8
relayhost = [127.0.0.1]:{to}
disable_dns_lookups = yes
smtp_host_lookup = native
smtpd_relay_restrictions = permit_mynetworks, reject
smtp_tls_security_level =
smtpd_tls_security_level = none
default_process_limit = 300
smtp_connection_cache_on_demand = yes
""",
            [f"127.0.0.1:{self.port} inet n - n - - smtpd{hold}"],
        )
        self.pid = self.postfix.pid

    def stop(self):
        self.postfix.stop()


class Sub:
    """A part of a folder."""

    def __init__(self, folder, name):
        self.folder, self.path = folder, folder.make(name)

    def make(self, name, mode=0o755):
        return self.folder.make(f"{self.path.name}/{name}", mode)

    def __truediv__(self, name):
        return self.path / name


def servers(folder, args, name, to):
    made = [PostfixServer(folder, name, to)] if os.geteuid() == 0 and not args.no_postfix else []
    return made + [OurServer(folder, binary, name, to) for binary in args.binary]


# Parts


def accept(folder, args):
    """Durable accepts, at sessions kept open."""
    # Nothing listens there: the relay finds that out once and backs the lane off; Postfix holds.
    made = servers(folder, args, "accept", free_port())
    rows = []
    for sessions in args.sessions:
        counts = {
            server.name: max(sessions * 4, int(args.seconds * warm(server, sessions)))
            for server in made
        }
        cells = {server.name: [] for server in made}
        for _ in range(args.rounds):
            for server in made:
                before = cpu_secs(server.pid)
                took = source(server.port, counts[server.name], sessions, keep=True)
                cells[server.name].append(
                    (
                        counts[server.name] / took,
                        1000 * (cpu_secs(server.pid) - before) / counts[server.name],
                    )
                )
        rows += compare(f"{sessions} sessions", cells)
    for server in made:
        server.stop()
    table("Durable accept of 10 KB messages, sessions kept open", "accepted/s", rows)


def warm(server, sessions):
    """A guess at the rate."""
    count = max(200, sessions * 4)
    return count / source(server.port, count, sessions, keep=True)


def relay(folder, args):
    """End to end, with the load tools alone as the ceiling."""
    port = free_port()
    sink = Sink(folder, port)
    made = servers(folder, args, "relay", port)
    rows = []
    for sessions in (20,):
        cells = {
            name: [] for name in ["smtp-source → smtp-sink", *(server.name for server in made)]
        }
        counts = {}
        for server in made:
            start, before = time.monotonic(), sink.count
            source(server.port, 400, sessions, keep=False)
            counts[server.name] = max(
                400, int(args.seconds * 400 / (sink.wait(before + 400) - start))
            )
        for _ in range(args.rounds):
            before = sink.count
            took = source(port, 4000, sessions, keep=False)
            sink.wait(before + 4000)
            cells["smtp-source → smtp-sink"].append((4000 / took, float("nan")))
            for server in made:
                count, before, spent, start = (
                    counts[server.name],
                    sink.count,
                    cpu_secs(server.pid),
                    time.monotonic(),
                )
                took = source(server.port, count, sessions, keep=False)
                took = max(took, sink.wait(before + count) - start)
                time.sleep(0.3)  # the outcomes reach the disk
                cells[server.name].append(
                    (count / took, 1000 * (cpu_secs(server.pid) - spent) / count)
                )
        rows += compare(f"{sessions} sessions", cells)
    for server in made:
        server.stop()
    sink.child.stop()
    table(
        "End to end: smtp-source → server → smtp-sink, 10 KB messages, a connection each",
        "relayed/s",
        rows,
    )


def compare(cell, cells):
    """Rows of medians, with their ratio to Postfix."""
    medians = {
        name: tuple(statistics.median(values) for values in zip(*got))
        for name, got in cells.items()
    }
    rate, cpu = medians.get("Postfix", (float("nan"),) * 2)
    return [
        (
            cell,
            name,
            got[0],
            min(r for r, _ in cells[name]),
            max(r for r, _ in cells[name]),
            got[1],
            got[0] / rate,
            got[1] / cpu,
        )
        for name, got in medians.items()
    ]


def table(title, unit, rows):
    show = lambda value, form: "" if value != value else format(value, form)
    print(
        f"\n### {title}\n\n| | server | {unit}, median (least to most) | CPU s / 1000 | rate × Postfix | CPU × Postfix |\n|---|---|---|---|---|---|"
    )
    for cell, name, rate, least, most, cpu, rates, cpus in rows:
        print(
            f"| {cell} | {name} | {rate:,.0f} ({least:,.0f} to {most:,.0f}) | {show(cpu, '.3f')} | {show(rates, '.2f')} | {show(cpus, '.3f')} |"
        )
    sys.stdout.flush()


def memory(folder, args):
    """Idle, with connections, with deferred jobs."""
    authority = certs.Authority(folder.make("certs"))
    certificate = authority.issue("relay", ["DNS:localhost"])
    rows = []
    for binary in args.binary:
        port = free_port()
        server = OurServer(folder, binary, "memory", port, certificate)
        time.sleep(2)
        name = server.name
        idle = memory_kib(server.pid)
        rows.append((name, "idle", *idle, ""))
        for kind, target, context in (
            ("plain", server.relay.plain_port, None),
            ("TLS", server.relay.tls_port, authority.client_context()),
        ):
            before = memory_kib(server.pid)
            held = connections(target, args.connections, context)
            time.sleep(2)
            now = memory_kib(server.pid)
            rows.append(
                (
                    name,
                    f"{args.connections:,} idle {kind} connections",
                    *now,
                    f"{(now[1] - before[1]) / args.connections:.1f} KiB a connection",
                )
            )
            for conn in held:
                conn.close()
            wait_for(
                "the sessions end",
                lambda server=server: server.relay.status()["sessions"] == 0,
                60,
                0.2,
            )
        rows += deferred(folder, args, server, port)
        server.stop()
    print(
        "\n### Memory\n\n| binary | state | resident MiB | proportional MiB | |\n|---|---|---|---|---|"
    )
    for name, state, rss, pss, more in rows:
        print(f"| {name} | {state} | {rss / 1024:.1f} | {pss / 1024:.1f} | {more} |")
    sys.stdout.flush()


def deferred(folder, args, server, port):
    """Jobs that were tried once and wait for an hour; then the same after a restart."""
    relay = server.relay
    relay.stop()
    relay.start()
    time.sleep(2)
    start = memory_kib(relay.child.pid)
    sink = Sink(folder, port, "-r", "RCPT")
    source(relay.plain_port, args.jobs, 20, keep=True, size=1000)

    def all_wait():
        lanes = relay.status()["lanes"]
        return sum(lane["waiting"] for lane in lanes) >= args.jobs

    try:
        wait_for("all jobs were tried", all_wait, 300, 1)
    except Failed:
        print("#", relay.status())
    time.sleep(3)
    waiting = memory_kib(relay.child.pid)
    relay.stop()
    took = relay.start(120)
    time.sleep(3)
    again = memory_kib(relay.child.pid)
    check(relay.status()["queued"] == args.jobs, "after the restart:", relay.status())
    server.pid = relay.child.pid
    sink.child.stop()
    each = lambda now: f"{(now[1] - start[1]) * 1024 / args.jobs:.0f} octets a job"
    return [
        (server.name, f"{args.jobs:,} deferred jobs", *waiting, each(waiting)),
        (
            server.name,
            f"{args.jobs:,} deferred jobs, restarted in {took:.2f} s",
            *again,
            each(again),
        ),
    ]


def connections(port, count, context):
    """Connections that said EHLO and then nothing."""
    held = []
    for number in range(count):
        conn = socket.create_connection(
            ("127.0.0.1", port), timeout=30, source_address=(f"127.0.0.{2 + number % 100}", 0)
        )
        if context:
            conn = context.wrap_socket(conn, server_hostname="localhost")
        said(conn)
        conn.sendall(b"EHLO idle.test\r\n")
        said(conn)
        held.append(conn)
    return held


def said(conn):
    """Reads one reply."""
    text = b""
    while not re.search(rb"(?m)^\d{3} .*\r\n\Z", text):
        piece = conn.recv(4096)
        check(piece, "the server closed an idle connection")
        text += piece


PARTS = {"accept": accept, "relay": relay, "memory": memory}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--binary", action="append", help="may be repeated; default: both in target/release"
    )
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--seconds", type=float, default=4, help="about how long one server's turn takes"
    )
    parser.add_argument(
        "--sessions", type=lambda text: [int(part) for part in text.split(",")], default=[1, 10, 50]
    )
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--folder", default=None)
    parser.add_argument("--no-postfix", action="store_true")
    args = parser.parse_args()
    args.binary = args.binary or ["target/release/smtp-relay", "target/release/smtp-relay-std"]
    try:
        import resource

        resource.setrlimit(
            resource.RLIMIT_NOFILE, (min(65536, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),) * 2
        )
    except (ValueError, OSError):
        pass
    folder = Folder("speed-", args.folder)
    print(
        f"# {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {time.strftime('%Y-%m-%d')}",
        flush=True,
    )
    for part in args.only.split(","):
        PARTS[part](folder, args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
