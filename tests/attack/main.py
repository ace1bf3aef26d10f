"""Attacks a cluster of real processes, as `cargo attack`, and says what it did to the members and to others.

    VOLLEY_BIN_DIR=target/release .venv/bin/python tests/attack/main.py [--open] [--seconds 10] [ATTACK...]

Exits with 1 if a member ended, had more anonymous memory than its limits, opened a foreign path, gave a wrong answer, refused
another client, or made it wait more than three times as long as before, twice in a row.
"""

import argparse
import os
import pathlib
import sys


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help="only these; --list names them")
    parser.add_argument("--list", action="store_true", help="name the attacks")
    parser.add_argument("--open", action="store_true", help="a cluster without users, in which everybody may do everything")
    parser.add_argument("--seconds", type=float, default=10, help="for how long each attack goes on [10]")
    parser.add_argument("--share", type=float, default=1, help="of the streams and connections of each attack [1]")
    parser.add_argument("--binaries", type=pathlib.Path, help="the folder of the programs [VOLLEY_BIN_DIR]")
    return parser.parse_args()


def milliseconds(p99):
    return "/".join(f"{seconds * 1000:.0f}" for seconds in p99.values()) or "-"


def main():
    asked = arguments()
    if asked.binaries:
        os.environ["VOLLEY_BIN_DIR"] = str(asked.binaries)
    # These read the variable.
    from attack import Effort
    from attack_cluster import AttackCluster
    from bystander import Bystander
    from suite import ATTACKS, chosen, run_attack, undisturbed

    if asked.list:
        for attack in ATTACKS:
            print(f"{attack.name:<24} {attack.about}")
        return 0
    attacks, effort, failed = chosen(asked.attacks, asked.open), Effort(asked.seconds, asked.share), []
    cluster = AttackCluster(asked.open)
    bystander = Bystander(cluster)
    # In reality attackers have machines of their own.
    os.nice(10)
    print("p99 in ms: put/connect/plan/first byte of another client; memory: the highest of coordinator/node", flush=True)
    try:
        for attack in attacks:
            for _ in range(2):
                quiet = undisturbed(bystander, asked.seconds)
                verdict = run_attack(cluster, bystander, attack, effort)
                # Slow only once: another program used the disk or the processors.
                if verdict.failures or not verdict.slower(quiet):
                    break
            problems = verdict.failures + verdict.slower(quiet)
            if attack.known_fault and asked.share == 1:
                problems = [] if problems else ["it did no harm: remove its known_fault"]
                verdict.notes = f"known fault: {attack.known_fault}"
            print(f"{'FAILED' if problems else 'ok':<7}{attack.name:<24}{verdict.seconds:5.0f} s  p99 {milliseconds(quiet)} -> "
                  f"{milliseconds(verdict.p99)}  memory {verdict.memory}  {verdict.notes}", flush=True)
            for problem in problems:
                print(f"       {problem}", flush=True)
            failed += [attack.name] if problems else []
            if any(not member.alive() for member in cluster.members()):
                print("       the other attacks need a cluster that lives")
                break
    finally:
        bystander.close()
        cluster.close()
    print(f"{len(attacks) - len(failed)} of {len(attacks)} attacks did no harm")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
