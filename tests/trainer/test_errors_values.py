"""Laws of single values, for every option of the Config, those that are added later too.

No number is negative, 0 is taken only where the help says what it means, numbers are finite, integers are written as
integers, a wrong name is answered with the known ones.

Mutations, each of which turned tests here red: int(text) instead of the pattern; the bound of float32 left out;
at_least=0 left out of an option; at_least=0 for --keep_checkpoints; a choice compared in lower case; the OverflowError
of a huge crop not caught.
"""
import pytest
from wrong_commands import check, each, run, wrong

from input_pipeline.rules import Rule, listed, one_line, shown, text_of
from trainer import flags
from trainer.config import FIELDS, UserError, rule

KINDS = (bool, int, float, str, "path", "ints")
NAMES = {kind: [name for name in FIELDS if rule(name).kind == kind] for kind in KINDS}
NO_NUMBERS = ("", "ten", "nan", "inf", "-inf", "0x10", "1_000", "1,5", "1.5.2", " 1", "1 ", "１０", "--1", "1e",
              "true")
NO_INTEGERS = (*(text for text in NO_NUMBERS if text != "1,5"), "1e3", "10.0", "1.", "2.5")
TOO_LARGE = {int: ("9223372036854775808", "9" * 5000), float: ("1e39", "1e999", "9" * 400),
             "ints": ("9" * 30,)}
BOOLEANS = ("", "maybe", "2", "yes", "on", "True ", "-1")

NEGATIVE = [wrong(f"--{name}={text}", says=f"--{name}={text} must be ")
            for kind, other in ((int, "-10"), (float, "-3.5"), ("ints", "-10,5"))
            for name in NAMES[kind] for text in ("-1", other)]
NOT_WRITTEN_AS_NUMBERS = [
    *[wrong(f"--{name}={text}",
            says=f"--{name}={text} must be a whole number written as an integer, such as ")
      for name in NAMES[int] for text in (*NO_INTEGERS, "1,5")],
    *[wrong(f"--{name}={text}", says=f"--{name}={text} must be a finite number, such as ")
      for name in NAMES[float] for text in NO_NUMBERS],
    *[wrong(f"--{name}={text}",
            says=f"--{name}={text} must be whole numbers separated by commas, such as 100")
      for name in NAMES["ints"] for text in (*NO_INTEGERS[1:], "1,,2", ",", "1,2,", "1;2", "1,a")]]
LARGE = [wrong(f"--{name}={text}", says=f"--{name}={shown(text)} must be ")
         for kind, texts in TOO_LARGE.items() for name in NAMES[kind] for text in texts]
SWITCHES = [wrong(f"--{name}={text}", says=f"--{name}={text} must be true or false")
            for name in NAMES[bool] for text in BOOLEANS]
CHOICES = [wrong(f"--{name}={text}", says=f"--{name}={text} must be one of {listed(rule(name).choices)}")
           for name in NAMES[str] if rule(name).choices
           for text in ("", "nope", rule(name).choices[-1].upper(), f"{rule(name).choices[0]},")]
ONE_BY_ONE = [
    wrong("--optimizer=adan", says="--optimizer=adan must be one of sgd, adam | did you mean adam?"),
    wrong("--recipe=cifar10_tutoral",
          says="--recipe=cifar10_tutoral must be | did you mean cifar10_tutorial?"),
    wrong("--recipe=", says="--recipe= must be one of digits, cifar10_tutorial"),
    wrong("--dataset=cifar", says="--dataset=cifar must be one of digits, cifar10 | did you mean cifar10?"),
    wrong("--strategy=mirored", says="--strategy=mirored must be one of | did you mean mirrored?"),
    wrong("--precision=fp16", says="--precision=fp16 must be one of auto, float32, bfloat16, float16"),
    wrong("--precision=bfloat", says="--precision=bfloat must be | did you mean bfloat16?"),
    wrong("--keep_checkpoints=0", says="--keep_checkpoints=0 must be at least 1, such as 5"),
    wrong("--global_batch_size=0", says="--global_batch_size=0 must be at least 1, such as 64"),
    wrong("--log_steps=0", says="--log_steps=0 must be at least 1, such as 10"),
    wrong("--grad_accum_steps=0", says="--grad_accum_steps=0 must be at least 1, such as 1"),
    wrong("--decay_rate=0", says="--decay_rate=0 must be more than 0, such as 0.1"),
    wrong("--profile_steps=0,5", says="--profile_steps=0,5 must be at least 1"),
    wrong("--momentum=1", says="--momentum=1 must be less than 1, such as 0.1"),
    wrong("--ema_decay=1.5", says="--ema_decay=1.5 must be less than 1, such as 0.99"),
    wrong("--label_smoothing=1", says="--label_smoothing=1 must be less than 1"),
    wrong("--global_batch_size=2147483648", says="--global_batch_size=2147483648 must be at most 2147483647"),
    wrong("--augment=crop", says="--augment=crop with --dataset=digits: 'crop': must be written crop:SIZE"),
    wrong("--augment=crop:x", says="--augment=crop:x with | size='x' must be a whole number"),
    wrong("--augment=crop:0", says="--augment=crop:0 with | size=0 must be at least 1"),
    wrong("--augment=crop:9", says="--augment=crop:9 with --dataset=digits | 8x8 has no window of 9x9"),
    wrong("--augment=flip:1", says="--augment=flip:1 with | must be written flip"),
    wrong("--augment=flop", says="--augment=flop with | no such operation; known: crop:SIZE"),
    wrong("--augment=flip,,flip", says="--augment=flip,,flip with | no such operation"),
    wrong("--augment=contrast:2:1", says="--augment=contrast:2:1 with | must be 0 <= lower < upper"),
    wrong("--augment=brightness:nan", says="--augment=brightness:nan with | must be a finite number"),
    wrong(f"--augment=crop:{'9' * 500}", says="--augment=crop:999 | with --dataset=digits: "),
    wrong("--tpu=grpc://host",
          says="--tpu=grpc://host must be a TPU's name, grpc://HOST:PORT, local or auto"),
    wrong("--tpu=a b", says="--tpu=a b must be a TPU's name"),
    wrong("--model_dir=s3://bucket/m",
          says="--model_dir=s3://bucket/m must be a folder, or an address at gs://; mount what is there"),
    wrong("--model_dir=gs://B!/m",
          says="--model_dir=gs://B!/m cannot be written: is no address of the form gs://BUCKET/FOLDER"),
    wrong("--model_dir=f/m", files={"f": ""},
          says="--model_dir=f/m must be a folder | /f is a file; give another"),
    wrong("--model_dir=f", files={"f": ""}, says="--model_dir=f must be a folder | /f is a file"),
    wrong("--model_dir=/dev/null/m", says="--model_dir=/dev/null/m must be a folder | /dev/null is a file"),
    wrong(f"--model_dir={'x' * 256}",
          says="x must be a folder that can be written, File name too long; give another"),
    wrong("--init_from=nowhere",
          says="--init_from=nowhere must be a --model_dir with a checkpoint | nothing is there"),
    wrong("--init_from=m", files={"m/config.json": "{}"},
          says="--init_from=m must be a --model_dir with a checkpoint"),
    wrong("--init_from=m/model", files={"m/model.index": ""},
          says="--init_from=m/model must be | ckpt-00001000"),
    wrong("--classes=9", says="--classes=9 must be at least 10, the classes of --dataset=digits"),
]
TABLE = NEGATIVE + NOT_WRITTEN_AS_NUMBERS + LARGE + SWITCHES + CHOICES + ONE_BY_ONE


