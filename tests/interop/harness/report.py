"""Runs named cases and says how they went."""

import time
import traceback

from .base import Failed


class Report:
    """Counts cases. A case is a call that raises if something is not as it should be."""

    def __init__(self, pattern=""):
        self.pattern = pattern
        self.passed = 0
        self.failed = []
        self.skipped = 0

    def case(self, name, call, *args):
        """Runs a case; returns whether it passed (a case that is not wanted did)."""
        if self.pattern not in name:
            return True
        started = time.monotonic()
        try:
            call(*args)
        except Failed as why:
            return self.fail(name, str(why))
        except Exception:  # a bug of the tests must not hide the cases after it
            return self.fail(name, traceback.format_exc())
        self.passed += 1
        print(f"ok    {name} ({time.monotonic() - started:.1f} s)", flush=True)
        return True

    def skip(self, name, why):
        self.skipped += 1
        print(f"skip  {name}: {why}", flush=True)

    def fail(self, name, why):
        """Notes a failure; false."""
        self.failed.append(name)
        print(f"FAIL  {name}\n      " + why.strip().replace("\n", "\n      "), flush=True)
        return False

    def end(self):
        """Prints the closing line; returns the exit code."""
        for name in self.failed:
            print(f"failed: {name}")
        print(
            f"{self.passed} passed, {len(self.failed)} failed, {self.skipped} skipped", flush=True
        )
        return 1 if self.failed else 0
