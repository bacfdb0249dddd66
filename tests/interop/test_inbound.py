"""Mail from others: what the relay says of it is what dkimpy and OpenDKIM say, and what it seals verifies with dkimpy."""

import base64
import random
import re
import smtplib

from harness import base, dns
from harness.base import check, free_port, has_tool, must, tool
from harness.receiver import Receiver
from harness.relay import Relay
from test_dkim import Corpus, make_key

try:
    import authres  # dkimpy needs it to seal  # noqa: F401
    import dkim
    import nacl  # dkimpy needs it for Ed25519  # noqa: F401
except ImportError:
    dkim = None

MESSAGES = 200
RECEIVER = "127.0.0.42"
FORMS = (b"relaxed", b"simple")


class Setting:
    """A relay that takes mail for `ours.test`, and seals what goes on to `list.test`."""

    def __init__(self, world):
        self.home = world.folder.make("inbound")
        self.public = {selector: make_key(self.home, selector) for selector in ("r1", "e1")}
        zone = ["relay A 127.0.0.1"]
        for domain in ("signed", "relay"):
            for selector, record in self.public.items():
                parts = " ".join(f'"{record[at:at + 200]}"' for at in range(0, len(record), 200))
                zone.append(f"{selector}._domainkey.{domain} TXT {parts}")
        zone += [
            'signed TXT "v=spf1 ip4:127.0.0.1 -all"', '_dmarc.signed TXT "v=DMARC1; p=reject"',
            'forged TXT "v=spf1 -all"', '_dmarc.forged TXT "v=DMARC1; p=reject"',
        ]
        self.dns = dns.Nsd(world.folder, zone, "nsd-inbound")
        port = free_port([RECEIVER])
        self.receiver = Receiver(RECEIVER, port)
        self.tag, self.reject = free_port(), free_port()
        extra = ""
        for listener, dmarc in ((self.tag, "tag"), (self.reject, "reject")):
            extra += f'\n[[listener]]\naddress = "127.0.0.1:{listener}"\nrole = "inbound"\ndmarc = "{dmarc}"\n'
        for domain, forward in (("ours.test", "false"), ("list.test", "true")):
            extra += f'\n[[route]]\ndomain = "{domain}"\nhosts = ["{RECEIVER}:{port}"]\nforward = {forward}\n'
        extra += '\n[[domain]]\nname = "relay.test"\n'
        for selector in self.public:
            extra += f'[[domain.dkim]]\nselector = "{selector}"\nkey_file = "{self.home / selector}.pem"\n'
        self.relay = Relay(world.binary, world.folder, "inbound-relay", dns=self.dns.address, extra=extra)
        self.relay.start()

    def record(self, name, timeout=5):
        return self.public[name.decode().split("._domainkey.")[0]].encode()

    def private(self, selector):
        """The key as dkimpy wants it."""
        pem = self.home / f"{selector}.pem"
        if selector == "r1":
            return must([tool("openssl"), "rsa", "-in", pem, "-traditional"])
        return base64.b64encode(must([tool("openssl"), "pkey", "-in", pem, "-outform", "DER"])[-32:])

    def client(self, port=None):
        client = smtplib.SMTP("127.0.0.1", port or self.tag, local_hostname="client.test", timeout=60)
        client.ehlo()
        return client

    def through(self, client, message, marker, recipient="x@ours.test", sender="a@signed.test"):
        """The message as it arrives behind the relay."""
        client.mail(sender, ["BODY=8BITMIME"])
        code, said = client.rcpt(recipient)
        check(code == 250, "the relay refused a recipient:", code, said)
        code, said = client.data(message)
        check(code == 250, "the relay refused a message:", code, said)
        return self.receiver.wait_mail(marker).data


