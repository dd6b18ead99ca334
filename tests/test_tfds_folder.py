"""Tests of famus_tf.data.tfds_folder: what happens where a dataset is not there."""

import socket
import time
import types

import pytest
import tensorflow_datasets as tfds

from famus_tf.data import tfds_folder
from famus_tf.errors import InputError

URL = "https://www.example.org/files/cifar.tar.gz"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def unreachable(monkeypatch):
    tried = []

    def connect(address, timeout):
        tried.append((address, timeout))
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "create_connection", connect)
    return tried


def test_without_a_network_a_missing_dataset_fails_at_once_and_says_what_to_do(tmp_path, unreachable, capsys):
    started = time.monotonic()
    with pytest.raises(InputError) as caught:
        tfds_folder.find_or_download("cifar10", tmp_path)
    assert time.monotonic() - started < 10
    assert str(caught.value) == (
        f"cifar10 is not in {tmp_path} (looked for {tmp_path}/cifar10/<version>/dataset_info.json), and downloading it"
        " failed: ConnectionError: www.cs.toronto.edu cannot be reached (Name or service not known). On a machine with"
        " network, run\n  python -c \"import tensorflow_datasets as tfds; tfds.load('cifar10', data_dir='DIR')\"\n"
        f"and copy DIR/cifar10 to {tmp_path}/cifar10, or pass the folder that already holds cifar10 as --data_dir."
    )
    assert unreachable == [(("www.cs.toronto.edu", 443), 3.0)]
    assert capsys.readouterr().out == ""


def test_a_name_that_tensorflow_datasets_does_not_know_is_answered_with_the_nearest(tmp_path, unreachable):
    with pytest.raises(
        InputError, match="knows no dataset 'cifra10', and .* none of that name. Did you mean 'cifar10'"
    ):
        tfds_folder.find_or_download("cifra10", tmp_path)
    assert unreachable == []


def test_a_download_is_announced_in_one_line(tmp_path, monkeypatch, capsys):
    prepared = []

    def download_and_prepare():
        print("a great many words")
        prepared.append(True)

    builder = types.SimpleNamespace(
        url_infos={URL: None},
        info=types.SimpleNamespace(download_size="162.17 MiB"),
        download_and_prepare=download_and_prepare,
    )
    monkeypatch.setattr(tfds, "builder", lambda name, data_dir: builder)
    monkeypatch.setattr(socket, "create_connection", lambda address, timeout: types.SimpleNamespace(close=lambda: None))
    tfds_folder.download("cifar10", tmp_path)
    assert prepared == [True]
    assert capsys.readouterr().out == f"cifar10 is not in {tmp_path}: downloading it (162.17 MiB) ...\n"


def test_one_host_that_answers_is_enough(monkeypatch):
    tried = []

    def connect(address, timeout):
        tried.append(address)
        if address[0] != "b.org":
            raise TimeoutError("timed out")
        return types.SimpleNamespace(close=lambda: None)

    monkeypatch.setattr(socket, "create_connection", connect)
    tfds_folder.require_reachable(["http://b.org/x", "https://a.org/y", "https://a.org/z", "https://c.org/"])
    assert tried == [("a.org", 443), ("b.org", 80)]


def test_no_more_than_three_hosts_are_tried(unreachable):
    with pytest.raises(ConnectionError, match="a.org cannot be reached .*; b.org .*; c.org cannot be reached"):
        tfds_folder.require_reachable(f"https://{host}.org/x" for host in "dcba")
    assert len(unreachable) == 3


def test_behind_a_proxy_or_without_known_addresses_nothing_is_tried(unreachable, monkeypatch):
    tfds_folder.require_reachable([])
    monkeypatch.setenv("https_proxy", "http://proxy.example.org:3128")
    tfds_folder.require_reachable([URL])
    assert unreachable == []


def test_parts_of_a_name_are_told_apart():
    assert tfds_folder.parse_name("tfds:mnist") == ("mnist", "", "")
    assert tfds_folder.parse_name("tfds:so2sat/rgb-2.x:2.1.0") == ("so2sat", "rgb-2.x", "2.1.0")
    assert tfds_folder.parse_name("tfds:mnist:3.0.1") == ("mnist", "", "3.0.1")


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path):
    (tmp_path / "cifar10").touch()
    with pytest.raises(InputError, match="cifar10 cannot be listed .*; check the folder"):
        tfds_folder.find_or_download("cifar10", tmp_path)
