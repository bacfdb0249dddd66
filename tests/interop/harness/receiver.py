"""An SMTP receiver with any manners.

    receiver = Receiver("127.0.0.10", port)                        takes all that comes
    receiver = Receiver("127.0.0.11", port, rcpt="550 5.1.1 who?")   answers RCPT that way
    receiver = Receiver("127.0.0.12", port, data=DROP)             closes the connection instead
    receiver = Receiver("127.0.0.13", port, mail=once(HANG))       a callable is asked each time

Stages, in their order: `connect`, `ehlo`, `starttls`, `mail`, `rcpt`, `data`, `body`, `dot`. A manner is a reply as
text, DROP, HANG, None (the ordinary thing), or a callable that gets the session and returns one of these.
`body` is asked after the first octets of a body came. What was taken is in `mails`, what was said in `transcript`.
"""

import socket
import socketserver
import ssl
import threading
import time
from dataclasses import dataclass, field

from .base import wait_for

DROP = "<drop>"
HANG = "<hang>"
OFFERS = ("PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "SIZE 100000000")


@dataclass
class Mail:
    """A message that was taken."""

    sender: str
    mail_args: str
    rcpts: list
    rcpt_args: list
    data: bytes = b""
    tls: str = ""
    when: float = field(default_factory=time.time)


class Gone(Exception):
    """The session is over."""


def first(count, manner):
    """That manner for the first `count` times, then the ordinary thing."""
    left = [count]

    def ask(_session):
        left[0] -= 1
        return manner if left[0] >= 0 else None

    return ask


class Receiver:
    """Listens until `close`. `tls` is an SSLContext, or BROKEN to answer the handshake with rubbish."""

    BROKEN = "broken"

    def __init__(self, host, port, offers=OFFERS, tls=None, esmtp=True, **manners):
        self.host, self.port = host, port
        self.offers, self.tls, self.esmtp, self.manners = offers, tls, esmtp, manners
        self.mails, self.transcript = [], []
        self.connections, self.sessions = 0, set()
        self.lock = threading.Lock()
        self.closed = threading.Event()
        outer = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                Session(outer, self.request).run()

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True
            request_queue_size = 1024

        self.server = Server((host, port), Handler)
        threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True
        ).start()

    def close(self):
        self.closed.set()
        self.server.shutdown()
        self.server.server_close()
        # The relay holds a connection for a moment after a message.
        with self.lock:
            sessions = list(self.sessions)
        for session in sessions:
            session.hang_up()

    def wait_mail(self, text, timeout=30):
        """The first message with `text` (bytes) in its data."""
        return wait_for(f"a message with {text!r} at {self.host}", lambda: self.find(text), timeout)

    def find(self, text):
        with self.lock:
            return next((mail for mail in self.mails if text in mail.data), None)

    def count(self, text):
        with self.lock:
            return sum(text in mail.data for mail in self.mails)


class Session:
    """One connection."""

    def __init__(self, receiver, conn):
        self.receiver = receiver
        self.conn = conn
        self.tls = ""
        self.mail = None
        self.rcpt = ""
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reader = conn.makefile("rb")

    def run(self):
        with self.receiver.lock:
            self.receiver.connections += 1
            self.receiver.sessions.add(self)
        try:
            self.stage("connect", f"220 {self.receiver.host} ESMTP at your service")
            while True:
                line = self.reader.readline(100_000)
                if not line:
                    return
                self.note("C", line)
                self.command(line.rstrip(b"\r\n").decode("utf-8", "replace"))
        except (Gone, OSError, ValueError):
            pass
        finally:
            with self.receiver.lock:
                self.receiver.sessions.discard(self)
            try:
                self.conn.close()
            except OSError:
                pass

    def hang_up(self):
        try:
            self.conn.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def note(self, who, line):
        with self.receiver.lock:
            self.receiver.transcript.append(f"{who}: {line.decode('utf-8', 'replace').rstrip()}")

    def say(self, text):
        """`text` may hold several lines, parted by newlines."""
        wire = text.replace("\n", "\r\n").encode() + b"\r\n"
        self.note("S", wire)
        self.conn.sendall(wire)

    def stage(self, name, ordinary):
        """Carries out the manner of a stage; returns whether the ordinary thing was done."""
        manner = self.receiver.manners.get(name)
        if callable(manner):
            manner = manner(self)
        if manner == DROP:
            raise Gone
        if manner == HANG:
            self.receiver.closed.wait(3600)
            raise Gone
        if manner:
            self.say(manner)
            if manner.startswith("421"):
                raise Gone
            return False
        if ordinary:
            self.say(ordinary)
        return True

    def command(self, line):
        verb, _, rest = line.partition(" ")
        verb = verb.upper()
        if verb == "EHLO":
            self.mail = None
            offers = list(self.receiver.offers)
            if self.receiver.tls and not self.tls:
                offers.append("STARTTLS")
            lines = [self.receiver.host, *offers]
            text = (
                "\n".join(f"250-{item}" for item in lines[:-1]) + f"\n250 {lines[-1]}"
                if offers
                else f"250 {lines[0]}"
            )
            if self.receiver.esmtp:
                self.stage("ehlo", text)
            else:
                self.say("500 5.5.1 what is that?")
        elif verb == "HELO":
            self.stage("ehlo", f"250 {self.receiver.host}")
        elif verb == "STARTTLS" and self.receiver.tls:
            self.start_tls()
        elif verb == "MAIL":
            path, _, args = rest[5:].strip().partition(" ")
            self.mail = Mail(path.strip("<>"), args, [], [])
            if not self.stage("mail", "250 2.1.0 sender ok"):
                self.mail = None
        elif verb == "RCPT" and self.mail:
            path, _, args = rest[3:].strip().partition(" ")
            self.rcpt = path.strip("<>")
            if self.stage("rcpt", "250 2.1.5 recipient ok"):
                self.mail.rcpts.append(self.rcpt)
                self.mail.rcpt_args.append(args)
        elif verb == "DATA" and self.mail and self.mail.rcpts:
            if self.stage("data", "354 go ahead"):
                self.take()
        elif verb in ("DATA", "RCPT"):
            self.say("503 5.5.1 not now")
        elif verb in ("RSET", "NOOP"):
            self.mail = None if verb == "RSET" else self.mail
            self.say("250 2.0.0 ok")
        elif verb == "QUIT":
            self.say("221 2.0.0 bye")
            raise Gone
        else:
            self.say("500 5.5.1 no such command")

    def start_tls(self):
        if not self.stage("starttls", "220 2.0.0 go ahead"):
            return
        if self.receiver.tls == Receiver.BROKEN:
            self.conn.recv(1)
            self.conn.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            raise Gone
        self.reader.close()
        try:
            self.conn = self.receiver.tls.wrap_socket(self.conn, server_side=True)
        except ssl.SSLError as why:
            self.note("!", f"handshake: {why}".encode())
            raise Gone from why
        self.tls = self.conn.version()
        self.reader = self.conn.makefile("rb")
        self.mail = None

    def take(self):
        """Reads a body up to its final dot, without the stuffed dots."""
        mail, self.mail = self.mail, None
        lines = [self.reader.readline()]
        manner = self.receiver.manners.get("body")
        if manner:
            self.stage("body", None)
        while lines[-1] != b".\r\n":
            if not lines[-1]:
                raise Gone
            lines.append(self.reader.readline())
        mail.data = b"".join(line[1:] if line.startswith(b".") else line for line in lines[:-1])
        mail.tls = self.tls
        if self.stage("dot", None):
            with self.receiver.lock:
                self.receiver.mails.append(mail)
            self.say("250 2.0.0 taken")
