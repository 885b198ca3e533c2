"""What every test shares: the environment, Hypothesis profiles, the data folder, markers that need an engine.

The environment is set here, before any test imports torch or vLLM, because both read it at import.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

REPOSITORY = Path(__file__).resolve().parent.parent

os.environ.setdefault("OMP_NUM_THREADS", "1")  # pytest-xdist has the cores; waiting OpenMP threads would spin
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ["HF_HUB_OFFLINE"] = "1"  # a test that needs the network is a bug
os.environ["VLLM_NO_USAGE_STATS"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # the engine lives in the test's own process
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # eager engines: no just-in-time build at the first request

# No deadlines: a shared machine is slow at random. In CI the examples are the same each time.
settings.register_profile("dev", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("dev"), derandomize=True, database=None)
settings.register_profile("thorough", settings.get_profile("dev"), max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))


def missing_engine(marker: str) -> str:
    """Why tests with `marker` cannot run here; empty if they can."""
    if marker == "vllm" and importlib.util.find_spec("vllm") is None:
        return "vLLM is not installed; `make setup-all` installs its CPU build"
    if marker == "deepspeed" and importlib.util.find_spec("deepspeed") is None:
        return "DeepSpeed is not installed; `make setup-all` installs it"
    if marker == "gpu":
        try:
            found = (
                subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, check=False).returncode
                == 0
            )
        except FileNotFoundError:
            found = False
        return "" if found else "no NVIDIA GPU"
    return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs an engine that is not here, and say so."""
    for marker in ("vllm", "deepspeed", "gpu"):
        marked = [item for item in items if item.get_closest_marker(marker)]
        if marked and (reason := missing_engine(marker)):
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of benchmark files beside the checkout, which is not part of it. Skips where it is absent."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no folder ../shared/data beside the checkout")
    return folder
