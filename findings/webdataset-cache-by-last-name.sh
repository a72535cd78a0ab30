#!/usr/bin/env bash
# webdataset 1.0.2: with cache_dir, what is read as validation set is the training set where shards are called alike.
#
# Expected: a cache knows a shard by its address, so train/000000.tar and val/000000.tar are two files in it.
# Behaviour: a file in the cache is called as the last part of the address. Whichever of the two comes second is "there"
#   already and never asked for: its reader gets the other's samples, whose __url__ says that they come from val.
#   url_to_name, by which WebDataset would have names chosen, is taken and not used. One cache_dir for each set is the
#   way out.
# Output seen (Python 3.11, 2026-11-30):
#   no cache: train ['cat'], val ['dog']; asked for /train/000000.tar, /val/000000.tar
#   cached: train ['cat'], val ['cat'] (__url__ ends with /val/000000.tar); asked for /train/000000.tar
#   url_to_name was given and called 0 times; in the cache: ['000000.tar']
# Exits 0 while this holds, 1 when it changes. Needs curl, by which webdataset reads addresses.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export PIP_DISABLE_PIP_VERSION_CHECK=1 no_proxy=127.0.0.1
python3 -m venv env
env/bin/pip install --quiet 'webdataset==1.0.2' 'numpy==2.4.6'
cat > cached.py <<'PY'
import functools
import http.server
import pathlib
import sys
import threading

import webdataset

for split, what in (("train", "cat"), ("val", "dog")):
    pathlib.Path("served", split).mkdir(parents=True)
    with webdataset.TarWriter(f"served/{split}/000000.tar") as writer:
        writer.write({"__key__": "one", "txt": what})
pathlib.Path("cache").mkdir()
asked = []


class Served(http.server.SimpleHTTPRequestHandler):
    def log_request(self, *_) -> None:
        asked.append(self.path)


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Served, directory="served"))
threading.Thread(target=server.serve_forever, daemon=True).start()


named = []


def name(address: str) -> str:
    named.append(address)
    return "-".join(address.split("/")[-2:])


def read(split: str, cache_dir: str | None) -> list[dict]:
    address = f"http://127.0.0.1:{server.server_port}/{split}/000000.tar"
    return list(webdataset.WebDataset(address, shardshuffle=False, cache_dir=cache_dir, url_to_name=name).decode())


found = {}
for told, cache_dir in (("no cache", None), ("cached", "cache")):
    asked.clear()
    train, val = read("train", cache_dir), read("val", cache_dir)
    found[told] = [[sample["txt"] for sample in samples] for samples in (train, val)]
    where = f" (__url__ ends with {val[0]['__url__'][-15:]})" if cache_dir else ""
    print(f"{told}: train {found[told][0]}, val {found[told][1]}{where}; asked for {', '.join(asked)}")
server.shutdown()
kept = [path.name for path in pathlib.Path("cache").iterdir()]
print(f"url_to_name was given and called {len(named)} times; in the cache: {kept}")
sys.exit(bool(named) or found != {"no cache": [["cat"], ["dog"]], "cached": [["cat"], ["cat"]]})
PY
env/bin/python cached.py
