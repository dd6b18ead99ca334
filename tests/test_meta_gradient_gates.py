"""Tests of famus_tf.meta.meta_gradient: which layers the gates let in, and no work below the lowest open one."""

import numpy as np
import pytest
import tensorflow as tf

from famus_tf import losses
from famus_tf.meta import meta_gradient
from famus_tf.meta.layer_sampling import AllLayers, layer_owners
from tests import tiny_networks
from tests.tiny_networks import ForcedGates, assert_all_close, meta_method

TRAIN = tiny_networks.batch(5, seed=1, dtype="float64")
META = tiny_networks.batch(4, seed=2, dtype="float64")
NUM_LAYERS = 8


@pytest.fixture(scope="module", autouse=True)
def in_double_precision():
    with tiny_networks.double_precision():
        yield


@pytest.fixture(scope="module")
def network(in_double_precision):
    """Convolution, batch norm, smooth activations, average pooling, dense head; 8 trainable variables."""
    return tiny_networks.conv_network()


def stages(method):
    virtual = method.virtual_train(TRAIN, tiny_networks.FIRST_STEP)
    return virtual, method.meta_train(virtual, META, tiny_networks.FIRST_STEP)


def test_an_open_gate_is_pushed_by_minus_and_a_closed_one_by_plus_the_aligned_gradients():
    training = [tf.constant([1.0, 2.0]), tf.constant([[3.0]]), tf.constant([1.0])]
    validation = [tf.constant([4.0, -1.0]), tf.constant([[2.0]]), tf.constant([5.0])]
    value = meta_gradient.gate_gradient(tf.constant([1.0, 0.0, 1.0]), training, validation, 0.5)
    np.testing.assert_array_equal(value, [-1.0, 3.0, -2.5])


def test_below_the_lowest_open_gate_no_loss_pushes_a_gate_even_where_its_gradient_is_at_hand():
    ones = [tf.constant([1.0])] * 4
    value = meta_gradient.gate_gradient(tf.constant([0.0, 0.0, 1.0, 0.0]), ones, ones, 0.5)
    np.testing.assert_array_equal(value, [0.0, 0.0, -0.5, 0.5])
    np.testing.assert_array_equal(meta_gradient.gate_gradient(tf.zeros([4]), ones, ones, 0.5), np.zeros(4))


@pytest.mark.parametrize("meta_model", ["mwnet", "l2r", "mlc"])
def test_all_gates_open_is_the_exact_gradient_to_the_last_bit(network, meta_model):
    _, exact = stages(meta_method(network, meta_model, AllLayers()))
    _, gated = stages(meta_method(network, meta_model, ForcedGates(1.0)))
    assert_all_close(gated.gradient, exact.gradient)
    assert np.array_equal(gated.loss, exact.loss)


@pytest.mark.parametrize("meta_model", ["mwnet", "l2r", "mlc"])
def test_no_gate_open_is_no_gradient_at_all(network, meta_model):
    _, meta = stages(meta_method(network, meta_model, ForcedGates(0.0)))
    assert all(np.all(np.asarray(g) == 0.0) for g in meta.gradient)
    assert not bool(meta.is_informed)
    np.testing.assert_array_equal(meta.gate_gradient[0], np.zeros(NUM_LAYERS))


def gradient_by_gates(method, sampler):
    """A function from gates to the flat meta-gradient."""

    def gradient_at(gates):
        sampler.values.assign(gates)
        _, meta = stages(method)
        return np.concatenate([np.ravel(g) for g in meta.gradient])

    return gradient_at


def test_a_gate_pattern_gives_the_sum_over_its_open_layers_alone(network):
    sampler = ForcedGates(0.0)
    at = gradient_by_gates(meta_method(network, "mwnet", sampler), sampler)
    alone = np.stack([at(row) for row in np.eye(NUM_LAYERS)])
    assert np.all(np.linalg.norm(alone, axis=1) > 0.0)
    for pattern in ([1, 1, 1, 1, 1, 1, 1, 1], [0, 0, 1, 0, 1, 1, 0, 1], [0, 0, 0, 0, 0, 0, 1, 0]):
        np.testing.assert_allclose(at(pattern), np.array(pattern) @ alone, rtol=1e-9, atol=1e-14)


def test_coarse_cuts_in_a_deep_network_give_the_gradient_of_all_cuts():
    deep = tiny_networks.deep_dense_network(8)
    num_layers = len(deep.trainable_variables)
    owners = layer_owners(deep)
    assert num_layers == 18 and meta_gradient.cut_points(owners, 0) == (0, 4, 8, 10, 14, 18)
    whole, cut = ForcedGates(0.0), ForcedGates(0.0)
    whole.is_static = True  # Nothing is cut, and the gates still multiply the gradients.
    whole_at = gradient_by_gates(meta_method(deep, "mlc", whole), whole)
    method = meta_method(deep, "mlc", cut)
    cut_at = tf.function(lambda: stages(method)[1].gradient[0])
    random = np.random.default_rng(0)
    for first in range(num_layers + 1):
        gates = np.zeros(num_layers)
        gates[first:] = random.uniform(size=num_layers - first) < 0.5
        gates[first : first + 1] = 1.0
        expected = whole_at(gates)
        cut.values.assign(gates)
        np.testing.assert_allclose(np.ravel(cut_at()), expected, rtol=1e-10, atol=1e-16)
        assert np.any(expected != 0.0) == (first < num_layers)


