"""MTA-STS: Postfix as the mail exchanger of domains whose policies an HTTPS server with a private CA serves."""

import json
import os
import smtplib
import socket
import threading

from harness import dns, web
from harness.base import Folder, check, free_port, wait_for
from harness.peers import PostfixMaildir, SmtpSink
from harness.relay import Relay, queued_id

TLS, CLEAR, WEB, MUTE = "127.0.0.16", "127.0.0.17", "127.0.0.18", "127.0.0.19"
VERIFIED, NONE = "verify (mta-sts)", "opportunistic (config)"


def text(mode, *mx, max_age=86400):
    return "".join(f"{line}\r\n" for line in ("version: STSv1", f"mode: {mode}", *(f"mx: {m}" for m in mx), f"max_age: {max_age}"))


class Case:
    """A domain in `test.`, what its policy's host answers, and what becomes of mail.

    `policy` is how events name the policy, `tls` the TLS policy of a delivery; a deferral has a `rule` in its place.
    """

    def __init__(self, name, body, policy=None, tls=None, rule=None, status=200, kind="text/plain", location=None,
                 address=TLS, certified=True, host="web", manner=None):
        self.name, self.body, self.policy, self.tls, self.rule = name, body, policy, tls, rule
        self.status, self.kind, self.location = status, kind, location
        self.address, self.certified, self.host, self.manner = address, certified, host, manner

    def zone(self):
        lines = [f"{self.name} MX 10 mx.{self.name}", f"mx.{self.name} A {self.address}"]
        if self.policy != "unannounced":
            lines.append(f'_mta-sts.{self.name} TXT "v=STSv1; id=20260101;"')
        if self.host:
            lines.append(f"mta-sts.{self.name} A {MUTE if self.host == 'mute' else WEB}")
        return lines


WEEK = 7 * 86400
ENFORCE, TESTING = "enforce id=20260101", "testing id=20260101"
CASES = [
    Case("sts-exact", text("enforce", "mx.sts-exact.test", max_age=2 * WEEK), ENFORCE, VERIFIED),
    Case("sts-wild", text("enforce", "*.sts-wild.test"), ENFORCE, VERIFIED),
    Case("sts-unlisted", text("enforce", "mx.elsewhere.test"), ENFORCE, rule="mta-sts-mx"),
    Case("sts-deep", text("enforce", "*.test"), ENFORCE, rule="mta-sts-mx"),
    Case("sts-name", text("enforce", "mx.sts-name.test"), ENFORCE, rule="tls-certificate", certified=False),
    Case("sts-clear", text("enforce", "mx.sts-clear.test"), ENFORCE, rule="tls-required", address=CLEAR),
    Case("sts-testing", text("testing", "mx.elsewhere.test"), TESTING, NONE, certified=False),
    Case("sts-none", text("none"), None, NONE),
    Case("sts-gone", text("enforce", "mx.elsewhere.test"), None, NONE, status=404),
    Case("sts-moved", text("enforce", "mx.elsewhere.test"), None, NONE, status=301, location="https://mta-sts.sts-unlisted.test/.well-known/mta-sts.txt"),
    Case("sts-html", text("enforce", "mx.elsewhere.test"), None, NONE, kind="text/html"),
    Case("sts-self", text("enforce", "mx.elsewhere.test"), None, NONE, host="self"),
    Case("sts-nohost", text("enforce", "mx.elsewhere.test"), None, NONE, host=None),
    # Hosts that take their time: it is over after `timeout`, and the mail goes on.
    Case("sts-silent", text("enforce", "mx.elsewhere.test"), None, NONE, manner="silent"),
    Case("sts-drip", text("enforce", "mx.elsewhere.test"), None, NONE, manner="drip"),
    Case("sts-mute", text("enforce", "mx.elsewhere.test"), None, NONE, host="mute"),
]
# What senders who report would find.
REPORTS = ['_smtp._tls.sts-exact TXT "v=TLSRPTv1; rua=mailto:tls@x.test,https://x.test/"', '_smtp._tls.sts-wild TXT "v=TLSRPTv1; rua=tls@x.test"']


