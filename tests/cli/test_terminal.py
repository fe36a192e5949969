"""Every command as somebody at a terminal meets it: help of any width, typing errors, Ctrl-C, a pipe that closes."""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import io
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pytest
import tyro
from processes import PATH

from pggan_fast import cli, system
from pggan_fast.cli import completion, data, generators, info, interrupts, parsing

COMMANDS = [*cli.COMMANDS, *(f"data {name}" for name in ("convert", "make", "info", "verify"))]
BARE = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "TERM")}
ROOT = Path(__file__).parents[2]  # with the program's module, where nothing is installed
ENVIRONMENT = {**BARE, "PYTHONPATH": os.pathsep.join([*map(str, PATH), str(ROOT)])}

PROGRAM = "import pggan_fast_command as c; c.main()"


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Ctrl-C counts here and in processes started here, though the tests run under nohup or behind a script's `&`."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def call(*words: str) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert isinstance(stop.value.code, int)
    return stop.value.code


def command_of(name: str) -> tuple[Any, list[str]]:
    """What a command is parsed as, and its words that choose one below it."""
    top, *below = [name] if name in cli.COMMANDS else name.split()
    return importlib.import_module(cli.COMMANDS[top][0]).Command, below


def help_of(name: str, width: int, encoding: str, monkeypatch: pytest.MonkeyPatch) -> str:
    screen = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    with monkeypatch.context() as change:
        change.setenv("COLUMNS", str(width))
        change.setattr(sys, "stdout", screen)
        assert call(*name.split(), "--help") == 0
    screen.seek(0)
    return screen.read()


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_fits_the_terminal(name: str, width: int, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = help_of(name, width, encoding, monkeypatch)
    assert ("╭" in shown) == (encoding == "utf-8" and name != "")
    for option in parsing.names_of(*command_of(name)) if name else cli.COMMANDS:  # begin a line, or follow an alias
        assert re.search(rf"^[│•* ]*(?:.*, )?{option}(?![\w-])", shown, re.M), option
    assert [x for x in shown.splitlines()[1:] if len(x) > width and " " in x.strip()] == []  # no place to break at
    assert shown.replace("\n", "").isprintable()
    for misleading in ("None", "(default: )", "(default: False)", "(default: True)"):
        assert misleading not in shown


def without_text(source: str) -> list[str]:
    """Fields of classes that no text follows."""
    bodies = [node.body for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)]
    return [
        ast.unparse(field.target)
        for body in bodies
        for field, following in zip(body, [*body[1:], None], strict=True)
        if isinstance(field, ast.AnnAssign)
        if not (isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant))
    ]


def test_every_option_has_a_text() -> None:
    made = [parsing.chosen(*command_of(name)) for name in COMMANDS]
    classes = {base for command in made for base in getattr(command, "__mro__", ()) if is_dataclass(base)}
    assert generators.Drawing in classes
    assert data.Verify in classes
    assert [(c.__qualname__, texts) for c in classes if (texts := without_text(inspect.getsource(c)))] == []
    assert without_text('class Command:\n    a: int = 0\n    """Text."""\n    b: int = 0') == ["b"]


@pytest.mark.parametrize("name", COMMANDS)
def test_an_option_that_is_written_wrongly_is_asked_about(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command = command_of(name)
    names = parsing.names_of(*command)
    for option in names:
        told = parsing.unrecognized(f"Unrecognized options: {option}x, 3", *command)
        assert told is not None
        assert f"; did you mean {option}?" in told
    assert parsing.unrecognized("Unrecognized options: --qqqq", *command) == "--qqqq: there is no such option"
    shown = help_of(name, 200, "ascii", monkeypatch)
    assert set(names) <= set(re.findall(r"(?<![\w-])[\w-]+", shown))
    assert set(re.findall(r"^ *(--?[a-z][\w-]*)", shown, re.M)) <= {"-h", *names}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["info", "--jsn"], "--jsn: there is no such option; did you mean --json?"),
        (["metrics", "--no-flor"], "--no-flor: there is no such option; did you mean --no-floor?"),
        (["bench", "--sho"], "--sho: there is no such option; pggan-fast bench --help"),
        (["bench", "--lst"], "--lst: there is no such option; did you mean --list?"),
        (["convert", "a", "b", "--outpt"], "--outpt: there is no such option; pggan-fast convert --help"),
        (
            ["data", "make", "faces", "--dest", "a", "--resoluton=8"],
            "--resoluton: there is no such option; did you mean --resolution?",
        ),
        (["data", "convrt"], "unknown command 'convrt'; did you mean convert?; expected one of convert, make, info"),
        (["info", "all"], "all: there is no place for this word; pggan-fast info --help"),
        (["info", "all", "--jsn", "3"], "--jsn: there is no such option; did you mean --json?"),
        (["gen"], "unknown command 'gen'; did you mean generate?; expected one of bench"),
    ],
)
def test_what_was_meant_stands_in_the_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(*words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"pggan-fast: error: {said}")


def started(*words: str, main: str = PROGRAM, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", main, *words], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, **options
    )


ON_IMPORT = """
import signal, sys
class Finder:
    def find_spec(self, name, path, target=None):
        if name == WANTED:
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Finder())
import pggan_fast_command
pggan_fast_command.main()
"""


@pytest.mark.parametrize("module", ["torch.nn", "tyro", "pggan_fast.cli.info", "pggan_fast.backends.report", "json"])
def test_an_interrupt_in_an_import_is_one_line(module: str) -> None:
    process = started("info", main=ON_IMPORT.replace("WANTED", repr(module)), stdout=subprocess.DEVNULL)
    _, told = process.communicate(timeout=120)
    assert (process.returncode, told) == (130, "pggan-fast: interrupted\n")


