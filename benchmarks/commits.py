"""Two commits of this checkout measured by their own code: a worktree and a process for each, in turns."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pggan_fast.benchmarks import schema
from pggan_fast.benchmarks.schema import Report

import pggan_fast
from pggan_fast import settings
from pggan_fast.errors import line

NATIVE = ("csrc", "setup.py")  # what the native modules are made of
# The packages that setup.py installs below pggan_fast, and the folders they live in.
BESIDE = ("kernels", "benchmarks")
_LOCATE = (
    "import pggan_fast, pggan_fast.benchmarks as b, pggan_fast.kernels as k; print(b.__file__, k.__file__, sep='\\n')"
)
Say = Callable[[str], None]


class CommitError(RuntimeError):
    """What cannot be measured; the message is one line."""


class Tree(NamedTuple):
    """A commit's files, and the cache folder of its runs: another's verdicts on kernels are not its own."""

    commit: str
    folder: Path
    cache: Path


def checkout() -> Path:
    """The folder of the checkout that the package runs from. Raises CommitError where there is none."""
    root = Path(pggan_fast.__file__).resolve().parents[1]
    if not (root / ".git").exists() or not (root / "setup.py").is_file():
        raise CommitError(f"commits are compared in a git checkout of pggan_fast; it runs from {root}, which is none")
    if shutil.which("git") is None:
        raise CommitError("commits are compared with git, which is not installed")
    return root


def resolve(root: Path, name: str) -> str:
    """The full hash of a commit. Raises CommitError."""
    done = _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    if done.returncode != 0:
        raise CommitError(f"{line(name)} is neither a file nor a commit of {root}")
    return done.stdout.strip()


def measure(
    names: Sequence[str], options: Sequence[str], turns: int, say: Say = lambda text: None
) -> list[list[Report]]:
    """The runs of each commit, `turns` of them, one commit after the other: A B A B.

    options: of `pggan-fast bench`. Whatever happens, the worktrees are removed. Raises CommitError, with what failed.
    """
    root = checkout()
    hashes = [resolve(root, name) for name in names]
    with _trees(root, hashes) as trees:
        _native(root, trees, say)
        for tree in trees:
            _own_code(tree)
        found: list[list[Report]] = [[] for _ in trees]
        for turn in range(turns):
            for at, tree in enumerate(trees):
                say(f"turn {turn + 1} of {turns}: {names[at]} ({tree.commit[:10]})")
                found[at].append(_bench(tree, options))
    return found


@contextlib.contextmanager
def _trees(root: Path, hashes: Sequence[str]) -> Iterator[list[Tree]]:
    """A worktree for each commit, in a temporary folder."""
    base = Path(tempfile.mkdtemp(prefix="pggan-fast-compare-"))
    try:
        trees = []
        for at, commit in enumerate(hashes):
            tree = Tree(commit, base / "AB"[at], base / f"cache-{'AB'[at]}")
            done = _git(root, "worktree", "add", "--quiet", "--detach", "--force", str(tree.folder), commit)
            if done.returncode != 0:
                raise CommitError(f"git worktree add {commit[:10]}: {line(done.stderr)}")
            # What the user has tuned counts, and no verdict goes from one commit's kernels to the other's.
            if settings.cache_folder().is_dir():
                shutil.copytree(settings.cache_folder(), tree.cache)
            for name in BESIDE:
                if (tree.folder / name).is_dir():
                    (tree.folder / "pggan_fast" / name).symlink_to(tree.folder / name, target_is_directory=True)
            trees.append(tree)
        yield trees
    finally:
        with _undisturbed():
            for letter in "AB"[: len(hashes)]:
                _git(root, "worktree", "remove", "--force", str(base / letter))
            shutil.rmtree(base, ignore_errors=True)
            _git(root, "worktree", "prune")


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """A second Ctrl-C does not stop the clearing away."""
    try:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # not the main thread: no signal arrives here
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _native(root: Path, trees: Sequence[Tree], say: Say) -> None:
    """The native modules of each: copied from where the same sources were built, else built."""
    built: list[Path] = []
    if _modules(root):
        built.append(root)
    for tree in trees:
        same = next((folder for folder in built if _same_sources(root, folder, tree.folder)), None)
        if same is None:
            say(f"building the native modules of {tree.commit[:10]}")
            _build(tree)
        else:
            for path in (*_modules(same), same / "pggan_fast" / "_build.json"):
                if path.is_file():
                    shutil.copy2(path, tree.folder / "pggan_fast" / path.name)
        built.append(tree.folder)


def _modules(folder: Path) -> list[Path]:
    return sorted((folder / "pggan_fast").glob("_c*.so"))


def _same_sources(root: Path, one: Path, other: Path) -> bool:
    """Whether two folders hold the same files of what the native modules are made of."""

    def files(folder: Path) -> dict[str, bytes]:
        paths = [path for name in NATIVE for path in (folder / name, *(folder / name).rglob("*"))]
        kept = (path for path in paths if path.is_file() and "__pycache__" not in path.parts)
        return {str(path.relative_to(folder)): path.read_bytes() for path in kept}

    return files(one) == files(other)


def _build(tree: Tree) -> None:
    """As an installation does; a CPU module that cannot be built is an error here, not a slower run."""
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=tree.folder, capture_output=True, text=True, check=False)
    record = tree.folder / "pggan_fast" / "_build.json"
    told = json.loads(record.read_text()).get("_cpu", {}) if record.is_file() else {}
    if done.returncode != 0 or not told.get("built"):
        why = told.get("reason") or done.stderr.strip().rpartition("\n")[2] or "no module came of it"
        raise CommitError(f"{tree.commit[:10]}: its native modules cannot be built: {line(why)}")


def _environment(tree: Tree) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(tree.folder), "PGGAN_FAST_CACHE": str(tree.cache)}


def _own_code(tree: Tree) -> None:
    """Every part is imported from the worktree, whatever the environment has installed."""
    command = [sys.executable, "-c", _LOCATE]
    done = subprocess.run(command, cwd=tree.folder, env=_environment(tree), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CommitError(
            f"{tree.commit[:10]}: its benchmarks cannot be imported: {line(done.stderr.strip().rpartition(chr(10))[2])}"
        )
    outside = [text for text in done.stdout.split() if not Path(text).resolve().is_relative_to(tree.folder.resolve())]
    if outside:
        raise CommitError(f"{tree.commit[:10]}: {outside[0]} would run instead of its own files")


def _bench(tree: Tree, options: Sequence[str]) -> Report:
    """One run; its progress goes to where ours goes, its table nowhere."""
    path = tree.folder.parent / f"run-{tree.folder.name}.json"
    path.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pggan_fast.cli", "bench", *options, "--json", str(path)]
    done = subprocess.run(
        command,
        cwd=tree.folder,
        env=_environment(tree),
        stdout=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if not path.is_file():
        raise CommitError(
            f"{tree.commit[:10]}: its `pggan-fast bench {' '.join(options)}` ended with {done.returncode}"
        )
    return schema.read(path)


def _git(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
