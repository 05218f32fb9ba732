"""Downloads Keras's weights of ImageNet, and does nothing else with them: python -m models.imagenet MobileNetV2 notop 192 192 3

From Keras's address to $KERAS_HOME/models, a folder that must be there, under Keras's name for the network with "top" or
"notop" and this size of images.
"""
import sys

import keras

from models import applications


def main(argv: list[str]) -> None:
    """The file. ValueError and whatever a download meets, as Keras raises it."""
    application, top, *shape = argv[1:]
    keras.Model.load_weights = lambda *_, **__: None  # it is read where it is used
    applications.original(application, include_top=top == "top", input_shape=tuple(map(int, shape)), weights="imagenet")


if __name__ == "__main__":
    main(sys.argv)
