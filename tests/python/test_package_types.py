"""The types of the Python package: mypy finds nothing in it and is of use to programs, and the stubs of the native module are right."""

import ast
import inspect
import pathlib
import re
import subprocess
import sys

import pytest
from volley import _volley

PACKAGE = pathlib.Path(__file__).resolve().parents[2] / "python"
#: A program with one error, in its last line.
PROGRAM = """
import volley

db = volley.connect("grpc://h:8815", timeout=3.0)
batch = next(iter(db.scan("trips", columns=["id"])))
rows: int = batch.num_rows
found: volley.Table = db.get("trips", where="id > 1")
remedy: str | None = volley.Error("text").remedy
wrong: str = batch.num_rows
"""


def mypy(tmp_path, *arguments, **variables):
    options = ["--config-file", PACKAGE / "pyproject.toml", "--cache-dir", tmp_path / "cache", *arguments]
    command = [sys.executable, "-m", "mypy", *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, cwd=PACKAGE, env={"PATH": "/usr/bin:/bin", **variables})


def test_mypy_finds_nothing_in_the_package(tmp_path):
    found = mypy(tmp_path, "volley")
    assert found.returncode == 0, found.stdout + found.stderr


def test_mypy_checks_programs_that_use_the_package(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    found = mypy(tmp_path, program, MYPYPATH=str(PACKAGE))
    errors = [line for line in found.stdout.splitlines() if ": error: " in line]
    assert len(errors) == 1 and f"program.py:{PROGRAM.count(chr(10))}: error: Incompatible types" in errors[0], found


def parameters(function):
    """The names of a function's parameters in the stubs."""
    names = [one.arg for one in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
    return [name for name in names if name != "self"]


def stubbed():
    """Classes and functions of the stubs."""
    tree = ast.parse((PACKAGE / "volley" / "_volley.pyi").read_text())
    return {node.name: node for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}


def native(found):
    """The names of the parameters of something native."""
    return [name for name in inspect.signature(found).parameters if name != "self"]


@pytest.mark.parametrize("name", stubbed())
def test_stubs_have_the_parameters_of_the_native_module(name):
    stub, found = stubbed()[name], getattr(_volley, name)
    if isinstance(stub, ast.FunctionDef):
        assert native(found) == parameters(stub)
        return
    members = {member.name: member for member in stub.body if isinstance(member, ast.FunctionDef)}
    public = {member for member in vars(found) if re.match(r"[a-z]|__arrow_", member)}
    assert public == members.keys() - {"__init__"}
    for member, definition in members.items():
        is_property = any(isinstance(one, ast.Name) and one.id == "property" for one in definition.decorator_list)
        if member != "__init__" and not is_property:
            assert native(getattr(found, member)) == parameters(definition), member


def test_every_native_name_has_a_stub():
    names = {name for name in vars(_volley) if not name.startswith("_")}
    assert names == set(stubbed())
