"""TLS-RPT: what deliveries met is reported, by mail and by HTTPS, to Postfix and to a server that we did not write."""

import datetime
import email.policy
import gzip
import ipaddress
import json
import os
import re
import smtplib
import ssl

from harness import base, signed, web
from harness.base import Folder, check, free_port, has_tool, tool, wait_for
from harness.peers import PostfixMaildir
from harness.receiver import Receiver
from harness.relay import Relay, queued_id
from test_dkim import KEYS, make_key

try:
    import dkim
    import nacl  # dkimpy needs it for Ed25519  # noqa: F401
except ImportError:
    dkim = None

COLLECT, POSTFIX, GOOD, BAD, CLEAR, DANE, PLAIN = (f"127.0.0.{n}" for n in range(21, 28))
DAY = 86400
# RFC 8460 §4.3.
RESULTS = {
    "starttls-not-supported", "certificate-host-mismatch", "certificate-expired", "certificate-not-trusted",
    "validation-failure", "tlsa-invalid", "dnssec-invalid", "dane-required", "sts-policy-fetch-error",
    "sts-policy-invalid", "sts-webpki-invalid",
}


class Case:
    """A domain in `signed.`: where its exchanger is, its MTA-STS policy, who gets its reports, and what is in them.

    `result` is that of the failed sessions, none for good ones; `own` has the report go to the domain itself, whose
    TLS is what is reported about.
    """

    def __init__(self, name, host, mode=None, mx=None, ruas=(), own=False, kind="no-policy-found", result=None, tlsa=None):
        self.name, self.host, self.mode, self.mx = name, host, mode, mx or f"mx.{name}.signed"
        self.ruas = (f"mailto:tls@{name}.signed",) if own else ruas
        self.own, self.kind, self.result, self.tlsa = own, kind, result, tlsa

    @property
    def domain(self):
        return f"{self.name}.signed"

    def zone(self, port, web_port):
        lines = [f"{self.name} MX 10 mx.{self.name}", f"mx.{self.name} A {self.host}"]
        if self.mode:
            lines += [f'_mta-sts.{self.name} TXT "v=STSv1; id=1"', f"mta-sts.{self.name} A {COLLECT}"]
        if self.ruas:
            ruas = ",".join(self.ruas).replace("PORT", str(web_port))
            lines.append(f'_smtp._tls.{self.name} TXT "v=TLSRPTv1; rua={ruas}"')
        if self.tlsa:
            lines.append(f"_{port}._tcp.mx.{self.name} TLSA {self.tlsa}")
        return lines

    def policy(self):
        return f"version: STSv1\r\nmode: {self.mode}\r\nmx: {self.mx}\r\nmax_age: 86400\r\n"


def collect(path):
    return f"https://collect.signed:PORT{path}"


def cases(good, other):
    """`good` is the TLSA record of the host DANE, `other` of another one."""
    return [
        Case("good", GOOD, "enforce", kind="sts", ruas=("mailto:tls@reports.signed", collect("/one"), collect("/two?x=y"))),
        Case("bad", BAD, "enforce", kind="sts", result="certificate-host-mismatch", own=True),
        Case("testing", BAD, "testing", kind="sts", result="certificate-host-mismatch", ruas=(collect("/testing"),)),
        Case("clear", CLEAR, "enforce", kind="sts", result="starttls-not-supported", ruas=(collect("/clear"),)),
        Case("stray", PLAIN, "enforce", mx="mx.elsewhere.signed", kind="sts", result="validation-failure", own=True),
        Case("dane", DANE, kind="tlsa", result="validation-failure", own=True, tlsa=other),
        Case("both", DANE, "enforce", mx="mx.elsewhere.signed", kind="tlsa", ruas=(collect("/both"),), tlsa=good),
        Case("flaky", PLAIN, ruas=(collect("/flaky"),)),
        Case("broken", PLAIN, ruas=(collect("/broken"),)),
        Case("quiet", PLAIN),
    ]


