"""Mail from clients that we did not write, to receivers that we did not write, found by MX in a real DNS.

Each client sends each message over STARTTLS and over implicit TLS, to one recipient at smtp-sink and one at Postfix.
What arrives there is what was sent, octet by octet, after the headers that were prepended.
"""

import email
import email.policy
import fcntl
import itertools
import os
import pathlib
import smtplib
import tempfile

from harness import clients, messages
from harness.base import Child, Failed, banner, check, listening, must, tool, wait_for
from harness.relay import Relay, queued_id

RECIPIENTS = ["a@sink.test", "b@postfix.test"]
ARRIVAL = 60


class Setting:
    """The relay with the receivers of this test."""

    def __init__(self, world):
        self.world = world
        self.peers = [world.sink] + ([world.postfix] if world.postfix else [])
        self.recipients = RECIPIENTS if world.postfix else RECIPIENTS[:1]
        self.relay = Relay(
            world.binary, world.folder, "clients", world.port, world.dns.address, world.certificate
        )
        self.relay.add_credential()
        self.relay.start()
        self.node_path = clients.node_modules(world.folder)

    def target(self, implicit):
        relay = self.relay
        return clients.Target(
            relay.tls_port if implicit else relay.port,
            implicit,
            relay.user,
            relay.secret,
            self.world.authority,
            self.world.folder.make("mail"),
            self.node_path,
        )

    def arrived(self, text):
        """What each receiver got that has `text` in it."""
        found = []
        for peer in self.peers:
            found.append(
                wait_for(
                    f"{text!r} at {type(peer).__name__}",
                    lambda peer=peer: peer.find(text),
                    ARRIVAL,
                    0.1,
                )
            )
        return found


def run(world, report):
    setting = Setting(world)
    try:
        for name, implicit in itertools.product(clients.CLIENTS, (False, True)):
            label = f"clients: {name} over {'implicit TLS' if implicit else 'STARTTLS'}"
            report.case(label, every_message, setting, clients.CLIENTS[name], implicit)
        report.case("clients: a message that nodemailer composes", composed, setting)
        report.case("clients: SMTPUTF8 addresses and headers", smtputf8, setting)
        report.case("clients: the id of the 250 is in Received and in trace", one_id, setting)
        report.case(
            "clients: secrets, senders and relaying are refused with the contract's codes",
            refused,
            setting,
        )
        report.case(
            "clients: SCRAM-SHA-256-PLUS binds the login to the TLS connection", binds, setting
        )
        report.case("clients: no secret and no body in the log", quiet_log, setting)
        report.case("clients: SIGTERM ends the relay with 0", setting.relay.stop)
    finally:
        if setting.relay.child.running():
            setting.relay.kill()
    report.case("clients: serve without a configuration", embedded_default, world)


def every_message(setting, send, implicit):
    sent = messages.catalogue()
    for message, eight_bit in sent:
        try:
            send(setting.target(implicit), message, setting.recipients, eight_bit)
        except Failed as why:
            raise Failed(f"{message.name}: {why}") from why
    for message, _ in sent:
        for peer, text in zip(setting.peers, setting.arrived(message.id.encode())):
            complete(message, peer, text)


def complete(message, peer, text):
    """Compares; the receiver may still be writing the file."""

    def whole():
        try:
            return messages.same(message, peer.find(message.id.encode()), peer.line_end)
        except Failed as why:
            last.append(why)
            peer.seen.clear()
            return None

    last = []
    try:
        wait_for("the whole file", whole, 3, 0.2)
    except Failed:
        raise last[-1] from None


def composed(setting):
    data = os.urandom(300_000)
    file = setting.world.folder.make("mail") / "attached.bin"
    file.write_bytes(data)
    out = clients.node(
        setting.target(False), "PLAIN", "app@sender.test", setting.recipients, file, "compose"
    )
    ident = out.decode().split('"id":"<')[1].split(">")[0]
    setting.arrived(ident.encode())

    def whole():
        for peer in setting.peers:
            peer.seen.clear()
            parsed = email.message_from_bytes(
                peer.find(ident.encode()), policy=email.policy.default
            )
            attached = [part for part in parsed.walk() if part.get_filename() == "größe.bin"]
            if not attached or attached[0].get_content() != data:
                return False
            check(parsed["subject"] == "Grüße ✓ 日本語", "subject is", parsed["subject"])
            check(parsed["bcc"] is None, "Bcc arrived")
            check("Zeile drei: ✓" in parsed.get_body(("plain",)).get_content(), "the text differs")
        return True

    wait_for("the composed message", whole, 5, 0.2)


def smtputf8(setting):
    if not setting.world.postfix:
        raise Failed("needs Postfix")
    message = messages.Message(
        "smtputf8", "日本語\r\n".encode(), ["Subject: Grüße ✓"], sender="jürgen@sender.test"
    )
    with clients.connect(setting.target(False)) as client:
        client.login(setting.relay.user, setting.relay.secret)
        client.command_encoding = "utf-8"
        client.sendmail(
            message.sender,
            ["пользователь@postfix.test"],
            message.sent,
            ["SMTPUTF8", "BODY=8BITMIME"],
        )
    peer = setting.world.postfix
    text = wait_for("it at Postfix", lambda: peer.find(message.id.encode()), ARRIVAL, 0.1)
    complete(message, peer, text)


