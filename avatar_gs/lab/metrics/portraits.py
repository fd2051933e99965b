"""Ground truth of suite=identity: people rendered as meshes.

Avatars and ground truth have the same body shape: photos do not change ``body.betas``, and a person of another height
would count as misplaced pixels. Face, hair, and the cut and colours of the clothes are the person's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float

from avatar_gs.lab.metrics.avatar import ViewImages
from avatar_gs.lab.metrics.truth import LIGHT
from avatar_gs.lab.metrics.views import standing
from avatar_gs.lab.world import rendering as pic
from avatar_gs.lab.world.dataset import OVERSAMPLING, SIZE, paint, part_masks
from avatar_gs.lab.world.measure import COVERED
from avatar_gs.lab.world.people import Person
from avatar_gs.lab.world.vocabulary import CLOTHES
from avatar_gs.lab.world.wardrobe import dress, load_wardrobe
from avatar_gs.prior.stable_diffusion import StableDiffusionPrior
from avatar_gs.types import Framing, Views

OTHER_LIGHT = np.array([-0.8, 0.4, 0.5])
PARTS = {"hair": pic.HAIR, "skin": pic.SKIN, "shirt": pic.SHIRT, "bottoms": pic.BOTTOMS, "shoes": pic.SHOES}
SHOWN_IN = {Framing.BODY: tuple(PARTS), Framing.HEAD: ("hair", "skin")}
"""Parts that are measured in each framing."""


@dataclass(frozen=True)
class Portrait:
    """A person rendered in some views: part maps (``SIZE * OVERSAMPLING``) and images (``SIZE``)."""

    person: Person
    views: Views
    maps: list[pic.PartMap]
    images: ViewImages

    def mask(self, view: int, part: str) -> Bool[np.ndarray, "S S"]:
        """The pixels that a part covers."""
        return part_masks(self.maps[view], PARTS[part]) > COVERED


def render_portrait(person: Person, views: Views) -> Portrait:
    """Render the person in the palette's colours and the suite's light."""
    maps = _maps(person, views, LIGHT)
    return Portrait(person, views, maps, _images(maps, [_plain(person, part_map) for part_map in maps]))


def render_variation(person: Person, views: Views, seed: int) -> ViewImages:
    """The same person in another light and with colours varied as between two training images: the reference for how
    much perfect images of one person differ."""
    maps = _maps(person, views, OTHER_LIGHT)
    black = np.zeros(3)
    painted = [paint(person, part_map, np.random.default_rng([seed, 3]), black) for part_map in maps]
    return _images(maps, painted)


@torch.no_grad()
def through_prior(images: ViewImages, prior: StableDiffusionPrior) -> ViewImages:
    """The images after the prior's autoencoder, which limits the detail that guidance can see."""
    size, pixels = images.rgb.shape[1], torch.from_numpy(images.on_grey()).float().to(prior.device)
    decoded = torch.cat([prior.decode_latents(prior.encode_images(some)) for some in pixels.split(8)])
    resized = torch.nn.functional.interpolate(decoded.permute(0, 3, 1, 2), (size, size), mode="area")
    return ViewImages(
        _on_black(resized.permute(0, 2, 3, 1).cpu().numpy(), images.alpha),
        images.alpha,
    )


def _on_black(on_grey: Float[np.ndarray, "V S S 3"], alpha: Float[np.ndarray, "V S S"]) -> Float[np.ndarray, "V S S 3"]:
    grey = ViewImages(np.zeros_like(on_grey), alpha).on_grey()
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


def _images(maps: Sequence[pic.PartMap], painted: Sequence[np.ndarray]) -> ViewImages:
    alpha = np.stack([1 - part_masks(part_map, pic.BACKGROUND) for part_map in maps])
    return ViewImages(np.stack(painted).astype(np.float32) / np.float32(255), alpha.astype(np.float32))