class Web:
    """Serves the policies, and takes reports: `flaky` at its second try, `broken` never."""

    def __init__(self, authority, port, found):
        policies = {f"mta-sts.{case.domain}": case.policy() for case in found if case.mode}
        names = [*policies, "collect.signed"]
        self.posts = []

        class Handler(web.Handler):
            def do_GET(handler):
                handler.reply(200, policies[handler.headers["Host"].split(":")[0]].encode())

            def do_POST(handler):
                body = handler.rfile.read(int(handler.headers["Content-Length"]))
                tried = sum(path == handler.path for path, _, _ in self.posts)
                headers = {name.lower(): value for name, value in handler.headers.items()}
                self.posts.append((handler.path, headers, body))
                status = {"/flaky": 503 if tried == 0 else 201, "/broken": 500}.get(handler.path, 200)
                handler.reply(status)

        context = authority.server_context("reports-web", [f"DNS:{name}" for name in names])
        self.server = web.serve(COLLECT, port, context, Handler)

    def at(self, path):
        return [(headers, body) for where, headers, body in list(self.posts) if where == path]


class Setting:
    def __init__(self, world):
        folder = Folder("reports-", under=world.folder.path)
        self.home = folder.make("files")
        self.port, web_port = free_port([POSTFIX, GOOD, BAD, CLEAR, DANE, PLAIN]), free_port([COLLECT])
        authority = world.authority

        def shows(name, names):
            pair = authority.issue(f"reports-{name}", [f"DNS:{name}" for name in names])
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*pair)
            return pair, context

        (other, _), bad = shows("bad", ["mx.other.signed"])
        (dane, _), dane_context = shows("dane", ["mx.dane.signed"])
        self.cases = cases(signed.tlsa(dane, 3, 1, 1), signed.tlsa(other, 3, 1, 1))
        lines = [line for case in self.cases for line in case.zone(self.port, web_port)]
        lines += [f"collect A {COLLECT}", "reports MX 10 mx.reports", f"mx.reports A {POSTFIX}"]
        self.dns = signed.Signed(folder, lines, [])
        self.web = Web(authority, web_port, self.cases)
        certificate, _ = shows("postfix", ["mx.reports.signed"])
        self.postfix = PostfixMaildir(folder, POSTFIX, self.port, ["reports.signed"], certificate)
        self.hosts = {
            GOOD: Receiver(GOOD, self.port, tls=shows("good", ["mx.good.signed"])[1]),
            BAD: Receiver(BAD, self.port, tls=bad),
            CLEAR: Receiver(CLEAR, self.port),
            DANE: Receiver(DANE, self.port, tls=dane_context),
            PLAIN: Receiver(PLAIN, self.port, tls=shows("plain", ["mx.stray.signed"])[1]),
        }
        self.public = {selector: make_key(self.home, selector) for selector in KEYS}
        extra = '\n[[domain]]\nname = "relay.test"\n' + "".join(
            f'[[domain.dkim]]\nselector = "{selector}"\nkey_file = "{self.home / selector}.pem"\n' for selector in KEYS)
        self.relay = Relay(world.binary, world.folder, "reports-relay", self.port, self.dns.address, extra=extra, config={
            "dns": {"trust_ad": True},
            "delivery": {"ca_file": str(authority.file), "retry": "1h", "expire": "2h"},
            "mta_sts": {"port": web_port, "allow_private": True},
            "tls_rpt": {"allow_private": True, "organization": "Interop & Sons", "timeout": "10s"},
        })
        self.relay.start()
        self.mails = {}

    def send(self, found):
        """A message to each domain, tried once, one after the other."""
        for case in found:
            with smtplib.SMTP("127.0.0.1", self.relay.plain_port, local_hostname="client.test", timeout=60) as client:
                client.ehlo()
                client.mail("a@sender.test")
                client.rcpt(f"b@{case.domain}")
                code, said = client.data(f"From: a@sender.test\r\nSubject: {case.name}\r\n\r\nx\r\n".encode())
                check(code == 250, case.name, code, said)
            message_id = queued_id(said)
            wait_for(f"{case.name} is tried", lambda: any(
                event["event"] in ("delivered", "deferred") for event in self.relay.trace(message_id)), 30, 0.2)

    def counted(self, *options):
        """What is counted and not told, by domain."""
        return {entry["domain"]: entry for entry in self.relay.ask("report", "show", *options)}

    def sent(self, *options):
        return self.relay.ask("report", "send", *options)["reports"]

    def mail_about(self, case):
        """The mail with the report about a domain, as it arrived, with CRLF."""
        marker = f"TLS-Report-Domain: {case.domain}".encode()
        if case.own:
            return self.hosts[case.host].wait_mail(marker, 30).data
        found = wait_for(f"a report about {case.domain}", lambda: self.postfix.find(marker), 30)
        return found.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def run(world, report):
    missing = [name for name in signed.TOOLS if not has_tool(name)]
    if missing or os.geteuid() != 0 or dkim is None:
        report.skip("reports", f"not installed: {' '.join(missing)}" if missing else "it needs root, dkimpy and PyNaCl")
        return
    setting = Setting(world)
    try:
        report.case("reports: sessions are counted", are_counted, setting)
        report.case("reports: counts survive a restart and a kill", survive, setting)
        report.case("reports: an operator sends them, and each address gets its own", are_sent, setting)
        report.case("reports: the mail is as RFC 8460 has it", mails_are_right, setting)
        report.case("reports: dkimpy and OpenDKIM verify it", are_signed, setting)
        report.case("reports: posts are as RFC 8460 has them", posts_are_right, setting)
        report.case("reports: each tells what was met", tell_what_was_met, setting)
        report.case("reports: `report FILE` reads them", read_back, setting)
        report.case("reports: a host that fails is tried again, and not for ever", tried_again, setting)
        report.case("reports: they are not reported about", not_about_themselves, setting)
        report.case("reports: a day that is over is told whole", a_day_that_is_over, setting)
        setting.relay.stop()
    finally:
        if setting.relay.child.running():
            setting.relay.kill()


