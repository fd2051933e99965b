"""Settings of the diffusion prior, of its view words, and of the views that an identity appears in."""

from dataclasses import dataclass, field
from enum import Enum

from avatar_gs.core.errors import UserError
from avatar_gs.core.validation import Section, bounded

PLACEHOLDER = "<id>"
"""Stands for the person of an identity in a prompt, as a name would."""
WEARING = " wearing "
"""Separates a person and their clothes in a prompt."""
FRAMINGS = ("body", "head", "upper", "lower")
VIEWS = ("front", "side", "back", "overhead")
MAX_CHUNK = 4096
MAX_LORA_SCALE = 10.0
MINI_NEGATIVE = "blurry, noisy, low quality, wrong colours"


class PromptStyle(Enum):
    """How views are put into words: as in the packaged prior's captions, or as Stable Diffusion understands best."""

    mini = "mini"
    sd = "sd"


class Precision(Enum):
    """Number format of UNet and ControlNet (the text encoder always computes in float32)."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


class VaePrecision(Enum):
    """Number format of the encoder; auto: float16 on a GPU where ``precision`` has 16 bits, float32 elsewhere."""

    auto = "auto"
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


class Encoder(Enum):
    """Encoder of a run's renders: the prior's own VAE, or a small network distilled from it (TAESD)."""

    vae = "vae"
    tiny = "tiny"


class EncoderKeeps(Enum):
    """What the VAE's encoder keeps for its backward pass; the gradients are the same.

    ``all``: what torch's layers keep. ``convolutions`` that keep no input need 38 % less and no more arithmetic.
    ``least``: GroupNorm with SiLU is computed again as well, for 68 % less. ``auto``: convolutions on a GPU, least on a
    CPU.
    """

    auto = "auto"
    all = "all"
    convolutions = "convolutions"
    least = "least"


class Compile(Enum):
    """How network calls whose shapes recur are made faster.

    ``always``: torch.compile, which takes minutes at first. ``graphs``: CUDA graphs, which avoid kernel launches; on a
    GPU only. ``auto``: on a GPU, graphs for a small prior and torch.compile for runs that are long enough; on a CPU
    never.
    """

    auto = "auto"
    never = "never"
    graphs = "graphs"
    always = "always"


class Prediction(Enum):
    """Target of the UNet: the noise, or the velocity v = alpha eps - sigma z0 (Salimans and Ho 2022)."""

    auto = "auto"
    epsilon = "epsilon"
    v_prediction = "v_prediction"


@dataclass
class PromptConfig(Section):
    """View words. Angles in degrees; azimuth 0 faces the avatar."""

    section = "prior.prompts"
    style: PromptStyle = PromptStyle.mini
    negative: str = MINI_NEGATIVE
    """Negative prompt of runs that give none."""
    view_words: bool = True
    """Name the side of the avatar in prompts; without, all sides of a framing share one prompt."""
    suffix: str = ""
    """Words added to the end of every positive prompt, for instance "plain studio background"."""
    front_degrees: float = 60.0
    """Azimuths below this are the front view …"""
    back_degrees: float = 120.0
    """… above this the back view, and between the two the side view."""
    overhead_degrees: float = bounded(60.0, 0, 90, above=True)
    """Elevations above this are the overhead view, 0 to 90 (style sd only: the packaged prior has no such word)."""
    identity_framings: list[str] = field(default_factory=lambda: list(FRAMINGS))
    """Framings whose prompts contain ``<id>``; in all others it is replaced by "a person"."""
    identity_views: list[str] = field(default_factory=lambda: list(VIEWS))
    """Views whose prompts contain ``<id>``. Stable Diffusion paints known faces onto backs, and a whole body leaves
    only a few latents to a face: ``prior=sd15`` restricts both lists."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.front_degrees <= self.back_degrees < 180:
            raise UserError(
                f"prior.prompts.front_degrees={self.front_degrees}, back_degrees={self.back_degrees}: "
                "expected 0 < front_degrees <= back_degrees < 180"
            )
        for name, known in (("identity_framings", FRAMINGS), ("identity_views", VIEWS)):
            unknown = [word for word in getattr(self, name) if word not in known]
            if unknown:
                raise UserError(f"prior.prompts.{name}: {', '.join(unknown)} is none of {', '.join(known)}")


