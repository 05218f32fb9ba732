"""The recipes: functions that return a Config. Each docstring gives the command, the time and the result.

    RECIPES["cifar10_tutorial"]()

Times are of 2 CPU cores with AVX512_BF16, shared with other work. CIFAR-10 is the JPEG re-encoded set.
"""
import dataclasses

from input_pipeline.rules import shown, suggestion
from trainer.config import Config, UserError

CIFAR10_PIXELS = "normalize:120.7:64.2"  # mean and standard deviation of the training set


def digits() -> Config:
    """The embedded default: 8x8 handwritten digits that ship inside scikit-learn, a small CNN.

    python -m trainer.main

    1,348 steps in 15 s on 2 CPU cores; precision @ 1 on the 360 held-out digits, moving averages:
    mean 0.994, standard deviation 0.003 (n = 5 seeds).
    """
    return Config(train_epochs=60, learning_rate=0.004, optimizer="adamw", weight_decay=0.05, label_smoothing=0.1,
                  histogram_steps=200, checkpoint_steps=200)


def cifar10_tutorial() -> Config:
    """The TensorFlow CIFAR-10 tutorial: its distortions, network, loss, decay and moving averages.

    python -m trainer.main --recipe=cifar10_tutorial --data_dir=DATA --download --num_gpus=2 --emulate

    30,000 of its 1,000,000 steps on 2 emulated replicas in bfloat16, 68 min on 2 busy CPU cores: precision @ 1 0.820 with the moving
    averages, 0.776 without (n = 1, seed 0; CIFAR-10, JPEG re-encoded; 10,000 test images).
    """
    return Config(
        recipe="cifar10_tutorial", model="cifar10_tutorial", dataset="cifar10",
        augment="crop:24,flip,brightness:63,contrast:0.2:1.8,standardize",
        train_steps=1_000_000, train_epochs=0, global_batch_size=128,
        optimizer="sgd", learning_rate=0.1, lr_schedule="exponential", decay_epochs=350, decay_rate=0.1,
        staircase=True, weight_decay=0.004, ema_decay=0.9999, max_skipped_steps=0)


def cifar10_cnn() -> Config:
    """The convolutional network of "TensorFlow in Action", chapter 4: raw pixels, Adam, 25 epochs of batches of 32.

    python -m trainer.main --recipe=cifar10_cnn --data_dir=DATA --download

    39,063 steps in 5 min beside other work; training accuracy, the running mean of the 25th epoch: 0.722 (n = 1, seed 0).
    """
    return Config(
        recipe="cifar10_cnn", model="cifar10_book", dataset="cifar10", augment="", train_epochs=25,
        global_batch_size=32, optimizer="adam", learning_rate=0.001, lr_schedule="constant", precision="float32",
        ema_decay=0.999, log_steps=100, summary_steps=1000, histogram_steps=5000, checkpoint_steps=5000)


def mnist_autoencoder() -> Config:
    """The denoising autoencoder of "TensorFlow in Action", chapter 4: half of the pixels are set to 0, 784-64-32-64-784.

    python -m trainer.main --recipe=mnist_autoencoder --data_dir=DATA --download

    9,375 steps in under 3 min beside other work; training MSE, the running mean of the 10th epoch: 0.0774; the book prints
    0.0777. Test MSE of the last weights 0.0754 (n = 1, seed 0; the last line of train/metrics.jsonl).
    """
    return Config(
        recipe="mnist_autoencoder", model="autoencoder", dataset="mnist", augment="normalize:128:128,mask:0.5",
        train_epochs=10, global_batch_size=64, optimizer="adam", learning_rate=0.001, lr_schedule="constant",
        precision="float32", ema_decay=0.999, log_steps=100, summary_steps=500, histogram_steps=2000)


def mnist_lenet5() -> Config:
    """LeNet-5 on MNIST.

    python -m trainer.main --recipe=mnist_lenet5 --data_dir=DATA --download

    3,750 steps in 1 min; precision @ 1 on the 10,000 test images 0.992, with moving averages and without (n = 1, seed 0).
    """
    return Config(
        recipe="mnist_lenet5", model="lenet5", dataset="mnist", augment="pad_crop:2,normalize:33.3:78.6", train_epochs=8,
        global_batch_size=128, optimizer="adamw", learning_rate=0.002, weight_decay=0.01, ema_decay=0.999,
        precision="float32", log_steps=50, summary_steps=500, histogram_steps=2000)


def _cifar10(name: str, model: str, **changes) -> Config:
    """Any larger network on CIFAR-10: padded crops and flips, SGD with momentum, a linear fall to zero."""
    return dataclasses.replace(Config(
        recipe=name, model=model, dataset="cifar10", augment=f"pad_crop:4:reflect,flip,{CIFAR10_PIXELS}", train_epochs=30,
        global_batch_size=128, optimizer="sgd", momentum=0.9, nesterov=True, learning_rate=0.05, lr_schedule="linear",
        warmup_steps=200, weight_decay=5e-4, label_smoothing=0.1, ema_decay=0.998, summary_steps=500,
        histogram_steps=0, checkpoint_steps=500, log_steps=20), **changes)


