"""What a checkout shares with others: git's upstream, fetched before a landing and pushed to after it.

Where both sides have landed, the two streams become one (`merging`): in a commit that is made beside the checkout and
to which this is then fast-forwarded, so that a killed process leaves no merge half done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lorax.data import pins, repository, versions
from lorax.data.commands import checked_commit, git, git_says, run
from lorax.data.merging import merged
from lorax.errors import DataVersionError
from lorax.storage import locked, write_whole
from lorax.workspace import Workspace

_MESSAGE = "Join what landed here and in the upstream"
_BUSY = ("lock", "failed to update ref", "incorrect old value")
_TRIES = 5


@dataclass(frozen=True)
class Upstream:
    """The branch that the checked-out one follows: `ref` of the repository `remote`."""

    remote: str
    ref: str


def find(root: Path) -> Upstream | None:
    """The upstream of the branch that is checked out; None if it follows none that was ever fetched."""
    branch = git_says(root, "symbolic-ref", "--quiet", "HEAD")
    if branch is None or not repository.has_upstream(root):
        return None
    form = "%(upstream:remotename)%00%(upstream:remoteref)"
    return Upstream(*git(root, "for-each-ref", f"--format={form}", branch).split("\0"))


def fetch(workspace: Workspace) -> None:
    """`git fetch`: learn what the upstream has; the checkout stays as it is.

    A clone of the newest commit only, as Prefect makes it, gets the older ones too: landings may be among them.

    Raises:
        DataVersionError: git refused, or the upstream can't be reached.
    """
    root = workspace.root
    with locked(workspace.work_dir / "fetch.lock"):  # of two at once, git lets one fail
        is_shallow = git(root, "rev-parse", "--is-shallow-repository") == "true"
        git(root, "fetch", "--quiet", *(["--unshallow"] if is_shallow else []))


def newest_landing(root: Path) -> str | None:
    """The upstream's newest commit that touches data.dvc and that the checkout lacks; None if there is none."""
    found = git_says(root, "rev-list", "-1", "HEAD..@{upstream}", "--", pins.NAME)
    return checked_commit(found) if found else None


def unpushed(workspace: Workspace) -> list[str]:
    """The tasks that have landed here and that the upstream, as of the last fetch, has not, or not with these bytes."""
    if not repository.has_upstream(workspace.root):
        return []
    theirs = pins.committed(workspace, "@{upstream}").stream
    ours = pins.committed(workspace).stream if git_says(workspace.root, "rev-list", "-1", "@{upstream}..HEAD") else ()
    return [task.name for task in ours if task not in theirs]


def is_up_to_date(root: Path) -> bool:
    """Whether the checkout holds all that the upstream had at the last fetch."""
    return repository.holds(root, "@{upstream}")


def push(root: Path, upstream: Upstream) -> str:
    """Push the checkout's commits; returns what git said where that was refused, else ''."""
    done = run(["git", "push", "--porcelain", upstream.remote, f"HEAD:{upstream.ref}"], root)
    if done.returncode == 0:
        return ""
    why = [line.split("\t")[-1] for line in done.stdout.splitlines() if line.startswith("!")]
    told = [line.removeprefix("remote:").strip() for line in done.stderr.splitlines() if line.startswith("remote:")]
    return ": ".join([*why, " ".join(filter(None, told))] if told else why) or done.stderr.strip()


def publish(workspace: Workspace, on_moved: Callable[[], None]) -> None:
    """Push data, then commits: a commit that others can see must not name bytes that they can't have.

    Who was overtaken joins what the others landed and tries again. What stays unpushed is remembered, with the reason.

    Args:
        workspace: whose.
        on_moved: called after others' commits were fetched and before they are joined.

    Raises:
        DataVersionError: it can't be pushed; what is committed stays so.
    """
    root, upstream, busy = workspace.root, find(workspace.root), 0
    note = _note(workspace)
    try:
        while said := _push_all(workspace, upstream):
            assert upstream is not None
            fetch(workspace)
            if is_up_to_date(root):
                busy += 1
                if busy == _TRIES or not any(sign in said for sign in _BUSY):
                    raise DataVersionError(_refused(upstream, said))
                time.sleep(busy)  # another's push was just being taken
            else:
                on_moved()
                join(workspace)
    except DataVersionError as error:
        write_whole(note, str(error))
        raise
    note.unlink(missing_ok=True)


def why_unpushed(workspace: Workspace) -> str:
    """What the last push that failed said; '' if none did, or if the upstream has it all by now."""
    note, root = _note(workspace), workspace.root
    is_over = not note.exists() or (repository.has_upstream(root) and repository.holds(root, "HEAD", "@{upstream}"))
    return "" if is_over else note.read_text(errors="replace")


def _note(workspace: Workspace) -> Path:
    return workspace.work_dir / "landing" / "not-pushed.txt"


