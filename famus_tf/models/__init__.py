"""The networks: every builder returns a functional Keras model whose outputs are logits.

All are called as `build(input_shape, num_classes, *, seed, synchronized)`; `wide_resnet.build`
takes `depth` and `width` too. `plain_copy` turns such a model into one that stock Keras loads.
"""

from famus_tf.models import cifar_resnet, preact_resnet, small_cnn, wide_resnet
from famus_tf.models.normalization import FusedBatchNormalization, plain_copy

__all__ = [
    "FusedBatchNormalization",
    "cifar_resnet",
    "plain_copy",
    "preact_resnet",
    "small_cnn",
    "wide_resnet",
]
