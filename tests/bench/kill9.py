#!/usr/bin/env python3
"""kill -9 under load, round after round, with a client that keeps a ledger.

    tests/bench/kill9.py --binary target/release/smtp-relay --rounds 200
    tests/bench/kill9.py --postfix --rounds 50      the reference, in the same harness; clients without TLS alone

Clients send without pause, half of them from a trusted network, half over TLS with AUTH. Each message has two recipients in two
domains, and its digest; some are larger than what the relay keeps in memory. A sink takes them, and turns one
recipient in ten away at first. In each round the relay is killed at a random moment, sometimes while it recovers,
and started again. In the end, after the queue has drained, it must hold that

    every message that got its 250 arrived, at each recipient, undamaged;
    what arrived twice was in flight when the relay was killed, each single one: the sink had taken it, and its connection
        was cut before another octet came over it. A relay that goes on with a connection before it has written down
        what became of the message before fails here;
    the relay's own account of the last start adds up.
"""

import argparse
import base64
import bisect
import collections
import hashlib
import pathlib
import random
import socket
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "interop"))

from harness import certs
from harness.base import Failed, Folder, check, free_port
from harness.relay import Relay
from sink import Sink

# A message of the larger kind does not fit the memory that the relay gives a body.
SIZES = [500, 2_000, 10_000, 10_000, 30_000]
LARGE, ONE_IN = 400_000, 60


class Ledger:
    """Which messages were sent, and which of them got a 250."""

    def __init__(self):
        self.acked = {}
        self.doubtful = set()
        self.refused = collections.Counter()
        self.lock = threading.Lock()

    def acknowledged(self, ident):
        """A message got its 250. Called with the lock held."""

    def expected(self):
        return [(ident, rcpt) for ident, rcpts in self.acked.items() for rcpt in rcpts]


