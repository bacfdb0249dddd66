"""A block device that remembers in which order it was written, and what was flushed.

A FUSE file system with a single file, served from user space over /dev/fuse, and a loop device on that file: a real ext4 or
xfs on it sends its writes and flushes here. Each write and each flush gets a number in a log. From the log comes the disk as
a power cut at any number leaves it: what was flushed is there; of what came later each write survives, vanishes or is torn
at its 512-octet sectors, as in the volatile cache of a drive. Needs root, /dev/fuse and loop devices; nothing is installed.
"""

import ctypes
import ctypes.util
import errno
import multiprocessing
import os
import pathlib
import random
import struct
import subprocess
import time

IN = struct.Struct("<IIQQIIII")
OUT = struct.Struct("<IiQ")
WRITE = struct.Struct("<QQIIQII")
RECORD = struct.Struct("<qI")
FLUSH = -1
SECTOR = 512
# Opcodes of the FUSE protocol.
LOOKUP, FORGET, GETATTR, SETATTR, OPEN, READ, WRITE_OP, STATFS, RELEASE, FSYNC = 1, 2, 3, 4, 14, 15, 16, 17, 18, 20
FLUSH_OP, INIT, OPENDIR, RELEASEDIR, ACCESS, INTERRUPT, BATCH_FORGET = 25, 26, 27, 29, 34, 36, 42
MAX_WRITE = 128 * 1024


def libc():
    return ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)


class Server:
    """Answers the kernel. One request at a time, so that the log has one order."""

    def __init__(self, fd, image, log, count, flush_secs):
        self.fd, self.count, self.flush_secs = fd, count, flush_secs
        self.image = open(image, "r+b", buffering=0)
        self.size = os.path.getsize(image)
        self.log = open(log, "wb", buffering=0)

    def attr(self, node):
        mode, size = (0o40755, 0) if node == 1 else (0o100600, self.size)
        return struct.pack("<QQQQQQIIIIIIIIII", node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)

    def reply(self, unique, body=b"", error=0):
        os.write(self.fd, OUT.pack(16 + len(body), -error, unique) + body)

    def run(self):
        while True:
            try:
                request = os.read(self.fd, MAX_WRITE + 4096)
            except OSError as why:
                if why.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                    continue
                return
            _, op, unique, node, *_ = IN.unpack_from(request)
            self.answer(op, unique, node, request[IN.size :])

    def note(self, offset, data=b""):
        self.log.write(RECORD.pack(offset, len(data)) + data)
        self.count.value += 1

    def answer(self, op, unique, node, body):
        if op == INIT:
            major, _minor, readahead, _flags = struct.unpack_from("<IIII", body)
            # Big writes, and nothing else: each write comes here before it is said to be done.
            self.reply(unique, struct.pack("<IIIIHHIIHHI28x", major, 31, readahead, 1 << 5, 16, 12, MAX_WRITE, 1, 32, 0, 0))
        elif op == LOOKUP:
            self.reply(unique, struct.pack("<QQQQII", 2, 0, 3600, 3600, 0, 0) + self.attr(2))
        elif op in (GETATTR, SETATTR):
            self.reply(unique, struct.pack("<QII", 3600, 0, 0) + self.attr(node))
        elif op in (OPEN, OPENDIR):
            self.reply(unique, struct.pack("<QII", 1, 0, 0))
        elif op == READ:
            _, offset, size = struct.unpack_from("<QQI", body)
            self.reply(unique, os.pread(self.image.fileno(), size, offset))
        elif op == WRITE_OP:
            _, offset, size, *_ = WRITE.unpack_from(body)
            data = body[WRITE.size : WRITE.size + size]
            os.pwrite(self.image.fileno(), data, offset)
            self.note(offset, data)
            self.reply(unique, struct.pack("<II", size, 0))
        elif op == FSYNC:
            # A drive takes its time; a 250 that does not wait for it is found out.
            time.sleep(self.flush_secs)
            self.note(FLUSH)
            self.reply(unique)
        elif op == STATFS:
            self.reply(unique, struct.pack("<QQQQQIIII24x", 1 << 20, 1 << 19, 1 << 19, 10, 10, 4096, 255, 4096, 0))
        elif op in (RELEASE, RELEASEDIR, FLUSH_OP, ACCESS):
            self.reply(unique)
        elif op not in (FORGET, BATCH_FORGET, INTERRUPT):
            self.reply(unique, error=errno.ENOSYS)


