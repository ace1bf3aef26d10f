"""`volley` with users: its commands, its ways to log in, and what it refuses to send."""

import json
import os
import re
import shutil
import termios

import pyarrow as pa
import pytest

from browser import FormClient
from cluster import BIN, put, wait_until
from identity_cluster import ADMIN, token_id
from terminal import shown_at, start_at_terminal
from tls_cluster import volley

TABLE = pa.table({"i": pa.array(range(100), pa.int64()), "s": [f"text {i}" for i in range(100)]})


def done(result, code=0):
    assert result.returncode == code, result.stderr
    return result.stdout if code == 0 else result.stderr


def test_user_is_added_changed_and_removed(secured, name):
    ana, password = f"ana-{name[2:]}", secured.keep_password(f"ana-{name[2:]}")
    assert ana in done(secured.cli("user", "add", ana, "--group", "g", "--password-stdin", stdin=password + "\n"))
    secured.settle()
    who = json.loads(done(secured.cli("--json", "whoami", user=ana)))
    assert (who["principal"], who["method"], who["groups"], who["grants"]) == (ana, "password", ["g"], [])
    assert who["credential"] == "password"
    assert f"{ana}, by password, in the groups g\n" in done(secured.cli("whoami", user=ana))
    assert "exists already" in done(secured.cli("user", "add", ana, "--password-stdin", stdin=password), code=1)
    # One's own password, without a name.
    before, changed = secured.passwords[ana], secured.keep_password(ana)
    env = {"VOLLEY_PASSWORD": before}
    assert ana in done(secured.cli("user", "passwd", "--password-stdin", user=ana, stdin=changed, env=env))
    secured.settle()
    done(secured.cli("whoami", user=ana))
    done(secured.cli("user", "groups", ana, "--group", "h", "--group", "i"))
    listed = {user["user"]: user for user in json.loads(done(secured.cli("--json", "user", "ls")))}
    assert listed[ana]["groups"] == ["h", "i"] and listed[ana]["has_password"] and listed[ADMIN]["has_password"]
    assert ana in done(secured.cli("user", "ls"))
    assert "removed" in done(secured.cli("user", "rm", ana, "--yes"))
    assert "`volley user ls` lists the users" in done(secured.cli("user", "rm", ana, "--yes"), code=1)


@pytest.mark.parametrize("stdin, words", [("short\n", "8"), ("\n", "empty"), ("", "empty")])
def test_unusable_password_is_refused(secured, stdin, words):
    error = done(secured.cli("user", "add", "nobody-new", "--password-stdin", stdin=stdin), code=1)
    assert words in error and len(error.splitlines()) == 1
    assert "nobody-new" not in done(secured.cli("user", "ls"))


def test_password_is_never_on_the_command_line(secured):
    for words in (("user", "add", "x", "--password", "secret"), ("--password", "secret", "ls")):
        assert secured.cli(*words).returncode == 2


def test_without_a_terminal_the_way_to_give_a_password_is_named(secured):
    address = secured.address(secured.coordinators[0])
    error = done(volley("--cluster", address, "--user", ADMIN, "ls", stdin=""), code=1)
    assert "VOLLEY_PASSWORD" in error and "terminal" in error, error
    error = done(secured.cli("user", "add", "x", stdin=""), code=1)
    assert "--password-stdin" in error, error


def at_a_terminal(*words, typed):
    """Runs `volley` on a terminal of its own and types a line for each question; returns its exit code and what was shown."""
    # Questions are asked at the controlling terminal.
    process, master = start_at_terminal("setsid", "--ctty", "--wait", BIN / "volley", *words)
    shown, questions = "", 0
    for piece in shown_at(master):
        shown += piece
        if questions < len(typed) and shown.count(": ") > questions and shown.endswith(": "):
            # The question is shown before the terminal is told to hide the answer.
            wait_until(lambda: not termios.tcgetattr(master)[3] & termios.ECHO, 30, "the terminal hides what is typed")
            os.write(master, (typed[questions] + "\n").encode())
            questions += 1
    os.close(master)
    return process.wait(timeout=30), shown


