from __future__ import annotations

import asyncio
import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from lorax.errors import ServiceError
from lorax.params import ServingParams
from lorax.serving.batching import Batcher
from lorax.serving.decoding import Room
from lorax.serving.model import Served
from lorax.serving.requests import VERDICTS
from lorax.serving.server import listen
from tests.serving.conftest import Gate, Running, Start, image
from tests.tiny_learner import Learned


def several(running: Running, count: int) -> list[Future[httpx.Response]]:
    """Requests of one image each, at the same time."""
    pool = ThreadPoolExecutor(count)
    return [pool.submit(running.post, image(seed)) for seed in range(count)]


def wait_until_waiting(running: Running, count: int) -> None:
    deadline = time.monotonic() + 120
    while running.metric("lorax_images_waiting") != count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_comes_during_a_batch_is_the_next_one(start: Start, gated: tuple[Served, Gate]) -> None:
    model, gate = gated
    running = start(model)
    alone = several(running, 1)
    assert gate.began.acquire(timeout=120)  # an image that comes alone is judged at once
    others = several(running, 5)
    wait_until_waiting(running, 6)
    while len(running.app.state.service._batcher._waiting) < 5:
        time.sleep(0.01)
    gate.is_open.set()
    assert {future.result().status_code for future in alone + others} == {200}
    assert gate.batches == [1, 5]


def test_several_threads_judge_a_batch_each(start: Start, gated: tuple[Served, Gate]) -> None:
    model, gate = gated
    asked = several(start(model, threads=2), 2)
    assert gate.began.acquire(timeout=120)
    assert gate.began.acquire(timeout=120)
    gate.is_open.set()
    assert {future.result().status_code for future in asked} == {200}


def test_what_is_being_decoded_when_a_thread_is_free_goes_with_what_waits(gated: tuple[Served, Gate]) -> None:
    model, gate = gated
    gate.is_open.set()
    crops = np.zeros((1, model.crop, model.crop, 3), np.uint8)

    async def judge() -> None:
        batcher = Batcher(model, 1, lambda _: None)
        batcher._took_s = 120  # so that nothing but what comes ends the waiting
        answers = [asyncio.get_running_loop().create_future() for _ in range(3)]
        batcher.expect(4)
        batcher.add(crops, answers[0])
        batcher.add(crops, answers[1])
        await asyncio.sleep(0.2)
        assert not any(answer.done() for answer in answers)
        batcher.add(crops, answers[2])
        batcher.expect(-1)  # one that can't be decoded
        await asyncio.gather(*answers)
        await asyncio.to_thread(batcher.stop)

    asyncio.run(judge())
    assert gate.batches == [3]


def test_a_batch_ends_on_the_version_that_it_began_with(
    start: Start, gated: tuple[Served, Gate], learned: list[Learned]
) -> None:
    from tests.serving.conftest import opened

    model, gate = gated
    running = start(model)
    before = several(running, 1)
    assert gate.began.acquire(timeout=120)
    running.app.state.service.swap(opened(learned, 2))
    after = several(running, 1)
    gate.is_open.set()
    assert before[0].result().json()["results"][0]["model"]["version"] == 1
    assert after[0].result().json()["results"][0]["model"]["version"] == 2
    assert 'version="2"' in running.http.get("/metrics").text
    assert 'version="1"' not in running.http.get("/metrics").text


def test_a_server_that_is_told_to_stop_answers_what_was_begun(start: Start, gated: tuple[Served, Gate]) -> None:
    model, gate = gated
    running = start(model)
    begun = several(running, 1)
    assert gate.began.acquire(timeout=120)
    running.server.should_exit = True  # what SIGTERM and Ctrl-C do
    threading.Timer(0.3, gate.is_open.set).start()
    assert begun[0].result().status_code == 200
    with pytest.raises(httpx.ConnectError):
        httpx.get(running.http.base_url.join("/health"))


def test_nothing_is_judged_for_a_client_that_has_gone(start: Start, gated: tuple[Served, Gate]) -> None:
    model, gate = gated
    running = start(model)
    first = several(running, 1)
    assert gate.began.acquire(timeout=120)
    with pytest.raises(httpx.ReadTimeout):
        running.http.post(VERDICTS, files={"images": image(7)}, timeout=0.2)
    wait_until_waiting(running, 1)
    gate.is_open.set()
    assert first[0].result().status_code == 200
    assert running.post(image()).status_code == 200
    assert gate.batches == [1, 1]


def test_a_batch_that_fails_is_told_and_the_next_one_is_judged(start: Start, gated: tuple[Served, Gate]) -> None:
    model, gate = gated
    running = start(model)
    gate.is_open = None  # type: ignore[assignment]
    answer = running.post(image())
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
    gate.is_open = threading.Event()
    gate.is_open.set()
    assert running.post(image()).status_code == 200


def test_hundreds_of_clients_at_once_are_all_answered(start: Start, model: Served) -> None:
    running = start(model, ServingParams())
    address = (running.http.base_url.host, running.http.base_url.port or 0)
    body = b'--b\r\nContent-Disposition: form-data; name="i"; filename="i"\r\n\r\n' + image() + b"\r\n--b--\r\n"
    head = f"POST {VERDICTS} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    head += "Connection: close\r\nContent-Type: multipart/form-data; boundary=b\r\n\r\n"
    clients = [socket.create_connection(address) for _ in range(400)]
    for client in clients:
        client.sendall(head.encode() + body)
    for client in clients:
        client.settimeout(30)
        assert client.recv(99).startswith(b"HTTP/1.1 200 ")
        client.close()


def test_decoding_waits_for_room_but_never_for_ever() -> None:
    room, has_begun, is_done = Room(10), threading.Event(), threading.Event()

    def second() -> None:
        has_begun.set()
        with room.taken(5):
            is_done.set()

    with room.taken(99):  # more than there is, but alone
        thread = threading.Thread(target=second)
        thread.start()
        assert has_begun.wait(20)
        assert not is_done.wait(0.1)
    assert is_done.wait(20)
    thread.join()


def test_a_large_image_that_waits_for_room_is_not_overtaken_by_small_ones() -> None:
    room, order = Room(10), []

    def wait_for(size: int) -> None:
        with room.taken(size):
            order.append(size)

    threads = [threading.Thread(target=wait_for, args=(size,)) for size in (99, 1)]
    with room.taken(5):
        threads[0].start()
        while not room._first.locked():  # until the large one waits
            time.sleep(0.01)
        threads[1].start()
        threads[1].join(0.2)
        assert order == []
    for thread in threads:
        thread.join()
    assert order == [99, 1]


def test_an_address_that_is_taken_is_told() -> None:
    with listen("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(ServiceError, match=r"can't listen at 127.0.0.1:\d+: .* --port"):
            listen("127.0.0.1", taken.getsockname()[1])
