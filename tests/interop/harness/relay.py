"""The binary under test: its configuration, its life, its commands."""

import json
import pathlib
import re
import socket
import time

from .base import Child, Failed, banner, check, free_port, run, wait_for

# What becomes of a recipient, as events name it.
FINAL = ("delivered", "bounced", "expired")


def toml(value):
    """A value in TOML; JSON's texts, numbers, flags and lists are TOML's too."""
    return json.dumps(value, ensure_ascii=False)


class Relay:
    """A relay in a folder of its own.

    Listeners: `port` (STARTTLS), `tls_port` (implicit TLS), `plain_port` (loopback clients need no AUTH).
    `config` overrides or adds `section: {key: value}`; `extra` is TOML text at the end.
    """

    def __init__(
        self,
        binary,
        folder,
        name,
        delivery_port=0,
        dns=None,
        certificate=None,
        config=None,
        extra="",
        trusted=True,
    ):
        self.binary = pathlib.Path(binary).resolve()
        self.home = folder.make(name)
        self.name = name
        self.data = self.home / "data"
        self.file = self.home / "relay.toml"
        self.port, self.tls_port, self.plain_port = free_port(), free_port(), free_port()
        self.user, self.secret = "app", ""
        self.child = None
        sections = {
            "delivery": {
                "retry": "1s, 2s*",
                "expire": "1h",
                "prohibited_hosts": [],
                "ip_families": "ipv4",
            },
            "limits": {"connections_per_ip": 5000},
        }
        if delivery_port:
            sections["delivery"]["port"] = delivery_port
        if dns:
            sections["dns"] = {"servers": [dns]}
        if certificate:
            sections["tls"] = {"certificate": str(certificate[0]), "key": str(certificate[1])}
        for section, values in (config or {}).items():
            sections.setdefault(section, {}).update(values)
        self.sections, self.extra, self.trusted = sections, extra, trusted
        self.write_config()

    def write_config(self):
        text = [f'hostname = "relay.test"\ndata_dir = {toml(str(self.data))}\n']
        for port, tls in (
            (self.port, "starttls"),
            (self.tls_port, "implicit"),
            (self.plain_port, "none"),
        ):
            text.append(f'[[listener]]\naddress = "127.0.0.1:{port}"\ntls = "{tls}"\n')
            if tls == "none" and self.trusted:
                text.append('trusted_networks = ["127.0.0.0/8"]\ntrusted_as = "local"\n')
        if self.trusted:
            text.append('[[credential]]\nname = "local"\nsenders = ["*"]\n')
        for section, values in self.sections.items():
            text.append(
                f"[{section}]\n"
                + "".join(f"{key} = {toml(value)}\n" for key, value in values.items())
            )
        self.file.write_text("\n".join(text) + self.extra)

    # Commands

    def command(self, *args, timeout=60):
        """Runs a command of the binary on this relay: (exit code, stdout, stderr) as texts."""
        code, out, err = run(
            [self.binary, *args, "--config", self.file], timeout=timeout, cwd=self.home
        )
        return code, out.decode(errors="replace"), err.decode(errors="replace")

    def ask(self, *args):
        """A command that must succeed, as the value of its JSON."""
        code, out, err = self.command(*args, "--json")
        check(code == 0, f"{' '.join(args)} ended with {code}:", err.strip() or out.strip())
        return json.loads(out)

    def add_credential(self, name="app", senders=("sender.test",)):
        """Adds a credential before the start; keeps its secret."""
        flags = [part for sender in senders for part in ("--sender", sender)]
        code, out, err = self.command("credential", "add", name, *flags)
        check(code == 0, "credential add failed:", err)
        self.user, self.secret = name, secret_in(out)

    def trace(self, message_id):
        return self.ask("trace", message_id)

    def status(self):
        return self.ask("status")

    # Life

    def start(self, timeout=20):
        """Starts `serve` and waits for the greeting; returns how long that took."""
        started = time.monotonic()
        self.spawn()
        wait_for(f"{self.name} greets", self._greets, timeout, 0.01)
        return time.monotonic() - started

    def spawn(self):
        """Starts `serve`, and does not wait for it."""
        check(self.child is None or not self.child.running(), "the relay runs already")
        self.child = Child(
            [self.binary, "serve", "--config", self.file, "--log", "json"],
            self.home / "relay.log",
            cwd=self.home,
        )

    def _greets(self):
        if not self.child.running():
            raise Failed(
                f"the relay ended with {self.child.process.returncode}: {self.child.text()[-2000:]}"
            )
        try:
            return banner("127.0.0.1", self.plain_port).startswith(b"220")
        except (ConnectionError, socket.timeout):
            return False

    def stop(self):
        """SIGTERM; it must drain and end with 0 within 10 seconds."""
        code = self.child.stop(12)
        check(code == 0, f"the relay ended with {code} after SIGTERM: {self.child.text()[-1000:]}")

    def kill(self):
        self.child.kill()

    # What happened

    def events(self, message_id=None):
        """The delivery events in the log, of one message or of all."""
        found = []
        for line in self.child.log.read_bytes().split(b"\n"):
            if b'"event"' not in line:
                continue
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if "event" in event and (message_id is None or event.get("id") == message_id):
                found.append(event)
        return found

    def outcome(self, message_id, recipients=1, timeout=60):
        """Waits until so many recipients are settled; returns the trace."""

        def settled():
            events = self.trace(message_id)
            done = sum(len(event["recipients"]) for event in events if event["event"] in FINAL)
            return events if done >= recipients else None

        return wait_for(f"{message_id} is settled", settled, timeout, 0.25)


def secret_in(text):
    """The secret that `credential add` printed."""
    try:
        return json.loads(text)["secret"]
    except (ValueError, KeyError, TypeError):
        pass
    named = re.search(r"(?im)^\W*(?:secret|password)\b\W+(\S+)\s*$", text)
    check(named, "no secret in what `credential add` printed:", text)
    return named[1]


def queued_id(reply):
    """The message's id in the reply that took it."""
    found = re.search(
        r"queued as (\S+)", reply if isinstance(reply, str) else reply.decode(errors="replace")
    )
    check(found, "no id in the reply:", reply)
    return found[1]
