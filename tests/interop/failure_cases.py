"""The receivers' manners, each with what becomes of a message to it, and with the records of its domain."""

import datetime
import time
from dataclasses import dataclass, field

from harness.base import check, wait_for
from harness.receiver import DROP, HANG, OFFERS, first

STAGES = {
    "connect": "greeting",
    "ehlo": "ehlo",
    "mail": "mail",
    "rcpt": "rcpt",
    "data": "data",
    "body": "body",
    "dot": "dot",
}
REPLIES = {
    "421": "421 4.3.2 not now, {stage}",
    "451": "451 4.3.0 trouble at {stage}",
    "554": "554 5.7.1 never, {stage}",
}


@dataclass
class Case:
    """A receiver's manners, and what becomes of a message to it."""

    name: str
    manners: dict = field(default_factory=dict)
    # The events of its story, in order; "deferred*" stands for any number of them, one at least.
    story: tuple = ("delivered",)
    # What the first attempt's event has to say: keys of the event; a text matches as a part of it.
    first: dict = field(default_factory=dict)
    # And the last.
    last: dict = field(default_factory=dict)
    # The status in the DSN, as a pattern; None if there must be no DSN.
    dsn: str = None
    body: bytes = b"Hello.\r\n"
    headers: tuple = ("Subject: failures",)
    sender: str = "app@sender.test"
    mail_options: tuple = ()
    rcpt_options: tuple = ()
    local_parts: tuple = ("somebody",)
    relay: str = "patient"
    route: str = ""
    zone: tuple = None
    timeout: int = 60
    # More to check: called with (relay, receiver, events, message).
    more: object = None
    # `queue retry` once it was deferred, for a receiver that asks for a long wait.
    hurry: bool = False

    @property
    def domain(self):
        return f"{self.name}.test"


def cases():
    yield Case(
        "healthy", last={"code": 250, "stage": "dot", "host": "mx.healthy.test"}, more=arrived_once
    )
    yield from greylisting()
    yield from every_stage()
    yield from silence()
    yield from tls()
    yield from offers()
    yield from names()
    yield from reports()


def greylisting():
    yield Case(
        "greylist",
        {"rcpt": first(2, "450 4.2.0 greylisted")},
        ("deferred", "deferred", "delivered"),
        {"stage": "rcpt", "code": 450, "status": "4.2.0", "text": "greylisted"},
        more=arrived_once,
    )
    yield Case(
        "greylist-hint",
        {"rcpt": first(1, "451 4.7.1 Greylisted, please try again in 3 minutes")},
        ("deferred", "delivered"),
        {"stage": "rcpt", "code": 451},
        more=waits_three_minutes,
        hurry=True,
    )
    yield Case(
        "mixed",
        {"rcpt": mixed_rcpt()},
        None,
        local_parts=("yes", "no", "later"),
        dsn=r"5\.1\.1",
        more=mixed_outcomes,
    )


def mixed_rcpt():
    later = first(1, "450 4.2.1 busy")

    def answer(session):
        if session.rcpt.startswith("no@"):
            return "550 5.1.1 no such user"
        return later(session) if session.rcpt.startswith("later@") else None

    return answer


def every_stage():
    """A closed connection, and each class of reply, at each stage."""
    for stage, told in STAGES.items():
        # Large enough that it cannot all be on its way when the connection ends.
        body = (b"0123456789" * 7 + b"\r\n") * 60_000 if stage == "body" else b"Hello.\r\n"
        yield Case(
            f"drop-{stage}",
            {stage: first(1, DROP)},
            ("deferred", "delivered"),
            {"stage": told, "status": "4.", "in_doubt": stage == "dot"},
            body=body,
            more=arrived_once,
        )
        if stage == "body":
            continue
        for kind, text in REPLIES.items():
            said = text.format(stage=stage)
            reason = {"stage": told, "code": int(kind), "text": said.split(" ", 2)[2]}
            if kind == "554":
                yield Case(
                    f"reply-{kind}-{stage}",
                    {stage: said},
                    ("bounced",),
                    {**reason, "status": "5.7.1"},
                    dsn=r"5\.7\.1",
                    more=nothing_arrived,
                )
            else:
                yield Case(
                    f"reply-{kind}-{stage}",
                    {stage: first(1, said)},
                    ("deferred", "delivered"),
                    reason,
                    more=arrived_once,
                )
    yield Case(
        "drop-always",
        {"dot": DROP},
        ("deferred*", "expired"),
        {"stage": "dot", "in_doubt": True},
        dsn=r"5\.4\.7",
        relay="impatient",
    )


