"""nsd, an authoritative DNS server that we did not write, with the zone `test.`."""

from .base import Child, Failed, free_port, must, tool, wait_for
import socket
import struct


def exchangers(hosts):
    """Zone lines for domains with one MX each: {"name": "127.0.0.x"} → name.test, MX mx.name.test."""
    lines = []
    for name, address in hosts.items():
        lines.append(f"{name} MX 10 mx.{name}")
        lines.append(f"mx.{name} A {address}")
    return lines


class Nsd:
    """Serves the records in `lines` (names relative to `test.`) on a free port of 127.0.0.1, or on `port`.

    `reverse` are records of `127.in-addr.arpa.`.
    """

    def __init__(self, folder, lines, name="nsd", reverse=(), port=None):
        home = folder.make(name)
        self.port = port or free_port()
        self.address = f"127.0.0.1:{self.port}"
        zone = home / "test.zone"
        zone.write_text(
            "$ORIGIN test.\n$TTL 60\n@ SOA ns.test. admin.test. 1 3600 600 86400 5\n@ NS ns.test.\nns A 127.0.0.1\n"
            + "\n".join(lines)
            + "\n"
        )
        must([tool("nsd-checkzone"), "test.", zone])
        (home / "reverse.zone").write_text("$ORIGIN 127.in-addr.arpa.\n$TTL 60\n@ SOA ns.test. admin.test. 1 3600 600 86400 5\n"
                                           "@ NS ns.test.\n" + "".join(line + "\n" for line in reverse))
        config = home / "nsd.conf"
        config.write_text(f"""server:
    ip-address: 127.0.0.1
    port: {self.port}
    username: ""
    chroot: ""
    zonesdir: "{home}"
    database: ""
    pidfile: "{home}/nsd.pid"
    xfrdfile: "{home}/xfrd.state"
    xfrdir: "{home}"
    zonelistfile: "{home}/zone.list"
    logfile: "{home}/nsd.log"
    server-count: 1
    rrl-ratelimit: 0
    hide-version: yes
remote-control:
    control-enable: no
zone:
    name: "test."
    zonefile: "{zone}"
zone:
    name: "127.in-addr.arpa."
    zonefile: "{home}/reverse.zone"
""")
        self.child = Child([tool("nsd"), "-d", "-c", config], home / "out.log")
        wait_for("nsd answers", self._answers, 10)

    def _answers(self):
        if not self.child.running():
            raise Failed("nsd ended: " + self.child.text())
        query = (
            struct.pack(">6H", 4711, 0, 1, 0, 0, 0)
            + b"\x02ns\x04test\x00"
            + struct.pack(">2H", 1, 1)
        )
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.settimeout(0.3)
            try:
                udp.sendto(query, ("127.0.0.1", self.port))
                return udp.recv(512)[:2] == query[:2]
            except OSError:
                return False