def are_counted(setting):
    good = setting.cases[0]
    setting.send([*setting.cases, good])
    counted = setting.counted()
    check(set(counted) == {case.domain for case in setting.cases}, counted)
    for case in setting.cases:
        entry = counted[case.domain]
        check(bool(entry["failures"]) == bool(case.result), entry)
        check(entry["state"] == "counting" and entry["tries"] == 0 and not entry["sent"], entry)
    # A connection may have served both messages: the host knows.
    check(counted[good.domain]["successes"] == setting.hosts[GOOD].connections, counted[good.domain])
    check("report" not in counted[good.domain], "the whole report is shown where one domain is asked for")
    whole = setting.counted("--domain", good.domain)[good.domain]["report"]
    check(whole["policies"][0]["policy"]["policy-domain"] == good.domain, whole)


def survive(setting):
    before = setting.counted()
    setting.relay.stop()
    setting.relay.start()
    check(setting.counted() == before, "after SIGTERM:", setting.counted())
    setting.relay.kill()
    setting.relay.start()
    check(setting.counted() == before, "after SIGKILL:", setting.counted())
    setting.send(setting.cases[:1])
    check(setting.counted()["good.signed"]["successes"] == setting.hosts[GOOD].connections, setting.counted())


def are_sent(setting):
    yesterday = (datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)).strftime("%Y-%m-%d")
    check(setting.sent("--day", yesterday) == 0, "nothing is of yesterday")
    check(setting.sent("--domain", "nobody.signed") == 0, "nothing is of nobody")
    code, _, err = setting.relay.command("report", "send", "--day", "tomorrow")
    check(code == 2 and "2026-11-24" in err, "a day that is none:", code, err)
    check(setting.sent() == len(setting.cases), "not all are sent")
    left = wait_for("all but two are done", lambda: (left := setting.counted()).keys() == {"flaky.signed", "broken.signed"} and all(
        entry["state"] == "due" for entry in left.values()) and left, 60, 0.3)
    check("status 503" in left["flaky.signed"]["last"] and "status 500" in left["broken.signed"]["last"], left)
    for case in setting.cases:
        if any(rua.startswith("mailto:") for rua in case.ruas):
            setting.mails[case.domain] = setting.mail_about(case)
    check(sorted(path for path, _, _ in setting.web.posts) == ["/both", "/broken", "/clear", "/flaky", "/one", "/testing", "/two?x=y"],
          [path for path, _, _ in setting.web.posts])


def part_of(message):
    """The attached report: its name and its JSON."""
    parts = [part for part in message.walk() if part.get_content_type() == "application/tlsrpt+gzip"]
    check(len(parts) == 1, "parts:", [part.get_content_type() for part in message.walk()])
    return parts[0].get_filename(), gzip.decompress(parts[0].get_payload(decode=True))


