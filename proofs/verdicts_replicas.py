"""Three `lorax serve` behind nginx under load on loopback: alias moved, servers drained, killed and started again.

nginx runs with deploy/nginx.conf, but for its ports (`apt-get install nginx wrk`). Load is made by wrk, and by a few
clients that keep a connection each and look at the versions that answer on it.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lorax.serving.requests import HEALTH, VERDICTS
from proofs.bench import environment, free_port, lorax, start_lorax, versions, wait_for
from proofs.verdicts_serve import BOUNDARY, checked, form_of, point, write_script
from proofs.verdicts_server import HOME, PATIENCE_S, images_of, workspace_of_two

SECONDS = float(os.environ.get("REPLICAS_SECONDS", "300"))
REPLICAS, MOVES, CLIENTS, WATCHED = 3, 20, 32, 4
CONFIGURATION = Path(__file__).parents[1] / "deploy/nginx.conf"


@dataclass
class Replica:
    """A `lorax serve` at a port of its own."""

    root: Path
    port: int
    process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        log = HOME / f"replica-{self.port}.log"
        environment_of = environment({"PYTHONUNBUFFERED": "1"})
        self.process = start_lorax("serve", "--port", str(self.port), cwd=self.root, log=log, env=environment_of)

    def stop(self, how: signal.Signals) -> float:
        """Seconds until it had ended."""
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(how)
        self.process.wait(PATIENCE_S)
        return time.monotonic() - began

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{HEALTH}", timeout=10) as answer:
                return bool(json.load(answer)["ready"])
        except (urllib.error.URLError, ConnectionError):
            return False


@dataclass
class Watch:
    """Clients that keep their connection and look at the versions of its answers, against where the alias has been."""

    port: int
    form: bytes
    alias: list[int]
    failed: list[str] = field(default_factory=list)
    back: list[str] = field(default_factory=list)
    answers: int = 0
    _over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        headers, move = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}, 0
        while not self._over.is_set():
            try:
                connection.request("POST", VERDICTS, self.form, headers)
                answer = connection.getresponse()
                body = json.loads(answer.read())
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.failed.append(repr(error))
                connection.close()  # the next one is another connection, which begins anew
                move = 0
                continue
            if answer.status != 200:
                self.failed.append(f"status {answer.status}")
                continue
            self.answers += 1
            said = body["results"][0]["model"]["version"]
            later = next((at for at in range(move, len(self.alias)) if self.alias[at] == said), None)
            if later is None:
                self.back.append(f"version {said} after move {move} of {len(self.alias) - 1}")
            else:
                move = later
            time.sleep(0.02)

    @contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=self.run) for _ in range(WATCHED)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join()


@contextmanager
def proxy(ports: list[int]) -> Iterator[int]:
    """nginx in front of servers at these ports; gives its own."""
    folder, own = HOME / "nginx", free_port()
    folder.mkdir(parents=True, exist_ok=True)
    text = CONFIGURATION.read_text()
    for shipped, port in zip((8000, 8001, 8002, 8003), (own, *ports), strict=True):
        text = text.replace(f"127.0.0.1:{shipped}", f"127.0.0.1:{port}")
    text = text.replace("access_log off;", f"access_log off; client_body_temp_path {folder}/bodies;")
    path = folder / "nginx.conf"
    path.write_text(f"pid {folder}/nginx.pid;\nerror_log {folder}/error.log;\ndaemon off;\nmaster_process off;\n{text}")
    process = subprocess.Popen(["nginx", "-p", str(folder), "-c", str(path)])
    try:
        wait_for(lambda: Replica(folder, own).is_ready(), PATIENCE_S, "nginx does not answer")
        yield own
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def prove_replicas() -> bool:
    """No request fails, and no version goes back on a connection, while the alias moves and servers come and go."""
    if shutil.which("wrk") is None or shutil.which("nginx") is None:
        print("wrk and nginx are needed: apt-get install nginx wrk")
        return False
    root = workspace_of_two()
    try:
        return _under_load(root)
    finally:
        lorax("down", cwd=root)


def _under_load(root: Path) -> bool:
    old, new = (row["version"] for row in versions(root)[-2:])
    point(root, new)
    script, form, log = write_script(root), form_of(images_of(root, 2)[0]), HOME / "replicas.log"
    replicas = [Replica(root, free_port()) for _ in range(REPLICAS)]
    drained: list[float] = []
    killed = 0
    try:
        for replica in replicas:
            replica.start()
        wait_for(lambda: all(replica.is_ready() for replica in replicas), PATIENCE_S, "not all servers are ready")
        with proxy([replica.port for replica in replicas]) as port:
            watch = Watch(port, form, [new])
            command = ["wrk", "-t1", f"-c{CLIENTS}", "-d3600s", "--timeout", "120s", "--latency", "-s", str(script),
                       f"http://127.0.0.1:{port}{VERDICTS}"]  # fmt: skip
            with log.open("w") as out:
                load = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
            began = time.monotonic()
            try:
                with watch.running():
                    for step in range(MOVES):
                        target = old if step % 2 == 0 else new
                        watch.alias.append(target)  # before it moves: nobody can be ahead of it
                        point(root, target)
                        time.sleep(SECONDS / MOVES / 2)
                        replica = replicas[step // 2 % REPLICAS]
                        if step % 2 == 0:
                            wait_for(lambda: all(map(Replica.is_ready, replicas)), PATIENCE_S, "one is not back")
                            how = signal.SIGKILL if step % 4 == 2 else signal.SIGTERM
                            seconds = replica.stop(how)
                            drained += [seconds] if how == signal.SIGTERM else []
                            killed += how == signal.SIGKILL
                            replica.start()
                        time.sleep(max(0.0, began + SECONDS * (step + 1) / MOVES - time.monotonic()))
            finally:
                load.send_signal(signal.SIGINT)
                load.wait()
            lasted = time.monotonic() - began
    finally:
        for replica in replicas:
            if replica.process is not None and replica.process.poll() is None:
                replica.stop(signal.SIGTERM)
    text = log.read_text()
    answered, refused, wrong = checked(text)
    errors = re.search(r"Socket errors: .*", text)
    print(f"{lasted:.0f} s, {REPLICAS} servers, {CLIENTS} + {WATCHED} clients: {MOVES} moves of the alias, "
          f"{len(drained)} servers drained (in {statistics.median(drained):.1f} s), {killed} killed")  # fmt: skip
    print(f"wrk: {answered} answered, {refused} refused, {errors[0] if errors else 'no socket errors'}; with the "
          f"classes of another version than they name: {wrong}")  # fmt: skip
    print(f"watched connections: {watch.answers} answered, {len(watch.failed)} failed {sorted(set(watch.failed))[:3]}, "
          f"{len(watch.back)} went back {watch.back[:3]}")  # fmt: skip
    return answered > 0 and not (refused or wrong or errors or watch.failed or watch.back)
