"""The clock that retention goes by: a jump forward is not believed before it has lasted a day."""

from __future__ import annotations

from recsys.patient_clock import PatientClock

HOUR, DAY, YEAR = 3600.0, 86_400.0, 365 * 86_400.0


class Machine:
    """Its time of day, which may jump, and its steady seconds, which don't."""

    def __init__(self) -> None:
        self.now, self.steady = 50 * YEAR, 7.0

    def passes(self, seconds: float) -> None:
        self.now, self.steady = self.now + seconds, self.steady + seconds

    def patient(self, not_after: float | None = None) -> PatientClock:
        return PatientClock(lambda: self.now, not_after, lambda: self.steady)


def test_without_a_jump_it_says_what_the_machine_says() -> None:
    machine = Machine()
    clock = machine.patient()
    for seconds in (0.0, 60.0, 30 * DAY):
        machine.passes(seconds)
        assert clock() == machine.now
    machine.now += 30.0
    assert clock() == machine.now, "a time server's step"


def test_a_jump_forward_and_back_is_never_seen() -> None:
    machine = Machine()
    clock = machine.patient()
    right = machine.now
    machine.now += YEAR
    for hours in (0, 1, 22):
        machine.passes(hours * HOUR)
        assert clock() == right + hours * HOUR + (HOUR if hours == 22 else 0)
    machine.now -= YEAR
    machine.passes(5 * HOUR)
    assert clock() == machine.now
    machine.now += YEAR
    machine.passes(20 * HOUR)
    assert clock() == machine.now - YEAR, "the next jump has its own day"


def test_a_jump_forward_that_stays_is_believed_after_a_day() -> None:
    machine = Machine()
    clock = machine.patient()
    machine.now += YEAR
    assert clock() == machine.now - YEAR
    machine.passes(DAY)
    assert clock() == machine.now


def test_a_jump_back_is_believed_at_once() -> None:
    machine = Machine()
    clock = machine.patient()
    machine.now -= YEAR
    assert clock() == machine.now


def test_a_start_far_behind_the_newest_event_is_a_jump() -> None:
    machine = Machine()
    clock = machine.patient(not_after=machine.now - YEAR)
    assert clock() == machine.now - YEAR
    machine.passes(DAY)
    assert clock() == machine.now
    assert machine.patient(not_after=machine.now + YEAR)() == machine.now
