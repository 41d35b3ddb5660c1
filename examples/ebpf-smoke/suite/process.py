# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs with a deadline. Nothing here waits for a fixed time: it waits for something to become true."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pty
import select
import signal
import subprocess
import time

from tap import Failure

# An emulated guest is about ten times slower than the machine under it. These are for when something is wrong;
# when all is well nothing comes near them.
STEP = 30
COMPILE = 60


def output(argv, seconds=STEP, status=0):
    """Run a program to its end and return what it printed, stderr included; any other exit status is a failure."""
    shown = " ".join(str(word) for word in argv)
    try:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except OSError as error:
        raise Failure(f"cannot start `{shown}`: {error.strerror}") from error
    try:
        text, _none = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired as late:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=STEP)
        raise Failure(f"`{shown}` was not done after {seconds} s", details=_tail(late.output)) from late
    finally:
        if process.poll() is None:
            process.kill()
    if process.returncode != status:
        raise Failure(f"exit status of `{shown}`", expected=status, got=process.returncode, details=_tail(text))
    return text


def once(argv):
    """Start a program of which nothing is wanted but that it happens; wait for its end and return its pid."""
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(STEP)
    except subprocess.TimeoutExpired as late:
        raise Failure(f"`{' '.join(argv)}` was not done after {STEP} s") from late
    finally:
        if process.poll() is None:
            process.kill()
    return process.pid


def bpftool(*words):
    """Ask bpftool and return its JSON answer."""
    text = output(["bpftool", "-j", *words])
    try:
        return json.loads(text)
    except ValueError as error:
        raise Failure(f"`bpftool -j {' '.join(words)}` did not answer JSON: {error}", details=_tail(text)) from error


def wait_until(what, probe, seconds=STEP):
    """Ask `probe` again and again until its answer is true, and return that answer."""
    deadline = time.monotonic() + seconds
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise Failure(f"not seen within {seconds} s: {what}")
        time.sleep(0.1)


class Background:
    """A program that runs while the test does something, read line by line, ended by its pid."""

    def __init__(self, argv, tty=False):
        # On a terminal a program prints each line at once; into a pipe it would keep them until its end.
        self.name = os.path.basename(argv[0])
        self.lines = []
        self._rest = b""
        reader, writer = pty.openpty() if tty else os.pipe()
        try:
            self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=writer, stderr=writer)
        except OSError as error:
            os.close(reader)
            raise Failure(f"cannot start `{' '.join(argv)}`: {error.strerror}") from error
        finally:
            os.close(writer)
        self._reader = reader
        self.pid = self.process.pid

    def __enter__(self):
        return self

    def __exit__(self, *_unused):
        self.stop()

    def line(self, what, wanted, seconds=STEP):
        """Wait for the first line, among those already read too, of which `wanted` says something true."""
        deadline = time.monotonic() + seconds
        looked_at = 0
        while True:
            for text in self.lines[looked_at:]:
                answer = wanted(text)
                if answer:
                    return answer
            looked_at = len(self.lines)
            left = deadline - time.monotonic()
            if left <= 0 or not self._read(left):
                why = f"within {seconds} s" if left <= 0 else f"before {self.name} closed its output"
                raise Failure(f"{self.name} (pid {self.pid}): not seen {why}: {what}", details=self.tail())

    def drain(self):
        """Take what has been printed up to now."""
        while self._read(0):
            pass

    def tail(self):
        return "\n".join(self.lines[-20:]) or "(it printed nothing)"

    def stop(self):
        """End it: the end of its input and an interrupt ask, a kill insists. Returns once it is gone."""
        if self._reader is None:
            return
        self.process.stdin.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(STEP)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.drain()
        os.close(self._reader)
        self._reader = None

    def _read(self, seconds):
        """Read once; false when nothing came in time or the program has closed its output."""
        if not select.select([self._reader], [], [], seconds)[0]:
            return seconds > 0
        try:
            data = os.read(self._reader, 65536)
        except OSError as error:
            if error.errno != errno.EIO:  # the way a terminal says that its last user is gone
                raise
            data = b""
        *whole, self._rest = (self._rest + data).split(b"\n")
        self.lines += [line.decode(errors="replace").rstrip("\r") for line in whole]
        return bool(data)


def _tail(text, lines=20):
    text = text.decode(errors="replace") if isinstance(text, bytes) else text or ""
    return "\n".join(text.splitlines()[-lines:])
