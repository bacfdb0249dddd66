"""Bad input of every kind gets a clear error, and loses nothing."""

import os
import signal
import smtplib
import socket
import ssl
import time

from harness.base import Child, check, run as run_command, wait_for
from harness.messages import Message
from harness.receiver import Receiver
from harness.relay import Relay, queued_id

SENDER = "app@sender.test"


def run(world, report):
    for name, edit, wanted in BAD_CONFIGS:
        report.case(f"input: {name}", bad_config, world, name, edit, wanted)
    report.case("input: every error of a configuration at once", all_at_once, world)
    report.case("input: wrong usage ends with 2", wrong_usage, world)
    report.case("input: commands without a relay end with 1", no_relay, world)
    report.case("input: a port in use", port_in_use, world)
    report.case("input: a file where the data directory should be", no_data_dir, world)
    report.case("input: a data directory that cannot be written", read_only_data_dir, world)
    report.case("input: a second process on the same data directory", second_process, world)
    report.case("input: a reload of a broken configuration changes nothing", bad_reload, world)
    report.case("input: clients that send garbage", garbage, world)
    report.case("input: clients that leave in the middle", leavers, world)
    report.case("input: flipped bits and cut ends in the queue's files", damaged_queue, world)
    report.case("input: files that are not the queue's", strange_files, world)


class Small:
    """A relay whose deliveries go to one Python receiver, or wait while there is none."""

    count = 0

    def __init__(self, world, start=True, **options):
        Small.count += 1
        self.port = world.port
        self.host = f"127.0.3.{Small.count}"
        extra = (
            options.pop("extra", "")
            + f'\n[[route]]\ndomain = "*"\nhosts = ["{self.host}:{world.port}"]\ntls = "none"\n'
        )
        self.relay = Relay(
            world.binary, world.folder, f"input-{Small.count}", extra=extra, **options
        )
        self.receiver = None
        if start:
            self.relay.start()

    def receive(self):
        self.receiver = Receiver(self.host, self.port)
        return self.receiver

    def send(self, count=1, body=b"x\r\n"):
        sent = []
        with smtplib.SMTP("127.0.0.1", self.relay.plain_port, "client.test", timeout=30) as client:
            client.ehlo()
            for _ in range(count):
                message = Message("input", body, ["Subject: input"])
                client.mail(SENDER)
                client.rcpt("somebody@anywhere.test")
                code, reply = client.data(message.sent)
                check(code == 250, "DATA:", code, reply)
                sent.append((queued_id(reply), message))
        return sent

    def all_arrive(self, sent, timeout=60):
        for _, message in sent:
            mail = self.receiver.wait_mail(message.id.encode(), timeout)
            check(mail.data.endswith(message.expected), "it arrived changed")

    def close(self):
        if self.relay.child and self.relay.child.running():
            self.relay.kill()
        if self.receiver:
            self.receiver.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def serve_fails(relay, *wanted):
    """`serve` must end with 1 and say why."""
    child = Child(
        [relay.binary, "serve", "--config", relay.file],
        relay.home / f"refused-{time.monotonic_ns()}.log",
        cwd=relay.home,
    )
    wait_for("serve ends", lambda: not child.running(), 15)
    text = child.text()
    check(child.process.returncode == 1, "serve ended with", child.process.returncode, text)
    says(text, *wanted)
    check("panicked" not in text, text)


def says(text, *wanted):
    for part in wanted:
        check(part in text, f"{part!r} is not in the error:", text)


# Configurations: (name, edit of the text, what the error must name)

BAD_CONFIGS = [
    (
        "an unknown key",
        lambda text: text.replace("[limits]", "[limits]\nconections = 3"),
        ("limits.conections", "connections"),
    ),
    ("an unknown section", lambda text: text + "\n[deliver]\nport = 25\n", ("deliver",)),
    (
        "a wrong type",
        lambda text: text.replace("[limits]", '[limits]\nrecipients = "many"'),
        ("limits.recipients",),
    ),
    (
        "a wrong value",
        lambda text: text.replace('tls = "starttls"', 'tls = "maybe"'),
        ("listener.tls", "maybe", "implicit"),
    ),
    (
        "a duration that is none",
        lambda text: text.replace('expire = "1h"', 'expire = "soon"'),
        ("delivery.expire", "soon", "3d"),
    ),
    ("not TOML", lambda text: text.replace("[limits]", "[limits"), ("relay.toml:",)),
    (
        "a missing key file",
        lambda text: text + '\n[tls]\ncertificate = "gone.pem"\nkey = "gone.key"\n',
        ("gone.pem", "gone.key"),
    ),
    (
        "a key without its certificate",
        lambda text: text + '\n[tls]\nkey = "gone.key"\n',
        ("tls.certificate",),
    ),
    (
        "a certificate that is none",
        lambda text: text + '\n[tls]\ncertificate = "relay.toml"\nkey = "relay.toml"\n',
        ("relay.toml", "tls"),
    ),
    (
        "a trusted network that is everybody",
        lambda text: text.replace("127.0.0.0/8", "0.0.0.0/0"),
        ("trusted_networks", "0.0.0.0/0"),
    ),
    (
        "clear text off loopback",
        lambda text: text.replace('"127.0.0.1:', '"0.0.0.0:'),
        ("listener.tls",),
    ),
    (
        "a trusted credential that nobody has",
        lambda text: text.replace('trusted_as = "local"', 'trusted_as = "printers"'),
        ("trusted_as", "printers"),
    ),
]


