"""The web page in Chromium: each page of a cluster with a node down, hostile names and cells, logins, forms, rights."""

import pyarrow as pa
import pytest

from browser import Browser, FormClient, require_chromium
from cluster import action, put
from identity_cluster import ADMIN, UserCluster, searched

RUN = "document.title = 'run'"
NAME = f'web/"><img src=x onerror="{RUN}">\'& é'
CELL = f"</td></table><script>{RUN}</script><img src=x onerror=\"{RUN}\">\u202e"
HOSTILE = pa.table({f"<b onclick={RUN}>": [CELL, None], "n": pa.array([1, 2], pa.int64())})
NUMBERS = pa.table({"n": pa.array(range(1_000), pa.int64()), "word": [f"w{n % 7}" for n in range(1_000)]})
HASTY = ("--node-timeout-ms", "2000")
PAGES = ("cluster", "tables", "activity", "sql", "who")


@pytest.fixture(scope="module")
def site():
    """A cluster with users, two tables, a writer and a reader of one."""
    cluster = UserCluster(coordinators=3, nodes=3, coordinator_options=HASTY)
    with cluster.client() as client:
        put(client, NAME, HOSTILE)
        put(client, "web/numbers", NUMBERS, shards=4, shard_by=["n"])
        put(client, "secret/numbers", NUMBERS)
    cluster.reader = cluster.add_user(("reader", "web"))
    cluster.writer = cluster.add_user(("writer", "web"))
    yield from searched(cluster)


@pytest.fixture
def browsers(tmp_path):
    """Makes browsers."""
    require_chromium()
    made = []

    def make(**options):
        made.append(Browser(tmp_path / f"profile{len(made)}", **options))
        return made[-1]

    yield make
    for browser in made:
        browser.close()


def base(site, member=None):
    return f"http://{(member or site.coordinators[0]).host}:8835"


def form_client(member, port=8835):
    return FormClient(member.host, port)


def log_in(browser, site, user=ADMIN, page="cluster"):
    browser.open(f"{base(site)}/ui/{page}")
    assert "/ui/login?next=" in browser.url
    browser.find("#user").send_keys(user)
    browser.find("#password").send_keys(site.passwords[user])
    browser.click("#login")
    assert browser.url == f"{base(site)}/ui/{page}"


def keep_session(site, client):
    """The secrets of a session are looked for in all logs."""
    site.keep(client.cookies["volley_session"])


def test_login_and_logout(browsers, site):
    browser = browsers()
    browser.open(f"{base(site)}/ui/tables?q=web")
    browser.check_page("login")
    browser.find("#user").send_keys(ADMIN)
    browser.find("#password").send_keys("wrong")
    browser.click("#login")
    assert browser.texts("#login-error") and browser.find("#user").get_attribute("value") == ADMIN
    browser.find("#password").send_keys(site.passwords[ADMIN])
    browser.click("#login")
    assert browser.url == f"{base(site)}/ui/tables?q=web" and browser.texts(".visitor .name") == [ADMIN]
    cookie = browser.driver.get_cookie("volley_session")
    site.keep(cookie["value"])
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/ui")
    assert browser.run("return document.cookie") == ""
    browser.click("#logout")
    assert browser.url == f"{base(site)}/ui/login" and browser.driver.get_cookie("volley_session") is None
    browser.open(f"{base(site)}/ui/who")
    assert "/ui/login?next=" in browser.url


def test_session_of_a_page_is_none_of_the_api(site):
    client = form_client(site.coordinators[0])
    status, headers, _ = client.login(ADMIN, site.passwords[ADMIN])
    assert (status, headers["location"]) == (303, "/ui/tables")
    keep_session(site, client)
    assert client.get("/ui/tables")[0] == 200
    # Browsers do not even send it there.
    assert client.get("/api/v1/tables")[0] == 401
    client.cookies["volley_session"] = "nonsense"
    status, headers, _ = client.get("/ui/tables")
    assert (status, headers["location"]) == (303, "/ui/login?next=%2Fui%2Ftables")
    assert "volley_session" not in client.cookies


def test_hostile_name_and_cells_are_text(browsers, site):
    browser = browsers()
    log_in(browser, site, page="tables")
    names = browser.texts("#tables tbody th")
    assert NAME in names
    browser.find(f"#tables tbody tr:nth-child({names.index(NAME) + 1}) a").click()
    browser.wait(lambda: browser.texts("#table-name") == [NAME], "the table's page")
    assert browser.texts("#preview thead th") == HOSTILE.column_names
    shown = browser.texts("#preview tbody td")
    assert shown == [CELL.replace("\u202e", "\\u{202e}"), "1", "null", "2"]
    browser.check_page("hostile")
    assert browser.all("main img, main script, main b") == [] and browser.driver.title.startswith(NAME)
    code = browser.texts("#code-python")[0]
    assert "volley.connect(" in code and site.coordinators[0].host in code
    browser.find("a[href^='/ui/sql?']").click()
    browser.wait(lambda: browser.all("#statement"), "the page SQL")
    browser.click("#run")
    assert browser.texts("#result tbody td") == shown and browser.complaints() == []


