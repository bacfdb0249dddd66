"""What is sent, byte by byte, and how it is compared with what arrived."""

import base64
import email
import email.policy
import itertools
import os
import random

from .base import check

_number = itertools.count(1)

# What the relay, and a receiver after it, may have put before the message.
MAY_PREPEND = {
    "received",
    "date",
    "message-id",
    "dkim-signature",
    "return-path",
    "delivered-to",
    "x-original-to",
    "authentication-results",
    "received-spf",
    "x-client-addr",
    "x-client-proto",
    "x-helo-args",
    "x-mail-args",
    "x-rcpt-args",
}


class Message:
    """A message as it is given to a client, and as it must arrive."""

    def __init__(self, name, body, headers=(), sender="app@sender.test", sent_headers=()):
        self.name = name
        self.sender = sender
        self.id = (
            f"{name}.{next(_number)}.{os.getpid()}.{random.randrange(1 << 32):08x}@interop.test"
        )
        kept = [
            f"From: App <{sender}>",
            "To: somebody <a@sink.test>",
            f"Message-ID: <{self.id}>",
            "Date: Mon, 02 Jun 2025 10:00:00 +0000",
            *headers,
        ]
        head = lambda lines: "".join(line + "\r\n" for line in lines).encode()
        # Headers that must be gone on arrival stand in the middle of those that stay.
        self.sent = head(kept[:2]) + head(sent_headers) + head(kept[2:]) + b"\r\n" + body
        self.expected = head(kept) + b"\r\n" + body

    def sent_with_lf(self):
        return self.sent.replace(b"\r\n", b"\n")


def catalogue():
    """The messages that every client sends: (message, whether it has 8-bit octets)."""
    stamp = random.Random(2025)
    text = ["Subject: interop"]
    mime8 = [
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=utf-8",
        "Content-Transfer-Encoding: 8bit",
    ]
    big = base64.encodebytes(stamp.randbytes(5 * 1000 * 1000 * 3 // 4)).replace(b"\n", b"\r\n")
    return [
        (Message("plain", b"Hello.\r\n\r\nSecond paragraph.\r\n", text), False),
        (Message("dots", b".\r\n..\r\n...three\r\n.\r\n\r\n.one\r\nend .\r\n.\r\n", text), False),
        (Message("long-lines", b"x" * 998 + b"\r\n" + b"." * 998 + b"\r\n", text), False),
        (Message("8bit", "Grüße, 日本語, ✓\r\n.ünder\r\n".encode(), [*text, *mime8]), True),
        (Message("utf8-subject", b"body\r\n", ["Subject: =?utf-8?B?R3LDvMOfZSDinJM=?="]), False),
        (
            Message(
                "attachment",
                b"--b\r\nContent-Type: text/plain\r\n\r\nsee below\r\n--b\r\n"
                b"Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\r\n"
                + big
                + b"--b--\r\n",
                [*text, "MIME-Version: 1.0", 'Content-Type: multipart/mixed; boundary="b"'],
            ),
            False,
        ),
        (Message("empty", b"", text), False),
        (
            Message(
                "bcc",
                b"who else?\r\n",
                text,
                sent_headers=[
                    "Bcc: hidden@sink.test,",
                    "\talso-hidden@postfix.test",
                    "bCC: third@sink.test",
                ],
            ),
            False,
        ),
        (
            Message(
                "folded",
                b"trailing blanks  \r\n\t\r\n \r\n\r\n\r\n",
                [
                    *text,
                    "X-Folded: one\r\n two\r\n\tthree",
                    "X-Empty:",
                    "References: <a@b>\r\n <c@d>",
                ],
            ),
            False,
        ),
    ]


def same(message, arrived, line_end=b"\r\n"):
    """Checks that what arrived is the message, after headers that somebody prepended."""
    expected = message.expected.replace(b"\r\n", line_end)
    check(arrived.endswith(expected), difference(message, arrived, expected))
    prepended = arrived[: len(arrived) - len(expected)]
    names = {
        name.lower()
        for name in email.message_from_bytes(prepended, policy=email.policy.compat32).keys()
    }
    check(
        names <= MAY_PREPEND, "something put these before the message:", sorted(names - MAY_PREPEND)
    )
    check("received" in names, "no Received header was prepended")
    return prepended


def difference(message, arrived, expected):
    start = arrived.find(expected[:40])
    if start < 0:
        return f"{message.name}: its first line did not arrive: {arrived[:400]!r}"
    arrived = arrived[start:]
    at = next(
        (i for i, (a, b) in enumerate(zip(arrived, expected)) if a != b),
        min(len(arrived), len(expected)),
    )
    return (
        f"{message.name}: differs at octet {at} of {len(expected)} ({len(arrived)} arrived): "
        f"{arrived[max(0, at - 30):at + 50]!r}, not {expected[max(0, at - 30):at + 50]!r}"
    )