def bad_config(world, name, edit, wanted):
    with Small(world, start=False) as small:
        text = edit(small.relay.file.read_text())
        small.relay.file.write_text(text)
        code, out, err = small.relay.command("check")
        check(code == 1, "check ended with", code, out + err)
        says(out + err, "relay.toml", *wanted)
        serve_fails(small.relay, "relay.toml", *wanted)
        check(
            not (small.relay.data / "queue").exists(),
            "a refused configuration made a queue for:",
            name,
        )


def all_at_once(world):
    with Small(world, start=False) as small:
        text = (
            small.relay.file.read_text()
            .replace("[limits]", '[limits]\nconections = 3\nmessage_size = "huge"')
            .replace("1h", "soon")
        )
        small.relay.file.write_text(text)
        code, out, err = small.relay.command("check")
        check(code == 1, "check ended with", code)
        says(out + err, "limits.conections", "limits.message_size", "delivery.expire")
        for key in ("conections", "message_size", "expire"):
            line = next(n for n, line in enumerate(text.splitlines(), 1) if line.startswith(key))
            says(out + err, f"relay.toml:{line}:")


def wrong_usage(world):
    for args in (
        ["serve", "--nonsense"],
        ["nonsense"],
        [],
        ["queue", "retry"],
        ["credential", "add", "x"],
        ["trace"],
    ):
        code, out, err = run_command([world.binary, *args])
        check(code == 2, args, "ended with", code)
        check((out + err).strip(), args, "says nothing")
    for args in (
        [],
        ["serve"],
        ["demo"],
        ["check"],
        ["credential"],
        ["queue"],
        ["trace"],
        ["reload"],
        ["status"],
    ):
        code, out, _ = run_command([world.binary, *args, "--help"])
        check(code == 0 and b"Usage" in out, args, "--help ended with", code)


def no_relay(world):
    with Small(world, start=False) as small:
        for args in (["status"], ["queue", "list"], ["trace", "1M85A7X210000"], ["reload"]):
            code, out, err = small.relay.command(*args)
            check(code == 1, args, "ended with", code, out, err)
            says(err, "admin.sock")
        small.relay.start()
        for args in (
            ["trace", "1M85A7X210000"],
            ["trace", "nonsense"],
            ["queue", "show", "nonsense"],
            ["queue", "retry", "nonsense"],
        ):
            code, out, err = small.relay.command(*args)
            check(code in (1, 2) and err.strip(), args, "ended with", code, out, err)


def port_in_use(world):
    with Small(world, start=False) as small, socket.socket() as taken:
        taken.bind(("127.0.0.1", small.relay.tls_port))
        taken.listen()
        serve_fails(small.relay, str(small.relay.tls_port), "in use")
        taken.close()
        small.relay.start()


def no_data_dir(world):
    with Small(world, start=False) as small:
        small.relay.data.write_text("I am a file")
        serve_fails(small.relay, str(small.relay.data))
        check(small.relay.data.read_text() == "I am a file", "the file was changed")
        small.relay.data.unlink()
        small.relay.data.mkdir()
        (small.relay.data / "queue").write_text("so am I")
        serve_fails(small.relay, "queue")
        check((small.relay.data / "queue").read_text() == "so am I", "the file was changed")


def read_only_data_dir(world):
    with Small(world, start=False) as small:
        small.relay.data = small.relay.home / "gone" / "data"
        target = small.relay.home / "nowhere"
        (small.relay.home / "gone").symlink_to(
            target
        )  # dangling: nothing can be made in it, not even by root
        small.relay.write_config()
        serve_fails(small.relay, str(small.relay.data))