def serve(*args):
    # What it holds open of us must not keep our sockets alive.
    Server(*args).run()


class Recorder:
    """A mounted file system whose writes are recorded. `count()` is the number of what was recorded so far."""

    def __init__(self, home, kind, size, flush_secs=0.003):
        self.home, self.kind = pathlib.Path(home), kind
        self.fuse, self.mount = self.home / "fuse", self.home / "mount"
        for folder in (self.fuse, self.mount):
            folder.mkdir(parents=True, exist_ok=True)
        self.base, self.log = self.home / "base.img", self.home / "writes.log"
        image = self.home / "live.img"
        make(self.base, kind, size)
        subprocess.run(["cp", "--sparse=always", self.base, image], check=True)
        self.counter = multiprocessing.RawValue("Q", 0)
        fd = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={fd},rootmode=40000,user_id=0,group_id=0".encode()
        if libc().mount(b"blockdev", str(self.fuse).encode(), b"fuse", 0, options):
            raise OSError(ctypes.get_errno(), "mount of fuse")
        self.server = multiprocessing.get_context("fork").Process(
            target=serve, args=(fd, image, self.log, self.counter, flush_secs), daemon=True
        )
        self.server.start()
        os.close(fd)
        found = subprocess.run(["losetup", "--show", "-f", self.fuse / "disk"], check=True, capture_output=True, text=True)
        self.loop = found.stdout.strip()
        subprocess.run(["mount", self.loop, self.mount], check=True)

    def count(self):
        return self.counter.value

    def close(self):
        subprocess.run(["umount", self.mount], check=True)
        subprocess.run(["losetup", "-d", self.loop], check=True)
        # The loop device may be held a moment longer, as by a mount namespace that somebody made meanwhile.
        subprocess.run(["umount", "--lazy", self.fuse], check=True)
        self.server.join(5)


def make(image, kind, size):
    with open(image, "wb") as file:
        file.truncate(size)
    command = {
        "ext4": ["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", image],
        "xfs": ["mkfs.xfs", "-q", "-f", "-K", image],
    }[kind]
    subprocess.run(command, check=True)


class Cuts:
    """The disk as power cuts leave it. Asked in ascending order."""

    def __init__(self, base, log, home, seed):
        self.home, self.random = pathlib.Path(home), random.Random(seed)
        self.flushed = self.home / "flushed.img"
        subprocess.run(["cp", "--sparse=always", base, self.flushed], check=True)
        self.log = open(log, "rb")
        self.read = 0
        self.volatile = []
        self.kept = self.dropped = self.torn = 0

    def at(self, number, image):
        """Writes the disk after a cut at `number` to `image`."""
        with open(self.flushed, "r+b", buffering=0) as disk:
            while self.read < number:
                offset, size = RECORD.unpack(self.log.read(RECORD.size))
                self.read += 1
                if offset != FLUSH:
                    self.volatile.append((offset, self.log.read(size)))
                    continue
                for place, data in self.volatile:
                    os.pwrite(disk.fileno(), data, place)
                self.volatile = []
        subprocess.run(["cp", "--sparse=always", self.flushed, image], check=True)
        with open(image, "r+b", buffering=0) as disk:
            for place, data in self.volatile:
                self.survive(disk.fileno(), place, data)

    def survive(self, disk, place, data):
        dice = self.random.random()
        if dice < 0.3:
            self.dropped += 1
        elif dice < 0.6:
            self.kept += 1
            os.pwrite(disk, data, place)
        else:
            self.torn += 1
            for start in range(0, len(data), SECTOR):
                if self.random.random() < 0.5:
                    os.pwrite(disk, data[start : start + SECTOR], place + start)
