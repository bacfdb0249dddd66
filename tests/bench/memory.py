#!/usr/bin/env python3
"""Memory of both binaries: idle, with idle connections, after load, with many deferred jobs.

    cargo build --release && python3 tests/bench/memory.py

RSS and its anonymous part (heap and stacks) are read from /proc; the anonymous part is what grows, and
what the figures for each connection and each job are made of. Python's standard library only.
"""

import argparse
import pathlib
import re
import resource
import select
import socket
import ssl
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "interop"))

from harness.base import Folder, wait_for  # noqa: E402
from harness.relay import Relay  # noqa: E402

TARGET = pathlib.Path(__file__).resolve().parents[2] / "target" / "release"
KIB = 1024


# Measuring

def memory(pid):
    """{rss, anonymous} in KiB."""
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    def value(key):
        return int(re.search(rf"^{key}:\s+(\d+)", text, re.M)[1])
    return {"rss": value("Rss"), "anonymous": value("Anonymous")}


def threads(pid):
    return len(list(pathlib.Path(f"/proc/{pid}/task").iterdir()))


def settled(pid):
    """The memory once it stands still."""
    before = None
    for _ in range(60):
        now = memory(pid)
        if before and abs(now["rss"] - before["rss"]) <= 64:
            return now
        before = now
        time.sleep(0.5)
    return before


