"""The image that Binder builds of this repository, replayed without containers: `with replayed(repository) as image:`.

repo2docker itself writes the Dockerfile. Its base (Ubuntu and a conda environment, made by root) is stood in for by a
virtual environment with the Python and the packages of repo2docker's own lock; every step after that, which is what
`binder/` asks for, is run as the Dockerfile has it, as an ordinary user and in an environment of its own.

Other than in the image: the packages of the base come from PyPI and not from conda-forge, Python may be another patch
release (or, where this machine has no such Python, another version: `Image.python` tells), there is no Node, all
folders lie below a temporary one, the user is `nobody` (or whoever runs the tests, if not root), and the locale is
C.UTF-8.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

import pytest
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version
from processes import unable

#: As mybinder.org names the user: https://mybinder.readthedocs.io/en/latest/tutorials/dockerfile.html
ARGUMENTS = {"NB_USER": "jovyan", "NB_UID": "1000"}
# Asked for by name; what these need comes along, and all of it in the versions of the lock.
_BASE = ("jupyterlab", "notebook", "ipykernel", "ipywidgets", "jupyterhub", "jupyter-resource-usage", "pip")
# What conda-forge calls otherwise than PyPI, of that which comes along.
_PYPI = {"jupyterhub-base": "jupyterhub", "nbconvert-core": "nbconvert", "brotli-python": "brotli"}
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_OTHER = ("EXPOSE", "LABEL", "ENTRYPOINT", "CMD")  # how the image is started, not what is in it
_WAY_TO_PACKAGES = re.compile(
    r"PIP_.*|(https?|no|all)_proxy|(HTTPS?|NO|ALL)_PROXY|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE"
)
# As uv and pip say it.
_OFFLINE = re.compile(r"Failed to fetch|error sending request|dns error|NewConnectionError|NameResolutionError")
_NOT_NEEDED = ("test", "tests", "idlelib", "tkinter", "site-packages", "config-*", "__pycache__", "include", "share")


# --- what repo2docker says --------------------------------------------------------------------------------------------


def dockerfile(repository: Path) -> str:
    """What repo2docker would build of a folder."""
    named = ["--user-name", ARGUMENTS["NB_USER"], "--user-id", ARGUMENTS["NB_UID"]]
    command = [sys.executable, "-m", "repo2docker", "--no-build", *named, str(repository)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def instructions(text: str) -> list[tuple[str, str]]:
    """(INSTRUCTION, what follows): comments gone, continued lines joined.

    https://docs.docker.com/reference/dockerfile/
    """
    lines = [line.strip() for line in text.splitlines()]
    whole = "\n".join(line for line in lines if line and not line.startswith("#")).replace("\\\n", " ")
    parts = (line.partition(" ") for line in whole.splitlines())
    return [(name, rest.strip()) for name, _, rest in parts]


def frozen(text: str) -> Path:
    """The lock of the base environment: the one of repo2docker's files that this Dockerfile copies."""
    # Here because importing it takes a second, which no other test should wait for.
    from repo2docker import buildpacks
    from repo2docker.buildpacks.base import BuildPack

    locks = Path(buildpacks.__file__).parent.glob("conda/environment.py-*.lock")
    named = {BuildPack.generate_build_context_filename(f"conda/{lock.name}")[0]: lock for lock in locks}
    (lock,) = (lock for name, lock in named.items() if f" {name} /tmp/env/environment.lock" in text)
    return lock


def versions(lock: Path) -> dict[str, str]:
    """Name -> version of what a lock of conda-forge lists, in the forms of PyPI where they are known."""
    found = {}
    for line in lock.read_text().splitlines():
        if line.startswith("https://"):
            name, version, _ = line.rpartition("/")[2].rsplit("-", 2)
            try:
                found[canonicalize_name(_PYPI.get(name, name), validate=True)] = str(Version(version))
            except (ValueError, InvalidVersion):  # no package of Python
                continue
    return found


# --- the image --------------------------------------------------------------------------------------------------------


