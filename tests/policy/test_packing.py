"""Packing: every example in exactly one place, none sees another, and nothing is learned differently."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from policy.config import Packing
from policy.losses import IGNORED, policy_token_loss
from policy.packing import collate, pack
from policy.sft_sets import SFTExample
from tests.policy.forest import example, random_examples, tiny_model

VOCAB_SIZE = 50


@given(lengths=st.lists(st.integers(1, 30), min_size=1), room=st.integers(0, 40))
def test_every_item_is_in_exactly_one_row_within_capacity(lengths: list[int], room: int) -> None:
    capacity = max(lengths) + room
    rows = pack(lengths, capacity)
    assert sorted(itertools.chain(*rows)) == list(range(len(lengths)))
    assert all(sum(lengths[item] for item in row) <= capacity for row in rows)


@given(lengths=st.lists(st.integers(1, 30), min_size=2), room=st.integers(0, 40))
def test_no_two_rows_could_be_one(lengths: list[int], room: int) -> None:
    capacity = max(lengths) + room
    totals = [sum(lengths[item] for item in row) for row in pack(lengths, capacity)]
    assert all(one + other > capacity for one, other in itertools.combinations(totals, 2))


def naive_best_fit_decreasing(lengths: list[int], capacity: int) -> list[list[int]]:
    """The rule by looking at every row: longest first, each to the fullest row that has room."""
    rows: list[list[int]] = []
    for item in sorted(range(len(lengths)), key=lambda item: -lengths[item]):
        totals = [sum(lengths[other] for other in row) for row in rows]
        fitting = [row for row, total in enumerate(totals) if total + lengths[item] <= capacity]
        if fitting:
            rows[max(fitting, key=lambda row: (totals[row], -row))].append(item)
        else:
            rows.append([item])
    return rows


@given(lengths=st.lists(st.integers(1, 12), min_size=1), room=st.integers(0, 12))
def test_pack_equals_naive_best_fit_decreasing(lengths: list[int], room: int) -> None:
    capacity = max(lengths) + room
    assert pack(lengths, capacity) == naive_best_fit_decreasing(lengths, capacity)


def test_an_item_longer_than_a_row_is_refused() -> None:
    with pytest.raises(ValueError, match="item 1 is 5 long; a row holds 4"):
        pack([4, 5], 4)


def test_hand_worked_rows() -> None:
    first, second = example([5, 6, 7], [0, 1, 1]), example([8, 9], [0, 1])
    third = example([3, 4, 5, 6, 7], [0, 0, 1, 0, 1])
    batch = collate([first, second, third], Packing.ROWS)
    assert batch["input_ids"].tolist() == [[3, 4, 5, 6, 7], [5, 6, 7, 8, 9]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 0, 1]]
    x = IGNORED
    assert batch["labels"].tolist() == [[x, x, 5, x, 7], [x, 6, 7, x, 9]]
    batch = collate([first, second], Packing.OFF)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 0]]
    assert batch["position_ids"].tolist() == [[0, 1, 2], [0, 1, 2]]
    assert batch["labels"].tolist() == [[x, 6, 7], [x, 9, x]]


@given(seed=st.integers(0, 9999), count=st.integers(1, 9), packing=st.sampled_from(Packing))
def test_every_example_is_whole_with_positions_from_0(seed: int, count: int, packing: Packing) -> None:
    examples = random_examples(count, vocab_size=VOCAB_SIZE, seed=seed, lengths=(2, 9))
    batch = collate(examples, packing)
    found = []
    for ids, positions, labels in zip(
        *(batch[name].tolist() for name in ("input_ids", "position_ids", "labels")), strict=True
    ):
        starts = [at for at, position in enumerate(positions) if position == 0]
        for start, end in itertools.pairwise([*starts, len(ids)]):
            assert positions[start:end] == list(range(end - start))
            last = max(at for at in range(start, end) if labels[at] != IGNORED)  # the rest is padding
            found.append((tuple(ids[start : last + 1]), tuple(labels[start : last + 1])))
            assert not any(ids[last + 1 : end])
    wanted = [
        (one.token_ids, tuple(t if m else IGNORED for t, m in zip(one.token_ids, one.loss_mask, strict=True)))
        for one in examples
    ]
    assert sorted(found) == sorted(wanted)
    assert batch["labels"].shape == batch["input_ids"].shape


def gradients(
    examples: list[SFTExample], packing: Packing, attention: str
) -> tuple[float, list[torch.Tensor]]:
    """Loss and gradients of one micro-batch in float64."""
    model = tiny_model(VOCAB_SIZE, attention=attention).double()
    model.config.use_cache = False  # as in training
    batch = collate(examples, packing)
    labels = batch.pop("labels")
    loss = policy_token_loss(model(**batch).logits, labels, sum(one.num_policy_tokens for one in examples))
    loss.backward()
    return loss.item(), [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("packing", Packing)
def test_loss_and_gradients_equal_one_example_at_a_time(packing: Packing, attention: str) -> None:
    examples = random_examples(7, vocab_size=VOCAB_SIZE, seed=1, lengths=(3, 40))
    loss, grads = gradients(examples, packing, attention)
    total = sum(one.num_policy_tokens for one in examples)
    expected_loss = 0.0
    expected = [torch.zeros_like(grad) for grad in grads]
    for one in examples:
        part, part_grads = gradients([one], Packing.OFF, attention)
        share = one.num_policy_tokens / total
        expected_loss += share * part
        for into, grad in zip(expected, part_grads, strict=True):
            into += share * grad
    # Not 1e-15: in any precision the model does rotary embeddings and normalisation in float32.
    assert abs(loss - expected_loss) < 1e-8
    torch.testing.assert_close(grads, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_what_shares_a_row_has_no_effect(attention: str) -> None:
    model = tiny_model(VOCAB_SIZE, attention=attention).double()
    model.config.use_cache = False
    one, other, changed = random_examples(3, vocab_size=VOCAB_SIZE, seed=2, lengths=(6, 6))
    with torch.no_grad():
        logits = [
            model(**{key: value for key, value in collate([neighbour, one], Packing.FLAT).items() if key != "labels"})
            .logits[0, 6:]
            for neighbour in (other, changed)
        ]  # fmt: skip
    assert torch.equal(*logits)