def mails_are_right(setting):
    for domain, octets in setting.mails.items():
        message = email.message_from_bytes(octets, policy=email.policy.SMTP)
        check(not message.defects, message.defects)
        check(message.get_content_type() == "multipart/report", message["Content-Type"])
        check(message.get_param("report-type") == "tlsrpt", message["Content-Type"])
        for name in ("TLS-Report-Domain", "TLS-Report-Submitter", "From", "To", "Date", "Message-ID", "Subject"):
            check(len(message.get_all(name, [])) == 1, name, "in", domain)
        check(message["TLS-Report-Domain"] == domain, message["TLS-Report-Domain"])
        name, text = part_of(message)
        told = json.loads(text)
        submitter = message["TLS-Report-Submitter"]
        check(submitter == told["contact-info"].rpartition("@")[2], "RFC 8460 §5.3:", submitter, told["contact-info"])
        subject = re.fullmatch(r"Report Domain: (\S+)\s+Submitter: (\S+)\s+Report-ID: <(\S+)@(\S+)>", message["Subject"])
        check(subject and subject[1] == domain and subject[2] == submitter, message["Subject"])
        check(f"{subject[3]}@{subject[4]}" == told["report-id"], message["Subject"], told["report-id"])
        # RFC 8460 §5.1.
        named = re.fullmatch(r"([^!]+)!([^!]+)!(\d+)!(\d+)(?:![A-Za-z0-9]+)?\.json\.gz", name)
        check(named and named[1] == submitter and named[2] == domain, name)
        start, end = (seconds(told["date-range"][f"{which}-datetime"]) for which in ("start", "end"))
        check((int(named[3]), int(named[4])) == (start, end), name, told["date-range"])
        texts = [part.get_content_type() for part in message.iter_parts()]
        check(texts == ["text/plain", "application/tlsrpt+gzip"], texts)
        check(octets.count(b"TLS-Required: No\r\n") == 1, "RFC 8689 §3")
    postfix = setting.mails["good.signed"]
    check(b"Return-Path: <>" in postfix or b"Return-Path: <MAILER-DAEMON>" in postfix, postfix[:400])


def are_signed(setting):
    config, names = setting.home / "opendkim.conf", setting.home / "names"
    names.write_text("".join(f"{selector}._domainkey.relay.test {record}\n" for selector, record in setting.public.items()))
    config.write_text(f"Mode v\nTestDNSData file:{names}\nSyslog no\n")

    def record(name, timeout=5):
        return setting.public[name.decode().split("._domainkey.")[0]].encode()

    for domain, octets in setting.mails.items():
        fields = re.findall(rb"(?s)DKIM-Signature:.*?\r\n(?![ \t])", octets)
        check(len(fields) == len(KEYS), domain, "has", len(fields), "signatures")
        for index, field in enumerate(fields):
            check(dkim.DKIM(octets).verify(idx=index, dnsfunc=record), domain, field)
            tags = re.sub(rb"\s", b"", field)
            check(b"d=relay.test;" in tags and b";l=" not in tags, field)
            covered = re.search(rb"[:;]h=([^;]*)", tags)[1].lower().split(b":")
            check({b"tls-report-domain", b"tls-report-submitter", b"from", b"subject"} <= set(covered), covered)
        changed = octets.replace(b"TLS-Report-Domain: ", b"TLS-Report-Domain: x", 1)
        for index in range(len(KEYS)):
            try:
                good = dkim.DKIM(changed).verify(idx=index, dnsfunc=record)
            except dkim.DKIMException:
                good = False
            check(not good, "the domain can be changed")
        file = setting.home / f"{domain}.eml"
        file.write_bytes(octets)
        code, out, err = base.run([tool("opendkim"), "-x", config, "-v", "-t", file])
        said = (out + err).decode(errors="replace")
        check(code == 0 and "succeeded" in said, domain, code, said)


def posts_are_right(setting):
    for path, headers, body in setting.web.posts:
        check(headers["content-type"] == "application/tlsrpt+gzip", path, headers)
        check(headers["host"].startswith("collect.signed"), headers)
        check(body[:2] == b"\x1f\x8b", path, body[:20])
    one, two = (setting.web.at(path)[0][1] for path in ("/one", "/two?x=y"))
    _, mailed = part_of(email.message_from_bytes(setting.mails["good.signed"], policy=email.policy.SMTP))
    check(gzip.decompress(one) == gzip.decompress(two) == mailed, "the same report to all")


