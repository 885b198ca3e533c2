"""Tiny preference models with seeded random weights, and groups of random tokens: what the tests of ppm share."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch

from ppm.config import ScoreBound
from ppm.groups import Continuation, LabelledGroup, PairGroup, PairKind
from ppm.model import ProcessPreferenceModel, write_bound

VOCAB_SIZE = 60
PADDING_ID = 1


def tiny_classifier(
    kind: str = "qwen2", *, vocab_size: int = VOCAB_SIZE, attention: str = "sdpa", hidden_size: int = 32
) -> Any:
    """A decoder of two layers for sequence classification; weights large enough that scores differ."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.for_model(
        kind, vocab_size=vocab_size, hidden_size=hidden_size, intermediate_size=2 * hidden_size,
        num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=256,
        tie_word_embeddings=False, bos_token_id=None, eos_token_id=0, pad_token_id=PADDING_ID, num_labels=1,
        initializer_range=0.3,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForSequenceClassification.from_config(config, attn_implementation=attention).eval()


def tiny_ppm(*, attention: str = "sdpa", score_bound: ScoreBound = ScoreBound.TANH) -> ProcessPreferenceModel:
    return ProcessPreferenceModel(tiny_classifier(attention=attention), score_bound)


def save_tiny_ppm(folder: Path, score_bound: ScoreBound = ScoreBound.TANH, **changes: Any) -> Path:
    classifier = tiny_classifier(**changes)
    write_bound(classifier.config, score_bound)
    classifier.save_pretrained(folder)
    return folder


def random_ids(chance: random.Random, low: int, high: int) -> tuple[int, ...]:
    """Between `low` and `high` ids, none of them the padding's."""
    return tuple(chance.randrange(2, VOCAB_SIZE) for _ in range(chance.randint(low, high)))


def random_groups(count: int, *, seed: int, num_trees: int = 3) -> list[PairGroup]:
    """Groups of random tokens, some pairs left out. Prefixes of one tree continue each other now and then; final groups
    follow the prompt, and their trajectories may begin alike."""
    chance = random.Random(seed)
    prompts = [random_ids(chance, 3, 8) for _ in range(num_trees)]
    prefixes = {tree: [prompt] for tree, prompt in enumerate(prompts)}
    groups = []
    for index in range(count):
        tree = chance.randrange(num_trees)
        kind = chance.choice(list(PairKind))
        prefix = prompts[tree] if kind is PairKind.FINAL else chance.choice(prefixes[tree])
        start = random_ids(chance, 0, 3) if kind is PairKind.FINAL else ()
        num_chosen, num_rejected = chance.choice([(1, 1), (1, 4), (2, 2), (3, 1)])
        sides = [
            tuple(
                Continuation(
                    node_id=100 * index + 10 * side + at, text="", token_ids=start + random_ids(chance, 1, 9),
                    q_value=(1.0 if side == 0 else -1.0) * (1 if kind is PairKind.FINAL else chance.random()), depth=1,
                )
                for at in range(number)
            )
            for side, number in enumerate((num_chosen, num_rejected))
        ]  # fmt: skip
        pairs = [(at, other) for at in range(num_chosen) for other in range(num_rejected)]
        if len(pairs) == 4 and num_chosen == 2 and chance.random() < 0.5:
            pairs.remove((1, 0))
        prefixes[tree].append((*prefix, *chance.choice(sides[0]).token_ids))
        groups.append(
            PairGroup(
                problem_id=f"p{tree}", tree_index=0, kind=kind, parent=index, prefix_text="", prefix_ids=prefix,
                chosen=sides[0], rejected=sides[1], pairs=tuple(pairs),
            )
        )  # fmt: skip
    return groups


def random_labelled_groups(count: int, *, seed: int, num_trees: int = 3) -> list[LabelledGroup]:
    """The continuations of random groups with their Q-values as labels."""
    return [
        LabelledGroup(
            problem_id=group.problem_id, tree_index=0, parent=group.parent, prefix_ids=group.prefix_ids,
            continuations=group.continuations,
        )
        for group in random_groups(count, seed=seed, num_trees=num_trees)
    ]  # fmt: skip