def cifar10_fast() -> Config:
    """A CIFAR-10 speed run in the manner of airbench94 with Muon (Jordan 2024, arXiv:2404.00498): 9 epochs of batches of 2,000.

    python -m trainer.main --recipe=cifar10_fast --data_dir=DATA --download

    225 steps in 17 min beside other work. Precision @ 1 on the 10,000 test images, mirrored and shifted copies averaged: mean
    0.9062, standard deviation 0.0028; without copies 0.8955, 0.0014 (n = 3, seeds 0 to 2, bfloat16). A PyTorch version, 8 epochs:
    0.9063, 0.0008; 0.8979, 0.0006 (n = 3). A step takes 0.67 of the time of PyTorch's (AVX512_BF16, n = 10: 0.61 to 0.73; before,
    on an earlier day, 1.03, and on another machine 0.76), on an Intel Xeon in float32 0.60 (n = 5). The three seeds were trained
    before filters learned by products and convolutions left out what poolings drop, the same sums in another order; with them seed 0
    has 0.9062; 0.8973.
    """
    return Config(
        recipe="cifar10_fast", model="cifar10_fast", dataset="cifar10",
        augment="flip_alternate,pad_crop:2:reflect,normalize_rgb:125.307:122.961:113.858:62.985:62.093:66.708",
        test_time_augmentation="mirror_shift", train_epochs=9, global_batch_size=2000, optimizer="muon_sgd",
        # The original's 0.053 and 0.67 are for gradients of a sum: times 2,000. 0.724 is the square of the network's SLOPE.
        learning_rate=0.24, bias_learning_rate=0.053 * 2000 * 0.724, head_learning_rate=0.67 * 2000, momentum=0.6,
        weight_decay=0.004, whiten_epochs=3, lr_schedule="linear", label_smoothing=0.2, ema_decay=0.0,
        summary_steps=100, histogram_steps=0, checkpoint_steps=50, log_steps=5)


def cifar10_resnet18() -> Config:
    """ResNet-18 (blocks 2, 2, 2, 2; 3x3 stem) on CIFAR-10 in 10 epochs.

    python -m trainer.main --recipe=cifar10_resnet18 --data_dir=DATA --download

    3,907 steps in 2 h beside other work (1.4 s a step, the median): precision @ 1 on the 10,000 test images 0.884, 0.883 with moving
    averages (n = 1, seed 0, bfloat16). Crops of 4 pixels and random flips: 0.879. Its curve: docs/cifar10_resnet18.png
    """
    # So few epochs want weaker distortions than the others' recipes; and averages over 500 steps, as there, are behind a rate that
    # falls this fast.
    return _cifar10("cifar10_resnet18", "resnet18", augment=f"pad_crop:2:reflect,flip_alternate,{CIFAR10_PIXELS}",
                    train_epochs=10, learning_rate=0.1, ema_decay=0.99)


def cifar10_alexnet() -> Config:
    """AlexNet in its form for 32x32 images.

    python -m trainer.main --recipe=cifar10_alexnet --data_dir=DATA --download

    With --train_epochs=1 --warmup_steps=200, in 2.5 min on busy cores: precision @ 1 on the 10,000 test images 0.543, 0.534 with
    moving averages (n = 1, seed 0, bfloat16). All 30 epochs were not run.
    """
    return _cifar10("cifar10_alexnet", "alexnet_small")


def cifar10_vgg16() -> Config:
    """VGG-16 in its form for 32x32 images, batch normalisation after every convolution.

    python -m trainer.main --recipe=cifar10_vgg16 --data_dir=DATA --download

    With --train_epochs=1 --warmup_steps=100, in 38 min of one busy core (AVX2, float32): precision @ 1 on the 10,000 test images
    0.550, 0.544 with moving averages (n = 1, seed 0). All 30 epochs were not run.
    """
    return _cifar10("cifar10_vgg16", "vgg16_small")


def cifar10_googlenet() -> Config:
    """GoogLeNet in its form for 32x32 images.

    python -m trainer.main --recipe=cifar10_googlenet --data_dir=DATA --download

    With --train_epochs=1 --warmup_steps=200, in 7.5 min on busy cores: precision @ 1 on the 10,000 test images 0.617, 0.612 with
    moving averages (n = 1, seed 0, bfloat16). All 30 epochs were not run.
    """
    return _cifar10("cifar10_googlenet", "googlenet_small")


