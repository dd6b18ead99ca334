"""N steps are k steps, a restart and N - k steps, bit for bit, on two replicas."""

import pytest

from famus_tf import registry
from tests import restarts

# One method of each kind always; the others take another minute.
ALWAYS = ("ce", "mwnet_famus", "l2r")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in ALWAYS else pytest.mark.slow) for name in registry.method_names()]
)
def test_four_restarts_in_a_row_change_nothing_on_two_replicas(name, tmp_path, two_replicas):
    restarts.assert_restarts_change_nothing(name, tmp_path, two_replicas)
