"""Laws of flags that do not go together, with each other, with the devices, with the data: both are named.

Mutations, each of which turned tests here red: a pair's check removed; the recipe's value held against the command;
the nearest batch sizes off by one; LARS allowed --nesterov; TF_CONFIG's index not compared with its cluster; --emulate
beside --tpu=auto refused; hierarchical_copy allowed on three replicas; any number of epochs turned into steps.
"""
import json

import pytest
from wrong_commands import alone, check, each, run, wrong

from trainer import flags, resolve


def cluster(kind: str = "worker", index=0, **members) -> dict:
    """The environment of one member of a cluster; by default the first of two workers."""
    members = members or {"worker": ["a:1", "b:1"]}
    return {"TF_CONFIG": json.dumps({"cluster": members, "task": {"type": kind, "index": index}})}


MULTI = "--strategy=multi_worker"
TUTORIAL = "--recipe=cifar10_tutorial"
OPTIONS = [wrong(*arguments, says=says) for *arguments, says in [
    ("--train_steps=5", "--train_epochs=2",
     "--train_steps=5 with --train_epochs=2: both say how long to train"),
    ("--train_steps=0", "--train_epochs=0",
     "--train_steps=0 with --train_epochs=0: one of them must say | --train_steps=1000"),
    ("--train_epochs=0", "--train_steps=0 with --train_epochs=0"),
    (TUTORIAL, "--train_steps=0", "--train_steps=0 with --train_epochs=0"),
    ("--train_steps=9223372036854775807", "--train_steps=9223372036854775807 with --global_batch_size=64"),
    ("--train_epochs=1e30", "--train_epochs=1e+30 must be fewer epochs"),
    ("--decay_epochs=1e38", "--decay_epochs=1e+38 must be fewer epochs"),
    ("--decay_steps=5", "--decay_epochs=2", "--decay_steps=5 with --decay_epochs=2: both say when"),
    ("--dry_run", "--fast_dev_run", "--dry_run=true with --fast_dev_run=true: "),
    ("--lr_schedule=constant", "--decay_steps=5", "--decay_steps=5 with --lr_schedule=constant: "),
    ("--lr_schedule=constant", "--decay_epochs=5", "--decay_epochs=5 with --lr_schedule=constant: "),
    ("--lr_schedule=constant", "--decay_rate=0.5", "--decay_rate=0.5 with --lr_schedule=constant: "),
    ("--lr_schedule=linear", "--decay_rate=0.5",
     "--decay_rate=0.5 with --lr_schedule=linear: it falls to zero"),
    ("--decay_rate=0.5", "--decay_rate=0.5 with --lr_schedule=cosine: it falls to zero"),
    ("--staircase", "--staircase=true with --lr_schedule=cosine: only an exponential decay has stairs"),
    ("--decay_steps=5,10",
     "--decay_steps=5,10 with --lr_schedule=cosine: several boundaries belong to piecewise"),
    ("--lr_schedule=piecewise", "--lr_schedule=piecewise needs boundaries; give --decay_steps=100,200"),
    ("--optimizer=muon_sgd", "--init_from=x", "--freeze", "--unfreeze_steps=5",
     "--optimizer=muon_sgd with --freeze=true: muon_sgd holds the norm of all filters"),
    ("--lr_schedule=piecewise", "--decay_steps=0", "--lr_schedule=piecewise needs boundaries"),
    ("--lr_schedule=piecewise", "--decay_steps=10,5",
     "--decay_steps=10,5 must rise from boundary to boundary"),
    ("--lr_schedule=piecewise", "--decay_steps=5,5", "--decay_steps=5,5 must rise"),
    ("--lr_schedule=piecewise", "--decay_steps=0,5",
     "--decay_steps=0,5 must rise from boundary to boundary, from 1 on"),
    ("--warmup_steps=100", "--train_steps=100",
     "--warmup_steps=100 must be less than the 100 steps of --lr_schedule=cosine"),
    ("--warmup_steps=20", "--decay_steps=20", "--warmup_steps=20 must be less than the 20 steps"),
    ("--momentum=0.9", "--optimizer=adam", "--momentum=0.9 with --optimizer=adam: only sgd, rmsprop, lars, muon, muon_sgd take it"),
    ("--momentum=0.9", "--optimizer=adafactor", "--momentum=0.9 with --optimizer=adafactor: "),
    ("--batch_norm_momentum=0.9", "--batch_norm_momentum=0.9 with --model=digits_cnn: | no batch normalisation"),
    ("--nesterov", "--optimizer=adam", "--nesterov=true with --optimizer=adam: "),
    ("--nesterov", "--optimizer=muon", "--nesterov=true with --momentum=0: | give --momentum=0.9"),
    ("--head_learning_rate=1", "--head_learning_rate=1 with --optimizer=adamw: only muon_sgd | leave it out"),
    ("--whiten_epochs=3", "--optimizer=muon", "--whiten_epochs=3 with --optimizer=muon: only muon_sgd"),
    ("--nesterov", "--optimizer=lars", "--momentum=0.9", "--nesterov=true with --optimizer=lars: "),
    ("--nesterov", "--optimizer=sgd", "--nesterov=true with --momentum=0: | give --momentum=0.9"),
    ("--early_stop_evals=3", "--early_stop_evals=3 with --eval_steps=0: | give --eval_steps="),
    ("--profile_steps=5", "--profile_steps=5 must be A,B with A less than B, such as"),
    ("--profile_steps=5,5", "--profile_steps=5,5 must be A,B with A less than B"),
    ("--profile_steps=9,5", "--profile_steps=9,5 must be A,B"),
    ("--profile_steps=1,2,3", "--profile_steps=1,2,3 must be A,B"),
    ("--profile_steps=90,110", "--train_steps=100",
     "--profile_steps=90,110 must end within the run, --train_steps=100"),
    ("--head=softmax",
     "--head=softmax with --model=digits_cnn: | leave it out, or use --model=cifar10_tutorial"),
    ("--local=locally_connected", "--local=locally_connected with --model=digits_cnn: "),
    ("--tpu_zone=z", "--tpu_zone=z without --tpu: it is for finding a TPU by its name; give --tpu=NAME too"),
    ("--gcp_project=p", "--gcp_project=p without --tpu: "),
    ("--augment=crop:24", "--augment=crop:24 with --dataset=digits: | size must be at most 8"),
    (TUTORIAL, "--dataset=digits",
     "--augment=crop:24,flip,brightness:63,contrast:0.2:1.8,standardize with --dataset=digits: "),
]]
DATA = [wrong(*arguments, says=says) for *arguments, says in [
    (TUTORIAL,
     "--data_dir=data: cifar10: no file data/cifar-10-batches-bin/data_batch_1.bin; get it with: | python -m "
     "input_pipeline.prepare --dataset=cifar10 --output=data | --download"),
    ("--dataset=cifar10", "--data_dir=/d/e",
     "--data_dir=/d/e: cifar10: no file | --dataset=cifar10 --output=/d/e"),
    (TUTORIAL, "--download", "--dry_run", "--data_dir=data: cifar10: no file | prepare --dataset=cifar10"),
    (TUTORIAL, "--download", "--classes=3",
     "--classes=3 must be at least 10, the classes of --dataset=cifar10"),
    (TUTORIAL, "--download", "--augment=crop:33", "--augment=crop:33 with --dataset=cifar10: | at most 32"),
]] + [wrong("--dataset=cifar10",
            says="data_batch_1.bin has 3 bytes instead of | python -m input_pipeline.prepare",
            files={"data/cifar-10-batches-bin/data_batch_1.bin": "abc"})]
