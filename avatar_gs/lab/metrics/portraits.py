"""The measured views, and people drawn in them as meshes: what is true.

Everything stands on the run's own body, the truth too: photos do not change ``body.betas`` in this version, and a
person of another height would measure as misplaced pixels, not as another likeness. All else is the person's own:
face, hair, and the cut and colours of the clothes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float

from avatar_gs.body.pose import a_pose
from avatar_gs.lab.metrics.avatar import Pictures
from avatar_gs.lab.metrics.truth import LIGHT
from avatar_gs.lab.world import rendering as pic
from avatar_gs.lab.world.dataset import OVERSAMPLING, SIZE, paint, part_masks
from avatar_gs.lab.world.measure import COVERED
from avatar_gs.lab.world.people import Person
from avatar_gs.lab.world.views import view_of
from avatar_gs.lab.world.vocabulary import CLOTHES
from avatar_gs.lab.world.wardrobe import dress, load_wardrobe
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior
from avatar_gs.render.cameras import fixed_views
from avatar_gs.types import Framing, PosedBody, Views

AZIMUTHS = tuple(45.0 * turn for turn in range(8))
"""Degrees, for each of ``FRAMINGS``."""
FRAMINGS = (Framing.BODY, Framing.HEAD)
FRONTS = (0, len(AZIMUTHS))
"""The measured views from the front: full body and head."""
BACK_AZIMUTHS = tuple(np.linspace(135.0, 225.0, 17).tolist())
"""Degrees: where a face must not be seen; six avatars make more than a hundred views."""
OTHER_LIGHT = np.array([-0.8, 0.4, 0.5])
PARTS = {"hair": pic.HAIR, "skin": pic.SKIN, "shirt": pic.SHIRT, "bottoms": pic.BOTTOMS, "shoes": pic.SHOES}
SHOWN_IN = {Framing.BODY: tuple(PARTS), Framing.HEAD: ("hair", "skin")}
"""The parts that are judged in each framing."""


@lru_cache(maxsize=1)
def standing() -> PosedBody:
    """The body that avatars are made on, in the A-pose."""
    return load_wardrobe().body.pose(a_pose())


@lru_cache(maxsize=1)
def measured_views() -> Views:
    """Every framing from every azimuth, drawn at ``SIZE``²."""
    framings = [framing for framing in FRAMINGS for _ in AZIMUTHS]
    return fixed_views(standing(), framings, AZIMUTHS * len(FRAMINGS), SIZE)


@lru_cache(maxsize=1)
def back_views() -> Views:
    """Heads from behind."""
    return fixed_views(standing(), [Framing.HEAD] * len(BACK_AZIMUTHS), BACK_AZIMUTHS, SIZE)


def some_views(views: Views, indices: Sequence[int]) -> Views:
    """A choice of views."""
    chosen = list(indices)
    cameras = replace(views.cameras, T_camera_world=views.cameras.T_camera_world[chosen], K=views.cameras.K[chosen])
    framings = tuple(views.framings[index] for index in chosen)
    return Views(cameras, framings, views.azimuth[chosen], views.elevation[chosen])


def sides(views: Views) -> list[str]:
    """Front, side or back of each view."""
    return [view_of(float(azimuth)).value for azimuth in views.azimuth]


@dataclass(frozen=True)
class Portrait:
    """A person drawn in some views: part maps (``SIZE * OVERSAMPLING``) and pictures (``SIZE``)."""

    person: Person
    views: Views
    maps: list[pic.PartMap]
    pictures: Pictures

    def mask(self, view: int, part: str) -> Bool[np.ndarray, "S S"]:
        """The pixels that a part covers."""
        return part_masks(self.maps[view], PARTS[part]) > COVERED


def portray(person: Person, views: Views) -> Portrait:
    """The person in the palette's own colours, in the suite's light."""
    maps = _maps(person, views, LIGHT)
    return Portrait(person, views, maps, _pictures(maps, [_plain(person, part_map) for part_map in maps]))


def drawn_anew(person: Person, views: Views, seed: int) -> Pictures:
    """The same person in another light, and in clothes whose colours differ as between two pictures of training: what
    another perfect set of pictures would show."""
    maps = _maps(person, views, OTHER_LIGHT)
    black = np.zeros(3)
    painted = [paint(person, part_map, np.random.default_rng([seed, 3]), black) for part_map in maps]
    return _pictures(maps, painted)


@torch.no_grad()
def through_prior(pictures: Pictures, prior: StableDiffusionPrior) -> Pictures:
    """Pictures as the prior's autoencoder gives them back: guidance sees nothing finer."""
    size, pixels = pictures.rgb.shape[1], torch.from_numpy(pictures.on_grey()).float().to(prior.device)
    decoded = torch.cat([prior.decode_latents(prior.encode_images(some)) for some in pixels.split(8)])
    resized = torch.nn.functional.interpolate(decoded.permute(0, 3, 1, 2), (size, size), mode="area")
    return Pictures(
        _on_black(resized.permute(0, 2, 3, 1).cpu().numpy(), pictures.alpha),
        pictures.alpha,
    )


def _on_black(on_grey: Float[np.ndarray, "V S S 3"], alpha: Float[np.ndarray, "V S S"]) -> Float[np.ndarray, "V S S 3"]:
    grey = Pictures(np.zeros_like(on_grey), alpha).on_grey()
    return (on_grey - grey).astype(np.float32)


def _maps(person: Person, views: Views, light: Float[np.ndarray, "3"]) -> list[pic.PartMap]:
    wardrobe = load_wardrobe()
    size = SIZE * OVERSAMPLING
    unshaped = np.zeros_like(wardrobe.vertices)
    cameras = views.cameras.resized(size, size)
    return pic.render_parts(wardrobe, dress(wardrobe, person), person, standing(), unshaped, cameras, light)


def _plain(person: Person, part_map: pic.PartMap) -> np.ndarray:
    outfit = person.outfit
    worn = {
        "shirt": outfit.shirt,
        "stripe": outfit.stripe or outfit.shirt,
        "bottoms": outfit.bottoms_colour,
        "shoes": outfit.shoes,
        "hat": outfit.hat or "black",
    }
    clothes = {
        part: (float(CLOTHES[name][0]), float(CLOTHES[name][1]), float(CLOTHES[name][2])) for part, name in worn.items()
    }
    out = np.empty((SIZE, SIZE, 3), np.uint8)
    colours = pic.palette(person, clothes, np.zeros(3))
    pic.colour_image(part_map.parts, part_map.shade, colours, out, OVERSAMPLING)
    return out


def _pictures(maps: Sequence[pic.PartMap], painted: Sequence[np.ndarray]) -> Pictures:
    alpha = np.stack([1 - part_masks(part_map, pic.BACKGROUND) for part_map in maps])
    return Pictures(np.stack(painted).astype(np.float32) / np.float32(255), alpha.astype(np.float32))
