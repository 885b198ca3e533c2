"""Make the embedded base model: `python -m rounds.base_model` (what `make base` runs).

From scratch, seeded, on the CPU: a vocabulary for Qwen2's tokenizer, then a small stock Qwen2 model on the
curriculum's noisy lessons, by policy training itself (the Hugging Face Trainer, loss on the policy's own tokens only).
Then the engine solves held-out problems greedily, in the sandbox, and weights, tokenizer and card are put into place.

What this file does not cover: the lessons (`rounds.curriculum.lessons`) and the text of the card (`rounds.base_card`).
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policy.config import SFTConfig
from policy.sft_sets import SFTExample
from rounds.artifact import hash_model
from rounds.base_card import CARD, Attempt, write_card
from rounds.curriculum import Level, Split, generate_exercises
from rounds.curriculum.lessons import Lesson, lessons
from rstar.config import SearchConfig, greedy
from rstar.engines import EngineConfig
from rstar.grading import GraderConfig
from rstar.prompts import ASSISTANT, BARE, USER, Encode, render_prompt, start
from rstar.sandbox import SandboxConfig
from rstar.seeds import derive
from rstar.steps import END_OF_ANSWER, TAGS
from rstar.training.config import Precision

if TYPE_CHECKING:
    from transformers import Qwen2ForCausalLM, Qwen2Tokenizer

BASE_MODEL = Path(__file__).parent / "base"
"""Where the shipped base model lives."""
END_OF_TEXT = "<|endoftext|>"
PAD = "<|pad|>"
SPECIAL_TOKENS = (END_OF_TEXT, PAD, USER, ASSISTANT, *TAGS)
HEAD_SIZE = 64
"""vLLM's attention on the CPU needs it."""

TRAINING = SFTConfig(
    epochs=1,
    learning_rate=3e-3,
    warmup_ratio=0.05,
    weight_decay=0.05,
    global_batch_size=24,
    micro_batch_size=24,
    max_length=512,
    precision=Precision.BFLOAT16,
    logging_steps=100,
    save_steps=500,
    num_threads=1,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseModelConfig:
    """All that decides the base model; the defaults made the shipped one."""

    seed: int = 0
    num_lessons: int = 110_000
    num_tokenizer_lessons: int = 20_000
    vocab_size: int = 768
    num_layers: int = 4
    num_heads: int = 2
    num_kv_heads: int = 2
    intermediate_size: int = 384
    max_context_tokens: int = 512
    num_eval_problems: int = 300
    """Held-out problems per level for the card."""
    training: SFTConfig = TRAINING


def make_base_model(config: BaseModelConfig, out: Path) -> list[Attempt]:
    """Tokenizer, model, training, evaluation, card: everything into the folder `out`, which is replaced.

    Returns the attempt at every held-out problem. The same configuration gives the same weights on one machine.
    """
    from policy.sft import train

    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        new, trained, model = (Path(scratch, name) for name in ("new", "trained", "model"))
        shown = itertools.islice(lessons(derive(config.seed, "tokenizer")), config.num_tokenizer_lessons)
        tokenizer = train_tokenizer(_texts(shown), config.vocab_size)
        tokenizer.save_pretrained(new)
        new_model(config, tokenizer).save_pretrained(new)

        taught = itertools.islice(lessons(config.seed), config.num_lessons)
        examples = list(
            training_examples(taught, lambda text: tokenizer.encode(text, add_special_tokens=False))
        )
        print(f"training on {len(examples):,} lessons", flush=True)
        result = train(examples, base=new, out=trained, config=config.training, seed=config.seed)
        print(
            f"loss {result.first_loss:.3f} to {result.final_loss:.3f} in {result.train_s:.0f} s", flush=True
        )

        shutil.copytree(trained, model, ignore=shutil.ignore_patterns("training.json", "tensorboard"))
        attempts = evaluate(model, config)
        write_card(
            model,
            attempts,
            seed=config.seed,
            training=config.training,
            result=result,
            model_hash=hash_model(model),
            total_s=time.perf_counter() - started,
        )
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(model, out)
    return attempts


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Qwen2Tokenizer:
    """Qwen2's own tokenizer (byte-level BPE, one token per digit, NFC) with a vocabulary learned from `texts`.

    It has to be Qwen2's: `AutoTokenizer` and vLLM split text by that class's rules for every Qwen2 model, whatever
    its tokenizer file says.
    """
    from tokenizers import Tokenizer, models, trainers
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    stock = Qwen2Tokenizer().backend_tokenizer
    learner = Tokenizer(models.BPE())
    learner.normalizer, learner.pre_tokenizer = stock.normalizer, stock.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    learned = json.loads(learner.to_str())["model"]
    merges: Any = [tuple(merge) for merge in learned["merges"]]
    tokenizer = Qwen2Tokenizer(
        vocab=learned["vocab"],
        merges=merges,
        unk_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [USER, ASSISTANT, *TAGS]})
    return tokenizer


