"""From nothing to mail that receivers believe: the printed records in a real DNS, and what a relay does with them."""

import re
import smtplib

from harness import dns, web
from harness.base import check, free_port, wait_for
from harness.relay import Relay, queued_id

try:
    import dkim
    import nacl  # dkimpy needs it for Ed25519  # noqa: F401
except ImportError:
    dkim = None

DOMAIN = "new.test"
PATH = f"bounces.{DOMAIN}"
ADDRESS = "127.0.0.1"
WEB = "127.0.0.28"
# What the user of a new domain has already: somewhere to receive mail, and a host that serves this policy.
THERE = ["new MX 10 mx.sink", "mx.sink A 127.0.0.10", "sink MX 10 mx.sink", f"mta-sts.new A {WEB}"]
POLICY = "version: STSv1\nmode: enforce\nmx: mx.sink.test\nmax_age: 604800\n"


class PolicyHost(web.Handler):
    def do_GET(self):
        self.reply(200 if self.path == "/.well-known/mta-sts.txt" else 404, POLICY.encode())


class Zone:
    """A DNS on one port whose records change."""

    def __init__(self, world):
        self.folder, self.port, self.turn, self.server = world.folder, free_port(), 0, None
        self.publish("")

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def publish(self, printed):
        """Serves what was printed: the PTR records in the zone of the address, as one does."""
        self.stop()
        lines = records(printed)
        reverse = [line for line in lines if ".in-addr.arpa." in line]
        self.turn += 1
        self.server = dns.Nsd(self.folder, THERE + [line for line in lines if line not in reverse],
                              f"nsd-sender-{self.turn}", reverse, self.port)

    def stop(self):
        if self.server:
            self.server.child.stop()


def records(printed):
    """The lines of the zone file in what `domain add` printed, advice (which is commented out) included."""
    zone = printed.split("\n\n")[0]
    return [line.removeprefix("; ") for line in zone.splitlines() if " 3600 IN " in line]


class Setting:
    def __init__(self, world):
        self.world, self.sink = world, world.sink
        self.zone = Zone(world)
        web_port = free_port([WEB])
        self.web = web.serve(WEB, web_port, world.authority.server_context("sender-web", [f"DNS:mta-sts.{DOMAIN}"]), PolicyHost)
        self.relay = Relay(world.binary, world.folder, "sender-relay", world.port, self.zone.address, world.certificate,
                           {"delivery": {"ca_file": str(world.authority.file), "public_addresses": [ADDRESS]},
                            # The sink has no TLS: mail to it goes on, whatever the policy that is checked says.
                            "mta_sts": {"enabled": False, "port": web_port, "allow_private": True}})
        # Before the first [section].
        self.relay.file.write_text('preflight = "tag"\n' + self.relay.file.read_text())
        self.printed = ""

    def send(self, marker, sender=f"a@{DOMAIN}", to="x@sink.test", fields=""):
        message = f"From: a@{DOMAIN}\r\nTo: {to}\r\n{fields}X-Number: =={marker}==\r\n\r\ntext\r\n".encode()
        with smtplib.SMTP("127.0.0.1", self.relay.plain_port, local_hostname="client.test", timeout=60) as client:
            client.ehlo()
            client.mail(sender)
            for recipient in to.split(", "):
                client.rcpt(recipient)
            code, said = client.data(message)
        check(code == 250, code, said)
        return queued_id(said)

    def arrived(self, marker):
        found = wait_for(f"{marker} arrives", lambda: self.sink.find(f"=={marker}==".encode()), 60)
        return found + b"\n"

    def states(self):
        return [key["state"] for key in self.relay.ask("domain", "list")[0]["keys"]]

    def until(self, states, path):
        def now():
            domain = self.relay.ask("domain", "list")[0]
            return self.states() == states and domain["return_path_state"] == path
        wait_for(f"the keys are {states}", now, 60, 0.5)


def run(world, report):
    if dkim is None:
        report.skip("sender", "dkimpy and PyNaCl are not installed; `.ci/install` says how")
        return
    setting = Setting(world)
    try:
        report.case("sender: an empty DNS lacks all, and what each receiver asks for is named", nothing, setting)
        report.case("sender: the printed records alone make everything right", all_right, setting)
        report.case("sender: what is wrong in the DNS is named", what_is_wrong, setting)
        report.case("sender: nothing signs before its record is in the DNS; then it does by itself", by_itself, setting)
        report.case("sender: each recipient has a return path, which `trace` reads", return_path, setting)
        report.case("sender: a failure is reported to the sender, not to the return path", failure, setting)
        report.case("sender: pre-flight tags, and refuses with the rule and the fix", preflight, setting)
        report.case("sender: old keys sign until the new ones are in the DNS", rotation, setting)
        setting.relay.stop()
    finally:
        if setting.relay.child and setting.relay.child.running():
            setting.relay.kill()
        setting.zone.stop()