@pytest.fixture(scope="module")
def outcomes():
    return run(TABLE)


@pytest.mark.parametrize("rows", [NEGATIVE, NOT_WRITTEN_AS_NUMBERS, LARGE, SWITCHES, CHOICES],
                         ids=["negative", "not written as numbers", "too large", "switches", "choices"])
def test_a_value_that_no_option_takes(rows, outcomes):
    assert len(rows) > 10
    for row in rows:
        check(row, outcomes)


@each(ONE_BY_ONE)
def test_a_value_that_this_option_does_not_take(row, outcomes):
    check(row, outcomes)


@pytest.mark.parametrize("name", NAMES[int] + NAMES[float] + NAMES["ints"])
def test_zero_is_taken_only_where_the_help_says_what_it_means(name):
    try:
        assert flags.parse(["main", f"--{name}=0"])[name] in (0, (0,))
    except UserError as error:
        assert f"--{name}=0 must be " in str(error)
    else:
        assert "0: " in FIELDS[name].metadata["help"] or "from 0" in FIELDS[name].metadata["help"]


@pytest.mark.parametrize("name", FIELDS)
def test_every_options_own_default_keeps_to_its_rule(name):
    if FIELDS[name].default is not None:
        rule(name).check(FIELDS[name].default)


def test_what_is_right_is_taken():
    given = flags.parse(["main", "--learning_rate=1e-3", "--momentum=.5", "--decay_rate=1.",
                         "--seed=9223372036854775807",
                         "--log_steps=+7", "--decay_steps=5,10", "--weight_decay=-0.0", "--download=TRUE",
                         "--xla=f",
                         "--tpu=grpc://10.0.0.2:8470", "--augment="])
    assert given == {"learning_rate": 0.001, "momentum": 0.5, "decay_rate": 1.0, "seed": 2**63 - 1,
                     "log_steps": 7,
                     "decay_steps": (5, 10), "weight_decay": 0.0, "download": True, "xla": False,
                     "tpu": "grpc://10.0.0.2:8470", "augment": ""}
    assert text_of(given["weight_decay"]) == "0"


@pytest.mark.parametrize("kind, value", [
    (int, 1.0), (int, True), (int, "1"), (int, None), (int, (1,)), (float, "1"), (float, True),
    (float, float("nan")),
    (float, 10**400), (bool, 1), (bool, "true"), (str, 1), (str, ("a",)), ("ints", 5), ("ints", [5]),
    ("ints", (True,)),
    ("ints", ("5",)), ("ints", (5.0,)), ("path", 3)])
def test_a_value_of_another_type_is_refused(kind, value):
    with pytest.raises(ValueError, match="^must be "):
        Rule(kind=kind).check(value)


def test_a_number_is_shown_in_full():
    assert [text_of(value) for value in (0.1, 30.0, 1e-5, 0.1234567890123456, (1, 2), True, "a",
                                         2.0**80)] == [
        "0.1", "30", "1e-05", "0.1234567890123456", "1,2", "true", "a", "1.2089258196146292e+24"]


def test_a_message_is_one_line_of_bounded_length_that_keeps_both_ends():
    line = one_line("--a=" + "x" * 5000 + "\nrule:\x00\x1b " + "word " * 1000 + "fix")
    assert len(line) < 1000 and line.isprintable()
    assert line.startswith("--a=xxx") and r"x rule:\x00\x1b word" in line and line.endswith("word fix")
