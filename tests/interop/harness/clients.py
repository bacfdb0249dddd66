"""Clients that others wrote. Each sends one message and returns, or raises with the client's own words.

    send(target, message, recipients, eight_bit)

`target` says where: port, TLS, user, secret, the CA to trust.
"""

import base64
import hashlib
import hmac
import os
import pathlib
import secrets
import smtplib
from dataclasses import dataclass

from .base import must, tool

HERE = pathlib.Path(__file__).parent


@dataclass
class Target:
    """A listener of the relay, and who we are there."""

    port: int
    implicit: bool
    user: str
    secret: str
    authority: object
    folder: object
    node_path: str = ""

    def write(self, name, data):
        path = self.folder / name
        path.write_bytes(data)
        return path


def swaks(auth):
    def send(target, message, recipients, eight_bit):
        del eight_bit  # swaks has no word for BODY=8BITMIME
        # Left to itself, swaks takes a last line that is a dot for the end: we stuff the dots and say the end.
        stuffed = (b"\r\n" + message.sent).replace(b"\r\n.", b"\r\n..")[2:]
        file = target.write("swaks.eml", stuffed + b".")
        must(
            [
                tool("swaks"),
                "--server",
                "127.0.0.1",
                "--port",
                target.port,
                "--tlsc" if target.implicit else "--tls",
                "--tls-verify",
                "--tls-ca-path",
                target.authority.file,
                "--auth",
                auth,
                "--auth-user",
                target.user,
                "--auth-password",
                target.secret,
                "--from",
                message.sender,
                "--to",
                ",".join(recipients),
                "--data",
                f"@{file}",
                "--no-data-fixup",
                "--suppress-data",
                "--helo",
                "client.test",
            ]
        )

    return send


def curl(auth):
    def send(target, message, recipients, eight_bit):
        del eight_bit
        url = f"{'smtps' if target.implicit else 'smtp'}://localhost:{target.port}/client.test"
        to = [part for rcpt in recipients for part in ("--mail-rcpt", rcpt)]
        must(
            [
                tool("curl"),
                "--silent",
                "--show-error",
                "--max-time",
                "60",
                "--ipv4",
                "--noproxy",
                "*",
                "--ssl-reqd",
                "--cacert",
                target.authority.file,
                "--login-options",
                f"AUTH={auth}",
                "--user",
                f"{target.user}:{target.secret}",
                "--mail-from",
                message.sender,
                *to,
                "--upload-file",
                target.write("curl.eml", message.sent),
                url,
            ]
        )

    return send


def msmtp(auth):
    def send(target, message, recipients, eight_bit):
        del eight_bit
        password = target.write("msmtp.secret", target.secret.encode() + b"\n")
        password.chmod(0o600)
        must(
            [
                tool("msmtp"),
                "--host=127.0.0.1",
                f"--port={target.port}",
                "--tls=on",
                f"--tls-starttls={'off' if target.implicit else 'on'}",
                f"--tls-trust-file={target.authority.file}",
                f"--auth={auth}",
                f"--user={target.user}",
                f"--passwordeval=cat {password}",
                f"--from={message.sender}",
                "--domain=client.test",
                "--remove-bcc-headers=off",
                "--",
                *recipients,
            ],
            stdin=message.sent_with_lf(),
        )

    return send


def nodemailer(auth):
    def send(target, message, recipients, eight_bit):
        del eight_bit
        node(
            target,
            auth,
            message.sender,
            recipients,
            target.write("nodemailer.eml", message.sent),
            "raw",
        )

    return send


def node(target, auth, sender, recipients, file, how):
    """Runs nodemailer.js; `how` is `raw`, or `compose` to let nodemailer make a message with `file` attached."""
    return must(
        [
            tool("node"),
            HERE / "nodemailer.js",
            target.port,
            "implicit" if target.implicit else "starttls",
            auth,
            sender,
            ",".join(recipients),
            file,
            how,
        ],
        env={
            "NODE_PATH": target.node_path,
            "NODE_EXTRA_CA_CERTS": str(target.authority.file),
            "SMTP_USER": target.user,
            "SMTP_SECRET": target.secret,
        },
    )