def cifar10_densenet() -> Config:
    """A DenseNet-BC for 32x32 images.

    python -m trainer.main --recipe=cifar10_densenet --data_dir=DATA --download

    With --train_epochs=1 --warmup_steps=200: precision @ 1 on the 10,000 test images 0.588, 0.586 with moving averages (n = 1,
    seed 0, bfloat16; on cores too busy for a time). All 30 epochs were not run.
    """
    return _cifar10("cifar10_densenet", "densenet40")


def flowers_cnn() -> Config:
    """Flowers from scratch at 192x192, the network of 300,033 parameters.

    python -m trainer.main --recipe=flowers_cnn --data_dir=DATA --download

    4,967 of its 5,138 steps, 2 h on one or two busy cores (AVX2, float32): precision @ 1 on the 359 test photos 0.841, raw and with
    moving averages (n = 1, seed 0). Batches of 32 at 0.0015 for 30 epochs came to 0.813.
    """
    return Config(
        recipe="flowers_cnn", model="flowers_cnn", dataset="flowers", image_size=192,
        augment="flip,random_resized_crop:192:0.5,normalize:127.5:127.5", train_epochs=28, global_batch_size=16,
        optimizer="adam", learning_rate=0.001, lr_schedule="cosine", warmup_steps=400, ema_decay=0.999,
        label_smoothing=0.1, summary_steps=200, histogram_steps=1000, checkpoint_steps=500)


def flowers_transfer() -> Config:
    """Flowers with MobileNetV2 of ImageNet: its head alone, then all of it at a smaller rate.

    python -m trainer.main --recipe=flowers_transfer --data_dir=DATA --download

    1,469 steps, 12 min beside other work (bfloat16); precision @ 1 on the 359 test photos 0.922 (0.916 with moving
    averages), on the 374 for validation 0.944 (0.939). The head alone, --train_epochs=8 --unfreeze_epochs=0, 735 steps in 9 min of one
    busy core: 0.894 (0.897), for validation 0.904 (n = 1 each, seed 0).
    """
    return Config(
        recipe="flowers_transfer", model="applications/MobileNetV2", dataset="flowers", image_size=192,
        pretrained_weights="imagenet", freeze=True, unfreeze_epochs=8, augment="flip,normalize:127.5:127.5",
        train_epochs=16, global_batch_size=32, optimizer="adam", learning_rate=0.001,
        lr_schedule="piecewise", decay_rate=0.02,  # where all of it begins to learn
        ema_decay=0.99, summary_steps=100, histogram_steps=0, checkpoint_steps=200)


def flowers_mobilenet() -> Config:
    """MobileNetV2 on flowers at 224x224 from scratch: pixels / 255, batches of 32, Adam.

    python -m trainer.main --recipe=flowers_mobilenet --data_dir=DATA --download

    276 steps, 19 min on one busy core (AVX2, float32); precision @ 1 on the 359 test photos 0.643, 0.677 with moving
    averages (n = 1, seed 0).
    """
    return Config(
        recipe="flowers_mobilenet", model="applications/MobileNetV2", dataset="flowers", image_size=224,
        augment="flip,normalize:0:255", train_epochs=3, global_batch_size=32, optimizer="adam", learning_rate=0.001,
        # Keras's MobileNetV2 keeps 0.999 of its statistics: after 276 steps they are still those of no image.
        lr_schedule="constant", batch_norm_momentum=0.9, ema_decay=0.98, summary_steps=50, histogram_steps=0, checkpoint_steps=50)


def co2_forecast() -> Config:
    """The next 12 months of carbon dioxide in the air of Mauna Loa: a GRU that corrects the naive forecast.

    python -m trainer.main --recipe=co2_forecast --data_dir=DATA --download

    1,835 steps in 1 min on busy cores; mean absolute error of the 109 windows of 2016 to 2025: mean 0.466 ppm, standard
    deviation 0.006 (n = 3 seeds), that of the naive forecast 0.653.
    """
    return Config(
        recipe="co2_forecast", model="forecaster_gru", dataset="co2", augment="", train_epochs=200, global_batch_size=64,
        optimizer="adam", learning_rate=0.002, lr_schedule="cosine", precision="float32", ema_decay=0.99,
        summary_steps=200, histogram_steps=500, checkpoint_steps=200)


RECIPES = {recipe.__name__: recipe for recipe in (
    digits, cifar10_tutorial, cifar10_cnn, cifar10_fast, cifar10_resnet18, cifar10_alexnet, cifar10_vgg16, cifar10_googlenet,
    cifar10_densenet, flowers_cnn, flowers_transfer, flowers_mobilenet, mnist_autoencoder, mnist_lenet5, co2_forecast)}


def named(name: str) -> Config:
    """The recipe's values. UserError where there is none of this name."""
    if name not in RECIPES:
        raise UserError(f"--recipe={shown(name)} must be one of {', '.join(RECIPES)}{suggestion(name, RECIPES)}")
    return RECIPES[name]()
