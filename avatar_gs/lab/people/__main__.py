"""Commands of the lifelike world: contact sheets, training shards, and the autoencoder.

    python -m avatar_gs.lab.people sheet --assets <folder> --out sheet.png
    python -m avatar_gs.lab.people draw --assets <folder> --folder outputs/train_people --people 12000
    python -m avatar_gs.lab.people autoencoder --folder outputs/train_people --steps 9000

The last two resume where they were interrupted.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from avatar_gs.core.console import progress
from avatar_gs.core.errors import UserError
from avatar_gs.lab.people.config import PeopleAutoencoderConfig, PeopleDatasetConfig

COLUMNS = 8


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
    draw = commands.add_parser("draw", help="render a training set")
    draw.add_argument("--assets", type=Path, required=True, help="folder of the asset pack")
    draw.add_argument("--folder", type=Path, default=Path("outputs/train_people"))
    draw.add_argument("--people", type=int, default=PeopleDatasetConfig().people)
    draw.add_argument("--workers", type=int, default=None)
    draw.add_argument("--seed", type=int, default=0)
    draw.set_defaults(run=_draw)
    train = commands.add_parser("autoencoder", help="train the autoencoder on a training set")
    train.add_argument("--folder", type=Path, default=Path("outputs/train_people"))
    train.add_argument("--steps", type=int, default=PeopleAutoencoderConfig().steps)
    train.add_argument("--bfloat16", action="store_true", help="mixed precision")
    train.set_defaults(run=_autoencoder)
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


def _draw(parsed: argparse.Namespace) -> None:
    from avatar_gs.lab.people.dataset import generate

    config = PeopleDatasetConfig(people=parsed.people, workers=parsed.workers, seed=parsed.seed)
    with progress("render people", config.people) as bar:
        for done, total in generate(config, parsed.assets, parsed.folder / "data"):
            bar.update(config.people * done // total)


def _autoencoder(parsed: argparse.Namespace) -> None:
    from avatar_gs.lab.people.autoencoder import train_autoencoder
    from avatar_gs.lab.people.dataset import read_shards

    shards = sorted((parsed.folder / "data").glob("shard_*.npz"))
    if not shards:
        raise UserError(f"--folder={parsed.folder}: no shards in {parsed.folder / 'data'}; render them first (draw)")
    config = PeopleAutoencoderConfig(steps=parsed.steps, bfloat16=parsed.bfloat16)
    images, checkpoint = read_shards(shards), parsed.folder / "autoencoder.safetensors"
    with progress("train the autoencoder", config.steps) as bar:
        on_step = lambda done, total, loss: bar.update(done, loss=loss)
        vae = train_autoencoder(config, images, PeopleDatasetConfig().size, checkpoint, on_step)
    vae.save_pretrained(str(parsed.folder / "vae"))


if __name__ == "__main__":
    sys.exit(main())
