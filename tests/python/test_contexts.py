"""Contexts of `volley`: a login stores a token and no password, commands use it, a logout revokes it."""

import json
import stat
import tomllib

from cluster import wait_until
from identity_cluster import token_id
from tls_cluster import volley


def done(result, code=0):
    assert result.returncode == code, result.stderr
    return result.stdout if code == 0 else result.stderr


def log_in(secured, settings, user, context="prod", *words):
    """Logs in with a user's password; returns the answer, and the token that is stored."""
    address = secured.address(secured.coordinators[0])
    login = {"VOLLEY_USER": user, "VOLLEY_PASSWORD": secured.passwords[user], "XDG_CONFIG_HOME": str(settings)}
    answer = done(volley("login", "--context", context, "--cluster", address, "--json", *words, env=login))
    text = (settings / "volley" / "contexts.toml").read_text()
    assert secured.passwords[user] not in text
    secured.settle()
    return json.loads(answer), secured.keep(tomllib.loads(text)["contexts"][context]["token"])


def test_login_stores_a_token_that_logout_revokes(secured, tmp_path):
    ana, env = secured.add_user(), {"XDG_CONFIG_HOME": str(tmp_path)}
    answer, token = log_in(secured, tmp_path, ana, "prod", "--ttl", "1h")
    assert (answer["context"], answer["user"], answer["open"]) == ("prod", ana, False)
    assert answer["token_id"] == token_id(token)
    assert stat.S_IMODE((tmp_path / "volley" / "contexts.toml").stat().st_mode) == 0o600
    who = json.loads(done(volley("whoami", "--json", env=env)))
    assert (who["principal"], who["credential"]) == (ana, f"token:{token_id(token)}")
    for words in (("context", "ls"), ("context", "show"), ("context", "show", "--json")):
        shown = done(volley(*words, env=env))
        assert ana in shown and token not in shown
    assert f"its token {token_id(token)} is revoked" in done(volley("logout", env=env))
    wait_until(lambda: not secured.accepts(secured.coordinators[0], token), 60, "the token is revoked")
    error = done(volley("ls", env=env), code=1)
    assert "`volley login --context prod`" in error and "(request " in error, error


def test_second_login_revokes_the_token_of_the_first(secured, tmp_path):
    ana = secured.add_user()
    _, first = log_in(secured, tmp_path, ana)
    _, second = log_in(secured, tmp_path, ana)
    wait_until(lambda: not secured.accepts(secured.coordinators[0], first), 60, "the first token is revoked")
    assert secured.accepts(secured.coordinators[0], second)


def test_token_of_a_context_goes_to_no_other_cluster(secured, tmp_path):
    ana, env = secured.add_user(), {"XDG_CONFIG_HOME": str(tmp_path)}
    log_in(secured, tmp_path, ana)
    other = secured.address(secured.coordinators[1])
    error = done(volley("whoami", "--cluster", other, env=env), code=1)
    assert "volley login" not in error, "no context is used"


def test_login_without_credentials_names_the_ways(secured, tmp_path):
    address, env = secured.address(secured.coordinators[0]), {"XDG_CONFIG_HOME": str(tmp_path)}
    error = done(volley("login", "--cluster", address, env=env), code=1)
    assert "--token-file FILE" in error and not (tmp_path / "volley").exists(), error
