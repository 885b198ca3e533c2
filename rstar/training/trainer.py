"""The Hugging Face Trainer as every training here uses it: in a folder that says what it is of, and resumable exactly.

Killed at any moment and started again, a training ends in the weights of an undisturbed run, bit for bit on one machine
with equal `num_threads` and `num_processes`. One process drives one device; `run` starts several where the settings say so.
What this file does not cover: models, data and losses, which are the caller's; the folder's files (`folder`); how processes
are started (`launch`).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import distributed, nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.integrations.integration_utils import TensorBoardCallback
from transformers.utils import logging as transformers_logging

from rstar.errors import ConfigError, StageError
from rstar.training import zero
from rstar.training.config import LoRAConfig, Precision, TrainingConfig
from rstar.training.folder import (
    CHECKPOINTS,
    COMPLETE,
    RUN,
    TRAINING,
    newest_checkpoint,
    read_json,
    step_of,
    write_json,
)
from rstar.training.hosts import LOCAL, Hosts, read_host_file
from rstar.training.launch import is_rank, launch
from rstar.training.lora import merged

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What the Trainer's loop did."""

    losses: list[float]
    """The mean over each logging interval."""
    train_s: float
    """Wall time in the loop of this process; what a killed one spent before is not in it."""
    resumed_from_step: int
    """0: from the start."""


def run(
    work: Callable[..., T], *, out: Path, config: TrainingConfig, hosts: Hosts | None = None, **arguments: Any
) -> T:
    """Call `work(out=out, config=config, **arguments)` in this process, or on several that train together where `config` or
    `hosts` say so; returns what it returns, there on the first of them.

    Raises ConfigError if the machine has too few GPUs or a package is missing, StageError if a process fails.
    """
    if config.deepspeed is not None:
        zero.resolve(config.deepspeed)
    for setting, package in (("deepspeed", "deepspeed"), ("lora", "peft")):
        if getattr(config, setting) is not None and find_spec(package) is None:
            raise ConfigError(
                f'{setting} needs the package {package}, which is not installed: pip install -c constraints.txt -e ".[train]"'
            )
    machines = Hosts(slots={LOCAL: 1}) if is_rank() else hosts_of(config, hosts)
    here = all(machines.is_here(host) for host in machines.slots)
    if is_rank() or (here and machines.num_processes == 1 and config.deepspeed is None):
        with _session(config.num_threads):
            return work(out=out, config=config, **arguments)
    for host, slots in machines.slots.items():
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else slots
        if machines.is_here(host) and slots > gpus:
            raise ConfigError(
                f"num_processes is {slots} on this machine, which has {gpus} GPUs; one process drives one"
            )
    result: T = launch(
        run, folder=out, hosts=machines, num_threads=config.num_threads, work=work, out=out, config=config, **arguments
    )  # fmt: skip
    return result


def hosts_of(config: TrainingConfig, hosts: Hosts | None = None) -> Hosts:
    """The machines that the settings name, unless `hosts` are given. Raises ConfigError if the numbers differ."""
    if hosts is None and config.host_file is not None:
        hosts = read_host_file(Path(config.host_file))
    if hosts is None:
        return Hosts(slots={LOCAL: config.num_processes or 1})
    if config.num_processes not in (None, hosts.num_processes):
        raise ConfigError(
            f"num_processes is {config.num_processes}; the machines have {hosts.num_processes} slots: leave it out"
        )
    return hosts


def num_processes(config: TrainingConfig, hosts: Hosts | None = None) -> int:
    """How many processes train together: as many as a launcher has started, or will start."""
    return int(os.environ["WORLD_SIZE"]) if is_rank() else hosts_of(config, hosts).num_processes


