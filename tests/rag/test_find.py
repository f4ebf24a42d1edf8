"""Which files are read, under which names, in which order."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from mlxrag.errors import NotFound
from mlxrag.rag.find import find_files, source_roots, wanted
from mlxrag.settings import Reading


def tree(root: Path, *names: str) -> Path:
    """Write empty files below a folder."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def sources(*paths: Path, **reading: tuple[str, ...]) -> list[str]:
    """The sources that are found, faults in brackets."""
    return [file.source + (f" [{file.fault}]" if file.fault else "") for file in find_files(paths, Reading(**reading))]


def test_sources_are_sorted_and_named_from_the_root(tmp_path: Path) -> None:
    """Sources begin with the root's name and come in order, folders among files."""
    names = ["b.md", "a/z.md", "a.md", "a-b.md", "a/b/c.md", "c/d.md", "B.md"]
    random.Random(0).shuffle(names)
    found = sources(tree(tmp_path / "docs", *names))
    assert found == sorted(f"docs/{name}" for name in names)


def test_hidden_and_foreign_folders_are_passed_over(tmp_path: Path) -> None:
    """Hidden files, dependencies and virtual environments are not read, but a path given by itself is."""
    root = tree(
        tmp_path / "docs",
        "ok.md",
        "~$ok.docx",
        ".git/x.md",
        ".hidden.md",
        "node_modules/x.md",
        "env/pyvenv.cfg",
        "env/x.md",
    )
    assert sources(root) == ["docs/ok.md"]
    assert sources(root / ".hidden.md") == ["docs/.hidden.md"]


def test_globs(tmp_path: Path) -> None:
    """Globs choose by name, by path and by folder."""
    root = tree(tmp_path / "docs", "a.md", "b.txt", "drafts/c.md", "x/drafts/d.md", "x/e.md")
    assert sources(root, include=("*.md",)) == ["docs/a.md", "docs/drafts/c.md", "docs/x/drafts/d.md", "docs/x/e.md"]
    assert sources(root, exclude=("drafts",)) == ["docs/a.md", "docs/b.txt", "docs/x/e.md"]
    assert sources(root, include=("x/*",), exclude=("x/drafts/",)) == ["docs/x/e.md"]
    assert wanted("a/b.md", Reading(include=("a/*.md",))) and not wanted("b/a.md", Reading(include=("a/*.md",)))


def test_file_and_folder_agree_on_the_source(tmp_path: Path) -> None:
    """A file given by itself is called as it is when its folder is given."""
    root = tree(tmp_path / "docs", "a.md", "b.md")
    assert sources(root / "b.md") == ["docs/b.md"]
    assert sources(root, root / "b.md") == ["docs/a.md", "docs/b.md"]


def test_roots_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """Two folders of the same name get the folders above them into their sources."""
    one, two = tree(tmp_path / "one" / "docs", "a.md"), tree(tmp_path / "two" / "docs", "a.md")
    assert sources(one, two) == ["one/docs/a.md", "two/docs/a.md"]
    assert source_roots([one, one / "."]) == [(one, "docs")]


def test_missing_paths_are_named_at_once(tmp_path: Path) -> None:
    """All paths that do not exist are named before anything is read, with the nearest name."""
    root = tree(tmp_path / "docs", "handbook.md")
    with pytest.raises(NotFound, match=r"handbok\.md: no such file or folder; did you mean 'handbook.md'\?; .*nowhere"):
        find_files([root / "handbok.md", tmp_path / "nowhere" / "x"], Reading())


def test_links(tmp_path: Path) -> None:
    """Links are followed; circles, broken links and links to themselves become faults."""
    root, other = tree(tmp_path / "docs", "sub/a.md"), tree(tmp_path / "other", "b.md")
    (root / "away").symlink_to(other)
    (root / "sub" / "up").symlink_to("..")
    (root / "broken.md").symlink_to("nothing.md")
    (root / "self.md").symlink_to("self.md")
    assert sources(root) == [
        "docs/away/b.md",
        "docs/broken.md [a link to a file that does not exist]",
        "docs/self.md [a link that leads to itself]",
        "docs/sub/a.md",
        "docs/sub/up [a link to a folder it lies in]",
    ]


def test_two_links_into_each_other_end(tmp_path: Path) -> None:
    """Two folders that link into each other are read once and reported."""
    one, two = tree(tmp_path / "docs" / "one", "a.md"), tree(tmp_path / "docs" / "two", "b.md")
    (one / "two").symlink_to(two)
    (two / "one").symlink_to(one)
    found = sources(tmp_path / "docs")
    assert [source for source in found if "[" not in source] == [
        "docs/one/a.md", "docs/one/two/b.md", "docs/two/b.md", "docs/two/one/a.md",
    ]  # fmt: skip


def test_pipes_are_not_opened(tmp_path: Path) -> None:
    """A named pipe is a fault and does not make anyone wait."""
    os.mkfifo(tmp_path / "pipe.txt")
    assert sources(tmp_path)[0].endswith("[not a regular file (a pipe, socket or device)]")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list everything")
def test_folders_that_may_not_be_listed(tmp_path: Path) -> None:
    """A folder without permission is a fault."""
    (tmp_path / "shut").mkdir(mode=0)
    assert "cannot be listed" in sources(tmp_path)[0]