class Client(threading.Thread):
    """Sends until it is told to stop; connects again whenever the relay is gone."""

    def __init__(self, number, relay, ledger, context, stop, large=LARGE):
        super().__init__(daemon=True)
        self.large = large
        self.number, self.relay, self.ledger, self.context, self.stop = (
            number,
            relay,
            ledger,
            context,
            stop,
        )
        self.random = random.Random(number)
        self.sent = 0

    def run(self):
        while not self.stop.is_set():
            try:
                with self.connect() as conn:
                    reader = conn.makefile("rb")
                    self.greet(conn, reader)
                    while not self.stop.is_set():
                        self.send(conn, reader)
            except (OSError, EOFError, ValueError):
                time.sleep(0.02)

    def connect(self):
        port = self.relay.tls_port if self.context else self.relay.plain_port
        conn = socket.create_connection(("127.0.0.1", port), timeout=60)
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self.context.wrap_socket(conn, server_hostname="localhost") if self.context else conn

    def greet(self, conn, reader):
        self.reply(reader, "220")
        conn.sendall(b"EHLO client.test\r\n")
        self.reply(reader, "250")
        if self.context:
            secret = base64.b64encode(f"\0{self.relay.user}\0{self.relay.secret}".encode())
            conn.sendall(b"AUTH PLAIN " + secret + b"\r\n")
            self.reply(reader, "235")

    @staticmethod
    def reply(reader, wanted):
        while True:
            line = reader.readline()
            if not line:
                raise EOFError
            if line[3:4] != b"-":
                break
        if not line.startswith(wanted.encode()):
            raise ValueError(line.decode(errors="replace").strip())

    def send(self, conn, reader):
        self.sent += 1
        ident = f"{self.number}.{self.sent}"
        size = self.large if self.random.randrange(ONE_IN) == 0 else self.random.choice(SIZES)
        line = b".%s %s\r\n" % (ident.encode(), b"x" * self.random.randrange(20, 90))
        body = line * (size // len(line) + 1)
        head = (
            f"From: <app@sender.test>\r\nSubject: ledger\r\nX-Ledger: {ident}\r\n"
            f"X-Digest: {hashlib.sha256(body).hexdigest()}\r\n\r\n"
        ).encode()
        rcpts = [f"r{ident}@a.test", f"r{ident}@b.test"]
        conn.sendall(
            b"MAIL FROM:<app@sender.test>\r\n"
            + b"".join(b"RCPT TO:<%s>\r\n" % r.encode() for r in rcpts)
            + b"DATA\r\n"
        )
        try:
            for wanted in ("250", "250", "250", "354"):
                self.reply(reader, wanted)
        except ValueError as why:
            with self.ledger.lock:
                self.ledger.refused[str(why)[:60]] += 1
            raise
        with self.ledger.lock:
            self.ledger.doubtful.add(ident)
        conn.sendall((head + body).replace(b"\r\n.", b"\r\n..") + b".\r\n")
        try:
            self.reply(reader, "250")
        except ValueError as why:
            with self.ledger.lock:
                self.ledger.refused[str(why)[:60]] += 1
                self.ledger.doubtful.discard(ident)
            raise
        with self.ledger.lock:
            self.ledger.acknowledged(ident)
            self.ledger.acked[ident] = rcpts
            self.ledger.doubtful.discard(ident)


def main():
    args = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    which = args.add_mutually_exclusive_group(required=True)
    which.add_argument("--binary")
    which.add_argument("--postfix", action="store_true")
    args.add_argument("--rounds", type=int, default=200)
    args.add_argument("--clients", type=int, default=8)
    args.add_argument("--connections", type=int, default=10, help="connections_per_lane")
    args.add_argument("--seed", type=int, default=None)
    args.add_argument(
        "--folder", default=None, help="where the data is kept meanwhile; a real disk"
    )
    given = args.parse_args()
    seed = given.seed if given.seed is not None else random.randrange(1 << 32)
    print(f"# {given.binary or 'postfix'}, {given.rounds} rounds, seed {seed}", flush=True)
    try:
        rounds = run_postfix if given.postfix else run
        return rounds(given, random.Random(seed))
    except Failed as why:
        print(f"FAILED: {why}")
        return 1


def run(given, dice):
    folder = Folder("kill9-", given.folder)
    authority = certs.Authority(folder.make("certs"))
    sink_port = free_port()
    sink = Sink(sink_port, defer_percent=10)
    route = f'\n[[route]]\ndomain = "*"\nhosts = ["127.0.0.1:{sink_port}"]\ntls = "none"\n'
    relay = Relay(
        given.binary,
        folder,
        "relay",
        certificate=authority.issue("relay", ["DNS:localhost"]),
        extra=route,
        config={"delivery": {"connections_per_lane": given.connections}},
    )
    relay.add_credential()
    ledger, stop = Ledger(), threading.Event()
    context = authority.client_context()
    clients = [
        Client(n, relay, ledger, context if n % 2 else None, stop) for n in range(given.clients)
    ]
    starts, kills, in_recovery = [], [], 0
    began = time.monotonic()
    for client in clients:
        client.start()
    for number in range(given.rounds):
        if dice.random() < 0.15 and number:
            # A kill while it recovers: it must not matter how often that happens.
            relay.spawn()
            time.sleep(dice.uniform(0.001, 0.06))
            relay.kill()
            kills.append(time.monotonic())
            in_recovery += 1
        starts.append(relay.start(60))
        time.sleep(dice.uniform(0.1, 1.2))
        relay.kill()
        kills.append(time.monotonic())
        if number % 100 == 99:
            print(f"# {number + 1} rounds", flush=True)
    stop.set()
    starts.append(relay.start(60))
    for client in clients:
        client.join(70)
    status = drain(relay)
    relay.stop()
    taken = sink.taken()
    sink.stop()
    return tell(ledger, taken, status, starts, kills, in_recovery, time.monotonic() - began)


def run_postfix(given, dice):
    """Postfix's master and all its processes are killed. What it does is shown, not judged."""
    from servers import Postfix

    folder = Folder("kill9-", given.folder)
    sink = Sink(port := free_port(), defer_percent=10)
    server = Postfix(folder, port)
    home = folder.make("queue")
    ledger, stop, kills, starts = Ledger(), threading.Event(), [], []
    clients = [Client(n, server, ledger, None, stop) for n in range(given.clients)]
    began = time.monotonic()
    for client in clients:
        client.start()
    for _ in range(given.rounds):
        started = time.monotonic()
        server.start(home)
        starts.append(time.monotonic() - started)
        time.sleep(dice.uniform(0.1, 1.2))
        server.kill()
        kills.append(time.monotonic())
    stop.set()
    server.start(home)
    for client in clients:
        client.join(70)
    server.drain(300)
    taken, again, cuts, damaged, _ = sink.taken()
    server.kill()
    sink.stop()
    lost = [key for key in ledger.expected() if key not in taken]
    settled = [key for key, _, was_in_flight in again if not was_in_flight]
    starts.sort()
    print(
        f"""
| kills | messages with a 250 | recipients due | lost | damaged | duplicates | in flight at the kills | of the duplicates, not in flight | start, median |
|---|---|---|---|---|---|---|---|---|
| {len(kills)} | {len(ledger.acked)} | {len(ledger.expected())} | {len(lost)} | {len(damaged)} | {len(again)} | {len(cuts)} | {len(settled)} | {starts[len(starts) // 2]:.2f} s |

{time.monotonic() - began:.0f} s in all"""
    )
    return 0


def drain(relay):
    """Waits for as long as the queue gets shorter; how long that takes depends on how much the rounds left."""
    least, since = None, time.monotonic()
    while True:
        status = relay.status()
        recovering = status["store"].get("recovering") is not None
        if status["queued"] == 0 and not recovering:
            return status
        if least is None:
            print(f"# {status['queued']} messages queued after the last kill", flush=True)
        if recovering or least is None or status["queued"] < least:
            least, since = status["queued"], time.monotonic()
        stuck = time.monotonic() - since
        check(stuck < 180, f"the queue stands still at {least} messages", status)
        time.sleep(0.5)


def tell(ledger, found, status, starts, kills, in_recovery, seconds):
    taken, again, cuts, damaged, strange = found
    expected = ledger.expected()
    lost = [key for key in expected if key not in taken]
    unknown = [key for key in taken if key[0] not in ledger.acked and key[0] not in ledger.doubtful]
    # In which round each of those that came again had come before, and what was in flight at its end.
    per_round = collections.Counter(bisect.bisect_left(kills, before) for _, before, _ in again)
    in_flight = collections.Counter(bisect.bisect_left(kills, at) for at in cuts)
    settled = [key for key, _, was_in_flight in again if not was_in_flight]
    over = [n for n, count in per_round.items() if count > in_flight[n]]
    worst = max(per_round.values(), default=0)
    account = (
        status["accepted"]
        + status["recovered"]
        - sum(status[k] for k in ("delivered", "bounced", "expired", "removed", "queued"))
    )
    starts.sort()
    print(
        f"""
| kills | of these in recovery | messages with a 250 | recipients due | lost | damaged | duplicates (most in a round) | in flight at the kills | of the duplicates, not in flight | start, median / longest |
|---|---|---|---|---|---|---|---|---|---|
| {len(kills)} | {in_recovery} | {len(ledger.acked)} | {len(expected)} | {len(lost)} | {len(damaged)} | {len(again)} ({worst}) | {len(cuts)} | {len(settled)} | {starts[len(starts) // 2]:.2f} s / {starts[-1]:.2f} s |

{len(ledger.doubtful)} messages were cut off before their 250; {seconds:.0f} s in all; refused: {dict(ledger.refused) or 'nothing'}"""
    )
    check(not lost, "lost:", lost[:10])
    check(not damaged, "damaged:", damaged[:10])
    check(not unknown and not strange, "nobody sent these:", unknown[:10], strange)
    check(len(ledger.acked) >= len(kills), "too few messages for the test to mean anything")
    check(account == 0, "the relay's account is off by", account, status)
    check(not settled, "not in flight at a kill, and delivered twice:", settled[:10])
    check(not over, "more duplicates than were in flight in the rounds", over[:10])
    print("1 passed, 0 failed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
