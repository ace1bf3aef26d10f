"""The text of /metrics, read by the strict parser of Prometheus's own client, and the table of metrics in docs/metrics.md."""

import pathlib
import re

from prometheus_client.openmetrics.parser import text_string_to_metric_families

PAGE = pathlib.Path(__file__).parents[2] / "docs/metrics.md"
# A row of the page: name, kind, unit, labels, owner.
ROW = re.compile(r"\| `(\w+)` \| (\w+) \| [^|]+ \| ([^|]*) \| ([^|]+) \|")


def families(text):
    """The metrics of a scrape by name.

    The strict parser reads OpenMetrics, which differs from the text in two points: the name of a counter is told without `_total`, and
    the text has an end. Clashing names, samples without a type, histograms with gaps and series that are there twice are errors.
    """
    lines = []
    for line in filter(None, text.splitlines()):
        words = line.split(" ")
        if words[0] == "#":
            words[2] = words[2].removesuffix("_total")
        lines.append(" ".join(words))
    found = text_string_to_metric_families("\n".join([*lines, "# EOF"]) + "\n")
    return {family.name + ("_total" if family.type == "counter" else ""): family for family in found}


def value(scraped, name, **labels):
    """The sum of the samples with this name, such as `NAME_count` of a histogram, and these labels; 0 without one."""
    samples = (sample for family in scraped.values() for sample in family.samples if sample.name == name)
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


def documented():
    """The page: the kind, the labels and the owner of each metric by name."""
    rows = ROW.findall(PAGE.read_text())
    return {name: (kind, set(re.findall(r"`(\w+)`", labels)), owner) for name, kind, labels, owner in rows}


def check_documented(scraped, role):
    """Every metric of a member, `coordinators` or `nodes`, is that of the page, with its labels."""
    page = documented()
    for name, family in scraped.items():
        kind, labels, owner = page[name]
        assert (family.type, family.documentation != "") == (kind, True), name
        assert owner in ("all members", role), f"{name} is of {owner}"
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == labels, (name, sample.labels)