def verdicts(said):
    return [line.split()[0] for line in said.splitlines() if re.match(r"(right|WRONG|MISSING|advice|UNKNOWN) ", line)]


def nothing(setting):
    code, setting.printed, err = setting.relay.command("domain", "add", DOMAIN)
    check(code == 0, setting.printed, err)
    code, said, err = setting.relay.command("domain", "check", DOMAIN)
    check(code == 1 and verdicts(said).count("MISSING") >= 6, code, said, err)
    check(re.search(r"(?m)^Gmail: DKIM, SPF, MX, DMARC, ALIGNED, HOST$", said), said)
    check(re.search(r"(?m)^Apple: DKIM, SPF, DMARC, ALIGNED, HOST$", said), said)
    code, said, err = setting.relay.command("domain", "add", DOMAIN)
    check(code == 1 and "already" in err, "a second time:", code, said, err)
    code, said, err = setting.relay.command("domain", "add", "not a name")
    check(code == 2, code, said, err)


def all_right(setting):
    setting.zone.publish(setting.printed)
    code, again, err = setting.relay.command("domain", "records", DOMAIN)
    check(code == 0 and again.strip() == setting.printed.split("\n\n")[0], "other records than at first:", again, err)
    code, said, err = setting.relay.command("domain", "check", DOMAIN)
    check(code == 0 and set(verdicts(said)) == {"right"}, "not all is right:", code, said, err)
    check(said.count("all that it asks for is right") == 4, said)
    lines = setting.relay.ask("domain", "check", DOMAIN)
    kinds = ("DKIM", "DKIM", "SPF", "SPF", "MX", "DMARC", "ALIGNED", "HOST", "TLS", "CERT", *["MTA-STS"] * 3, "TLS-RPT")
    check(sorted(line["for"] for line in lines) == sorted(kinds), lines)
    check(all(line["verdict"] == "right" for line in lines), lines)


def what_is_wrong(setting):
    printed = setting.printed
    for old, new, what in (
        ("v=spf1 ip4:127.0.0.1 -all", "v=spf1 ip4:192.0.2.0/24 -all", "WRONG    SPF"),
        (f"{PATH}. 3600 IN MX 10 relay.test.", f"{PATH}. 3600 IN MX 0 .", "WRONG    MX"),
        (f"{PATH}. 3600 IN MX 10 relay.test.", f"{PATH}. 3600 IN MX 10 nowhere.test.", "WRONG    MX"),
        ("1.0.0.127.in-addr.arpa. 3600 IN PTR relay.test.", "1.0.0.127.in-addr.arpa. 3600 IN PTR other.test.", "WRONG    HOST"),
        ("relay.test. 3600 IN A 127.0.0.1", "relay.test. 3600 IN A 127.0.0.2", "MISSING  HOST"),
        ("v=STSv1; id=1", "v=STSv1; id=_", "WRONG    MTA-STS"),
    ):
        check(old in printed, "not printed:", old, printed)
        setting.zone.publish(printed.replace(old, new))
        code, said, err = setting.relay.command("domain", "check", DOMAIN)
        check(code == 1 and what in said and len(set(verdicts(said))) == 2, new, code, said, err)


def by_itself(setting):
    setting.zone.publish("")
    setting.relay.start()
    message_id = setting.send("too-early")
    message = setting.arrived("too-early")
    check(b"DKIM-Signature" not in message and PATH.encode() not in message, "used before it was published:", message)
    accepted = setting.relay.trace(message_id)[0]
    check("wait for their DNS records" in accepted["dkim"], accepted)
    setting.zone.publish(setting.printed)
    setting.until(["signing", "signing"], "active")
    wait_for("mail is signed", lambda: signed_by(setting, "e1", "later"), 20)

    def returns():
        by_itself.count = getattr(by_itself, "count", 0) + 1
        marker = f"returns-{by_itself.count}"
        setting.send(marker)
        return mail_from(setting.arrived(marker)).endswith("@" + PATH)

    wait_for("the return path is used", returns, 20, 0.5)


def signed_by(setting, selector, marker):
    """Whether a message that is sent now verifies by this selector and the one of its RSA key, from the DNS as printed."""
    signed_by.count = getattr(signed_by, "count", 0) + 1
    marker = f"{marker}-{signed_by.count}"
    setting.send(marker)
    message = setting.arrived(marker)
    if f"s={selector};".encode() not in message:
        return False
    start = re.search(rb"(?m)^DKIM-Signature:", message)
    message = message[start.start():].removesuffix(b"\n").replace(b"\n", b"\r\n")
    texts = {}
    for line in records(setting.printed):
        name, _, rest = line.partition(" 3600 IN TXT ")
        texts[name] = "".join(re.findall(r'"([^"]*)"', rest))
    for index in range(message.count(b"DKIM-Signature:")):
        found = dkim.DKIM(message).verify(idx=index, dnsfunc=lambda name, timeout=5: texts[name.decode()].encode())
        check(found, "a signature does not verify:", message)
    return True


