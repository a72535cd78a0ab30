"""`lorax serve` under load on loopback, against calling the network directly; the champion moved under load.

The load is made by wrk (`apt-get install wrk`), which shares the machine's cores with the server; the direct calls have
them for themselves.
"""

from __future__ import annotations

import json
import re
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lorax.params import load_params
from proofs.bench import ask_mlflow, lorax, versions, wait_for
from proofs.verdicts_server import HOME, PATIENCE_S, Running, images_of, model_of, serving, workspace_of_two

ROUNDS, SECONDS, CLIENTS, MOVES, CROWD = 5, 8, 64, 20, 1000
IMAGES = 32
PATH = "/v1/verdicts"

_SCRIPT = """
local bodies = {%s}
wrk.method = "POST"
wrk.headers["Content-Type"] = "multipart/form-data; boundary=%s"
local next, threads = 0, {}
function setup(thread) table.insert(threads, thread) end
function request() next = next %% #bodies + 1; return wrk.format(nil, nil, nil, bodies[next]) end
local classes = {%s}
"""

_CHECKING = """
answered, refused, wrong = 0, 0, 0
function response(status, headers, body)
  answered = answered + 1
  if status ~= 200 then refused = refused + 1; return end
  local version = tonumber(body:match('"version":(%d+)'))
  local _, found = body:match('"probabilities":(%b{})'):gsub('":', '')
  if found ~= classes[version] then wrong = wrong + 1 end
end
function done(summary, latency, requests)
  for _, thread in ipairs(threads) do
    print("checked", thread:get("answered"), thread:get("refused"), thread:get("wrong"))
  end
end
"""

BOUNDARY = "lorax"


def prove_serve(root: Path | None = None) -> bool:
    """Requests per second against direct calls, 20 moves of the alias under load, 1,000 clients at once."""
    if shutil.which("wrk") is None:
        print("wrk, the load tool, is not installed: apt-get install wrk")
        return False
    root = workspace_of_two(root)
    try:
        script = write_script(root)
        passed = _speed(root, script)
        passed &= _moves(root, script)
        return passed & _crowd(root)
    finally:
        lorax("down", cwd=root)


def _speed(root: Path, script: Path) -> bool:
    """Alternate direct calls and served ones, so that whatever else the machine does hits both."""
    newest = versions(root)[-1]
    state = root / "work/states" / newest["state_digest"]
    print(f"\nversion {newest['version']}, {len(newest['tasks'])} branches; one image a request, {CLIENTS} clients")
    ratios, tails = [], []
    with serving(root, "--version", str(newest["version"])) as running:
        _wrk(running, script, CLIENTS, 3)
        print("directly: all threads on one batch, or a batch for each; images/s")
        print(f"{'round':>5} {'one batch':>9} {'each':>7} {'served':>7} {'ratio':>6} {'p50 ms':>7} {'p99 ms':>7}")
        for number in range(ROUNDS):
            direct = _direct(root, state)
            found = _wrk(running, script, CLIENTS, SECONDS)
            if found["errors"] or found["refused"]:
                print(f"  failed requests: {found}")
                return False
            ratios.append(found["rate"] / direct["rate"])
            tails.append(found["p99"])
            row = f"{number:>5} {direct['together']:>9.1f} {direct['each']:>7.1f} {found['rate']:>7.1f}"
            print(f"{row} {ratios[-1]:>6.2f} {found['p50']:>7.1f} {found['p99']:>7.1f}", flush=True)
        mean = _batch_mean(running)
        alone = _wrk(running, script, 1, 4)
    print(f"served in batches of {mean:.1f} on average, at most {direct['batch']:.0f}, which the direct calls have")
    print(
        f"one image directly {direct['one_ms']:.1f} ms; to one client p50 {alone['p50']:.1f}, p99 {alone['p99']:.1f} ms"
    )
    ratio, tail = statistics.median(ratios), statistics.median(tails)
    print(f"median ratio to the better direct call {ratio:.2f} (asked: at least 0.8), median p99 {tail:.0f} ms")
    return ratio >= 0.8


