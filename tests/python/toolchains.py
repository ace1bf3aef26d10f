"""Programs of other languages, built by the toolchains of the machine; a test is skipped where one is missing."""

import shutil
import subprocess

import pytest

# The first build fetches and compiles Arrow; later ones find it in the caches of the toolchains.
BUILD_SECONDS = 900


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