@dataclass
class Image:
    """A folder that stands for the image's root.

    `base` is how many bytes lie in the base environment, `layers` are (step, bytes that it wrote), in order.
    """

    root: Path
    context: Path
    text: str
    python: str = ""
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": _PATH, "SHELL": "/bin/bash"})
    workdir: Path = Path("/")
    base: int = 0
    layers: list[tuple[str, int]] = field(default_factory=list)

    @property
    def lock(self) -> Path:
        return frozen(self.text)

    @property
    def prefix(self) -> Path:
        """The environment in which server and kernels run."""
        return Path(self.environment["KERNEL_PYTHON_PREFIX"])

    def start(self, *command: str, **variables: str) -> "subprocess.Popen[bytes]":
        """A command as `run` runs it, in the background and without a word."""
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(command, cwd=self.workdir, env=self.environment | variables, **quiet, **as_user())

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """A command as the image's user, in the repository, with the image's environment and these variables."""
        return subprocess.run(
            command,
            cwd=self.workdir,
            env=self.environment | variables,
            capture_output=True,
            encoding="utf-8",
            check=False,
            **as_user(),
        )


def as_user() -> dict[str, object]:
    """Options of `subprocess.run`: root steps down to `nobody`, who has no rights on any machine."""
    if os.geteuid() != 0:
        return {}
    import pwd  # which Windows lacks

    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


@contextmanager
def replayed(repository: Path) -> Iterator[Image]:
    """Build, and delete everything afterwards. Without Linux or a network the test is skipped; CI must have both."""
    if not sys.platform.startswith("linux"):
        pytest.skip("Binder's images are of Linux, and so is what installs into them")
    with tempfile.TemporaryDirectory(prefix="binder-", ignore_cleanup_errors=True) as folder:
        root = Path(folder)
        root.chmod(0o755)
        copy(repository, context := root / "context")
        image = Image(root, context, dockerfile(context))
        _build(image)
        yield image


