"""Law 1: the same run on any number of devices.

Everything that may differ is on: synchronised batch normalisation, dropout, clipping, moving averages, weight decay, label
smoothing. Replicas see different data: the digests are of the indices that travelled with the batches.

Mutations that turn it red (tests/laws/mutations.py applies them): clip before the all-reduce; sum twice; mean of scaled
losses; local batch statistics; dropout masks by replica; weight decay on every replica; micro-batches at the same rows.
"""
import pytest

import runs

STEPS = 30
COMMON = (f"--train_steps={STEPS}", "--log_steps=1", "--global_batch_size=64", "--precision=float32", "--clip_norm=1",
          "--ema_decay=0.9", "--label_smoothing=0.1", "--weight_decay=0.001", "--summary_steps=0", "--histogram_steps=0",
          "--checkpoint_steps=0")
OPTIMIZERS = {"sgd": ("--optimizer=sgd", "--momentum=0.9", "--learning_rate=0.02"),
              "adamw": ("--optimizer=adamw", "--learning_rate=0.002"),
              "lamb": ("--optimizer=lamb", "--learning_rate=0.005"),
              "muon": ("--optimizer=muon", "--momentum=0.9", "--learning_rate=0.005")}
REGULARIZED, DROPOUT = "--model=digits_cnn_regularized", "--model=digits_cnn_dropout"
FORMS = {"2 replicas": (REGULARIZED, "--num_gpus=2", "--emulate"),
         "4 replicas": (REGULARIZED, "--num_gpus=4", "--emulate"),
         "central storage": (REGULARIZED, "--num_gpus=2", "--emulate", "--strategy=central_storage"),
         # Batch statistics are a micro-batch's by definition: without batch normalisation.
         "4 micro-batches": (DROPOUT, "--grad_accum_steps=4"),
         "2 replicas x 2 micro-batches": (DROPOUT, "--num_gpus=2", "--emulate", "--grad_accum_steps=2")}
MATRIX = [pytest.param(form, name, marks=() if name == "sgd" else pytest.mark.slow, id=f"{form}, {name}")
          for name in OPTIMIZERS for form in FORMS]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The run on one replica in one piece, once for each optimizer and network."""
    known = {}

    def get(name: str, network: str) -> runs.Outcome:
        if (name, network) not in known:
            known[name, network] = runs.train(tmp_path_factory.mktemp("one"), *COMMON, *OPTIMIZERS[name], network)
        return known[name, network]

    return get


@pytest.mark.parametrize("form, optimizer", MATRIX)
def test_same_batches_losses_and_weights(tmp_path, reference, form, optimizer):
    flags = FORMS[form]
    one = reference(optimizer, flags[0])
    other = runs.train(tmp_path, *COMMON, *OPTIMIZERS[optimizer], *flags)
    assert [line["batch_digest"] for line in other.lines] == [line["batch_digest"] for line in one.lines]
    assert len({line["batch_digest"] for line in one.lines}) == STEPS
    found = runs.worst_difference(other, one, STEPS)
    print(f"{form}, {optimizer}: {found}")
    assert found["loss"] < 1e-5, found
    assert found["model"] < 1e-5 and found["ema"] < 1e-5, found
    assert [line["precision_at_1"] for line in other.lines] == [line["precision_at_1"] for line in one.lines]
