"""Plans add up, grow and shrink as they must, agree with the paper, and are shown by the command."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from policy.config import SFTConfig
from rounds.cli import main
from rounds.plan.assumptions import Assumptions
from rounds.plan.calibration import calibrate
from rounds.plan.check import published_check
from rounds.plan.hardware import read_gpus, read_shape
from rounds.plan.memory import MARGIN_GIB, training_memory
from rounds.plan.plan import Plan, make_plan
from rounds.plan.rates import GpuRates, MeasuredRates
from rounds.plan.workload import SearchWork
from rounds.recipe import load_rounds
from rstar.errors import ConfigError
from rstar.training.config import LoRAConfig

ASSUMED = Assumptions()
MATH_7B = read_shape(Path("nowhere/Qwen2.5-Math-7B"))


def paper(
    gpus: str = "60xA100-40GB", problems: int = 747_000, price: float | None = None, **assumed: Any
) -> Plan:
    changed = dataclasses.replace(ASSUMED, **assumed)
    rates = GpuRates(read_gpus(gpus), changed)
    return make_plan(load_rounds("rstar-math-7b"), rates, changed, problems=problems, price=price)


def test_rounds_and_the_whole_are_the_sums_of_their_stages() -> None:
    plan = paper(price=2.0)
    for name in ("tokens", "executions", "hours", "gpu_hours", "disk_gb", "price"):
        whole = math.fsum(getattr(stage, name) for stage in plan.stages)
        assert getattr(plan.total, name) == pytest.approx(whole)
        assert math.fsum(getattr(one, name) for one in plan.rounds()) == pytest.approx(whole)
    assert plan.total.gpu_hours == pytest.approx(60 * plan.total.hours)
    assert plan.total.price == pytest.approx(2 * plan.total.gpu_hours)
    assert [one.name for one in plan.rounds()] == ["base", "round1", "round2", "round3", "round4", "scaling"]
    assert paper().total.price is None


def hours(plan: Plan, stage: str) -> float:
    return next(one.hours for one in plan.stages if one.name == stage)


def test_twice_the_gpus_take_half_the_time_and_twice_the_problems_twice() -> None:
    once = hours(paper(), "round2/search")
    assert hours(paper("120xA100-40GB"), "round2/search") == pytest.approx(once / 2)
    assert hours(paper(problems=2 * 747_000), "round2/search") == pytest.approx(once * 2)
    assert hours(paper("60xH100-80GB"), "round2/search") < once / 1.5


def test_slow_sandboxes_are_what_a_search_waits_for() -> None:
    assert hours(paper(execution_cpu_s=10.0), "round2/search") > 10 * hours(paper(), "round2/search")


def test_the_papers_search_is_planned_within_a_third_of_what_it_took() -> None:
    check = published_check(ASSUMED)
    assert check.published_days == 3
    assert check.lock_step_days == pytest.approx(3, rel=1 / 3), "the released code searches in lock-step"
    assert check.planned_days < check.published_days
    assert check.tokens_per_s_per_gpu * 3 * 86400 * 60 == pytest.approx(check.tokens)


def test_decoding_is_bound_by_memory_and_by_its_room() -> None:
    rates = GpuRates(read_gpus("1xA100-40GB"), ASSUMED)
    alone = rates.decode_tokens_per_s(MATH_7B, guided=False, rows=1, context=1)
    weights_s = 2 * MATH_7B.parameters / (1555e9 * ASSUMED.bandwidth_share)
    assert alone == pytest.approx(1 / weights_s, rel=0.01)
    many = rates.decode_tokens_per_s(MATH_7B, guided=False, rows=256, context=300)
    assert 50 * alone < many < 256 * alone
    room = rates.batch_rows(MATH_7B, guided=True, rows=10_000, context=300)
    free = 40 * 2**30 * 0.9 - 4 * MATH_7B.parameters
    assert room == int(free / (300 * MATH_7B.kv_bytes_per_token))


def test_a_model_that_does_not_fit_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"GiB of weights do not fit on 1 x L4-24GB; it takes 32"):
        paper("1xL4-24GB")


def test_a_training_fits_where_its_state_does() -> None:
    config = SFTConfig(gradient_checkpointing=True)
    needs = training_memory("policy", MATH_7B, read_gpus("8xA100-80GB"), config, tokens=8192, logits=True)
    fits = {need.way: need.fits for need in needs}
    assert fits == {
        "one GPU each": False, "8 GPUs, ZeRO-2": True, "8 GPUs, ZeRO-3": True, "one GPU, ZeRO offload to memory": True,
    }  # fmt: skip
    assert needs[0].gib > 16 * MATH_7B.parameters / 2**30
    kept = training_memory("policy", MATH_7B, read_gpus("1xA100-80GB"), SFTConfig(), tokens=8192, logits=True)
    assert len(kept) == 2
    assert kept[0].gib > needs[0].gib


@pytest.mark.parametrize(
    ("settings", "way", "per_parameter"),
    [
        ({}, "one GPU each", 16),
        ({"num_processes": 4}, "4 GPUs, each with all", 16),
        ({"num_processes": 4, "deepspeed": "zero1"}, "4 GPUs, ZeRO-1", 2 + 2 + 12 / 4),
        ({"num_processes": 4, "deepspeed": "zero2"}, "4 GPUs, ZeRO-2", 2 + 14 / 4),
        ({"num_processes": 8, "deepspeed": "zero3"}, "8 GPUs, ZeRO-3", 16 / 8),
        ({"deepspeed": "zero2-offload"}, "one GPU, ZeRO offload to memory", 4),
        ({"num_processes": 4, "deepspeed": "zero3-offload"}, "4 GPUs, ZeRO-3 with offload", 2 / 4),
        ({"lora": LoRAConfig()}, "one GPU each", 2),
    ],
    ids=str,
)
def test_the_first_need_of_a_training_is_that_of_its_own_settings(
    settings: dict[str, Any], way: str, per_parameter: float
) -> None:
    gpus = read_gpus("8xA100-80GB")
    config = SFTConfig(global_batch_size=128, micro_batch_size=2, **settings)
    first, *others = training_memory("policy", MATH_7B, gpus, config, tokens=0, logits=True)
    assert (first.way, first.chosen) == (way, True)
    assert first.gib == pytest.approx(MATH_7B.parameters * per_parameter / 2**30 + MARGIN_GIB)
    assert not any(need.chosen for need in others)


def test_the_7b_recipe_trains_on_eight_gpus_of_80_gb() -> None:
    chosen = [need for need in paper("8xA100-80GB", problems=1000).memory if need.chosen]
    assert [(need.what, need.way, need.fits) for need in chosen] == [
        (what, "8 GPUs, ZeRO-3", True) for what in ("policy training", "PPM training")
    ]


def test_the_24_gb_recipe_searches_on_its_gpu_and_trains_there_with_offload_alone() -> None:
    rates = GpuRates(read_gpus("1xRTX-4090"), ASSUMED)
    plan = make_plan(load_rounds("rstar-math-1.5b-24gb"), rates, ASSUMED, problems=7500)
    assert all(need.fits for need in plan.memory if "search" in need.what)
    training = [need for need in plan.memory if "training" in need.what]
    assert {need.way for need in training if need.fits} == {"one GPU, ZeRO offload to memory"}
    assert all(need.fits for need in training if need.chosen)
    assert plan.total.hours / 24 < 14


def test_measured_rates_divide_work_by_speed() -> None:
    rates = MeasuredRates(
        machine="here",
        search_tokens_per_s=100,
        guided_tokens_per_s=50,
        policy_examples_per_s=1,
        ppm_pairs_per_s=1,
        start_s=5,
    )
    work = SearchWork(
        trees=1,
        rollouts=1,
        expansions=1,
        tokens=1000,
        prefix_tokens=0,
        nodes=1,
        executions=1,
        scored_tokens=0,
    )
    shape = read_shape(Path("nowhere/Qwen2.5-Math-7B"))
    assert rates.search_s(work, shape, guided=False, rows=1, context=1) == 15
    four = dataclasses.replace(rates, count=4)
    assert four.search_s(work, shape, guided=True, rows=1, context=1) == 10


def test_pools_of_unknown_size_are_asked_for() -> None:
    rates = GpuRates(read_gpus("8xA100-80GB"), ASSUMED)
    with pytest.raises(
        ConfigError, match=r"is not there to be counted; say how many problems .*--problems 747000"
    ):
        make_plan(load_rounds("rstar-math-7b"), rates, ASSUMED)
    embedded = make_plan(load_rounds("embedded"), rates, ASSUMED)
    assert (embedded.problems, embedded.evaluation_problems) == (800, 400)


def rstar(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["rstar", "plan", *arguments])
    monkeypatch.setenv("COLUMNS", "160")
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize("nonsense", [["--problems", "0"], ["--problems", "-1"], ["--price", "-2"]])
def test_no_problems_and_negative_prices_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], nonsense: list[str]
) -> None:
    assert rstar(monkeypatch, "--recipe", "rstar-math-7b", "--gpus", "60xA100-40GB", *nonsense) == 2
    assert nonsense[0] in capsys.readouterr().err


def test_the_command_shows_stages_memory_assumptions_and_the_check(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "--recipe",
        "rstar-math-7b",
        "--gpus",
        "60xA100-40GB",
        "--problems",
        "747000",
        "--price",
        "2",
    ]
    assert rstar(monkeypatch, *arguments) == 0
    shown = capsys.readouterr().out
    for text in (
        "round2/search",
        "GPU-hours",
        "price",
        "memory per GPU",
        "does not fit",
        "tokens_per_step",
        "took 3 days",
    ):
        assert text in shown
    assert rstar(monkeypatch, *arguments, "--assume", "coverage.4=0.5", "--json") == 0
    values = json.loads(capsys.readouterr().out)
    assert values["assumed"]["coverage"] == {"1": 0.6017, "2": 0.666, "3": 0.7786, "4": 0.5}
    assert values["total"]["tokens"] == pytest.approx(sum(stage["tokens"] for stage in values["stages"]))
    assert rstar(monkeypatch, "--recipe", "rstar-math-7b") == 2
    assert "on which GPUs?" in capsys.readouterr().err


def test_a_plan_needs_no_model_code() -> None:
    program = (
        "import sys; from rounds.plan.command import plan_command;"
        "plan_command(gpus='8xA100-80GB', recipe='rstar-math-7b', problems=1000, sample=1, as_json=True);"
        "print(sorted({'torch', 'transformers', 'pandas', 'sympy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.slow
def test_a_calibration_measures_rates_and_sizes_by_a_real_run() -> None:
    found = calibrate(load_rounds("embedded")[0], ASSUMED, num_problems=24)
    rates = dataclasses.asdict(found.rates)
    assert all(rates[name] > 0 for name in rates if name.endswith("_per_s"))
    assert 0 < found.rates.start_s < 120
    assert 5 < found.assumed.tokens_per_step < 40
    assert 2 < found.assumed.steps_per_solution < 16
    assert 20 < found.assumed.prompt_tokens < 200
    assert found.assumed.coverage["4"] >= found.assumed.coverage["1"] > 0.2
    plan = make_plan(load_rounds("embedded"), found.rates, found.assumed)
    assert plan.machine == found.rates.machine
    assert not plan.memory
    assert 0 < plan.total.hours < 100
