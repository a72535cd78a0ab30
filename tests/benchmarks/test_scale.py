from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.scale import DAY_S, Constants, Setting, Task, kept_bytes, state_bytes, told, verdict_ms


@pytest.fixture(scope="module")
def constants() -> Constants:
    return Constants()


def test_without_a_student_a_verdict_costs_a_pass_of_each_branch(constants: Constants) -> None:
    few_held_out = Setting(generators=10, crops=1, task=Task(held_out=19))
    first_with_student = replace(few_held_out, task=Task(held_out=20))
    saved = verdict_ms(few_held_out, constants) - verdict_ms(first_with_student, constants)
    assert saved * min(1.0, constants.ray) == pytest.approx(0.975 * 10 * constants.branch_ms("residual"))


def test_a_default_version_has_the_size_that_the_documentation_tells(constants: Constants) -> None:
    # docs/how-to/roll-back.md, "Deleting"
    one, two = (state_bytes(Setting(generators=k), constants) / 1e6 for k in (1, 2))
    assert one == pytest.approx(11.3, abs=0.3) and two - one == pytest.approx(0.3, abs=0.05)


def test_versions_add_up(constants: Constants) -> None:
    two, three = Setting(generators=2), Setting(generators=3)
    added = kept_bytes(three, constants) - kept_bytes(two, constants)
    assert added == pytest.approx(state_bytes(three, constants) + constants.pictures_bytes)


def test_a_core_judges_for_a_whole_day(constants: Constants) -> None:
    per_day = DAY_S * 1000 / verdict_ms(Setting(), constants)
    assert told(Setting(images=per_day * 2, nodes=1, cores=4), constants)["share of the day"] == "50.0%"