def second_process(world):
    with Small(world) as small:
        sent = small.send(5)
        other = Relay(
            world.binary,
            world.folder,
            f"{small.relay.name}-second",
            extra='\n[[route]]\ndomain = "*"\nhosts = ["127.0.0.1:9"]\n',
        )
        other.data = small.relay.data
        other.write_config()
        serve_fails(other, str(small.relay.data), "uses this queue")
        check(small.relay.child.running(), "the first one ended")
        sent += small.send(5)
        check(small.relay.status()["queued"] == 10, "not all is queued")
        small.receive()
        small.all_arrive(sent)


def bad_reload(world):
    with Small(world) as small:
        good = small.relay.file.read_text()
        small.relay.file.write_text(good.replace("[limits]", "[limits]\nconections = 3"))
        code, out, err = small.relay.command("reload")
        check(code == 1, "reload ended with", code, out)
        says(err, "limits.conections")
        small.relay.child.process.send_signal(signal.SIGHUP)
        wait_for(
            "SIGHUP is refused in the log",
            lambda: "limits.conections" in small.relay.child.text(),
            5,
        )
        sent = small.send()
        small.relay.file.write_text(good.replace("[limits]", '[limits]\nmessage_size = "1MiB"'))
        code, out, err = small.relay.command("reload")
        check(code == 0, "reload ended with", code, err)
        says(out, "message_size")
        with smtplib.SMTP("127.0.0.1", small.relay.plain_port, "client.test") as client:
            client.ehlo()
            check(
                client.esmtp_features["size"] == str(1 << 20),
                "SIZE is",
                client.esmtp_features["size"],
            )
        small.receive()
        small.all_arrive(sent)


def garbage(world):
    """Whoever sends rubbish is answered or closed on, and nobody else notices."""
    pieces = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 20,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"*" * 600,
        b"\x00" * 5000,
        b"\r\n" * 3000,
        b"\n" * 3000,
        b"EHLO " + b"x" * 100_000 + b"\r\n",
        os.urandom(50_000),
        b"A" * 300_000,
        b"MAIL FROM:<" + b"<" * 400 + b"\r\n",
        b"HELO x\r\n" * 500,
        "EHLO ☃\r\n".encode() * 50,
        b"RCPT TO:<x@y>\r\nDATA\r\n.\r\n" * 30,
        b"EHLO x\r\nSTARTTLS\r\nNOOP\r\n",
        b"AUTH PLAIN " + b"=" * 2000 + b"\r\n",
        b"BDAT 99999999999999999999 LAST\r\n",
    ]
    with Small(world) as small:
        small.receive()
        ports = (small.relay.port, small.relay.tls_port, small.relay.plain_port)
        for port in ports:
            for piece in pieces:
                _throw(port, piece, banner=port != small.relay.tls_port)
        context = ssl._create_unverified_context()
        for piece in pieces:
            try:
                with socket.create_connection(
                    ("127.0.0.1", small.relay.tls_port), timeout=20
                ) as conn:
                    with context.wrap_socket(conn) as tls:
                        _drain(tls, piece, banner=True)
            except TimeoutError:
                raise
            except OSError:
                pass
        check(small.relay.child.running(), "the relay ended:", small.relay.child.text()[-2000:])
        check(
            "panicked" not in small.relay.child.text(),
            "something panicked:",
            small.relay.child.text()[-2000:],
        )
        small.all_arrive(small.send(3))
        wait_for("no session is left", lambda: small.relay.status()["sessions"] == 0, 20, 0.2)
        status = small.relay.status()
        check(status["accepted"] == 3, "something else was accepted:", status)


def _throw(port, piece, banner):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as conn:
            _drain(conn, piece, banner)
    except TimeoutError:
        raise
    except OSError:  # closed or reset
        pass


def _drain(conn, piece, banner):
    """Sends rubbish; what comes back must end."""
    if banner:
        conn.recv(200)
    conn.sendall(piece)
    if isinstance(conn, ssl.SSLSocket):
        return
    conn.shutdown(socket.SHUT_WR)
    while conn.recv(65536):
        pass


