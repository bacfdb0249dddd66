"""The n-th call on a file fails, for every n: a small life of the relay, lived again and again.

A life starts on a queue that a killed relay left, takes new mail, delivers it all, ends in order, starts again, takes and
delivers once more. `shim.c` counts the calls that the whole process makes on files under its data directory, so that each n
hits one. In a life of its own, each call
    once      fails with EIO; with ENOSPC, or EDQUOT where n is odd; does half, or is interrupted;
    a while   fails together with all that follow it within 300 ms, with EIO or ENOSPC.
"""

import collections
import errno
import hashlib
import queue
import random
import shutil
import smtplib
import subprocess
import threading
import time

from harness.base import Child, Failed, check, free_port, wait_for
from harness.relay import Relay
from servers import Ours
from shim import SHORT, Shim, build
from sink import Sink

LATER = b"@b.test"
WHILE_MS = 300
LARGE = 300_000
# A fault that is over must be over for the relay after this.
PATIENCE = 20
KEPT = ["self-signed-cert.pem", "self-signed-key.pem", "return-path-keys", "decoy-key", "queue/identity"]
TEXT = "From: <app@sender.test>\r\nX-Ledger: {0}\r\nX-Digest: {1}\r\n\r\n{2}"


def message(ident, size=3000):
    body = f".{ident} ".ljust(70, "x") + "\r\n"
    body *= size // len(body) + 1
    return TEXT.format(ident, hashlib.sha256(body.encode()).hexdigest(), body)


def send(port, ident, rcpts, size=3000, timeout=20):
    """True: it had its 250. False: it was refused with a 4xx. None: the connection broke."""
    try:
        with smtplib.SMTP("127.0.0.1", port, timeout=timeout) as client:
            client.sendmail("app@sender.test", rcpts, message(ident, size))
            return True
    except (smtplib.SMTPResponseException, smtplib.SMTPRecipientsRefused, smtplib.SMTPSenderRefused) as why:
        code = getattr(why, "smtp_code", 451)
        check(400 <= code < 500, "refused for good:", why)
        return False
    except (OSError, smtplib.SMTPException):
        return None


class Shimmed(Ours):
    """The relay with `shim.c` under it."""

    def spawn(self, data, shim=None):
        self.relay.data = data
        self.relay.write_config()
        self.relay.child = Child(
            [self.relay.binary, "serve", "--config", self.relay.file, "--log", "json"],
            self.relay.home / "relay.log",
            cwd=self.relay.home,
            env=shim.environment() if shim else None,
        )

    def begins(self, data, shim=None):
        """Starts it. Whether it greets; False if it ended instead."""
        self.spawn(data, shim)

        def greets():
            if not self.relay.child.running():
                return "ended"
            try:
                return Relay._greets(self.relay)
            except Failed:
                return "ended"

        return wait_for("the relay greets or ends", greets, 30, 0.01) is True

    def deliver(self, sink, wanted, timeout=PATIENCE):
        """Asks for attempts until all of these were taken, or the time is over."""
        ended = time.monotonic() + timeout
        while time.monotonic() < ended and self.relay.child.running():
            if wanted <= set(sink.taken()[0]):
                return
            try:
                self.ask("POST", "queue/retry", b'{"older_than_secs": 0}')
            except (OSError, ValueError):
                pass
            time.sleep(0.02)


class Life:
    """One story on one data directory. What it found is in its fields."""

    def __init__(self, server, sink, data, shim):
        self.server, self.sink, self.data, self.shim = server, sink, data, shim
        self.acked, self.wrong, self.refused_starts = [], [], 0

    def send(self, ident, size=3000):
        rcpts = [f"{ident}@a.test", f"{ident}@b.test"]
        taken = send(self.server.plain_port, ident, rcpts, size)
        if taken:
            self.acked += [(ident, rcpt) for rcpt in rcpts]
        return taken

    def start(self):
        """It may refuse to start on a disk that fails, and must not when it works again."""
        ended = time.monotonic() + PATIENCE
        while not self.server.begins(self.data, self.shim):
            self.refused_starts += 1
            if time.monotonic() > ended:
                raise Failed("it does not start again: " + self.server.relay.child.text()[-600:])
            time.sleep(0.05)

    def accepts(self, name):
        ended = time.monotonic() + PATIENCE
        for number in range(1000):
            if self.send(f"{name}{number}"):
                return
            check(self.server.relay.child.running(), "it ended by itself")
            check(time.monotonic() < ended, "it does not accept again")
            time.sleep(0.1)

    def stop(self):
        code = self.server.relay.child.stop(12)
        if code != 0:
            self.wrong.append(f"ended with {code} after SIGTERM")

    def run(self, old):
        """`old`: what is in the queue already."""
        self.acked += old
        self.start()
        for number in range(3):
            self.send(f"m{number}")
        self.send("large", LARGE)
        self.accepts("again")
        self.sink.ask("accept")
        self.server.deliver(self.sink, set(self.acked))
        self.stop()
        self.start()
        self.accepts("later")
        self.server.deliver(self.sink, set(self.acked))
        self.stop()
        # And what does the disk say?
        self.shim = None
        self.start()
        aside = self.server.drain()
        if aside:
            self.wrong.append(f"{aside} in the quarantine")
        taken, again, _, damaged, _ = self.sink.taken()
        self.server.kill()
        lost = [key for key in self.acked if key not in taken]
        if lost:
            self.wrong.append(f"false 250: {lost}")
        if damaged:
            self.wrong.append(f"arrived damaged: {damaged}")
        return len(again)

    def compare(self, template):
        """What was made once stays: others know the certificate, and hold return paths signed with the key."""
        for name in KEPT:
            if (self.data / name).read_bytes() != (template / name).read_bytes():
                self.wrong.append(f"{name} was made anew")


