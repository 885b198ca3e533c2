"""The examples in deploy/: linted by the tools of their trades, and as far as they can run here, run."""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parent.parent
DEPLOY = REPOSITORY / "deploy"
SCRIPTS = Path(sysconfig.get_path("scripts"))


def tool(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a tool that was installed beside this interpreter."""
    path = SCRIPTS / name
    if not path.is_file():
        pytest.skip(f"{name} is not installed")
    return subprocess.run([path, *arguments], capture_output=True, text=True, check=False)


def documents() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / "kuberay.yaml").read_text(encoding="utf-8")))


def make_targets() -> set[str]:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z0-9-]+):", makefile, re.MULTILINE))


def test_the_dockerfile_has_no_fault_that_hadolint_finds() -> None:
    linted = tool("hadolint", "--failure-threshold", "info", DEPLOY / "Dockerfile")
    assert (linted.returncode, linted.stdout + linted.stderr) == (0, "")


def test_the_dockerfile_uses_targets_of_the_makefile_and_the_image_leaves_out_what_git_does_not_track() -> (
    None
):
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    assert set(re.findall(r"target=([a-z-]+)", text)) == {"setup-gpu", "setup-all"} <= make_targets()
    ignored = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").split()
    for pattern in ("runs", ".venv*", ".git", "models", "data"):
        assert pattern in ignored


def test_make_setup_gpu_asks_for_the_default_torch_and_the_extras_whatever_the_machine_has(
    tmp_path: Path,
) -> None:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))
    }
    command = ["make", "--dry-run", "setup-gpu", f"VENV={tmp_path}"]
    shown = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert re.search(r'install .*"torch==[0-9.]+"\n', shown)
    assert '--editable ".[vllm,train,ray]"' in shown
    assert "+cpu" not in shown


def test_the_slurm_script_has_no_fault_that_shellcheck_finds() -> None:
    linted = tool("shellcheck", "--severity=style", DEPLOY / "slurm.sbatch")
    assert (linted.returncode, linted.stdout) == (0, "")


def test_the_slurm_script_starts_a_ray_node_on_every_node_and_the_driver_once_the_head_is_up(
    tmp_path: Path,
) -> None:
    """With stand-ins for Slurm, Ray and make that note what they were called with."""
    tools = tmp_path / ".venv" / "bin"
    tools.mkdir(parents=True)
    calls = tmp_path / "calls"
    stand_ins = {
        "scontrol": "printf 'n1\\nn2\\nn3\\n'",
        "srun": f'case "$*" in *hostname*) echo 10.0.0.1 ;; *) echo "srun $*" >> {calls} ;; esac',
        "ray": f"[ -f {tmp_path}/up ] && exit 0; touch {tmp_path}/up; exit 1",
        "make": f'echo "make $*" >> {calls}',
        "sleep": ":",
    }
    for name, body in stand_ins.items():
        (tools / name).write_text(f"#!/bin/sh\n{body}\n")
        (tools / name).chmod(0o755)
    environment = {
        **os.environ, "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_NODELIST": "n[1-3]", "SLURM_GPUS_ON_NODE": "8",
        "SLURM_CPUS_PER_TASK": "96", "ROUND": "round2",
    }  # fmt: skip
    ran = subprocess.run(
        ["bash", DEPLOY / "slurm.sbatch"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    called = calls.read_text().splitlines()
    (head,) = [call for call in called if "ray start --head" in call]
    (others,) = [call for call in called if "ray start --address=10.0.0.1:6379" in call]
    (driver,) = [call for call in called if call.startswith("make")]
    assert "--nodelist=n1" in head
    assert "--nodes=2" in others
    assert "--exclude=n1" in others
    assert "--num-gpus=8" in head
    assert "--num-gpus=8" in others
    assert driver.split() == [
        "make", "round2", "RECIPE=rstar-math-7b", "RAY=10.0.0.1:6379", "LOG=runs/rstar-math-7b/log.jsonl",
        "METRICS=0.0.0.0:9100",
    ]  # fmt: skip


def pods() -> dict[str, dict[str, Any]]:
    """The pod templates of the Kubernetes example."""
    cluster, job = documents()
    groups = {group["groupName"]: group["template"] for group in cluster["spec"]["workerGroupSpecs"]}
    return {"head": cluster["spec"]["headGroupSpec"]["template"], **groups, "driver": job["spec"]["template"]}


def test_the_kubernetes_objects_fit_the_schemas_of_their_kinds() -> None:
    validator = pytest.importorskip("kubernetes_validate")
    cluster, job = documents()
    version = validator.latest_version()
    validator.validate(job, version, strict=True)
    for name, template in pods().items():  # KubeRay's own kind has no schema there, but it is made of pods
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, **template["metadata"]}}
        validator.validate({**pod, "spec": template["spec"]}, version, strict=True)
    assert (cluster["apiVersion"], cluster["kind"]) == ("ray.io/v1", "RayCluster")
    assert set(cluster["spec"]) == {"rayVersion", "headGroupSpec", "workerGroupSpecs"}
    assert set(cluster["spec"]["headGroupSpec"]) == {"rayStartParams", "template"}
    for group in cluster["spec"]["workerGroupSpecs"]:
        assert set(group) == {
            "groupName",
            "replicas",
            "minReplicas",
            "maxReplicas",
            "rayStartParams",
            "template",
        }
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


def test_every_pod_mounts_what_it_names_and_sees_the_same_runs_models_and_data() -> None:
    seen = set()
    for template in pods().values():
        spec = template["spec"]
        volumes = {volume["name"] for volume in spec["volumes"]}
        for container in spec["containers"]:
            mounts = container["volumeMounts"]
            assert {mount["name"] for mount in mounts} == volumes
            paths = {mount["mountPath"] for mount in mounts}
            assert {f"/srv/rstar/{folder}" for folder in ("runs", "models", "data")} <= paths
            assert container["resources"]["requests"] == container["resources"]["limits"]
            seen.add(container["image"])
    assert len(seen) == 1


def test_the_cluster_runs_the_version_of_ray_that_is_pinned() -> None:
    pinned = re.search(
        r"^ray==(\S+)", (REPOSITORY / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert pinned
    assert documents()[0]["spec"]["rayVersion"] == pinned.group(1)


@pytest.mark.parametrize("file", ["slurm.sbatch", "kuberay.yaml"])
def test_what_the_examples_run_exists(file: str) -> None:
    text = (DEPLOY / file).read_text(encoding="utf-8")
    assert set(re.findall(r"make (round[s0-9]+|setup-[a-z]+)", text)) <= make_targets()
    for recipe in re.findall(r"RECIPE[=:]-?([a-z0-9-]+)", text):
        assert (REPOSITORY / "rounds" / "recipes" / f"{recipe}.yaml").is_file()


def test_scripts_for_bash_parse() -> None:
    assert subprocess.run(["bash", "-n", DEPLOY / "slurm.sbatch"], check=False).returncode == 0
