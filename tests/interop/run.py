#!/usr/bin/env python3
"""The relay against clients and servers that we did not write.

    tests/interop/run.py --binary target/debug/smtp-relay [--case TEXT]
                         [--only clients,failures,input,dkim,sender,dane,inbound,sts,reports,access]

Needs what `.ci/install` installs. Without root there is no Postfix (its master needs root), and its cases are skipped.
KEEP=1 in the environment keeps the temporary folder.
"""

import argparse
import concurrent.futures
import os
import pathlib
import sys

from harness import certs, dns, peers
from harness.base import Folder, free_port
from harness.report import Report
import failure_cases
import test_access
import test_clients
import test_dane
import test_dkim
import test_failures
import test_inbound
import test_input
import test_reports
import test_sender
import test_sts

TESTS = {"clients": test_clients, "failures": test_failures, "input": test_input, "dkim": test_dkim,
         "sender": test_sender, "dane": test_dane, "inbound": test_inbound, "sts": test_sts, "reports": test_reports,
         "access": test_access}
SINK, POSTFIX = "127.0.0.10", "127.0.0.11"


class World:
    """What all tests share: DNS, receivers, certificates, the port of every receiver."""

    def __init__(self, binary, folder):
        self.binary, self.folder = pathlib.Path(binary).resolve(), folder
        hosts = {"sink": SINK, "postfix": POSTFIX, **failure_cases.HOSTS}
        self.port = free_port(sorted(set(hosts.values())))
        self.dns = dns.Nsd(folder, dns.exchangers(hosts) + failure_cases.ZONE)
        self.authority = certs.Authority(folder.make("certs"))
        self.certificate = self.authority.issue(
            "relay", ["DNS:relay.test", "DNS:localhost", "IP:127.0.0.1"]
        )
        self.sink = peers.SmtpSink(folder, SINK, self.port)
        self.postfix = None
        if os.geteuid() == 0:
            certificate = self.authority.issue("mx.postfix.test", ["DNS:mx.postfix.test"])
            self.postfix = peers.PostfixMaildir(
                folder, POSTFIX, self.port, ["postfix.test"], certificate
            )


def main():
    args = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    args.add_argument("--binary", required=True)
    args.add_argument("--only", default=",".join(TESTS), help="which tests, separated by commas")
    args.add_argument("--case", default="", help="only cases with this text in their name")
    given = args.parse_args()
    report = Report(given.case)
    world = World(given.binary, Folder("interop-"))
    if not world.postfix:
        report.skip("cases with Postfix", "its master process needs root")
    # Together, since the failures mostly wait: a receiver that never answers takes its five minutes.
    with concurrent.futures.ThreadPoolExecutor() as pool:
        running = {
            name: pool.submit(TESTS[name].run, world, report) for name in given.only.split(",")
        }
    for name, future in running.items():
        if future.exception():
            report.fail(f"{name}: setting up", repr(future.exception()))
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
