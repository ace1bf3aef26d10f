"""Checks what deploy/release/archives packs, with the pages of man and the completions of the program that was built: the checksums, the
contents, and an SBOM that fits Cargo.lock. A script stands for the program in the archive, which would take long to compress."""

import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ARCHIVES = ROOT / "deploy/release/archives"
COMPLETIONS = {"volley.bash", "_volley", "volley.fish", "volley.ps1"}
# How shells read a script without running it.
SYNTAX = {"volley.bash": ["bash", "-n"], "_volley": ["zsh", "-n"], "volley.fish": ["fish", "--no-execute"]}


def run(*command, cwd=None):
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, cwd=cwd)


def commands():
    """The commands of volley, by the sections of docs/commands.md."""
    return re.findall(r"^### `(volley[^`]*)`$", (ROOT / "docs/commands.md").read_text(), re.M)


def content(folder):
    """What is wrong with an archive that was unpacked."""
    wrong = []
    version = run(folder / "volley", "--version")
    if not version.stdout.startswith("volley "):
        wrong.append(f"the program of the archive does not run: {version.stdout}{version.stderr}")
    for server in ("volley-coordinator", "volley-node"):
        if os.readlink(folder / server) != "volley":
            wrong.append(f"{server} is no link to volley")
    pages = {page.name for page in (folder / "man/man1").iterdir()}
    wrong += [f"{name} has no page of man" for name in commands() if f"{name.replace(' ', '-')}.1" not in pages]
    found = {script.name for script in (folder / "completions").iterdir()}
    if found != COMPLETIONS:
        wrong.append(f"the completions are {sorted(found)}")
    for name, shell in SYNTAX.items():
        if name in found and shutil.which(shell[0]):
            read = run(*shell, folder / "completions" / name)
            if read.returncode:
                wrong.append(f"{shell[0]} cannot read {name}: {read.stderr}")
    return wrong


def sbom(document):
    """What is wrong with an SBOM."""
    wrong = []
    lock = (ROOT / "Cargo.lock").read_text()
    components = {one["bom-ref"]: one for one in document["components"]}
    if len(components) != len(document["components"]):
        wrong.append("the SBOM has a component twice")
    for one in components.values():
        if f'name = "{one["name"]}"\nversion = "{one["version"]}"' not in lock:
            wrong.append(f"the SBOM has {one['bom-ref']}, which Cargo.lock has not")
        hashes = one.get("hashes", [])
        if not one["name"].startswith("volley") and [value for value in hashes if value["content"] in lock] == []:
            wrong.append(f"the SBOM has no checksum of {one['bom-ref']} that Cargo.lock has")
    known = components.keys() | {document["metadata"]["component"]["bom-ref"]}
    refs = {ref for entry in document["dependencies"] for ref in [entry["ref"], *entry["dependsOn"]]}
    if refs != known:
        wrong.append(f"components and dependencies of the SBOM differ by {sorted(refs ^ known)[:5]}")
    return wrong


def check(binaries):
    """What is wrong. Without programs, or without cargo and git, nothing is packed."""
    if not binaries or not shutil.which("cargo") or not shutil.which("git"):
        print("release: not checked, it needs --binaries, cargo and git")
        return []
    program = Path(binaries).resolve() / "volley"
    with tempfile.TemporaryDirectory() as name:
        folder, out = Path(name), Path(name) / "out"
        built = folder / "release"
        built.mkdir()
        (built / "volley").write_text(f'#!/bin/sh\nexec "{program}" "$@"\n')
        (built / "volley").chmod(0o755)
        packed = run(ARCHIVES, "--offline", "--out", out, built)
        if packed.returncode:
            return [f"deploy/release/archives: {packed.stderr.strip()}"]
        archive = Path(packed.stdout.strip())
        wrong = []
        sums = run("sha256sum", "--check", "--strict", "SHA256SUMS", cwd=out)
        if sums.returncode:
            wrong.append(f"SHA256SUMS: {sums.stdout}{sums.stderr}")
        unpacked = run("tar", "xzf", archive, cwd=folder)
        if unpacked.returncode:
            return [*wrong, f"{archive.name}: {unpacked.stderr}"]
        base = archive.name.removesuffix(".tar.gz")
        wrong += content(folder / base) + sbom(json.loads((out / f"{base}.cdx.json").read_text()))
        refused = run(ARCHIVES, "--offline", "--target", "x86_64-unknown-linux-musl", "--out", out, program.parent)
        if refused.returncode == 0 or "is not static, it needs /lib" not in refused.stderr:
            wrong.append(f"a program that needs a loader should be refused for musl: {refused.stdout}{refused.stderr}")
    if not wrong:
        print(f"release: {len(commands())} pages of man, {len(COMPLETIONS)} completions, an SBOM")
    return wrong
