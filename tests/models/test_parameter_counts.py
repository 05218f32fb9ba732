"""Each network is the published one, down to the parameter: trainable ones are counted, as papers do.

A wrong kernel, a bias too many, a layer left out turn these red.
"""

import math

import keras
import pytest

from models import registry

IMAGENET = ((224, 224, 3), 1000)
PAPERS = [
    ("cifar10_tutorial", (24, 24, 3), 10, 1_068_298, "the tutorial"),
    ("cifar10_book", (32, 32, 3), 10, 40_330, "448 + 4,640 + 512*64+64 + 64*32+32 + 32*10+10"),
    ("cifar10_fast", (32, 32, 3), 10, 1_971_352, "24 biases, 3x3 kernels of 24-64-64-256-256-256-256, 1,152 offsets, a head of 2,560"),
    ("lenet5", (28, 28, 1), 10, 61_706, "LeCun et al. 1998, all maps connected: 156 + 2,416 + 48,120 + ..."),
    ("lenet5", (32, 32, 1), 10, 61_706, "the same: the border of the first layer is in the image"),
    ("googlenet", *IMAGENET, 6_998_552, "bvlc_googlenet of Caffe, without the auxiliary classifiers"),
    ("resnet18", *IMAGENET, 11_689_512, "torchvision"),
    ("resnet34", *IMAGENET, 21_797_672, "torchvision"),
    ("resnet50", *IMAGENET, 25_557_032, "torchvision"),
    ("resnet18", (32, 32, 3), 10, 11_173_962, "He et al.'s with a 3x3 stem, as in github.com/kuangliu/pytorch-cifar"),
    ("densenet121", *IMAGENET, 7_978_856, "torchvision, Keras"),
    ("densenet100", (32, 32, 3), 10, 769_162, "Huang et al. 2016, table 2: 0.8M"),
    ("densenet40", (32, 32, 3), 10, 176_122, "the paper's recipe with L = 40"),
    ("flowers_cnn", (192, 192, 3), 5, 300_033, "the codelab's table of layers"),
    ("flowers_cnn_flatten", (192, 192, 3), 5, 672 + 5_208 + 2_604 + 654 + 48 * 48 * 6 * 5 + 5, "its layers"),
    ("flowers_cnn_1x1", (192, 192, 3), 5, 896 + 3 * 9_248 + 4 * 1_056 + 4_624 + 136 + 12 * 12 * 8 * 5 + 5,
     "its layers"),
    ("autoencoder", (28, 28, 1), 0, 105_392, "784*64+64 + 64*32+32 + 32*64+64 + 64*784+784"),
    ("autoencoder_sigmoid", (512, 1, 1), 0, 25_648, "512*32+32 + 32*16+16 + 16*512+512"),
    ("forecaster_gru", (36, 1), 0, 3 * 8 * (1 + 8 + 2) + 8 * 12 + 12 + 24 * 12, "Keras's GRU of 8 units on 1 feature, a linear layer"),
    ("forecaster_lstm", (36, 1), 0, 4 * 8 * (1 + 8 + 1) + 8 * 12 + 12 + 24 * 12, "Keras's LSTM of 8 units on 1 feature, a linear layer"),
    ("alexnet_small", (32, 32, 3), 10, 4_361_034, "its own"),
    # 14,728,266 of github.com/kuangliu/pytorch-cifar, less the 4,224 biases in front of batch normalisation
    ("vgg16_small", (32, 32, 3), 10, 14_728_266 - 4_224, "pytorch-cifar"),
    ("vgg19_small", (32, 32, 3), 10, 14_724_042 + 2 * (9 * 512**2 + 2 * 512) + 9 * 256**2 + 2 * 256,
     "three layers more"),
    ("googlenet_small", (32, 32, 3), 10, 5_983_402, "its own"),
    ("applications/MobileNetV2", (96, 96, 3), 5, 2_257_984 - 34_112 + 1280 * 5 + 5, "Keras's, less moving statistics"),
]
LARGE = [
    ("alexnet", (227, 227, 3), 62_378_344, "Krizhevsky et al. 2012, on one device"),
    ("alexnet", *IMAGENET[:1], 62_378_344, "the same, with a border"),
    ("vgg16", *IMAGENET[:1], 138_357_544, "Keras, torchvision"),
    ("vgg19", *IMAGENET[:1], 143_667_240, "Keras, torchvision"),
]


def trainable(name, input_shape, classes, **options):
    model = registry.build(name, input_shape=input_shape, classes=classes, outputs=12, **options)
    return sum(math.prod(v.shape) for v in model.trainable_variables)


@pytest.fixture
def quick_initial_weights(monkeypatch):
    """Zeros: drawing a hundred million numbers takes half a minute."""
    def zeros(self, shape, dtype=None):
        return keras.ops.zeros(shape, dtype)

    monkeypatch.setattr(keras.initializers.HeNormal, "__call__", zeros)


@pytest.mark.parametrize("name, input_shape, classes, count, source", PAPERS, ids=lambda value: str(value)[:30])
def test_parameters_are_those_of_the_source(name, input_shape, classes, count, source):
    assert trainable(name, input_shape, classes) == count, source


@pytest.mark.slow
@pytest.mark.parametrize("name, input_shape, count, source", LARGE, ids=lambda value: str(value)[:30])
def test_parameters_of_large_networks_are_those_of_the_source(quick_initial_weights, name, input_shape, count, source):
    assert trainable(name, input_shape, 1000) == count, source


@pytest.mark.parametrize("blocks", [(1,), (1, 1, 1, 1), (3, 4, 6, 3)])
def test_resnet_takes_any_blocks(blocks):
    """18 with other blocks is what its arithmetic says: 3x3 kernels, scales and offsets, and shortcuts."""
    inputs, count = 64, 3 * 9 * 64 + 2 * 64
    for stage, number in enumerate(blocks):
        for block in range(number):
            filters = 64 * 2**stage
            count += 9 * inputs * filters + 9 * filters**2 + 4 * filters
            count += inputs * filters + 2 * filters if inputs != filters else 0
            inputs = filters
    assert trainable("resnet18", (32, 32, 3), 10, blocks=blocks) == count + inputs * 10 + 10


def test_small_images_keep_their_resolution_up_to_the_second_stage():
    for name in ("resnet18", "densenet40"):
        shapes = {}
        for size in (63, 64):
            model = registry.build(name, input_shape=(size, size, 3), classes=10)
            shapes[size] = [layer.output.shape[1] for layer in model.layers if layer.name in ("conv1", "pool1")]
        assert shapes[63][0] == 63 and shapes[64][:2] == [32, 16], name