@contextlib.contextmanager
def _session(num_threads: int | None) -> Iterator[None]:
    """Around a whole training: so many CPU threads, and no progress bars where nobody sees them."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed, where installed, warns unless it is told
        # What it compiles for the CPU fits one environment's Python and PyTorch; its default place is for all of them.
        os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(Path(sys.prefix, "torch_extensions")))
    with _threads(num_threads), _progress_bars_on_terminals_only():
        yield


def number_format(model: Path) -> torch.dtype:
    """The number format in which the model in a folder is saved."""
    dtype = getattr(torch, str(json.loads((model / "config.json").read_text()).get("dtype", "float32")))
    assert isinstance(dtype, torch.dtype)
    return dtype


def arguments(out: Path, config: TrainingConfig, *, num_steps: int, **own: Any) -> TrainingArguments:
    """The Trainer's settings for a training of `num_steps` optimiser steps into the folder `out`; `own` are the
    caller's: epochs, batches, seed, evaluation, ... Under DeepSpeed they come before the model is loaded, and live as long
    as it does: with ZeRO-3 they are why its weights are shared among the processes as they are read."""
    content = None if config.deepspeed is None else zero.resolve(config.deepspeed)
    if content is not None:
        import deepspeed

        deepspeed.init_distributed(dist_backend="nccl" if torch.cuda.is_available() else "gloo")
    args = TrainingArguments(
        output_dir=str(out / CHECKPOINTS),
        learning_rate=config.learning_rate,
        lr_scheduler_type=str(config.schedule),
        warmup_steps=config.warmup_ratio,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        use_cpu=not torch.accelerator.is_available(),
        bf16=config.precision is Precision.BFLOAT16,
        logging_steps=min(config.logging_steps, num_steps),  # so that at least one loss is logged
        logging_nan_inf_filter=False,  # a diverged loss is shown, not smoothed over
        save_steps=config.save_steps,
        save_total_limit=2,
        disable_tqdm=not sys.stderr.isatty(),
        report_to="none",  # TensorBoard is added with its own folder
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        average_tokens_across_devices=True,
        ddp_find_unused_parameters=False,
        deepspeed=content,
        **own,
    )
    if args.n_gpu > 1:
        args._n_gpu = (
            1  # not DataParallel, which would change the batches; `num_processes` uses further devices
        )
    return args


def optimizer_of(config: TrainingConfig) -> tuple[type[torch.optim.Optimizer], dict[str, Any]] | None:
    """DeepSpeed's AdamW for an optimiser whose state lies in the machine's memory; None: the Trainer's own."""
    if config.deepspeed is None or not zero.offloads_optimizer(zero.resolve(config.deepspeed)):
        return None
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    return DeepSpeedCPUAdam, {"lr": config.learning_rate, "adamw_mode": True}


def weights_format(base: Path, config: TrainingConfig) -> torch.dtype:
    """The number format of the weights in training: float32, of which bfloat16 would lose small steps; but weights that are
    frozen under adapters stay as the base model has them where the passes are in bfloat16 anyway."""
    frozen = config.lora is not None and config.precision is Precision.BFLOAT16
    return number_format(base) if frozen else torch.float32