def mail_from(message):
    return re.search(rb"(?m)^X-Mail-Args: <(.*?)>", message)[1].decode()


def return_path(setting):
    message_id = setting.send("verp", to="x@sink.test, y@sink.test")
    setting.relay.outcome(message_id, 2)
    dumps = [path.read_bytes() for path in setting.sink.home.iterdir()]
    dumps = [dump for dump in dumps if b"==verp==" in dump]
    senders = sorted(mail_from(dump) for dump in dumps)
    check(len(senders) == 2 and len(set(senders)) == 2, "one transaction for each recipient:", senders)
    for index, sender in enumerate(senders):
        local, domain = sender.split("@")
        check(domain == PATH and len(local) <= 64, sender)
        check(local.startswith(f"b1-{message_id.lower()}-{index}-"), sender)
        code, said, err = setting.relay.command("trace", sender.upper())
        check(code == 0 and f"recipient {index + 1} of message {message_id}" in said, code, said, err)
    check(setting.relay.trace(senders[0]) == setting.relay.trace(message_id), "another message's story")
    delivered = [event for event in setting.relay.trace(message_id) if event["event"] == "delivered"]
    check(all(event["return_path"] in senders for event in delivered), delivered)
    forged = senders[0].replace("-0-", "-7-")
    code, said, err = setting.relay.command("trace", forged)
    check(code == 1 and "signature is wrong" in err, code, said, err)
    # A new key: what the old one signed is still ours.
    code, said, err = setting.relay.command("domain", "rotate", "--return-path")
    check(code == 0 and "key 2" in said, code, said, err)
    code, said, err = setting.relay.command("trace", senders[0])
    check(code == 0, code, said, err)
    setting.relay.ask("reload")
    setting.send("second-key")
    check(mail_from(setting.arrived("second-key")).startswith("b2-"), "the new key does not sign")


def failure(setting):
    message_id = setting.send("to-nobody", to="x@no-such-domain.test")
    report = wait_for("the report arrives", lambda: setting.sink.find(f"To: <a@{DOMAIN}>".encode()), 60)
    check(mail_from(report) == "", "a report from somebody:", mail_from(report))
    check(message_id.encode() in report or b"no-such-domain.test" in report, report)
    null = setting.send("null", sender="")
    setting.relay.outcome(null)
    check(mail_from(setting.arrived("null")) == "", "a null sender did not stay null")


def preflight(setting):
    message_id = setting.send("tagged", fields="Precedence: bulk\r\nSubject: a\r\nSubject: b\r\n")
    events = [event for event in setting.relay.trace(message_id) if event["event"] == "preflight"]
    rules = [finding["rule"] for event in events for finding in event["findings"]]
    check(rules == ["once", "bulk-unsubscribe"], events)
    code, said, err = setting.relay.command("trace", message_id)
    check(code == 0 and "bulk-unsubscribe: " in said, said, err)
    text = setting.relay.file.read_text()
    setting.relay.file.write_text(text.replace('preflight = "tag"', 'preflight = "reject"'))
    setting.relay.ask("reload")
    with smtplib.SMTP("127.0.0.1", setting.relay.plain_port, timeout=60) as client:
        for sender, author, code, words in (
            (f"a@{DOMAIN}", f"a@{DOMAIN}", 250, b"queued as"),
            ("a@other.test", "a@elsewhere.test", 550, b"5.7.26 Pre-flight rule aligned: "),
        ):
            client.ehlo_or_helo_if_needed()
            client.mail(sender)
            client.rcpt("x@sink.test")
            got, said = client.data(f"From: {author}\r\n\r\ntext\r\n")
            check(got == code and words in said, got, said)
    setting.relay.file.write_text(text)
    setting.relay.ask("reload")


def rotation(setting):
    code, more, err = setting.relay.command("domain", "rotate", DOMAIN)
    check(code == 0 and "do not sign yet" in more, code, more, err)
    check(setting.states() == ["signing"] * 2 + ["pending"] * 2, setting.states())
    check(signed_by(setting, "e1", "rotating"), "the old keys do not sign")
    code, said, err = setting.relay.command("domain", "rotate", DOMAIN)
    check(code == 1 and "nothing was changed" in said, code, said, err)
    setting.printed = "\n".join(records(setting.printed) + records(more))
    setting.zone.publish(setting.printed)
    setting.until(["retired"] * 2 + ["signing"] * 2, "active")
    wait_for("the new keys sign", lambda: signed_by(setting, "e2", "rotated"), 20, 0.5)
