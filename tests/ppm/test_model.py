"""The model: scores are those of the saved Hugging Face folder, in transformers and in vLLM, bound included."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
)

from ppm.config import ScoreBound
from ppm.model import ProcessPreferenceModel, bounded, load, search_values, start_from, visible
from rstar.errors import ConfigError
from tests.policy.forest import save_tiny_base, tiny_model
from tests.ppm.models import VOCAB_SIZE, random_ids, save_tiny_ppm, tiny_classifier, tiny_ppm

SEQUENCES = [random_ids(random.Random(seed), 1, 40) for seed in range(9)]


def scores(model: ProcessPreferenceModel, sequences: Sequence[tuple[int, ...]]) -> torch.Tensor:
    """Each sequence alone."""
    found = []
    for ids in sequences:
        length = len(ids)
        with torch.no_grad():
            found.append(
                model(
                    torch.tensor([ids]), torch.arange(length)[None], torch.full((1, length), length),
                    torch.tensor([length - 1]),
                )
            )  # fmt: skip
    return torch.cat(found)


def test_visible_by_hand() -> None:
    """Prefix of 2, two steps of 1 after it, and padding of 1 that nobody sees."""
    seen = visible(torch.tensor([[4, 4, 3, 4, 5]]))[0].int().tolist()
    assert seen == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 0, 1, 0], [0, 0, 0, 0, 1]]


def test_bounds_by_hand() -> None:
    raw = torch.tensor([-7.0, 0.0, 0.5])
    torch.testing.assert_close(bounded(raw, ScoreBound.TANH), torch.tensor([-0.9999983, 0.0, 0.46211717]))
    assert torch.equal(bounded(raw, ScoreBound.NONE), raw)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("score_bound", ScoreBound)
def test_numbers_of_sure_models_stay_apart_within_what_a_search_takes(
    score_bound: ScoreBound, dtype: torch.dtype
) -> None:
    raw = torch.tensor([-8.0, -4.0, 0.5, 4.0, 5.0, 8.0], dtype=dtype)
    values = search_values(bounded(raw, score_bound), score_bound)
    assert values.abs().max() <= 1
    assert values.diff().min() > 0
    torch.testing.assert_close(values, raw.double().tanh(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("score_bound", ScoreBound)
@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_transformers_loads_the_saved_folder_unchanged_and_scores_the_same(
    kind: str, score_bound: ScoreBound, tmp_path: Path
) -> None:
    model = load(save_tiny_ppm(tmp_path, score_bound, kind=kind))
    assert model.score_bound is score_bound
    stock: Any = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    with torch.no_grad():
        raw = torch.cat([stock(torch.tensor([ids])).logits[0] for ids in SEQUENCES])
    found = scores(model, SEQUENCES)
    torch.testing.assert_close(found, bounded(raw, score_bound), rtol=1e-5, atol=1e-6)
    assert found.std() > 0.1, "the scores that agree differ from one another"
    if score_bound is ScoreBound.TANH:
        assert found.abs().max() <= 1


def test_a_padded_batch_of_the_saved_folder_scores_the_same_in_transformers(tmp_path: Path) -> None:
    stock: Any = AutoModelForSequenceClassification.from_pretrained(save_tiny_ppm(tmp_path))
    width = max(map(len, SEQUENCES))
    ids = torch.tensor([[*s, *[stock.config.pad_token_id] * (width - len(s))] for s in SEQUENCES])
    mask = torch.tensor([[1] * len(s) + [0] * (width - len(s)) for s in SEQUENCES])
    with torch.no_grad():
        raw = stock(ids, attention_mask=mask).logits[:, 0]
    torch.testing.assert_close(raw.tanh(), scores(load(tmp_path), SEQUENCES), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_base(tmp_path_factory.mktemp("base"), ["x = 1\nprint(x)\n<end_of_code>"] * 3)


def test_a_new_model_has_the_policys_trunk_and_scores_zero(base: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = start_from(base, ScoreBound.TANH)
    policy = AutoModelForCausalLM.from_pretrained(base).state_dict()
    trunk = {k: v for k, v in model.classifier.state_dict().items() if not k.startswith("score")}
    assert trunk
    assert all(torch.equal(weight, policy[key]) for key, weight in trunk.items())
    assert torch.equal(scores(model, SEQUENCES), torch.zeros(len(SEQUENCES)))
    assert model.classifier.config.num_labels == 1


def test_a_new_model_is_saved_with_its_bound_and_loads(base: Path, tmp_path: Path) -> None:
    start_from(base, ScoreBound.TANH).classifier.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["Qwen2ForSequenceClassification"]
    assert config["sentence_transformers"] == {"activation_fn": "torch.nn.modules.activation.Tanh"}
    assert config["tie_word_embeddings"] is False
    assert load(tmp_path).score_bound is ScoreBound.TANH


def test_a_base_without_padding_token_gets_its_tokenizers(base: Path, tmp_path: Path) -> None:
    for path in base.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((base / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "pad_token_id": None}))
    assert start_from(tmp_path, ScoreBound.TANH).config.pad_token_id == 0


def test_loading_prints_nothing(base: Path, capfd: pytest.CaptureFixture[str]) -> None:
    start_from(base, ScoreBound.TANH)
    assert capfd.readouterr() == ("", "")


def test_folders_that_hold_no_preference_model_are_one_clear_line(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no config.json; a Hugging Face model folder has one$"):
        start_from(tmp_path, ScoreBound.TANH)
    with pytest.raises(ConfigError, match=r"its weights lack score.weight; it is no preference model$"):
        load(base)
    classifier = tiny_classifier()
    classifier.save_pretrained(tmp_path)
    with pytest.raises(
        ConfigError, match=r"config.json names nothing as sentence_transformers.activation_fn"
    ):
        load(tmp_path)
    broken = tmp_path / "broken"
    tiny_model(VOCAB_SIZE).model.save_pretrained(broken)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3, "layer_types": None}))
    with pytest.raises(ConfigError, match=r"its weights lack model\.layers\.2"):
        start_from(broken, ScoreBound.TANH)


def test_a_model_without_a_linear_head_is_refused_in_one_line() -> None:
    sizes: dict[str, Any] = {
        "vocab_size": 20,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    encoder = BertForSequenceClassification(BertConfig(**sizes))
    with pytest.raises(ConfigError, match=r"^a bert model for sequence classification has no linear head"):
        ProcessPreferenceModel(encoder, ScoreBound.TANH)


def test_a_token_is_scored_by_what_it_sees_alone() -> None:
    """Two steps after one prefix in one row: changing one leaves the other's score as it is."""
    model = tiny_ppm()
    ends = torch.tensor([[6, 6, 4, 4, 6, 6]])
    positions = torch.tensor([[0, 1, 2, 3, 2, 3]])
    with torch.no_grad():
        first, second = (
            model(torch.tensor([[5, 6, *step, 9, 10]]), positions, ends, torch.tensor([3, 5]))
            for step in ((7, 8), (30, 31))
        )
    assert first[0] != second[0]
    assert first[1] == second[1]


