"""DANE: Postfix behind a signed zone, and whether Postfix's own client comes to the same verdicts."""

import os
import re
import smtplib

from harness import signed
from harness.certs import Authority
from harness.base import Folder, check, free_port, has_tool, tool, wait_for
from harness.peers import PostfixMaildir, SmtpSink
from harness.receiver import Receiver
from harness.relay import Relay, queued_id

TLS, CLEAR, OLD = "127.0.0.14", "127.0.0.15", "127.0.0.18"

DANE = "dane (TLSA)"
UNUSABLE = "require (dane, no TLSA record can be used)"
NONE = "opportunistic (config)"

# What posttls-finger comes to, by `verdict`.
VERIFIED, MISMATCH, NO_TLS, NO_ANSWER = "verified", "mismatch", "no TLS", "no answer"
UNUSABLE_RECORDS, NO_RECORDS = "unusable records", "no records"


class Case:
    """A domain in `signed.`: the lines of its exchanger `mx.NAME`, what becomes of mail, and what finger says.

    `policy` is that of a delivery; a deferral has a `rule` in its place.
    """

    def __init__(self, name, tlsa=(), policy=None, rule=None, finger=None, address=TLS, mx=None, lines=()):
        self.name, self.policy, self.rule, self.finger = name, policy, rule, finger
        self.lines = [] if mx == "" else [f"{name} MX 10 {mx or f'mx.{name}'}"]
        if mx is None and address:
            self.lines.append(f"mx.{name} A {address}")
        self.tlsa, self.more = tlsa, lines

    def zone(self, port):
        records = [f"_{port}._tcp.mx.{self.name} TLSA {record}" for record in self.tlsa]
        return [*self.lines, *records, *(line.replace("PORT", str(port)) for line in self.more)]


