"""Images too small for a network: an error that names the layer, its input and the smallest image that would
do for it.

Keras says "Computed output size would be zero or negative" and, of a convolution, not which one.

    with named_layers(input_shape=(32, 32, 3)):
        model = ...        # TooSmall: layer 'conv3' (Conv2D 7x7, valid) would shrink its input of 6x6 to nothing; ...
    check(model)           # the same for a layer that gave an output without rows or columns
    model = built(build, (32, 32, 3))      # both; and the size that the error names is enough for all layers
"""

import contextlib
import re
import traceback

import keras


TRIES = 10  # larger and larger images that `built` tries


class TooSmall(ValueError):
    """Images that a network shrinks to nothing. words: what happens. needed: (height, width) that would do."""

    def __init__(self, words, needed, given):
        super().__init__(f"{words}; give images of at least {needed[0]}x{needed[1]} (these are {given[0]}x{given[1]}), or a network "
                         "with smaller kernels or strides, or padding='same'")
        self.words, self.needed = words, needed


def built(build, input_shape):
    """The network that `build` makes of images of `input_shape`. TooSmall: a layer shrinks them to nothing."""
    try:
        return _checked(build, input_shape)
    except TooSmall as error:
        first, size = error, error.needed
    for _ in range(TRIES):
        try:
            _checked(build, (*size, *input_shape[2:]))
            break
        except TooSmall as error:  # a later layer needs more
            size = tuple(map(max, size, error.needed))
    raise TooSmall(first.words, size, input_shape)


def _checked(build, input_shape):
    with named_layers(input_shape=input_shape):
        model = build(input_shape)
    check(model)
    return model


@contextlib.contextmanager
def named_layers(*, input_shape):
    """Turns the error of a layer whose output would have no rows or columns into one that names it.

    input_shape: (height, width, channels) of the network that is built inside; other shapes have no such
    errors.
    """
    filtered = keras.config.is_traceback_filtering_enabled()
    keras.config.disable_traceback_filtering()  # the layer is found in the traceback
    try:
        yield
    except ValueError as error:
        least = re.search(r"Input size must be at least (\d+)x(\d+)", str(error))  # of keras.applications
        if least:
            needed = tuple(map(int, least.groups()))
            raise TooSmall("the network takes no smaller images", needed, input_shape) from error
        layer, inputs = _raised_by(error)
        if len(input_shape) != 3 or layer is None or not _too_small(layer, inputs.shape):
            raise
        raise _too_small_for(layer, inputs, input_shape) from error
    finally:
        if filtered:
            keras.config.enable_traceback_filtering()


def check(model):
    """TooSmall, of the first layer of a built network whose output has no rows or columns."""
    for layer in model.layers:
        output = getattr(layer, "output", None)
        if isinstance(output, keras.KerasTensor) and 0 in output.shape[1:]:
            raise _too_small_for(layer, _first(layer.input), model.input_shape[1:])


def smallest_input(tensor, size):
    """(height, width) of the images that give `tensor`, [b, h, w, c] of a network of layers, a height and
    width of `size`.

    Of several ways to the image the first inputs are followed, which is exact for a chain of layers.
    """
    size = list(size)
    layer = tensor._keras_history.operation
    while not isinstance(layer, keras.layers.InputLayer):
        for axis in (0, 1):
            kernel, strides, valid = _window(layer, axis)
            size[axis] = (size[axis] - 1) * strides + (kernel if valid else 1) - _added(layer, axis)
            size[axis] = max(1, -(-size[axis] // _grown(layer, axis)))
        tensor = _first(layer.input)
        layer = tensor._keras_history.operation
    return tuple(size)


def _raised_by(error):
    """(layer, its input) whose call raised `error`, the innermost one; (None, None) if none did."""
    found = None, None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        values = frame.f_locals
        layer, given = values.get("self"), values.get("args")
        if frame.f_code.co_name == "__call__" and isinstance(layer, keras.layers.Layer) and given:
            if isinstance(given[0], keras.KerasTensor):
                found = layer, given[0]
    return found


def _too_small(layer, shape):
    if len(shape) != 4:
        return False
    return any(_window(layer, axis)[2] and shape[axis + 1] + _added(layer, axis) < _window(layer, axis)[0]
               for axis in (0, 1))


def _too_small_for(layer, inputs, input_shape):
    (rows, rows_by, valid), (columns, columns_by, _) = _window(layer, 0), _window(layer, 1)
    steps = "" if (rows_by, columns_by) == (1, 1) else f", stride {rows_by}" if rows_by == columns_by \
        else f", strides {rows_by}x{columns_by}"
    words = (f"layer {layer.name!r} ({type(layer).__name__} {rows}x{columns}{steps}{', valid' if valid else ''}) would shrink its "
             f"input of {inputs.shape[1]}x{inputs.shape[2]} to nothing")
    return TooSmall(words, smallest_input(inputs, (rows, columns)), input_shape)


def _window(layer, axis):
    """(size, strides, whether it must lie within the image) of a convolution or a pool along an axis; 1 of
    others."""
    size = getattr(layer, "kernel_size", None) or getattr(layer, "pool_size", None)
    if size is None or getattr(layer, "padding", None) not in ("valid", "same"):
        return 1, 1, True
    size, strides = _pair(size)[axis], _pair(layer.strides if hasattr(layer, "strides") else 1)[axis]
    dilation = _pair(getattr(layer, "dilation_rate", 1))[axis]
    return (size - 1) * dilation + 1, strides, layer.padding == "valid"


def _added(layer, axis):
    """Rows or columns that a layer adds to the image, negative where it cuts them off."""
    if isinstance(layer, keras.layers.ZeroPadding2D):
        return sum(layer.padding[axis])
    if isinstance(layer, keras.layers.Cropping2D):
        return -sum(layer.cropping[axis])
    return 0


def _grown(layer, axis):
    return layer.size[axis] if isinstance(layer, keras.layers.UpSampling2D) else 1


def _pair(value):
    return (value, value) if isinstance(value, int) else tuple(value)


def _first(tensors):
    return tensors[0] if isinstance(tensors, (list, tuple)) else tensors
