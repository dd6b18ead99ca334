"""TF_CONFIG: who the workers are, and which of them this process is."""

import pytest

from famus_tf.cluster import Cluster, cluster_from
from famus_tf.errors import InputError
from tests.worker_pair import tf_config


def test_workers_are_numbered_in_their_order_and_the_first_is_the_chief():
    first, second = (cluster_from(tf_config(index)) for index in (0, 1))
    assert first == Cluster(("a:1", "b:2"), 0) and first.is_chief
    assert second == Cluster(("a:1", "b:2"), 1) and not second.is_chief
    assert str(second) == "worker 1 of 2 (b:2)"


def test_a_job_called_chief_comes_before_the_workers():
    jobs = {"worker": ["b:2", "c:3"], "chief": ["a:1"]}
    assert cluster_from(tf_config(0, "chief", **jobs)) == Cluster(("a:1", "b:2", "c:3"), 0)
    assert cluster_from(tf_config(1, "worker", **jobs)) == Cluster(("a:1", "b:2", "c:3"), 2)


@pytest.mark.parametrize("text", [None, ""])
def test_a_missing_tf_config_is_refused_with_an_example(text):
    with pytest.raises(InputError, match="TF_CONFIG, which is not set. For worker 0 of two: TF_CONFIG='") as caught:
        cluster_from(text)
    example = str(caught.value).partition("TF_CONFIG='")[2].rstrip("'")
    assert cluster_from(example).addresses == ("10.0.0.1:2222", "10.0.0.2:2222")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Expecting property name"),
        ("[]", "list indices"),
        ("{}", "'cluster' is missing"),
        ('{"cluster": {"worker": ["a:1"]}}', "'task' is missing"),
        (tf_config(0, "ps"), "'ps' is missing"),
        (tf_config(2), "there is no worker 2"),
        (tf_config(-1), "there is no worker -1"),
        (tf_config("x"), "invalid literal"),
        (tf_config(worker=["a:1", "a"]), "an address is not host:port"),
        (tf_config(worker=["a:1", "a:1"]), "an address occurs twice"),
        (tf_config(worker=["a:1"], ps=["b:1"]), "take no part here"),
        (tf_config(worker=[1]), "not host:port|no attribute"),
    ],
)
def test_a_garbled_tf_config_is_refused_with_its_fault_and_an_example(text, reason):
    with pytest.raises(InputError, match=rf"cannot be used \(.*({reason}).*For worker 0 of two: TF_CONFIG="):
        cluster_from(text)
