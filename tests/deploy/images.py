"""The images of the tests, built without an image registry."""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pyarrow

from steps import ROOT, TestFailure, run

# Python and pyarrow, for clients inside the cluster.
CLIENT = "volley-client:verify"
# The most that the image of a release may have, megabytes: every machine of a cluster loads it.
MAX_MB = 110
# Files of Python that a client does not need.
LEFT_OUT = re.compile(r"(^|/)(__pycache__|test|tests|idlelib|tkinter|ensurepip|site-packages|include|config-\d[^/]*)(/|$)|\.a$")


def volley(image, binaries):
    """Builds the image of the servers."""
    binaries = Path(binaries)
    if not (binaries / "volley-node").exists():
        raise TestFailure(
            f"{binaries}/volley-node does not exist: cargo build --release -p volley -p volley-coordinator -p volley-node, "
            "or name the folder of the binaries by --binaries"
        )
    run(ROOT / "deploy/docker/build-image", "-t", image, binaries)
    size = size_mb(image)
    if size > MAX_MB:
        raise TestFailure(f"{image} has {size} MB, more than {MAX_MB}: the binaries of {binaries} have grown, or are not those of a release build")
    return identity(image)


def identity(image):
    return run("docker", "image", "inspect", "--format", "{{.Id}}", image).stdout.strip()


def size_mb(image):
    return int(run("docker", "image", "inspect", "--format", "{{.Size}}", image).stdout) // 1_000_000


def client():
    """This Python, its pyarrow and the workload, as an image of one layer."""
    environment = {
        "PATH": "/usr/local/bin",
        "PYTHONHOME": "/usr/local",
        "PYTHONPATH": "/packages",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    changes = [word for name, value in environment.items() for word in ("--change", f"ENV {name}={value}")]
    command = ["docker", "import", *changes, "--change", 'ENTRYPOINT ["python", "/workload.py"]', "-", CLIENT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as importing:
        with tarfile.open(fileobj=importing.stdin, mode="w|") as tar:
            files_of_client(tar)
        importing.stdin.close()
    if importing.returncode:
        raise TestFailure(f"docker import ended with {importing.returncode}")


def files_of_client(tar):
    python = Path(os.path.realpath(sys.executable))
    standard = Path(sysconfig.get_paths()["stdlib"])
    packages = Path(pyarrow.__file__).parent
    programs = [python, *(standard / "lib-dynload").glob("*.so"), *packages.glob("*.so*")]
    add(tar, python, "usr/local/bin/python")
    add(tar, standard, f"usr/local/lib/{standard.name}")
    add(tar, packages, "packages/pyarrow")
    for library in libraries(programs, packages):
        add(tar, Path(os.path.realpath(library)), library.lstrip("/"))
    add(tar, Path(__file__).with_name("workload.py"), "workload.py")


def add(tar, path, name):
    """Adds files as owned by root and readable for all."""

    def kept(info):
        if LEFT_OUT.search(info.name):
            return None
        info.uid = info.gid = 0
        info.uname = info.gname = "root"
        info.mode |= 0o555 if info.isdir() or info.mode & 0o100 else 0o444
        return info

    tar.add(path, name, filter=kept)


def libraries(programs, besides):
    """The shared libraries of programs and the loader, without those in the folder `besides`."""
    listed = run("ldd", *programs).stdout
    found = re.findall(r"(?:=> |^\t)(/\S+) \(0x", listed, re.MULTILINE)
    return sorted({path for path in found if besides not in Path(path).parents})