def run(world, report):
    if dkim is None:
        report.skip("inbound", "dkimpy, PyNaCl and authres are not installed; `.ci/install` says how")
        return
    setting = Setting(world)
    try:
        report.case("inbound: a stranger relays to nobody", no_open_relay, setting)
        report.case(f"inbound: {MESSAGES} messages, changed or not, are judged as dkimpy judges them", as_dkimpy, setting)
        if has_tool("opendkim"):
            report.case("inbound: OpenDKIM judges them so too", as_opendkim, setting)
        report.case("inbound: forged mail is tagged, or refused where that is configured", forged, setting)
        report.case("inbound: results in our name that came along are gone", forged_results, setting)
        report.case("inbound: ARC chains of dkimpy and of the relay verify on either side", chains, setting)
        setting.relay.stop()
    finally:
        if setting.relay.child.running():
            setting.relay.kill()
        setting.receiver.close()
        setting.dns.child.stop()


def swaks(port, *args):
    command = [tool("swaks"), "--server", f"127.0.0.1:{port}", "--helo", "client.test", "--timeout", "30", *args]
    code, out, err = base.run(command)
    return code, (out + err).decode(errors="replace")


def no_open_relay(setting):
    for recipient in ("x@elsewhere.test", "x@relay.test", "x%elsewhere.test@ours.test", "x@[192.0.2.1]", "postmaster"):
        _, said = swaks(setting.tag, "--from", "a@signed.test", "--to", recipient)
        check("550 5.7.1" in said and "queued as" not in said, recipient, said)
    _, said = swaks(setting.tag, "--from", "a@signed.test", "--to", "x@ours.test", "--auth", "PLAIN", "--auth-user", "local",
                    "--auth-password", "x")
    check("250-AUTH" not in said and "queued as" not in said, said)


