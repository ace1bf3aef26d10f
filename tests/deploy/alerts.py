"""Checks the alert rules and the dashboard of the chart: their metrics are those of docs/metrics.md, each alert has its section in
docs/operations.md and its test in alerts.test.yml; and, where `promtool` is installed (Debian's package `prometheus`), their syntax and the
tests of the rules."""

import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "deploy/helm/volley/files"
RULES = FILES / "alerts.yml"
TESTS = ROOT / "tests/deploy/alerts.test.yml"
SEVERITIES = {"critical", "warning", "info"}
# The variables of Grafana in queries, with values that the parser of Prometheus accepts.
VARIABLES = {"$__rate_interval": "5m", "$coordinators": "coordinators", "$nodes": "nodes"}


def rules():
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def queries():
    """The queries of the dashboard."""
    panels = json.loads((FILES / "dashboard.json").read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


def unknown_metrics(expressions):
    """The metrics that no member has."""
    known = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE))
    used = {name for text in expressions for name in re.findall(r"\b(?:volley|process)_\w+", text)}
    return {name for name in used if name not in known and re.sub(r"_(bucket|sum|count)$", "", name) not in known}


def documents(found):
    """What is wrong with the alerts and what is written about them."""
    names = {rule["alert"] for rule in found}
    sections = set(re.findall(r"^### (Volley\w+)$", (ROOT / "docs/operations.md").read_text(), re.MULTILINE))
    tested = {test["alertname"] for one in yaml.safe_load(TESTS.read_text())["tests"] for test in one["alert_rule_test"] if test["exp_alerts"]}
    for what, having in (("section in docs/operations.md", sections), ("test in tests/deploy/alerts.test.yml that it fires", tested)):
        if names != having:
            yield f"each alert has a {what}, but {sorted(names ^ having)} differ"
    for rule in found:
        if rule["labels"]["severity"] not in SEVERITIES or "for" not in rule:
            yield f"{rule['alert']} needs a severity of {sorted(SEVERITIES)}, and a time `for`"
        if rule["annotations"]["runbook"] != f"docs/operations.md#{rule['alert'].lower()}":
            yield f"{rule['alert']} does not lead to its section"


def promtool(*words):
    done = subprocess.run(["promtool", *map(str, words)], capture_output=True, text=True)
    return [f"promtool {words[0]} {words[1]}: {done.stdout}{done.stderr}"] if done.returncode else []


def by_promtool():
    """What promtool says of the rules, of their tests, and of the queries of the dashboard."""
    with tempfile.TemporaryDirectory() as folder:
        queried = Path(folder) / "queries.yml"
        expressions = queries()
        for variable, value in VARIABLES.items():
            expressions = [text.replace(variable, value) for text in expressions]
        records = [{"record": f"query_{at}", "expr": text} for at, text in enumerate(expressions)]
        queried.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": records}]}))
        return promtool("check", "rules", RULES) + promtool("check", "rules", queried) + promtool("test", "rules", TESTS)


def check():
    """What is wrong, a sentence each."""
    found = rules()
    wrong = [*documents(found)]
    for where, expressions in (("alerts.yml", [rule["expr"] for rule in found]), ("dashboard.json", queries())):
        unknown = unknown_metrics(expressions)
        if unknown:
            wrong.append(f"{where} has metrics that docs/metrics.md does not have: {sorted(unknown)}")
    if shutil.which("promtool"):
        wrong += by_promtool()
    else:
        print("promtool is not installed (Debian: prometheus): the syntax and the tests of the alert rules are not checked")
    print(f"{len(found)} alert rules, {len(queries())} queries of the dashboard")
    return wrong
