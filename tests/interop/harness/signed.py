"""A signed zone served by nsd, and unbound, which validates it by a trust anchor of its own."""

import hashlib
import os
import random
import socket
import struct

from .base import Child, Failed, free_port, must, run, tool, wait_for

TOOLS = ("nsd", "unbound", "ldns-keygen", "ldns-signzone")

SOA = "$TTL 60\n@ SOA ns admin 1 3600 600 86400 5\n@ NS ns\nns A 127.0.0.1\n"


class Signed:
    """The zones `signed.` (of `lines`) and `plain.` (of `plain`, not signed), behind a validating resolver.

    `spoil` are pairs of texts: the first becomes the second in `signed.` after it was signed. The resolver is at
    `address`, and at port 53 of `host`, for programs that know no other port.
    """

    def __init__(self, folder, lines, plain, spoil=()):
        self.home = folder.make("signed")
        self.nsd_port, port = free_port(), free_port()
        self.address = f"127.0.0.1:{port}"
        self.host = f"127.{random.randrange(64, 250)}.{random.randrange(250)}.{random.randrange(1, 250)}"
        self.anchor = self._sign("signed", lines, spoil)
        (self.home / "plain.zone").write_text("$ORIGIN plain.\n" + SOA + "\n".join(plain) + "\n")
        self._nsd()
        self._unbound(port)
        wait_for("unbound answers", self._answers, 15)

    def _sign(self, zone, lines, spoil):
        """Makes the zone's file; returns the file with its key."""
        file = self.home / f"{zone}.zone"
        file.write_text(f"$ORIGIN {zone}.\n" + SOA + "\n".join(lines) + "\n")
        name = must(
            [tool("ldns-keygen"), "-a", "ECDSAP256SHA256", "-k", f"{zone}."], cwd=self.home
        ).decode().strip()
        must([tool("ldns-signzone"), "-o", f"{zone}.", file, name], cwd=self.home)
        text = (self.home / f"{zone}.zone.signed").read_text()
        for old, new in spoil:
            if old not in text:
                raise Failed(f"{old} is not in the signed zone")
            text = text.replace(old, new)
        file.write_text(text)
        return self.home / f"{name}.key"

    def _nsd(self):
        zones = "".join(
            f'zone:\n    name: "{name}."\n    zonefile: "{self.home}/{name}.zone"\n' for name in ("signed", "plain")
        )
        config = self.home / "nsd.conf"
        config.write_text(f"""server:
    ip-address: 127.0.0.1
    port: {self.nsd_port}
    username: ""
    chroot: ""
    zonesdir: "{self.home}"
    database: ""
    pidfile: "{self.home}/nsd.pid"
    xfrdfile: "{self.home}/xfrd.state"
    xfrdir: "{self.home}"
    zonelistfile: "{self.home}/zone.list"
    logfile: "{self.home}/nsd.log"
    server-count: 1
    rrl-ratelimit: 0
remote-control:
    control-enable: no
{zones}""")
        self.nsd = Child([tool("nsd"), "-d", "-c", config], self.home / "nsd.out")

    def _unbound(self, port):
        # The root too is asked of nsd, which refuses: nothing leaves this machine.
        stubs = "".join(
            f'stub-zone:\n    name: "{name}"\n    stub-addr: 127.0.0.1@{self.nsd_port}\n' for name in ("signed.", "plain.", ".")
        )
        second = f"interface: {self.host}@53" if os.geteuid() == 0 else ""
        config = self.home / "unbound.conf"
        config.write_text(f"""server:
    directory: "{self.home}"
    chroot: ""
    username: ""
    pidfile: "{self.home}/unbound.pid"
    use-syslog: no
    do-daemonize: no
    interface: 127.0.0.1@{port}
    {second}
    access-control: 127.0.0.0/8 allow
    outgoing-interface: 127.0.0.1
    do-not-query-localhost: no
    do-ip6: no
    num-threads: 1
    module-config: "validator iterator"
    trust-anchor-file: "{self.anchor}"
    auto-trust-anchor-file: ""
    val-log-level: 2
remote-control:
    control-enable: no
{stubs}""")
        self.unbound = Child([tool("unbound"), "-d", "-c", config], self.home / "unbound.out")

    def _answers(self):
        """Whether the zone's own name server is known, and validated."""
        for child in (self.nsd, self.unbound):
            if not child.running():
                raise Failed(f"{child.command[0]} ended: {child.text()}")
        # AD and RD; the name server's A record.
        query = struct.pack(">6H", 4711, 0x0120, 1, 0, 0, 0) + b"\x02ns\x06signed\x00" + struct.pack(">2H", 1, 1)
        host, port = self.address.split(":")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.settimeout(0.5)
            try:
                udp.sendto(query, (host, int(port)))
                answer = udp.recv(512)
            except OSError:
                return False
        return answer[:2] == query[:2] and answer[3] & 0x2F == 0x20

    def as_system(self, command, timeout=30):
        """Runs a command that asks this resolver by /etc/resolv.conf, in mounts of its own; None where that cannot be."""
        file = self.home / "resolv.conf"
        file.write_text(f"nameserver {self.host}\noptions trust-ad edns0\n")
        mount = ["unshare", "-m", "sh", "-c", 'mount --bind "$0" /etc/resolv.conf && exec "$@"', file]
        code, _, _ = run([*mount, "true"], timeout=timeout)
        if code != 0:
            return None
        code, out, err = run([*mount, *command], timeout=timeout)
        return (out + err).decode(errors="replace")


def tlsa(certificate, usage, selector, matching):
    """The content of the TLSA record for a PEM file's first certificate."""
    openssl = tool("openssl")
    data = must([openssl, "x509", "-in", certificate, "-outform", "DER"])
    if selector == 1:
        key = must([openssl, "x509", "-in", certificate, "-noout", "-pubkey"])
        data = must([openssl, "pkey", "-pubin", "-outform", "DER"], stdin=key)
    if matching:
        data = hashlib.new({1: "sha256", 2: "sha512"}[matching], data).digest()
    return f"{usage} {selector} {matching} {data.hex()}"