def copy(repository: Path, folder: Path) -> None:
    """What a clone of the repository would hold: what git tracks, and what is new and not ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=repository,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (repository / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(repository / name, folder / name)


def _build(image: Image) -> None:
    """Follow the Dockerfile. Docker replaces variables by what they were before the instruction."""
    arguments, user, own = dict(ARGUMENTS), "root", False
    for name, rest in instructions(image.text):
        known = image.environment | arguments
        if name == "ARG":
            argument, _, default = rest.partition("=")
            arguments.setdefault(argument, _filled(default, known))
        elif name == "ENV":
            _set(image, rest, known)
        elif name == "USER":
            user = _filled(rest, known)
        elif name == "WORKDIR":
            _base(image)  # it ends before the first folder of the repository
            image.workdir = Path(_filled(rest, known))
            _make(image.workdir)
        elif name == "COPY" and " src/" in f" {rest}":
            own = True
            image.layers.append((f"{name} {rest}", _copied(image, rest, known)))
        elif name == "RUN" and user != "root":
            image.layers.append((f"{name} {rest}", _ran(image, rest)))
        elif name == "RUN":
            assert not own, f"a step of this repository would run as root: {rest}"
        else:
            assert name in (*_OTHER, "FROM", "COPY"), name


def _filled(text: str, known: Mapping[str, str]) -> str:
    return Template(text).substitute(known)


def _set(image: Image, rest: str, known: Mapping[str, str]) -> None:
    elsewhere = {"APP_BASE": "srv", "HOME": f"home/{ARGUMENTS['NB_USER']}"}
    for assignment in shlex.split(rest):
        name, _, value = assignment.partition("=")
        image.environment[name] = _filled(value, known)
        if name in elsewhere:
            image.environment[name] = str(image.root / elsewhere[name])
        if name in ("LC_ALL", "LANG", "LANGUAGE"):
            image.environment[name] = "C.UTF-8"


def _copied(image: Image, rest: str, known: Mapping[str, str]) -> int:
    source, target = (_filled(part, known) for part in shlex.split(rest) if not part.startswith("--"))
    origin, place = image.context / source.removeprefix("src/"), Path(target)
    if origin.is_dir():
        shutil.copytree(origin, place, dirs_exist_ok=True)
    else:
        _make(place.parent)
        shutil.copy2(origin, place)
    _own(image.workdir)
    return sum(path.stat().st_size for path in [origin, *origin.rglob("*")] if path.is_file())


def _ran(image: Image, line: str) -> int:
    before = _state(image)
    variables = {name: value for name, value in os.environ.items() if _WAY_TO_PACKAGES.fullmatch(name)}
    done = image.run("/bin/sh", "-c", line, **variables)
    _succeeded(done)
    after = _state(image)
    return sum(size for path, (size, changed) in after.items() if before.get(path) != (size, changed))


def _succeeded(done: subprocess.CompletedProcess[str]) -> None:
    said = f"{done.stdout}\n{done.stderr}"
    if done.returncode and _OFFLINE.search(said):
        unable("the packages of Binder's image cannot be fetched: there is no way to PyPI")
    assert done.returncode == 0, f"{done.args}\n{said}"


def _state(image: Image) -> dict[Path, tuple[int, int]]:
    """(bytes, time of the last change) of every file in the image."""
    places = (image.prefix, Path(image.environment["HOME"]))
    files = (path for place in places for path in place.rglob("*") if path.is_file() and not path.is_symlink())
    return {path: ((status := path.stat()).st_size, status.st_mtime_ns) for path in files}


# --- what stands for its base -----------------------------------------------------------------------------------------


def _base(image: Image) -> None:
    """The environment of conda: a virtual environment with the same versions, of which the user is the owner."""
    wanted = (image.context / "binder" / "runtime.txt").read_text().strip().removeprefix("python-")
    python = _accessible(image, _interpreter(wanted))
    _make(image.prefix.parent)
    _make(Path(image.environment["HOME"]))
    made = image.run(str(python), "-m", "venv", "--without-pip", str(image.prefix))
    assert made.returncode == 0, made.stderr
    image.python = image.run(str(image.prefix / "bin" / "python"), "-V").stdout.split()[1]
    locked = versions(image.lock)
    constraints = image.root / "base.txt"
    constraints.write_text("".join(f"{name}=={version}\n" for name, version in locked.items()))
    command = ["-m", "uv", "pip", "install", "--python", str(image.prefix / "bin" / "python"), "--compile-bytecode"]
    command += ["--link-mode", "copy", "--constraint", str(constraints)]
    done = subprocess.run(
        [sys.executable, *command, *_BASE],
        env=os.environ | {name: image.environment[name] for name in ("LD_LIBRARY_PATH",) if name in image.environment},
        capture_output=True,
        text=True,
        check=False,
    )
    _succeeded(done)
    _own(image.root / "srv")
    image.base = sum(size for size, _ in _state(image).values())


def _interpreter(version: str) -> Path:
    """The Python of this version: on the path, or among pyenv's; else the one that runs the tests."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    named = [shutil.which(f"python{version}"), *sorted(pyenv.glob(f"{version}.*/bin/python{version}"))]
    for candidate in map(Path, filter(None, named)):
        said = subprocess.run([candidate, "-V"], capture_output=True, text=True, check=False)
        if said.stdout.startswith(f"Python {version}."):
            return candidate
    return Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"


def _accessible(image: Image, python: Path) -> Path:
    """The interpreter itself if the user may run it, else a copy (root's home is closed to others)."""
    with suppress(PermissionError):
        if image.run(str(python), "-V").returncode == 0:
            return python
    asked = [python, "-c", "import sys; print(sys.base_prefix)"]
    origin = Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip())
    here = image.root / "python"
    shutil.copytree(origin, here, symlinks=True, ignore=shutil.ignore_patterns(*_NOT_NEEDED))
    image.environment["LD_LIBRARY_PATH"] = str(here / "lib")
    return here / "bin" / python.name


def _make(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    _own(folder)


def _own(folder: Path) -> None:
    """Hand a folder and all in it to the user."""
    who = as_user()
    if who:
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, who["user"], who["group"], follow_symlinks=False)