def cases(leaf, root, other, old):
    """`leaf` is what the receiver shows, `root` what signed it, `other` some other certificate.

    `old` is the root of another receiver, and over. Of domains named `strict-` the relay demands DANE.
    """
    def of(certificate, *fields):
        return signed.tlsa(certificate, *fields)

    good = of(leaf, 3, 1, 1)
    for_leaf = [(3, 0, 0), (3, 0, 1), (3, 0, 2), (3, 1, 0), (3, 1, 1), (3, 1, 2)]
    for_root = [(2, 0, 0), (2, 0, 1), (2, 0, 2), (2, 1, 0), (2, 1, 1), (2, 1, 2)]

    def named(fields):
        return "u" + "".join(map(str, fields))

    # A certificate of usage 2 must name the host; `u*` are the names in it.
    found = [Case(named(f), [of(leaf, *f)], DANE, finger=VERIFIED) for f in for_leaf]
    found += [Case(named(f), [of(root, *f)], DANE, finger=VERIFIED) for f in for_root]
    found += [
        Case("domain", [of(root, 2, 0, 1)], DANE, finger=VERIFIED),
        Case("two", [of(other, 3, 1, 1), good], DANE, finger=VERIFIED),
        Case("name", [of(root, 2, 0, 1)], rule="dane-certificate", finger=MISMATCH),
        Case("wrong3", [of(other, 3, 1, 1)], rule="dane-certificate", finger=MISMATCH),
        Case("wrong3whole", [of(other, 3, 0, 0)], rule="dane-certificate", finger=MISMATCH),
        Case("wrong2", [of(other, 2, 1, 1)], rule="dane-certificate", finger=MISMATCH),
        Case("leaf2", [of(leaf, 2, 0, 1)], rule="dane-certificate", finger=MISMATCH),
        Case("agility", [good, of(other, 3, 1, 2)], rule="dane-certificate", finger=MISMATCH),
        Case("pkix", [of(leaf, 1, 1, 1)], UNUSABLE, finger=UNUSABLE_RECORDS),
        Case("short", ["3 1 1 00ff"], UNUSABLE, finger=UNUSABLE_RECORDS),
        Case("none", [], NONE, finger=NO_RECORDS),
        Case("clear", [good], rule="tls-required", finger=NO_TLS, address=CLEAR),
        Case("bogus", ["3 1 1 " + "ab" * 32], rule="dane-lookup", finger=NO_ANSWER),
        # A domain without MX is its own host.
        Case("implicit", mx="", policy=DANE, finger=VERIFIED,
             lines=[f"implicit A {TLS}", f"_PORT._tcp.implicit TLSA {good}"]),
        # A host outside: its TLSA records are signed by nobody, and so is its address.
        Case("outside", mx="mx.plain.", policy=NONE, finger=NO_RECORDS),
        # Aliases: the records are at the end, at the start, or at the start of what leads outside.
        Case("alias-end", mx="mx.alias-end", policy=DANE, finger=VERIFIED, lines=["mx.alias-end CNAME mx.u311"]),
        Case("alias-start", mx="mx.alias-start", policy=DANE, finger=VERIFIED,
             lines=["mx.alias-start CNAME mx.none", f"_PORT._tcp.mx.alias-start TLSA {good}"]),
        Case("alias-out", mx="mx.alias-out", policy=DANE, finger=VERIFIED,
             lines=["mx.alias-out CNAME mx.plain.", f"_PORT._tcp.mx.alias-out TLSA {good}"]),
        Case("alias-wrong", mx="mx.alias-wrong", rule="dane-certificate", finger=MISMATCH,
             lines=["mx.alias-wrong CNAME mx.wrong3", f"_PORT._tcp.mx.alias-wrong TLSA {good}"]),
    ]
    found += [Case(f"old{''.join(map(str, f))}", [of(old, *f)], rule="dane-certificate", finger=MISMATCH, address=OLD)
              for f in for_root]
    found += [
        Case("strict-good", [good], DANE, finger=VERIFIED),
        Case("strict-wrong", [of(other, 3, 1, 1)], rule="dane-certificate", finger=MISMATCH),
        Case("strict-none", [], rule="dane-required"),
        Case("strict-pkix", [of(leaf, 1, 1, 1)], rule="dane-required"),
        Case("strict-outside", mx="mx.plain.", rule="dane-required"),
    ]
    return found