def test_reader_sees_what_it_may(browsers, site):
    browser = browsers()
    log_in(browser, site, site.reader)
    assert "for operators" in browser.find("main").text and browser.texts("#nodes") == []
    browser.open(f"{base(site)}/ui/tables")
    shown = browser.texts("#tables tbody th")
    assert {NAME, "web/numbers"} <= set(shown) and all(one.startswith("web/") for one in shown)
    for path in ("tables/secret/numbers", "activity"):
        browser.open(f"{base(site)}/ui/{path}")
        assert browser.texts("h1") in (["Not found"], ["Not permitted"]), path
    browser.open(f"{base(site)}/ui/who")
    assert browser.texts("h2") == ["You", "Grants", "Service tokens"]
    browser.open(f"{base(site)}/ui/sql")
    assert browser.texts("#read-only") and browser.all("#changes") == []
    browser.find("#statement").send_keys("CREATE TABLE web.stolen AS SELECT 1 AS one")
    browser.click("#run")
    assert "changes tables" in browser.texts("#sql-error")[0]


def test_statement_runs_page_by_page_and_is_explained(browsers, site):
    browser = browsers()
    log_in(browser, site, site.writer, page="sql")
    browser.find("#statement").send_keys("SELECT n FROM web.numbers ORDER BY n")
    browser.click("#run")
    assert browser.texts("#result tbody td") == [str(n) for n in range(100)]
    browser.click("#next")
    assert browser.texts("#result tbody td") == [str(n) for n in range(100, 200)]
    assert "Rows 101 to 200" in browser.texts("#result-note")[0]
    browser.click("#explain")
    assert any("PartScanExec" in text for text in browser.texts("#stages .operator-name"))
    assert any("row" in text for text in browser.texts("#stages .operator-figures"))
    browser.check_page("explained")
    browser.find("#statement").clear()
    browser.find("#statement").send_keys("CREATE TABLE web.made AS SELECT 7 AS seven")
    browser.click("#run")
    assert "tick" in browser.texts("#sql-error")[0]
    browser.find("#changes").click()
    browser.click("#run")
    assert browser.texts("#sql-done")[0].startswith("CREATE") and not browser.find("#changes").is_selected()
    with site.client() as client:
        assert action(client, "get_stats", {"table": "web/made"})["rows"] == 1


def test_result_is_downloaded_in_each_format(site):
    client = form_client(site.nodes[0], 8836)
    client.login(site.reader, site.passwords[site.reader])
    keep_session(site, client)
    fields = {"sql": "SELECT n FROM web.numbers WHERE n < 3 ORDER BY n", "format": "csv"}
    status, headers, text = client.send("/ui/sql/download", fields, page="/ui/sql")
    assert (status, text) == (200, "n\n0\n1\n2\n")
    assert headers["content-disposition"] == 'attachment; filename="result.csv"'
    status, _, text = client.send("/ui/sql/download", fields | {"sql": "DROP TABLE web.numbers"}, page="/ui/sql")
    assert status == 400 and "no rows to download" in text


def test_form_of_another_site_changes_nothing(site):
    victim, other = form_client(site.coordinators[0]), form_client(site.coordinators[0])
    for client, user in ((victim, ADMIN), (other, site.add_user(("reader", "web")))):
        assert client.login(user, site.passwords[user])[0] == 303
        keep_session(site, client)
    drop = {"sql": "DROP TABLE web.numbers", "changes": "yes", "do": "run"}
    token = action(site.client(), "create_token", {"user": ADMIN, "ttl_s": 60})
    site.keep(token["token"])
    for fields in ({}, {"csrf": ""}, {"csrf": other.csrf("/ui/sql")}):
        for path, form in (("/ui/sql", drop), ("/ui/who/revoke", {"id": token["id"]}), ("/ui/logout", {})):
            status, _, text = victim.send(path, form | fields)
            assert status == 403 and "reload the page" in text, (path, fields)
    status, _, text = victim.send("/ui/sql", drop, page="/ui/sql", origin="https://evil.example")
    assert status == 403 and "evil.example" in text
    assert "volley_session" in victim.cookies
    assert action(site.client(), "get_stats", {"table": "web/numbers"})["rows"] == 1_000
    assert token["id"] in [one["id"] for one in action(site.client(), "list_tokens")]
    status, headers, _ = victim.send("/ui/who/revoke", {"id": token["id"]}, page="/ui/who")
    assert (status, headers["location"]) == (303, "/ui/who")
    assert token["id"] not in [one["id"] for one in action(site.client(), "list_tokens")]


