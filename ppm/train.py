"""Training of a preference model on groups of pairs, or of a baseline on labelled groups, with the Hugging Face Trainer
(rStar-Math, section 4.1).

    out/
      config.json, model.safetensors, tokenizer.json, ...   the model: that of the checkpoint that ordered most held-out pairs
      training.json     settings, hashes of data and base, losses, held-out accuracy; written last
      tensorboard/      metrics
      run.json, checkpoints/    while training; a rerun of the same training goes on from the newest complete one

Killed at any moment and started again, training ends in the weights of an undisturbed run (`rstar.training.trainer`).
The order of groups and batches is planned before (`batches.plan`), so the Trainer shuffles nothing: one of its items is
one micro-batch.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils.data import SequentialSampler
from transformers import AutoTokenizer, Trainer, TrainerCallback

from ppm.batches import MicroBatch, collate, plan
from ppm.config import Objective, PPMConfig, ScoreBound
from ppm.evaluate import MODEL_INPUTS, pair_accuracy
from ppm.groups import Group, LabelledGroup, PairGroup, PairKind
from ppm.losses import bradley_terry_loss, outcome_loss, q_value_loss
from ppm.model import ProcessPreferenceModel, quietly, start_from, write_bound
from rstar.errors import ConfigError, StageError
from rstar.seeds import derive
from rstar.training.config import HOW_IT_IS_SPREAD
from rstar.training.folder import finished, identity_of
from rstar.training.hosts import Hosts
from rstar.training.lora import add_adapters
from rstar.training.trainer import (
    arguments,
    finish,
    fit,
    num_processes,
    number_format,
    optimizer_of,
    run,
    save_model,
    weights_format,
)

SCHEMA_VERSION = 1

_NO_EFFECT_ON_WEIGHTS = ("logging_steps", *HOW_IT_IS_SPREAD)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """What a training did. Losses are means per group over a logging interval; accuracies are shares of pairs."""

    model: Path
    num_groups: int
    num_pairs: int
    """Trained on; of a baseline, the labelled steps or trajectories."""
    num_held_out_pairs: int
    num_steps: int
    losses: tuple[float, ...]
    accuracies: dict[int, float]
    """Optimiser step to accuracy on the held-out pairs."""
    best_step: int
    """The step whose weights were kept: the first of those with the highest accuracy."""
    train_s: float
    """Wall time in the training loop of this process; what a killed one spent before is not in it."""
    resumed_from_step: int
    """0: from the start; `num_steps`: nothing was left to do."""

    @property
    def accuracy(self) -> float:
        """Of the model that was kept."""
        return self.accuracies[self.best_step]


def train(
    groups: Sequence[PairGroup],
    *,
    base: Path,
    out: Path,
    config: PPMConfig,
    seed: int,
    labelled: Sequence[LabelledGroup] = (),
    hosts: Hosts | None = None,
) -> TrainingResult:
    """Train a preference model on `groups`, from the policy in the folder `base`, into the folder `out`.

    A baseline (`config.objective`) learns from `labelled` instead, which `labels.labelled_set` draws from the same trees
    for its objective; it too is measured on the pairs that are held out, an ORM on the final ones among them. `seed`
    decides which problems are held out, the same for every objective, and the order of the rest. Called again with equal
    arguments it goes on where it was stopped, or returns at once when `out` is complete. `hosts` are the machines to train on, in place
    of those that `config` names. Raises StageError when there is too little to train on or to measure by, a step is too long
    for `max_length` or the model, `out` holds another training, or a process fails; ConfigError when `base` is no model
    folder or the settings do not fit the machines.
    """
    objective = config.objective
    assert objective is not Objective.PPM or not labelled, "a preference model learns from pairs alone"
    training_pairs, held_out = split(groups, share=config.held_out_share, seed=seed)
    training_groups: Sequence[Group] = training_pairs
    if objective is not Objective.PPM:
        training_groups = _without_problems(labelled, held_out)
        if not training_groups:
            raise StageError(
                f"objective {objective} learns from labelled groups, and there are none but of held-out problems"
            )
    if objective is Objective.ORM:  # it never reads a prefix that is not whole
        held_out = [group for group in held_out if group.kind is PairKind.FINAL]
        if not held_out:
            raise StageError("objective orm is measured on final pairs, and the held-out problems have none")
    identity = identity_of(
        config,
        no_effect=_NO_EFFECT_ON_WEIGHTS,
        seed=seed,
        data_hash=data_hash([*groups, *labelled]),
        base=base,
    )
    done = finished(out, identity)
    if done is not None:
        return _result(out, done, resumed_from_step=done["num_steps"], train_s=0.0)
    return run(
        _train, out=out, config=config, hosts=hosts, groups=training_groups, held_out=held_out, base=base, seed=seed,
        identity=identity,
    )  # fmt: skip


def split(groups: Sequence[PairGroup], *, share: float, seed: int) -> tuple[list[PairGroup], list[PairGroup]]:
    """Groups to train on and groups held out, by problem: no problem is in both. At least one is held out."""
    problems = sorted({group.problem_id for group in groups})
    if len(problems) < 2:
        raise StageError(
            f"the pairs are of {len(problems)} problems; a preference model needs those of 2 at least, one of them held out"
        )
    problems.sort(key=lambda problem_id: derive(seed, "ppm", "held_out", problem_id))
    held_out = set(problems[: min(len(problems) - 1, max(1, round(share * len(problems))))])
    parts: tuple[list[PairGroup], list[PairGroup]] = ([], [])
    for group in groups:
        parts[group.problem_id in held_out].append(group)
    return parts


def _without_problems(
    labelled: Sequence[LabelledGroup], held_out: Sequence[PairGroup]
) -> list[LabelledGroup]:
    problems = {group.problem_id for group in held_out}
    return [group for group in labelled if group.problem_id not in problems]


def data_hash(groups: Sequence[Group]) -> str:
    """SHA-256 of what the groups teach: problems, token ids, Q-values, pairs, in order."""
    digest = hashlib.sha256()
    for group in groups:
        content: list[Any]
        match group:
            case PairGroup():
                sides = [[[c.token_ids, c.q_value] for c in side] for side in (group.chosen, group.rejected)]
                content = [group.kind, group.prefix_ids, *sides, group.pairs]
            case LabelledGroup():
                content = [group.prefix_ids, [[c.token_ids, c.q_value] for c in group.continuations]]
        digest.update(json.dumps([group.problem_id, group.tree_index, *content]).encode())
    return digest.hexdigest()


class TrainedObjective(nn.Module):
    """A preference model and what it learns: a micro-batch in, the sum of its groups' losses out. For `Objective.ORM` the
    model must give its numbers without a bound."""

    def __init__(self, ppm: ProcessPreferenceModel, objective: Objective) -> None:
        super().__init__()
        unbounded = ppm.score_bound is ScoreBound.NONE
        assert unbounded or objective is not Objective.ORM, "cross-entropy is over the head's own numbers"
        self.ppm = ppm
        self.objective = objective

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """`batch` is that of `collate`, with or without its labels."""
        rewards_S = self.ppm(**{name: batch[name] for name in MODEL_INPUTS})
        match self.objective:
            case Objective.PPM:
                chosen, rejected = rewards_S[batch["chosen"]], rewards_S[batch["rejected"]]
                loss = bradley_terry_loss(chosen, rejected, batch["pair_weights"])
            case Objective.PQM:
                loss = q_value_loss(rewards_S, batch["q_values"], batch["score_weights"])
            case Objective.ORM:
                loss = outcome_loss(rewards_S, batch["q_values"], batch["score_weights"])
        return {"loss": loss}


class _PlannedTrainer(Trainer):
    """The Trainer over planned micro-batches, its evaluation the accuracy on held-out pairs."""

    def __init__(self, *args: Any, held_out: Sequence[PairGroup], config: PPMConfig, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._held_out = held_out
        self._config = config

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)  # type: ignore[arg-type]

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        assert isinstance(self.model, TrainedObjective)
        config = self._config
        found = pair_accuracy(
            self.model.ppm, self._held_out, sharing=config.sharing, max_length=config.max_length
        )
        metrics = {"eval_accuracy": found.overall}
        metrics |= {f"eval_accuracy_{kind}": share for kind, share in found.by_kind.items()}
        metrics |= {f"eval_accuracy_depth_{depth}": share for depth, share in found.by_depth.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class _EvaluateAtTheEnd(TrainerCallback):
    """The last step is measured too, whatever `save_steps`."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_evaluate = True


