"""Host files are read as DeepSpeed reads them; a wrong line is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from rstar.errors import ConfigError
from rstar.training.config import TrainingConfig
from rstar.training.hosts import Hosts, read_host_file
from rstar.training.trainer import hosts_of, num_processes


def test_a_host_file_names_machines_and_slots(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("# two machines\nworker-1 slots=8\n\n10.0.0.2  slots = 4  # half of it\n")
    hosts = read_host_file(file)
    assert hosts.slots == {"worker-1": 8, "10.0.0.2": 4}
    assert (hosts.num_processes, hosts.address) == (12, "worker-1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("worker 8\n", r"line 1: 'worker 8' is no machine; write: name slots=8$"),
        ("a slots=1\na slots=2\n", r"line 2: a is named twice$"),
        ("a slots=0\n", r"^hosts: a has 0 slots; it must be at least 1$"),
        ("# none\n", r"names no machine; write a line each: name slots=8$"),
    ],
)
def test_a_wrong_host_file_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "hosts"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_host_file(file)
    with pytest.raises(ConfigError, match=r"^host_file: .* cannot be read"):
        read_host_file(tmp_path / "none")


def test_the_number_of_processes_is_that_of_the_settings_or_of_the_machines(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("a slots=2\nb slots=2\n")
    alone = TrainingConfig(epochs=1, global_batch_size=8, save_steps=2)
    several = TrainingConfig(epochs=1, global_batch_size=8, save_steps=2, host_file=str(file))
    assert [num_processes(alone), num_processes(several)] == [1, 4]
    assert num_processes(alone, Hosts(slots={"c": 3})) == 3
    contradiction = TrainingConfig(
        epochs=1, global_batch_size=8, save_steps=2, host_file=str(file), num_processes=8
    )
    with pytest.raises(ConfigError, match=r"^num_processes is 8; the machines have 4 slots: leave it out$"):
        hosts_of(contradiction)
