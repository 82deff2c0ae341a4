"""The way to a Ray cluster, and what is in it."""

import signal
import socket

import pytest

from heft.cluster import connection
from heft.cluster.connection import RayOptions, connected
from heft.cluster.nodes import nodes_of
from heft.errors import HeftError


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"address": "ray://10.0.0.1:10001"}, "Ray Client.*with --ray auto"),
        ({"address": "10.0.0.1"}, r"expected local, auto or HOST:PORT"),
        ({"address": "10.0.0.1:99999"}, r"expected local, auto or HOST:PORT"),
        ({"address": "10.0.0.1:²"}, r"expected local, auto or HOST:PORT"),
        ({"address": "local", "gpus_per_run": 2.0}, "--gpus-per-run 2: expected 0, or 0.0001 to 1.*uses one GPU"),
        ({"address": "local", "gpus_per_run": 1e-5}, "--gpus-per-run 1e-05: expected 0, or 0.0001 to 1"),
        ({"address": "local", "gpus_per_run": float("nan")}, "--gpus-per-run nan: expected 0, or 0.0001 to 1"),
        ({"address": "local", "cpus_per_run": 0}, "--cpus-per-run 0: expected 1 or more"),
        ({"address": "", "at_once": 0}, "(?s)--ray : expected.*--runs-at-once 0: expected 1 or more"),
    ],
)
def test_options_that_cannot_be_are_refused_all_at_once(options, words):
    with pytest.raises(HeftError, match=words):
        RayOptions(**options)


def test_a_missing_package_is_said_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setattr(connection, "find_spec", lambda name: None)
    with pytest.raises(HeftError, match=r"Ray, which is not installed: pip install 'heft\[ray\]'"), connected("local"):
        pass


def test_an_address_where_nobody_listens_is_said_at_once():
    pytest.importorskip("ray")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        port = taken.getsockname()[1]
        with pytest.raises(HeftError, match="nobody answers there .*ray start --head"), connected(f"127.0.0.1:{port}"):
            pass


@pytest.mark.parametrize("host", ["a..b", "a" * 70])
def test_a_host_that_no_machine_can_be_called_is_said(host):
    pytest.importorskip("ray")
    with pytest.raises(HeftError, match="nobody answers there"), connected(f"{host}:6379"):
        pass


def test_an_address_where_something_else_listens_is_said_after_a_while(monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setattr(connection, "SECONDS_TO_ANSWER", 2.0)
    monkeypatch.setattr(connection, "_SECONDS_TO_START", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(HeftError, match="no Ray cluster answers there"), connected(f"127.0.0.1:{port}"):
            pass


@pytest.mark.long
def test_a_local_cluster_has_this_machine_and_leaves_its_signals_alone():
    ray = pytest.importorskip("ray")
    if ray.is_initialized():
        ray.shutdown()
    before = signal.getsignal(signal.SIGTERM)
    with connected("local") as module:
        (node,) = nodes_of(module)
        assert node.cpus >= 1
        assert signal.getsignal(signal.SIGTERM) is before
    assert not ray.is_initialized()
