"""What an option's text and value must be, and how an error says so: one line, with the flag, its value, the rule and
a fix.

Plain Python, shared by the trainer's options (trainer.config) and the flags of every command (command_line).

    rule = Rule(kind=int, at_least=1, default=10)
    rule.parse("20")        # 20
    rule.parse("0")         # ValueError: must be at least 1, such as 10
"""
import dataclasses
import os
import re
from typing import Any

LARGEST_INTEGER = 2**63 - 1  # of TensorFlow's int64
LARGEST_FLOAT = 3.4028234663852886e38  # of float32: beyond it a number is infinite in the graph
SHOWN_CHARACTERS = 100  # of a value in a message
WORD_CHARACTERS = 200  # of a word, a path say, in a message
LINE_CHARACTERS = 1000  # of a message

INTEGER = r"[+-]?[0-9]+"
NUMBER = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"
# As absl reads a boolean.
SWITCH = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
FORMS = {bool: "true or false", int: "a whole number written as an integer", float: "a finite number", str: "text",
         "path": "text", "ints": "whole numbers separated by commas"}


class UserError(ValueError):
    """A wrong flag, configuration, path or datum: one line for the user, exit code 2 (or what a kind of it says)."""

    exit_code = 2

    def __init__(self, message: str):
        super().__init__(one_line(message))


class NotYet(UserError):
    """What may mend itself: the same command, later, may succeed, so a launcher tries again. EX_TEMPFAIL of sysexits.h."""

    exit_code = 75


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """What one option may be.

    kind: bool, int, float, str, "path" (of a file or folder), or "ints" (a tuple, comma-separated as text).
    at_least and at_most are inclusive, above and below exclusive. filled: the text must not be empty.
    pattern: what the whole text must match, which `form` says in words. default: what a message shows as an
    example, if it keeps to the rule.
    """

    kind: Any
    default: Any = None
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    choices: tuple[str, ...] | None = None
    filled: bool = False
    pattern: str = ""
    form: str = ""

    def parse(self, text: str) -> Any:
        """The value that is written as `text`. ValueError: the rule and a fix, to stand after flag and value."""
        kind = self.kind
        if kind is bool:
            value = SWITCH.get(text.lower())
        elif kind is int:
            value = _integer(text) if re.fullmatch(INTEGER, text) else None
        elif kind is float:
            value = float(text) + 0.0 if re.fullmatch(NUMBER, text) else None  # + 0.0: no negative zero
        elif kind == "ints":
            found = re.fullmatch(rf"({INTEGER}(,{INTEGER})*)?", text)
            value = tuple(_integer(part) for part in text.split(",") if part) if found else None
        else:
            value = self._text(text)
        if value is None:
            raise ValueError(f"must be {FORMS[kind]}{self._example()}")
        self.check(value)
        return value

    def check(self, value: Any) -> None:
        """ValueError, as from `parse`, if `value` has the wrong type or breaks the rule."""
        kind = self.kind
        if isinstance(value, tuple) != (kind == "ints"):
            raise ValueError(f"must be {FORMS[kind]}")
        types = {float: (int, float), "ints": int, "path": str}.get(kind, kind)
        for part in value if kind == "ints" else (value,):
            if not isinstance(part, types) or isinstance(part, bool) != (kind is bool):
                raise ValueError(f"must be {FORMS[kind]}")
            broken = types is not str and kind is not bool and self._broken(part)
            if broken:
                raise ValueError(broken + self._example())
        if self.pattern and not re.fullmatch(self.pattern, value):
            raise ValueError(f"must be {self.form}")
        if self.choices and value not in self.choices:
            raise ValueError(f"must be one of {listed(self.choices)}{suggestion(value, self.choices)}")

    def _broken(self, number) -> str:
        """The rule that a number breaks, "" if it keeps to all."""
        if self.kind is float and not -LARGEST_FLOAT <= number <= LARGEST_FLOAT:  # NaN is not either
            return "must be a finite number, also in float32"
        if self.at_least is not None and number < self.at_least:
            return f"must be at least {text_of(self.at_least)}"
        if self.above is not None and number <= self.above:
            return f"must be more than {text_of(self.above)}"
        if self.below is not None and number >= self.below:
            return f"must be less than {text_of(self.below)}"
        most = LARGEST_INTEGER if self.at_most is None and self.kind is not float else self.at_most
        return f"must be at most {text_of(most)}" if most is not None and number > most else ""

    def _text(self, text: str) -> str:
        if text.startswith("--"):
            raise ValueError("must not begin with --: is its value missing? Write --name=value")
        if self.filled and not text:
            raise ValueError("must not be empty; leave it out for the default")
        if "\0" in text:
            raise ValueError("must not hold a zero byte")
        return os.path.expanduser(text) if self.kind == "path" else text  # a shell leaves the ~ of --name=~ alone

    def _example(self) -> str:
        """', such as 10': the default where that shows anything."""
        usual = {int: 10, float: 0.1, "ints": (100, 200)}.get(self.kind)
        fits = [value for value in (self.default, usual) if value
                and not any(map(self._broken, value if isinstance(value, tuple) else [value]))]
        return f", such as {text_of(fits[0])}" if fits else ""


def _integer(text: str) -> int:
    # Python refuses to convert thousands of digits; no option takes so many.
    return int(text) if len(text) <= 100 else (-1 if text.startswith("-") else 1) * 10**100


def listed(choices) -> str:
    """The choices for a line: those of a family, FAMILY/MEMBER, in one word."""
    families = dict.fromkeys(f"{name.split('/')[0]}/NAME" for name in choices if "/" in name)
    return ", ".join([*(name for name in choices if "/" not in name), *families])


def suggestion(value: str, known, prefix: str = "") -> str:
    """'; did you mean X?' where one of `known` is near, else ''."""
    import difflib  # only a wrong command pays for it
    near = difflib.get_close_matches(value[:SHOWN_CHARACTERS], list(known), n=1)
    return f"; did you mean {prefix}{near[0]}?" if near else ""


def text_of(value: Any) -> str:
    """A value as it is written on the command line."""
    if isinstance(value, tuple):
        return ",".join(text_of(part) for part in value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value)


def shown(value: Any) -> str:
    """A value as a message shows it: as on the command line, control characters escaped, the middle of a long one left
    out."""
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text_of(value))
    if len(text) <= SHOWN_CHARACTERS:
        return text
    return f"{text[:SHOWN_CHARACTERS - 30]}...{text[-20:]}"


def one_line(text: str) -> str:
    """`text` as one line that any terminal can show; of very long words and lines the middle is left out."""
    text = " ".join(filter(None, map(str.strip, re.split(r"[\t\n\v\f\r]+", text))))
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    text = re.sub(rf"(\S{{{WORD_CHARACTERS - 30}}})\S{{30,}}(\S{{20}})", r"\1...\2", text)
    if len(text) <= LINE_CHARACTERS:
        return text
    return f"{text[:LINE_CHARACTERS // 2]} ... {text[-LINE_CHARACTERS // 3:]}"