class Web:
    """The hosts of all policies, by SNI and Host."""

    def __init__(self, authority, port):
        by_name = {f"mta-sts.{case.name}.test": case for case in CASES}
        good = authority.server_context("sts-web", [f"DNS:{name}" for name, case in by_name.items() if case.host == "web"])
        bad = authority.server_context("sts-self", ["DNS:mta-sts.sts-self.test"], self_signed=True)
        self.asked = []
        self.ended = threading.Event()
        # Takes connections, and never says a word.
        self.mute = socket.create_server((MUTE, port))

        class Handler(web.Handler):
            def do_GET(handler):
                case = by_name.get(handler.headers["Host"].split(":")[0])
                self.asked.append((case.name, handler.path, dict(handler.headers)))
                body = case.body.encode()
                if case.manner == "silent":
                    self.ended.wait(60)
                    return
                handler.send_response(case.status)
                handler.send_header("Content-Type", case.kind)
                handler.send_header("Content-Length", str(len(body)))
                if case.location:
                    handler.send_header("Location", case.location)
                handler.end_headers()
                if case.manner != "drip":
                    handler.wfile.write(body)
                    return
                try:
                    for octet in body:
                        handler.wfile.write(bytes([octet]))
                        self.ended.wait(1)
                except OSError:
                    pass

        def choose(connection, name, _context):
            if name and by_name[name].host == "self":
                connection.context = bad

        good.sni_callback = choose
        self.server = web.serve(WEB, port, good, Handler)

    def stop(self):
        self.ended.set()
        self.mute.close()
        self.server.shutdown()
        self.server.server_close()


class Setting:
    def __init__(self, world):
        folder = Folder("sts-", under=world.folder.path)
        self.port, web_port = free_port([TLS, CLEAR]), free_port([WEB])
        names = [f"DNS:mx.{case.name}.test" for case in CASES if case.certified]
        certificate = world.authority.issue("sts", names)
        self.dns = dns.Nsd(folder, [line for case in CASES for line in case.zone()] + REPORTS)
        domains = [f"{case.name}.test" for case in CASES]
        self.postfix = PostfixMaildir(folder, TLS, self.port, domains, certificate)
        self.sink = SmtpSink(folder, CLEAR, self.port)
        self.web = Web(world.authority, web_port)
        self.relay = Relay(
            world.binary,
            world.folder,
            "sts-relay",
            self.port,
            self.dns.address,
            config={
                "delivery": {"ca_file": str(world.authority.file)},
                "mta_sts": {"port": web_port, "allow_private": True, "timeout": "3s"},
            },
            extra="".join(f'[[domain]]\nname = "{domain}"\n' for domain in domains),
        )
        self.relay.start()

    def send(self, cases, mark):
        """A message to each domain; the ids by domain."""
        with smtplib.SMTP("127.0.0.1", self.relay.plain_port, local_hostname="client.test", timeout=60) as client:
            client.ehlo()
            self.ids = {}
            for case in cases:
                client.mail("a@sender.test")
                client.rcpt(f"b@{case.name}.test")
                body = f"From: a@sender.test\r\nSubject: {case.name}\r\nX-Case: =={case.name}{mark}==\r\n\r\nx\r\n"
                code, said = client.data(body.encode())
                check(code == 250, case.name, code, said)
                self.ids[case.name] = queued_id(said)

    def first(self, case):
        """The first attempt at a case's message."""

        def attempted():
            events = self.relay.trace(self.ids[case.name])
            return next((event for event in events if event["event"] in ("delivered", "deferred", "bounced")), None)

        return wait_for(f"{case.name} is tried", attempted, 30, 0.2)


def run(world, report):
    if os.geteuid() != 0:
        report.skip("sts", "Postfix needs root")
        return
    setting = Setting(world)
    try:
        setting.send(CASES, "")
        for case in CASES:
            report.case(f"sts: {case.name}", is_as_it_should, setting, case, "")
        report.case("sts: how the policies were asked for", asked_well, setting)
        report.case("sts: status knows the policies", status_knows, setting)
        report.case("sts: `domain check` says what is wrong with a policy", checked, setting)
        report.case("sts: what is kept rules without the host, after a kill", kept, setting)
        report.case("sts: what failed is not delivered", nothing_leaked, setting)
        report.case("sts: `TLS-Required: No` goes where no policy lets go", by_no_policy, setting)
        setting.relay.stop()
    finally:
        if setting.relay.child.running():
            setting.relay.kill()