@pytest.mark.skipif(shutil.which("setsid") is None, reason="setsid is missing: no terminal can be given to a command")
def test_passwords_are_asked_for_at_a_terminal_and_not_shown(secured, name):
    ana = f"ana-{name[2:]}"
    own, new = secured.passwords[ADMIN], secured.keep_password(ana)
    login = ("--cluster", secured.address(secured.coordinators[0]), "--user", ADMIN)
    code, shown = at_a_terminal(*login, "user", "add", ana, typed=[own, new, f"{new}-"])
    assert code == 1 and "the two passwords differ" in shown, shown
    code, shown = at_a_terminal(*login, "user", "add", ana, typed=[own, new, new])
    assert code == 0 and f"added user {ana}" in shown, shown
    assert f"Password of {ADMIN}: " in shown and own not in shown and new not in shown, shown
    secured.settle()
    done(secured.cli("whoami", user=ana))


def test_token_is_created_used_and_revoked(secured, name, tmp_path):
    ana = secured.add_user(("writer", name))
    put(secured.client(user=ana), name, TABLE)
    created = secured.cli("token", "create", "--user", ana, "--ttl", "1h", "--name", "nightly")
    token = secured.keep(done(created).strip())
    assert token_id(token) in created.stderr and token not in created.stderr
    secured.settle()
    file = tmp_path / "token"
    file.write_text(token + "\n")
    for member in secured.members():
        for flags, env in ((["--token-file", file], {}), ([], {"VOLLEY_TOKEN": token}), ([], {"VOLLEY_TOKEN_FILE": str(file)})):
            def run(*words):
                return secured.cli(*flags, *words, user=None, member=member, env=env)

            who = json.loads(done(run("--json", "whoami")))
            assert (who["principal"], who["method"], who["credential"]) == (ana, "service_token", f"token:{token_id(token)}")
            assert name in done(run("ls")) and "text 1" in done(run("get", name))
            assert "lacks the role owner" in done(run("drop", name, "--yes"), code=1)
    [listed] = json.loads(done(secured.cli("--json", "token", "ls", "--user", ana)))
    assert (listed["id"], listed["name"], listed["user"]) == (token_id(token), "nightly", ana)
    assert token_id(token) in done(secured.cli("token", "ls"))
    done(secured.cli("token", "revoke", token_id(token)))
    secured.refused_everywhere(token)
    assert "revoked" in done(secured.cli("--token-file", file, "ls", user=None), code=1)
    assert "`volley token ls` lists" in done(secured.cli("token", "revoke", token_id(token)), code=1)


def test_each_way_to_log_in_reads_and_writes(secured, name, tmp_path):
    ana = secured.add_user(("owner", name))
    file = tmp_path / "rows.csv"
    file.write_text("i,s\n1,one\n2,two\n")
    for member in (secured.coordinators[1], secured.nodes[1]):
        done(secured.cli("put", file, "--table", f"{name}/csv", "--mode", "replace", user=ana, member=member))
        out = tmp_path / f"{member.name}.csv"
        done(secured.cli("get", f"{name}/csv", "--output", out, user=ana, member=member))
        assert out.read_text().splitlines()[1:] == ["1,one", "2,two"]
        address = secured.address(member)
        env = {"VOLLEY_PASSWORD": secured.passwords[ana]}
        assert name in done(volley("--cluster", address, "--user", ana, "ls", env=env))
    done(secured.cli("drop", f"{name}/csv", "--yes", user=ana))


