#!/usr/bin/env bash
# DVC 3.67.1: `dvc push` and `dvc status --cloud` call a remote complete that has lost files of a tracked folder.
#
# Expected: where a file of the folder is missing in the remote and present in the cache, 'dvc status --cloud' names it and
#   'dvc push' brings it, in the machine that pushed it first and in a new one alike.
# Behaviour: if the remote still has the folder's list (its .dir object), all files in that list count as there. Both
#   commands answer that all is well, with exit code 0, and keep doing so with a cache of their own gone; a clone's
#   'dvc pull' then fails, and no 'dvc push' can mend it.
# Output seen (Python 3.11, 2026-11-28):
#   lost from the remote: files/md5/b0/26324c6904b2a9cb4b88d6d61c81d1
#   dvc status --cloud: Cache and remote 'store' are in sync.
#   dvc push: Everything is up to date.
#   dvc pull in a clone: exit 1
# Exits 0 while this holds, 1 when it changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export DVC_NO_ANALYTICS=1 PIP_DISABLE_PIP_VERSION_CHECK=1 DVC_SITE_CACHE_DIR="$folder/site-cache"
python3 -m venv env
env/bin/pip install --quiet 'dvc==3.67.1'
dvc=$PWD/env/bin/dvc
git init --quiet work
cd work
"$dvc" init --quiet
mkdir data
for number in 1 2 3; do echo "$number" > "data/$number"; done
"$dvc" add --quiet data
"$dvc" remote add --quiet --default store ../store
"$dvc" push --quiet
git add --all
git -c user.name=x -c user.email=x@localhost commit --quiet --message data

lost=files/md5/b0/26324c6904b2a9cb4b88d6d61c81d1  # the bytes of data/1
rm "$folder/store/$lost"
echo "lost from the remote: $lost"
status=$("$dvc" status --cloud 2>&1)
echo "dvc status --cloud: $status"
rm -rf "$DVC_SITE_CACHE_DIR"  # what DVC remembers of the remote
push=$("$dvc" push 2>&1 | tail -1)
echo "dvc push: $push"
git clone --quiet . ../clone
cd ../clone
pulled=0
"$dvc" pull --quiet > /dev/null 2>&1 || pulled=$?
echo "dvc pull in a clone: exit $pulled"
[[ $status == *"in sync"* && $push == *"up to date"* && $pulled != 0 && ! -e $folder/store/$lost ]]
