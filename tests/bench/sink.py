"""A fast SMTP sink in a process of its own, which remembers what it took.

Each message carries `X-Ledger: ID` and `X-Digest: SHA-256 of its body`. The sink counts each (ID, recipient), checks the
digest, and turns away some recipients at first: 451 the first time that it sees them.
"""

import asyncio
import collections
import hashlib
import multiprocessing
import re
import time
import zlib

LEDGER = re.compile(rb"^X-Ledger: (\S+)\r\nX-Digest: (\S+)\r\n", re.M)


class Taker(asyncio.Protocol):
    """One connection."""

    def __init__(self, book):
        self.book = book
        self.buffer = bytearray()
        self.in_data = False
        self.rcpts = []
        # What was taken last, while nothing was heard since: the 250 may not have been read.
        self.unheard = []

    def connection_made(self, transport):
        self.transport = transport
        transport.write(b"220 sink ESMTP\r\n")

    def connection_lost(self, _):
        self.book.cut(self.unheard)

    def data_received(self, data):
        self.unheard = []
        seen = max(0, len(self.buffer) - 4)
        self.buffer += data
        while True:
            if self.in_data:
                # The empty body is impossible here: every message has headers.
                end = self.buffer.find(b"\r\n.\r\n", seen)
                if end < 0:
                    return
                message = bytes(self.buffer[: end + 2])
                del self.buffer[: end + 5]
                self.in_data = False
                self.take(message)
            else:
                end = self.buffer.find(b"\n")
                if end < 0:
                    return
                line = bytes(self.buffer[:end]).strip()
                del self.buffer[: end + 1]
                self.command(line)
            seen = 0

    def command(self, line):
        verb = line[:4].upper()
        if verb == b"EHLO":
            reply = b"250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n250 SIZE 100000000\r\n"
        elif verb == b"RCPT":
            rcpt = line[9:].split(b">")[0]
            if self.book.turns_away(rcpt):
                reply = b"451 4.7.1 greylisted\r\n"
            else:
                self.rcpts.append(rcpt)
                reply = b"250 2.1.5 ok\r\n"
        elif verb == b"DATA":
            self.in_data = bool(self.rcpts)
            reply = b"354 go\r\n" if self.rcpts else b"554 5.5.1 no recipients\r\n"
        elif verb == b"QUIT":
            self.transport.write(b"221 2.0.0 bye\r\n")
            self.transport.close()
            return
        else:
            if verb in (b"MAIL", b"RSET"):
                self.rcpts = []
            reply = b"250 2.0.0 ok\r\n"
        self.transport.write(reply)

    def take(self, message):
        message = message[1:] if message.startswith(b".") else message
        message = message.replace(b"\r\n..", b"\r\n.")
        self.unheard = self.book.enter(message, self.rcpts)
        self.rcpts = []
        self.transport.write(b"250 2.0.0 taken\r\n")


class Book:
    """What was taken: (ID, recipient) → when last; and of what came again, when it had come before, and
    whether its connection was cut then before the sender was heard of again."""

    def __init__(self, defer_percent, refused):
        self.defer_percent, self.refused = defer_percent, refused
        self.turned_away = collections.Counter()
        self.taken = {}
        self.again = []
        self.cuts = {}
        self.in_flight = []
        self.damaged = []
        self.strange = 0

    def turns_away(self, rcpt):
        if self.refused and rcpt.endswith(self.refused):
            self.turned_away[rcpt] += 1
            return True
        if zlib.crc32(rcpt) % 100 >= self.defer_percent or rcpt in self.turned_away:
            return False
        self.turned_away[rcpt] += 1
        return True

    def enter(self, message, rcpts):
        head, _, body = message.partition(b"\r\n\r\n")
        # A report quotes the header of what it is about; it is not that.
        found = LEDGER.search(head + b"\r\n")
        if not found:
            self.strange += 1
            return []
        ident = found[1].decode()
        if hashlib.sha256(body).hexdigest() != found[2].decode():
            self.damaged.append(ident)
        keys = [(ident, rcpt.decode()) for rcpt in rcpts]
        now = time.monotonic()
        for key in keys:
            before = self.taken.get(key)
            if before is not None:
                self.again.append((key, before, self.cuts.get(key) == before))
            self.taken[key] = now
        return keys

    def cut(self, keys):
        """The connection ended, and nothing was heard since these were taken."""
        for key in keys:
            if key not in self.taken:
                # It was forgotten meanwhile.
                continue
            self.cuts[key] = self.taken[key]
            self.in_flight.append(self.taken[key])


class Sink:
    """The process, and questions to it."""

    def __init__(self, port, defer_percent=0, refused=b""):
        self.ours, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("fork").Process(
            target=serve, args=(port, (defer_percent, refused), theirs), daemon=True
        )
        self.process.start()
        if self.ours.recv() != "ready":
            raise RuntimeError("the sink did not start")

    def ask(self, what):
        self.ours.send(what)
        return self.ours.recv()

    def taken(self):
        """(ID, recipient) → when; what came again: (key, when it had come, whether that was in flight at a cut);
        when those came that were in flight at cuts; damaged IDs; messages without an ID."""
        return self.ask("taken")

    def stop(self):
        self.process.terminate()
        self.process.join(5)


def serve(port, manners, pipe):
    book = Book(*manners)

    async def run():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Taker(book), "127.0.0.1", port, backlog=1024)
        loop.add_reader(pipe.fileno(), answer)
        pipe.send("ready")
        await server.serve_forever()

    def answer():
        try:
            what = pipe.recv()
        except EOFError:
            asyncio.get_running_loop().stop()
            return
        if what == "forget":
            book.__init__(*manners)
            pipe.send("forgotten")
        elif what == "accept":
            book.refused = b""
            pipe.send("accepting")
        elif what == "turned away":
            pipe.send(book.turned_away)
        elif what == "taken":
            pipe.send((book.taken, book.again, book.in_flight, book.damaged, book.strange))

    asyncio.run(run())