def _push_all(workspace: Workspace, upstream: Upstream | None) -> str:
    """What git said where it refused; '' if all is pushed."""
    if versions.default_remote(workspace) is not None:
        repository.push_data(workspace.root)
    return push(workspace.root, upstream) if upstream else ""


def _refused(upstream: Upstream, said: str) -> str:
    branch = upstream.ref.removeprefix("refs/heads/")
    told = f"'git push' to {branch} of {upstream.remote} was refused: {said}."
    if "[remote rejected]" not in said:
        return told
    return (
        f"{told} Where {branch} is protected, push to another branch and have that one merged: 'git push "
        f"{upstream.remote} HEAD:refs/heads/landed'. Later landings, and the worker, go on from what was merged; "
        "meanwhile it is learned here."
    )


def join(workspace: Workspace) -> None:
    """Give the checkout all that the upstream had at the last fetch, beside its own; the landings' lock is held.

    Raises:
        DataVersionError: a task landed on both sides with other bytes, another file was changed on both sides, or a
            changed file is in the way.
    """
    if not is_up_to_date(workspace.root):
        bring_in(workspace, repository.head(workspace.root, "@{upstream}"))


def bring_in(workspace: Workspace, theirs: str) -> None:
    """Give the checkout all that a commit has, beside its own; the landings' lock is held.

    Raises:
        DataVersionError: as for `join`.
    """
    root, ours = workspace.root, repository.head(workspace.root)
    target = theirs if repository.holds(root, ours, theirs) else _joined(workspace, theirs, ours)
    _check_no_draft(workspace, target)
    if repository.holds(root, ours, target):
        git(root, "merge", "--quiet", "--ff-only", target)
    else:  # all that is ours has come back from the upstream in another commit, as after a review
        move(root, ours, target)


@contextmanager
def taken_back(root: Path, head: str, on_error: type[Exception]) -> Iterator[None]:
    """Have the branch lead to `head` again if the block raises `on_error`."""
    try:
        yield
    except on_error:
        move(root, repository.head(root), head)
        raise


def move(root: Path, old: str, new: str) -> None:
    """Have the branch lead to `new` instead of `old`; changed and staged files stay so.

    Raises:
        DataVersionError: a changed file is in the way.
    """
    git(root, "read-tree", "-m", "-u", old, new)
    git(root, "update-ref", "-m", "lorax", "HEAD", new, old)


def _check_no_draft(workspace: Workspace, target: str) -> None:
    root = workspace.root
    ours, theirs = (repository.committed_text(root, pins.NAME, commit) for commit in ("HEAD", target))
    if ours == theirs or not workspace.data_dvc_path.exists() or repository.is_committed(root, pins.NAME):
        return
    if ours is not None and workspace.data_dvc_path.read_text() == theirs:
        git(root, "checkout", "--quiet", "HEAD", "--", pins.NAME)  # a fast-forward was killed
        return
    raise DataVersionError(
        f"{workspace.data_dvc_path} is not as committed, and something else is to become of it. Commit it ('git commit "
        "data.dvc'), or take it back ('git checkout data.dvc'), and try again."
    )


def _joined(workspace: Workspace, theirs: str, ours: str) -> str:
    """A commit that has all of both; `theirs` itself where ours adds nothing."""
    root = workspace.root
    base = git_says(root, "merge-base", ours, theirs)
    if base is None:
        raise DataVersionError(f"{root} and its upstream have no commit in common. Clone the upstream anew.")
    with repository.index_beside(workspace.work_dir) as index:
        git(root, "read-tree", "-i", "-m", "--aggressive", base, theirs, ours, also=index)
        _settle(workspace, (base, theirs, ours), index)
        tree = git(root, "write-tree", also=index)
    if tree == git(root, "rev-parse", f"{theirs}^{{tree}}"):
        return theirs
    return repository.commit_tree(root, tree, (theirs, ours), _MESSAGE)


def _settle(workspace: Workspace, commits: tuple[str, str, str], index: dict[str, str]) -> None:
    """Merge data.dvc in an index where both sides changed it."""
    root = workspace.root
    place = git(root, "rev-parse", "--show-prefix") + pins.NAME
    top = Path(git(root, "rev-parse", "--show-toplevel"))
    lines = git(top, "ls-files", "-z", "--unmerged", also=index).split("\0")
    torn = sorted({line.partition("\t")[2] for line in lines if line})
    if others := [path for path in torn if path != place]:
        names = ", ".join(others)
        raise DataVersionError(
            f"{names}: changed both here and in the upstream. Make it the upstream's ('git checkout @{{upstream}} -- "
            f"{others[0]}', then 'git commit'), run the command again, and then change it again."
        )
    if torn:
        base, theirs, ours = (pins.committed(workspace, commit) for commit in commits)
        repository.put_text(root, pins.NAME, merged(workspace, base, theirs, ours), index)
