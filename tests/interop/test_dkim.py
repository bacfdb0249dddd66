"""DKIM-05: what the relay signs verifies with dkimpy and with OpenDKIM: RSA and Ed25519, on a thousand different messages."""

import base64
import random
import re
import smtplib

from harness import base, dns
from harness.base import check, has_tool, must, tool, wait_for
from harness.relay import Relay, queued_id

try:
    import dkim
    import nacl  # dkimpy needs it for Ed25519  # noqa: F401
except ImportError:
    dkim = None

MESSAGES = 1000
DOMAIN = "signed.test"
KEYS = ("r1", "e1")


class Corpus:
    """Messages that are hard to sign: every kind of header and body, drawn by one seed."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def word(self, eight_bit=True):
        letters = "abcdefghijklmnopqrstuvwxyzABCDEFXYZ0123456789.,;:=-_/()<>\"'"
        if eight_bit and self.random.random() < 0.1:
            letters = "äöüßéñ✓日本語"
        return "".join(self.random.choice(letters) for _ in range(self.random.randrange(1, 12)))

    def blanks(self):
        return self.random.choice([" ", " ", " ", "  ", "\t", " \t ", "    "])

    def line(self):
        kind = self.random.random()
        if kind < 0.15:
            return ""
        if kind < 0.2:
            return self.random.choice([" ", "\t", "  \t  "])
        if kind < 0.3:
            return self.random.choice([".", "..", "...", ".word", ". x"])
        if kind < 0.35:
            return "x" * self.random.randrange(900, 998)
        text = self.blanks().join(self.word() for _ in range(self.random.randrange(1, 12)))
        return self.random.choice(["", "", " ", "\t"]) + text + self.random.choice(["", "", " ", " \t", "  "])

    def body(self, number):
        if number % 50 == 0:
            return b""
        if number % 50 == 1:
            return b"\r\n" * self.random.randrange(1, 6)
        count = 9000 if number % 125 == 2 else self.random.randrange(1, 30)
        lines = [self.line() for _ in range(count)]
        lines += [self.random.choice(["", " "])] * self.random.choice([0, 0, 1, 5])
        return "".join(line + "\r\n" for line in lines).encode()

    def folded(self, words):
        # smtp-sink does not offer SMTPUTF8.
        text = self.word(eight_bit=False)
        for _ in range(words):
            text += self.random.choice([" ", "  ", "\t", "\r\n ", "\r\n\t", " \r\n  "]) + self.word(eight_bit=False)
        return text

    def header(self, number):
        case = self.random.choice([str, str, str.upper, str.lower])
        fields = [
            f"{case('From')}:{self.random.choice(['', ' ', '  '])}Some One <a{number}@{self.random.choice(['', 'sub.'])}{DOMAIN}>",
            f"{case('To')}: b@sink.test,\r\n\tc{number}@sink.test",
            f"X-Number: =={number}==",
        ]
        maybe = [
            f"{case('Subject')}: {self.folded(self.random.randrange(0, 12))}",
            "Cc:\r\n d@sink.test",
            f"Reply-To: <r@{DOMAIN}>",
            f"Message-ID: <{number}@{DOMAIN}>",
            "Date: Mon, 02 Jun 2025 10:00:00 +0000",
            "MIME-Version: 1.0",
            "Content-Type: text/plain;\r\n  charset=utf-8",
            f"List-Unsubscribe: <https://{DOMAIN}/u/{number}>",
            "List-Unsubscribe-Post: List-Unsubscribe=One-Click",
            f"References: <x@y>\r\n\t<{number}@z>",
            f"X-Folded: {self.folded(6)}",
            "Received: from nowhere\r\n\tby nobody; Mon, 02 Jun 2025 10:00:00 +0000",
            "Comments:",
        ]
        fields += [one for one in maybe if self.random.random() < 0.7]
        self.random.shuffle(fields)
        return "".join(field + "\r\n" for field in fields).encode() + b"\r\n"

    def message(self, number):
        return self.header(number) + self.body(number)


class Setting:
    """A relay that signs for `signed.test` and for itself."""

    def __init__(self, world):
        self.sink = world.sink
        self.home = world.folder.make("dkim")
        self.public = {selector: make_key(self.home, selector) for selector in KEYS}
        extra = ""
        for domain in (DOMAIN, "relay.test"):
            extra += f'\n[[domain]]\nname = "{domain}"\n'
            for selector in KEYS:
                extra += f'[[domain.dkim]]\nselector = "{selector}"\nkey_file = "{self.home / selector}.pem"\n'
        self.relay = Relay(world.binary, world.folder, "dkim-relay", world.port, world.dns.address, extra=extra)
        self.relay.start()

    def client(self):
        client = smtplib.SMTP("127.0.0.1", self.relay.plain_port, local_hostname="client.test", timeout=120)
        client.ehlo()
        return client

    def record(self, name):
        """What the DNS would say: the keys are those of every domain here."""
        selector = name.decode().split("._domainkey.")[0]
        return self.public[selector].encode()

    def verified(self, message):
        """How many of the two signatures dkimpy verifies."""
        good = 0
        for index in range(len(KEYS)):
            try:
                good += bool(dkim.DKIM(message).verify(idx=index, dnsfunc=lambda name, timeout=5: self.record(name)))
            except dkim.DKIMException:
                pass
        return good


def run(world, report):
    if dkim is None:
        report.skip("dkim", "dkimpy and PyNaCl are not installed; `.ci/install` says how")
        return
    setting = Setting(world)
    arrived = {}
    try:
        if report.case(f"dkim: {MESSAGES} messages arrive", all_arrive, setting, arrived):
            report.case("dkim: each carries two signatures that dkimpy verifies", by_dkimpy, setting, arrived)
            if has_tool("opendkim"):
                report.case("dkim: OpenDKIM verifies each of them", by_opendkim, setting, arrived)
            else:
                report.skip("dkim: OpenDKIM", "it is not installed")
            report.case("dkim: what is changed or added does not verify", changes_are_seen, setting, arrived)
        report.case("dkim: another domain is not signed for, and an event says why", not_ours, setting)
        report.case("dkim: a report of the relay's own is signed", own_report, setting)
        report.case("dkim: a reload brings other keys", other_keys, setting)
        report.case("dkim: domain add, its records in a DNS, domain check, domain rotate", from_nothing, world)
        setting.relay.stop()
    finally:
        if setting.relay.child.running():
            setting.relay.kill()


def make_key(home, selector):
    """A key by OpenSSL; returns the record that publishes it."""
    options = ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"] if selector == "r1" else ["-algorithm", "ed25519"]
    file = home / f"{selector}.pem"
    must([tool("openssl"), "genpkey", *options, "-out", file])
    file.chmod(0o600)
    der = must([tool("openssl"), "pkey", "-in", file, "-pubout", "-outform", "DER"])
    kind, public = ("rsa", der) if selector == "r1" else ("ed25519", der[-32:])
    return f"v=DKIM1; k={kind}; p={base64.b64encode(public).decode()}"


def send(client, sender, recipient, message):
    client.mail(sender, ["BODY=8BITMIME"])
    code, said = client.rcpt(recipient)
    check(code == 250, "the relay refused a recipient:", code, said)
    code, said = client.data(message)
    check(code == 250, "the relay refused a message:", code, said)
    return queued_id(said)


def as_sent(dump):
    """A message from smtp-sink's file: without the sink's own lines before it and the empty one behind it, with CRLF."""
    dump = dump.removesuffix(b"\n")
    start = re.search(rb"(?m)^(DKIM-Signature:|Received: from client\.test)", dump)
    check(start, "no first line:", dump[:300])
    return dump[start.start():].replace(b"\n", b"\r\n")


def all_arrive(setting, arrived):
    corpus = Corpus(6376)
    with setting.client() as client:
        for number in range(MESSAGES):
            send(client, f"a{number}@{DOMAIN}", "x@sink.test", corpus.message(number))
    files = {}

    def collect():
        for path in setting.sink.home.iterdir():
            size = path.stat().st_size
            if files.get(path) != size:
                files[path] = size
                dump = path.read_bytes()
                number = re.search(rb"(?m)^X-Number: ==(\d+)==$", dump)
                if number:
                    arrived[int(number[1])] = as_sent(dump)
        return len(arrived) == MESSAGES

    wait_for(f"{MESSAGES} messages arrive", collect, 60, 0.5)
    # The sink may have been writing the last of them.
    wait_for("the sink is done", lambda: not collect() or True, 5)


def by_dkimpy(setting, arrived):
    bad = [number for number, message in sorted(arrived.items()) if setting.verified(message) != len(KEYS)]
    check(not bad, f"{len(bad)} of {len(arrived)} do not verify:", bad[:20])


def by_opendkim(setting, arrived):
    config, names, folder = setting.home / "opendkim.conf", setting.home / "names", setting.home / "messages"
    folder.mkdir()
    names.write_text("".join(f"{selector}._domainkey.{DOMAIN} {record}\n" for selector, record in setting.public.items()))
    config.write_text(f"Mode v\nTestDNSData file:{names}\nSyslog no\n")
    for selector in KEYS:
        # OpenDKIM is content with one good signature: it gets them one by one.
        files = []
        for number, message in sorted(arrived.items()):
            files.append(folder / f"{selector}-{number}")
            files[-1].write_bytes(with_one(message, selector))
        for at in range(0, len(files), 50):
            batch = files[at:at + 50]
            code, out, err = base.run([tool("opendkim"), "-x", config, "-v", "-t", ",".join(map(str, batch))], timeout=300)
            said = (out + err).decode(errors="replace")
            good = len(re.findall(r"verification \(s=.*succeeded", said))
            check(code == 0 and good == len(batch), f"{good} of {len(batch)} verify; it ended with {code}:", said[-1500:])


def signatures(message):
    """The DKIM-Signature fields at the start of a message, and the rest."""
    fields = []
    while message.startswith(b"DKIM-Signature:"):
        field = re.match(rb"(?s).*?\r\n(?![ \t])", message)[0]
        fields.append(field)
        message = message[len(field):]
    return fields, message


def with_one(message, selector):
    """The message with the signature of one selector only."""
    fields, rest = signatures(message)
    kept = [field for field in fields if b"s=%s;" % selector.encode() in field]
    check(len(fields) == len(KEYS) and len(kept) == 1, "not one signature of", selector)
    return kept[0] + rest


def changes_are_seen(setting, arrived):
    message = next(message for number, message in sorted(arrived.items()) if number % 50 == 7)
    check(setting.verified(message) == len(KEYS), "the message itself")
    head, body = message.split(b"\r\n\r\n", 1)
    for what, changed in (
        ("a second From above", signatures(message)[0][0] + b"From: x@evil.test\r\n" + message),
        *((f"a {field} more", head + b"\r\n" + field.encode() + b": other\r\n\r\n" + body)
          for field in ("From", "Subject", "Reply-To", "To", "Cc", "Date", "Message-ID", "List-Unsubscribe", "Content-Type")),
        ("more body", message + b"more\r\n"),
        ("less body", head + b"\r\n\r\n" + body[:len(body) // 2].rstrip() + b"\r\n"),
    ):
        check(setting.verified(changed) == 0, what, "does not break the signatures")


def not_ours(setting):
    marker = b"X-Number: ==other=="
    with setting.client() as client:
        message = b"From: a@other.test\r\nSender: a@" + DOMAIN.encode() + b"\r\n" + marker + b"\r\n\r\nx\r\n"
        message_id = send(client, f"a@{DOMAIN}", "x@sink.test", message)
    found = wait_for("it arrives", lambda: setting.sink.find(marker), 60)
    check(b"DKIM-Signature" not in found, "it was signed")
    accepted = setting.relay.trace(message_id)[0]
    check(accepted.get("dkim", "").startswith("unsigned: ") and "other.test" in accepted["dkim"], accepted)


def own_report(setting):
    with setting.client() as client:
        message = b"From: a@sink.test\r\nSubject: to nobody\r\n\r\nx\r\n"
        send(client, "dkim-report@sink.test", "x@no-such-domain.test", message)
    found = wait_for("the report arrives", lambda: setting.sink.find(b"To: <dkim-report@sink.test>"), 60)
    check(setting.verified(as_sent(found + b"\n")) == len(KEYS), "the report does not verify:", found[:2000])


def other_keys(setting):
    old = dict(setting.public)
    for selector in KEYS:
        setting.public[selector] = make_key(setting.home, selector)
    said = setting.relay.ask("reload")
    check(f"domain {DOMAIN}: changed" in str(said), "the reload does not tell of it:", said)
    marker = b"X-Number: ==reloaded=="
    with setting.client() as client:
        send(client, f"a@{DOMAIN}", "x@sink.test", b"From: a@" + DOMAIN.encode() + b"\r\n" + marker + b"\r\n\r\nx\r\n")
    found = as_sent(wait_for("it arrives", lambda: setting.sink.find(marker), 60) + b"\n")
    check(setting.verified(found) == len(KEYS), "not signed with the new keys")
    setting.public = old
    check(setting.verified(found) == 0, "signed with the old keys")


def from_nothing(world):
    """The printed records alone make a zone in which all is right."""
    base_zone = ["relay A 127.0.0.1"]
    reverse = ["1.0.0 PTR relay.test."]
    relay = Relay(world.binary, world.folder, "domain-relay")

    def ask(command, *zones):
        """The code and the output of a `domain` command, with these lines in the DNS."""
        server = dns.Nsd(world.folder, [*base_zone, *(line for zone in zones for line in zone.splitlines())],
                         f"nsd-domain-{random.randrange(1 << 30)}", reverse)
        relay.sections["dns"] = {"servers": [server.address]}
        relay.write_config()
        try:
            code, out, err = relay.command("domain", command, "new.test")
        finally:
            server.child.stop()
        return code, out + err

    def zone_in(text):
        return text.split("\n\n")[0]

    relay.write_config()
    code, out, err = relay.command("domain", "add", "new.test")
    check(code == 0, out, err)
    zone = zone_in(out)
    code, said = ask("check", "")
    check(code == 1 and said.count("MISSING") == 6, "an empty DNS:", code, said)
    code, said = ask("check", zone)
    check(code == 0 and not re.search("MISSING|WRONG|UNKNOWN", said), "the printed records:", code, said)
    check(len(re.findall(r"(?m)^right ", said)) == 9, said)
    for old, new, wrong in (
        ("k=ed25519; p=", "k=ed25519; p=AAAA", "another key"),
        ("k=ed25519", "k=rsa", "another kind"),
        ("v=spf1 a:relay.test ~all", "v=spf1 ip4:192.0.2.0/24 -all", "is not covered"),
        ("v=spf1 a:relay.test ~all", "v=spf1 include:new.test -all", "lookups"),
        ("p=none", "p=maybe", "p= must be"),
    ):
        check(old in zone, old)
        code, said = ask("check", zone.replace(old, new))
        check(code == 1 and wrong in said, f"{new}:", code, said)
    code, said = ask("check", zone.replace("v=spf1 a:relay.test ~all", "v=spf1 include:other.test -all"),
                     'other TXT "v=spf1 ip4:10.0.0.0/8 redirect=third.test"\nthird TXT "v=spf1 a:relay.test -all"')
    check(code == 0, "include and redirect:", said)

    code, said = ask("rotate", "")
    check(code == 1 and "nothing was changed" in said, said)
    code, said = ask("rotate", zone)
    check(code == 0 and "the new keys sign" in said, said)
    code, said = ask("rotate", zone)
    check(code == 0 and "do not sign yet" in said, said)
    more = zone_in(said)
    code, said = ask("rotate", zone)
    check(code == 1 and "nothing was changed" in said and said.count("MISSING") == 2, said)
    listed = relay.ask("domain", "list")[0]["keys"]
    check([key["state"] for key in listed] == ["signing"] * 2 + ["pending"] * 2, listed)
    code, said = ask("rotate", zone, more)
    check(code == 0, said)
    listed = relay.ask("domain", "list")[0]["keys"]
    check([key["state"] for key in listed] == ["retired"] * 2 + ["signing"] * 2, listed)
    code, said = ask("check", zone, more)
    check(code == 0, said)