def test_every_response_has_a_strict_policy(site):
    stranger, client = form_client(site.coordinators[0]), form_client(site.coordinators[0])
    client.login(ADMIN, site.passwords[ADMIN])
    keep_session(site, client)
    paths = ["/ui/login", "/ui/assets/none", "/ui/none", "/ui/tables/web/numbers"]
    for path in paths + [f"/ui/{page}" for page in PAGES]:
        _, headers, text = (stranger if path == "/ui/login" else client).get(path)
        policy = headers["content-security-policy"]
        assert "script-src 'self'" in policy and "unsafe" not in policy and "form-action 'self'" in policy, path
        assert headers["cache-control"] == "no-store" and headers["x-frame-options"] == "DENY", path
        assert " style=" not in text and "<style" not in text and " onclick=" not in text, path


def test_open_cluster_needs_no_login(browsers, shared, name):
    put(shared.client(), name, NUMBERS)
    browser = browsers()
    browser.open(f"http://{shared.nodes[0].host}:8836/")
    assert browser.url.endswith("/ui/cluster") and browser.texts(".tag") == ["no users"]
    assert len(browser.all("#nodes tbody tr")) == 4 and len(browser.all("#coordinators tbody tr")) == 3
    browser.open(f"http://{shared.nodes[0].host}:8836/ui/tables?q={name}")
    assert browser.texts("#tables tbody th") == [name]
    browser.open(f"http://{shared.nodes[0].host}:8836/ui/sql")
    browser.find("#statement").send_keys("SELECT 1 AS one")
    browser.click("#run")
    assert browser.texts("#result tbody td") == ["1"] and browser.complaints() == []


def test_pages_work_without_javascript(browsers, site):
    browser = browsers(javascript=False)
    log_in(browser, site)
    assert len(browser.all("#coordinators tbody tr")) == 3
    for page in PAGES:
        browser.open(f"{base(site)}/ui/{page}")
        assert len(browser.all("main h1")) == 1, page


def test_keyboard_reaches_the_content_first(browsers, site):
    from selenium.webdriver.common.keys import Keys

    browser = browsers()
    log_in(browser, site)
    browser.find("body").send_keys(Keys.TAB)
    skip = browser.driver.switch_to.active_element
    assert skip.text == "Skip to content"
    skip.send_keys(Keys.ENTER)
    browser.wait(lambda: browser.driver.switch_to.active_element.get_attribute("id") == "main", "the content has the focus")


def holder(site, table):
    """A node with parts of a table."""
    shards = action(site.client(), "explain", {"table": table})["shards"]
    return next(node for node in site.nodes if shards[0]["holders"][0]["address"] == f"{node.host}:8816")


def test_each_page_of_a_cluster_with_a_node_down(browsers, site):
    browser = browsers()
    log_in(browser, site)
    browser.wait(lambda: browser.texts("#health") == ["green"] and browser.texts("#live-state") == ["· live"], "green and live")
    browser.check_page("cluster-green")
    down = holder(site, "web/numbers")
    down.kill()
    try:
        look_at_pages(browser, site)
    finally:
        down.start().wait_ready()


def look_at_pages(browser, site):
    """Each page, while a node is down."""
    # The page that is open says so by itself.
    browser.wait(lambda: browser.texts("#health") == ["yellow"], "the page turns yellow")
    browser.wait(lambda: any("What to do:" in text for text in browser.texts("#reasons li")), "a reason with a remedy")
    browser.wait(lambda: len(browser.all("#nodes .badge.bad")) == 1, "one node is unreachable")
    assert len(browser.all(".node.bad")) == 1 and len(browser.all(".zone")) == 2
    for page in PAGES:
        browser.open(f"{base(site)}/ui/{page}")
        browser.check_page(page)
    browser.open(f"{base(site)}/ui/tables/web/numbers")
    assert len(browser.all("#shards tbody tr")) == 4 and len(browser.all("#shards .cell.bad")) >= 1
    assert browser.texts("#preview thead th") == ["n", "word"] and len(browser.all("#preview tbody tr")) == 100
    browser.check_page("table")
    browser.open(f"{base(site)}/ui/activity")
    browser.wait(lambda: len(browser.all(".chart svg polyline")) >= 3, "charts")
    browser.open(f"{base(site)}/ui/who")
    assert ADMIN in browser.texts("#users tbody td") and browser.texts("#audit tbody tr")
