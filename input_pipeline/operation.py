"""What a distortion is: the base classes of all operations, written without TensorFlow.

A class's dataclass fields are its arguments in the text, in order; `augment` parses and applies them to whole
batches. There are four kinds. `Geometry` only moves pixels, and leaves them the bytes that they are. `Pixels` take
and give float32 values, `Mixing` those of two examples, and `Corruption` spoils the input of a network that is to
restore it. Random numbers come from `draws`.

    @dataclass(frozen=True)
    class Brightness(Pixels):
        max_delta: float                              # brightness:63
        def train(self, images, draws): ...           # float32 [b,h,w,c], draws.uniform(1) [b,1] in [0, 1)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import tensorflow as tf  # inside the functions: texts are checked without TensorFlow

    from input_pipeline.draws import ExampleDraws, StepDraws

Shape = tuple[int, int, int]  # height, width, channels


class Operation:
    """One distortion. Its dataclass fields (int, float or str) are its arguments in the text, in order."""

    moves: ClassVar[bool] = False  # whether pixels change their places

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the images after it. Raises ValueError where it cannot be applied to `shape`."""
        return shape


class Pixels(Operation):
    """An operation on values: float32 [b, h, w, c] in and out."""

    invertible: ClassVar[bool] = True  # whether `inverse` gives back the values before `evaluate`
    rgb: ClassVar[bool] = False  # whether images must have red, green and blue

    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the images after it. Raises ValueError where it cannot be applied to `shape`."""
        if self.rgb:
            require(shape[2] == 3, f"images of {shape[0]}x{shape[1]}x{shape[2]} have {shape[2]} "
                    f"{'channel' if shape[2] == 1 else 'channels'}; it needs red, green and blue: leave it out")
        return shape

    def train(self, images: tf.Tensor, draws: StepDraws) -> tf.Tensor:
        """Distorts `images`: each by its own random numbers of `draws`."""
        raise NotImplementedError

    def evaluate(self, images: tf.Tensor) -> tf.Tensor:
        """The fixed counterpart: nothing, unless overridden."""
        return images

    def pixel(self, values: list[float]) -> list[float] | None:
        """What `evaluate` makes of one pixel, a number a channel; None where that hangs on the rest of the image."""
        return values

    def inverse(self, images: tf.Tensor) -> tf.Tensor:
        """Undoes the values of `evaluate`, of any shape [..., c]; what was cut off does not come back."""
        assert self.invertible, self
        return images


class Fixed(Pixels):
    """An operation on values that is the same in training and in evaluation, where `evaluate` says what it does."""

    def train(self, images: tf.Tensor, draws: StepDraws) -> tf.Tensor:
        """As `evaluate`."""
        return self.evaluate(images)


class Geometry(Operation):
    """An operation that only moves pixels: [b, h, w, c] in and out, in the type in which the images are kept."""

    moves = True

    def train(self, images: tf.Tensor, draws: StepDraws) -> tf.Tensor:
        """Moves the pixels of each image by its own random numbers of `draws`."""
        raise NotImplementedError

    def evaluate(self, images: tf.Tensor) -> tf.Tensor:
        """The fixed counterpart: nothing, unless overridden."""
        return images


class Mixing(Operation):
    """An operation that mixes every example with its partner; in evaluation nothing."""

    def train(self, images: tf.Tensor, partners: tf.Tensor, draws: StepDraws) -> tuple[tf.Tensor, tf.Tensor]:
        """(mixed images, share of the own label float32 [b], at least 0.5), of float32 [b, h, w, c] each."""
        raise NotImplementedError


class Corruption(Operation):
    """An operation that spoils the input, not the target: float32 [b, h, w, c] in and out."""

    def corrupt(self, images: tf.Tensor, draws: StepDraws | ExampleDraws) -> tf.Tensor:
        """Spoils `images` by the random numbers of `draws`: a step's, or in evaluation an example's own."""
        raise NotImplementedError


def require(condition: bool, rule: str) -> None:
    """Raises ValueError(rule) unless `condition` holds."""
    if not condition:
        raise ValueError(rule)
