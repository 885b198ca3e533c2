"""Settings of the vLLM back-end: how many engines, over which GPUs, with which share of their memory."""

from __future__ import annotations

import dataclasses

from rstar.config import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class VLLMConfig:
    """Engines of one machine. Policy and preference model have their own, on the same devices or on others.

    Devices are counted among the visible ones (CUDA_VISIBLE_DEVICES) and are without meaning on a CPU, where an engine has
    one thread for each rank of its tensor parallelism.
    """

    num_engines: int = 1
    """Of the policy. More than one GPU is used best by as many engines, as long as the model fits into one."""
    tensor_parallel: int = 1
    """GPUs of one policy engine."""
    devices: tuple[int, ...] = ()
    """GPUs of the policy, `tensor_parallel` for each engine in turn; empty: the first ones."""
    policy_memory_share: float = 0.6
    """Of each of its GPUs' memory: weights, activations, keys and values. 0.9 suits a search without a preference model."""
    num_ppm_engines: int = 1
    ppm_tensor_parallel: int = 1
    ppm_devices: tuple[int, ...] = ()
    """GPUs of the preference model; empty: the first of the policy's."""
    ppm_memory_share: float = 0.3
    kv_cache_mb: int | None = None
    """Memory of one engine for keys and values, running and cached; null: what its share leaves, on a CPU 512."""
    max_model_len: int | None = None
    """Tokens of prefix and completion together; null: all that the model has."""
    block_size: int | None = None
    """Tokens of one block of keys and values, the unit of the prefix cache; null: vLLM's own, on a CPU 32."""
    enforce_eager: bool = False
    """No CUDA graphs: less memory, slower. Always so on a CPU."""

    def __post_init__(self) -> None:
        for name in ("num_engines", "tensor_parallel", "num_ppm_engines", "ppm_tensor_parallel"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("kv_cache_mb", "max_model_len", "block_size"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "at least 1, or null")
        for name in ("policy_memory_share", "ppm_memory_share"):
            require(0 < getattr(self, name) < 1, name, getattr(self, name), "between 0 and 1")
        for name, needed in (
            ("devices", self.num_engines * self.tensor_parallel),
            ("ppm_devices", self.num_ppm_engines * self.ppm_tensor_parallel),
        ):
            devices = getattr(self, name)
            allowed = f"{needed} numbers, one for each GPU of each engine, or empty"
            require(len(devices) in (0, needed), name, list(devices), allowed)
            valid = len(set(devices)) == len(devices) and all(device >= 0 for device in devices)
            require(
                valid, name, list(devices), "different numbers from 0 on: a GPU has one engine of a model"
            )
        shares: dict[int, float] = {}
        for groups, share in (
            (self.policy_groups, self.policy_memory_share),
            (self.ppm_groups, self.ppm_memory_share),
        ):
            for group in groups:
                for device in group:
                    shares[device] = shares.get(device, 0.0) + share
        for device, total in shares.items():
            allowed = f"such that the engines on GPU {device} take less than all of it; they take {total:.2f}"
            if total >= 1:
                require(False, "policy_memory_share", self.policy_memory_share, allowed)

    @property
    def policy_groups(self) -> tuple[tuple[int, ...], ...]:
        """The GPUs of each policy engine."""
        devices = self.devices or tuple(range(self.num_engines * self.tensor_parallel))
        return _grouped(devices, self.tensor_parallel)

    @property
    def ppm_groups(self) -> tuple[tuple[int, ...], ...]:
        """The GPUs of each engine of the preference model."""
        needed = self.num_ppm_engines * self.ppm_tensor_parallel
        own = [device for group in self.policy_groups for device in group]
        further = [device for device in range(needed + len(own)) if device not in own]
        return _grouped(
            self.ppm_devices or tuple([*dict.fromkeys(own), *further][:needed]), self.ppm_tensor_parallel
        )

    @property
    def num_gpus(self) -> int:
        """Different GPUs of all engines."""
        return len({device for group in (*self.policy_groups, *self.ppm_groups) for device in group})


def _grouped(devices: tuple[int, ...], size: int) -> tuple[tuple[int, ...], ...]:
    return tuple(devices[at : at + size] for at in range(0, len(devices), size))