BATCH = [wrong(*arguments, says=says) for *arguments, says in [
    ("--num_gpus=2", "--emulate", "--global_batch_size=65",
     "--global_batch_size=65 must divide by 2 (2 replicas x --grad_accum_steps=1); the nearest that do: 64 or 66"),
    ("--num_gpus=3", "--emulate", "--global_batch_size=64",
     "must divide by 3 (3 replicas x | that do: 63 or 66"),
    ("--grad_accum_steps=3",
     "--global_batch_size=64 must divide by 3 (1 replica x --grad_accum_steps=3) | 63 or 66"),
    ("--num_gpus=4", "--emulate", "--grad_accum_steps=4", "--global_batch_size=8",
     "by 16 (4 replicas x | that do: 16; or change"),
    ("--num_gpus=128", "--emulate",
     "--global_batch_size=64 must divide by 128 (128 replicas x | that do: 128; or"),
]]
DEVICES = [wrong(*arguments, says=says) for *arguments, says in [
    ("--num_gpus=2", "--num_gpus=2, but 0 GPUs are visible here; lower it, or add --emulate"),
    ("--num_gpus=1", "--num_gpus=1, but 0 GPUs are visible here"),
    ("--tpu=auto", "--num_gpus=2", "--num_gpus=2, but 0 GPUs are visible here"),
    ("--emulate", "--emulate without --num_gpus: | give --num_gpus=2, or --noemulate"),
    ("--emulate", "--num_gpus=0", "--emulate with --num_gpus=0: | at least 1"),
    ("--emulate", "--num_gpus=2", "--tpu=t",
     "--emulate makes CPU replicas and --tpu=t names a TPU; give one"),
    ("--strategy=mirrored", "--tpu=t", "--strategy=mirrored does not run on --tpu=t; leave --strategy out"),
    ("--strategy=tpu", "--strategy=tpu needs --tpu; name a TPU"),
    ("--strategy=tpu", "--tpu=auto", "--strategy=tpu, but --tpu=auto found no TPU"),
    ("--strategy=one_device", "--num_gpus=2", "--emulate",
     "--strategy=one_device has one replica, --num_gpus=2 asks for more"),
    (MULTI, "--strategy=multi_worker needs the environment variable TF_CONFIG; start the workers with"),
    ("--all_reduce=ring",
     "--all_reduce=ring does not work with --strategy=one_device; | --strategy=multi_worker"),
    ("--all_reduce=nccl",
     "--all_reduce=nccl does not work with --strategy=one_device; | --strategy=mirrored or multi_worker"),
    ("--all_reduce=ring", "--num_gpus=2", "--emulate",
     "--all_reduce=ring does not work with --strategy=mirrored"),
    ("--all_reduce=nccl", "--num_gpus=2", "--emulate",
     "--all_reduce=nccl needs GPUs, but --num_gpus=2 with --emulate gives CPU"),
    ("--all_reduce=hierarchical_copy", "--num_gpus=2", "--emulate", "--strategy=central_storage",
     "--all_reduce=hierarchical_copy does not work with --strategy=central_storage"),
    ("--all_reduce=hierarchical_copy", "--num_gpus=3", "--emulate", "--global_batch_size=66",
     "--all_reduce=hierarchical_copy needs an even number of replicas, --num_gpus=3 is odd; use --all_reduce=auto"),
    ("--all_reduce=hierarchical_copy", "--tpu=t",
     "--all_reduce=hierarchical_copy does not work with --strategy=tpu"),
    ("--precision=float16",
     "--precision=float16 needs a GPU, but none is visible here; use --precision=bfloat16 or auto"),
    ("--precision=float16", "--num_gpus=0",
     "--precision=float16 needs a GPU, but --num_gpus=0 gives CPU devices"),
    ("--precision=float16", "--tpu=t",
     "--precision=float16 needs a GPU, but --tpu=t gives a TPU; use --precision=bfloat16"),
    ("--xla", "--num_gpus=2", "--emulate", "--model=digits_cnn_regularized",
     "--xla with --sync_batch_norm=true and 2 CPU replicas: | give --nosync_batch_norm"),
]]
CLUSTER = [wrong(MULTI, *arguments, environment=environment, says=says) for environment, *arguments, says in [
    ({"TF_CONFIG": "{"}, "TF_CONFIG={ must be JSON such as"),
    ({"TF_CONFIG": "[]"}, "TF_CONFIG=[] must be JSON"),
    ({"TF_CONFIG": "{}"}, "TF_CONFIG={} must be JSON"),
    ({"TF_CONFIG": "[" * 100_000}, "TF_CONFIG=[[[ | must be JSON"),
    ({"TF_CONFIG": "a\nb"}, r"TF_CONFIG=a\nb must be JSON"),
    ({"TF_CONFIG": '{"cluster": {"worker": ["a:1"]}}'}, "must be JSON"),
    (cluster(index="x"), "must be JSON"),
    (cluster(worker="a:1"), "must be JSON"),
    (cluster(worker=["a"]), "must be JSON"),
    (cluster(worker=[1, 2]), "must be JSON"),
    (cluster(kind="evaluator"),
     "TF_CONFIG's task evaluator does not train; run python -m trainer.evaluator there"),
    (cluster(kind="ps"), "TF_CONFIG's task ps does not train"),
    (cluster(index=2), "TF_CONFIG's task worker 2 is not in its cluster of 0 chief and 2 worker"),
    (cluster(index=-1), "TF_CONFIG's task worker -1 is not in its cluster"),
    (cluster(kind="chief"), "TF_CONFIG's task chief 0 is not in its cluster of 0 chief"),
    (cluster(), "--num_gpus=2", "--emulate",
     "--strategy=multi_worker has one replica a process on CPUs, --num_gpus=2"),
    (cluster(), "--global_batch_size=65", "--global_batch_size=65 must divide by 2 (2 replicas x"),
    (cluster(), "--all_reduce=hierarchical_copy",
     "--all_reduce=hierarchical_copy does not work with --strategy=multi_worker"),
    (cluster(), "--all_reduce=nccl",
     "--all_reduce=nccl needs GPUs, but none is visible here; use --all_reduce=auto"),
    (cluster(), "--tpu=t", "--strategy=multi_worker does not run on --tpu=t"),
]] + [wrong(environment={"TF_CONFIG": "{"},
            says="TF_CONFIG={ must be JSON"),  # else every worker would train alone
      wrong("--global_batch_size=65", environment=cluster(), says="must divide by 2 (2 replicas x"),
      wrong("--strategy=mirrored", "--tpu=auto", environment={"TPU_NAME": "t"},
            says="--strategy=mirrored does not run on --tpu=auto, which found t; leave")]
