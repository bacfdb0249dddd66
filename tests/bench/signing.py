#!/usr/bin/env python3
"""What signing costs the running binaries; prints Markdown.

    cargo build --release && tests/bench/signing.py                some three minutes
    tests/bench/signing.py --seconds 2 --rounds 3 --binary target/release/smtp-relay

Postfix's smtp-source → relay → smtp-sink, 10 KB messages, with no key, Ed25519, RSA-2048, and both. All relays run from
the start and take turns; the medians of the rounds are compared. CPU seconds are those of the relay's process; what a
message costs above one without a signature is the share of signing. Before it counts, each relay shows by `trace` that
it signs with the keys that it was given. FOLDER (default: the temporary folder) should be on a real disk.
"""

import argparse
import os
import pathlib
import smtplib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "interop"))

from harness.base import Folder, check, free_port, must, tool
from harness.relay import Relay, queued_id
from speed import Sink, cpu_secs, source

KINDS = {"none": (), "Ed25519": ("e1",), "RSA-2048": ("r1",), "both": ("r1", "e1")}
OPTIONS = {"e1": ("ed25519",), "r1": ("RSA", "-pkeyopt", "rsa_keygen_bits:2048")}
SESSIONS = 20


class Signer:
    """One binary with some keys; all mail goes to `to`."""

    def __init__(self, folder, binary, kind, to):
        self.binary, self.kind = pathlib.Path(binary).name, kind
        extra = f'\n[[route]]\ndomain = "*"\nhosts = ["127.0.0.1:{to}"]\ntls = "none"\n'
        if KINDS[kind]:
            extra += '\n[[domain]]\nname = "source.test"\n'
        for selector in KINDS[kind]:
            file = folder.path / f"{selector}.pem"
            if not file.exists():
                must([tool("openssl"), "genpkey", "-algorithm", *OPTIONS[selector], "-out", file])
                file.chmod(0o600)
            extra += f'[[domain.dkim]]\nselector = "{selector}"\nkey_file = "{file}"\n'
        self.relay = Relay(
            binary,
            folder,
            f"{self.binary}-{kind}",
            extra=extra,
            config={
                "delivery": {"retry": "1h*", "expire": "1d", "connections_per_lane": 20},
                "limits": {"connections": 20000, "connections_per_ip": 20000},
            },
        )
        self.relay.start(120)
        self.pid, self.turns = self.relay.child.pid, []

    def signs(self):
        """Fails unless a message has just the signatures that it should."""
        with smtplib.SMTP("127.0.0.1", self.relay.plain_port, timeout=60) as client:
            client.ehlo()
            client.mail("from@source.test")
            client.rcpt("to@dest.test")
            body = b"From: from@source.test\r\nTo: to@dest.test\r\nSubject: x\r\n\r\nx\r\n"
            _, said = client.data(body)
        told = self.relay.trace(queued_id(said))[0].get("dkim") or ""
        for selector in OPTIONS:
            wanted = selector in KINDS[self.kind]
            check((selector in told) == wanted, self.binary, self.kind, "has the signatures", told)

    def turn(self, sink, count):
        before, spent, start = sink.count, cpu_secs(self.pid), time.monotonic()
        took = source(self.relay.plain_port, count, SESSIONS, keep=True)
        took = max(took, sink.wait(before + count) - start)
        time.sleep(0.3)  # the outcomes reach the disk
        return count / took, 1e6 * (cpu_secs(self.pid) - spent) / count


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--binary", action="append", help="may be repeated; default: both in target/release")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3, help="about how long one turn takes")
    parser.add_argument("--folder", default=None)
    args = parser.parse_args()
    binaries = args.binary or ["target/release/smtp-relay", "target/release/smtp-relay-std"]
    folder = Folder("signing-", args.folder)
    print(f"# {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {time.strftime('%Y-%m-%d')}", flush=True)
    port = free_port()
    sink = Sink(folder, port)
    signers = [Signer(folder, binary, kind, port) for binary in binaries for kind in KINDS]
    counts = {}
    for signer in signers:
        before = sink.count
        signer.signs()
        sink.wait(before + 1)
        counts[signer] = max(400, int(args.seconds * signer.turn(sink, 400)[0]))
    for _ in range(args.rounds):
        for signer in signers:
            signer.turns.append(signer.turn(sink, counts[signer]))
    print("\n| binary | signatures | relayed/s | CPU µs a message | share of signing |\n|---|---|---|---|---|")
    for signer in signers:
        rate, cpu = (statistics.median(values) for values in zip(*signer.turns))
        if signer.kind == "none":
            plain = cpu
        share = "" if signer.kind == "none" else f"{(cpu - plain) / cpu:.0%}"
        print(f"| {signer.binary} | {signer.kind} | {rate:,.0f} | {cpu:.0f} | {share} |")
        signer.relay.stop()
    sink.child.stop()


if __name__ == "__main__":
    main()
