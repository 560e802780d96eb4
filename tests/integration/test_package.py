"""What tools/makedeb.sh puts into the Debian package; `make hosts-test package` installs it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEBIAN = Path("/usr/bin/python3")


def tag(python: str | Path) -> str:
    words = [python, "-c", "import sys; print(sys.version_info[:2])"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def why_not() -> str:
    for tool in ("dpkg-deb", "systemd-analyze"):
        if not shutil.which(tool):
            return f"{tool} is not installed"
    if not DEBIAN.exists() or tag(DEBIAN) != tag(sys.executable):
        return f"{sys.executable} is another Python than {DEBIAN}"
    return ""


pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "-")


def run(*words: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of ours alone: what it needs is not what is looked at, and would come from a network."""
    directory = tmp_path_factory.mktemp("wheel")
    pip: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
    ]
    run(*pip, "-w", directory, ROOT)
    (found,) = directory.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def tree(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, taken apart: with DEBIAN in it."""
    directory = tmp_path_factory.mktemp("deb")
    pip_without_deps = directory / "pip"
    pip_without_deps.write_text(
        "#!/bin/sh\n"
        f'[ "$1" = -m ] || exec {sys.executable} "$@"\n'
        f'shift 3; exec {sys.executable} -m pip install --no-deps "$@"\n'
    )
    pip_without_deps.chmod(0o755)
    make: list[str | Path] = [
        "env",
        f"PIP_PYTHON={pip_without_deps}",
        ROOT / "tools" / "makedeb.sh",
    ]
    run(*make, wheel, directory)
    (deb,) = directory.glob("formation_*.deb")
    run("dpkg-deb", "--raw-extract", deb, directory / "tree")
    return directory / "tree"


def paths(tree: Path) -> set[str]:
    """Files and links, without our environment and its modules."""
    found = {f"/{path.relative_to(tree)}" for path in tree.rglob("*") if not path.is_dir()}
    return {path for path in found if not path.startswith(("/opt/formation/current/lib", "/DEB"))}


def test_what_is_in_it(tree: Path) -> None:
    programs = ("formctl", "formation-agent", "formation-coordinator")
    roles = ("agent", "coordinator")
    expected = {f"/usr/bin/{name}" for name in programs}
    expected |= {f"/opt/formation/current/bin/{name}" for name in (*programs, "python", "python3")}
    expected |= {f"/lib/systemd/system/formation-{role}.service" for role in roles}
    expected |= {f"/etc/formation/{role}.toml" for role in roles}
    for kind in ("sysusers.d", "tmpfiles.d"):
        expected |= {f"/usr/lib/{kind}/formation-{role}.conf" for role in roles}
    assert paths(tree) == {*expected, "/opt/formation/current/pyvenv.cfg"}


def test_what_dpkg_is_told(tree: Path) -> None:
    conffiles = (tree / "DEBIAN/conffiles").read_text().split()
    assert conffiles == ["/etc/formation/coordinator.toml", "/etc/formation/agent.toml"]
    control = (tree / "DEBIAN/control").read_text()
    assert "\nDepends: python3 (>= 3." in control
    scripts = {path.name for path in (tree / "DEBIAN").iterdir() if path.stat().st_mode & 0o111}
    assert scripts == {"postinst", "prerm", "postrm"}


def test_nobody_but_root_may_write_what_root_runs(tree: Path) -> None:
    loose = [path for path in tree.rglob("*") if not path.is_symlink()]
    assert [path for path in loose if path.stat().st_mode & 0o022] == []


def test_its_programs_are_those_of_debians_python(tree: Path) -> None:
    for name in ("formctl", "formation_agent", "formation_coordinator"):
        (site,) = (tree / "opt/formation/current/lib").glob("python3*/site-packages")
        assert (site / name).is_dir()
    for path in (tree / "opt/formation/current/bin").iterdir():
        if not path.is_symlink():
            first = path.read_text().splitlines()[0]
            assert first == "#!/opt/formation/current/bin/python"
    assert (tree / "opt/formation/current/bin/python3").readlink() == DEBIAN


@pytest.mark.parametrize("role", ["agent", "coordinator"])
def test_systemd_takes_its_units(tree: Path, role: str, tmp_path: Path) -> None:
    unit = tree / f"lib/systemd/system/formation-{role}.service"
    text = unit.read_text()
    assert f"ExecStart=/usr/bin/formation-{role} " in text
    assert "/usr/local" not in text
    copy = tmp_path / unit.name
    copy.write_text(text.replace(f"/usr/bin/formation-{role}", "/bin/true"))
    words: list[str | Path] = ["systemd-analyze", "verify", "--man=no", copy]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if unit.name in line] == []


def test_another_python_than_debians_makes_none(wheel: Path, tmp_path: Path) -> None:
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\necho 3.1\n")
    other.chmod(0o755)
    make: list[str | Path] = [
        "env",
        f"PIP_PYTHON={other}",
        ROOT / "tools" / "makedeb.sh",
        wheel,
        tmp_path,
    ]
    done = subprocess.run(make, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"makedeb.sh: {other} is not Python 3.")
    assert done.stderr.count("\n") == 1
