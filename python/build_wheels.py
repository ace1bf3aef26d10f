"""Builds the package for a release: a wheel for each machine, with the program `volley` in its scripts, and the source distribution;
then installs the wheel of this machine into an empty environment, and puts and gets a table. `cargo verify wheel` runs it.

maturin makes the module and the wheel. The program is added to the wheel here: maturin's own folder for such files must exist in every
build, also in one from the source distribution, which has no program. Both are linked by zig, for glibc 2.28 and later.
"""

import argparse
import base64
import hashlib
import os
import pathlib
import platform
import shutil
import subprocess
import tarfile
import tempfile
import venv
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
GLIBC = (2, 28)
# Targets of Rust, and the machines of their ELF files.
MACHINES = {"x86_64": ("x86_64-unknown-linux-gnu", 62), "aarch64": ("aarch64-unknown-linux-gnu", 183)}
# Files without which the source distribution does not build.
SOURCES = ("pyproject.toml", "Cargo.toml", "Cargo.lock", "volley/__init__.py", "volley/py.typed", "src/lib.rs")
# Without any other package: rows go over by Arrow's C interface.
TRY_OUT = """
import volley
with volley.dev(nodes=2) as cluster:
    db = cluster.connect(timeout=60)
    outcome = db.put("numbers", db.sql("SELECT 7 AS n"))
    assert outcome["rows"] == 1, outcome
    assert "7" in repr(db.get("numbers"))
"""


def run(*command, **options):
    print("$", *command, flush=True)
    subprocess.run([str(word) for word in command], check=True, **options)


def environment(tools):
    """The variables of builds: the tools come first, and what `cargo run` has set for its program is left out."""
    known = {name: value for name, value in os.environ.items() if not name.startswith(("CARGO_PKG_", "CARGO_MANIFEST_"))}
    return known | {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "CARGO_PROFILE_RELEASE_STRIP": "symbols"}


def installed(folder, *packages):
    """The programs of a new environment of Python with these packages."""
    venv.create(folder, clear=True, with_pip=True)
    programs = folder / "bin"
    run(programs / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages)
    return programs


def check_target(triple):
    found = subprocess.run(
        ["rustc", "--print", "target-libdir", "--target", triple], cwd=ROOT, capture_output=True, text=True, check=True
    )
    if not pathlib.Path(found.stdout.strip()).is_dir():
        raise SystemExit(f"Rust's library for {triple} is missing: rustup target add {triple}")


def build(machine, out, target, variables):
    """The wheel of a machine."""
    triple, elf = MACHINES[machine]
    check_target(triple)
    options = ("--release", "--locked")
    versioned = f"{triple}.{GLIBC[0]}.{GLIBC[1]}"
    program = ("-p", "volley", "--bin", "volley", "--target", versioned, "--target-dir", target)
    run("cargo", "zigbuild", *options, *program, cwd=ROOT, env=variables)
    tag = f"manylinux_{GLIBC[0]}_{GLIBC[1]}"
    wheel = ("--zig", "--target", triple, "--compatibility", tag, "--manifest-path", "python/Cargo.toml", "--out", out)
    run("maturin", "build", *options, *wheel, cwd=ROOT, env=variables | {"CARGO_TARGET_DIR": str(target)})
    [made] = out.glob(f"volley-*_{machine}.whl")
    add_program(made, target / triple / "release" / "volley")
    with zipfile.ZipFile(made) as files:
        for name in files.namelist():
            if name.endswith((".so", "scripts/volley")):
                machine_of_file = int.from_bytes(files.read(name)[18:20], "little")
                assert machine_of_file == elf, f"{name} of {made.name} is for the ELF machine {machine_of_file}, not {elf}"
    print(f"{made}: {made.stat().st_size / 1e6:.1f} MB")
    return made


def add_program(wheel, program):
    """Adds a program to the scripts of a wheel, and to its list of files."""
    base = "-".join(wheel.name.split("-")[:2])
    path, record = f"{base}.data/scripts/volley", f"{base}.dist-info/RECORD"
    content = program.read_bytes()
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    made = wheel.with_suffix(".new")
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as new:
        for item in old.infolist():
            if item.filename != record:
                new.writestr(item, old.read(item))
        entry = zipfile.ZipInfo(path)
        entry.external_attr = 0o100755 << 16
        entry.compress_type = zipfile.ZIP_DEFLATED
        new.writestr(entry, content)
        lines = old.read(record).decode().rstrip("\n")
        # The list is the last file of a wheel.
        new.writestr(old.getinfo(record), f"{lines}\n{path},sha256={digest},{len(content)}\n")
    made.replace(wheel)


def build_sources(out, variables):
    """The source distribution, with the crates of the workspace that the module needs."""
    run("maturin", "sdist", "--manifest-path", "python/Cargo.toml", "--out", out, cwd=ROOT, env=variables)
    [made] = out.glob("volley-*.tar.gz")
    with tarfile.open(made) as files:
        names = files.getnames()
    missing = [name for name in SOURCES if not any(found.endswith(f"/{name}") for found in names)]
    assert not missing, f"{made.name} lacks {missing}"
    assert any("/client/src/" in found for found in names), f"{made.name} lacks the crate of the client"


def try_out(wheel):
    """Installs a wheel where there is nothing else, starts a cluster by it, and puts and gets a table."""
    with tempfile.TemporaryDirectory(prefix="volley-wheel-") as name:
        folder = pathlib.Path(name)
        programs = installed(folder / "venv", wheel)
        hidden = ("VOLLEY_", "PYTHON")
        variables = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
        run(programs / "volley", "--version", cwd=folder, env=variables)
        run(programs / "python", "-c", TRY_OUT, cwd=folder, env=variables)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--machines", default=",".join(MACHINES), help="machines to build wheels for")
    parser.add_argument("--target-dir", type=pathlib.Path, default=ROOT / "target" / "wheel", help="cargo's folder")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "target" / "wheels", help="where wheels are put")
    options = parser.parse_args()
    out, target = options.out.resolve(), options.target_dir.resolve()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    tools = installed(target / "tools", "-r", ROOT / "python" / "requirements-build.txt")
    variables = environment(tools)
    build_sources(out, variables)
    wheels = {machine: build(machine, out, target, variables) for machine in options.machines.split(",")}
    if platform.machine() in wheels:
        try_out(wheels[platform.machine()])


main()