class Bench:
    """One relay, one receiver, one folder: where lives are lived one after another."""

    def __init__(self, binary, folder, number, library):
        self.home = folder.make(f"lives-{number}")
        self.sink = Sink(port := free_port(), refused=LATER)
        self.server = Shimmed(binary, folder, port, f"relay-{number}")
        self.data = self.home / "data"
        self.shim = Shim(library, self.home / "control", self.data)

    def live(self, template, old, first, error, for_ms):
        """(the life, what came twice)"""
        shutil.rmtree(self.data, ignore_errors=True)
        subprocess.run(["cp", "-a", template, self.data], check=True)
        (self.server.relay.home / "relay.log").unlink(missing_ok=True)
        self.shim.arm(first, error, for_ms)
        self.sink.ask("forget")
        life, again = Life(self.server, self.sink, self.data, self.shim), 0
        try:
            again = life.run(old)
            life.compare(template)
        except Failed as why:
            life.wrong.append(str(why))
            if self.server.relay.child.running():
                self.server.kill()
        if "panicked" in self.server.relay.child.text():
            life.wrong.append("panicked")
        return life, again


def left_by_a_kill(bench, folder):
    """A data directory with mail that was deferred, in part delivered, and large: (where, who has not had what)."""
    template, old = folder / "template", []
    bench.sink.ask("forget")
    check(bench.server.begins(template), "it starts")
    for ident, size in (("old0", 3000), ("old1", LARGE), ("old2", 3000)):
        check(send(bench.server.plain_port, ident, [f"{ident}@a.test", f"{ident}@b.test"], size), "it accepts")
        old.append((ident, f"{ident}@b.test"))
    wait_for("the first half is delivered", lambda: len(bench.sink.taken()[0]) == len(old), 20, 0.02)
    time.sleep(1.2)
    bench.server.kill()
    (template / "admin.sock").unlink(missing_ok=True)
    return template, old


FAULTS = {
    "once, EIO": lambda n: (errno.EIO, 0),
    "once, ENOSPC or EDQUOT": lambda n: (errno.EDQUOT if n % 2 else errno.ENOSPC, 0),
    "once, by half": lambda n: (SHORT, 0),
    "a while, EIO or ENOSPC": lambda n: (errno.EIO if n % 2 else errno.ENOSPC, WHILE_MS),
}


def calls(given, folder):
    library = build(folder)
    benches = [Bench(given.binary, folder, number, library) for number in range(given.jobs)]
    template, old = left_by_a_kill(benches[0], folder)
    totals = collections.defaultdict(collections.Counter)
    kinds, failed, lock = collections.Counter(), [], threading.Lock()
    life, _ = benches[0].live(template, old, 0, 0, 0)
    count = benches[0].shim["calls"]
    check(not life.wrong and count > 100, "a life without faults:", life.wrong, count)
    print(f"# a life makes {count} calls", flush=True)
    todo = queue.SimpleQueue()
    for name in FAULTS:
        for n in range(1 + random.randrange(given.step), count + 1, given.step):
            todo.put((name, n))

    def work(bench):
        while True:
            try:
                name, n = todo.get_nowait()
            except queue.Empty:
                return
            life, again = bench.live(template, old, n, *FAULTS[name](n))
            what, path = bench.shim.hit()
            with lock:
                totals[name].update(
                    lives=1, hit=bool(what), failing=bench.shim["fired"], refused=life.refused_starts > 0, wrong=bool(life.wrong), again=again
                )
                kinds[what] += 1
                if kinds.total() % 200 == 0:
                    print(f"# {kinds.total()} lives", flush=True)
                if life.wrong:
                    failed.append(n)
                    print(f"# {name}, call {n} ({what} {path}): {'; '.join(life.wrong)}", flush=True)
                    shutil.copy(bench.server.relay.child.log, folder / f"failed-{list(FAULTS).index(name)}-{n}.log")

    threads = [threading.Thread(target=work, args=(bench,)) for bench in benches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for bench in benches:
        bench.sink.stop()
    print(f"# what failed first: {dict(kinds)}")
    print("| fault | lives | of these hit a call | failing calls | refused to start while it lasted | delivered twice | false 250, panic, stuck |")
    print("|---|---|---|---|---|---|---|")
    for name, total in totals.items():
        print(f"| {name} | " + " | ".join(str(total[key]) for key in ("lives", "hit", "failing", "refused", "again", "wrong")) + " |")
    check(not failed, "see above")