def _moves(root: Path, script: Path) -> bool:
    """Move the champion under load: by lorax there and back, the rest by MLflow's own interface."""
    rows = versions(root)
    old, new = rows[-2]["version"], rows[-1]["version"]
    point(root, new)
    seconds = []
    with serving(root) as running:
        log = HOME / "wrk.log"
        command = _command(running, script, CLIENTS, 3600)
        with log.open("w") as out:
            load = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        try:
            for number in range(MOVES):
                target = new if number % 2 else old
                began = time.monotonic()
                if number == 0:
                    lorax("rollback", "--to", str(target), "--reason", "proof", cwd=root)
                elif number == 1:
                    lorax("promote", str(target), "--reason", "proof", cwd=root)
                else:
                    point(root, target)
                    began = time.monotonic()
                _wait_for_version(running, target)
                seconds.append(time.monotonic() - began)
        finally:
            load.send_signal(signal.SIGINT)
            load.wait()
        text = log.read_text()
        swaps = float(re.search(r'lorax_swaps_total\{outcome="done"\} (\S+)', running.get("/metrics"))[1])  # type: ignore[index]
    answered, refused, wrong = checked(text)
    errors = "Socket errors" in text
    print(f"\n{swaps:.0f} swaps under load: {answered} requests answered, {refused} refused, socket errors: "
          f"{'yes' if errors else 'none'}; with the classes of another version than they name: {wrong}")  # fmt: skip
    print(f"a moved alias was served after {statistics.median(seconds[2:]):.1f} s, at most {max(seconds[2:]):.1f} s")
    return swaps == MOVES and answered > 0 and not (refused or wrong or errors)


