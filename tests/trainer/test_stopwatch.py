"""Laws of the stopwatch: every second belongs to exactly one phase; rates know training only."""

import math

import pytest

from trainer.stopwatch import PHASES, Stopwatch


class Clock:
    """A clock that moves when told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def spend(self, watch, phase, seconds):
        with watch.phase(phase):
            self.now += seconds


@pytest.fixture
def clock():
    return Clock()


def test_every_second_belongs_to_one_phase(clock):
    watch = Stopwatch(clock)
    clock.now += 1.0  # outside any phase
    with watch.phase("training"):
        clock.now += 2.0
        with watch.phase("saving"):
            clock.now += 4.0
            with watch.phase("evaluating"):
                clock.now += 8.0
        clock.now += 16.0
        seconds = watch.seconds()  # in the middle of a phase
    spent = {name: value for name, value in seconds.items() if value}
    assert spent == {"training": 18, "evaluating": 8, "saving": 4, "other": 1}
    assert tuple(seconds) == (*PHASES, "other")
    assert watch.seconds() == seconds


def test_a_phase_that_raises_is_closed(clock):
    watch = Stopwatch(clock)
    with pytest.raises(OSError), watch.phase("saving"):
        clock.now += 3.0
        raise OSError
    clock.now += 5.0
    assert watch.seconds()["saving"] == 3.0
    assert watch.seconds()["other"] == 5.0


@pytest.mark.parametrize("name", ["trainig", "other", ""])
def test_an_unknown_phase_is_refused(clock, name):
    with pytest.raises(ValueError, match=f"phase '{name}': must be one of starting, compiling, training"):
        with Stopwatch(clock).phase(name):
            pass


def test_rates_count_training_only(clock):
    watch = Stopwatch(clock)
    watch.begin(1000, 128_000)
    clock.spend(watch, "compiling", 60)
    clock.spend(watch, "training", 4)
    clock.spend(watch, "evaluating", 30)
    assert watch.rate(1010, 129_280) == (320.0, 0.4)
    clock.spend(watch, "training", 2)
    assert watch.rate(1020, 130_560) == (640.0, 0.2)  # since the last call, not since the start


def test_a_rate_over_nothing_is_nan(clock):
    watch = Stopwatch(clock)
    assert all(map(math.isnan, watch.rate(10, 1280)))  # no time
    clock.spend(watch, "training", 2)
    assert all(map(math.isnan, watch.rate(10, 1280)))  # no step
    assert math.isnan(watch.eta(10, 100))


def test_one_slow_interval_does_not_move_the_time_left(clock):
    watch = Stopwatch(clock)
    for interval in range(1, 6):
        clock.spend(watch, "training", 90 if interval == 3 else 1)
        watch.rate(10 * interval, 0)
    assert watch.eta(50, 1050) == pytest.approx(100.0)
    assert watch.eta(1050, 1050) == 0.0
    assert watch.eta(1060, 1050) == 0.0


def test_the_time_left_follows_a_lasting_change(clock):
    watch = Stopwatch(clock)
    for interval in range(1, 30):
        clock.spend(watch, "training", 1 if interval < 20 else 3)
        watch.rate(10 * interval, 0)
    assert watch.eta(290, 1290) == pytest.approx(300.0)


def test_the_time_left_includes_what_comes_again_but_not_compiling(clock):
    watch = Stopwatch(clock)
    clock.spend(watch, "saving", 7)
    clock.spend(watch, "training", 7)
    watch.rate(1, 0)
    watch.begin(0, 0)  # what was before does not count
    assert math.isnan(watch.eta(0, 1000))
    for interval in range(1, 6):
        clock.spend(watch, "compiling", 20)
        clock.spend(watch, "training", 2)
        clock.spend(watch, "evaluating", 1)
        watch.rate(10 * interval, 0)
    assert watch.eta(50, 1050) == pytest.approx(200.0 * 1.5)


def test_the_report_adds_up(clock):
    watch = Stopwatch(clock)
    clock.spend(watch, "starting", 5.25)
    clock.spend(watch, "training", 120)
    clock.spend(watch, "saving", 24.75)
    assert watch.report().splitlines() == [
        "where the time went    seconds    share",
        "training                 120.0    80.0%",
        "saving                    24.8    16.5%",
        "starting                   5.2     3.5%",
        "total                    150.0   100.0%",
    ]


def test_the_report_of_nothing(clock):
    assert Stopwatch(clock).report().splitlines()[-1] == "total                      0.0     0.0%"


def test_names_of_phases_fit_the_table():
    assert max(map(len, PHASES)) < 20
