#!/usr/bin/env bash
# webdataset 1.0.2: shardshuffle shuffles the shards once, and every epoch reads them in that same order.
#
# Expected: shards come in another order each epoch, as samples do by shuffle() of the same pipeline; where no seed was
#   given, surely.
# Behaviour: WebDataset draws a seed when it is made and hands it to a shuffle that begins anew with it at each epoch.
#   Samples mix only within shuffle()'s buffer, so with shards larger than that a model sees the data in much the same
#   order for ever. detshuffle=True, whose name promises determinism, is what shuffles anew each epoch.
# Output seen (Python 3.11, 2026-11-30), orders of 20 shards in 5 epochs:
#   shardshuffle=100: 1, sorted: False; detshuffle=True: 5; samples of one shard by shuffle(100): 5
# Exits 0 while this holds, 1 when it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export PIP_DISABLE_PIP_VERSION_CHECK=1
python3 -m venv env
env/bin/pip install --quiet 'webdataset==1.0.2' 'numpy==2.4.6'
cat > epochs.py <<'PY'
import sys

import webdataset

SHARDS = [f"{number:06d}.tar" for number in range(20)]
for number, shard in enumerate(SHARDS):
    with webdataset.TarWriter(shard) as writer:
        writer.write({"__key__": str(number), "txt": "one"})
with webdataset.TarWriter("whole.tar") as writer:
    for number in range(20):
        writer.write({"__key__": str(number), "txt": "one"})


def orders(data: webdataset.WebDataset) -> list[list[int]]:
    return [[int(sample["__key__"]) for sample in data] for _ in range(5)]


def different(epochs: list[list[int]]) -> int:
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    return len({tuple(epoch) for epoch in epochs})


shuffled = orders(webdataset.WebDataset(SHARDS, shardshuffle=100))
is_sorted = shuffled[0] == sorted(shuffled[0])
anew = different(orders(webdataset.WebDataset(SHARDS, shardshuffle=100, detshuffle=True)))
samples = different(orders(webdataset.WebDataset("whole.tar", shardshuffle=False).shuffle(100)))
once = different(shuffled)
print(f"shardshuffle=100: {once}, sorted: {is_sorted}; detshuffle=True: {anew}; "
      f"samples of one shard by shuffle(100): {samples}")
sys.exit(not (once == 1 and not is_sorted and anew == samples == 5))
PY
env/bin/python epochs.py