@dataclass
class PriorConfig(Section):
    """A latent-diffusion prior, with its ControlNet for OpenPose maps.

    ``path``, ``controlnet`` and ``vae`` are folders in diffusers' format, single files (``.safetensors``, or pickles of
    plain tensors) in the original layout of Stable Diffusion 1.x and 2.x, or names on the Hugging Face hub; only names
    use the network.
    """

    section = "prior"
    name: str = "mini"
    path: str = ""
    """Empty: the prior that is packaged with the program."""
    controlnet: str = ""
    """Empty: the folder ``controlnet`` inside ``path``."""
    vae: str = ""
    """Empty: the folder ``vae`` inside ``path``, or the VAE of the single file."""
    tokenizer: str = ""
    """A folder with CLIP's ``vocab.json`` and ``merges.txt``. Empty: the folder ``tokenizer`` inside ``path``, or next
    to it if that is a single file."""
    lora: list[str] = field(default_factory=list)
    """LoRA files, each ``path`` or ``path:scale`` (1 if not given), which are added to the weights of the UNet and of
    the text encoder: Kohya's, A1111's, diffusers' or PEFT's names."""
    prediction: Prediction = Prediction.auto
    """Target of the UNet; auto: what the folder states, or what a single file reveals."""
    precision: Precision = Precision.float32
    vae_precision: VaePrecision = VaePrecision.auto
    """Number format of the encoder, with gradients scaled to the range of float16; inputs and latents are float32, and
    so is the decoder. An encoder whose latents overflow float16 continues in float32."""
    encoder: Encoder = Encoder.vae
    """Encoder of a run's renders (photos and source images always use the VAE)."""
    tiny_encoder: str = "madebyollin/taesd"
    """With ``encoder=tiny``: a folder or hub name of an AutoencoderTiny for this prior's latents."""
    tiny_until: float = bounded(1.0, 0, 1, expected="0 to 1, a fraction of the run's steps")
    """With ``encoder=tiny``: the fraction of the run's steps in which it is used, 0 to 1; the VAE encodes the rest."""
    control_scale: float = bounded(1.0, 0, 10, expected="0 to 10 (1 is the ControlNet as trained)")
    """Factor on the ControlNet's residuals, 0 (no pose control) to 10."""
    encode_chunk: int = bounded(0, 0, MAX_CHUNK)
    """Images that the VAE encodes or decodes at once; 0: all of a step's (of a preview's up to 8)."""
    checkpoint_encoder: bool = False
    """Keep little of the VAE's encoder for its backward pass and compute the rest again there: the same gradients for a
    quarter of the memory and one more forward pass."""
    encoder_keeps: EncoderKeeps = EncoderKeeps.auto
    predict_chunk: int = bounded(0, 0, MAX_CHUNK)
    """Images that UNet and ControlNet see at once; 0: all of a call's. With a backward pass each chunk is computed
    again in it (the adapter of ``guidance=vsd`` always sees all images at once)."""
    offload_text: bool = False
    """Keep the text encoder on the CPU except while encoding prompts."""
    compile: Compile = Compile.auto
    prompts: PromptConfig = field(default_factory=PromptConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name == "custom" and not self.path:
            raise UserError(
                "prior.path is empty: prior=custom needs prior.path=<folder or hub name of a Stable Diffusion prior>"
            )
        if self.encoder is Encoder.tiny and not self.tiny_encoder:
            raise UserError(
                "prior.tiny_encoder is empty: prior.encoder=tiny needs a folder or hub name, such as madebyollin/taesd"
            )
        for entry in self.lora:
            path, scale = lora_entry(entry)
            if not path or not abs(scale) <= MAX_LORA_SCALE:  # also of NaN
                raise UserError(
                    f"prior.lora: {entry!r}: expected <file> or <file>:<scale>, with a scale from "
                    f"{-MAX_LORA_SCALE:g} to {MAX_LORA_SCALE:g}"
                )


def lora_entry(text: str) -> tuple[str, float]:
    """``(path, scale)`` of an entry of ``prior.lora``: the part after the last colon is a scale if it is a number."""
    path, colon, last = text.rpartition(":")
    try:
        scale = float(last)
    except ValueError:
        return text, 1.0
    return (path, scale) if colon else (text, 1.0)
