"""A writer whose Parquet files, put by HTTP, say that they take more memory than there is."""

from concurrent.futures import ThreadPoolExecutor

from attack import Attack, check_refused, tally
from hostile_parquet import PARQUET, huge_page
from http_calls import call

# How many are put at once.
WRITERS = 8


def huge_pages(cluster, effort):
    """Files with a page of 2 GiB, several at once: the process that decodes one ends, and the excess is told to try again."""
    body, told = huge_page(), []
    for member in (cluster.coordinators[0], cluster.nodes[0]):
        def put(_):
            answer = call(cluster, "PUT", "/api/v1/data/hostile/parquet", body=body, member=member, content_type=PARQUET,
                          **dict(cluster.headers("mallory")))
            document = answer.json()
            check_refused(f"Parquet at {member.name}", (document["code"], document["detail"], None), "http_(parquet_)?memory_bytes")
            return str(answer.status)
        statuses = []
        with ThreadPoolExecutor(WRITERS) as writers:
            for _ in effort.rounds():
                statuses += writers.map(put, range(effort.count(100)))
        assert set(statuses) <= {"413", "429"} and "413" in statuses, f"{member.name}: {tally(statuses)}"
        told.append(f"{member.name}: {tally(statuses)}")
    return "; ".join(told)


ATTACKS = [Attack("huge Parquet pages", "Parquet that takes any memory", huge_pages)]
