"""The error tree: one root, one child per kind, each also a standard exception.

    LoraxError
    ├── ParamsError        (ValueError)    params.yaml or a sweep's file holds a key or value that the schema refuses
    ├── WorkspaceError     (RuntimeError)  the command was run outside a workspace, or the workspace is unusable
    ├── LayoutError        (ValueError)    a data set is not in CDDB's layout, or a name is unsafe
    ├── ContractError      (ValueError)    a data set does not fulfil the landing contract
    ├── ImageError         (ValueError)    an image file can't be decoded
    ├── DataVersionError   (RuntimeError)  DVC or git refused, or pinned bytes can't be found
    ├── BackboneError      (ValueError)    unknown backbone, weights that don't fit, LoRA targets that match nothing
    ├── StateError         (ValueError)    a learner state is damaged, unknown or doesn't fit the backbone
    ├── AdapterError       (ValueError)    a LoRA file is damaged, no plain LoRA, or doesn't fit the atlas
    ├── AtlasError         (RuntimeError)  an atlas is damaged, unknown, in use, or doesn't hold what was asked for
    ├── RegistryError      (RuntimeError)  MLflow is unreachable or doesn't hold what was asked for
    ├── ScoringError       (RuntimeError)  what is to be scored is not there, its verdicts are another's, or Ray failed
    ├── ServiceError       (RuntimeError)  a server did not start, stop or answer
    ├── ExtraError         (ImportError)   what only some commands need is not installed
    └── StorageError       (OSError)       the disk is full or refuses to be written

A message says what was found, what was expected, where, and what to do; a stranger's name in it is `printable`.
"""


class LoraxError(Exception):
    """Root of every error that the user can mend; the command line prints it as one clear line."""


class ParamsError(LoraxError, ValueError):
    """params.yaml (or an override), or a sweep's file, holds something that the schema refuses."""


class WorkspaceError(LoraxError, RuntimeError):
    """The command needs a workspace and was not given a usable one."""


class LayoutError(LoraxError, ValueError):
    """A data set is not laid out as CDDB is, or a name is unsafe as a path or key."""


class ContractError(LoraxError, ValueError):
    """A data set does not fulfil the landing contract; every finding is named."""


class ImageError(LoraxError, ValueError):
    """At least one image file can't be decoded."""


class DataVersionError(LoraxError, RuntimeError):
    """DVC or git refused, or bytes that a revision pins can't be found."""


class BackboneError(LoraxError, ValueError):
    """The backbone, its weights or its LoRA targets don't fit together."""


class StateError(LoraxError, ValueError):
    """A learner state is damaged, of an unknown format, or doesn't fit the backbone at hand."""


class AdapterError(LoraxError, ValueError):
    """An adapter's file is damaged, no plain LoRA, or doesn't fit the atlas."""


class AtlasError(LoraxError, RuntimeError):
    """An atlas is damaged, unknown, in use, or doesn't hold what was asked for."""


class RegistryError(LoraxError, RuntimeError):
    """MLflow can't be reached, or doesn't hold what was asked for."""


class ScoringError(LoraxError, RuntimeError):
    """A collection can't be scored: there is none, the folder holds other verdicts, or Ray fails."""


class ServiceError(LoraxError, RuntimeError):
    """A server did not start, stop or answer."""


class ExtraError(LoraxError, ImportError):
    """What only some commands need is not installed; the message says which of this package's extras brings it."""


class StorageError(LoraxError, OSError):
    """The disk is full, or refuses to be written."""


def printable(text: str) -> str:
    """What a message can name: `text` without what would break its line, move a terminal's cursor or colour it.

    Names of files may hold all that, and bytes that are no text.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
