#!/usr/bin/env python3
"""An I/O fault at the n-th call, for every n, in the real binaries; and what else happens to a disk and a process.

    tests/bench/iofault.py --binary target/release/smtp-relay                 # every case below
    tests/bench/iofault.py --binary target/release/smtp-relay --only calls --step 7

    calls     strace makes the n-th write, pwrite64, fdatasync, fsync, openat, rename, unlink or ftruncate on the queue fail with
              EIO or ENOSPC, for every n of a fixed small life (strace counts the calls of each thread, so for an n
              that no thread reaches nothing is injected). No 250 may be false, nothing may panic, and the relay accepts
              again without a restart; after a kill and a start without faults all that had its 250 is delivered.
    cut       each file of a real queue directory is cut at every STEP-th octet;
    flip      and one bit of it flipped at every STEP-th octet: the relay starts and delivers all but at most one message, and
              what it does not deliver is in the quarantine.
    second    a second process on the same directory refuses to start.
    term      SIGTERM under load: it ends in order within 10 s, and nothing that had its 250 is lost.
    full      a file system that is full: 452, and accepting again without a restart once there is room.

Clocks are the simulator's (`sim` jumps them): the binaries read theirs through the vDSO, where neither strace nor faketime
reaches. Needs strace, and root for `full` (a tmpfs).
"""

import argparse
import hashlib
import os
import pathlib
import random
import re
import shutil
import smtplib
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "interop"))

from harness.base import Child, Failed, Folder, check, free_port, tool, wait_for
from harness.relay import Relay
from kill9 import Client, Ledger
from servers import Ours
from sink import Sink

CALLS = {
    "write": ["EIO", "ENOSPC"],
    "pwrite64": ["EIO", "ENOSPC"],
    "fdatasync": ["EIO"],
    "fsync": ["EIO"],
    "openat": ["EIO", "ENOSPC"],
    "rename": ["EIO"],
    "unlink": ["EIO"],
}
MESSAGES = 12
TEXT = "From: <app@sender.test>\r\nX-Ledger: {0}\r\nX-Digest: {1}\r\n\r\n{2}"


def message(ident, size=3000):
    body = f".{ident} ".ljust(70, "x") + "\r\n"
    body *= size // len(body) + 1
    return TEXT.format(ident, hashlib.sha256(body.encode()).hexdigest(), body)


class Traced(Ours):
    """The relay under strace, which makes one call fail."""

    def spawn(self, data, call=None, error=None, when=0, log=None):
        self.relay.data = data
        self.relay.write_config()
        command = [self.relay.binary, "serve", "--config", self.relay.file, "--log", "json"]
        if call:
            trace = [tool("strace"), "-f", "-qq", "-o", log, "-e", f"trace={','.join(CALLS)}", "-P", data / "queue"]
            for kind in ("segment-00000000", "segment-00000001", "progress-00000001", "progress.new", "identity", "identity.new", "lock"):
                trace += ["-P", data / "queue" / kind]
            if error:
                trace += ["-e", f"inject={call}:error={error}:when={when}"]
            command = [*trace, *command]
        self.relay.child = Child(command, self.relay.home / "relay.log", cwd=self.relay.home)


def send(port, ident, rcpts, timeout=20):
    """True: it had its 250. False: it was refused with a 4xx. None: the connection broke."""
    try:
        with smtplib.SMTP("127.0.0.1", port, timeout=timeout) as client:
            client.sendmail("app@sender.test", rcpts, message(ident))
            return True
    except (smtplib.SMTPResponseException, smtplib.SMTPRecipientsRefused, smtplib.SMTPSenderRefused) as why:
        code = getattr(why, "smtp_code", 451)
        check(400 <= code < 500, "refused for good:", why)
        return False
    except (OSError, smtplib.SMTPException):
        return None


def life(server, data, sink, fault):
    """A small life with one fault: (how many of such calls there were, whether it started, false 250s, panics)."""
    shutil.rmtree(data, ignore_errors=True)
    call, error, when = fault
    trace = server.relay.home / "trace"
    trace.unlink(missing_ok=True)
    log = server.relay.home / "relay.log"
    log.unlink(missing_ok=True)
    server.spawn(data, call, error, when, trace)
    child = server.relay.child

    def greets():
        return not child.running() or Relay._greets(server.relay)

    wait_for("the relay greets or ends", greets, 30, 0.02)
    started = child.running()
    acked, resumed = [], False
    if started:
        for number in range(MESSAGES):
            ident = f"m{number}"
            if send(server.plain_port, ident, [f"{ident}@a.test", f"{ident}@b.test"]):
                acked.append(ident)
        # Accepting again without a restart: within the time after which the relay tries.
        ended = time.monotonic() + 20
        while not resumed and time.monotonic() < ended and child.running():
            ident = f"again{int(time.monotonic() * 1000)}"
            resumed = bool(send(server.plain_port, ident, [f"{ident}@b.test"]))
            if resumed:
                acked.append(ident)
            else:
                time.sleep(0.5)
        check(child.running(), "it ended by itself", call, error, when, child.text()[-800:])
        taken_first = set(sink.taken()[0])
        # strace's child is the relay.
        pid = pathlib.Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
        subprocess.run(["kill", "-9", *pid], check=True)
        child.process.wait(10)
        server.spawn(data)
        wait_for("the relay greets", lambda: Relay._greets(server.relay), 30, 0.02)
        server.drain()
        taken = set(sink.taken()[0]) | taken_first
        server.kill()
    else:
        taken = set()
    sink.ask("forget")
    text = log.read_text(errors="replace")
    false = [i for i in acked for r in (("b",) if i.startswith("again") else ("a", "b")) if (i, f"{i}@{r}.test") not in taken]
    seen = trace.read_text(errors="replace") if trace.exists() else ""
    count = len(re.findall(rf"\b{call}\(", seen))
    return count, started, resumed or not started, false, "panicked" in text, "INJECTED" in seen


