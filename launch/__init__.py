"""Starts processes: several on this machine, or a job on a cluster. No trainer's internals, no TensorFlow."""