@pytest.mark.parametrize(
    ("owners", "num_always", "expected"),
    [
        ("abcd", 0, (0, 1, 2, 3, 4)),
        ("abcc", 2, (0, 1, 2)),
        ("cc", 2, (0,)),
        ("c", 2, (0,)),
        ("aabbccdd", 2, (0, 2, 4, 6)),
        ("aab", 0, (0, 2, 3)),
        ("abbcddeffghhiijj", 2, (0, 3, 6, 7, 10, 14)),
        ("abcdefghijk", 0, (0, 2, 4, 7, 9, 11)),
    ],
)
def test_cuts_lie_where_keras_layers_begin(owners, num_always, expected):
    assert meta_gradient.cut_points(owners, num_always) == expected


@pytest.mark.parametrize("num_layers", [8, 18, 40, 161])
@pytest.mark.parametrize("num_always", [0, 2])
def test_many_layers_get_at_most_the_allowed_cuts_from_the_bottom_to_the_last(num_layers, num_always):
    cuts = meta_gradient.cut_points(range(num_layers), num_always)
    assert len(cuts) <= meta_gradient.MAX_CUTS
    assert (cuts[0], cuts[-1]) == (0, num_layers - num_always)
    assert list(cuts) == sorted(set(cuts))
    assert max(np.diff(cuts)) <= np.ceil(cuts[-1] / (meta_gradient.MAX_CUTS - 1))


@pytest.mark.parametrize(("gates", "expected"), [([1, 0, 1], 0), ([0, 1, 1], 1), ([0, 0, 1], 2), ([0, 0, 0], 3)])
def test_the_lowest_open_gate_is_found(gates, expected):
    assert int(meta_gradient.lowest_open(tf.constant(gates, tf.float32))) == expected


@pytest.mark.parametrize(("num_layers", "num_always"), [(5, 0), (5, 2), (40, 0), (40, 2)])
def test_the_branch_is_the_highest_cut_at_or_below_the_lowest_open_gate(num_layers, num_always):
    cuts = meta_gradient.cut_points(range(num_layers), num_always)

    @tf.function(input_signature=[tf.TensorSpec([num_layers])])
    def chosen_cut(gates):
        return meta_gradient.switch_on_lowest_open(gates, cuts, tf.constant)

    for first in range(num_layers + 1):
        gates = np.zeros(num_layers, "float32")
        gates[first::2] = 1.0
        assert int(chosen_cut(gates)) == max(cut for cut in cuts if cut <= first)


def test_without_gates_everything_is_taken():
    assert int(meta_gradient.switch_on_lowest_open(None, (0, 1, 2), tf.constant)) == 0


@pytest.fixture(scope="module")
def switched_validation_gradients(network):
    """A compiled function from gates to q, and all of q."""
    weights = [tf.convert_to_tensor(v.value) for v in network.trainable_variables]
    state = [tf.convert_to_tensor(v.value) for v in network.non_trainable_variables]

    @tf.function(input_signature=[tf.TensorSpec([NUM_LAYERS])])
    def gradients(gates):
        validation = meta_gradient.forward_pass(network, weights, state, META["image"])
        with validation.tape:
            loss = tf.reduce_mean(losses.cross_entropy(validation.logits, META["label"]))
        cuts = tuple(range(NUM_LAYERS + 1))
        positions = range(NUM_LAYERS)
        return meta_gradient.validation_gradients(validation.tape, loss, weights, positions, gates, cuts)

    return gradients, gradients(tf.ones([NUM_LAYERS]))


@pytest.mark.parametrize("first", range(NUM_LAYERS + 1))
def test_validation_gradients_are_whole_at_and_above_the_cut_and_exactly_zero_below(
    switched_validation_gradients, first
):
    gradients, whole = switched_validation_gradients
    values = gradients(tf.cast(tf.range(NUM_LAYERS) >= first, tf.float32))
    for position, (value, expected) in enumerate(zip(values, whole, strict=True)):
        assert np.any(np.asarray(expected) != 0.0)
        if position < first:
            assert np.all(np.asarray(value) == 0.0)
        else:
            np.testing.assert_allclose(value, expected, rtol=1e-12)


def executed_operations(function):
    """The kinds of operations that a graph function's results depend on; the runtime prunes all others."""
    nodes = {node.name: node for node in function.node_def}
    waiting = [value.split(":")[0] for value in function.ret.values()]
    seen = set()
    while waiting:
        name = waiting.pop().lstrip("^")
        if name in nodes and name not in seen:
            seen.add(name)
            waiting.extend(entry.split(":")[0] for entry in nodes[name].input)
    return [nodes[name].op for name in seen]


def test_a_branch_executes_no_backward_convolution_below_its_cut(switched_validation_gradients):
    gradients, _ = switched_validation_gradients
    definition = gradients.get_concrete_function().graph.as_graph_def()
    functions = {function.signature.name: function for function in definition.library.function}
    (switch,) = (node for node in definition.node if node.op in ("Case", "StatelessCase"))
    counts = []
    for branch in switch.attr["branches"].list.func:
        operations = executed_operations(functions[branch.name])
        filters = sum(operation.startswith("Conv2DBackpropFilter") for operation in operations)
        inputs = sum(operation.startswith("Conv2DBackpropInput") for operation in operations)
        counts.append((filters, inputs))
    # Kernels are variables 0 and 3; the upper one passes the gradient on only where something below is wanted.
    assert counts == [(2, 1), (1, 1), (1, 1), (1, 0), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0)]
