"""What the members do while they are attacked: whether they live, their anonymous memory, and the files that they open."""

import codecs
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import threading

from attack_cluster import MIB
from cluster import wait_until

SAMPLE_SECONDS = 0.05
# What a process may open outside of its data folder: the system's own files, none of which a client's name can mean.
SYSTEM_PATHS = re.compile(
    r"/proc/(self|\d+)(/|$)|/proc/(meminfo|stat|cpuinfo|mounts|sys/kernel/osrelease)$|/sys/|/dev/(null|u?random|shm)|/(usr/)?lib|/$"
    r"|/etc/(localtime|resolv\.conf|hosts|host\.conf|nsswitch\.conf|gai\.conf|ld\.so\.|ssl/)"
)
# A part of every name that should leave a folder: what it makes is found by it.
MARK = "volley-attack-mark"
# strace's text of a call: each path with the folder that it is relative to.
PATH_ARGUMENT = re.compile(r'(?:(?:AT_FDCWD|\d+)<((?:[^>\\]|\\.)*)>, )?"((?:[^"\\]|\\.)*)"')
# Calls whose first text is no path on disk, or that open nothing.
OTHER_CALLS = {"execve", "statfs"}


class ProcessWatch:
    """Samples the members inside a `with` block. `peak`: the highest anonymous memory of each, bytes."""

    def __init__(self, cluster, watches_files=False):
        self.cluster, self.watches_files, self.peak = cluster, watches_files, {}
        self.foreign_files, self.done = set(), threading.Event()

    def __enter__(self):
        self.thread = threading.Thread(target=self._sample, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()

    def _sample(self):
        while not self.done.wait(SAMPLE_SECONDS):
            for member in self.cluster.members():
                try:
                    self.peak[member.name] = max(self.peak.get(member.name, 0), member.memory_anonymous())
                    if self.watches_files:
                        self.foreign_files.update(foreign_files(member))
                except (FileNotFoundError, ProcessLookupError):
                    continue  # It has ended, which `failures` reports.

    def failures(self):
        """What no attack may cause, as sentences."""
        found = []
        for member in self.cluster.members():
            if not member.alive() or member.process.pid != self.cluster.pids[member.name]:
                found.append(f"{member.name} has ended: {member.tail()[-2000:]}")
            limit, peak = self.cluster.limit(member), self.peak.get(member.name, 0)
            if peak > limit:
                found.append(f"{member.name} had {peak // MIB} MiB of anonymous memory, the limit is {limit // MIB} MiB")
        return found + [f"a member had {path} open" for path in sorted(self.foreign_files)]

    def memory(self):
        """The peaks as text: of the coordinator, and of the node with the higher one."""
        of = lambda role: max((peak for name, peak in self.peak.items() if name.startswith(role)), default=0) // MIB
        return f"{of('coordinator')}/{of('node')} MiB"


def foreign_files(member):
    """Files that a member has open outside of its data folder, its log and the system's."""
    found, folder = set(), f"/proc/{member.process.pid}/fd"
    for number in os.listdir(folder):
        try:
            path = os.readlink(f"{folder}/{number}").removesuffix(" (deleted)")
        except FileNotFoundError:
            continue
        if path.startswith("/") and not is_allowed(member, path):
            found.add(path)
    return found


def is_allowed(member, path):
    """Whether a member may open a path, which is absolute and has no `..`."""
    own = str(member.folder)
    return path in (own, str(member.log)) or path.startswith(own + "/") or bool(SYSTEM_PATHS.match(path))


def listing(cluster):
    """All paths of the cluster's folder that are not a member's own, and those of the folders above it."""
    outside = {path for path in cluster.folder.iterdir() if path not in [m.folder for m in cluster.members()]}
    for folder in [cluster.folder.parent, *cluster.folder.parent.parents]:
        # Other programs have folders there, too; what counts is what the names of attacks would make.
        outside |= {path for path in folder.iterdir() if MARK in path.name}
    return outside


class OpenedPaths:
    """All paths that members name in system calls inside a `with` block, by strace; without strace, none are known."""

    def __init__(self, cluster):
        self.cluster, self.process = cluster, None
        self.output = pathlib.Path(tempfile.mkdtemp(prefix="volley-strace-")) / "calls"

    def __enter__(self):
        program = shutil.which("strace")
        if program:
            words = [program, "-f", "-y", "-s", "4096", "-e", "trace=%file", "-o", self.output]
            words += [word for member in self.cluster.members() for word in ("-p", str(member.process.pid))]
            self.process = subprocess.Popen(words, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
            wait_until(lambda: self._is_attached() or self.process.poll() is not None, 20, "strace is attached")
            if self.process.poll() is not None:
                self.process = None  # The system does not permit it.
        return self

    def _is_attached(self):
        return all(tracer(thread) for member in self.cluster.members() for thread in threads(member.process.pid))

    @property
    def is_known(self):
        return self.process is not None

    def __exit__(self, *_):
        if self.process:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(20)
            self.text = self.output.read_text(errors="surrogateescape")
        shutil.rmtree(self.output.parent, ignore_errors=True)

    def foreign(self):
        """The calls that name a path outside of the data folder of their process, as text."""
        if not self.process:
            return []
        of_thread = {}
        for member in self.cluster.members():
            of_thread |= {thread: member for thread in threads(member.process.pid)}
        found = []
        for line in self.text.splitlines():
            thread, _, call = line.partition(" ")
            member = of_thread.get(int(thread))
            paths = paths_of(call.strip(), member.process.pid if member else None)
            members = [member] if member else self.cluster.members()  # A thread that has ended.
            found += [call for path in paths if not any(is_allowed(one, path) for one in members)]
        return found


def threads(pid):
    return [int(thread) for thread in os.listdir(f"/proc/{pid}/task")]


def tracer(thread):
    for line in open(f"/proc/{thread}/status"):
        if line.startswith("TracerPid:"):
            return int(line.split()[1])
    return 0


def paths_of(call, pid):
    """The absolute paths that a call names, without `..`."""
    name = call.partition("(")[0]
    if not name.isidentifier() or name in OTHER_CALLS:
        return []
    cwd = os.readlink(f"/proc/{pid}/cwd") if pid else "/"
    arguments, found = PATH_ARGUMENT.findall(call.partition(" = ")[0]), []
    # The second text of these calls is their answer.
    for folder, path in arguments[:1] if name.startswith("readlink") else arguments:
        text = codecs.decode(path.encode("latin-1", "replace"), "unicode_escape")
        found.append(os.path.normpath(os.path.join(folder or cwd, text)))
    return found
