"""Temporary folder, child processes, ports, waiting."""

import atexit
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time


class Failed(Exception):
    """What was expected did not happen."""


def check(condition, *why):
    """Like assert, with words, and also under -O."""
    if not condition:
        raise Failed(" ".join(str(part) for part in why) or "check failed")


def wait_for(what, find, timeout, step=0.05):
    """Calls `find` until it returns something true, and returns that."""
    end = time.monotonic() + timeout
    while True:
        found = find()
        if found:
            return found
        if time.monotonic() >= end:
            raise Failed(f"{what}: not within {timeout:g} s")
        time.sleep(step)


class Folder:
    """A temporary folder that goes away at the end; KEEP=1 in the environment keeps it."""

    def __init__(self, prefix, under=None):
        self.path = pathlib.Path(tempfile.mkdtemp(prefix=prefix, dir=under))
        self.path.chmod(0o755)
        if os.environ.get("KEEP"):
            print(f"# files are kept in {self.path}", flush=True)
        else:
            atexit.register(shutil.rmtree, self.path, ignore_errors=True)

    def __truediv__(self, name):
        return self.path / name

    def make(self, name, mode=0o755):
        made = self.path / name
        made.mkdir(parents=True, exist_ok=True)
        made.chmod(mode)
        return made


class Child:
    """A child process, ended by its pid at the latest when we end."""

    _alive = []

    def __init__(self, command, log, **options):
        self.command = [str(part) for part in command]
        self.log = pathlib.Path(log)
        with open(self.log, "ab") as out:
            options.setdefault("stdout", out)
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stderr=out, **options
            )
        Child._alive.append(self)

    @property
    def pid(self):
        return self.process.pid

    def running(self):
        return self.process.poll() is None

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self, timeout=15):
        """SIGTERM; returns the exit code. SIGKILL and a failure if that is not enough."""
        if self.running():
            self.process.terminate()
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
                raise Failed(
                    f"{self.command[0]} did not end within {timeout} s of SIGTERM"
                ) from None
        return self.process.returncode

    def text(self):
        return self.log.read_text(errors="replace")

    @classmethod
    def end_all(cls):
        for child in cls._alive:
            if child.running():
                child.process.terminate()
        for child in cls._alive:
            try:
                child.process.wait(5)
            except subprocess.TimeoutExpired:
                child.process.kill()


atexit.register(Child.end_all)
# A SIGTERM ends us the ordinary way, so that what is registered runs.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def run(command, timeout=60, stdin=None, env=None, cwd=None):
    """Runs a command to its end; returns (exit code, stdout, stderr), the texts as bytes."""
    full = dict(os.environ, **(env or {}))
    done = subprocess.run(
        [str(part) for part in command],
        input=stdin if stdin is not None else b"",
        capture_output=True,
        timeout=timeout,
        env=full,
        cwd=cwd,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def must(command, **options):
    """Runs a command that has to succeed; returns its stdout."""
    code, out, err = run(command, **options)
    check(
        code == 0, f"{command[0]} ended with {code}:", (out + err).decode(errors="replace").strip()
    )
    return out


def tool(name):
    """The path of a program; also looks where Debian puts daemons."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/local/sbin")
    check(found, f"{name} is not installed; `.ci/install` installs what these tests need")
    return found


def has_tool(name):
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") is not None


_given = set()


def free_port(hosts=("127.0.0.1",), kinds=(socket.SOCK_STREAM, socket.SOCK_DGRAM)):
    """A port that is free on all of these hosts, below the range that the kernel hands out."""
    for _ in range(200):
        port = random.randrange(12000, 30000)
        if port in _given:
            continue
        try:
            for host in hosts:
                for kind in kinds:
                    with socket.socket(socket.AF_INET, kind) as probe:
                        if kind == socket.SOCK_STREAM:
                            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                        probe.bind((host, port))
            _given.add(port)
            return port
        except OSError:
            continue
    raise Failed("no free port found")


def listening(host, port):
    try:
        socket.create_connection((host, port), timeout=1).close()
        return True
    except OSError:
        return False


def banner(host, port, timeout=5):
    """The first line that a server says."""
    with socket.create_connection((host, port), timeout=timeout) as conn:
        line = conn.makefile("rb").readline()
        conn.sendall(b"QUIT\r\n")
        return line
