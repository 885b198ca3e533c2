"""Shared-prefix batches: loss and gradients of the naive pairwise computation, whole steps, a plan that loses nothing."""

from __future__ import annotations

import dataclasses
import math
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ppm.batches import MicroBatch, collate, num_tokens, plan, sequence
from ppm.config import Objective, PPMConfig, ScoreBound, Sharing
from ppm.groups import Continuation, Group, PairGroup, PairKind
from ppm.losses import bradley_terry_loss, outcome_loss, q_value_loss
from ppm.model import ProcessPreferenceModel, bounded
from ppm.train import TrainedObjective
from rstar.errors import StageError
from tests.ppm.models import random_groups, random_ids, random_labelled_groups, tiny_ppm

MODEL_INPUTS = ("input_ids", "position_ids", "subtree_ends", "read_at")


def batch_loss(model: ProcessPreferenceModel, groups: list[PairGroup], sharing: Sharing) -> Tensor:
    """Mean over the groups, from one micro-batch."""
    batch = collate(groups, sharing=sharing, max_length=64)
    rewards_S = model(**{name: batch[name] for name in MODEL_INPUTS})
    weights = batch["pair_weights"].double()
    return bradley_terry_loss(rewards_S[batch["chosen"]], rewards_S[batch["rejected"]], weights) / len(groups)


def naive_loss(model: ProcessPreferenceModel, groups: list[PairGroup]) -> Tensor:
    """Pair by pair, every sequence by itself through the stock Hugging Face model; the formula of the paper."""

    def reward(prefix_ids: tuple[int, ...], continuation: Continuation) -> Tensor:
        ids = torch.tensor([prefix_ids + continuation.token_ids])
        return bounded(model.classifier(ids, use_cache=False).logits[0, 0], model.score_bound)

    total = torch.zeros((), dtype=torch.float64)
    for group in groups:
        pairs = list(group.preference_pairs())
        for pair in pairs:
            margin = reward(pair.prefix_ids, pair.chosen) - reward(pair.prefix_ids, pair.rejected)
            total = total - torch.log(torch.sigmoid(margin)) / len(pairs)
    return total / len(groups)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("sharing", Sharing)
def test_loss_and_gradients_equal_the_naive_pairwise_computation(sharing: Sharing, attention: str) -> None:
    groups = random_groups(9, seed=4)
    assert {group.kind for group in groups} == set(PairKind)
    results = []
    for compute in (lambda m: batch_loss(m, groups, sharing), lambda m: naive_loss(m, groups)):
        model = tiny_ppm(attention=attention).double()
        loss = compute(model)
        loss.backward()
        results.append((loss.item(), [parameter.grad for parameter in model.parameters()]))
    (loss_value, grads), (expected_loss, expected_grads) = results
    assert abs(expected_loss - math.log(2)) > 0.01, "the model prefers something"
    # Not 1e-15: in any precision the model does rotary embeddings and normalisation in float32.
    assert abs(loss_value - expected_loss) < 1e-6
    torch.testing.assert_close(grads, expected_grads, rtol=1e-4, atol=1e-6)


@settings(max_examples=25)
@given(seed=st.integers(0, 9999), count=st.integers(1, 12), sharing=st.sampled_from(Sharing))
def test_every_sequence_is_read_whole_at_its_own_positions(seed: int, count: int, sharing: Sharing) -> None:
    groups = random_groups(count, seed=seed)
    batch = collate(groups, sharing=sharing, max_length=12)
    expected = [sequence(g, c, 12) for g in groups for c in (*g.chosen, *g.rejected)]
    width = batch["input_ids"].shape[1]
    for wanted, read_at in zip(expected, batch["read_at"].tolist(), strict=True):
        row, column = divmod(read_at, width)
        ends = batch["subtree_ends"][row].tolist()
        seen = [j for j in range(column + 1) if column < ends[j]]
        assert tuple(batch["input_ids"][row, seen].tolist()) == wanted
        assert batch["position_ids"][row, seen].tolist() == list(range(len(wanted)))
    weights = dict.fromkeys(range(count), 0.0)
    group_of_pair = [index for index, group in enumerate(groups) for _ in group.pairs]
    for index, weight in zip(group_of_pair, batch["pair_weights"].tolist(), strict=True):
        weights[index] += weight
    assert list(weights.values()) == pytest.approx([1.0] * count)
    assert len(batch["labels"]) == count