@pytest.mark.parametrize("became", [KeyboardInterrupt, ImportError, SystemError, OSError, cli.UsageError])
def test_an_interrupt_is_told_whatever_error_it_becomes(
    became: type[BaseException], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: info.Command) -> int:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            raise became("half of a module") from error
        raise AssertionError("nothing came")

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(info.Command, "run", run)
    assert call("info") == 130
    assert capsys.readouterr().err == "pggan-fast: interrupted\n"
    assert signal.getsignal(signal.SIGINT) is before


def test_an_error_without_an_interrupt_is_told_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: info.Command) -> int:
        raise ImportError("half of a module")

    monkeypatch.setattr(info.Command, "run", run)
    with pytest.raises(ImportError, match="half of a module"):
        cli.main(["info"])


@pytest.mark.parametrize("error", [OSError(28, "No space left on device", "x.json"), cli.UsageError("--x: not so")])
def test_an_error_after_an_interrupt_that_a_command_dealt_with_is_told(
    error: Exception, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: info.Command) -> int:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        raise error

    monkeypatch.setattr(info.Command, "run", run)
    assert call("info") in (1, 2)
    text = "x.json: No space left on device" if isinstance(error, OSError) else "--x: not so"
    assert capsys.readouterr().err == f"pggan-fast: error: {text}\n"


def test_an_error_whose_context_goes_in_a_circle_is_told() -> None:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    assert not interrupts.became(one)


def test_help_into_a_closed_pipe_says_nothing() -> None:
    for words in ("--help", "generate --help", "completion bash"):
        reader, writer = os.pipe()
        os.close(reader)
        process = started(*words.split(), stdout=writer)
        os.close(writer)
        assert process.communicate(timeout=120)[1] == ""
        assert process.returncode == 1


@pytest.mark.skipif(not system.POSIX, reason="a pseudo-terminal is POSIX's")
@pytest.mark.parametrize(
    ("changes", "coloured"),
    [({}, True), ({"PYTHONIOENCODING": "ascii"}, True), ({"TERM": "dumb"}, False), ({"NO_COLOR": "1"}, False)],
)
def test_colours_are_for_terminals_that_want_them(changes: dict[str, str], coloured: bool) -> None:
    import pty

    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "pggan_fast.cli", "generate", "--help"],
        env={**ENVIRONMENT, "TERM": "xterm", **changes}, stdout=terminal, stderr=terminal,
    )  # fmt: skip
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # its end, as Linux tells it
        while part := os.read(controller, 65536):
            shown += part
    os.close(controller)
    assert process.wait(120) == 0
    plain = re.sub(r"\x1b\[[\d;]*m", "", shown.decode())
    assert re.search(r"^[│ ]*--network", plain, re.M)
    assert (b"\x1b[" in shown) == coloured


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_completes_commands_options_and_choices(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert call("completion", "bash") == 0
    script = tmp_path / "completion.bash"
    script.write_text(capsys.readouterr().out)
    ask = """source "$1"; shift; read -r _ _ _ _ function _ < <(complete -p pggan-fast)
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); "$function"; printf '%s\\n' "${COMPREPLY[@]}" """
    for words, expected in {
        ("ge",): {"generate"},
        ("generate", "--se"): {"--seeds"},
        ("data", "convert", "--tr"): {"--transform"},
        ("train", "--precision", "b"): {"bf16"},
    }.items():
        done = subprocess.run(
            ["bash", "--norc", "-c", ask, "bash", str(script), "pggan-fast", *words],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert set(done.stdout.split()) == expected, done.stderr


@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish here")
def test_fish_completes_commands_options_and_choices(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert call("completion", "fish") == 0
    script = tmp_path / "completion.fish"
    script.write_text(capsys.readouterr().out)
    for line, expected in {
        "ge": "generate",
        "generate --se": "--seeds",
        "data convert --tr": "--transform",
        "train --precision b": "bf16",
    }.items():
        ask = f"source {script}; complete -C 'pggan-fast {line}'"
        done = subprocess.run(["fish", "--no-config", "-c", ask], capture_output=True, text=True, check=True)
        assert [found.split("\t")[0] for found in done.stdout.splitlines()] == [expected], done.stderr


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh here")
def test_zsh_reads_its_script(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert call("completion", "zsh") == 0
    script = tmp_path / "_pggan-fast"
    script.write_text(capsys.readouterr().out)
    subprocess.run(["zsh", "-n", script], check=True)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_a_script_with_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("completion", shell) == 0
    script = capsys.readouterr().out
    assert [name for name in cli.COMMANDS if " " not in name and name not in script] == []


def test_a_script_that_was_not_written_is_an_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*words: object, **options: object) -> None:
        sys.exit(2)

    monkeypatch.setattr(tyro, "cli", fail)
    assert completion.Command("bash").run() == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == f"pggan-fast: error: tyro {tyro.__version__} wrote no script for bash\n"


def test_an_options_text_is_one_line() -> None:
    """Help wraps at the line breaks of an option's docstring as well as at the screen's edge."""
    for path in Path(cli.__file__).parent.glob("*.py"):
        for command in ast.walk(ast.parse(path.read_text())):
            if isinstance(command, ast.ClassDef):
                for option, text in itertools.pairwise(command.body):
                    if isinstance(option, ast.AnnAssign) and isinstance(text, ast.Expr):
                        assert "\n" not in ast.literal_eval(text.value), ast.unparse(option)
