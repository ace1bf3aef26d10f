"""Programs of other languages, built by the toolchains of the machine; a test is skipped where one is missing."""

import shutil
import subprocess
import tarfile

import pytest

# The first build fetches and compiles Arrow; later ones find it in the caches of the toolchains.
BUILD_SECONDS = 900
APACHE_ARROW_JS = "apache-arrow@21.2.0"
PACK_SECONDS = 120


def require(*programs):
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"not on this machine: {', '.join(missing)}")


def build(folder, *command, env=None):
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=BUILD_SECONDS)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def build_by_maven(folder):
    """Builds a project; returns the folder with its classes and its libraries."""
    require("java", "javac", "mvn")
    build(folder, "mvn", "-q", "-B", "package")
    return folder / "target"


def java_command(target, program):
    """The command line of a program with a Flight client: `target` is what `build_by_maven` returns."""
    opened = "--add-opens=java.base/java.nio=org.apache.arrow.memory.core,ALL-UNNAMED"
    return ["java", opened, "-cp", f"{target / 'classes'}:{target / 'libraries'}/*", program]


def apache_arrow_js(folder):
    """The one file of JavaScript's apache-arrow that has all of it, for browsers and Node, downloaded to `folder`."""
    command = ["npm", "pack", APACHE_ARROW_JS, "--silent"]
    packed = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PACK_SECONDS)
    if packed.returncode != 0:
        pytest.skip(f"npm does not have {APACHE_ARROW_JS}: {packed.stderr[-300:]}")
    file = folder / "arrow.js"
    with tarfile.open(folder / packed.stdout.split()[-1]) as package:
        file.write_bytes(package.extractfile("package/Arrow.es2015.min.js").read())
    return file