TABLE = OPTIONS + DATA + BATCH + DEVICES + CLUSTER


@pytest.fixture(scope="module")
def outcomes():
    return run(TABLE)


@each(TABLE)
def test_what_cannot_work_names_both(row, outcomes):
    check(row, outcomes)


@pytest.fixture
def resolved(tmp_path, monkeypatch):
    """Resolves flags in an empty folder on a machine without GPUs, TPUs and cluster."""
    alone(tmp_path, monkeypatch)
    return lambda *arguments: resolve.resolve(flags.parse(["main", *arguments]))


def test_a_tpu_and_gpus_in_one_command(resolved, monkeypatch):
    named = resolved("--tpu=t", "--num_gpus=2").plan
    assert (named.strategy, named.tpu) == ("tpu", "t") and "--num_gpus=2 is not used" in named.notes[0]
    fallen_back = resolved("--tpu=auto", "--num_gpus=2", "--emulate").plan
    assert (fallen_back.strategy, fallen_back.replicas, fallen_back.notes) == ("mirrored", 2,
                                                                               ("--tpu=auto found no TPU",))
    monkeypatch.setenv("TPU_NAME", "found")
    assert resolved("--tpu=auto", "--num_gpus=2", "--emulate").plan.tpu == "found"
    monkeypatch.delenv("TPU_NAME")
    monkeypatch.setenv("COLAB_TPU_ADDR", "10.0.0.2:8470")
    assert resolved("--tpu=auto").plan.tpu == "grpc://10.0.0.2:8470"