def seconds(text):
    """RFC 3339 §5.6, in UTC."""
    check(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", text), text)
    return int(datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%S%z").timestamp())


def only(value, required, optional=()):
    check(isinstance(value, dict), value)
    check(set(required) <= set(value) <= set(required) | set(optional), sorted(value), "where it may have", required, optional)


def read(text, domain):
    """RFC 8460 §4.4, field by field; returns what it tells of the domain."""
    told = json.loads(text)
    only(told, ("organization-name", "date-range", "contact-info", "report-id", "policies"))
    only(told["date-range"], ("start-datetime", "end-datetime"))
    start, end = (seconds(told["date-range"][f"{which}-datetime"]) for which in ("start", "end"))
    check(start < end and start // DAY == end // DAY, told["date-range"])
    check(told["organization-name"] == "Interop & Sons", told)
    check(re.fullmatch(r"[^@\s<>]+@[^@\s<>]+", told["contact-info"]), told["contact-info"])
    check(isinstance(told["policies"], list) and told["policies"], told)
    for policy in told["policies"]:
        only(policy, ("policy", "summary"), ("failure-details",))
        only(policy["policy"], ("policy-type", "policy-domain"), ("policy-string", "mx-host"))
        check(policy["policy"]["policy-type"] in ("tlsa", "sts", "no-policy-found"), policy)
        check(policy["policy"]["policy-domain"] == domain, policy)
        for name in ("policy-string", "mx-host"):
            lines = policy["policy"].get(name, [])
            check(isinstance(lines, list) and all(isinstance(line, str) for line in lines), policy)
        only(policy["summary"], ("total-successful-session-count", "total-failure-session-count"))
        counts = list(policy["summary"].values())
        failed = 0
        for detail in policy.get("failure-details", []):
            only(detail, ("result-type", "failed-session-count"), (
                "sending-mta-ip", "receiving-mx-hostname", "receiving-mx-helo", "receiving-ip", "additional-information",
                "failure-reason-code"))
            check(detail["result-type"] in RESULTS, detail)
            for name in ("sending-mta-ip", "receiving-ip"):
                if name in detail:
                    ipaddress.ip_address(detail[name])
            counts.append(detail["failed-session-count"])
            failed += detail["failed-session-count"]
        check(all(type(count) is int and count >= 0 for count in counts), counts)
        check(failed == policy["summary"]["total-failure-session-count"], policy)
    return told["policies"]


def report_about(setting, case):
    if case.domain in setting.mails:
        return part_of(email.message_from_bytes(setting.mails[case.domain], policy=email.policy.SMTP))[1]
    return gzip.decompress(setting.web.at(f"/{case.name}")[0][1])


def tell_what_was_met(setting):
    for case in setting.cases:
        if not case.ruas:
            continue
        policies = read(report_about(setting, case), case.domain)
        kinds = [policy["policy"]["policy-type"] for policy in policies]
        check(kinds == [case.kind], case.name, kinds)
        policy = policies[0]
        good, failed = (policy["summary"][f"total-{which}-session-count"] for which in ("successful", "failure"))
        if not case.result:
            check((good, failed) == (setting.hosts[GOOD].connections if case.name == "good" else 1, 0), case.name, policy)
            continue
        check(good == 0 and failed == 1, case.name, policy)
        detail = policy["failure-details"][0]
        check(detail["result-type"] == case.result, case.name, detail)
        check(detail["receiving-mx-hostname"] == f"mx.{case.domain}", detail)
        check(detail.get("failure-reason-code"), detail)
        if case.name != "stray":
            check(detail["receiving-ip"] == case.host and detail["sending-mta-ip"].startswith("127."), detail)
        if case.kind == "sts":
            check(policy["policy"]["mx-host"] == [case.mx], policy)
            check(policy["policy"]["policy-string"] == case.policy().splitlines(), policy)
        if case.tlsa:
            check([line.lower() for line in policy["policy"]["policy-string"]] == [case.tlsa], policy)


def read_back(setting):
    for case in setting.cases:
        if case.domain not in setting.mails:
            continue
        text = report_about(setting, case)
        file = setting.home / f"{case.domain}.eml"
        for form, octets in (("eml", setting.mails[case.domain]), ("json.gz", gzip.compress(text)), ("json", text)):
            file = setting.home / f"read.{form}"
            file.write_bytes(octets)
            code, out, err = base.run([setting.relay.binary, "report", file, "--json"])
            check(code == 0, form, err)
            shown, = json.loads(out)
            told = json.loads(text)
            check(shown["type"] == "tls" and shown["report-id"] == told["report-id"], shown)
            check(shown["policies"][0]["summary"] == told["policies"][0]["summary"], shown)
        code, out, err = base.run([setting.relay.binary, "report", file])
        check(code == 0 and told["report-id"].encode() in out and case.kind.encode() in out, out, err)


def tried_again(setting):
    """The hours between tries are an operator's `report send` here; the bound is the same."""
    check(setting.sent("--domain", "flaky.signed") == 1, "it waits")
    wait_for("the second try is taken", lambda: "flaky.signed" not in setting.counted(), 20, 0.2)
    check(len(setting.web.at("/flaky")) == 2, "posts")

    def tried(domain):
        """How often a report was tried that is not on its way; five times once it is given up."""
        entry = setting.counted().get(domain)
        return 5 if entry is None else entry["state"] == "due" and entry["tries"]

    for tries in range(2, 6):
        check(setting.sent("--domain", "broken.signed") == 1, "it waits")
        wait_for("it was tried", lambda: tried("broken.signed") == tries, 20, 0.2)
    check("broken.signed" not in setting.counted(), "it is given up")
    check(len(setting.web.at("/broken")) == 5, len(setting.web.at("/broken")))
    check(len(setting.web.at("/one")) == 1, "what arrived is not sent again")


def not_about_themselves(setting):
    check(setting.counted() == {}, "sessions of reports are counted:", setting.counted())
    check(setting.sent() == 0, "nothing is left")
    # What comes later the same day is in a report of its own. The connection of before may be held for a moment.
    wait_for("another session", lambda: setting.send(setting.cases[:1]) or "good.signed" in setting.counted(), 20, 3)
    check(setting.sent() == 1, "it is sent")
    wait_for("it arrives everywhere", lambda: setting.counted() == {}, 30)
    first, second = (json.loads(gzip.decompress(body)) for _, body in setting.web.at("/one"))
    check(first["report-id"] != second["report-id"], "the same id")
    check(seconds(first["date-range"]["end-datetime"]) < seconds(second["date-range"]["start-datetime"]), first, second)


def a_day_that_is_over(setting):
    """What was kept today is made one of yesterday, as if midnight had come while the relay was down."""
    wait_for("another session", lambda: setting.send(setting.cases[:1]) or "good.signed" in setting.counted(), 20, 3)
    setting.relay.stop()
    kept = setting.relay.data / "kept"
    for file in list(kept.glob("tls-rpt-*.json")):
        told = json.loads(file.read_text())
        file.unlink()
        if not told["policies"]:
            continue
        day = told["period"]["day"] - 1
        told["period"].update(day=day, start=day * DAY)
        (kept / re.sub(r"\d+", str(day * DAY), file.name, count=1)).write_text(json.dumps(told))
    setting.relay.start()
    counted = setting.counted()
    check(list(counted) == ["good.signed"], counted)
    entry = counted["good.signed"]
    # RFC 8460 §4.1: within four hours.
    left = datetime.datetime.fromisoformat(entry["next"]) - datetime.datetime.now(datetime.timezone.utc)
    check(entry["state"] == "due" and datetime.timedelta(0) < left < datetime.timedelta(hours=4, minutes=1), entry)
    yesterday = datetime.datetime.fromtimestamp(day * DAY, datetime.timezone.utc).strftime("%Y-%m-%d")
    before = len(setting.web.at("/one"))
    check(setting.sent("--day", yesterday) == 1, "it is sent")
    wait_for("it arrives everywhere", lambda: setting.counted() == {}, 30)
    check(len(setting.web.at("/one")) == before + 1, "one post")
    policies = read(gzip.decompress(setting.web.at("/one")[-1][1]), "good.signed")
    check(policies[0]["summary"]["total-successful-session-count"] >= 1, policies)
    told = json.loads(gzip.decompress(setting.web.at("/one")[-1][1]))["date-range"]
    check(told == {"start-datetime": f"{yesterday}T00:00:00Z", "end-datetime": f"{yesterday}T23:59:59Z"}, told)
