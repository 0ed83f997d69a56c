"""Docs cannot lie: what README and docs show runs, and what they list exists."""

from __future__ import annotations

import inspect
import itertools
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import frostline
from frostline.cli.main import cli
from tiny import write_folder

pytestmark = pytest.mark.usefixtures("warm_cache")

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    """Every `frostline …` line in README's shell blocks, but for the demo, which CI runs whole."""
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line.startswith("frostline ") and " demo" not in line]


def test_readme_holds_the_two_commands() -> None:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    assert [line for line in lines if line.startswith("pip install")] == [
        'pip install -e ".[demo]" && frostline demo',
        'pip install -e ".[test]" && pytest',
    ]


def test_readme_is_short_and_its_links_lead_somewhere() -> None:
    assert len(README.split()) < 1000
    for page in (ROOT / "README.md", *ROOT.glob("docs/*.md")):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def patient(line: str) -> str:
    """The same command on smaller pictures and for less time."""
    return re.sub(r"^frostline (fit|measure|plan|train|compare) ", r"frostline \1 --size 64 ", line).replace(
        "--minutes 10", "--minutes 0.5"
    )


@pytest.mark.slow
def test_every_command_in_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(commands()) >= 2
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "photos", per_class=12)
    write_folder(tmp_path / "new-photos", per_class=2, seed=9)
    for line in commands():
        result = CliRunner().invoke(cli, shlex.split(patient(line))[1:])
        assert result.exit_code == 0, f"{line}\n{result.output}"


@pytest.mark.slow
def test_the_python_in_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert blocks("python")
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "photos", per_class=12)
    write_folder(tmp_path / "new-photos", per_class=2, seed=9)
    for block in blocks("python"):
        exec(compile(block.replace("size=160", "size=32"), "README.md", "exec"), {})


def test_every_strategy_in_the_docs_is_one() -> None:
    page = (ROOT / "docs" / "strategies.md").read_text()
    column = re.findall(r"^\| .* \| (`.*) \|$", page, re.MULTILINE)
    names = [text for row in column for text in re.findall(r"`([^`]+)`", row)]
    assert len(names) >= 8
    for text in names:
        assert str(frostline.parse(text.replace("\\*", "*")))


def test_the_file_tree_in_the_docs_is_the_file_tree() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    tree = page[page.index("src/frostline/\n") :]
    listed = set(re.findall(r"^  (\S+?)/?\s{2,}", tree, re.MULTILINE))
    present = {
        path.name
        for path in (ROOT / "src" / "frostline").iterdir()
        if not path.name.startswith("__") and path.name != "py.typed"
    }
    assert listed == present


def test_the_command_line_page_is_what_the_commands_say() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    assert cli.commands
    for name, command in cli.commands.items():
        assert f"## frostline {name}" in page
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.opts[0] in page, f"{name} {parameter.opts[0]}"


def pages() -> list[Path]:
    """What people read of how it is today: the log and decisions speak of their day."""
    return [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *set(ROOT.glob("docs/*.md")) - {ROOT / "docs/LOG.md"},
    ]


def test_every_command_in_the_docs_is_understood() -> None:
    lines = []
    for page in pages():
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL):
            lines += [line for line in block.splitlines() if re.search(r"(^|-m )frostline ", line)]
    assert len(lines) > 80
    for line in lines:
        words = shlex.split(line, comments=True)
        verb, *rest = words[words.index("frostline") + 1 :]
        command = cli.commands[verb]
        if verb == "cache" and isinstance(command, click.Group):
            command, rest = command.commands[rest[0]], rest[1:]
        options = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
        assert {word for word in rest if word.startswith("-")} - options == set(), line


def test_every_option_in_the_docs_exists() -> None:
    commands = [cli, *cli.commands.values()]
    commands += [
        one for group in commands if isinstance(group, click.Group) for one in group.commands.values()
    ]
    options = {
        name for one in commands for param in one.params for name in (*param.opts, *param.secondary_opts)
    }
    ours = {"--help", "--check"}  # click's, and infer.py's
    theirs = {"--nproc-per-node", "--nnodes", "--multi_gpu", "--slow", "--ecosystem", "--system"}
    theirs |= {"--measure", "--quick", "--part", "--cores", "--dry-run"}  # of benchmarks/
    for page in pages():
        named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", page.read_text()))
        assert named - options - ours - theirs == set(), page.name


def test_public_names() -> None:
    assert frostline.__all__ == sorted(frostline.__all__)
    for name in frostline.__all__:
        assert getattr(frostline, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = frostline.trian


def named_in(docstring: str | None) -> set[str]:
    """Return the names that the sections Parameters and Attributes of a numpydoc docstring explain."""
    lines = inspect.cleandoc(docstring or "").splitlines()
    heads = [at for at, (_, line) in enumerate(itertools.pairwise(lines)) if re.fullmatch("-{3,}", line)]
    names: set[str] = set()
    for start, end in itertools.pairwise([*heads, len(lines)]):
        if lines[start] in ("Parameters", "Attributes"):
            entries = [line for line in lines[start + 2 : end] if line and not line.startswith(" ")]
            names |= {name.lstrip("*") for entry in entries for name in entry.split(" : ")[0].split(", ")}
    return names


def unexplained(thing: Callable[..., object], bound: bool = False) -> list[str]:
    """Return the parameters that a docstring does not name; the first one of a method is left out."""
    parameters = list(inspect.signature(thing).parameters)[1 if bound else 0 :]
    return [name for name in parameters if name not in named_in(thing.__doc__)]


def methods(kind: type) -> Iterator[tuple[str, Callable[..., object], bool]]:
    """Yield the public methods that frostline defines for a class, and whether they have `self` or `cls`."""
    for base in kind.__mro__:
        if base.__module__.startswith("frostline"):
            for name, value in vars(base).items():
                inner = getattr(value, "__func__", value)
                if inspect.isfunction(inner) and not name.startswith("_"):
                    yield name, inner, not isinstance(value, staticmethod)


def test_every_parameter_of_a_public_name_is_explained() -> None:
    wrong = []
    for name in frostline.__all__:
        thing = getattr(frostline, name)
        if not (isinstance(thing, type) and issubclass(thing, Exception)):  # an exception takes its message
            wrong += [f"{name}: {parameter}" for parameter in unexplained(thing)]
        if isinstance(thing, type):
            for method, function, bound in methods(thing):
                wrong += [f"{name}.{method}: {parameter}" for parameter in unexplained(function, bound)]
    assert wrong == []


def test_a_parameter_that_is_not_explained_would_be_noticed() -> None:
    def documented(a: int, b: int, *, lr: float, **options: object) -> None:
        """Do.

        Parameters
        ----------
        a, b : int
            Numbers, such as lr : 1.
        **options
            Others.

        Returns
        -------
        lr : float
        """

    assert unexplained(documented) == ["lr"]
    assert named_in("Do.\n\nArgs:\n    lr: The rate.\n") == named_in(None) == set()


def test_every_dependency_has_a_reason() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    reasons = (ROOT / "docs" / "decisions" / "0001-dependencies.md").read_text()
    names = [re.split(r"[><=]", line)[0] for line in project["dependencies"]]
    assert names
    assert [name for name in names if name not in reasons] == []
