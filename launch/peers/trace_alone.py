"""Importing TensorFlow, building the tutorial's network and tracing its train step: python -m launch.peers.trace_alone

What starting a trainer costs at least. Nothing is executed but the first weights.
"""
import keras
import tensorflow as tf

layers = keras.layers
network = keras.Sequential([
    keras.Input((24, 24, 3)), layers.Conv2D(64, 5, padding="same", activation="relu"), layers.MaxPooling2D(3, 2, "same"),
    layers.Conv2D(64, 5, padding="same", activation="relu"), layers.MaxPooling2D(3, 2, "same"), layers.Flatten(),
    layers.Dense(384, "relu"), layers.Dense(192, "relu"), layers.Dense(10)])
optimizer = keras.optimizers.SGD(0.1)
optimizer.build(network.trainable_variables)


@tf.function(autograph=False)
def step(images, labels):
    """One update."""
    with tf.GradientTape() as tape:
        loss = keras.losses.sparse_categorical_crossentropy(labels, network(images, training=True), from_logits=True)
    optimizer.apply(tape.gradient(loss, network.trainable_variables), network.trainable_variables)


step.get_concrete_function(tf.TensorSpec([128, 24, 24, 3]), tf.TensorSpec([128], tf.int32))
