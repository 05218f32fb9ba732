"""The networks of keras.applications by name, and the images that their weights of ImageNet are made for, without TensorFlow.

    imagenet_values("MobileNetV2")      # "normalize:127.5:127.5", as --augment is written
"""

# All of Keras 3.15: a test compares.
APPLICATIONS = (
    "ConvNeXtTiny", "ConvNeXtSmall", "ConvNeXtBase", "ConvNeXtLarge", "ConvNeXtXLarge",
    "DenseNet121", "DenseNet169", "DenseNet201",
    "EfficientNetB0", "EfficientNetB1", "EfficientNetB2", "EfficientNetB3",
    "EfficientNetB4", "EfficientNetB5", "EfficientNetB6", "EfficientNetB7",
    "EfficientNetV2B0", "EfficientNetV2B1", "EfficientNetV2B2", "EfficientNetV2B3",
    "EfficientNetV2S", "EfficientNetV2M", "EfficientNetV2L",
    "InceptionResNetV2", "InceptionV3", "MobileNet", "MobileNetV2", "MobileNetV3Small", "MobileNetV3Large",
    "NASNetMobile", "NASNetLarge", "ResNet50", "ResNet101", "ResNet152", "ResNet50V2", "ResNet101V2", "ResNet152V2",
    "VGG16", "VGG19", "Xception",
)
# How Keras's documentation of each network wants images of 0 to 255 prepared; "", and those left out: they do it themselves.
IMAGENET_VALUES = {
    "normalize:127.5:127.5": ("MobileNet", "MobileNetV2", "Inception", "Xception", "NASNet", "ResNet50V2", "ResNet101V2",
                              "ResNet152V2"),
    "normalize_rgb:123.68:116.779:103.939:1:1:1,bgr": ("ResNet50", "ResNet101", "ResNet152", "VGG"),
    "normalize_rgb:123.675:116.28:103.53:58.395:57.12:57.375": ("DenseNet",),
    "": ("MobileNetV3",),
}


def imagenet_values(application: str) -> str:
    """The entry of IMAGENET_VALUES that begins most like the network's name; "" where there is none."""
    found = [(len(start), text) for text, starts in IMAGENET_VALUES.items() for start in starts if application.startswith(start)]
    return max(found, default=(0, ""))[1]
