"""Receivers with every manner: each message ends as it should, `trace` tells why, and the sender gets a DSN where one is due.

Every case has a domain of its own, so that no receiver's manners delay another's mail. All is sent at once, to two relays:
a patient one, and one whose mail expires after EXPIRE seconds.
"""

import email
import email.policy
import re
import smtplib
import socket
import time

from failure_cases import ADDRESSES, CASES, SENDER
from harness.base import check, wait_for
from harness.messages import Message
from harness.receiver import Receiver
from harness.relay import Relay, queued_id

# How long the impatient relay tries, in seconds.
EXPIRE = 20


class Setting:
    """The receivers, and the two relays."""

    def __init__(self, world, wanted):
        self.world = world
        self.cases = wanted
        self.contexts = {
            "good": world.authority.server_context(
                "good",
                [f"DNS:mx.{name}.test" for name in ("tls-good", "verify-good", "tls-refused")],
            ),
            "expired": world.authority.server_context(
                "expired", ["DNS:mx.tls-expired.test", "DNS:mx.verify-expired.test"], expired=True
            ),
            "self-signed": world.authority.server_context(
                "self-signed", ["DNS:mx.tls-self-signed.test"], self_signed=True
            ),
            "other-name": world.authority.server_context("other-name", ["DNS:somebody-else.test"]),
            "broken": Receiver.BROKEN,
        }
        self.inbox = Receiver(SENDER, world.port)
        self.receivers = {case.name: self.receiver(case) for case in wanted}
        self.relays = {
            "patient": self.relay("patient", "1h"),
            "impatient": self.relay("impatient", f"{EXPIRE}s"),
        }
        self.sent = {}

    def receiver(self, case):
        if case.manners is None:
            return None
        host = ADDRESSES[case.name]
        if case.manners == "backlog":
            # A listener whose queue is full: the kernel leaves SYNs without an answer.
            full = socket.socket()
            full.bind((host, self.world.port))
            full.listen(0)
            self.fillers = [full]
            for _ in range(8):
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex((host, self.world.port))
                self.fillers.append(filler)
            return None
        manners = dict(case.manners)
        if "tls" in manners:
            manners["tls"] = self.contexts[manners["tls"]]
        return Receiver(host, self.world.port, **manners)

    def relay(self, name, expire):
        routes = "".join(
            f'\n[[route]]\ndomain = "{case.domain}"\nhosts = ["mx.{case.domain}:{self.world.port}"]\n{case.route}\n'
            for case in self.cases
            if case.route and case.relay == name
        )
        relay = Relay(
            self.world.binary,
            self.world.folder,
            name,
            self.world.port,
            self.world.dns.address,
            extra=routes,
            config={
                "delivery": {
                    "expire": expire,
                    "prohibited_hosts": ["127.66.0.0/16"],
                    "ca_file": str(self.world.authority.file),
                }
            },
        )
        relay.start()
        return relay

    def send(self, case):
        relay = self.relays[case.relay]
        message = Message(
            case.name, case.body, list(case.headers), sender=case.sender or "app@sender.test"
        )
        with smtplib.SMTP("127.0.0.1", relay.plain_port, "client.test", timeout=30) as client:
            client.ehlo()
            if "SMTPUTF8" in case.mail_options:
                client.command_encoding = "utf-8"
            code, reply = client.mail(case.sender, case.mail_options)
            check(code == 250, "MAIL:", code, reply)
            for local in case.local_parts:
                code, reply = client.rcpt(f"{local}@{case.domain}", case.rcpt_options)
                check(code == 250, "RCPT:", code, reply)
            code, reply = client.data(message.sent)
            check(code == 250, "DATA:", code, reply)
        self.sent[case.name] = (queued_id(reply), message)

    def close(self):
        for relay in self.relays.values():
            if relay.child.running():
                relay.kill()
        for receiver in [self.inbox, *self.receivers.values()]:
            if receiver:
                receiver.close()


def run(world, report):
    setting = Setting(world, [case for case in CASES.values() if report.pattern in label(case)])
    try:
        unsent = {}
        for case in setting.cases:
            try:
                setting.send(case)
            except Exception as why:  # reported as the failure of its case
                unsent[case.name] = why
        for case in sorted(setting.cases, key=lambda case: case.timeout):
            report.case(label(case), verify, setting, case, unsent.get(case.name))
        report.case("failures: the accounts of both relays add up", accounts, setting)
        report.case(
            "failures: SIGTERM ends the relays with 0",
            lambda: [relay.stop() for relay in setting.relays.values()],
        )
    finally:
        setting.close()


def label(case):
    return f"failures: {case.name}"


def verify(setting, case, unsent):
    if unsent:
        raise unsent
    relay, receiver = setting.relays[case.relay], setting.receivers[case.name]
    ident, message = setting.sent[case.name]
    if case.hurry:
        wait_for(
            "it is deferred",
            lambda: any(event["event"] == "deferred" for event in relay.trace(ident)),
            30,
            0.25,
        )
        relay.ask("queue", "retry", ident)
    relay.outcome(ident, len(case.local_parts), case.timeout)
    beside = ("changed", "preflight")
    events = [event for event in relay.trace(ident) if event["event"] not in beside]
    check(events[0]["event"] == "accepted", "the story begins with", events[0])
    if case.story:
        told_as(case.story, [event["event"] for event in events[1:]])
    attempts = [event for event in events if "stage" in event]
    for attempt in attempts:
        check(
            attempt["rule"] and attempt["text"] and attempt["status"] and attempt["lane"],
            "an attempt does not say why:",
            attempt,
        )
        named = {f"{local}@{case.domain}" for local in case.local_parts}
        check(set(attempt["recipients"]) <= named, "it names others:", attempt["recipients"])
    says(case.first, attempts[0])
    says(case.last, attempts[-1])
    if receiver and attempts[0]["stage"] not in ("resolve", "policy"):
        check(attempts[0]["host"], "the host is not named:", attempts[0])
    if case.more:
        case.more(relay, receiver, events, message)
    if case.dsn:
        dsn(setting, case, ident, message)
    else:
        time.sleep(0.3)
        check(not report_of(setting, ident), "the sender got a DSN")


