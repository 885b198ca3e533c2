"""Grading: the case tables, symmetry, agreement of the fast with the slow path, and every way to call it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rstar.errors import ConfigError, GradingError
from rstar.grading import Grader, GraderConfig, Verdict, VerdictReason, symbolic
from rstar.grading.grader import _read, decide_in_python
from tests.rstar.grading.cases import answers, constants, numbers, rubbish, table

EQUAL_REASONS = {
    VerdictReason.IDENTICAL,
    VerdictReason.NUMERIC,
    VerdictReason.APPROXIMATE,
    VerdictReason.STRUCTURAL,
    VerdictReason.SYMBOLIC,
}


@pytest.mark.parametrize(("a", "b", "why"), table("must_equal.json"))
def test_must_equal(grader: Grader, a: str, b: str, why: str) -> None:
    verdict = grader.grade_sync(a, b)
    assert verdict.equal, f"{why}: {verdict}"
    assert verdict.reason in EQUAL_REASONS
    assert grader.grade_sync(b, a) == verdict


@pytest.mark.parametrize(("a", "b", "why"), table("must_differ.json"))
def test_must_differ(grader: Grader, a: str, b: str, why: str) -> None:
    verdict = grader.grade_sync(a, b)
    assert not verdict.equal, f"{why}: {verdict}"
    assert verdict.reason in {VerdictReason.DIFFERENT, VerdictReason.UNPARSABLE}
    assert grader.grade_sync(b, a) == verdict


@given(st.fractions(max_denominator=1000).filter(bool), st.sampled_from([100, 1000, Ellipsis]))
def test_fault_12_a_factor_of_100_is_never_equal(value: object, factor: object) -> None:
    text = str(value)
    other = rf"{text}\%" if factor is Ellipsis else str(value * factor)  # type: ignore[operator]
    verdict = decide_in_python(_read(text)[1], _read(other)[1])
    assert verdict == Verdict(False, VerdictReason.DIFFERENT)


@given(answers, answers)
def test_the_fast_path_is_symmetric(a: str, b: str) -> None:
    shape_a, shape_b = _read(a)[1], _read(b)[1]
    assert decide_in_python(shape_a, shape_b) == decide_in_python(shape_b, shape_a)


@given(st.one_of(answers, rubbish.filter(lambda text: _read(text)[0])))
def test_every_answer_but_the_empty_one_equals_itself(text: str) -> None:
    with Grader() as grader:
        assert grader.grade_sync(text, f" {text} ") == Verdict(True, VerdictReason.IDENTICAL)
        assert grader.worker_pids == []


@settings(deadline=None, max_examples=60)
@given(st.one_of(st.tuples(constants, constants), st.tuples(numbers, numbers), st.tuples(constants, numbers)))
def test_the_fast_path_agrees_with_computer_algebra_wherever_both_decide(pair: tuple[str, str]) -> None:
    (a, shape_a), (b, shape_b) = map(_read, pair)
    fast = decide_in_python(shape_a, shape_b)
    if fast is None or fast.reason is VerdictReason.APPROXIMATE or a == b:
        return
    try:
        assert fast.equal == symbolic.equal_expressions(a, b)
    except symbolic.UnreadableError:
        return


@pytest.mark.parametrize(("a", "b", "why"), [*table("must_equal.json"), *table("must_differ.json")])
def test_the_fast_path_never_contradicts_the_worker(grader: Grader, a: str, b: str, why: str) -> None:
    (normal_a, shape_a), (normal_b, shape_b) = _read(a), _read(b)
    fast = decide_in_python(shape_a, shape_b)
    if fast is not None:
        status = grader._pool.submit(normal_a, normal_b).result()
        assert status.status == ("equal" if fast.equal else "different"), why


@settings(deadline=None, max_examples=40)
@given(rubbish, rubbish)
def test_rubbish_gets_a_verdict_and_the_grader_lives(grader: Grader, a: str, b: str) -> None:
    verdict = grader.grade_sync(a, b)
    assert grader.grade_sync(b, a).equal == verdict.equal
    assert grader.grade_sync("x+1", "1+x").equal


def test_no_process_starts_and_no_computer_algebra_is_imported_for_what_python_decides() -> None:
    code = (
        "import sys; from rstar.grading import Grader\n"
        "g = Grader()\n"
        "assert g.grade_sync('1/2', '0.5').equal and not g.grade_sync('7', '8').equal\n"
        "assert not g.grade_sync(r'2\\sqrt{2}', '3').equal and g.grade_sync('(1,2)', '(1, 2.0)').equal\n"
        "assert g.worker_pids == []\n"
        "assert not {'sympy', 'math_verify', 'latex2sympy2_extended', 'torch', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_reason_says_how(grader: Grader) -> None:
    reasons = {
        ("0.5", "0.50000"): VerdictReason.NUMERIC,
        (r"\sqrt{8}", r"2\sqrt{2}"): VerdictReason.NUMERIC,
        ("0.333333", "1/3"): VerdictReason.APPROXIMATE,
        ("(1,0.5)", "(1,1/2)"): VerdictReason.STRUCTURAL,
        ("x+1", "1+x"): VerdictReason.SYMBOLIC,
        ("(x+1,2)", "(1+x,2)"): VerdictReason.SYMBOLIC,
        ("x+1", "x+2"): VerdictReason.DIFFERENT,
        ("x+", "x"): VerdictReason.UNPARSABLE,
    }
    assert {pair: grader.grade_sync(*pair).reason for pair in reasons} == reasons


@pytest.mark.parametrize("empty", ["", "  ", "$$", r"\boxed{}", "."])
def test_an_empty_answer_equals_nothing(grader: Grader, empty: str) -> None:
    assert grader.grade_sync(empty, empty) == Verdict(False, VerdictReason.UNPARSABLE, "the answer is empty")
    assert grader.grade_sync("5", empty) == Verdict(False, VerdictReason.UNPARSABLE, "the reference is empty")


def test_what_is_too_long_is_compared_as_text_only(grader: Grader) -> None:
    long = "1+" * 500_000 + "1"
    assert grader.grade_sync(long, f"{long} ").reason is VerdictReason.IDENTICAL
    verdict = grader.grade_sync(long, "500001")
    assert (verdict.equal, verdict.reason) == (False, VerdictReason.UNPARSABLE)
    assert verdict.detail == "1,000,001 characters; more than 2,000 are not read"


# From threads and event loops


PAIRS = [(f"x+{i}", f"{i}+x") for i in range(6)] + [(f"x+{i}", f"{i}-x") for i in range(6)]
EXPECTED = [True] * 6 + [False] * 6


def test_fault_11_grading_works_in_any_thread(grader: Grader) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda pair: grader.grade_sync(*pair).equal, PAIRS * 4)) == EXPECTED * 4


def test_fault_11_two_event_loops_at_once_share_a_grader() -> None:
    async def grade_all(grader: Grader) -> list[bool]:
        verdicts = await asyncio.gather(*(grader.grade(*pair) for pair in PAIRS))
        return [verdict.equal for verdict in verdicts]

    results: dict[str, list[bool]] = {}

    def run_loop(name: str, grader: Grader) -> None:
        results[name] = asyncio.run(grade_all(grader))

    with Grader() as grader:
        threads = [threading.Thread(target=run_loop, args=(name, grader)) for name in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == {"a": EXPECTED, "b": EXPECTED}


def test_fault_11_a_blocking_call_inside_a_running_loop_does_not_deadlock(grader: Grader) -> None:
    async def inside() -> bool:
        return grader.grade_sync("x+10", "10+x").equal

    assert asyncio.run(inside())


def test_many_coroutines_that_ask_the_same_share_one_answer_and_one_may_be_cancelled() -> None:
    async def ask() -> list[object]:
        async with Grader() as grader:
            tasks = [asyncio.create_task(grader.grade("y+1", "1+y")) for _ in range(50)]
            await asyncio.sleep(0)
            tasks[0].cancel()
            return await asyncio.gather(*tasks, return_exceptions=True)

    first, *others = asyncio.run(ask())
    assert isinstance(first, asyncio.CancelledError)
    assert others == [Verdict(True, VerdictReason.SYMBOLIC)] * 49


def test_the_cache_is_bounded_and_answers_after_the_workers_are_gone() -> None:
    grader = Grader(GraderConfig(cache_size=2))
    verdicts = [grader.grade_sync("1", str(i)) for i in range(2, 6)]
    assert len(grader._verdicts) == 2
    grader.grade_sync("x+1", "1+x")
    grader.close()
    grader.close()
    assert grader.grade_sync("1+x", "x+1").equal
    assert not any(verdict.equal for verdict in verdicts)
    with pytest.raises(GradingError, match="closed"):
        grader.grade_sync("y+1", "1+y")


# Classes


def test_classes_are_numbered_by_first_appearance(grader: Grader) -> None:
    texts = ["7", r"\frac{1}{2}", "0.5", "x+1", "7.0", "1+x", "", "north", "North", ""]
    assert asyncio.run(grader.classes(texts)) == [0, 1, 1, 2, 0, 2, 3, 4, 4, 3]
    assert asyncio.run(grader.classes([])) == []


@given(st.lists(numbers, max_size=8))
def test_classes_of_exact_numbers_are_their_values(texts: list[str]) -> None:
    exact = [text for text in texts if "." not in text]
    with Grader() as grader:
        classes = asyncio.run(grader.classes(exact))
    values = [shape_value(text) for text in exact]
    assert [classes[values.index(value)] for value in values] == classes
    assert list(dict.fromkeys(classes)) == list(range(len(set(values))))


def shape_value(text: str) -> object:
    from rstar.grading.numbers import parse_number

    number = parse_number(_read(text)[0])
    assert number is not None
    return number.value


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"num_workers": 0}, "grading.num_workers must be positive, not 0"),
        ({"deadline_s": 1.0}, r"grading.deadline_s \(1\) must be above grading.cpu_limit_s \(3\)"),
    ],
)
def test_a_wrong_limit_is_one_line(setting: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GraderConfig(**setting)  # type: ignore[arg-type]
