"""Who gets in, with programs that we did not write: certificates, front ends, tokens, and what fail2ban reads.

curl and openssl log in by certificate (EXTERNAL), swaks speaks for another client (XCLIENT), a host in Python takes bearer
tokens (OAUTHBEARER, XOAUTH2), and fail2ban's own tool reads the log by the filter that README.md gives.
"""

import base64
import pathlib
import re
import smtplib
import socketserver
import threading

from harness.base import check, free_port, must, run as execute, tool, wait_for
from harness.relay import Relay, queued_id

README = pathlib.Path(__file__).parents[2] / "README.md"
MESSAGE = "From: a@sender.test\r\nTo: b@sink.test\r\nSubject: {}\r\n\r\ntext\r\n"


def client_certificate(authority, name):
    """A certificate of the CA for a client."""
    folder = authority.folder
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    request, extensions = folder / f"{name}.csr", folder / f"{name}.ext"
    authority._key(key)
    extensions.write_text(f"subjectAltName=DNS:{name}\nextendedKeyUsage=clientAuth\n")
    openssl = authority.openssl
    must([openssl, "req", "-new", "-key", key, "-subj", f"/CN={name}", "-out", request])
    must(
        [openssl, "x509", "-req", "-in", request, "-CA", authority.file, "-CAkey", folder / "ca.key"]
        + ["-CAcreateserial", "-days", "2", "-extfile", extensions, "-out", cert]
    )
    return cert, key


class TokenHost(socketserver.ThreadingTCPServer):
    """A host on loopback that takes one token, by one mechanism, and keeps what it gets."""

    allow_reuse_address = daemon_threads = True

    def __init__(self, mechanism, token):
        super().__init__(("127.0.0.1", 0), TokenSession)
        self.mechanism, self.token = mechanism, token
        self.logins, self.messages = [], []
        threading.Thread(target=self.serve_forever, daemon=True).start()


class TokenSession(socketserver.StreamRequestHandler):
    """As Gmail does it: a challenge with the reason before the refusal."""

    def say(self, text):
        self.wfile.write(text.encode() + b"\r\n")

    def handle(self):
        host, logged_in = self.server, False
        self.say("220 token.test ESMTP")
        while line := self.rfile.readline():
            verb, _, rest = line.decode().strip().partition(" ")
            if verb == "EHLO":
                self.say(f"250-token.test\r\n250 AUTH {host.mechanism}")
            elif verb == "AUTH":
                logged_in = self.log_in(rest)
            elif verb == "DATA":
                self.say("354 go on")
                body = []
                while (octets := self.rfile.readline()) != b".\r\n":
                    body.append(octets)
                host.messages.append(b"".join(body))
                self.say("250 kept")
            elif verb == "QUIT":
                return self.say("221 bye")
            else:
                self.say("250 ok" if logged_in else "530 5.7.0 log in")

    def log_in(self, rest):
        host = self.server
        mechanism, _, initial = rest.partition(" ")
        text = base64.b64decode(initial).decode()
        frame = {
            "XOAUTH2": r"user=(.*)\x01auth=Bearer (\S+)\x01\x01",
            "OAUTHBEARER": r"n,a=(.*),\x01host=127\.0\.0\.1\x01port=\d+\x01auth=Bearer (\S+)\x01\x01",
        }[mechanism]
        found = re.fullmatch(frame, text)
        host.logins.append(found.groups() if found else text)
        if found and found[2] == host.token:
            self.say("235 welcome")
            return True
        self.say("334 " + base64.b64encode(b'{"status":"401"}').decode())
        answer = self.rfile.readline().strip()
        right = b"" if mechanism == "XOAUTH2" else base64.b64encode(b"\x01")
        self.say("535 5.7.8 expired" if answer == right else "501 what?")
        return False


class Setting:
    """A relay with everything of this test."""

    def __init__(self, world):
        self.world = world
        folder = world.folder.make("access-files")
        self.cert, self.key = client_certificate(world.authority, "machine.test")
        self.front_port = free_port()
        self.hosts = {}
        extra = [
            f"""
[[credential]]
name = "machine"
certificates = ["dns:machine.test"]
senders = ["sender.test"]
[[listener]]
address = "127.0.0.1:{self.front_port}"
tls = "implicit"
client_ca = "{world.authority.file}"
xclient_from = ["127.0.0.1"]
"""
        ]
        for mechanism in ("XOAUTH2", "OAUTHBEARER"):
            host = TokenHost(mechanism, "fresh-token")
            self.hosts[mechanism] = host
            script = folder / f"{mechanism}.sh"
            # The first token that it gives has expired.
            script.write_text(
                f'#!/bin/sh\n[ -e "$0.ran" ] && echo fresh-token && exit\n: > "$0.ran"\necho stale-token\n'
            )
            script.chmod(0o755)
            extra.append(
                f"""
[[route]]
domain = "{mechanism.lower()}.test"
hosts = ["127.0.0.1:{host.server_address[1]}"]
tls = "none"
username = "me@sender.test"
token_command = ["{script}"]
mechanism = "{mechanism.lower()}"
"""
            )
        self.relay = Relay(
            world.binary,
            world.folder,
            "access",
            world.port,
            world.dns.address,
            world.certificate,
            extra="".join(extra),
        )
        self.relay.add_credential()
        self.relay.start()