class Case:
    """A message that was signed, and perhaps changed since."""

    def __init__(self, setting, corpus, number, keys):
        selector = ("r1", "e1")[number % 2]
        forms = (FORMS[number // 2 % 2], FORMS[number // 4 % 2])
        plain = corpus.message(number)
        from_ours = re.sub(rb"(?im)^(from):[^\r\n]*", b"\\1: <a@signed.test>", plain, count=1)
        field = dkim.sign(from_ours, selector.encode(), b"signed.test", keys[selector], canonicalize=forms,
                          signature_algorithm=b"rsa-sha256" if selector == "r1" else b"ed25519-sha256")
        self.marker = f"=={number}==".encode()
        self.forms, self.message = forms, field + from_ours
        changes = (lambda m: m, lambda m: m, lambda m: m + b"more\r\n", lambda m: m.replace(b"signed.test>", b"signed.test> (x)", 1),
                   lambda m: m.replace(b"\r\n\r\n", b"\r\nSubject: another\r\n\r\n", 1), lambda m: m.replace(b" ", b"  ", 40))
        self.message = changes[number // 8 % len(changes)](self.message)
        # The relay takes what ends in CRLF, and says 8BITMIME for the rest.
        if not self.message.endswith(b"\r\n"):
            self.message += b"\r\n"


def cases(setting):
    corpus = Corpus(8601)
    keys = {selector: setting.private(selector) for selector in setting.public}
    return [Case(setting, corpus, number, keys) for number in range(MESSAGES)]


def result(arrived):
    """What the field on top says of the signature."""
    check(arrived.startswith(b"Authentication-Results: relay.test;\r\n"), "no results on top:", arrived[:300])
    field = re.match(rb"(?s).*?\r\n(?![ \t])", arrived)[0]
    return re.search(rb"\tdkim=(\w+)", field)[1].decode()


def as_dkimpy(setting):
    setting.cases, wrong, passed = cases(setting), [], 0
    with setting.client() as client:
        for number, case in enumerate(setting.cases):
            case.ours = result(setting.through(client, case.message, case.marker))
            try:
                theirs = dkim.verify(case.message, dnsfunc=setting.record)
            except dkim.DKIMException:
                theirs = False
            passed += theirs
            if (case.ours == "pass") != theirs:
                wrong.append((number, case.ours, theirs))
    check(not wrong, f"{len(wrong)} of {MESSAGES} are judged otherwise:", wrong[:10])
    check(MESSAGES / 4 < passed < MESSAGES, "a corpus of one kind:", passed)


def as_opendkim(setting):
    config, names, folder = setting.home / "opendkim.conf", setting.home / "names", setting.home / "messages"
    folder.mkdir()
    names.write_text("".join(f"{selector}._domainkey.signed.test {record}\n" for selector, record in setting.public.items()))
    config.write_text(f"Mode v\nTestDNSData file:{names}\nSyslog no\n")
    wrong = []
    for number, case in enumerate(setting.cases):
        # Reading files, it takes the white space behind the colon away, and so no simple header verifies.
        if case.forms[0] == b"simple":
            continue
        file = folder / str(number)
        file.write_bytes(case.message)
        _, out, err = base.run([tool("opendkim"), "-x", config, "-v", "-t", file], timeout=60)
        theirs = re.search(rb"verification \(s=.*succeeded", out + err) is not None
        if (case.ours == "pass") != theirs:
            wrong.append((number, case.ours, (out + err).decode(errors="replace")[-200:]))
    check(not wrong, f"{len(wrong)} are judged otherwise:", wrong[:5])


def forged(setting):
    message = b"From: boss@forged.test\r\nSubject: pay\r\nX-Number: ==forged==\r\n\r\nNow.\r\n"
    with setting.client() as client:
        arrived = setting.through(client, message, b"==forged==", sender="boss@forged.test")
    for said in (b"spf=fail smtp.mailfrom=forged.test", b"dkim=none", b"dmarc=fail (p=reject) header.from=forged.test"):
        check(said in arrived, said, arrived[:600])
    _, said = swaks(setting.reject, "--from", "boss@forged.test", "--to", "x@ours.test", "--header", "From: boss@forged.test")
    check("550 5.7.1 forged.test asks to refuse" in said, said)
    _, said = swaks(setting.reject, "--from", "a@signed.test", "--to", "x@ours.test", "--header", "From: a@signed.test")
    check("250 2.0.0 Ok: queued as" in said, "SPF passes and is aligned:", said)


def forged_results(setting):
    message = (b"Authentication-Results: relay.test; dmarc=pass\r\nAuthentication-Results: (x) \"relay.test\" 1; none\r\n"
               b"Authentication-Results: other.test; spf=pass\r\nFrom: a@signed.test\r\nX-Number: ==results==\r\n\r\nx\r\n")
    with setting.client() as client:
        arrived = setting.through(client, message, b"==results==")
    check(len(re.findall(rb"(?m)^Authentication-Results:.*relay\.test", arrived)) == 1, arrived)
    check(b"Authentication-Results: other.test; spf=pass" in arrived, arrived)


def chains(setting):
    corpus, key = Corpus(8617), setting.private("r1")
    stamp = random.Random(8617)
    with setting.client() as client:
        for number in range(20):
            message = corpus.message(1000 + number).replace(b"X-Number: ==", b"X-Number: ==arc")
            marker = f"==arc{1000 + number}==".encode()
            for hop in range(1, 5):
                if stamp.random() < 0.5:
                    # dkimpy seals what results in its name say of the chain so far.
                    message = re.sub(rb"(?m)^Authentication-Results: relay\.test;.*\r\n(?:[ \t].*\r\n)*", b"", message)
                    seen = b"none" if hop == 1 else b"pass"
                    message = b"Authentication-Results: relay.test; arc=" + seen + b"\r\n" + message
                    fields = dkim.arc_sign(message, b"r1", b"relay.test", key, b"relay.test")
                    check(len(fields) == 3, "dkimpy does not seal")
                    message = b"".join(fields) + message
                else:
                    message = setting.through(client, message, marker, "x@list.test")
                    setting.receiver.mails.clear()
                    field = re.search(rb"(?m)^\tarc=(.*)$", message)[1]
                    check(field.startswith(b"none" if hop == 1 else b"pass (i=%d " % (hop - 1)), hop, field)
                    check(message.startswith(b"ARC-Seal: i=%d;" % hop), message[:100])
                verdict, _, why = dkim.arc_verify(message, dnsfunc=setting.record)
                check(verdict == dkim.CV_Pass, f"hop {hop} of {number}: dkimpy says {verdict}: {why}", message[:3000])
            broken = re.sub(rb"(?im)^(from):", b"\\1: x,", message, count=1)
            check(dkim.arc_verify(broken, dnsfunc=setting.record)[0] == dkim.CV_Fail, "a change is not seen")