def _crowd(root: Path) -> bool:
    """A thousand clients, all connected, all asking, each waiting for its answer; /health is asked meanwhile."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    forms = [form_of(path) for path in images_of(root, IMAGES)]
    with serving(root) as running:
        place = urlsplit(running.address)
        began = time.monotonic()
        clients = [socket.create_connection((place.hostname, place.port), timeout=PATIENCE_S) for _ in range(CROWD)]
        for number, client in enumerate(clients):
            client.sendall(_post(forms[number % len(forms)]))
        looked = time.monotonic()
        health = running.get("/health")["status"]
        looked = time.monotonic() - looked
        statuses = Counter(client.recv(4096)[9:12].decode() for client in clients)
        seconds = time.monotonic() - began
        for client in clients:
            client.close()
    counts = ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items()))
    print(f"\n{CROWD} clients at once: {counts}; all were answered after {seconds:.1f} s")
    print(f"/health meanwhile: {health}, after {looked:.2f} s")
    return statuses == {"200": CROWD} and health == "ok"


def _post(form: bytes) -> bytes:
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(form)}\r\n"
    return f"{head}Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n".encode() + form


def write_script(root: Path) -> Path:
    """wrk's script: one image a request, taken in turn; it checks that an answer has its version's classes."""
    bodies = ",\n".join(f'"{_escaped(form_of(path))}"' for path in images_of(root, IMAGES))
    classes = ", ".join(f"[{row['version']}]={2 * len(row['tasks'])}" for row in versions(root))
    path = HOME / "load.lua"
    path.write_text(_SCRIPT % (bodies, BOUNDARY, classes) + _CHECKING)
    return path


def form_of(path: Path) -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="images"; filename="{path.name}"\r\n\r\n'
    return head.encode() + path.read_bytes() + f"\r\n--{BOUNDARY}--\r\n".encode()


def _escaped(data: bytes) -> str:
    return "".join(f"\\{byte:03}" for byte in data)


def _command(running: Running, script: Path, clients: int, seconds: int) -> list[str]:
    return ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "120s", "--latency", "-s", str(script),
            running.address + PATH]  # fmt: skip


def _wrk(running: Running, script: Path, clients: int, seconds: int) -> dict[str, float]:
    """Make load, and read what wrk says of it; latencies are in milliseconds."""
    done = subprocess.run(_command(running, script, clients, seconds), capture_output=True, text=True, check=True)
    text = done.stdout
    answered, refused, wrong = checked(text)
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    rate = re.search(r"Requests/sec:\s+(\S+)", text)
    if rate is None:
        raise SystemExit(f"wrk said what was not expected:\n{text}")
    return {"rate": float(rate[1]), "p50": _latency(text, 50), "p99": _latency(text, 99), "answered": answered,
            "refused": refused + wrong, "errors": sum(map(int, errors.groups())) if errors else 0}  # fmt: skip


def _latency(text: str, percentile: int) -> float:
    found = re.search(rf"^\s+{percentile}%\s+([\d.]+)(us|ms|s|m)\s*$", text, re.MULTILINE)
    if found is None:
        raise SystemExit(f"wrk named no {percentile}th percentile:\n{text}")
    return float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}[found[2]]


def checked(text: str) -> tuple[int, int, int]:
    found = re.search(r"checked\s+(\d+)\s+(\d+)\s+(\d+)", text)
    if found is None:
        raise SystemExit(f"wrk checked nothing:\n{text}")
    return int(found[1]), int(found[2]), int(found[3])


def _batch_mean(running: Running) -> float:
    text = running.get("/metrics")
    total, count = (float(re.search(rf"^lorax_batch_images_{what} (\S+)", text, re.MULTILINE)[1])  # type: ignore[index]
                    for what in ("sum", "count"))  # fmt: skip
    return total / count


def point(root: Path, version: int) -> None:
    """Move the champion's alias as MLflow's page does."""
    ask_mlflow(root, "registered-models/alias", {"name": model_of(root), "alias": "champion", "version": str(version)})


def _wait_for_version(running: Running, version: int) -> None:
    wait_for(lambda: running.get("/version")["version"] == version, PATIENCE_S, "it was not swapped in", every_s=0.1)


def _direct(root: Path, state: Path) -> dict[str, float]:
    """Call the network in a fresh process, set up as the server's."""
    threads = load_params(root / "params.yaml").run.threads
    command = [sys.executable, "-m", "proofs.verdicts_serve", str(state), str(threads), str(SECONDS)]
    done = subprocess.run([*command, *map(str, images_of(root, IMAGES))], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _call_directly(state: Path, threads: int, seconds: float, files: Sequence[Path]) -> dict[str, float]:
    """Judge the same decoded images again and again, in batches as large as the server's at most.

    Once as any program would, all threads on one batch, and once as the server does, a batch for each; `rate` is the
    better of the two.
    """
    import torch

    from lorax.data.images import decode
    from lorax.verdicts.predictor import Predictor

    torch.set_num_threads(threads)
    predictor = Predictor.open(state)
    pixels = [decode(files[i % len(files)]) for i in range(predictor.batch_size)]
    one_s = 1 / _rate(predictor, pixels[:1], seconds / 4)
    together = _rate(predictor, pixels, seconds / 2)
    torch.set_num_threads(1)
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        each = sum(pool.map(lambda _: _rate(predictor, pixels, seconds / 2), range(threads)))
    return {
        "rate": max(together, each),
        "together": together,
        "each": each,
        "batch": len(pixels),
        "one_ms": 1000 * one_s,
    }


def _rate(predictor: Any, pixels: list[Any], seconds: float) -> float:
    """Images per second that are judged in batches like this one."""
    names = [""] * len(pixels)
    predictor.judge(pixels, names)
    images, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        predictor.judge(pixels, names)
        images += len(pixels)
    return images / (time.perf_counter() - began)


if __name__ == "__main__":
    state, threads, seconds, *files = sys.argv[1:]
    print(json.dumps(_call_directly(Path(state), int(threads), float(seconds), [Path(file) for file in files])))