def scram_plus(target, *flags):
    """The last reply to AUTH SCRAM-SHA-256-PLUS, over implicit TLS. Python's ssl has no tls-exporter; Node's has."""
    out = must(
        [tool("node"), HERE / "scram_plus.js", target.port, *flags],
        env={
            "NODE_EXTRA_CA_CERTS": str(target.authority.file),
            "SMTP_USER": target.user,
            "SMTP_SECRET": target.secret,
        },
    )
    return out.decode().strip()


def connect(target):
    """An smtplib connection over TLS, before AUTH."""
    context = target.authority.client_context()
    if target.implicit:
        client = smtplib.SMTP_SSL(
            "localhost", target.port, "client.test", timeout=60, context=context
        )
    else:
        client = smtplib.SMTP("localhost", target.port, "client.test", timeout=60)
        client.starttls(context=context)
    client.ehlo()
    return client


def python(auth):
    def send(target, message, recipients, eight_bit):
        with connect(target) as client:
            client.user, client.password = target.user, target.secret
            if auth.startswith("SCRAM"):
                client.auth(auth, Scram(client), initial_response_ok=True)
            else:
                client.auth(
                    auth,
                    getattr(client, "auth_" + auth.lower()),
                    initial_response_ok=auth == "PLAIN",
                )
            client.sendmail(
                message.sender, recipients, message.sent, ["BODY=8BITMIME"] if eight_bit else []
            )

    return send


class Scram:
    """The client's side of SCRAM-SHA-256, as smtplib's `auth` wants it. RFC 5802, RFC 7677."""

    GS2 = "n,,"

    def __init__(self, client):
        self.name, self.password = client.user, client.password
        self.nonce = base64.b64encode(secrets.token_bytes(18)).decode()
        self.first = f"n={self.name.replace('=', '=3D').replace(',', '=2C')},r={self.nonce}"
        self.expected = None

    def __call__(self, challenge=None):
        if challenge is None:
            return self.GS2 + self.first
        # smtplib hands over the decoded challenge as bytes or text, by its version.
        text = challenge.decode() if isinstance(challenge, bytes) else challenge
        parts = dict(part.split("=", 1) for part in text.split(","))
        if "v" in parts:
            if base64.b64decode(parts["v"]) != self.expected:
                raise ValueError("the server does not know the secret")
            return ""
        if not parts["r"].startswith(self.nonce):
            raise ValueError("the server changed the nonce")
        salted = hashlib.pbkdf2_hmac(
            "sha256", self.password.encode(), base64.b64decode(parts["s"]), int(parts["i"])
        )
        mac = lambda key, data: hmac.new(key, data, hashlib.sha256).digest()
        key = mac(salted, b"Client Key")
        last = f"c={base64.b64encode(self.GS2.encode()).decode()},r={parts['r']}"
        spoken = f"{self.first},{text},{last}".encode()
        signature = mac(hashlib.sha256(key).digest(), spoken)
        self.expected = mac(mac(salted, b"Server Key"), spoken)
        proof = bytes(a ^ b for a, b in zip(key, signature))
        return f"{last},p={base64.b64encode(proof).decode()}"


CLIENTS = {
    "swaks-PLAIN": swaks("PLAIN"),
    "swaks-LOGIN": swaks("LOGIN"),
    "curl-PLAIN": curl("PLAIN"),
    "curl-LOGIN": curl("LOGIN"),
    "msmtp-SCRAM-SHA-256": msmtp("scram-sha-256"),
    "msmtp-PLAIN": msmtp("plain"),
    "nodemailer-PLAIN": nodemailer("PLAIN"),
    "nodemailer-LOGIN": nodemailer("LOGIN"),
    "smtplib-PLAIN": python("PLAIN"),
    "smtplib-LOGIN": python("LOGIN"),
    "smtplib-SCRAM-SHA-256": python("SCRAM-SHA-256"),
}


def node_modules(folder):
    """The folder with nodemailer: NODE_PATH if it is set, or a fresh one by npm."""
    given = os.environ.get("NODE_PATH", "")
    if given and (pathlib.Path(given) / "nodemailer").is_dir():
        return given
    home = folder.make("node")
    must(
        [
            tool("npm"),
            "install",
            "--prefix",
            home,
            "--no-audit",
            "--no-fund",
            "--ignore-scripts",
            "nodemailer@7",
        ],
        timeout=300,
    )
    return str(home / "node_modules")