def calls(given, folder):
    sink = Sink(port := free_port())
    server = Traced(given.binary, folder, port)
    server.relay.sections["delivery"]["retry"] = "1s*"
    data = folder / "data-calls"
    totals, injected = {"n": 0, "false": 0, "panics": 0, "stuck": 0, "ended": 0}, 0
    for call, errors in CALLS.items():
        count, *_ = life(server, data, sink, (call, None, 0))
        for error in errors:
            for n in range(1 + random.randrange(given.step) % max(count, 1), count + 1, given.step):
                _, started, resumed, false, panicked, hit = life(server, data, sink, (call, error, n))
                totals["n"] += 1
                injected += hit
                totals["false"] += len(false)
                totals["panics"] += panicked
                totals["stuck"] += not resumed
                totals["ended"] += not started
                if false or panicked or not resumed:
                    print(f"# {call} {error} at {n}: false {false}, panicked {panicked}, accepts again {resumed}", flush=True)
        print(f"# {call}: {count} calls", flush=True)
    sink.stop()
    print(
        f"| faults | injected | false 250 | panics | did not accept again | refused to start |\n|---|---|---|---|---|---|\n"
        f"| {totals['n']} | {injected} | {totals['false']} | {totals['panics']} | {totals['stuck']} | {totals['ended']} |"
    )
    check(not totals["false"] and not totals["panics"] and not totals["stuck"], "see above")
    check(injected > totals["n"] // 4, "too few faults were injected")


def filled(server, folder, sink_port):
    """A data directory with messages in it, of a relay that was killed: (path, idents)."""
    refusing = Sink(sink_port, refused=b"@b.test")
    data = folder / "data-filled"
    shutil.rmtree(data, ignore_errors=True)
    server.spawn(data)
    wait_for("the relay greets", lambda: Relay._greets(server.relay), 30, 0.02)
    idents = [f"w{n}" for n in range(8)]
    for ident in idents:
        check(send(server.plain_port, ident, [f"{ident}@b.test"]), "it accepts")
    time.sleep(1.5)
    server.kill()
    refusing.stop()
    return data, idents


def wreck(given, folder, how):
    server = Traced(given.binary, folder, port := free_port())
    data, idents = filled(server, folder, port)
    sink = Sink(port)
    files = sorted(f for f in (data / "queue").iterdir() if f.is_file() and f.name != "lock")
    cases = lost = most = unexplained = 0
    for file in files:
        octets = file.read_bytes()
        used = len(octets.rstrip(b"\0"))
        step = max(1, used // given.places) if given.places else 1
        for at in range(random.randrange(step), used, step):
            shutil.rmtree(folder / "data-wreck", ignore_errors=True)
            shutil.copytree(data, folder / "data-wreck", ignore=shutil.ignore_patterns("*.sock"))
            target = folder / "data-wreck" / "queue" / file.name
            changed = octets[:at] if how == "cut" else octets[:at] + bytes([octets[at] ^ 1 << at % 8]) + octets[at + 1 :]
            target.write_bytes(changed)
            server.spawn(folder / "data-wreck")
            wait_for("it greets or ends", lambda: not server.relay.child.running() or Relay._greets(server.relay), 30, 0.01)
            cases += 1
            check(server.relay.child.running(), "it does not start:", file.name, at, server.relay.child.text()[-500:])
            aside = server.drain()
            taken = {ident for ident, _ in sink.taken()[0]}
            server.kill()
            sink.ask("forget")
            missing = len(set(idents) - taken)
            whole_tail = how == "cut" and file.name.startswith("segment")
            lost += missing
            if how == "flip":
                most = max(most, missing)
            unexplained += missing > 0 and aside == 0 and not whole_tail
    sink.stop()
    print(f"| {how}: cases | not delivered, in all | at most in one | not delivered and not in the quarantine |\n|---|---|---|---|\n| {cases} | {lost} | {most} | {unexplained} |")
    check(most <= 1 and not unexplained, "see above")


def second(given, folder):
    server = Traced(given.binary, folder, free_port())
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
    server = Traced(given.binary, folder, port)
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
    server = Traced(given.binary, folder, port)
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
    }
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--binary", required=True)
    args.add_argument("--only", choices=cases, nargs="+", default=list(cases))
    args.add_argument("--step", type=int, default=1, help="calls: every STEP-th call")
    args.add_argument("--places", type=int, default=200, help="cut and flip: so many places in each file; 0: each octet")
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