@pytest.mark.vllm
def test_stock_vllm_classifies_the_saved_folder_with_the_same_scores(base: Path, tmp_path: Path) -> None:
    """No setting but the runner: the bound comes from config.json, and the prefix cache changes nothing."""
    from vllm import LLM, PoolingParams

    model = start_from(base, ScoreBound.TANH)
    torch.nn.init.normal_(model.classifier.score.weight, std=0.3, generator=torch.Generator().manual_seed(0))
    model.classifier.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path)
    shared = random_ids(random.Random(50), 70, 70)
    sequences = [*SEQUENCES, *((*shared, *ids) for ids in SEQUENCES)]
    expected = scores(load(tmp_path), sequences)
    assert expected.std() > 0.1
    llm = LLM(
        model=str(tmp_path), runner="pooling", dtype="float32", max_model_len=256, enforce_eager=True,
        block_size=32, enable_prefix_caching=True, kv_cache_memory_bytes=32 << 20,
    )  # fmt: skip
    try:
        prompts = [{"prompt_token_ids": list(ids)} for ids in sequences]
        bounded_outputs = llm.classify(prompts, use_tqdm=False)
        raw_outputs = llm.classify(
            prompts, pooling_params=PoolingParams(use_activation=False), use_tqdm=False
        )
    finally:
        llm.llm_engine.engine_core.shutdown()
    found, raw = (
        torch.tensor([output.outputs.probs[0] for output in outputs])
        for outputs in (bounded_outputs, raw_outputs)
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(bounded(raw, ScoreBound.TANH), expected, rtol=1e-4, atol=1e-5)
