"""Tests of famus_tf.meta.layer_sampling."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from famus_tf.config import LayerSamplerConfig
from famus_tf.errors import InputError
from famus_tf.meta import layer_sampling
from famus_tf.meta.layer_sampling import AllLayers, LayerBlock, RandomLayers
from tests.tiny_networks import conv_network


@pytest.fixture(scope="module")
def network():
    """8 trainable variables: 3 and 3 in two blocks (kernel, gamma, beta), 2 in the head."""
    return conv_network()


def step(number):
    return tf.constant(number, tf.int64)


def named(names):
    """A chain of dense layers with these names, two variables each."""
    x = inputs = keras.Input((2,))
    for name in names:
        x = keras.layers.Dense(2, name=name)(x)
    return keras.Model(inputs, x)


def test_top_positions_are_the_last_variables_or_all(network):
    assert layer_sampling.top_positions(network, 3) == (5, 6, 7)
    assert layer_sampling.top_positions(network, 8) == tuple(range(8))
    assert layer_sampling.top_positions(network, 0) == tuple(range(8))


def test_more_gated_variables_than_the_network_has_are_refused(network):
    with pytest.raises(InputError, match=r"9 gated variables .* has 8 trainable variables.* at most 8"):
        layer_sampling.top_positions(network, 9)


def test_the_last_layer_is_the_classifiers_kernel_and_bias(network):
    paths = [network.trainable_variables[p].path for p in layer_sampling.last_layer_positions(network)]
    assert paths == ["logits/kernel", "logits/bias"]


def test_the_last_layer_without_bias_is_one_variable():
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Dense(3, use_bias=False)(keras.layers.Dense(2)(inputs)))
    assert layer_sampling.last_layer_positions(model) == (2,)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["stem", "block01_conv1", "block01_conv2", "block02_conv1", "logits"], [(2, 3, 4, 5), (6, 7)]),
        (["conv1_conv", "conv2_block1_1_conv", "conv2_block2_1_conv", "conv3_block1_1_conv"], [(2, 3), (4, 5), (6, 7)]),
        (["Conv1", "block_1_expand", "block_1_project", "block_2_expand"], [(2, 3, 4, 5), (6, 7)]),
        (["block09_conv", "block10_conv"], [(0, 1), (2, 3)]),
        (["stem", "logits"], []),
    ],
)
def test_residual_blocks_are_found_by_their_names_bottom_to_top(names, expected):
    assert layer_sampling.residual_blocks(named(names)) == expected


def test_all_layers_opens_everything_statically(network):
    sampler = AllLayers()
    sampler.build(network, seed=0)
    assert sampler.is_static and sampler.positions == tuple(range(8))
    np.testing.assert_array_equal(sampler.gates([], [], step(0)), np.ones(8))
    assert sampler.variables == [] and sampler.parameters() == [] and sampler.updates([], [], step(0)) == []
    assert float(sampler.budget_loss(tf.ones([8]))) == 0.0


@pytest.mark.parametrize(("block", "positions"), [(1, (0, 1, 2)), (2, (3, 4, 5))])
def test_a_layer_block_opens_the_named_block_statically(network, block, positions):
    sampler = LayerBlock(LayerSamplerConfig(name="block", layer_block=block))
    sampler.build(network, seed=0)
    assert sampler.is_static and sampler.positions == positions
    np.testing.assert_array_equal(sampler.gates([], [], step(0)), np.ones(3))


def test_a_block_that_the_network_does_not_have_is_refused(network):
    with pytest.raises(InputError, match=r"--layer_block=3 .* has 2 residual blocks\. Choose 1 \(bottom\) to 2"):
        LayerBlock(LayerSamplerConfig(name="block", layer_block=3)).build(network, seed=0)


def test_a_network_without_blocks_is_pointed_to_other_samplers():
    with pytest.raises(InputError, match=r"has 0 residual blocks\. Choose another layer sampler\."):
        LayerBlock(LayerSamplerConfig(name="block")).build(named(["stem"]), seed=0)


def random_layers(network, count, gated_variables=5, seed=0):
    sampler = RandomLayers(LayerSamplerConfig(name="random", gated_variables=gated_variables, num_random_layers=count))
    sampler.build(network, seed=seed)
    return sampler


@pytest.mark.parametrize("count", [1, 3, 5])
def test_random_layers_opens_exactly_the_asked_number_of_the_top_variables(network, count):
    sampler = random_layers(network, count)
    assert not sampler.is_static and sampler.positions == (3, 4, 5, 6, 7)
    for number in range(20):
        gates = sampler.gates([], [], step(number)).numpy()
        assert set(gates.tolist()) <= {0.0, 1.0}
        assert gates.sum() == count


def test_random_layers_are_a_function_of_seed_and_step_alone(network):
    def choices(seed):
        sampler = random_layers(network, 2, seed=seed)
        return np.stack([sampler.gates([], [], step(number)).numpy() for number in range(20)])

    np.testing.assert_array_equal(choices(1), choices(1))
    assert np.any(choices(1) != choices(2))
    assert len(np.unique(choices(1), axis=0)) > 5


def test_every_gated_variable_is_opened_equally_often(network):
    sampler = random_layers(network, 2)
    gates = tf.function(lambda number: sampler.gates([], [], number))
    shares = np.mean([gates(step(number)) for number in range(2000)], axis=0)
    # Share 2/5; three standard errors over 2000 steps.
    assert np.abs(shares - 0.4).max() < 3.0 * np.sqrt(0.4 * 0.6 / 2000)


def test_more_random_layers_than_gated_variables_are_refused(network):
    with pytest.raises(InputError, match=r"--num_random_layers=6 is more than the 5 variables"):
        random_layers(network, 6)