def test_contradicting_logins_are_refused(secured, tmp_path):
    address, file = secured.address(secured.coordinators[0]), tmp_path / "token"
    file.write_text("nonsense")
    for flags, env, words in (
        (["--user", "a", "--token-file", file], {}, "two ways"),
        ([], {"VOLLEY_USER": "a", "VOLLEY_TOKEN": "t"}, "both set"),
        ([], {"VOLLEY_PASSWORD": "a secret"}, "no user"),
        (["--token-file", tmp_path / "none"], {}, "cannot be read"),
        (["--token-file", file], {}, "log in"),
        ([], {}, "log in"),
    ):
        error = done(volley("--cluster", address, *flags, "ls", env=env), code=1)
        assert words in error and "a secret" not in error and len(error.splitlines()) == 1, error


@pytest.mark.parametrize("way", ["password", "token", "file"])
def test_login_is_not_sent_to_other_machines_without_tls(way, tmp_path):
    """No packet is needed to know it: the address is one of documentation, where nobody is."""
    file = tmp_path / "token"
    file.write_text("volley_0123456789abcdef_secret")
    flags, env = {
        "password": (["--user", "ana"], {"VOLLEY_PASSWORD": "a long password"}),
        "token": ([], {"VOLLEY_TOKEN": "volley_0123456789abcdef_secret"}),
        "file": (["--token-file", file], {}),
    }[way]
    error = done(volley("--cluster", "grpc://192.0.2.1:8815", *flags, "ls", env=env), code=1)
    assert "192.0.2.1:8815 without TLS" in error and "grpc+tls://" in error and "--plaintext-login" in error, error
    assert "secret" not in error and "a long password" not in error


def test_grants_are_made_listed_and_revoked(secured, name):
    ana = secured.add_user()
    put(secured.client(), f"{name}/t", TABLE)
    assert "granted reader" in done(secured.cli("grant", "reader", f"{name}/", "--to", f"user:{ana}", "--column", "i"))
    done(secured.cli("grant", "writer", f"{name}/own", "--to", f"user:{ana}"))
    secured.settle()
    assert "text 1" not in done(secured.cli("get", f"{name}/t", user=ana))
    columns = [column["name"] for column in json.loads(done(secured.cli("--json", "info", f"{name}/t", user=ana)))["columns"]]
    assert columns == ["i"]
    grants = json.loads(done(secured.cli("--json", "grants", name)))
    assert {(grant["role"], grant["prefix"], tuple(grant["columns"])) for grant in grants if grant["to"] == f"user:{ana}"} == {
        ("reader", name, ("i",)), ("writer", f"{name}/own", ())
    }
    assert ana in done(secured.cli("grants", name)) and name in done(secured.cli("whoami", user=ana))
    granted = secured.cli("grant", "reader", f"{name}/t", "--to", f"user:{ana}", "--column", "i,strnig")
    assert "granted" in done(granted) and 'has a column "strnig"' in granted.stderr and '"i"' not in granted.stderr
    done(secured.cli("revoke", "reader", f"{name}/t", "--to", f"user:{ana}"))
    # What somebody else may do, with what its groups may do.
    done(secured.cli("user", "groups", ana, "--group", f"g-{name[2:]}"))
    done(secured.cli("grant", "reader", "/", "--to", f"group:g-{name[2:]}"))
    of_ana = json.loads(done(secured.cli("--json", "grants", "--of", f"user:{ana}")))
    assert {(grant["role"], grant["prefix"]) for grant in of_ana} == {("reader", name), ("writer", f"{name}/own"), ("reader", "/")}
    done(secured.cli("revoke", "reader", "/", "--to", f"group:g-{name[2:]}"))
    secured.settle()
    assert f"user:{ana}" in done(secured.cli("grants", "--of", f"user:{ana}", user=ana))
    assert "only an administrator" in done(secured.cli("grants", "--of", f"user:{ADMIN}", user=ana), code=1)
    error = done(secured.cli("grant", "reader", name, "--to", f"user:{ana}", user=ana), code=1)
    assert "lacks the role owner" in error
    assert "revoked" in done(secured.cli("revoke", "reader", name, "--to", f"user:{ana}"))
    assert "there is no grant" in done(secured.cli("revoke", "reader", name, "--to", f"user:{ana}"), code=1)
    lines = secured.wait_audited(operation="revoke", table=name, result="NOT_FOUND")
    assert any(line["target"] == f"reader {name} user:{ana}" and "there is no grant" in line["reason"] for line in lines)
    secured.settle()
    assert "there is no table" in done(secured.cli("get", f"{name}/t", user=ana), code=1)


