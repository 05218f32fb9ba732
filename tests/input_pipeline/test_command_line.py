"""Laws of `input_pipeline.command_line`: every mistake is one line that names the flag, its value and the rule."""

import pytest
from absl import flags
from hypothesis import given, settings
from hypothesis import strategies as st

from input_pipeline import command_line
from input_pipeline.rules import UserError


def defined() -> flags.FlagValues:
    values = flags.FlagValues()
    flags.DEFINE_string("output", None, "the folder to write " * 9, flag_values=values)
    flags.DEFINE_bool("skip", False, "leave out", flag_values=values)
    flags.DEFINE_integer("size", 100, "of a part", lower_bound=1, upper_bound=1000, flag_values=values)
    flags.DEFINE_enum("kind", "whole", ["whole", "part"], "which", flag_values=values)
    return values


def read(*arguments: str) -> flags.FlagValues:
    values = defined()
    command_line.read(["program", *arguments], values)
    return values


def test_flags_are_read_and_have_their_defaults():
    values = read("--output=a b", "--size", "7", "--skip")
    assert (values.output, values.size, values.skip) == ("a b", 7, True)
    values = read()
    assert (values.output, values.size, values.skip) == (None, 100, False)


@pytest.mark.parametrize("arguments, words", [
    (["--siz=3"], "--siz=3 is not a flag; did you mean --size?"), (["--undefok=x"], "--undefok is not taken"),
    (["--" + "x" * 5000], "is not a flag; see --help"), (["--size"], "--size needs a value; write --size=VALUE"),
    (["--noskip=1"], "--noskip=1 must be written --noskip, without a value"), (["x"], "'x' is not a flag"),
    (["--flagfile=/nowhere"], "No such file or directory"), (["--skip=maybe"], "--skip=maybe must be true or false"),
    (["--size=1_0"], "--size=1_0 must be a whole number written as an integer, such as 100"),
    (["--kind=hole"], "--kind=hole must be one of whole, part; did you mean whole?"),
])
def test_a_mistake_is_one_line(arguments, words):
    with pytest.raises(ValueError) as error:
        read(*arguments)
    assert words in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 300


@settings(max_examples=300, deadline=None)
@given(arguments=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
                          | st.sampled_from(["--size=", "--output=", "--skip", "--", "-", "--size=9"]), max_size=4))
def test_anything_is_read_or_a_value_error_of_one_line(arguments):
    try:
        read(*arguments)
    except UserError as error:
        assert len(str(error).splitlines()) == 1 and str(error).isprintable()


def test_help_shows_every_flag_with_its_default_in_short_lines():
    text = command_line.help_text(defined())
    assert "  --size=100 " in text and "  --skip=false " in text and "  --output " in text and "undefok" not in text
    assert "  --kind=whole                which: whole, part" in text.splitlines()
    assert max(map(len, text.splitlines())) <= 100