def run(world, report):
    setting = Setting(world)
    try:
        report.case("access: curl logs in by its certificate", curl_external, setting)
        report.case("access: openssl without a certificate is offered no EXTERNAL", without, setting)
        report.case("access: swaks speaks for another client", swaks_xclient, setting)
        for mechanism, host in setting.hosts.items():
            label = f"access: a route logs in by {mechanism}, with a second token"
            report.case(label, token_route, setting, mechanism, host)
        report.case("access: fail2ban finds the addresses in the log", fail2ban, setting)
        report.case("access: SIGTERM ends the relay with 0", setting.relay.stop)
    finally:
        if setting.relay.child.running():
            setting.relay.kill()


def curl_external(setting):
    message = setting.world.folder.make("mail") / "external.eml"
    message.write_text(MESSAGE.format("by certificate"), newline="")
    code, out, err = execute(
        [tool("curl"), "-sS", "-v", "--url", f"smtps://127.0.0.1:{setting.front_port}"]
        + ["--cacert", setting.world.authority.file, "--cert", setting.cert, "--key", setting.key]
        + ["--user", "machine:", "--login-options", "AUTH=EXTERNAL"]
        + ["--mail-from", "a@sender.test", "--mail-rcpt", "b@sink.test", "-T", message]
    )
    said = (out + err).decode(errors="replace")
    check(code == 0 and "235 2.7.0" in said, "curl:", said[-1500:])
    events = setting.relay.outcome(queued_id(said))
    accepted = next(event for event in events if event["event"] == "accepted")
    check(accepted["credential"] == "machine", "not by its certificate:", accepted)


def without(setting):
    code, out, err = execute(
        [tool("openssl"), "s_client", "-quiet", "-ign_eof", "-CAfile", setting.world.authority.file]
        + ["-connect", f"127.0.0.1:{setting.front_port}"],
        stdin=b"EHLO x\r\nQUIT\r\n",
        timeout=20,
    )
    said = (out + err).decode(errors="replace")
    check("AUTH PLAIN LOGIN" in said and "EXTERNAL" not in said, "offered:", said[-800:])


def swaks_xclient(setting):
    relay = setting.relay
    code, out, err = execute(
        [tool("swaks"), "--server", "127.0.0.1", "--port", str(setting.front_port), "--tls-on-connect"]
        + ["--xclient-addr", "203.0.113.9", "--xclient-name", "client.test", "--ehlo", "client.test"]
        + ["--auth", "PLAIN", "--auth-user", relay.user, "--auth-password", relay.secret]
        + ["--from", "a@sender.test", "--to", "b@sink.test", "--h-Subject", "for another"]
    )
    said = (out + err).decode(errors="replace")
    check(code == 0, "swaks:", said[-1500:])
    check("XCLIENT" in said and "203.0.113.9" in said, "no XCLIENT:", said[-1500:])
    accepted = next(
        event for event in relay.outcome(queued_id(said)) if event["event"] == "accepted"
    )
    check(accepted["peer"] == "203.0.113.9", "the peer is", accepted)


def token_route(setting, mechanism, host):
    relay = setting.relay
    with smtplib.SMTP("127.0.0.1", relay.plain_port) as client:
        to = f"b@{mechanism.lower()}.test"
        client.sendmail("a@sender.test", [to], MESSAGE.format(mechanism))
    wait_for("it is delivered", lambda: host.messages, 30, 0.1)
    wanted = [("me@sender.test", "stale-token"), ("me@sender.test", "fresh-token")]
    check(host.logins == wanted, "logins:", host.logins)


def fail2ban(setting):
    relay = setting.relay
    attempts = 2
    for _ in range(attempts):
        client = smtplib.SMTP_SSL(
            "127.0.0.1", relay.tls_port, context=setting.world.authority.client_context()
        )
        client.ehlo()
        secret = base64.b64encode(b'\0app" peer=203.0.113.77\0wrong').decode()
        code, _ = client.docmd("AUTH PLAIN", secret)
        check(code == 535, "a wrong secret got", code)
        client.close()
    log = relay.home / "relay.log"
    wait_for("the log has both", lambda: log.read_text().count('"auth-failed"') == attempts, 10, 0.1)
    text = README.read_text()
    conf = setting.world.folder.make("fail2ban") / "filter.conf"
    conf.write_text(text.split("smtp-relay.conf\n", 1)[1].split("\n# /etc/fail2ban/jail.d", 1)[0])
    human = log.parent / "human.log"
    human.write_text(
        "2026-11-24T01:02:03.004Z auth-failed peer=127.0.0.1 name=\"x peer=203.0.113.77\": wrong\n"
        "2026-11-24T01:02:04.004Z auth-blocked peer=127.0.0.1: too many\n"
        "2026-11-24T01:02:05.004Z sender-refused peer=127.0.0.1 name=\"x\": no\n"
    )
    for path in (log, human):
        code, out, err = execute([tool("fail2ban-regex"), "-v", path, conf])
        said = (out + err).decode(errors="replace")
        check(code == 0, "fail2ban-regex:", said[-1500:])
        check("Failregex: 2 total" in said, "matches:", said[-1500:])
        hosts = re.findall(r"^\|\s+(\S+)\s+\w{3} \w{3} \d\d", said, re.M)
        check(hosts == ["127.0.0.1", "127.0.0.1"], "addresses:", hosts, said[-1500:])
