"""A worker's checkout: brought up to what its upstream has, and known to hold what an event speaks of."""

from __future__ import annotations

from lorax.data import landing, repository, transaction, upstream, versions
from lorax.errors import DataVersionError
from lorax.workspace import Workspace


def bring_up_to_date(workspace: Workspace) -> bool:
    """Fetch and join what the upstream has, where the branch follows one; returns whether it does.

    Raises:
        DataVersionError: the upstream can't be reached, or what it has can't be joined.
    """
    if not repository.has_upstream(workspace.root):
        return False
    upstream.fetch(workspace)
    with landing.one_at_a_time(workspace):  # which commits in this checkout, too
        transaction.roll_back(workspace)
        upstream.join(workspace)
    return True


def holds(workspace: Workspace, commit: str, digest: str) -> bool:
    """Whether a landing is part of the checkout.

    Args:
        workspace: whose checkout.
        commit: the landing's commit; '' if it was not committed.
        digest: data.dvc's after the landing; '' if not known.
    """
    if commit:
        return repository.holds(workspace.root, commit)
    return digest in ("", versions.revision(workspace).digest)


def check_holds(workspace: Workspace, commit: str, digest: str) -> None:
    """Make sure that a landing is part of the checkout.

    Raises:
        DataVersionError: it is not.
    """
    if not holds(workspace, commit, digest):
        found = versions.revision(workspace)
        raise DataVersionError(
            f"{workspace.root} lacks the landing that it is to learn: expected commit {commit or 'any'} with data "
            f"{digest or 'of any digest'}, found data {found.digest or 'none'} at {found.commit or 'no commit'}. "
            "'git push' it where it landed, and see that this checkout's branch follows that upstream."
        )
