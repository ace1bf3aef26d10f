"""Objects of S3 and files of HTTP servers as files of `volley put` and `volley get`, against moto's server."""

import functools
import gzip
import http.server
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tls_cluster import volley

moto = pytest.importorskip("moto.server")
boto3 = pytest.importorskip("boto3")

# A server of S3 and its packages: only for a release.
pytestmark = pytest.mark.release

LOGIN = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true"}


@pytest.fixture(scope="module")
def storage():
    """The address of a server of S3 with the bucket `b`, and a client of it."""
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    s3 = boto3.client(
        "s3", endpoint_url=url, aws_access_key_id="a", aws_secret_access_key="b", region_name="us-east-1"
    )
    s3.create_bucket(Bucket="b")
    yield url, s3
    server.stop()


@pytest.fixture
def run(shared, storage):
    """Runs `volley` with the login of the server of S3; returns its standard output, or its error."""

    def call(*words, code=0):
        env = LOGIN | {"AWS_ENDPOINT_URL": storage[0]}
        result = volley("--cluster", shared.address(shared.coordinators[0]), *words, env=env)
        assert result.returncode == code, result.stdout + result.stderr
        return result.stdout if code == 0 else result.stderr

    return call


def write(storage, key, body):
    storage[1].put_object(Bucket="b", Key=key, Body=body)


def rows(run, name):
    return sorted(run("get", name, "-o", "-", "--format", "csv").splitlines()[1:])


def test_object_is_put_and_written(run, storage, name):
    write(storage, "one/t.csv.gz", gzip.compress(b"a,b\n1,x\n2,\n"))
    run("put", "s3://b/one/t.csv.gz", "--table", name)
    assert rows(run, name) == ["1,x", "2,"]
    run("get", name, "-o", "s3://b/one/back.csv.gz")
    body = storage[1].get_object(Bucket="b", Key="one/back.csv.gz")["Body"].read()
    assert gzip.decompress(body) == b"a,b\n1,x\n2,\n"
    run("get", name, "-o", "s3://b/one/back.parquet")
    run("put", "s3://b/one/back.parquet", "--table", name, "--mode", "append")
    assert len(rows(run, name)) == 4


def test_large_output_is_uploaded_in_parts(run, storage, name, tmp_path):
    table = pa.table({"n": range(300_000), "t": [f"{n:064d}" for n in range(300_000)]})
    pq.write_table(table, tmp_path / "t.parquet")
    run("put", tmp_path / "t.parquet", "--table", name)
    run("get", name, "-o", "s3://b/large/t.csv")
    assert storage[1].head_object(Bucket="b", Key="large/t.csv")["ContentLength"] > 20_000_000
    run("put", "s3://b/large/t.csv", "--table", f"{name}/back")
    assert len(rows(run, f"{name}/back")) == 300_000


def test_folders_and_patterns_of_keys(run, storage, name):
    write(storage, "t/y=1/a.csv", b"n\n1\n")
    write(storage, "t/y=2/b.csv", b"n\n2\n")
    write(storage, "t/y=2/", b"")
    write(storage, "t/_SUCCESS", b"")
    run("put", "s3://b/t/", "--table", name)
    assert rows(run, name) == ["1,1", "2,2"]
    run("put", "s3://b/t/y=*/b.csv", "--table", name)
    assert rows(run, name) == ["2,2"]
    assert "no object there" in run("put", "s3://b/t/*.parquet", "--table", name, code=1)
    assert "s3://b/none.csv: there is no such object" in run("put", "s3://b/none.csv", "--table", name, code=1)
    assert rows(run, name) == ["2,2"]


def test_file_of_an_http_server_is_put(run, name, tmp_path):
    (tmp_path / "t.csv").write_text("n\n1\n")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        run("put", f"{url}/t.csv?secret=s", "--table", name)
        assert rows(run, name) == ["1"]
        error = run("put", f"{url}/none.csv?secret=s", "--table", name, code=1)
        assert f"{url}/none.csv: the server has no such file" in error and "secret" not in error
        assert "can only be read" in run("get", name, "-o", f"{url}/back.csv", code=1)
        server.shutdown()
