"""The wall clock jumps, by seconds to decades, forward and back: under load, and while the relay is not running.

`shim.c` adds to CLOCK_REALTIME what it is told; the monotonic clock goes on, as it does when somebody sets the time.
Nothing may be lost, come twice, expire or bounce; new mail is taken all the while; what waits is tried when its
schedule says, by a clock that does not jump: neither at once, nor when the wall clock comes there. What seems hours old after a
restart may be reported as delayed.
"""

import random
import shutil
import threading
import time

from calls import Shimmed
from harness.base import check, free_port, wait_for
from kill9 import Client, Ledger
from shim import Shim, build
from sink import Sink

DAY = 86_400
RETRY = 3
# The schedule's own jitter is a tenth. What is due at a start comes up over a minute, and a busy machine is late.
EARLIEST, LATE = 0.85 * RETRY, 90
JUMPS = [5, -5, 3600, -3600, DAY, -DAY, 3 * DAY, -3 * DAY, 30 * DAY, -30 * DAY, 3650 * DAY, -3650 * DAY]


def offsets(number):
    """So many positions of the clock: jumps from one to the next, and 1970, from which some machines start."""
    for n in range(number):
        yield -time.time() + 100 if n % 7 == 6 else random.choice(JUMPS)


def after(what, happens, timeout):
    began = time.monotonic()
    wait_for(what, happens, timeout, 0.01)
    return time.monotonic() - began


class Steady(Client):
    """Some load, so that what waits in the end is soon delivered."""

    def send(self, conn, reader):
        super().send(conn, reader)
        time.sleep(0.04)


def jumping(server, shim, ledger, stop, number):
    """Load, and a jump every half a second. The longest time until ten more messages had their 250."""
    clients = [Steady(n, server, ledger, None, stop, large=90_000) for n in range(4)]
    for client in clients:
        client.start()
    longest = 0.0
    for offset in offsets(number):
        shim["clock_ns"] = int(offset * 1e9)
        time.sleep(0.4)
        before = len(ledger.acked)
        longest = max(longest, after("mail is taken", lambda: len(ledger.acked) >= before + 10, 60))
    stop.set()
    for client in clients:
        client.join(70)
    return longest


def clocks(given, folder):
    sink = Sink(port := free_port(), refused=b"@b.test")
    server = Shimmed(given.binary, folder, port)
    server.relay.sections["delivery"]["retry"] = f"{RETRY}s*"
    server.relay.sections["delivery"]["expire"] = "1d"
    data = folder / "data-clock"
    shutil.rmtree(data, ignore_errors=True)
    shim = Shim(build(folder), folder / "clock-control", data)
    ledger, stop = Ledger(), threading.Event()
    check(server.begins(data, shim), "it starts")
    began = time.monotonic()
    longest = jumping(server, shim, ledger, stop, given.jumps)
    check(shim["clock_read"] > 0, "the relay does not read the clock that jumps")
    settled = server.ask("GET", "status")
    gone = settled["expired"] + settled["bounced"]
    for offset in offsets(given.jumps // 4):
        server.kill()
        shim["clock_ns"] = int(offset * 1e9)
        check(server.begins(data, shim), "it starts again")
        time.sleep(random.uniform(0.2, 2 * RETRY))
    seconds = time.monotonic() - began
    # From now on the receiver takes all; nobody asks for attempts.
    tries = sink.ask("turned away")
    sink.ask("accept")
    last = after("all is delivered", lambda: server.ask("GET", "status")["queued"] == 0, 3 * RETRY + LATE)
    status = server.ask("GET", "status")
    gone += status["expired"] + status["bounced"]
    taken, again, _, damaged, reports = sink.taken()
    server.kill()
    sink.stop()
    lost = [key for key in ledger.expected() if key not in taken]
    twice = [key for key, _, in_flight in again if not in_flight]
    panicked = "panicked" in (server.relay.home / "relay.log").read_text(errors="replace")
    # Each start may try at once what was due meanwhile.
    allowed = seconds / EARLIEST + 1 + given.jumps // 4
    most = max(tries.values())
    print(
        "| clock jumps under load, and at restarts | messages with a 250 | lost | twice, not in flight at a kill | expired or bounced | "
        "reported as delayed | longest wait for ten 250s | most attempts of one in s (schedule allows) | all delivered after |\n"
        "|---|---|---|---|---|---|---|---|---|\n"
        f"| {given.jumps}, {given.jumps // 4} | {len(ledger.acked)} | {len(lost)} | {len(twice)} | {gone} | {reports} | "
        f"{longest:.1f} s | {most} in {seconds:.0f} s ({allowed:.0f}) | {last:.1f} s |"
    )
    check(not lost and not twice and not damaged and not gone and not panicked, "see above", lost[:5], twice[:5], damaged[:5], panicked)
    check(most <= allowed, "attempts came faster than the schedule says")