def leavers(world):
    """Clients that leave at every point of a transaction leave nothing behind."""
    steps = [
        b"EHLO x\r\n",
        f"MAIL FROM:<{SENDER}>\r\n".encode(),
        b"RCPT TO:<a@anywhere.test>\r\n",
        b"DATA\r\n",
        b"Subject: half\r\n\r\n",
        b"y" * 70 + b"\r\n",
        (b"z" * 70 + b"\r\n") * 8000,
    ]
    with Small(world) as small:
        for count in range(1, len(steps) + 1):
            for hard in (False, True):
                with socket.create_connection(
                    ("127.0.0.1", small.relay.plain_port), timeout=20
                ) as conn:
                    conn.recv(200)
                    for number, step in enumerate(steps[:count]):
                        conn.sendall(step)
                        if number < 4:  # a command, not the body
                            conn.recv(2000)
                    if hard:  # RST instead of FIN
                        conn.setsockopt(
                            socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00"
                        )
        wait_for("no session is left", lambda: small.relay.status()["sessions"] == 0, 20, 0.2)
        status = small.relay.status()
        check(
            status["accepted"] == 0 and status["queued"] == 0,
            "half a message was accepted:",
            status,
        )
        spool = small.relay.data / "queue" / "spool"
        wait_for(
            "half bodies are removed",
            lambda: not spool.is_dir() or not list(spool.iterdir()),
            10,
            0.2,
        )


def damaged_queue(world):
    """Flips a bit here and there: what is damaged is put aside and said, the rest is delivered."""
    with Small(world) as small:
        sent = small.send(40, b"0123456789" * 100 + b"\r\n")
        wait_for("the notes are written", lambda: small.relay.status()["queued"] == 40, 5)
        small.relay.kill()
        flipped = 0
        for file in sorted((small.relay.data / "queue").glob("segment-*")):
            data = bytearray(file.read_bytes())
            for at in _body_places(data, sent[10:13]):
                data[at] ^= 0x10
                flipped += 1
            file.write_bytes(data)
        check(flipped == 3, "the bodies were found", flipped, "times")
        small.relay.start()
        status = small.relay.status()
        check(
            status["queued"] == 37 and status["store"]["quarantined"] == 3,
            "after the start:",
            status,
        )
        damaged = small.relay.ask("queue", "quarantine", "list")
        check(sorted(one["id"] for one in damaged) == sorted(ident for ident, _ in sent[10:13]), "listed:", damaged)
        code, shown, _ = small.relay.command("queue", "quarantine", "show", sent[10][0])
        check(code == 0 and "checksum" in shown and sent[10][0] in shown, "shown:", shown[:500])
        _, story, _ = small.relay.command("trace", sent[10][0])
        check("quarantined: it is damaged" in story, "the trace of a damaged message:", story)
        last = small.relay.trace(sent[10][0])[-1]
        check(last["event"] == "quarantined" and last["why"], "its last event as JSON:", last)
        log = small.relay.child.text()
        check("WARN" in log or "ERROR" in log, "the log does not tell of the damage:", log[-1500:])
        check(
            list((small.relay.data / "queue" / "quarantine").iterdir()),
            "nothing was put into quarantine",
        )
        small.receive()
        small.all_arrive(sent[:10] + sent[13:])
        check(
            all(not small.receiver.find(message.id.encode()) for _, message in sent[10:13]),
            "a damaged message was delivered",
        )
        # Then a torn tail: octets after the last record that are no record.
        more = small.send(5)
        small.all_arrive(more)
        small.receiver.close()
        time.sleep(0.3)
        small.receiver = None
        more = small.send(5)
        small.relay.kill()
        newest = max(
            (small.relay.data / "queue").glob("segment-*"), key=lambda path: path.stat().st_mtime
        )
        data = newest.read_bytes().rstrip(b"\0")
        with open(newest, "r+b") as file:
            file.seek(len(data) + 4096)
            file.write(os.urandom(3000))
        small.relay.start()
        check(small.relay.status()["queued"] == 5, "after a torn tail:", small.relay.status())
        small.receive()
        small.all_arrive(more)
        small.relay.stop()


def _body_places(data, sent):
    for _, message in sent:
        at = data.find(message.id.encode())
        if at >= 0:
            yield data.index(b"0123456789", at) + 500


def strange_files(world):
    """Files of others in the queue's directory, an emptied credentials file, a broken one."""
    with Small(world) as small:
        sent = small.send(3)
        small.relay.kill()
        queue = small.relay.data / "queue"
        (queue / "README").write_text("hello")
        (queue / "segment-zzzz").write_text("hello")
        (queue / "segment-0000ffff").write_bytes(b"")
        (queue / "spool").mkdir(exist_ok=True)
        (queue / "spool" / "stray").write_text("hello")
        small.relay.start()
        check(small.relay.status()["queued"] == 3, "after the start:", small.relay.status())
        small.receive()
        small.all_arrive(sent)
        small.relay.stop()
        (small.relay.data / "credentials.toml").write_text("[[credential]\nnme = ")
        serve_fails(small.relay, "credentials.toml")
