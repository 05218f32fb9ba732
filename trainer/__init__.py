"""The trainer. Whatever imports TensorFlow after this package gets oneDNN's kernels.

TensorFlow turns them on by itself only where the CPU has AVX512_VNNI or better; with AVX2 alone its other kernels are several
times slower. TF_ENABLE_ONEDNN_OPTS=0 in the environment still turns them off.
"""
import os

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
