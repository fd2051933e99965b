"""Commands of the lifelike world: contact sheets of people, and samples of a prior for people that it never saw.

python -m avatar_gs.lab.people sheet --assets <folder> --out sheet.png
python -m avatar_gs.lab.people samples --assets <folder> --prior <folder> --out samples.png
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from avatar_gs.core.console import progress
from avatar_gs.core.errors import UserError
from avatar_gs.lab.people.config import PeopleDatasetConfig

COLUMNS = 8
SHEET_SAMPLES, SHEET_COLUMNS = 24, 3
"""Samples on the sheet, each with its pose map and the drawn truth, and columns of such triples."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    parsed = _parser().parse_args(arguments)
    try:
        parsed.run(parsed)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m avatar_gs.lab.people", description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(required=True)
    sheet = commands.add_parser("sheet", help="render a contact sheet of random people and print their captions")
    sheet.add_argument("--assets", type=Path, required=True, help="folder of the asset pack")
    sheet.add_argument("--out", type=Path, default=Path("people.png"))
    sheet.add_argument("--people", type=int, default=12)
    sheet.add_argument("--views", type=int, default=4)
    sheet.add_argument("--seed", type=int, default=0)
    sheet.set_defaults(run=_sheet)
    trial = commands.add_parser("samples", help="sample a prior for held-out people and judge the colours of clothes")
    trial.add_argument("--assets", type=Path, required=True, help="folder of the asset pack")
    trial.add_argument("--prior", type=Path, required=True, help="folder of the prior")
    trial.add_argument("--out", type=Path, default=Path("samples.png"))
    trial.add_argument("--people", type=int, default=48)
    trial.add_argument("--cfg-scale", type=float, default=4.0)
    trial.add_argument("--pose-scale", type=float, default=1.0, help="guidance on the pose map; 1 for none")
    trial.add_argument("--seed", type=int, default=0)
    trial.set_defaults(run=_samples)
    return parser


def _sheet(parsed: argparse.Namespace) -> None:
    from avatar_gs.lab.people.samples import random_samples
    from avatar_gs.lab.people.wardrobe import load_wardrobe

    wardrobe, images = load_wardrobe(parsed.assets), []
    for person in range(parsed.people):
        rng = np.random.default_rng([parsed.seed, person])
        degraded = PeopleDatasetConfig().degraded_fraction
        for sample in random_samples(
            wardrobe, rng, views=parsed.views, size=256, captions=1, degraded_fraction=degraded
        ):
            print(f"{len(images):4} {sample.captions[0]}")
            images.append(sample.drawn.image)
    blank = np.full_like(images[0], 255)
    images += [blank] * (-len(images) % COLUMNS)
    rows = [np.concatenate(images[k : k + COLUMNS], 1) for k in range(0, len(images), COLUMNS)]
    Image.fromarray(np.concatenate(rows, 0)).save(parsed.out)
    print(parsed.out)


def _samples(parsed: argparse.Namespace) -> None:
    import torch

    from avatar_gs.lab.people.measure import held_out_trials, right_colours, sample
    from avatar_gs.lab.people.wardrobe import load_wardrobe
    from avatar_gs.prior.config import PriorConfig
    from avatar_gs.prior.stable_diffusion import load_prior

    prior = load_prior(PriorConfig(path=str(parsed.prior)), "cpu")
    with progress("render held-out people"):
        trials = held_out_trials(load_wardrobe(parsed.assets), parsed.people, prior.image_size, parsed.seed)
    generator = torch.Generator().manual_seed(parsed.seed)
    with progress("sample", len(trials)) as bar:
        scales = {"cfg_scale": parsed.cfg_scale, "pose_scale": parsed.pose_scale}
        images = sample(prior, trials, **scales, generator=generator, on_batch=bar.update)
    truth = right_colours(trials, [trial.drawn.image for trial in trials])
    for part, (right, count) in right_colours(trials, images).items():
        print(f"{part:8} {right / count:.2f} of {count} (drawn truth: {truth[part][0] / count:.2f})")
    for index, trial in enumerate(trials[:SHEET_SAMPLES]):
        print(f"{index:4} {trial.captions[0]}")
    cells = [
        np.concatenate([trial.control, trial.drawn.image, image], 1)
        for trial, image in zip(trials[:SHEET_SAMPLES], images, strict=False)
    ]
    cells += [np.full_like(cells[0], 255)] * (-len(cells) % SHEET_COLUMNS)
    rows = [np.concatenate(cells[k : k + SHEET_COLUMNS], 1) for k in range(0, len(cells), SHEET_COLUMNS)]
    Image.fromarray(np.concatenate(rows, 0)).save(parsed.out)
    print(parsed.out)


if __name__ == "__main__":
    sys.exit(main())
