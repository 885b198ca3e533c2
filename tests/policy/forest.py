"""Trees built by hand, examples of random tokens, and a tiny model with its tokenizer: what the policy tests share."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from policy.sft_sets import SFTExample
from rstar.protocols import ExecutionVerdict
from rstar.steps import END_OF_CODE, END_OF_STEP, StepKind, parse_step
from rstar.tree import ROOT, Node, TerminalReason, Tree


def encode(text: str) -> list[int]:
    """A tokenizer with one token per character."""
    return [ord(character) for character in text]


def sampled(text: str) -> tuple[int, ...]:
    """Ids that a policy could have sampled for `text`, but that `encode` never gives for it."""
    return tuple(1_000_000 + ord(character) for character in text)


def add_step(
    tree: Tree,
    parent: int,
    text: str,
    *,
    q: float = 0.0,
    stdout: str = "",
    verified: bool | None = None,
    multiplicity: int = 1,
    execution: ExecutionVerdict = ExecutionVerdict.OK,
) -> int:
    """Append a step with Q-value `q` as a child of `parent`; an answer step is terminal."""
    step = parse_step(text, after=tree.nodes[parent].kind)
    is_answer = step.kind is StepKind.ANSWER
    node = Node(
        parent=parent,
        depth=tree.nodes[parent].depth + 1,
        text=text,
        kind=step.kind,
        token_ids=sampled(text),
        stdout=stdout,
        execution=execution,
        multiplicity=multiplicity,
        terminal=TerminalReason.ANSWERED if is_answer else None,
        answer=step.answer,
        verified=verified if is_answer else None,
        visit_count=1,
        value_sum=q,
    )
    tree.nodes.append(node)
    tree.nodes[parent].children.append(len(tree.nodes) - 1)
    return len(tree.nodes) - 1


def add_solution(
    tree: Tree,
    codes: Sequence[str],
    answer: str,
    *,
    q: float = 0.0,
    verified: bool | None = True,
    stdout: str = "7\n",
    multiplicity: int = 1,
) -> list[int]:
    """Append a path of its own from the root: code steps, the last of which prints, and an answer. Every node gets
    Q-value `q`, which is then the trajectory's mean."""
    node_id, path = ROOT, []
    for index, code in enumerate(codes):
        last = index == len(codes) - 1
        text = f"{code}\n{END_OF_CODE if last else END_OF_STEP}"
        node_id = add_step(tree, node_id, text, q=q, stdout=stdout if last else "")
        path.append(node_id)
    text = f"<answer>The answer is \\boxed{{{answer}}}<end_of_answer>"
    return [*path, add_step(tree, node_id, text, q=q, verified=verified, multiplicity=multiplicity)]


def tree_of(problem_id: str = "p0", tree_index: int = 0) -> Tree:
    """A tree of the root alone."""
    return Tree(problem_id=problem_id, question=f"What is 3 + 4 ({problem_id})?", tree_index=tree_index)


def random_examples(count: int, *, vocab_size: int, seed: int, lengths: tuple[int, int]) -> list[SFTExample]:
    """Examples of random ids and masks (the first token masked, the last not), of `lengths` from and to."""
    chance = random.Random(seed)
    examples = []
    for index in range(count):
        length = chance.randint(*lengths)
        mask = (0, *(chance.randint(0, 1) for _ in range(length - 2)), 1)
        ids = tuple(chance.randrange(vocab_size) for _ in range(length))
        examples.append(example(ids, mask, problem_id=f"p{index}"))
    return examples


def example(token_ids: Sequence[int], loss_mask: Sequence[int], *, problem_id: str = "p") -> SFTExample:
    return SFTExample(
        problem_id=problem_id,
        tree_index=0,
        token_ids=tuple(token_ids),
        loss_mask=tuple(loss_mask),
        text="",
        mean_q=1.0,
        answer="7",
    )


def tiny_model(vocab_size: int, *, attention: str = "sdpa", hidden_size: int = 32) -> Any:
    """A Qwen2 of two layers with seeded random weights."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen2ForCausalLM(config)
    model.set_attn_implementation(attention)
    return model


def save_tiny_base(folder: Path, texts: Sequence[str]) -> Path:
    """A base model folder: a tokenizer trained on `texts`, tags whole and digits apart, and a tiny model over it."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from rstar.prompts import ASSISTANT, USER
    from rstar.steps import TAGS

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"\d|\n"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ])  # fmt: skip
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", USER, ASSISTANT, *TAGS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    fast.save_pretrained(folder)
    tiny_model(len(fast), hidden_size=64).save_pretrained(folder)
    return folder
