"""All attacks, and the judgement of one: what it must not do to the members and to others."""

import dataclasses
import time

import hostile_names
import malformed_messages
import parquet_bodies
import queries
import readers
import strangers
from process_watch import ProcessWatch

ATTACKS = [*malformed_messages.ATTACKS, *hostile_names.ATTACKS, *strangers.ATTACKS, *readers.ATTACKS, *queries.ATTACKS, *parquet_bodies.ATTACKS]
# Others' 99th percentile under attack is at most this multiple of the undisturbed one, and this much more, seconds: attackers,
# bystander and members share this machine's processors.
TIMES, SLACK = 3, 0.1


@dataclasses.dataclass
class Verdict:
    """What one attack did."""

    notes: str
    failures: list
    # The bystander's 99th percentiles while the attack went on, seconds by kind; none if paths were recorded.
    p99: dict
    memory: str
    seconds: float

    def slower(self, undisturbed):
        """Kinds of calls that were over the limit, as sentences."""
        found = []
        for kind, quiet in undisturbed.items():
            limit = TIMES * quiet + SLACK
            if self.p99 and self.p99.get(kind, float("inf")) > limit:
                found.append(f"p99 of {kind} was {self.p99.get(kind, 0) * 1000:.0f} ms, the limit is {limit * 1000:.0f} ms")
        return found


def run_attack(cluster, bystander, attack, effort):
    """Runs an attack while a bystander works, and judges all but the bystander's latencies."""
    begin, notes, failures = time.monotonic(), "", []
    with ProcessWatch(cluster, attack.watches_paths) as watch, bystander:
        try:
            notes = attack.run(cluster, effort)
        except (AssertionError, OSError) as error:
            failures.append(f"{type(error).__name__}: {error}")
    # What was allowed to one attack may stay with the allocator.
    cluster.extra_bytes = max(cluster.extra_bytes, attack.extra_bytes(effort))
    failures += watch.failures()
    if bystander.errors:
        failures.append(f"{len(bystander.errors)} calls of another client failed, the first: {bystander.errors[0]}")
    p99 = {} if attack.watches_paths else bystander.p99()
    return Verdict(notes, failures, p99, watch.memory(), time.monotonic() - begin)


def undisturbed(bystander, seconds):
    """The bystander's 99th percentiles while nobody attacks; an error then is one of the suite."""
    with bystander:
        time.sleep(seconds)
    assert not bystander.errors, f"before any attack: {bystander.errors[0]}"
    return bystander.p99()


def chosen(names, is_open):
    """The attacks with these names, or all, that the cluster can be given."""
    known = {attack.name: attack for attack in ATTACKS}
    assert len(known) == len(ATTACKS)
    for name in names:
        if name not in known:
            raise SystemExit(f"there is no attack {name!r}; --list names them")
    return [attack for attack in ATTACKS if (not names or attack.name in names) and not (is_open and attack.needs_users)]


