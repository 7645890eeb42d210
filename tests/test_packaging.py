"""What is installed: the right modules, nobody else's names, and a server that starts without torch."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
TOP_LEVEL = ("recsys", "features", "ranking", "serve")
PACKAGE_ROOTS = ("recsys", "features", "ranking")


def modules() -> set[str]:
    """Every module file on disk, relative to the root."""
    files = (path for name in PACKAGE_ROOTS for path in (ROOT / name).rglob("*.py"))
    return {"serve.py", *(path.relative_to(ROOT).as_posix() for path in files)}


def data_files() -> set[str]:
    """What the modules read beside themselves, and the type markers."""
    files = (path for name in PACKAGE_ROOTS for path in (ROOT / name).rglob("*") if path.suffix in {".html", ".css"})
    return {*(path.relative_to(ROOT).as_posix() for path in files), *(f"{name}/py.typed" for name in PACKAGE_ROOTS)}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names in a wheel that was built from a copy of the sources, so that nothing is left in the tree."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE", "serve.py"):
        shutil.copy(ROOT / name, source)
    for name in (*PACKAGE_ROOTS, "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist"]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = (source / "dist").glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        return set(archive.namelist())


def test_the_declared_packages_are_the_ones_on_disk() -> None:
    on_disk = {Path(module).parent.as_posix().replace("/", ".") for module in modules()} - {"."}
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == sorted(on_disk)


def test_every_folder_of_modules_is_a_package() -> None:
    assert all((ROOT / module).with_name("__init__.py").exists() for module in modules() if "/" in module)


def test_nobody_else_owns_our_names() -> None:
    """Plain names are short to write and easy to lose: another distribution that installs one would shadow ours."""
    owners = packages_distributions()
    assert {(name, owner) for name in TOP_LEVEL for owner in owners.get(name, ())} == {
        (name, "shelftalk") for name in TOP_LEVEL
    }


def test_the_wheel_holds_every_module_template_and_type_marker(wheel: set[str]) -> None:
    assert {"recsys/report/page.html", "recsys/py.typed"} <= data_files()
    assert modules() | data_files() <= wheel


def test_the_wheel_holds_nothing_else(wheel: set[str]) -> None:
    assert not {name for name in wheel if ".dist-info/" not in name} - modules() - data_files()


def test_the_wheel_brings_the_licence_and_the_command(wheel: set[str]) -> None:
    information = {name.partition(".dist-info/")[2] for name in wheel}
    assert {"licenses/LICENSE", "entry_points.txt"} <= information


def test_answering_imports_neither_torch_nor_transformers_nor_implicit() -> None:
    """They cost seconds and hundreds of megabytes in every worker process."""
    program = (
        "import sys, serve, recsys.recommender, recsys.batch\n"
        "print(sorted({'torch', 'transformers', 'implicit'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_imports_go_one_way() -> None:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
