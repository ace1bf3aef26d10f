"""deploy/release/archives: what is in an archive, its SBOM and its checksums. A small script stands for the program."""

import hashlib
import json
import pathlib
import shutil
import subprocess
import tarfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = """#!/bin/sh
case "$1" in
  man) mkdir -p "$2" && echo page > "$2/volley.1" ;;
  completions) echo "completions of $2" ;;
esac
"""


def pack(binaries, out):
    command = [ROOT / "deploy/release/archives", "--offline", "--out", out, binaries]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=out.parent)


@pytest.mark.skipif(not shutil.which("cargo") or not shutil.which("git"), reason="cargo and git make the SBOM")
def test_archive_has_the_programs_an_sbom_and_checksums(tmp_path):
    binaries = tmp_path / "release"
    binaries.mkdir()
    missing = pack(binaries, tmp_path / "out")
    assert missing.returncode == 1 and "cargo build --release --locked -p volley" in missing.stderr
    program = binaries / "volley"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    packed = pack(binaries, tmp_path / "out")
    assert packed.returncode == 0, packed.stderr
    archive = pathlib.Path(packed.stdout.strip())
    name = archive.name.removesuffix(".tar.gz")
    with tarfile.open(archive) as content:
        entries = {entry.name.removeprefix(f"{name}/"): entry for entry in content}
        assert content.extractfile(entries["volley"]).read().decode() == PROGRAM
    assert entries["volley"].mode == 0o755 and entries["volley-node"].linkname == "volley"
    assert {"LICENSE", "man/man1/volley.1", "completions/_volley", "volley-coordinator"} <= entries.keys()

    sbom = json.loads((archive.parent / f"{name}.cdx.json").read_text())
    assert (sbom["bomFormat"], sbom["metadata"]["component"]["name"]) == ("CycloneDX", "volley")
    crates = {one["name"]: one for one in sbom["components"]}
    assert {"arrow", "tonic", "volley-node", "datafusion"} <= crates.keys() and "proptest" not in crates
    assert all("hashes" in one for one in sbom["components"] if not one["name"].startswith("volley"))
    refs = {one["bom-ref"] for one in sbom["components"]} | {sbom["metadata"]["component"]["bom-ref"]}
    assert {entry["ref"] for entry in sbom["dependencies"]} == refs
    assert all(ref in refs for entry in sbom["dependencies"] for ref in entry["dependsOn"])

    sums = dict(line.split("  ")[::-1] for line in (archive.parent / "SHA256SUMS").read_text().splitlines())
    assert sums == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in archive.parent.glob("volley-*")}
    first = archive.read_bytes()
    assert pack(binaries, tmp_path / "out").returncode == 0 and archive.read_bytes() == first
