"""Classifying images with many branches: as published (PEFT's adapters in turn, timm's attention) against ours."""

from __future__ import annotations

import argparse

from measure import report
from setting import Setting, add_options, opened, result_name


def measured(setting: Setting, branches: int, batch: int, rounds: int) -> dict[str, object]:
    params, images = setting.params(), setting.images(batch)
    published = setting.published(params, branches)
    ours = setting.ours_like(published, params)
    found = setting.compare(batch, lambda: published.predict(images), lambda: ours.predict(images), rounds)
    difference = float((published.predict(images) - ours.predict(images)).abs().max())
    return {"branches": branches, "batch": batch, **found, "difference": difference}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser, batch=[1, 16], branches=[12], rounds=5)
    arguments = parser.parse_args()
    with opened(arguments) as setting:
        rows = [measured(setting, k, b, arguments.rounds) for k in arguments.branches for b in arguments.batch]
    report(result_name("prediction", arguments), rows)


if __name__ == "__main__":
    main()