def one_id(setting):
    message = messages.Message("one-id", b"x\r\n", ["Subject: id"])
    with clients.connect(setting.target(True)) as client:
        client.login(setting.relay.user, setting.relay.secret)
        client.mail(message.sender)
        client.rcpt(RECIPIENTS[0])
        code, reply = client.data(message.sent)
    check(code == 250 and reply.startswith(b"2.0.0 Ok: queued as "), "the reply is", code, reply)
    ident = queued_id(reply)
    text = wait_for(
        "it at smtp-sink", lambda: setting.world.sink.find(message.id.encode()), ARRIVAL, 0.1
    )
    check(ident.encode() in text.split(b"Message-ID")[0], "the id is not in Received:", text[:600])
    events = setting.relay.outcome(ident)
    kinds = [event["event"] for event in events]
    check(kinds == ["accepted", "delivered"], "trace tells", kinds)
    check(
        events[1]["recipients"] == [RECIPIENTS[0]] and events[1]["host"] == "mx.sink.test",
        "trace tells",
        events[1],
    )


def refused(setting):
    def code_of(call, *args):
        code, reply = call(*args)
        return f"{code} {reply.decode().split()[0]}"

    plain = smtplib.SMTP("127.0.0.1", setting.relay.port, "client.test", timeout=20)
    plain.ehlo()
    check(not plain.has_extn("auth"), "AUTH is offered in clear text")
    early = code_of(plain.docmd, "AUTH", "PLAIN AGFwcAB4")
    check(early == "538 5.7.11", "AUTH before TLS:", early)
    check(
        code_of(plain.mail, "app@sender.test") == "530 5.7.0", "MAIL without AUTH is not 530 5.7.0"
    )
    plain.quit()
    with clients.connect(setting.target(False)) as client:
        wrong = [
            client.docmd(
                "AUTH", "PLAIN " + messages.base64.b64encode(f"\0{user}\0wrong".encode()).decode()
            )
            for user in (setting.relay.user, "nobody")
        ]
        check(wrong[0] == wrong[1], "a wrong secret and an unknown name differ:", wrong)
        check(wrong[0][0] == 535 and wrong[0][1].startswith(b"5.7.8"), "a wrong secret:", wrong[0])
    with clients.connect(setting.target(False)) as client:
        client.login(setting.relay.user, setting.relay.secret)
        code, reply = client.mail("boss@elsewhere.test")
        check((code, reply[:5]) == (553, b"5.7.1"), "a foreign sender:", code, reply)
        check(
            b"elsewhere.test" in reply and setting.relay.user.encode() in reply,
            "it names neither:",
            reply,
        )
        client.rset()
        client.mail("app@sender.test")
        client.rcpt(RECIPIENTS[0])
        code, reply = client.data(b"From: boss@elsewhere.test\r\nSubject: spoof\r\n\r\nx\r\n")
        check(code in (550, 553) and reply.startswith(b"5.7.1"), "a foreign From:", code, reply)


def binds(setting):
    target = setting.target(True)
    reply = clients.scram_plus(target)
    check(reply.startswith("235 2.7.0"), "the reply is", reply)
    reply = clients.scram_plus(target, "tamper")
    check(reply.startswith("535 5.7.8"), "with another channel's binding, the reply is", reply)


def quiet_log(setting):
    log = setting.relay.child.text()
    check(setting.relay.secret not in log, "the secret is in the log")
    check("Second paragraph" not in log, "a body is in the log")


def embedded_default(world):
    """The command that a newcomer types first. Nothing is sent: its receivers would be real ones."""
    # Its ports are fixed: another run of these tests may be at it too.
    with open(pathlib.Path(tempfile.gettempdir()) / "smtp-relay-interop.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try_default(world)


def try_default(world):
    ports = (2587, 2465, 8587)
    check(
        not any(listening("127.0.0.1", port) for port in ports),
        "one of the default ports is taken:",
        ports,
    )
    home = world.folder.make("default")
    with open(home / "out", "wb") as out:
        child = Child([world.binary, "serve"], home / "err", stdout=out, cwd=home)
    try:
        wait_for("the default listener greets", lambda: _greets(2587), 20)
        said = lambda: (home / "out").read_text() + child.text()
        text = wait_for("a line to try it with swaks", lambda: "swaks" in said() and said(), 5)
        check((home / "relay-data").is_dir(), "no ./relay-data")
        line = next(line for line in text.splitlines() if "swaks" in line and "--auth" in line)
        words = line[line.index("swaks") :].split()
        user = words[words.index("--auth-user") + 1].strip("'\"")
        secret = words[words.index("--auth-password") + 1].strip("'\"")
        for port, tls in ((2587, "--tls"), (2465, "--tlsc")):
            must(
                [
                    tool("swaks"),
                    "--server",
                    "127.0.0.1",
                    "--port",
                    port,
                    tls,
                    "--auth",
                    "PLAIN",
                    "--auth-user",
                    user,
                    "--auth-password",
                    secret,
                    "--quit-after",
                    "AUTH",
                ]
            )
        again = Child([world.binary, "serve"], home / "second", cwd=home)
        code = again.process.wait(20)
        check(code == 1, "a second one ended with", code)
    finally:
        child.stop()
    check(child.process.returncode == 0, "it ended with", child.process.returncode)


def _greets(port):
    try:
        return banner("127.0.0.1", port).startswith(b"220")
    except OSError:
        return False
