"""The input of a run: example order, distortions, data sources, and the batches that each replica receives.

Every batch is a pure function of (seed, step): the same ordered global batches on any number of replicas
and workers, a resume begins at any step at once, and nothing of the input is ever saved.

Modules: `datasets` (names, facts and checks, without TensorFlow), `order` (seed and step to example
indices), `augment` (distortions of whole batches), `sources` (reading examples by index), one small module
for each format (`digits`, `cifar`, `synthetic`), `pipeline` (the batches of this worker's replicas).
"""
