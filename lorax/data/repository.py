"""What is done with a workspace's git repository and DVC repository: made, asked and committed to."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lorax.data.commands import checked_commit, dvc, git, git_says
from lorax.errors import DataVersionError

_DVC_CONFIG = """\
[core]
    analytics = false
    autostage = false
    check_update = false
"""  # autostage would put data.dvc into the user's index; the other two call out of the machine


def create_repository(root: Path) -> None:
    """Make `root` a git repository of its own and a DVC repository; what is there already stays. Commits nothing.

    Raises:
        DataVersionError: git or DVC refused.
    """
    root.mkdir(parents=True, exist_ok=True)
    if not (root / ".git").exists():
        git(root, "init", "--quiet", "--initial-branch=main")
    if not (root / ".dvc").exists():
        dvc(root, "init")
        (root / ".dvc" / "config").write_text(_DVC_CONFIG)
        git(root, "add", "--force", ".dvc/config")


def set_remote(root: Path, url: str) -> None:
    """Make `url` (a folder, or any address that DVC knows) the default place that DVC pushes to.

    Raises:
        DataVersionError: DVC refused.
    """
    dvc(root, "remote", "add", "--force", "--default", "storage", url)


def push_data(root: Path) -> None:
    """Push what data.dvc pins to DVC's default remote.

    Raises:
        DataVersionError: DVC refused.
    """
    dvc(root, "push", "data.dvc")


def check_git(root: Path) -> None:
    """Find out early whether commits can work at all.

    Raises:
        DataVersionError: git is missing, or `root` is in no git repository.
    """
    git(root, "rev-parse", "--git-dir")


def head(root: Path, of: str = "HEAD") -> str:
    """The commit that is checked out, or that another name stands for.

    Raises:
        DataVersionError: there is none.
    """
    return checked_commit(git(root, "rev-parse", "--verify", f"{of}^{{commit}}"))


def last_commit(root: Path, path: str) -> str | None:
    """The last commit that touched `path`; None if there is none.

    Raises:
        DataVersionError: git's answer is no commit's name.
    """
    found = git_says(root, "rev-list", "-1", "HEAD", "--", path)
    return checked_commit(found) if found else None


def commits_about(root: Path, path: str, text: str) -> list[str]:
    """The commits that brought or removed a text in the file at `path`, newest first.

    Raises:
        DataVersionError: git's answer is no commit's name.
    """
    found = git_says(root, "log", "--format=%H", f"-S{text}", "--", path) or ""
    return [checked_commit(commit) for commit in found.split()]


def first_commit(root: Path) -> str | None:
    """The commit that the history begins with; None if there is none."""
    found = git_says(root, "rev-list", "--max-parents=0", "HEAD")
    return checked_commit(found.split()[-1]) if found else None


def committed_text(root: Path, path: str, commit: str = "HEAD") -> str | None:
    """What `commit` holds at `path` (relative to `root`); None if it has nothing there, or nothing is committed yet.

    Raises:
        DataVersionError: git can't read it, or `root` is in no git repository.
    """
    found = git_says(root, "rev-parse", "--verify", "--quiet", f"{commit}:./{path}")
    if found is None:
        check_git(root)
        return None
    return git(root, "cat-file", "blob", checked_commit(found))


def is_tracked(root: Path, path: str) -> bool:
    """Whether git's HEAD holds `path`, with whatever bytes."""
    return git_says(root, "rev-parse", "--verify", "--quiet", f"HEAD:./{path}") is not None


def is_committed(root: Path, path: str) -> bool:
    """Whether git's HEAD holds `path` with the bytes that it has now."""
    known = git_says(root, "rev-parse", "--verify", "--quiet", f"HEAD:./{path}")
    return known is not None and (root / path).is_file() and known == git_says(root, "hash-object", "--", path)


def commit(root: Path, paths: Sequence[str], message: str) -> None:
    """Commit `paths` as they are on disk, and nothing else: what the user has staged stays staged, uncommitted.

    They are committed even if the user's git ignores such files. Where git knows no author, as in a bare container, the
    commit is made in the name of "lorax".

    Raises:
        DataVersionError: git refused; its index is as before.
        StorageError: the disk is full; git's index is as before.
    """
    new = [path for path in paths if git_says(root, "ls-files", "--error-unmatch", "--", path) is None]
    try:
        if new:
            git(root, "add", "--force", "--intent-to-add", "--", *new)
        git(root, *identity(root), "commit", "--quiet", "--only", "-m", message, "--", *paths)
    except BaseException:
        for path in new:
            if not is_tracked(root, path):  # unless committed after all
                git_says(root, "update-index", "--force-remove", "--", path)
        raise
    absent = [path for path in paths if not is_tracked(root, path)]
    if absent:
        raise DataVersionError(
            f"git committed in {root}, but the commit lacks {', '.join(absent)}. Does a hook do that?"
        )


def mend_index(root: Path, path: str) -> None:
    """Have git's index hold `path` as HEAD and the disk do: a commit that is killed may have moved HEAD alone.

    Left as it was, the index would take the file back to what it was before with the next commit that a person makes.

    Raises:
        DataVersionError: git refused.
    """
    if is_committed(root, path) and git_says(root, "diff", "--cached", "--quiet", "--", path) is None:
        git(root, "add", "--force", "--", path)


@contextmanager
def index_beside(folder: Path) -> Iterator[dict[str, str]]:
    """The environment variable that gives git commands an index of their own, which lies in `folder` for the block."""
    with tempfile.TemporaryDirectory(dir=folder) as own:
        yield {"GIT_INDEX_FILE": str(Path(own, "index"))}


def put_text(root: Path, path: str, text: str | None, index: dict[str, str]) -> None:
    """Have an index hold a text at `path` (relative to `root`); None: have it hold nothing there.

    Raises:
        DataVersionError: git refused.
    """
    place = git(root, "rev-parse", "--show-prefix") + path
    top = Path(git(root, "rev-parse", "--show-toplevel"))
    if text is None:
        git(top, "update-index", "--force-remove", place, also=index)
    else:
        blob = git(root, "hash-object", "-w", "--stdin", text=text)
        git(top, "update-index", "--add", "--cacheinfo", f"100644,{blob},{place}", also=index)


def commit_tree(root: Path, tree: str, parents: Sequence[str], message: str) -> str:
    """Make a commit of a tree that is in git already, beside what is checked out; returns its name.

    Raises:
        DataVersionError: git refused.
    """
    signed = ["-S"] if git_says(root, "config", "--type=bool", "commit.gpgSign") == "true" else []
    after = [word for parent in parents for word in ("-p", parent)]
    return checked_commit(git(root, *identity(root), "commit-tree", *signed, *after, "-m", message, tree))


def identity(root: Path) -> tuple[str, ...]:
    """git's options that name an author where git knows none."""
    if git_says(root, "var", "GIT_COMMITTER_IDENT") is not None:
        return ()
    return ("-c", "user.name=lorax", "-c", "user.email=lorax@localhost")


def has_upstream(root: Path) -> bool:
    """Whether the branch follows another one."""
    return git_says(root, "rev-parse", "--verify", "--quiet", "@{upstream}^{commit}") is not None


def holds(root: Path, commit: str, inside: str = "HEAD") -> bool:
    """Whether `commit` is part of the history of `inside`, what is checked out if not told."""
    return git_says(root, "merge-base", "--is-ancestor", commit, inside) is not None