def is_as_it_should(setting, case, mark):
    event = setting.first(case)
    said = event.get("mta_sts") or ""
    check(said.startswith(case.policy) if case.policy else not said, event)
    if case.rule:
        check(event["event"] == "deferred" and event["rule"] == case.rule, event)
        return
    check(event["event"] == "delivered", event)
    check(event["tls_policy"] == case.tls, event)
    check(event["tls"].startswith("TLSv1.3 TLS_"), event)
    check(event["certificate"] == "verified" or case.tls == NONE, event)
    marker = f"X-Case: =={case.name}{mark}==".encode()
    wait_for("it is in the maildir", lambda: setting.postfix.find(marker), 20)


def asked_well(setting):
    names = [name for name, _, _ in setting.web.asked]
    check(len(names) == len(set(names)), "asked more than once:", names)
    check("sts-self" not in names, "asked a host that proved nothing:", names)
    for name, path, headers in setting.web.asked:
        check(path == "/.well-known/mta-sts.txt", name, path)
        check("Accept-Encoding" not in headers, headers)


def status_knows(setting):
    status = setting.relay.status()
    check(status["mta_sts_enforce"] == 6 and status["mta_sts_testing"] == 1, status)


def checked(setting):
    """The lines about MTA-STS and TLS-RPT, each as its verdict and some of its words."""
    good, record = ("right", "valid, mode enforce"), ("right", "id=20260101")
    for name, expected in (
        ("sts-exact", [record, good, ("right", "names each mail exchanger: mx.sts-exact.test"), ("right", "mailto:tls@x.test, https://x.test/")]),
        ("sts-wild", [record, ("advice", "a week or more"), ("right", "mx.sts-wild.test"), ("WRONG", "rua=tls@x.test is neither")]),
        ("sts-unlisted", [record, ("advice", "a week or more"), ("WRONG", "does not name mx.sts-unlisted.test: no mail goes there"), ("advice", "no record")]),
        ("sts-testing", [record, ("advice", "nothing is enforced"), ("WRONG", "no mail would go there"), ("advice", "no record")]),
        ("sts-none", [record, ("advice", "as if there were no policy"), ("advice", "no record")]),
        ("sts-gone", [record, ("WRONG", "status 404"), ("advice", "no record")]),
        ("sts-moved", [record, ("WRONG", "status 301"), ("advice", "no record")]),
        ("sts-html", [record, ("WRONG", "text/html"), ("advice", "no record")]),
        ("sts-self", [record, ("WRONG", "certificate"), ("advice", "no record")]),
        ("sts-nohost", [record, ("WRONG", "mta-sts.sts-nohost.test"), ("advice", "no record")]),
        ("sts-drip", [record, ("WRONG", "too long"), ("advice", "no record")]),
    ):
        _, out, err = setting.relay.command("domain", "check", f"{name}.test", "--json")
        lines = [(line["verdict"], line["why"]) for line in json.loads(out) if line["for"] in ("MTA-STS", "TLS-RPT")]
        right = len(lines) == len(expected) and all(
            verdict == wanted and words in why for (verdict, why), (wanted, words) in zip(lines, expected))
        check(right, name, lines, err)


def kept(setting):
    """Only what enforces is looked at: without its host, the rest has no policy."""
    setting.web.stop()
    setting.relay.kill()
    setting.relay.start()
    again = [case for case in CASES if case.policy == ENFORCE]
    setting.send(again, "-again")
    for case in again:
        is_as_it_should(setting, case, "-again")


def nothing_leaked(setting):
    for case in CASES:
        if case.rule:
            for mark in ("", "-again"):
                marker = f"X-Case: =={case.name}{mark}==".encode()
                check(not setting.postfix.find(marker) and not setting.sink.find(marker), case.name, "leaked")


def by_no_policy(setting):
    """RFC 8689 §4.2.2; the messages before this one still wait for the same hosts."""
    for case in CASES:
        if not case.rule:
            continue
        with smtplib.SMTP("127.0.0.1", setting.relay.plain_port, local_hostname="client.test", timeout=60) as client:
            marker = f"X-Case: =={case.name}-any=="
            body = f"From: a@sender.test\r\nTLS-Required: No\r\n{marker}\r\n\r\nx\r\n"
            client.sendmail("a@sender.test", f"b@{case.name}.test", body)
        host = setting.sink if case.address == CLEAR else setting.postfix
        wait_for(f"{case.name} gets it", lambda: host.find(marker.encode()), 20)