def cpu(pid):
    """CPU seconds so far."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def line(name, what, now, extra=""):
    print(f"{name:<16}{what:<26}rss {now['rss'] / KIB:7.1f} MiB  anonymous {now['anonymous'] / KIB:7.1f} MiB  {extra}", flush=True)


# Clients

def read_reply(connection):
    data = b""
    while not (data.endswith(b"\n") and data.splitlines()[-1][3:4] == b" "):
        piece = connection.recv(4096)
        if not piece:
            raise ConnectionError("closed")
        data += piece
    return data


def idle_client(port, index, tls):
    """A connection that said EHLO (under TLS: the second one) and is silent then."""
    connection = socket.create_connection(("127.0.0.1", port), source_address=(f"127.0.0.{2 + index % 50}", 0), timeout=60)
    greeting = read_reply(connection)
    if not greeting.startswith(b"220"):
        raise ConnectionError(greeting)
    connection.sendall(b"EHLO load.test\r\n")
    read_reply(connection)
    if tls:
        connection.sendall(b"STARTTLS\r\n")
        read_reply(connection)
        connection = tls.wrap_socket(connection)
        connection.sendall(b"EHLO load.test\r\n")
        read_reply(connection)
    return connection


def inject(port, count, size, sessions):
    """Sends messages over sessions that are kept open, one address each."""
    body = b"From: from@sender.test\r\nSubject: memory\r\n\r\n" + (b"x" * 76 + b"\r\n") * max(1, size // 78) + b".\r\n"

    def send(index, first, last):
        connection = socket.create_connection(("127.0.0.1", port), source_address=(f"127.0.0.{2 + index % 50}", 0), timeout=120)
        read_reply(connection)
        connection.sendall(b"EHLO load.test\r\n")
        read_reply(connection)
        for number in range(first, last):
            recipient = b"RCPT TO:<u%d@dest%d.test>\r\n" % (number, number % 100)
            for line, code in ((b"MAIL FROM:<from@sender.test>\r\n", b"250"), (recipient, b"250"), (b"DATA\r\n", b"354"), (body, b"250")):
                connection.sendall(line)
                reply = read_reply(connection)
                if not reply.startswith(code):
                    raise ConnectionError(reply)
        connection.close()

    shares = [range(n * count // sessions, (n + 1) * count // sessions) for n in range(sessions)]
    with ThreadPoolExecutor(sessions) as workers:
        for done in [workers.submit(send, n, share.start, share.stop) for n, share in enumerate(shares)]:
            done.result()


class Receiver:
    """Takes mail or defers every recipient; one thread, as little as a client of it can notice."""

    def __init__(self, defers):
        self.defers = defers
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self.listener.getsockname()[1]
        self.messages = 0
        self.attempts = 0
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        poll = select.epoll()
        poll.register(self.listener, select.EPOLLIN)
        clients = {}
        while True:
            for number, _ in poll.poll():
                if number == self.listener.fileno():
                    connection, _ = self.listener.accept()
                    clients[connection.fileno()] = [connection, b"", False]
                    poll.register(connection, select.EPOLLIN)
                    connection.send(b"220 receiver.test ESMTP\r\n")
                elif not self._serve(clients[number]):
                    poll.unregister(number)
                    clients.pop(number)[0].close()

    def _serve(self, client):
        connection, rest, in_data = client
        try:
            piece = connection.recv(65536)
        except OSError:
            return False
        if not piece:
            return False
        rest += piece
        answers, open_ = [], True
        while True:
            if in_data:
                end = rest.find(b"\r\n.\r\n")
                if end < 0:
                    rest = rest[-4:]
                    break
                rest, in_data = rest[end + 5:], False
                self.messages += 1
                answers.append(b"250 2.0.0 taken\r\n")
            command, end, after = rest.partition(b"\r\n")
            if not end:
                break
            rest = after
            verb = command[:4].upper()
            if verb == b"EHLO":
                answers.append(b"250-receiver.test\r\n250-PIPELINING\r\n250 ENHANCEDSTATUSCODES\r\n")
            elif verb == b"RCPT":
                self.attempts += 1
                answers.append(b"451 4.7.1 greylisted, come back later\r\n" if self.defers else b"250 2.1.5 ok\r\n")
            elif verb == b"DATA":
                answers.append(b"554 5.5.1 no recipients\r\n" if self.defers else b"354 go on\r\n")
                in_data = not self.defers
            elif verb == b"QUIT":
                answers.append(b"221 2.0.0 bye\r\n")
                open_ = False
            else:
                answers.append(b"250 2.0.0 ok\r\n")
        client[1], client[2] = rest, in_data
        if answers:
            connection.send(b"".join(answers))
        return open_


# Figures

def relay_for(binary, folder, name, receiver):
    route = f'[[route]]\ndomain = "*"\nhosts = ["127.0.0.1:{receiver.port}"]\ntls = "none"\n'
    config = {
        "limits": {"connections": 20000, "connections_per_ip": 2000},
        "delivery": {"retry": "4h*", "expire": "3d"},
    }
    return Relay(binary, folder, name, config=config, extra=route)


def connections(binary, folder, count):
    receiver = Receiver(defers=False)
    relay = relay_for(binary, folder, f"{binary.name}-connections", receiver)
    started = relay.start()
    pid = relay.child.pid
    idle = settled(pid)
    line(binary.name, "idle", idle, f"threads {threads(pid)}, greeting after {started:.2f} s")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for what, port, tls in (("plain", relay.plain_port, None), ("TLS", relay.port, context)):
        before = settled(pid)
        clients = [idle_client(port, index, tls) for index in range(count)]
        now = settled(pid)
        each = (now["anonymous"] - before["anonymous"]) / count
        line(binary.name, f"{count} {what} connections", now, f"{each:.1f} KiB a connection, threads {threads(pid)}")
        for client in clients:
            client.close()
        wait_for("sessions end", lambda: relay.status()["sessions"] == 0, 30, 0.5)
        line(binary.name, "  after they ended", settled(pid), f"threads {threads(pid)}")
    relay.stop()


def load(binary, folder, count):
    receiver = Receiver(defers=False)
    relay = relay_for(binary, folder, f"{binary.name}-load", receiver)
    relay.start()
    pid = relay.child.pid
    line(binary.name, "idle", settled(pid))
    inject(relay.plain_port, count, 10 * KIB, 50)
    wait_for("all is delivered", lambda: receiver.messages >= count, 300, 0.2)
    line(binary.name, f"after {count} x 10 KiB", memory(pid), f"CPU s/1000 {cpu(pid) * 1000 / count:.2f}")
    line(binary.name, "  and 10 s later", memory_after(pid, 10), f"threads {threads(pid)}")
    relay.stop()


def memory_after(pid, secs):
    time.sleep(secs)
    return settled(pid)


def deferred(binary, folder, count):
    receiver = Receiver(defers=True)
    relay = relay_for(binary, folder, f"{binary.name}-deferred", receiver)
    relay.start()
    idle = settled(relay.child.pid)
    inject(relay.plain_port, count, KIB, 20)
    wait_for("all are deferred", lambda: receiver.attempts >= count, 600, 0.5)
    now = memory_after(relay.child.pid, 5)
    each = (now["anonymous"] - idle["anonymous"]) * KIB / count
    line(binary.name, f"{count} deferred", now, f"{each:.0f} octets a job (grown)")
    relay.stop()
    started = relay.start(timeout=120)
    now = settled(relay.child.pid)
    each = (now["anonymous"] - idle["anonymous"]) * KIB / count
    line(binary.name, "  after a restart", now, f"{each:.0f} octets a job, greeting after {started:.2f} s")
    relay.stop()


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--binary", action="append", type=pathlib.Path, help="default: both, from target/release")
    options.add_argument("--connections", type=int, default=1000)
    options.add_argument("--messages", type=int, default=20000)
    options.add_argument("--deferred", type=int, default=100_000)
    options.add_argument("--only", choices=("connections", "load", "deferred"))
    chosen = options.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    folder = Folder("relay-memory-")
    for binary in chosen.binary or [TARGET / "smtp-relay", TARGET / "smtp-relay-std"]:
        if chosen.only in (None, "connections"):
            connections(binary, folder, chosen.connections)
        if chosen.only in (None, "load"):
            load(binary, folder, chosen.messages)
        if chosen.only in (None, "deferred"):
            deferred(binary, folder, chosen.deferred)


if __name__ == "__main__":
    main()
