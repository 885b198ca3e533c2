"""A small world in a folder, as documents take for granted: the checkout with its environment, problems, a model, a finished round.

The round is real and tiny: the embedded recipe on few problems, without its evaluations and its report.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from rounds.curriculum import Level, Split, curriculum
from rounds.driver import run_stages
from rounds.recipe import load_rounds
from rounds.stages import stages_by_round
from rstar.problems import Problem, write_problems
from tests.rstar.rstar_math_search import searched

REPOSITORY = Path(__file__).resolve().parent.parent
CHECKOUT = (
    "Makefile", "benchmarks", "constraints.txt", "docs", "examples", "mkdocs.yml", "policy", "ppm", "pyproject.toml", "rounds",
    "rstar", "setup.cfg", "tests",
)  # fmt: skip
"""What a document's commands find beside them."""
INSTALLED = ("run", "test", "dev", "docs")
"""Stamps of the Makefile: what is installed already."""
STAGES = ("problems", "round1/search", "round1/sft_set", "round1/policy", "round1/pairs", "round1/ppm")
SETTINGS = (
    "problems.train.curriculum={easy: 6, medium: 5, olympiad: 9}",
    "problems.evaluation.curriculum={easy: 4, medium: 2}",
    "evaluation.problems={easy: 2}",
    "search.num_rollouts=3",
    "search.num_candidates=4",
    "engine.num_replicas=0",
    "sft.epochs=1",
    "sft.micro_batch_size=8",
    "sft.global_batch_size=8",
    "ppm.epochs=1",
    "ppm.global_batch_size=16",
)
RECIPE = """
extends: embedded
base: models/my-1.5b
problems:
  train: {files: [data/train.jsonl]}
  evaluation: {files: [data/held_out.jsonl]}
evaluation: {problems: {}}
"""
JUDGED_STEPS = [
    {"id": "gsm8k-0", "problem": "what is 3 + 4?", "steps": ["3 + 4 is 7."], "final_answer_correct": True, "label": -1},
    {"id": "gsm8k-1", "problem": "what is 3 * 4?", "steps": ["3 * 4 is 7."], "final_answer_correct": False, "label": 0},
]  # fmt: skip
SAMPLES = {"gt": "7", "pred": ["7", "7", "12"], "pred_score": [0.5, 1.5, -1.0]}


def make_world(folder: Path) -> None:
    """Lay out everything but the round."""
    for name in CHECKOUT:
        (folder / name).symlink_to(REPOSITORY / name)
    _environment(folder / ".venv")
    (folder / "models").mkdir()
    for name in ("my-1.5b", "my-7b"):
        (folder / "models" / name).symlink_to(REPOSITORY / "rounds" / "base")
    data = folder / "data"
    data.mkdir()
    train = curriculum(Split.TRAIN, {Level.EASY: 5, Level.MEDIUM: 3}, seed=5)
    held_out = curriculum(Split.EVAL, {Level.EASY: 3, Level.MEDIUM: 2}, seed=5)
    write_problems(
        data / "mine.jsonl", [Problem(id="p1", question="what is 3 + 4?", answer="7", level="easy"), *train]
    )
    write_problems(data / "more.parquet", curriculum(Split.TRAIN, {Level.EASY: 3}, seed=6))
    for name in ("train.jsonl", "raw.jsonl"):
        write_problems(data / name, train)
    for name in ("held_out.jsonl", "evaluation.jsonl"):
        write_problems(data / name, held_out)
    for name in ("math500_test.json", "aime2024_test.json"):
        rows = [{"question": problem.question, "answer": problem.answer} for problem in held_out]
        (data / name).write_text(json.dumps(rows), encoding="utf-8")
    (data / "processbench_gsm8k.json").write_text(json.dumps(JUDGED_STEPS * 4), encoding="utf-8")
    (data / "samples.jsonl").write_text(json.dumps(SAMPLES) + "\n", encoding="utf-8")
    (folder / "runs").mkdir()
    warning = {"level": "warning", "event": "asked again"}
    (folder / "runs" / "log.jsonl").write_text(json.dumps(warning) + "\n", encoding="utf-8")
    (folder / "rstar_math.jsonl").write_text(json.dumps(searched(1, scored=False)) + "\n", encoding="utf-8")
    (folder / "mine.yaml").write_text(RECIPE, encoding="utf-8")


def make_round(run: Path) -> None:
    """Search and train round 1 of a run, really; further rounds are the same again."""
    (stages,) = stages_by_round(load_rounds("embedded", list(SETTINGS))[:1])
    run_stages(run, [stage for stage in stages if stage.name in STAGES], lambda *_: None)
    for later in (2, 3, 4):
        (run / f"round{later}").symlink_to("round1")


def _environment(venv: Path) -> None:
    """The environment of the tests under the name that the documents give it, marked as installed."""
    venv.mkdir()
    for part in Path(sys.prefix).iterdir():
        (venv / part.name).symlink_to(part)
    both = b"".join((REPOSITORY / name).read_bytes() for name in ("setup.cfg", "constraints.txt"))
    checksum = (
        subprocess.run(["cksum"], input=both, capture_output=True, check=True).stdout.split()[0].decode()
    )
    for stamp in ("torch", *(f"installed-{what}" for what in INSTALLED)):
        (venv / f".{stamp}-{checksum}").touch()
