"""The servers under test: ours, and Postfix as the reference, with their queues where they are told."""

import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import time

from harness.base import free_port, wait_for
from harness.relay import Relay


class Unix(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=20)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Ours:
    """The relay under test, with its data where it is told."""

    def __init__(self, binary, folder, sink_port, name="relay"):
        route = f'\n[[route]]\ndomain = "*"\nhosts = ["127.0.0.1:{sink_port}"]\ntls = "none"\n'
        self.relay = Relay(binary, folder, name, extra=route, config={"delivery": {"retry": "1s*"}})
        self.plain_port = self.relay.plain_port
        self.aside = []

    def start(self, mount):
        self.relay.data = mount / "data"
        self.relay.write_config()
        self.relay.start(60)

    def kill(self):
        self.relay.kill()

    def ask(self, method, path, body=None):
        conn = Unix(self.relay.data / "admin.sock")
        conn.request(method, "/api/v1/" + path, body, {"Content-Type": "application/json"})
        return json.loads(conn.getresponse().read())

    def drain(self):
        """Delivers all that is in the queue; returns how many records were damaged."""

        def empty():
            try:
                status = self.ask("GET", "status")
                if status["store"].get("recovering") is None and status["queued"] == 0:
                    return status
                self.ask("POST", "queue/retry", b'{"older_than_secs": 0}')
            except (FileNotFoundError, ConnectionRefusedError):
                # It listens to clients a moment before it listens to administrators.
                pass
            return None

        return wait_for("the queue is empty", empty, 60, 0.03)["store"]["quarantined"]


class Postfix:
    """Postfix with its queue where it is told; all else of it is in a folder of its own."""

    def __init__(self, folder, sink_port):
        self.folder, self.sink_port, self.plain_port = folder, sink_port, free_port()
        self.etc, self.home = folder.make("etc"), None
        # The names of the messages that are in its folder of damaged files.
        self.aside = []
        for part in ("log", "data"):
            folder.make(part)
        shutil.chown(folder / "data", "postfix")
        (self.etc / "master.cf").write_text(self.master())

    def master(self):
        lines = [f"127.0.0.1:{self.plain_port} inet n - n - - smtpd"]
        for line in pathlib.Path("/usr/share/postfix/master.cf.dist").read_text().splitlines():
            part = line.split()
            if line[:1].isalpha() and len(part) >= 8 and part[1].startswith("unix") and part[7] != "pipe":
                # No chroot; look at the queue at once and often.
                part[4] = "n"
                lines.append(" ".join(part))
        return "\n".join(lines) + "\n"

    def start(self, mount):
        self.home = mount / "spool"
        self.home.mkdir(exist_ok=True)
        (self.etc / "main.cf").write_text(
            f"""compatibility_level = 3.6
queue_directory = {self.home}
data_directory = {self.folder / "data"}
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = peer-postfix.test
mydestination =
alias_maps =
local_recipient_maps =
mynetworks = 127.0.0.0/8
relayhost = [127.0.0.1]:{self.sink_port}
disable_dns_lookups = yes
smtp_host_lookup = native
smtpd_peername_lookup = no
smtpd_relay_restrictions = permit_mynetworks, reject
smtp_tls_security_level = none
smtpd_tls_security_level = none
minimal_backoff_time = 1s
maximal_backoff_time = 1s
queue_run_delay = 1s
smtp_destination_concurrency_failed_cohort_limit = 0
default_process_limit = 50
maillog_file = {self.folder / "log" / "maillog"}
maillog_file_prefixes = /
"""
        )
        self.command("start")

        def greets():
            try:
                socket.create_connection(("127.0.0.1", self.plain_port), 1).close()
                return True
            except OSError:
                return False

        wait_for("Postfix greets", greets, 120)

    def command(self, what):
        return subprocess.run(
            ["postfix", "-c", self.etc, what], capture_output=True, text=True, timeout=60, check=False
        )

    def kill(self):
        """kill -9 of all of it, by the process ids of its session."""
        # Postfix makes the file before it fails, too; and after a power cut it is the one of the run before.
        found = self.home / "pid/master.pid"
        master = int((found.read_text() if found.exists() else "") or 0)
        try:
            ours = master and os.readlink(f"/proc/{master}/cwd") == str(self.home)
        except FileNotFoundError:
            ours = False
        if not ours:
            return
        children = pathlib.Path(f"/proc/{master}/task/{master}/children").read_text().split()
        for pid in [str(master), *children]:
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                pass
        wait_for("Postfix is gone", lambda: not pathlib.Path(f"/proc/{master}").exists(), 10)
        time.sleep(0.05)

    def drain(self, timeout=60):
        def waits(file):
            # Without that bit it was being received, which nobody was told the end of.
            return file.is_file() and file.stat().st_mode & 0o100

        def empty():
            try:
                left = any(waits(file) for d in ("incoming", "active", "deferred") for file in (self.home / d).rglob("*"))
            except FileNotFoundError:
                left = True
            if left:
                self.command("flush")
                return False
            return True

        wait_for("the queue is empty", empty, timeout, 0.2)
        corrupt = self.home / "corrupt"
        aside = [file.read_bytes() for file in corrupt.iterdir()] if corrupt.is_dir() else []
        found = [re.search(rb"X-Ledger: ([0-9.]+)", octets) for octets in aside]
        # Of those whose header is not there, nobody can say which they are.
        self.aside = [name[1].decode() for name in found if name]
        return len(aside)
