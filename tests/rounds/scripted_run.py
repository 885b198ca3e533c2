"""Four rounds whose policy and value model are scripted, so that all trees are exact; the trainings are real and tiny.

`python -m tests.rounds.scripted_run folder [stage]` makes them, and is killed when all of that stage but its manifest is
there.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from unittest import mock

from rounds import driver, evaluation, searching
from rounds.artifact import Manifest, finish
from rounds.recipe import load_rounds
from rounds.stages import stages_by_round
from rstar import campaign
from rstar.backends.scripted import ChainWorld, ScriptedValue
from rstar.evaluation import Engines
from rstar.grading import Grader
from rstar.problems import write_problems
from tests.rstar.fakes import InProcessSandbox

WORLD = ChainWorld(num_operations=2, slip=0.2)
RECIPE = """
problems: {train: {files: [FOLDER/train.jsonl]}, evaluation: {files: [FOLDER/held_out.jsonl]}}
search: {num_rollouts: 2, num_candidates: 2, sampling: {max_step_tokens: 100}}
mastered_rollouts: 1
sft_set: {max_tokens: 512}
sft: {epochs: 1, learning_rate: 1.0e-4, global_batch_size: 8, max_length: 512, num_threads: 1}
pairs: {min_edit_distance: 1, max_tokens: 512}
ppm: {learning_rate: 1.0e-4, global_batch_size: 16, max_length: 512, num_threads: 1}
evaluation: {search: {num_rollouts: 1, num_candidates: 2}, max_trajectories: 2, num_samples: 2}
rounds:
  1: {}
  2: {unsolved: {num_rollouts: [4]}}
  3: {search: {guidance: ppm}, unsolved: {num_rollouts: [4]}}
  4: {search: {guidance: ppm}, unsolved: {num_rollouts: [4, 6], num_trees: 2}}
"""


@asynccontextmanager
async def scripted_engines(*_: object) -> AsyncIterator[tuple[Engines, Grader]]:
    with Grader() as grader:
        yield Engines(policy=WORLD.policy(), sandbox=InProcessSandbox()), grader


def main(folder: Path, kill_in: str) -> None:
    """Bring all four rounds in `folder` to completion."""
    problems = WORLD.problems(24)
    write_problems(folder / "train.jsonl", problems[:20])
    write_problems(folder / "held_out.jsonl", problems[20:])
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.replace("FOLDER", str(folder)))

    def finish_or_die(stage_folder: Path, manifest: Manifest) -> None:
        if manifest.stage == kill_in:
            os.kill(os.getpid(), signal.SIGKILL)
        finish(stage_folder, manifest)

    def scripted_value(*_: object) -> ScriptedValue:
        return ScriptedValue(lambda text: (len(text) % 7 - 3) / 3)

    with (
        mock.patch.object(campaign, "open_engines", scripted_engines),
        mock.patch.object(searching, "value_model", scripted_value),
        mock.patch.object(evaluation, "value_model", scripted_value),
        mock.patch.object(driver, "finish", finish_or_die),
    ):
        for stages in stages_by_round(load_rounds(recipe), complete=True):
            driver.run_stages(folder / "run", stages, lambda *_: None)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *(sys.argv[2:] or [""]))
