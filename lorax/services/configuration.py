"""supervisord.conf: the programs of a folder as supervisord reads them, and the socket by which it is asked."""

from __future__ import annotations

import configparser
import hashlib
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lorax.services import orphans
from lorax.services.orphans import SERVICE_VARIABLE


@dataclass(frozen=True)
class Program:
    """What supervisord keeps alive: this Python with `arguments`, in `folder`.

    `environment` is what it has beyond the others: variable -> the variable of supervisord's own environment that holds
    its value, since addresses have passwords in them and the configuration is a file. What has the higher `priority` is
    started later and stopped earlier, before what it needs; `stop_signal` is how it is asked to stop.
    """

    name: str
    arguments: tuple[str, ...]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    priority: int = 100
    stop_signal: str = "TERM"


def read_config(folder: Path) -> configparser.RawConfigParser:
    """What the folder's supervisord was last told; empty where it never was."""
    config = configparser.RawConfigParser()
    config.read(folder / "supervisord.conf")
    return config


def write_config(folder: Path, config: configparser.RawConfigParser) -> None:
    """Have it read this from now on."""
    temporary = folder / "supervisord.conf.tmp"
    with temporary.open("w") as file:
        config.write(file)
    temporary.replace(folder / "supervisord.conf")


def base_config(folder: Path) -> configparser.RawConfigParser:
    """That of a supervisord without programs."""
    config = configparser.RawConfigParser()
    config["supervisord"] = {
        "logfile": "logs/supervisord.log",  # relative: supervisord is started inside the folder, whatever its name
        "logfile_maxbytes": "1MB",
        "logfile_backups": "2",
        "pidfile": "supervisord.pid",
        "childlogdir": "logs",
        **({"user": "root"} if os.getuid() == 0 else {}),  # or it warns
    }
    config["unix_http_server"] = {"file": _escaped(str(_fresh_socket_path(folder))), "chmod": "0700"}
    factory = "supervisor.rpcinterface:make_main_rpcinterface"
    config["rpcinterface:supervisor"] = {"supervisor.rpcinterface_factory": factory}
    return config


def section(program: Program) -> dict[str, str]:
    """One program; a crash loop is slowed down, and given up after half an hour."""
    guard = (sys.executable, "-P", str(Path(orphans.__file__).resolve()))
    command = (*guard, sys.executable, *program.arguments)
    variables = {SERVICE_VARIABLE: _escaped(program.name)}
    variables |= {name: f"%(ENV_{source})s" for name, source in program.environment.items()}
    return {
        # inside quotes, where they must be, these two would begin a comment behind a space
        "command": _escaped(re.sub(r"(?<=\s)([#;])", r"''\1", shlex.join(command))),
        "directory": program.folder.name,
        "environment": ",".join(f'{name}="{value}"' for name, value in variables.items()),
        "priority": str(program.priority),
        "autorestart": "true",
        "startsecs": "10",
        "startretries": "60",
        "stopasgroup": "true",
        "killasgroup": "true",
        "stopsignal": program.stop_signal,
        "stopwaitsecs": "15",
        "redirect_stderr": "true",
        "stdout_logfile": f"logs/{program.name}.log",
        "stdout_logfile_maxbytes": "5MB",
        "stdout_logfile_backups": "3",
    }


def socket_path(folder: Path) -> Path:
    """The socket that the configuration names, whatever TMPDIR is by now; not that of a folder it was copied from."""
    fresh = _fresh_socket_path(folder)
    config = read_config(folder)
    written = Path(config.get("unix_http_server", "file", fallback=str(fresh)).replace("%%", "%"))
    return written if written.parent.name == fresh.parent.name else fresh


def _fresh_socket_path(folder: Path) -> Path:
    digest = hashlib.sha256(str(folder).encode()).hexdigest()[:12]
    base = tempfile.gettempdir()
    return Path(base if len(base) < 60 else "/tmp") / f"lorax-{os.getuid()}-{digest}" / "control"


def _escaped(text: str) -> str:
    """As supervisord's configuration wants it, where '%' begins an expansion."""
    return text.replace("%", "%%")