class Setting:
    def __init__(self, world):
        folder = Folder("dane-", under=world.folder.path)
        names = [f"DNS:mx.u{f}.signed" for f in ("200", "201", "202", "210", "211", "212")]
        names += ["DNS:domain.signed", "DNS:mx.leaf2.signed", "DNS:mx.wrong2.signed"]
        leaf, key = world.authority.issue("dane", names)
        other, _ = world.authority.issue("dane-other", ["DNS:other.signed"])
        root = world.authority.file
        chain = folder / "chain.pem"
        chain.write_text(leaf.read_text() + root.read_text())
        port = free_port([TLS, CLEAR, OLD])
        self.port = port
        over = Authority(folder.make("old"), expired=True)
        self.old = Receiver(OLD, port, tls=over.server_context(
            "mx", [f"DNS:mx.old{f}.signed" for f in ("200", "201", "202", "210", "211", "212")], with_root=True))
        self.cases = cases(leaf, root, other, over.file)
        lines = [line for case in self.cases for line in case.zone(port)]
        plain = [f"mx A {TLS}", f"_{port}._tcp.mx TLSA {signed.tlsa(other, 3, 1, 1)}"]
        self.dns = signed.Signed(folder, lines, plain, spoil=[("ab" * 32, "cd" * 32)])
        domains = [f"{case.name}.signed" for case in self.cases]
        self.postfix = PostfixMaildir(folder, TLS, port, domains, (chain, key))
        self.sink = SmtpSink(folder, CLEAR, port)
        strict = [case.name for case in self.cases if case.name.startswith("strict-")]
        routes = "".join(f'\n[[route]]\ndomain = "{name}.signed"\nhosts = ["mx"]\ntls = "dane"\n' for name in strict)
        self.relay = Relay(world.binary, world.folder, "dane-relay", port, self.dns.address,
                           config={"dns": {"trust_ad": True}}, extra=routes)
        self.relay.start()

    def send_all(self):
        """A message to each domain; the ids by domain."""
        with smtplib.SMTP("127.0.0.1", self.relay.plain_port, local_hostname="client.test", timeout=60) as client:
            client.ehlo()
            self.ids = {}
            for case in self.cases:
                client.mail("a@sender.test")
                client.rcpt(f"b@{case.name}.signed")
                body = f"From: a@sender.test\r\nSubject: {case.name}\r\nX-Case: =={case.name}==\r\n\r\nx\r\n"
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
    missing = [name for name in (*signed.TOOLS, "posttls-finger") if not has_tool(name)]
    if missing or os.geteuid() != 0:
        report.skip("dane", f"not installed: {' '.join(missing)}" if missing else "Postfix needs root")
        return
    setting = Setting(world)
    try:
        setting.send_all()
        for case in setting.cases:
            report.case(f"dane: {case.name}", is_as_it_should, setting, case)
        fingers = setting.dns.as_system(["true"]) is not None
        if not fingers:
            report.skip("dane: posttls-finger", "no mounts of our own for /etc/resolv.conf")
        # Without records it goes on by the roots of the system at this level, to say what it finds.
        judged = [case for case in setting.cases if fingers and case.finger]
        for case in judged:
            report.case(f"dane: posttls-finger on {case.name}", agrees, setting, case)
        report.case("dane: what failed is not delivered", nothing_leaked, setting)
        setting.relay.stop()
    finally:
        if setting.relay.child.running():
            setting.relay.kill()
        setting.old.close()


def is_as_it_should(setting, case):
    event = setting.first(case)
    if case.policy:
        check(event["event"] == "delivered", event)
        check(event["tls_policy"] == case.policy, event)
        check(event["tls"] and event["tls"].startswith("TLSv1.3 TLS_"), event)
        check((event["certificate"] == "verified (TLSA)") == (case.policy == DANE), event)
        marker = f"X-Case: =={case.name}==".encode()
        wait_for("it is in the maildir", lambda: setting.postfix.find(marker), 20)
    else:
        check(event["event"] == "deferred", event)
        check(event["rule"] == case.rule and event["text"] and event["tls_failure"], event)


def verdict(said):
    """The verdict of posttls-finger, from what it says."""
    if "TLSA lookup error" in said:
        return NO_ANSWER
    if "all TLSA records unusable" in said:
        return UNUSABLE_RECORDS
    made = re.search(r"(\w+) TLS connection established", said)
    if "DNSSEC-signed TLSA record" not in said:
        return UNUSABLE_RECORDS if "TLSA" in said and made else NO_RECORDS
    if not made:
        return NO_TLS
    return VERIFIED if made[1] == "Verified" else MISMATCH


def agrees(setting, case):
    said = setting.dns.as_system(
        [tool("posttls-finger"), "-L", "summary,verbose", "-l", "dane-only" if case.name.startswith("strict-") else "dane", "-t", "5", "-T", "5", f"{case.name}.signed:{setting.port}"]
    )
    check("Connected to" in said or case.finger == NO_ANSWER, said)
    check(verdict(said) == case.finger, f"not {case.finger!r} but {verdict(said)!r}:", said)


def nothing_leaked(setting):
    for case in setting.cases:
        if not case.policy:
            marker = f"X-Case: =={case.name}==".encode()
            check(not setting.postfix.find(marker) and not setting.sink.find(marker), case.name)
            check(not setting.old.mails, case.name)
            events = setting.relay.trace(setting.ids[case.name])
            check(not any(event["event"] == "delivered" for event in events), events)
