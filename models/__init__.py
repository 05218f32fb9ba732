"""Networks, and the layers that Keras lacks. They know nothing of the trainer."""