def _train(
    *,
    groups: Sequence[Group],
    held_out: Sequence[PairGroup],
    base: Path,
    out: Path,
    config: PPMConfig,
    seed: int,
    identity: dict[str, Any],
) -> TrainingResult:
    with quietly():
        return _fit(groups, held_out, base, out, config, seed, identity)


def _fit(
    groups: Sequence[Group],
    held_out: Sequence[PairGroup],
    base: Path,
    out: Path,
    config: PPMConfig,
    seed: int,
    identity: dict[str, Any],
) -> TrainingResult:
    processes = num_processes(config)
    micro_batches, per_step = plan(groups, config, seed=seed, num_processes=processes)
    args = arguments(
        out,
        config,
        num_steps=len(micro_batches) // per_step,
        num_train_epochs=1,  # the plan holds all epochs
        per_device_train_batch_size=1,
        gradient_accumulation_steps=per_step // processes,
        eval_strategy="steps",
        eval_steps=config.save_steps,
        save_strategy="steps",
        load_best_model_at_end=True,
        metric_for_best_model="eval_accuracy",
        greater_is_better=True,
        seed=derive(seed, "ppm", "train") % 2**31,
    )
    bound = ScoreBound.NONE if config.objective is Objective.ORM else config.score_bound
    ppm = start_from(base, bound, attention=config.attention, dtype=weights_format(base, config))
    context = ppm.config.max_position_embeddings
    if config.max_length > context:
        raise ConfigError(f"max_length is {config.max_length}; it must be at most the base model's {context}")
    if config.gradient_checkpointing:
        ppm.classifier.gradient_checkpointing_enable({"use_reentrant": False})
    if config.lora is not None:
        head = ppm.classifier.score
        add_adapters(
            ppm.classifier, config.lora, head=head, trained_head=True, seed=derive(seed, "ppm", "lora")
        )
    tokenizer = AutoTokenizer.from_pretrained(base)
    trainer = _PlannedTrainer(
        model=TrainedObjective(ppm, config.objective),
        args=args,
        train_dataset=micro_batches,
        eval_dataset=held_out,
        data_collator=functools.partial(_collate, config=config),
        compute_loss_func=_loss,
        callbacks=[_EvaluateAtTheEnd()],
        optimizer_cls_and_kwargs=optimizer_of(config),
        held_out=held_out,
        config=config,
    )
    fitted = fit(trainer, out, identity)

    history = trainer.state.log_history
    accuracies = {entry["step"]: entry["eval_accuracy"] for entry in history if "eval_accuracy" in entry}
    done = {
        "schema_version": SCHEMA_VERSION,
        **identity,
        "num_groups": len(groups),
        "num_pairs": sum(group.size for group in groups),
        "num_held_out_pairs": sum(group.size for group in held_out),
        "num_steps": trainer.state.global_step,
        "losses": fitted.losses,
        "accuracies": accuracies,
        "best_step": max(accuracies, key=lambda step: (accuracies[step], -step)),
    }
    write_bound(ppm.config, config.score_bound)
    save_model(
        trainer, ppm.classifier, out, prefix="ppm.classifier.", dtype=number_format(base), lora=config.lora
    )
    if trainer.is_world_process_zero():
        tokenizer.save_pretrained(out)
    finish(trainer, out, done)
    return _result(
        out,
        json.loads(json.dumps(done)),
        resumed_from_step=fitted.resumed_from_step,
        train_s=fitted.train_s,
    )


def _collate(items: Sequence[MicroBatch], *, config: PPMConfig) -> dict[str, Tensor]:
    (groups,) = items
    return collate(groups, sharing=config.sharing, max_length=config.max_length)


def _loss(
    outputs: dict[str, Tensor], labels: Tensor, num_items_in_batch: Tensor | int | None = None
) -> Tensor:
    assert num_items_in_batch is not None, "the Trainer counts the groups of a step by their labels"
    return outputs["loss"] / num_items_in_batch


def _result(out: Path, done: dict[str, Any], *, resumed_from_step: int, train_s: float) -> TrainingResult:
    return TrainingResult(
        model=out,
        losses=tuple(done["losses"]),
        accuracies={int(step): share for step, share in done["accuracies"].items()},
        train_s=train_s,
        resumed_from_step=resumed_from_step,
        **{
            name: done[name]
            for name in ("num_groups", "num_pairs", "num_held_out_pairs", "num_steps", "best_step")
        },
    )