def told_as(story, told):
    # Each event as a letter, so that a pattern can be matched.
    names = sorted(set(told) | {name.rstrip("*") for name in story})
    letter = {name: chr(65 + number) for number, name in enumerate(names)}
    pattern = "".join(
        letter[name.rstrip("*")] + ("+" if name.endswith("*") else "") for name in story
    )
    check(
        re.fullmatch(pattern, "".join(letter[name] for name in told)),
        "the story is",
        told,
        "not",
        list(story),
    )


def says(expected, event):
    for key, value in expected.items():
        got = event.get(key)
        right = value in got if isinstance(value, str) and isinstance(got, str) else got == value
        check(right, f"{key} is {got!r}, not {value!r}, in", event)


def report_of(setting, ident):
    """The DSN about a message."""
    return setting.inbox.find(f"\r\nX-Relay-Queue-Id: {ident}\r\n".encode())


def typed(field):
    """`dns; name` as (type, value). RFC 3464 §2.1.2."""
    kind, _, value = str(field).partition(";")
    return kind.strip().lower(), value.strip()


def dsn(setting, case, ident, message):
    """RFC 3462, RFC 3464, RFC 5321 §4.5.5, RFC 3834 §3.1.8, as Python's email reads it."""
    mail = wait_for("the DSN", lambda: report_of(setting, ident), 30)
    check(mail.sender == "", "the DSN came from", mail.sender)
    check(mail.rcpts == ["app@sender.test"], "the DSN went to", mail.rcpts)
    parsed = email.message_from_bytes(mail.data, policy=email.policy.default)
    words, status, original = parsed.iter_parts()
    # email does not know that a message/global-headers may be in base64. RFC 6532 §3.7.
    known = [words, status] + [original] * (
        not original.get_content_type().startswith("message/global")
    )
    defects = [
        *parsed.defects,
        *(defect for part in known for inner in part.walk() for defect in inner.defects),
    ]
    check(not defects, "email finds defects:", defects)
    check(parsed.get_content_type() == "multipart/report", parsed.get_content_type())
    check(
        parsed.get_param("report-type") == "delivery-status",
        "report-type is",
        parsed.get_param("report-type"),
    )
    check(
        str(parsed["auto-submitted"]).startswith("auto-replied"),
        "Auto-Submitted is",
        parsed["auto-submitted"],
    )
    for name in ("date", "message-id", "from", "to", "subject", "mime-version"):
        check(parsed[name], "it has no", name)
    check(
        words.get_content_type() == "text/plain" and words.get_content().strip(),
        "no words for people",
    )
    check(status.get_content_type() == "message/delivery-status", status.get_content_type())
    fields, *recipients = status.get_payload()
    check(
        typed(fields["reporting-mta"]) == ("dns", "relay.test"),
        "Reporting-MTA:",
        fields["reporting-mta"],
    )
    check(fields["arrival-date"], "no Arrival-Date")
    check(len(recipients) == 1, "it reports on", len(recipients), "recipients")
    one = recipients[0]
    action = "delivered relayed" if "SUCCESS" in str(case.rcpt_options) else "failed"
    check(one["action"] in action.split(), "Action:", one["action"])
    check(re.fullmatch(case.dsn, one["status"]), "Status:", one["status"])
    kind, address = typed(one["final-recipient"])
    check(
        kind == ("utf-8" if case.name == "no-smtputf8" else "rfc822") and case.domain in address,
        "Final-Recipient:",
        one["final-recipient"],
    )
    if case.name == "orcpt":
        check(
            fields["original-envelope-id"] == "order+42",
            "Original-Envelope-Id:",
            fields["original-envelope-id"],
        )
        check(
            typed(one["original-recipient"]) == ("rfc822", "old+address@elsewhere.test"),
            "Original-Recipient:",
            one["original-recipient"],
        )
        check(
            original.get_content_type() == "text/rfc822-headers",
            "RET=HDRS, but it returns",
            original.get_content_type(),
        )
    check(
        original.get_content_type()
        in ("message/rfc822", "text/rfc822-headers", "message/global", "message/global-headers"),
        original.get_content_type(),
    )
    head = mail.data.split(b"\r\n\r\n", 1)[0]
    check(
        all(octet in b"\t\r\n" or 32 <= octet < 127 for octet in head),
        "control or 8-bit octets in its headers",
    )
    check(not re.search(rb"(?<!\r)\n|\r(?!\n)", mail.data), "bare CR or LF in it")
    check(b"\x07" not in mail.data, "a control octet of the remote reply is in it")
    if original in known:
        check(message.id in original.as_string(), "it does not return the message's headers")


def accounts(setting):
    for name, relay in setting.relays.items():
        status = relay.status()
        ended = sum(status[key] for key in ("delivered", "bounced", "expired", "removed", "queued"))
        check(status["accepted"] + status["recovered"] == ended, name, "does not add up:", status)
