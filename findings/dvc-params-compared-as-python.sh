#!/usr/bin/env bash
# DVC 3.67.1: a parameter that goes from 1 to true (or 1.0) counts as unchanged, one that is .nan as changed for ever.
#
# Expected: a stage that reads a parameter runs again where params.yaml says something else, and where it says the same
#   does not.
# Behaviour: values are compared by Python's ==, by which 1, 1.0 and true are one and .nan isn't itself. 'dvc repro'
#   keeps what was made with the old value, and 'dvc status' and 'dvc params diff' say that nothing differs; a program
#   that asks for the type (augment once, or as its default says) was never run with the new one. Of .nan they say that
#   it was modified, right after 'dvc repro'.
# Output seen (Python 3.11, 2026-11-30):
#   augment: 1 -> true: repro: Stage 'train' didn't change, skipping; params diff: nothing; the output says "augment: 1"
#   augment: 1 -> 2: repro: Running stage 'train':; params diff: augment 1 2; the output says "augment: 2"
#   fill: .nan, status after repro: modified; params diff: fill nan nan
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
cat > dvc.yaml <<'YAML'
stages:
  train:
    cmd: cp train.yaml trained
    params: [train.yaml: [augment]]
    outs: [trained]
  fill:
    cmd: cp fill.yaml filled
    params: [fill.yaml: [fill]]
    outs: [filled]
YAML
echo "augment: 1" > train.yaml
echo "fill: .nan" > fill.yaml
"$dvc" repro --quiet
git add --all
git -c user.name=x -c user.email=x@localhost commit --quiet --message trained
differs() { "$dvc" params diff --targets "$1" | awk 'NR > 1 {print $2, $3, $4}'; }
look() {  # what is done and said of another value
  echo "augment: $1" > train.yaml
  local told repro
  told=$(differs train.yaml)
  repro=$("$dvc" repro train | sed -n 1p)
  echo "augment: 1 -> $1: repro: $repro; params diff: ${told:-nothing}; the output says \"$(cat trained)\""
}
look true | tee seen
look 2 | tee -a seen
status=$("$dvc" status fill | awk '$NF == "fill" {print $1}' | tr -d :)
echo "fill: .nan, status after repro: ${status:-nothing}; params diff: $(differs fill.yaml)" | tee -a seen
diff seen - <<'SEEN'
augment: 1 -> true: repro: Stage 'train' didn't change, skipping; params diff: nothing; the output says "augment: 1"
augment: 1 -> 2: repro: Running stage 'train':; params diff: augment 1 2; the output says "augment: 2"
fill: .nan, status after repro: modified; params diff: fill nan nan
SEEN