@pytest.mark.parametrize("kind, index, members, plan", [
    ("worker", 1, {"worker": ["a:1", "b:1"]}, ("multi_worker", 2, 2, 1)),
    ("worker", "1", {"chief": ["c:1"], "worker": ["a:1", "b:1"]}, ("multi_worker", 3, 3, 2)),
    ("chief", 0, {"chief": ["c:1"], "worker": ["a:1"], "evaluator": ["e:1"]}, ("multi_worker", 2, 2, 0)),
    ("chief", 0, {"chief": ["c:1"]}, ("one_device", 1, 1, 0))])
def test_a_cluster_in_tf_config_trains_together_without_being_told(kind, index, members, plan, resolved,
                                                                   monkeypatch):
    monkeypatch.setenv("TF_CONFIG", cluster(kind, index, **members)["TF_CONFIG"])
    found = resolved("--global_batch_size=60").plan
    assert (found.strategy, found.replicas, found.workers, found.worker) == plan


def test_what_belongs_to_a_recipes_value_goes_with_it(resolved, monkeypatch):
    monkeypatch.setattr(resolve, "_describe", lambda config: resolve.datasets.facts("cifar10"))
    whole = resolved(TUTORIAL).config
    assert (whole.decay_steps, whole.staircase) == ((136718,), True)
    cosine = resolved(TUTORIAL, "--lr_schedule=cosine").config  # not zero after the tutorial's 350 epochs
    assert (cosine.decay_steps, cosine.staircase) == ((1_000_000,), False)
    assert resolved(TUTORIAL, "--decay_steps=7").config.decay_epochs == 0
    assert resolved(TUTORIAL, "--decay_epochs=0.0001").config.decay_steps == (1,)
    assert resolved(TUTORIAL, "--train_epochs=2").config.train_steps == 782


def test_a_recipes_momentum_goes_with_its_optimizer(resolved, monkeypatch):
    digits = resolve.recipes.RECIPES["digits"]
    monkeypatch.setitem(resolve.recipes.RECIPES, "digits", lambda: resolve.dataclasses.replace(
        digits(), optimizer="sgd", momentum=0.9, nesterov=True))
    kept, adam, muon = (resolved(*arguments).config for arguments in ([], ["--optimizer=adam"],
                                                                      ["--optimizer=muon"]))
    assert [(config.momentum, config.nesterov) for config in (kept, adam, muon)] == [(0.9, True), (0, False),
                                                                                     (0.9, False)]


def test_a_recipes_weight_decay_stays_on_its_own_scale(resolved):
    """In the update for adamw and lamb, in the loss for sgd: the one's value would be far too much for the other."""
    found = [resolved(f"--optimizer={name}").config.weight_decay for name in ("adamw", "lamb", "sgd")]
    assert found == [0.05, 0.05, 0] and resolved("--optimizer=sgd", "--weight_decay=0.05").config.weight_decay == 0.05


def test_facts_are_enough_where_the_data_will_be_downloaded(resolved):
    run = resolved(TUTORIAL, "--download")
    assert (run.info.train_examples, run.config.classes) == (50_000, 10)