def new_model(config: BaseModelConfig, tokenizer: Qwen2Tokenizer) -> Qwen2ForCausalLM:
    """An untrained stock Qwen2 model with seeded weights. Embeddings are untied: vLLM's weight reload needs that."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(derive(config.seed, "weights"))
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=HEAD_SIZE * config.num_heads,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            max_position_embeddings=config.max_context_tokens,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(END_OF_ANSWER)]
    model.generation_config.eos_token_id = ends
    return model


def training_examples(taught: Iterable[Lesson], encode: Encode) -> Iterator[SFTExample]:
    """Lessons as search would have written them: encoded segment by segment, the policy's tokens marked."""
    for place, lesson in enumerate(taught):
        prefix = start(render_prompt(BARE, lesson.question), encode)
        output = lesson.solution.output or ""
        for step in lesson.solution.steps:
            prefix = prefix.then_step(step.text, encode(step.text), step.kind, output, encode)
        yield SFTExample(
            problem_id=f"lesson-{place}",
            tree_index=0,
            token_ids=prefix.token_ids,
            loss_mask=prefix.loss_mask,
            text=prefix.text,
            mean_q=0.0,
            answer=output.strip(),
        )


def evaluate(model: Path, config: BaseModelConfig) -> list[Attempt]:
    """Solve held-out problems of every level greedily with the search engine, in the sandbox, and grade them."""
    from rstar.campaign import search_into_store
    from rstar.store import Outcome, Store

    held_out = [
        exercise
        for level in Level
        for exercise in generate_exercises(
            Split.EVAL, level, config.num_eval_problems, derive(config.seed, "card")
        )
    ]
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(Path(folder, "store"))
        faults = asyncio.run(
            search_into_store(
                [exercise.problem for exercise in held_out],
                model=model,
                store=store,
                round_index=0,
                label="held-out problems",
                search=greedy(SearchConfig()),
                sandbox=SandboxConfig(),
                grading=GraderConfig(),
                engine=EngineConfig(),
                prompt_format=BARE.name,
                seed=config.seed,
            )
        )
        if faults:
            raise RuntimeError(
                f"{len(faults)} of {len(held_out)} problems could not be evaluated: {faults[0]}"
            )
        solved = {record.problem_id for record in store.records(0) if record.outcome is Outcome.SOLVED}
    return [
        Attempt(exercise.level, exercise.family, len(exercise.steps) + 1, exercise.problem.id in solved)
        for exercise in held_out
    ]


def _texts(shown: Iterable[Lesson]) -> Iterator[str]:
    """Questions and steps as the vocabulary should know them: without tags, which are tokens anyway."""
    for lesson in shown:
        yield lesson.question
        for step in lesson.solution.steps:
            yield "".join(re.split("|".join(map(re.escape, TAGS)), step.text))


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the base model with the default configuration, into `--out`."""
    parser = argparse.ArgumentParser(
        prog="python -m rounds.base_model", description="Train the embedded base model."
    )
    parser.add_argument(
        "--out", type=Path, default=BASE_MODEL, help="folder to write (default: the shipped model's)"
    )
    options = parser.parse_args(arguments)
    make_base_model(BaseModelConfig(), options.out)
    print((options.out / CARD).read_text())


if __name__ == "__main__":
    main()
