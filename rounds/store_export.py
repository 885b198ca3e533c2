"""`rstar store export`: training files for other trainers, from a store."""

from __future__ import annotations

import json
from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rstar.cli import AsJson, Settings, StoreFolder, print_json
from rstar.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from rounds.trainer_rows import Row
    from rstar.prompts import PromptFormat
    from rstar.store import Store

SUFFIXES = (".parquet", ".jsonl")
_TAKEN_OUT = ("max_tokens", "retokenize")
"""Settings that need a tokenizer, which the other trainer has."""


class Trainer(StrEnum):
    """Whose rows."""

    TRL_SFT = "trl-sft"
    """TRL's SFTTrainer: `prompt`, `completion`."""
    TRL_REWARD = "trl-reward"
    """TRL's RewardTrainer: `prompt`, `chosen`, `rejected`, and `margin` if asked for."""
    TRL_DPO = "trl-dpo"
    """TRL's DPOTrainer: `prompt`, `chosen`, `rejected`."""
    VERL = "verl"
    """verl's RLHFDataset: `data_source`, `prompt`, `ability`, `reward_model`, `extra_info`."""


def export_command(
    store: StoreFolder,
    to: Annotated[
        str,
        typer.Option(
            help="trl-sft, trl-reward or trl-dpo: for TRL's trainers; verl: for its RL trainers.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="The file: .parquet or .jsonl.", show_default=False)],
    round_index: Annotated[
        int | None, typer.Option("--round", help="Only this round.", show_default="all rounds")
    ] = None,
    settings: Settings = None,
    prompt_format: Annotated[
        str, typer.Option(help="bare: fine-tuned on the step format; rstar: the paper's prompt.")
    ] = "bare",
    seed: Annotated[int, typer.Option(help="For sft_set.choice=random.")] = 0,
    margin: Annotated[
        bool,
        typer.Option(
            "--margin",
            help="trl-reward: also a column margin, Q(chosen) - Q(rejected), which TRL demands of the scores.",
        ),
    ] = False,
    problems: Annotated[
        Path | None,
        typer.Option(
            help="verl: file with the reference answers.",
            show_default="verified answers, of solved problems only",
        ),
    ] = None,
    data_source: Annotated[
        str | None,
        typer.Option(
            help="verl: name by which it chooses the reward, such as math_dapo.",
            show_default="the problem's source",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a file that TRL's or verl's trainers load as it is.

    From a store with trees, training sets are drawn as a round draws its own. --set sft_set.KEY=VALUE and --set pairs.KEY=VALUE change how.

    From a store with drawn rows only (round2/sft_set/store, round2/pairs/store), it is those rows.

      rstar store export runs/embedded/round1/search/store --to trl-dpo --out dpo.parquet

      rstar store export runs/embedded/round1/sft_set/store --to trl-sft --out sft.jsonl
    """
    from rstar.prompts import FORMATS
    from rstar.store import Store

    if to not in list(Trainer):
        raise ConfigError(f"--to is {to!r}; it must be one of {', '.join(Trainer)}")
    if out.suffix not in SUFFIXES:
        raise ConfigError(f"--out is {out}; its suffix must be {' or '.join(SUFFIXES)}")
    if prompt_format not in FORMATS:
        raise ConfigError(f"--prompt-format is {prompt_format!r}; it must be one of {', '.join(FORMATS)}")
    if margin and to != Trainer.TRL_REWARD:
        raise ConfigError(f"--margin is for {Trainer.TRL_REWARD}; {to} has no such column")
    if to != Trainer.VERL and (problems or data_source):
        raise ConfigError(f"--problems and --data-source are for {Trainer.VERL}, not for {to}")
    rows = _rows(
        Store(store), Trainer(to), round_index, settings or [], FORMATS[prompt_format], seed, margin, problems, data_source
    )  # fmt: skip
    _write(rows, out)
    found = {"file": str(out), "rows": len(rows), "problems": _num_problems(rows)}
    if "kind" in rows[0]:
        found |= {"kinds": dict(Counter(row["kind"] for row in rows))}
    if as_json:
        print_json(found)
    else:
        print(f"{out}: {found['rows']:,} rows of {found['problems']:,} problems")


def _num_problems(rows: list[Row]) -> int:
    return len(
        {row["problem_id"] if "problem_id" in row else row["extra_info"]["problem_id"] for row in rows}
    )


def _rows(
    store: Store,
    trainer: Trainer,
    round_index: int | None,
    settings: list[str],
    format: PromptFormat,
    seed: int,
    margin: bool,
    problems: Path | None,
    data_source: str | None,
) -> list[Row]:
    from policy.config import SFTSetConfig
    from ppm.config import PairConfig
    from rounds.trainer_rows import pair_rows, sft_rows, verl_rows
    from rstar.config import build, override
    from rstar.problems import read_problems
    from rstar.store import Kind

    section, kind = {
        Trainer.TRL_SFT: ("sft_set", Kind.SFT), Trainer.TRL_REWARD: ("pairs", Kind.PAIRS),
        Trainer.TRL_DPO: ("pairs", Kind.PAIRS), Trainer.VERL: ("", Kind.TREES),
    }[trainer]  # fmt: skip
    values = override({}, settings)
    for name in values:
        if name != section:
            allowed = f"settings begin with {section}" if section else "it has no settings"
            raise ConfigError(f"unknown section {name} for {trainer}; {allowed}")
    for name in _TAKEN_OUT:
        if name in values.get(section, {}):
            raise ConfigError(
                f"{section}.{name} needs a tokenizer, and text is exported: limit lengths in the trainer"
            )
    summaries = [row for row in store.summary() if round_index in (None, row.round)]
    if not summaries:
        raise StoreError(
            f"{store.folder} has nothing{'' if round_index is None else f' of round {round_index}'}"
        )
    answers = {p.id: p for p in read_problems(problems).problems} if problems else None
    rows: list[Row] = []
    for summary in summaries:
        from_trees = summary.num_trees > 0
        if not from_trees and settings:
            raise ConfigError(
                f"{store.folder} has rows that are drawn already; --set is for drawing from trees"
            )
        if trainer is Trainer.VERL:
            rows += verl_rows(store, summary.round, answers, data_source)
        elif trainer is Trainer.TRL_SFT:
            config = build(SFTSetConfig, values.get(section, {}), where=section) if from_trees else None
            rows += sft_rows(store, summary.round, format, config, seed=seed)
        else:
            pairs = build(PairConfig, values.get(section, {}), where=section) if from_trees else None
            rows += pair_rows(store, summary.round, format, pairs, margin=margin)
    if not rows:
        raise StoreError(
            f"{store.folder} has no {kind} rows, and no trees from which any could be drawn for {trainer}"
        )
    return rows


def _write(rows: list[Row], out: Path) -> None:
    """The file appears whole or not at all."""
    partial = out.with_name(f".{out.name}.partial")
    try:
        if out.suffix == ".parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            pq.write_table(pa.Table.from_pylist(rows), partial, compression="zstd")
        else:
            with partial.open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        partial.replace(out)
    except OSError as error:
        raise StoreError(f"{out} cannot be written: {error.strerror or error}") from None
    finally:
        partial.unlink(missing_ok=True)