def silence():
    """What never comes. The limits are those of RFC 5321 §4.5.3.2, so these take their minutes."""
    yield Case(
        "slow",
        {stage: slowly for stage in ("connect", "ehlo", "mail", "rcpt", "data", "dot")},
        more=arrived_once,
    )
    yield Case(
        "refused",
        None,
        ("deferred*", "expired"),
        {"stage": "connect"},
        dsn=r"5\.4\.7",
        relay="impatient",
    )
    yield Case(
        "unanswered",
        "backlog",
        ("expired",),
        {"stage": "connect", "text": "timed out"},
        dsn=r"5\.4\.7",
        relay="impatient",
        timeout=100,
    )
    yield Case(
        "silent",
        {"connect": HANG},
        ("expired",),
        {"stage": "greeting", "text": "timed out"},
        dsn=r"5\.4\.7",
        relay="impatient",
        timeout=360,
    )


def slowly(_session):
    time.sleep(1.5)


def tls():
    yield Case("tls-good", {"tls": "good"}, last={"tls": "TLSv1"}, more=arrived_by_tls)
    yield Case(
        "tls-expired",
        {"tls": "expired"},
        last={"tls": "TLSv1", "certificate": "xpired"},
        more=arrived_by_tls,
    )
    yield Case("tls-self-signed", {"tls": "self-signed"}, last={"tls": "TLSv1"}, more=unproven)
    yield Case("tls-other-name", {"tls": "other-name"}, last={"tls": "TLSv1"}, more=unproven)
    yield Case("tls-broken", {"tls": "broken"}, last={"tls": None}, more=arrived_in_clear)
    yield Case(
        "tls-refused",
        {"tls": "good", "starttls": "454 4.7.0 not now"},
        last={"tls": None},
        more=arrived_in_clear,
    )
    verify = dict(route='tls = "verify"', relay="impatient")
    yield Case(
        "verify-good",
        {"tls": "good"},
        last={"tls": "TLSv1", "certificate": "verified"},
        more=arrived_by_tls,
        **verify,
    )
    for name in ("expired", "self-signed", "other-name"):
        yield Case(
            f"verify-{name}",
            {"tls": name},
            ("deferred*", "expired"),
            {"stage": "tls", "rule": "tls-certificate"},
            dsn=r"5\.4\.7",
            more=nothing_arrived,
            **verify,
        )
    yield Case(
        "verify-broken",
        {"tls": "broken"},
        ("deferred*", "expired"),
        {"stage": "tls", "rule": "tls-handshake"},
        dsn=r"5\.4\.7",
        more=nothing_arrived,
        **verify,
    )
    require = dict(route='tls = "require"', relay="impatient")
    yield Case("require-self-signed", {"tls": "self-signed"}, more=arrived_by_tls, **require)
    yield Case(
        "require-none",
        {},
        ("deferred*", "expired"),
        {"stage": "tls", "rule": "tls-required"},
        dsn=r"5\.4\.7",
        more=nothing_arrived,
        **require,
    )


def offers():
    """What a receiver does not offer."""
    less = lambda *gone: tuple(offer for offer in OFFERS if offer.split()[0] not in gone)
    mime8 = (
        "Subject: 8bit",
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=utf-8",
        "Content-Transfer-Encoding: 8bit",
    )
    yield Case(
        "small-size",
        {"offers": (*less("SIZE"), "SIZE 1000")},
        ("bounced",),
        {"rule": "size"},
        dsn=r"5\.3\.4",
        body=b"x" * 70 + b"\r\n" + b"0123456789\r\n" * 200,
        more=nothing_arrived,
    )
    yield Case(
        "no-8bitmime",
        {"offers": less("8BITMIME", "SMTPUTF8")},
        ("bounced",),
        {"rule": "8bitmime"},
        dsn=r"5\.6\.\d",
        body="Grüße\r\n".encode(),
        headers=mime8,
        mail_options=("BODY=8BITMIME",),
        more=nothing_arrived,
    )
    yield Case(
        "no-smtputf8",
        {"offers": less("SMTPUTF8")},
        ("bounced",),
        {"rule": "smtputf8"},
        dsn=r"5\.6\.7",
        local_parts=("jürgen",),
        mail_options=("SMTPUTF8", "BODY=8BITMIME"),
        more=nothing_arrived,
    )
    yield Case("helo-only", {"esmtp": False}, more=arrived_once)
    yield Case("no-pipelining", {"offers": less("PIPELINING")}, more=arrived_once)


