"""Training a tiny model: it learns to rank, resumes exactly, keeps the best, and bad inputs give one clear line."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from ppm.config import Objective, PPMConfig, ScoreBound, Sharing
from ppm.evaluate import pair_accuracy, score_groups
from ppm.groups import Continuation, LabelledGroup, PairGroup, PairKind
from ppm.model import load
from ppm.scorer import PPMScorer
from ppm.train import split, train
from rstar.errors import ConfigError, StageError
from rstar.protocols import ScoreRequest
from rstar.training.folder import TRAINING
from tests.policy.forest import save_tiny_base
from tests.policy.killed_training import call_after_step
from tests.ppm.models import random_groups, tiny_ppm

CONFIG = PPMConfig(
    epochs=2, learning_rate=3e-3, global_batch_size=16, micro_batch_tokens=300, max_length=64, held_out_share=0.25,
    save_steps=3, num_threads=1,
)  # fmt: skip


def learnable(groups: list[PairGroup]) -> list[PairGroup]:
    """The last token gives it away: 5 is good, 7 is bad."""

    def marked(side: tuple[Continuation, ...], token: int) -> tuple[Continuation, ...]:
        return tuple(dataclasses.replace(c, token_ids=(*c.token_ids, token)) for c in side)

    return [
        dataclasses.replace(g, chosen=marked(g.chosen, 5), rejected=marked(g.rejected, 7)) for g in groups
    ]


GROUPS = learnable(random_groups(40, seed=2, num_trees=12))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_base(tmp_path_factory.mktemp("base"), ["x = 1\nprint(x)\n<end_of_code>"] * 3)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def undisturbed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    result = train(GROUPS, base=base, out=out, config=CONFIG, seed=5)
    assert result.num_steps >= 8
    assert result.resumed_from_step == 0
    return out


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_it_starts_at_log_2_and_learns_to_rank_held_out_pairs(base: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, epochs=6, learning_rate=1e-2)
    result = train(GROUPS, base=base, out=tmp_path, config=config, seed=5)
    assert result.losses[0] == pytest.approx(math.log(2), rel=1e-5)
    assert result.losses[-1] < 0.3
    assert result.accuracy == max(result.accuracies.values())
    assert result.accuracy > 0.95
    assert result.num_steps in result.accuracies, "the last step is measured"
    _, held_out = split(GROUPS, share=config.held_out_share, seed=5)
    measured = pair_accuracy(load(tmp_path), held_out, sharing=Sharing.OFF, max_length=64)
    assert (measured.overall, measured.num_pairs) == (result.accuracy, result.num_held_out_pairs)


class Stopped(Exception):
    pass


def stop() -> None:
    raise Stopped


@pytest.mark.parametrize("stop_at", [2, 5, "last"])
def test_stopped_and_started_again_gives_equal_weights(
    base: Path, undisturbed: Path, tmp_path: Path, stop_at: int | str
) -> None:
    num_steps = json.loads((undisturbed / TRAINING).read_text())["num_steps"]
    step = num_steps if isinstance(stop_at, str) else stop_at
    handle = call_after_step(step, stop)
    with pytest.raises(Stopped):
        train(GROUPS, base=base, out=tmp_path, config=CONFIG, seed=5)
    handle.remove()
    result = train(GROUPS, base=base, out=tmp_path, config=CONFIG, seed=5)
    assert result.resumed_from_step == (step - 1) // 3 * 3
    assert weights(tmp_path) == weights(undisturbed)
    assert json.loads((tmp_path / TRAINING).read_text()) == json.loads((undisturbed / TRAINING).read_text())


def test_the_checkpoint_with_the_best_held_out_accuracy_is_kept(base: Path, tmp_path: Path) -> None:
    """A learning rate that wrecks the model at the end: warm-up makes the first steps small."""
    config = dataclasses.replace(CONFIG, save_steps=1, learning_rate=0.3, warmup_ratio=0.9, epochs=3)
    result = train(GROUPS, base=base, out=tmp_path, config=config, seed=5)
    best = max(result.accuracies.values())
    assert result.best_step == min(step for step, share in result.accuracies.items() if share == best)
    assert result.best_step < result.num_steps
    _, held_out = split(GROUPS, share=config.held_out_share, seed=5)
    measured = pair_accuracy(load(tmp_path), held_out, sharing=config.sharing, max_length=64)
    assert measured.overall == pytest.approx(best)


def test_a_finished_training_is_not_done_again_and_another_is_refused(
    base: Path, undisturbed: Path, tmp_path: Path
) -> None:
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").write_bytes(b"untouched")
    result = train(GROUPS, base=base, out=tmp_path, config=CONFIG, seed=5)
    assert weights(tmp_path) == b"untouched"
    assert result.num_steps == result.resumed_from_step
    with pytest.raises(StageError, match=r"holds another training \(different: learning_rate\)"):
        train(GROUPS, base=base, out=tmp_path, config=dataclasses.replace(CONFIG, learning_rate=1e-4), seed=5)
    with pytest.raises(StageError, match=r"\(different: seed\)"):
        train(GROUPS, base=base, out=tmp_path, config=CONFIG, seed=6)
    with pytest.raises(StageError, match=r"\(different: data_hash\)"):
        train(GROUPS[1:], base=base, out=tmp_path, config=CONFIG, seed=5)


def test_the_result_is_a_plain_model_folder_with_its_record(base: Path, undisturbed: Path) -> None:
    names = {path.name for path in undisturbed.iterdir()}
    assert names == {
        "config.json", "model.safetensors", "tensorboard", "tokenizer.json", "tokenizer_config.json", TRAINING,
    }  # fmt: skip
    model: Any = AutoModelForSequenceClassification.from_pretrained(undisturbed)
    ours = load(undisturbed)
    assert ours.score_bound is ScoreBound.TANH
    assert torch.equal(model.score.weight, ours.classifier.score.weight)
    assert model.score.weight.abs().max() > 0
    assert AutoTokenizer.from_pretrained(undisturbed).encode("x = 1") == AutoTokenizer.from_pretrained(
        base
    ).encode("x = 1")


@pytest.mark.parametrize(
    "change",
    [{"sharing": Sharing.OFF}, {"micro_batch_tokens": 10**6}, {"gradient_checkpointing": True}],
    ids=str,
)
def test_micro_batches_and_checkpointing_do_not_change_what_is_learned(
    base: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    config = dataclasses.replace(CONFIG, sharing=Sharing.PREFIX, epochs=1)
    result = train(GROUPS, base=base, out=tmp_path / "a", config=config, seed=5)
    changed = train(
        GROUPS, base=base, out=tmp_path / "b", config=dataclasses.replace(config, **change), seed=5
    )
    assert changed.losses == pytest.approx(result.losses, rel=1e-3)
    assert result.losses[0] - result.losses[-1] > 0.01, (
        "the losses that agree are those of a model that moves"
    )


def labelled_of(groups: list[PairGroup]) -> list[LabelledGroup]:
    return [
        LabelledGroup(
            problem_id=group.problem_id, tree_index=0, parent=group.parent, prefix_ids=group.prefix_ids,
            continuations=group.continuations,
        )
        for group in groups
    ]  # fmt: skip


FINALS = [group for group in GROUPS if group.kind is PairKind.FINAL]
LABELLED = {Objective.PQM: labelled_of(GROUPS), Objective.ORM: labelled_of(FINALS)}


@pytest.mark.parametrize("objective", LABELLED)
def test_baselines_learn_from_labels_and_are_measured_on_the_same_held_out_pairs(
    base: Path, tmp_path: Path, objective: Objective
) -> None:
    config = dataclasses.replace(CONFIG, objective=objective, epochs=4, learning_rate=1e-2)
    labelled = LABELLED[objective]
    result = train(GROUPS, base=base, out=tmp_path, config=config, seed=5, labelled=labelled)
    assert result.losses[-1] < 0.8 * result.losses[0]
    assert result.accuracy > 0.8
    _, held_out = split(GROUPS, share=config.held_out_share, seed=5)
    measured = [g for g in held_out if objective is Objective.PQM or g.kind is PairKind.FINAL]
    assert result.num_held_out_pairs == sum(len(group.pairs) for group in measured)
    problems = {group.problem_id for group in held_out}
    assert result.num_pairs == sum(g.size for g in labelled if g.problem_id not in problems)
    with pytest.raises(StageError, match=r"different: data_hash\)"):
        train(GROUPS, base=base, out=tmp_path, config=config, seed=5, labelled=labelled[1:])


def test_an_orm_scores_whole_trajectories_by_their_probability_of_being_correct_wherever_they_are_cut(
    base: Path, tmp_path: Path
) -> None:
    """Best-of-N asks for the value of a last step: with what stands before it, that is the sequence trained on."""
    config = dataclasses.replace(CONFIG, objective=Objective.ORM, epochs=12, learning_rate=1e-2)
    result = train(GROUPS, base=base, out=tmp_path, config=config, seed=5, labelled=LABELLED[Objective.ORM])
    assert result.losses[0] == pytest.approx(math.log(2), rel=1e-5)
    assert min(result.losses) < 0.3 < math.log(1 + math.exp(-1)), "no bound keeps it from being sure"
    assert load(tmp_path).score_bound is ScoreBound.TANH
    stock: Any = AutoModelForSequenceClassification.from_pretrained(tmp_path)

    async def values(cut: int) -> list[list[float]]:
        scorer = PPMScorer(tmp_path)
        found = []
        for group in FINALS:
            whole = [c.token_ids for c in group.continuations]
            for ids in whole:
                at = min(cut, len(ids) - 1)
                request = ScoreRequest(
                    prefix_text="", prefix_ids=group.prefix_ids + ids[:at], step_texts=("",), step_ids=(ids[at:],)
                )  # fmt: skip
                found.append(await scorer.score(request))
        await scorer.aclose()
        return found

    found = torch.tensor(asyncio.run(values(0)))[:, 0]
    torch.testing.assert_close(torch.tensor(asyncio.run(values(3)))[:, 0], found, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        logits = torch.cat(
            [
                2 * stock(torch.tensor([group.prefix_ids + c.token_ids])).logits[0]
                for group in FINALS
                for c in group.continuations
            ]
        )
    torch.testing.assert_close(found, 2 * logits.sigmoid() - 1, rtol=1e-4, atol=1e-4)
    correct = torch.tensor([at < len(g.chosen) for g in FINALS for at in range(len(g.continuations))])
    assert found[correct].mean() > 0.5 > -0.5 > found[~correct].mean()


def test_held_out_problems_are_never_trained_on_and_always_the_same() -> None:
    groups = random_groups(60, seed=1, num_trees=20)
    training, held_out = split(groups, share=0.2, seed=3)
    problems = [{group.problem_id for group in part} for part in (training, held_out)]
    assert not problems[0] & problems[1]
    assert len(problems[1]) == round(0.2 * len(problems[0] | problems[1]))
    assert sorted(map(id, [*training, *held_out])) == sorted(map(id, groups))
    assert split(groups[::-1], share=0.2, seed=3)[1] == held_out[::-1]
    assert split(groups, share=0.2, seed=4)[1] != held_out


def test_accuracy_by_hand() -> None:
    """Of a fresh model every order is a tie, which counts half; of any other, orders counted one by one."""
    groups = random_groups(12, seed=6)
    model = tiny_ppm()
    scores = score_groups(model, groups, sharing=Sharing.TREE, max_length=64)
    right = [
        chosen[at] > rejected[other]
        for group, (chosen, rejected) in zip(groups, scores, strict=True)
        for at, other in group.pairs
    ]
    measured = pair_accuracy(model, groups, sharing=Sharing.TREE, max_length=64)
    assert measured.overall == pytest.approx(sum(right) / len(right))
    steps = [g for g in groups if g.kind is PairKind.STEP]
    assert measured.by_depth == {1: measured.by_kind[PairKind.STEP]}
    assert measured.pairs_by_depth == {1: sum(len(group.pairs) for group in steps)}
    assert pair_accuracy(model, steps, sharing=Sharing.OFF, max_length=64).overall == measured.by_depth[1]
    torch.nn.init.zeros_(model.classifier.score.weight)
    assert pair_accuracy(model, groups, sharing=Sharing.TREE, max_length=64).overall == 0.5


def test_nothing_is_drawn_or_printed_where_there_is_no_terminal(
    base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train(GROUPS, base=base, out=tmp_path, config=dataclasses.replace(CONFIG, epochs=1), seed=5)
    assert capfd.readouterr() == ("", "")


def test_bad_inputs_are_one_clear_line(base: Path, tmp_path: Path) -> None:
    with pytest.raises(
        StageError, match=r"^the pairs are of 0 problems; a preference model needs those of 2"
    ):
        train([], base=base, out=tmp_path, config=CONFIG, seed=0)
    with pytest.raises(ConfigError, match=r"^base is '.*'; it must be a folder with a model"):
        train(GROUPS, base=tmp_path, out=tmp_path / "out", config=CONFIG, seed=0)
    orm = dataclasses.replace(CONFIG, objective=Objective.ORM)
    with pytest.raises(
        StageError, match=r"^objective orm learns from labelled groups, and there are none but"
    ):
        train(GROUPS, base=base, out=tmp_path, config=orm, seed=0)
    steps = [group for group in GROUPS if group.kind is PairKind.STEP]
    with pytest.raises(
        StageError, match=r"^objective orm is measured on final pairs, and the held-out problems have"
    ):
        train(steps, base=base, out=tmp_path, config=orm, seed=0, labelled=LABELLED[Objective.ORM])
    with pytest.raises(ConfigError, match=r"^max_length is 512; it must be at most the base model's 256$"):
        train(GROUPS, base=base, out=tmp_path, config=dataclasses.replace(CONFIG, max_length=512), seed=0)
    with pytest.raises(StageError, match=r"max_length is 3: raise it or lower max_tokens of the pairs$"):
        train(GROUPS, base=base, out=tmp_path, config=dataclasses.replace(CONFIG, max_length=3), seed=0)