def test_quotas_are_set_listed_and_removed(secured, name):
    done(secured.cli("quota", "set", name, "--bytes", "1MiB", "--tables", "1"))
    put(secured.client(), f"{name}/t", TABLE)
    [quota] = json.loads(done(secured.cli("--json", "quota", "ls", name)))
    assert (quota["bytes"], quota["tables"], quota["tables_used"]) == (1 << 20, 1, 1) and quota["bytes_used"] > 0
    assert name in done(secured.cli("quota", "ls"))
    done(secured.cli("quota", "rm", name))
    assert f"there is no quota of {name}: `volley quota ls`" in done(secured.cli("quota", "rm", name), code=1)
    assert json.loads(done(secured.cli("--json", "quota", "ls", name))) == []


def test_operators_commands_work_for_operators_only(secured):
    ola, ana = secured.add_user(("operator", "/")), secured.add_user()
    for member in (secured.coordinators[2], secured.nodes[0]):
        assert len(json.loads(done(secured.cli("--json", "cluster", "status", user=ola, member=member)))["nodes"]) == 2
        assert "lacks the role operator" in done(secured.cli("cluster", "status", user=ana, member=member), code=1)


def test_doctor_and_status_report_what_is_open(own_secured):
    options = ("--public-metrics", "--shareable-tickets")
    cluster = own_secured(coordinators=1, nodes=1, coordinator_options=options, node_options=("--public-reflection",))
    nobody, ola = cluster.add_user(), cluster.add_user(("operator", "/"))
    expected = ("everybody reads /metrics of coordinator 1:", "may use gRPC reflection of node ", "every ticket at coordinator 1:")
    for member in cluster.members():
        # The node's settings come with its next heartbeat.
        report = wait_until(lambda: (text := done(cluster.cli("doctor", member=member))) and "reflection" in text and text, 30, "the node reports")
        status = done(cluster.cli("cluster", "status", member=member))
        for text in (report, status):
            assert all(words in text for words in expected) and f"nothing is granted to 1 user ({nobody})" in text, text
        assert "--insecure" not in report and "without TLS" not in report, "it listens on loopback"
    found = json.loads(done(cluster.cli("--json", "doctor")))
    assert found["well"] and len([one for one in found["found"] if one["warning"]]) == 4
    of_operator = done(cluster.cli("cluster", "status", user=ola))
    assert "nothing is granted to 1 user, who" in of_operator and nobody not in of_operator


def test_insecure_is_said_at_each_start_and_by_every_report(own):
    cluster = own(coordinators=1, nodes=1, coordinator_options=("--insecure",), node_options=("--insecure",))
    for member, port in zip(cluster.members(), (8835, 8836)):
        page = lambda: re.sub("<[^>]*>", "", FormClient(member.host, port).get("/ui/cluster")[2])
        commands = [lambda words=words: done(volley("--cluster", cluster.address(member), *words)) for words in (["doctor"], ["cluster", "status"])]
        for report in (page, *commands):
            # The node's settings come with its next heartbeat.
            wait_until(lambda: "--insecure is set at coordinator 1, node " in report(), 30, f"{member.name} reports both members")
    for member in cluster.members():
        warnings = lambda: member.log.read_text().count("--insecure is set: listeners without TLS accept other machines")
        assert warnings() == 1
        member.stop()
        member.start().wait_ready()
        assert warnings() == 2
