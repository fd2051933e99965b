"""Remake the images of the README and the documentation: ``make gallery``.

Makes eight avatars with the packaged prior (two minutes each on two idle cores; interrupted runs resume), and writes
small WebP images to ``docs/pages/images/``.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import avatar_gs
from avatar_gs.lab.metrics.people import photograph

IMAGES = Path(__file__).parent / "pages" / "images"
PHOTOS = Path("outputs") / "gallery" / "photos"
ANNA = "a woman with long blonde hair in a green shirt and black trousers, white shoes"
STRIP = {
    "tom": "a man with short black hair and brown skin in a red shirt and blue trousers, black shoes",
    "mia": "a young woman with tan skin and long red hair in a white shirt and a purple skirt, black shoes",
    "ole": "an old man with grey hair in a yellow shirt with long sleeves and brown trousers, black shoes",
    "sam": "a heavy bald man with dark skin in an orange shirt and grey shorts, white shoes",
    "eva": "a woman with a red hat and short brown hair in a blue shirt and a pink skirt, red shoes",
}
MIDDLE = (0.16, 0.84)
"""The columns of a square render that hold a standing avatar, as fractions of its width."""


def main() -> None:
    """Make the avatars and write the images."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    anna = avatar_gs.make(ANNA, name="gallery/anna", seed=3)
    turntable(anna, IMAGES / "turntable.webp")
    previews = sorted(Path("outputs/gallery/anna/previews").glob("step_*.png"))
    with Image.open(previews[-1]) as sheet:
        save(np.asarray(sheet.convert("RGB")), IMAGES / "preview.webp", height=256)
    waving = anna.pose(right_shoulder=(0, 0, -0.9), right_elbow=(0, 0, -1.2))
    shown = [narrow(waving.render(waving.camera(azimuth=angle))) for angle in (0, 40, 180)]
    save(side_by_side(shown), IMAGES / "waving.webp", height=256)
    others = [avatar_gs.make(prompt, name=f"gallery/{name}") for name, prompt in STRIP.items()]
    angles = (-25, 20, -15, 25, -20, 15)
    shown = [avatar.render(avatar.camera(azimuth=angle)) for avatar, angle in zip([anna, *others], angles, strict=True)]
    save(side_by_side([narrow(image) for image in shown]), IMAGES / "avatars.webp", height=320)

    edited = avatar_gs.make(
        ANNA.replace("green", "red"),
        name="gallery/anna-red",
        init="outputs/gallery/anna",
        guidance="gentle_dds",
        overrides={"optimize.steps": 400},
    )
    shown = [narrow(one.render(one.camera(azimuth=angle))) for one in (anna, edited) for angle in (0, 180)]
    save(side_by_side(shown), IMAGES / "edit.webp", height=256)

    photos = photograph(0)[:3]
    PHOTOS.mkdir(parents=True, exist_ok=True)
    for index, photo in enumerate(photos):
        Image.fromarray(photo).save(PHOTOS / f"{index}.png")
    person = avatar_gs.make("<id> wearing a red shirt and blue trousers", photos=PHOTOS, name="gallery/person")
    shown = [narrow(person.render(person.camera(azimuth=angle))) for angle in (0, 90, 180, 270)]
    squares = [np.asarray(Image.fromarray(photo).resize((512, 512), Image.Resampling.LANCZOS)) for photo in photos]
    save(side_by_side([*squares, *shown]), IMAGES / "photos.webp", height=256)


def turntable(avatar: avatar_gs.Avatar, path: Path, frames: int = 36, height: int = 320) -> None:
    """One turn as an animated WebP."""
    images = [
        resized(narrow(avatar.render(avatar.camera(azimuth=360 * frame / frames))), height) for frame in range(frames)
    ]
    images[0].save(path, save_all=True, append_images=images[1:], duration=90, loop=0, quality=70, method=6)


def narrow(image: np.ndarray) -> np.ndarray:
    """The middle columns of a square image, in which a standing avatar fits."""
    left, right = (round(fraction * image.shape[1]) for fraction in MIDDLE)
    return image[:, left:right]


def side_by_side(images: Sequence[np.ndarray]) -> np.ndarray:
    """Images of one height in a row."""
    return np.concatenate(list(images), axis=1)


def resized(image: np.ndarray, height: int) -> Image.Image:
    """An image of another height."""
    width = round(image.shape[1] * height / image.shape[0])
    return Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)


def save(image: np.ndarray, path: Path, height: int) -> None:
    """Write a WebP image of a given height."""
    resized(image, height).save(path, quality=80, method=6)
    print(f"wrote {path} ({path.stat().st_size / 1024:.0f} kB)")


if __name__ == "__main__":
    main()
