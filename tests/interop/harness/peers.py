"""Receivers that others wrote: Postfix's smtp-sink, and a whole Postfix."""

import atexit
import os

from .base import Child, Failed, banner, check, must, run, tool, wait_for


class SmtpSink:
    """smtp-sink that writes each message to a file."""

    line_end = b"\n"

    def __init__(self, folder, host, port):
        self.home = folder.make(f"sink-{host}", 0o777)
        command = [tool("smtp-sink"), "-d", f"{self.home}/%H%M%S."]
        if os.geteuid() == 0:
            command += ["-u", "nobody"]
        self.child = Child([*command, f"{host}:{port}", "1024"], folder / f"sink-{host}.log")
        wait_for("smtp-sink listens", lambda: greets(self.child, host, port), 10)
        self.seen = {}

    def find(self, text):
        """The file of the message that has `text` in it, or None."""
        for path in self.home.iterdir():
            if path not in self.seen or text not in self.seen[path]:
                # smtp-sink ends each file with an empty line of its own.
                self.seen[path] = path.read_bytes().removesuffix(b"\n")
            if text in self.seen[path]:
                return self.seen[path]
        return None


def greets(child, host, port):
    if child and not child.running():
        raise Failed(f"{child.command[0]} ended: {child.text()}")
    try:
        return banner(host, port).startswith(b"220")
    except OSError:
        return False


# Postfix's services, none of them in a chroot.
SERVICES = """
pickup    unix  n       -       n       60      1       pickup
cleanup   unix  n       -       n       -       0       cleanup
qmgr      unix  n       -       n       300     1       qmgr
tlsmgr    unix  -       -       n       1000?   1       tlsmgr
rewrite   unix  -       -       n       -       -       trivial-rewrite
bounce    unix  -       -       n       -       0       bounce
defer     unix  -       -       n       -       0       bounce
trace     unix  -       -       n       -       0       bounce
verify    unix  -       -       n       -       1       verify
flush     unix  n       -       n       1000?   0       flush
proxymap  unix  -       -       n       -       -       proxymap
proxywrite unix -       -       n       -       1       proxymap
smtp      unix  -       -       n       -       -       smtp
relay     unix  -       -       n       -       -       smtp
showq     unix  n       -       n       -       -       showq
error     unix  -       -       n       -       -       error
retry     unix  -       -       n       -       -       error
discard   unix  -       -       n       -       -       discard
local     unix  -       n       n       -       -       local
virtual   unix  -       n       n       -       -       virtual
anvil     unix  -       -       n       -       1       anvil
scache    unix  -       -       n       -       1       scache
postlog   unix-dgram n  -       n       -       1       postlogd
"""


class Postfix:
    """A Postfix of our own, with these lines in main.cf and master.cf beside what any needs. Needs root."""

    def __init__(self, folder, main, listeners):
        self.home = folder.make("postfix")
        self.etc, spool, data = (
            folder.make("postfix/etc"),
            folder.make("postfix/spool"),
            folder.make("postfix/data"),
        )
        self.spool = spool
        self.log = self.home / "maillog"
        self.log.touch()
        must(["chown", "postfix", data])
        daemons = must([tool("postconf"), "-d", "-h", "daemon_directory"]).decode().strip()
        (self.etc / "main.cf").write_text(f"""compatibility_level = 3.6
queue_directory = {spool}
data_directory = {data}
command_directory = /usr/sbin
daemon_directory = {daemons}
mail_owner = postfix
setgid_group = postdrop
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mydestination =
alias_maps =
smtpd_peername_lookup = no
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
smtputf8_enable = yes
maillog_file = {self.log}
maillog_file_prefixes = /
biff = no
{main}""")
        (self.etc / "master.cf").write_text("\n".join(listeners) + SERVICES)
        code, out, err = run([tool("postfix"), "-c", self.etc, "start"])
        check(
            code == 0, "postfix start:", (out + err).decode(errors="replace"), self.log.read_text()
        )
        atexit.register(self.stop)
        host, port = listeners[0].split()[0].split(":")
        wait_for("Postfix listens", lambda: greets(None, host, port), 15)

    @property
    def pid(self):
        return int((self.spool / "pid" / "master.pid").read_text())

    def stop(self):
        run([tool("postfix"), "-c", self.etc, "stop"])


class PostfixMaildir(Postfix):
    """The final destination of `domains`: all their mail goes into one maildir."""

    line_end = b"\n"

    def __init__(self, folder, host, port, domains, certificate):
        boxes = folder.make("postfix-boxes")
        must(["chown", "nobody", boxes])
        self.maildir = boxes / "all" / "new"
        self.seen = {}
        uid = must(["id", "-u", "nobody"]).decode().strip()
        super().__init__(
            folder,
            f"""myhostname = mx.postfix.test
mynetworks =
virtual_mailbox_domains = {', '.join(domains)}
virtual_mailbox_base = {boxes}
virtual_mailbox_maps = static:all/
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{uid}
virtual_mailbox_limit = 0
mailbox_size_limit = 0
message_size_limit = 104857600
smtpd_recipient_restrictions = reject_unauth_destination
smtpd_tls_security_level = may
smtpd_tls_chain_files = {certificate[1]}, {certificate[0]}
""",
            [f"{host}:{port} inet n - n - - smtpd"],
        )

    def find(self, text):
        if not self.maildir.is_dir():
            return None
        for path in self.maildir.iterdir():
            if path not in self.seen:
                self.seen[path] = path.read_bytes()
            if text in self.seen[path]:
                return self.seen[path]
        return None