def fit(trainer: Trainer, out: Path, identity: dict[str, Any]) -> Fit:
    """Train, from the newest complete checkpoint in `out` if there is one; `identity` marks the folder as this
    training's until `finish`."""
    checkpoint = newest_checkpoint(out / CHECKPOINTS)
    written_by = _written_by(trainer)
    if checkpoint is not None:
        _refuse_other_processes(checkpoint, written_by)
    if trainer.is_world_process_zero():
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / RUN, identity)
        trainer.add_callback(_tensorboard(out / "tensorboard", step_of(checkpoint)))
    trainer.add_callback(_MarkComplete(written_by))
    trainer.remove_callback(PrinterCallback)
    start = time.perf_counter()
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return Fit(
        losses=[entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        train_s=time.perf_counter() - start,
        resumed_from_step=step_of(checkpoint),
    )


def save_model(
    trainer: Trainer, model: Any, out: Path, *, prefix: str, dtype: torch.dtype, lora: LoRAConfig | None
) -> None:
    """Write `model`, a Hugging Face model within the Trainer's whose weights' names begin with `prefix`, as a plain folder
    of safetensors in the number format `dtype`: whole however it was shared, adapters merged, tied weights once. All
    processes call this, the first writes."""
    if trainer.is_deepspeed_enabled:
        state = trainer.accelerator.get_state_dict(trainer.deepspeed)
    else:
        assert trainer.model is not None
        state = trainer.model.state_dict()
    if not trainer.is_world_process_zero():
        return
    state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    if lora is not None:
        state = merged(state, lora)
    unset_hf_deepspeed_config()  # else ZeRO-3 would share out the next model too, and wait for the other processes
    with torch.device("meta"):  # the class and its settings, without weights, adapters or DeepSpeed's hooks
        plain = nn.Module.to(type(model)(model.config), dtype)
    if model.can_generate():
        plain.generation_config = model.generation_config
    for name in plain.all_tied_weights_keys:
        state.pop(name, None)
    plain.save_pretrained(out, state_dict={name: tensor.to("cpu", dtype) for name, tensor in state.items()})


def finish(trainer: Trainer, out: Path, record: dict[str, Any]) -> None:
    """The model is saved: write the training's record, which makes the folder complete, and clear up."""
    if trainer.is_world_process_zero():
        write_json(out / TRAINING, record)
        shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
        (out / RUN).unlink()
    trainer.accelerator.wait_for_everyone()


@contextlib.contextmanager
def whole(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Within, `parameters` are whole and may be changed, the same on all processes: with ZeRO-3 each has only its share."""
    if not any(hasattr(parameter, "ds_id") for parameter in parameters):
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(parameters), modifier_rank=0):
        yield


def shared_out(parts: Sequence[T], work: Callable[[T], Any], filler: T) -> list[Any]:
    """`[work(part) for part in parts]`, each process doing its share. All call `work` equally often, on `filler` where parts
    run out: with ZeRO-3 a forward pass takes every process."""
    if not distributed.is_initialized():
        return [work(part) for part in parts]
    rank, count = distributed.get_rank(), distributed.get_world_size()
    own = [work(part) for part in parts[rank::count]]
    if len(own) < -(-len(parts) // count):
        work(filler)
    gathered: list[list[Any]] = [[]] * count
    distributed.all_gather_object(gathered, own)
    return [gathered[index % count][index // count] for index in range(len(parts))]


class _MarkComplete(TrainerCallback):
    """Marks a checkpoint once every process has written its part, with what it takes to go on from it."""

    def __init__(self, written_by: dict[str, Any]) -> None:
        self._written_by = written_by

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if distributed.is_initialized():
            distributed.barrier()
        if state.is_world_process_zero:
            checkpoint = Path(args.output_dir, f"checkpoint-{state.global_step}")
            write_json(checkpoint / COMPLETE, self._written_by)


def _written_by(trainer: Trainer) -> dict[str, Any]:
    content = trainer.args.deepspeed
    stage = zero.stage(content) if isinstance(content, dict) else None
    return {"num_processes": trainer.args.world_size, "zero_stage": stage}


def _refuse_other_processes(checkpoint: Path, written_by: dict[str, Any]) -> None:
    """DeepSpeed's checkpoints are one file per process, for the stage that wrote them; others are whole."""
    found = read_json(checkpoint / COMPLETE)
    if (
        found == written_by
        or found is None
        or (found["zero_stage"] is None and written_by["zero_stage"] is None)
    ):
        return
    before, now = (
        f"{one['num_processes']} processes {'without DeepSpeed' if (stage := one['zero_stage']) is None else f'under ZeRO-{stage}'}"
        for one in (found, written_by)
    )
    raise StageError(
        f"{checkpoint} was written by {before}, and {now} cannot go on from it: train as before, or remove "
        f"{checkpoint.parent} to start over"
    )


def _tensorboard(folder: Path, step: int) -> TensorBoardCallback:
    from torch.utils.tensorboard import SummaryWriter

    # purge_step hides what a killed run had logged after the checkpoint that this one starts from.
    return TensorBoardCallback(SummaryWriter(str(folder), purge_step=step + 1 if step else None))


@contextlib.contextmanager
def _threads(num_threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _progress_bars_on_terminals_only() -> Iterator[None]:
    """Loading and saving a model draw bars of their own, whatever the Trainer is told."""
    if sys.stderr.isatty() or not transformers_logging.is_progress_bar_enabled():
        yield
        return
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.enable_progress_bar()
