"""Builds `shim.c`, and speaks with a process that was started with it: failing calls, a clock that jumps."""

import errno
import mmap
import os
import pathlib
import struct

from harness.base import must

SHORT = -1
# struct control of shim.c.
FIELDS = {"calls": "Q", "first": "Q", "for_ms": "Q", "fired": "Q", "error": "q", "clock_ns": "q", "began_ns": "Q", "clock_read": "Q"}
NAMES = list(FIELDS)
WHAT, PATH, SIZE = 64, 128, 320


def build(folder):
    """The library, made in `folder`."""
    made = folder / "shim.so"
    must([os.environ.get("CC", "cc"), "-shared", "-fPIC", "-O2", "-Wall", "-o", made, pathlib.Path(__file__).parent / "shim.c", "-ldl"])
    return made


class Shim:
    """The control page of one process under test, and of those that follow it."""

    def __init__(self, library, file, under):
        self.library, self.file, self.under = library, file, under
        file.write_bytes(b"\0" * SIZE)
        with open(file, "r+b") as opened:
            self.page = mmap.mmap(opened.fileno(), SIZE)

    def environment(self):
        preload = {"LD_PRELOAD": str(self.library), "SHIM_UNDER": str(self.under), "SHIM_CONTROL": str(self.file)}
        return dict(os.environ, **preload)

    def __getitem__(self, name):
        return struct.unpack_from(FIELDS[name], self.page, 8 * NAMES.index(name))[0]

    def __setitem__(self, name, value):
        struct.pack_into(FIELDS[name], self.page, 8 * NAMES.index(name), value)

    def arm(self, first=0, error=errno.EIO, for_ms=0):
        """Counts from the beginning; call `first` fails, and all that follow within `for_ms`."""
        self.page[:] = b"\0" * SIZE
        self["error"], self["for_ms"], self["first"] = error, for_ms, first

    def hit(self):
        """The call that failed first, and its file."""
        text = self.page[WHAT : WHAT + 64], self.page[PATH : PATH + 192]
        return tuple(part.split(b"\0")[0].decode() for part in text)
