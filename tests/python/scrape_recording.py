"""Recorded scrapes of a cluster, for `promtool` (Debian: `prometheus`): a pass over all members counts as a minute, so that rules that
wait for minutes are tested on faults that last seconds."""

import concurrent.futures
import http.client
import json
import re
import subprocess
import threading
import urllib.request

# A member that hangs is one that cannot be scraped. A coordinator waits a second for a leader.
SCRAPE_SECONDS = 4
PAUSE_SECONDS = 0.5
# More passes than any condition takes.
MOST_PASSES = 300
SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ScrapeRecording:
    """The series of some metrics, with a value, or what stands for none, for each pass."""

    def __init__(self, cluster, names):
        self.cluster, self.names = cluster, names
        self.series, self.passes = {}, 0

    def minute(self):
        """The time of the last pass."""
        return self.passes - 1

    def until(self, condition, what, least=1):
        """Makes passes until the condition is true, and this many at least."""
        for made in range(1, MOST_PASSES + 1):
            self._pass()
            if made >= least and condition(self):
                return
            threading.Event().wait(PAUSE_SECONDS)
        raise AssertionError(f"not within {MOST_PASSES} scrapes: {what}")

    def make(self, passes):
        """Makes this many passes."""
        self.until(lambda _: True, "passes are made", passes)

    def last(self, name, label=""):
        """The sum of a metric's samples in the last pass, of all members, or of those with a label as `state="held"`."""
        found = (values[-1] for key, values in self.series.items() if len(values) == self.passes and is_of(key, name, label))
        return sum(float(value) for value in found)

    def recorded(self, least):
        """The metrics of which a series has this many samples."""
        samples = {key: sum(value not in ("_", "stale") for value in values) for key, values in self.series.items()}
        return {key.partition("{")[0] for key, count in samples.items() if count >= least}

    def _pass(self):
        members = self.cluster.members()
        with concurrent.futures.ThreadPoolExecutor(len(members)) as threads:
            texts = list(threads.map(self._scrape, members))
        for member, text in zip(members, texts):
            job = "volley-coordinator" if member in self.cluster.coordinators else "volley-node"
            own = f'job="{job}", instance="{member.name}"'
            self._add(f"up{{{own}}}", 0 if text is None else 1)
            for line in (text or "").splitlines():
                sample = SAMPLE.match(line)
                if sample and sample[1] in self.names:
                    self._add(f"{sample[1]}{{{own}{f', {sample[2]}' if sample[2] else ''}}}", float(sample[3]))
        self.passes += 1

    def _scrape(self, member):
        port = 8835 if member in self.cluster.coordinators else 8836
        try:
            with OPENER.open(f"http://{member.host}:{port}/metrics", timeout=SCRAPE_SECONDS) as answer:
                return answer.read().decode()
        except (OSError, http.client.HTTPException):
            return None

    def _add(self, key, value):
        values = self.series.setdefault(key, [])
        values.extend(self._missing(values))
        values.append(f"{value:.9f}")

    def _missing(self, values):
        """What stands for the passes in which a series was not there: as Prometheus has it, it ends with the first of them."""
        missing = self.passes - len(values)
        return ["stale" if values else "_", *["_"] * (missing - 1)] if missing else []

    def check(self, rules, expressions):
        """Evaluates rules and expressions, each with its minute and what it gives: samples without labels. Returns what is wrong."""
        series = [{"series": key, "values": " ".join([*values, *self._missing(values)])} for key, values in self.series.items()]
        tests = [
            {"expr": text, "eval_time": f"{minute}m", "exp_samples": [{"labels": "{}", "value": value} for value in expected]}
            for text, minute, expected in expressions
        ]
        test = {"name": "recorded", "interval": "1m", "input_series": series, "promql_expr_test": tests}
        return promtool_test({"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": [test]})


def is_of(key, name, label):
    """Whether a series is one of a metric, with a label."""
    return key.startswith(f"{name}{{") and label in key


def promtool_test(document):
    """What `promtool test rules` says of a document if it fails; else nothing. JSON is YAML."""
    done = subprocess.run(
        ["promtool", "test", "rules", "/dev/stdin"], input=json.dumps(document), capture_output=True, text=True, timeout=300
    )
    return f"{done.stdout}{done.stderr}" if done.returncode else ""