def names():
    """What DNS says."""
    yield Case(
        "nowhere",
        None,
        ("bounced",),
        {"stage": "resolve", "status": "5.1.2"},
        dsn=r"5\.1\.2",
        zone=(),
    )
    yield Case(
        "null-mx",
        None,
        ("bounced",),
        {"status": "5.1.10"},
        dsn=r"5\.1\.10",
        zone=("null-mx MX 0 .",),
    )
    yield Case(
        "implicit",
        {},
        zone=("implicit A {address}",),
        last={"host": "implicit.test"},
        more=arrived_once,
    )
    yield Case(
        "alias",
        {},
        zone=("alias CNAME real.alias", "real.alias MX 10 mx.alias", "mx.alias A {address}"),
        more=arrived_once,
    )
    yield Case(
        "second-mx",
        {},
        zone=(
            "second-mx MX 10 dead.second-mx",
            "dead.second-mx A 127.0.0.254",
            "second-mx MX 20 mx.second-mx",
            "mx.second-mx A {address}",
        ),
        last={"host": "mx.second-mx.test"},
        more=tells_of_the_first,
    )
    yield Case(
        "forbidden",
        {},
        ("bounced",),
        {"stage": "policy", "rule": "prohibited-host", "status": "5.4.4"},
        dsn=r"5\.4\.4",
        zone=("forbidden MX 10 mx.forbidden", "mx.forbidden A 127.66.0.1"),
        more=nothing_arrived,
    )


def reports():
    """Which reports are due. RFC 3461, RFC 5321 §4.5.5."""
    never = "550 5.1.1 no such user"
    yield Case(
        "null-sender", {"rcpt": never}, ("bounced", "not-reported"), sender="", more=nothing_arrived
    )
    yield Case(
        "notify-never", {"rcpt": never}, ("bounced", "not-reported"), rcpt_options=("NOTIFY=NEVER",)
    )
    yield Case("notify-success", {}, dsn=r"2\.\d\.\d", rcpt_options=("NOTIFY=SUCCESS",))
    yield Case(
        "orcpt",
        {"rcpt": never},
        ("bounced",),
        dsn=r"5\.1\.1",
        mail_options=("ENVID=order+2B42", "RET=HDRS"),
        rcpt_options=("NOTIFY=FAILURE", "ORCPT=rfc822;old+2Baddress@elsewhere.test"),
    )
    yield Case(
        "hostile-reply",
        {"rcpt": "550-5.1.1 one\n550-\x07 <b>two</b>\n550 5.1.1 " + "long " * 90},
        ("bounced",),
        dsn=r"5\.1\.1",
    )


# More to check


def arrived_once(_relay, receiver, _events, message):
    wait_for("it arrives", lambda: receiver.find(message.id.encode()), 10)
    check(
        receiver.count(message.id.encode()) == 1,
        "it arrived",
        receiver.count(message.id.encode()),
        "times",
    )
    check(receiver.find(message.id.encode()).data.endswith(message.expected), "it arrived changed")


def nothing_arrived(_relay, receiver, _events, _message):
    check(not receiver or not receiver.mails, "the receiver has the message")


def arrived_by_tls(relay, receiver, events, message):
    arrived_once(relay, receiver, events, message)
    check(receiver.mails[0].tls, "it came in clear text")


def unproven(relay, receiver, events, message):
    arrived_by_tls(relay, receiver, events, message)
    check(
        events[-1]["certificate"] and events[-1]["certificate"] != "verified",
        "the certificate is said to be",
        events[-1]["certificate"],
    )


def arrived_in_clear(relay, receiver, events, message):
    arrived_once(relay, receiver, events, message)
    check(not receiver.mails[0].tls, "it came by TLS")


def when(text):
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))


def waits_three_minutes(_relay, receiver, events, message):
    deferred = next(event for event in events if event["event"] == "deferred")
    wait = (when(deferred["next"]) - when(deferred["time"])).total_seconds()
    check(170 <= wait <= 300, "asked to wait 3 minutes, it waits", wait, "s")
    arrived_once(None, receiver, events, message)


def mixed_outcomes(_relay, receiver, events, message):
    last = {rcpt: event for event in events if "stage" in event for rcpt in event["recipients"]}
    ended = {rcpt.split("@")[0]: event["event"] for rcpt, event in last.items()}
    check(
        ended == {"yes": "delivered", "no": "bounced", "later": "delivered"}, "they ended as", ended
    )
    got = [
        rcpt for mail in receiver.mails if message.id.encode() in mail.data for rcpt in mail.rcpts
    ]
    check(sorted(got) == ["later@mixed.test", "yes@mixed.test"], "the receiver took it for", got)


def tells_of_the_first(relay, receiver, events, message):
    arrived_once(relay, receiver, events, message)
    check(
        any("dead.second-mx.test" in text for text in events[-1]["before"]),
        "nothing is told of the first host:",
        events[-1]["before"],
    )


CASES = {case.name: case for case in cases()}
SENDER = "127.0.1.1"
HOSTS, ZONE = {"sender": SENDER}, []
ADDRESSES = {}
for _number, _case in enumerate(CASES.values()):
    ADDRESSES[_case.name] = f"127.0.2.{_number + 1}"
    if _case.zone is None:
        HOSTS[_case.name] = ADDRESSES[_case.name]
    else:
        ZONE.extend(line.format(address=ADDRESSES[_case.name]) for line in _case.zone)