@settings(max_examples=25)
@given(seed=st.integers(0, 9999), count=st.integers(1, 12))
def test_pairs_point_at_their_continuations(seed: int, count: int) -> None:
    groups = random_groups(count, seed=seed)
    batch = collate(groups, sharing=Sharing.TREE, max_length=64)
    continuations = [c for g in groups for c in (*g.chosen, *g.rejected)]
    pairs = [pair for group in groups for pair in group.preference_pairs()]
    for pair, chosen, rejected in zip(
        pairs, batch["chosen"].tolist(), batch["rejected"].tolist(), strict=True
    ):
        assert (continuations[chosen], continuations[rejected]) == (pair.chosen, pair.rejected)


@pytest.mark.parametrize("loss", [q_value_loss, outcome_loss])
@pytest.mark.parametrize("sharing", Sharing)
def test_labelled_losses_equal_those_of_every_sequence_by_itself(
    sharing: Sharing, loss: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> None:
    """Mean over the groups of the mean over their continuations, through the stock Hugging Face model."""
    groups = random_labelled_groups(9, seed=4)
    model = tiny_ppm(score_bound=ScoreBound.NONE).double()
    batch = collate(groups, sharing=sharing, max_length=64)
    with torch.no_grad():
        scores_S = model(**{name: batch[name] for name in MODEL_INPUTS})
        found = loss(scores_S, batch["q_values"], batch["score_weights"]) / len(batch["labels"])
        expected = 0.0
        for group in groups:
            for c in group.continuations:
                raw = model.classifier(
                    torch.tensor([group.prefix_ids + c.token_ids]), use_cache=False
                ).logits[0]
                alone = loss(raw, torch.tensor([c.q_value]), torch.ones(1)).item()
                expected += alone / len(group.continuations) / len(groups)
    assert found.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("sharing", Sharing)
def test_what_else_is_in_the_batch_has_no_effect(sharing: Sharing) -> None:
    model = tiny_ppm()
    one, *others = random_groups(8, seed=7)
    scores = []
    for groups in ([one], [one, *others], [one, *others[:3]]):
        batch = collate(groups, sharing=sharing, max_length=64)
        with torch.no_grad():
            found = model(**{name: batch[name] for name in MODEL_INPUTS})
        scores.append(found[: len(one.chosen) + len(one.rejected)])
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(scores[0], scores[2], rtol=1e-4, atol=1e-6)


# ------------------------------------------------------------------------------------------------- truncation


def group_of(prefix: tuple[int, ...], chosen: tuple[int, ...], rejected: tuple[int, ...]) -> PairGroup:
    sides = [
        Continuation(node_id=i, text="", token_ids=ids, q_value=1.0 - 2 * i, depth=1)
        for i, ids in enumerate((chosen, rejected))
    ]
    return PairGroup(
        problem_id="p", tree_index=0, kind=PairKind.STEP, parent=0, prefix_text="", prefix_ids=prefix,
        chosen=(sides[0],), rejected=(sides[1],), pairs=((0, 0),),
    )  # fmt: skip


@pytest.mark.parametrize("sharing", Sharing)
@pytest.mark.parametrize("max_length", [3, 4, 5, 7, 9, 10])
def test_fault_9_the_left_of_a_long_prefix_goes_and_the_judged_step_stays(
    sharing: Sharing, max_length: int
) -> None:
    group = group_of((10, 11, 12, 13, 14, 15), (20, 21, 22), (30, 31))
    batch = collate([group], sharing=sharing, max_length=max_length)
    width = batch["input_ids"].shape[1]
    for continuation, read_at in zip(
        (*group.chosen, *group.rejected), batch["read_at"].tolist(), strict=True
    ):
        row, column = divmod(read_at, width)
        ends = batch["subtree_ends"][row].tolist()
        seen = [j for j in range(column + 1) if column < ends[j]]
        whole = group.prefix_ids + continuation.token_ids
        assert tuple(batch["input_ids"][row, seen].tolist()) == whole[-max_length:]
        assert whole[-max_length:][-len(continuation.token_ids) :] == continuation.token_ids


def test_fault_9_a_step_longer_than_the_model_takes_is_refused_not_cut() -> None:
    with pytest.raises(
        StageError,
        match=r"^a step or trajectory of problem p has 3 tokens to judge; max_length is 2: raise it or lower",
    ):
        collate([group_of((1,), (2, 3, 4), (5,))], sharing=Sharing.PREFIX, max_length=2)


def test_tokens_by_hand() -> None:
    """Prefix of 6, steps of 3 and 2: 9 + 8 apart, 6 + 3 + 2 together."""
    group = group_of((10, 11, 12, 13, 14, 15), (20, 21, 22), (30, 31))
    longer = dataclasses.replace(group, parent=1, prefix_ids=(*group.prefix_ids, 20, 21, 22))
    counts = [num_tokens([group, longer], sharing=sharing, max_length=64) for sharing in Sharing]
    assert counts == [9 + 8 + 12 + 11, 11 + 14, 6 + 3 + 2 + 3 + 2]


@settings(max_examples=25)
@given(seed=st.integers(0, 9999), sharing=st.sampled_from(Sharing))
def test_tokens_are_those_of_the_collated_batch(seed: int, sharing: Sharing) -> None:
    groups = random_groups(6, seed=seed)
    batch = collate(groups, sharing=sharing, max_length=12)
    column = torch.arange(batch["input_ids"].shape[1])
    is_padding = (
        (batch["input_ids"] == 0) & (batch["position_ids"] == 0) & (batch["subtree_ends"] == column + 1)
    )
    assert num_tokens(groups, sharing=sharing, max_length=12) == int((~is_padding).sum())


# ------------------------------------------------------------------------------------------------------- plan


def steps_of(micro_batches: list[MicroBatch], per_step: int) -> list[Counter[Group]]:
    """What each optimiser step learns from."""
    starts = range(0, len(micro_batches), per_step)
    return [Counter(group for batch in micro_batches[at : at + per_step] for group in batch) for at in starts]


@settings(max_examples=50)
@given(
    seed=st.integers(0, 9999),
    count=st.integers(4, 60),
    batch_size=st.integers(1, 60),
    micro_batch_tokens=st.integers(10, 3000),
    epochs=st.integers(1, 3),
    sharing=st.sampled_from(Sharing),
    num_processes=st.integers(1, 5),
)
def test_every_epoch_trains_on_every_group_once_in_steps_of_equally_many_micro_batches(
    seed: int,
    count: int,
    batch_size: int,
    micro_batch_tokens: int,
    epochs: int,
    sharing: Sharing,
    num_processes: int,
) -> None:
    groups = random_groups(count, seed=seed, num_trees=4)
    config = PPMConfig(
        global_batch_size=batch_size, micro_batch_tokens=micro_batch_tokens, epochs=epochs, sharing=sharing
    )
    micro_batches, per_step = plan(groups, config, seed=seed, num_processes=num_processes)
    alone, per_step_alone = plan(groups, config, seed=seed)
    assert all(alone), "no process has less to do than another where there is one"
    assert steps_of(micro_batches, per_step) == steps_of(alone, per_step_alone)
    assert len(micro_batches) % per_step == 0
    assert per_step % num_processes == 0
    trained = Counter(group for batch in micro_batches for group in batch)
    assert trained == Counter(dict.fromkeys(groups, epochs))
    if sharing is Sharing.TREE:
        for start in range(0, len(micro_batches), per_step):
            of_step = [{g.problem_id for g in batch} for batch in micro_batches[start : start + per_step]]
            assert sum(map(len, of_step)) == len(set().union(*of_step)), "a tree is in one micro-batch"
    assert plan(groups, config, seed=seed, num_processes=num_processes) == (micro_batches, per_step)


def test_a_step_has_global_batch_size_pairs_and_micro_batches_of_about_the_tokens_asked_for() -> None:
    groups = random_groups(400, seed=0)
    config = PPMConfig(global_batch_size=100, micro_batch_tokens=500, sharing=Sharing.PREFIX)
    micro_batches, per_step = plan(groups, config, seed=1)
    assert per_step > 1
    largest = max(len(group.pairs) for group in groups)
    steps = [micro_batches[at : at + per_step] for at in range(0, len(micro_batches), per_step)]
    for step in steps[:-1]:
        assert 100 - largest < sum(group.size for batch in step for group in batch) <= 100
    costs = [num_tokens(batch, sharing=config.sharing, max_length=64) for batch in micro_batches]
    assert max(costs) <= 500 + max(num_tokens([g], sharing=config.sharing, max_length=64) for g in groups)
    assert plan(groups, config, seed=2)[0] != micro_batches


def test_epochs_have_orders_of_their_own() -> None:
    groups = random_groups(30, seed=0)
    micro_batches, per_step = plan(
        groups, PPMConfig(epochs=2, global_batch_size=20, sharing=Sharing.PREFIX), seed=1
    )
    half = len(micro_batches) // 2
    assert per_step == 1
    assert micro_batches[:half] != micro_batches[half:]


@pytest.mark.parametrize("objective", Objective)
def test_a_micro_batch_without_groups_adds_nothing(objective: Objective) -> None:
    batch = collate((), sharing=Sharing.TREE, max_length=64)
    model = TrainedObjective(tiny_ppm(score_bound=ScoreBound.NONE), objective)
    loss = model(**batch)["loss"]
    loss.backward()
    assert loss == 0
    assert all((parameter.grad == 0).all() for parameter in model.parameters() if parameter.grad is not None)
    assert model.ppm.classifier.score.weight.grad is not None, "the gradients are there to be added up"
    assert len(batch["labels"]) == 0


def test_a_step_of_labelled_groups_has_global_batch_size_continuations() -> None:
    groups = random_labelled_groups(60, seed=0)
    config = PPMConfig(global_batch_size=30, sharing=Sharing.PREFIX)
    micro_batches, per_step = plan(groups, config, seed=1)
    assert per_step == 1
    sizes = [sum(len(group.continuations) for group in batch) for batch in micro_batches]
    assert all(25 < size <= 30 for size in sizes[:-1])
    assert sum(sizes) == sum(len(group.continuations) for group in groups)


def test_half_precision_autocast_uses_a_mask_of_its_own_kind() -> None:
    """Autocast scores agree with float32's as far as bfloat16 can; a mask of the wrong kind would raise."""
    groups = random_groups(4, seed=3)
    batch: dict[str, Any] = collate(groups, sharing=Sharing.PREFIX, max_length=64)
    inputs = {name: batch[name] for name in MODEL_INPUTS}
    model = tiny_ppm(score_bound=ScoreBound.TANH)
    with torch.no_grad():
        exact = model(**inputs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = model(**inputs)
    assert (half.float() - exact).abs().mean() < 0.1
    assert not torch.equal(half.float(), exact)


def test_random_groups_have_no_padding_among_their_tokens() -> None:
    assert 0 not in random_ids(random.Random(0), 500, 500)
