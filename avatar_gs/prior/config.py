"""Settings of the diffusion prior, of the words that tell it the view, and of where an identity enters."""

from dataclasses import dataclass, field
from enum import Enum

from avatar_gs.core.errors import UserError, require, require_counts

PLACEHOLDER = "<id>"
"""What stands for the person of an identity in a prompt, as a name would."""
WEARING = " wearing "
"""What stands between a person and their clothes in a prompt."""
FRAMINGS = ("body", "head", "upper", "lower")
VIEWS = ("front", "side", "back", "overhead")
MAX_CHUNK = 4096
MAX_LORA_SCALE = 10.0
MINI_NEGATIVE = "blurry, noisy, low quality, wrong colours"


class PromptStyle(Enum):
    """How the view is put into words: as the packaged prior's captions do, or as Stable Diffusion understands best."""

    mini = "mini"
    sd = "sd"


class Precision(Enum):
    """The number format of the UNet and of the ControlNet (the text encoder always computes in float32)."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


class VaePrecision(Enum):
    """The number format of the encoder; auto: float16 on a GPU where ``precision`` has 16 bits, float32 elsewhere."""

    auto = "auto"
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


class Encoder(Enum):
    """What makes latents of a run's renders: the prior's own VAE, or a small network distilled from it (TAESD)."""

    vae = "vae"
    tiny = "tiny"


class EncoderKeeps(Enum):
    """What the VAE's encoder keeps for its backward pass; the gradients are the same.

    ``all``: what torch's own layers keep. ``convolutions`` that keep no input need 38 % less and no more arithmetic.
    ``least``: GroupNorm with SiLU is computed a second time as well, for 68 % less. ``auto``: convolutions on a GPU,
    least on a CPU.
    """

    auto = "auto"
    all = "all"
    convolutions = "convolutions"
    least = "least"


class Compile(Enum):
    """How calls of the networks that recur with the same shapes are made faster.

    ``always``: torch.compile, minutes before the calls are fast. ``graphs``: CUDA graphs, which spare the launches of
    kernels; on a GPU only. ``auto``, on a GPU: graphs for a small prior, torch.compile where a run is so long that it
    pays; on a CPU never.
    """

    auto = "auto"
    never = "never"
    graphs = "graphs"
    always = "always"


class Prediction(Enum):
    """What the UNet predicts: the noise, or the velocity v = alpha eps - sigma z0 (Salimans and Ho 2022)."""

    auto = "auto"
    epsilon = "epsilon"
    v_prediction = "v_prediction"


@dataclass
class PromptConfig:
    """View words. Angles in degrees; azimuth 0 faces the avatar."""

    style: PromptStyle = PromptStyle.mini
    negative: str = MINI_NEGATIVE
    """The negative prompt of a run that gives none."""
    view_words: bool = True
    """Say from which side the avatar is seen; without, all sides of a framing share one prompt."""
    suffix: str = ""
    """Words added to the end of every positive prompt, for instance "plain studio background"."""
    front_degrees: float = 60.0
    """Azimuths below this are the front view …"""
    back_degrees: float = 120.0
    """… above this the back view, and between the two the side view."""
    overhead_degrees: float = 60.0
    """Elevations above this are the overhead view (style sd only: the packaged prior knows no such word)."""
    identity_framings: list[str] = field(default_factory=lambda: list(FRAMINGS))
    """The framings in whose prompts ``<id>`` is the person; in all others it is "a person"."""
    identity_views: list[str] = field(default_factory=lambda: list(VIEWS))
    """The same by view. The packaged prior's captions name people in all framings and views; Stable Diffusion paints
    the faces that it knows onto backs, and a whole body leaves a face but a handful of latents (``prior=sd15``)."""

    def __post_init__(self) -> None:
        if not 0 < self.front_degrees <= self.back_degrees < 180:
            raise UserError(
                f"prior.prompts.front_degrees={self.front_degrees}, back_degrees={self.back_degrees}: "
                "expected 0 < front_degrees <= back_degrees < 180"
            )
        require(
            0 < self.overhead_degrees <= 90,
            "prior.prompts.overhead_degrees",
            self.overhead_degrees,
            "more than 0, at most 90",
        )
        for name, known in (("identity_framings", FRAMINGS), ("identity_views", VIEWS)):
            unknown = [word for word in getattr(self, name) if word not in known]
            if unknown:
                raise UserError(f"prior.prompts.{name}: {', '.join(unknown)} is none of {', '.join(known)}")


@dataclass
class PriorConfig:
    """A latent-diffusion prior, with its ControlNet for OpenPose maps.

    ``path``, ``controlnet`` and ``vae`` are folders in diffusers' format, single files (``.safetensors``, or pickles of
    plain tensors) in the original layout of Stable Diffusion 1.x and 2.x, or names on the Hugging Face hub; only names
    touch the network.
    """

    name: str = "mini"
    path: str = ""
    """Empty: the prior that is packaged with the program."""
    controlnet: str = ""
    """Empty: the folder ``controlnet`` inside ``path``."""
    vae: str = ""
    """Empty: the folder ``vae`` inside ``path``, or the VAE of the single file."""
    tokenizer: str = ""
    """A folder with CLIP's ``vocab.json`` and ``merges.txt``. Empty: the folder ``tokenizer`` inside ``path``, or
    beside it where that is a single file."""
    lora: list[str] = field(default_factory=list)
    """LoRA files, each ``path`` or ``path:scale`` (1 if not given), which are added to the weights of the UNet and of
    the text encoder: Kohya's, A1111's, diffusers' or PEFT's names."""
    prediction: Prediction = Prediction.auto
    """What the UNet predicts; auto: what its folder says, or what a single file gives away."""
    precision: Precision = Precision.float32
    vae_precision: VaePrecision = VaePrecision.auto
    """What the encoder computes in, its gradients scaled so that float16 holds them; inputs and latents are float32,
    and so is the decoder. An encoder whose latents overflow float16 goes on in float32."""
    encoder: Encoder = Encoder.vae
    """What encodes the renders of a run (photos and source images always go through the VAE)."""
    tiny_encoder: str = "madebyollin/taesd"
    """With ``encoder=tiny``: a folder or hub name of an AutoencoderTiny for this prior's latents."""
    tiny_until: float = 1.0
    """With ``encoder=tiny``: the fraction of the run's steps that it encodes; the VAE encodes the rest."""
    control_scale: float = 1.0
    encode_chunk: int = 0
    """Pictures that the VAE encodes or decodes at once; 0: all of a step's (of a preview's up to 8)."""
    checkpoint_encoder: bool = False
    """Keep little of the VAE's encoder for its backward pass, and compute the rest there a second time: the same
    gradients for a quarter of the memory and one more forward pass."""
    encoder_keeps: EncoderKeeps = EncoderKeeps.auto
    predict_chunk: int = 0
    """Pictures that UNet and ControlNet see at once; 0: all that a call asks for. Where a backward pass follows, each
    chunk is computed a second time in it (the adapter of ``guidance=vsd`` sees all at once)."""
    offload_text: bool = False
    """Keep the text encoder on the CPU but while prompts are encoded."""
    compile: Compile = Compile.auto
    prompts: PromptConfig = field(default_factory=PromptConfig)

    def __post_init__(self) -> None:
        if self.name == "custom" and not self.path:
            raise UserError(
                "prior.path is empty: prior=custom needs prior.path=<folder or hub name of a Stable Diffusion prior>"
            )
        require(
            0 <= self.control_scale <= 10,
            "prior.control_scale",
            self.control_scale,
            "0 to 10 (1 is the ControlNet as trained)",
        )
        require(0 <= self.tiny_until <= 1, "prior.tiny_until", self.tiny_until, "0 to 1, a fraction of the run's steps")
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
        require_counts("prior", self, encode_chunk=(0, MAX_CHUNK), predict_chunk=(0, MAX_CHUNK))


def lora_entry(text: str) -> tuple[str, float]:
    """``(path, scale)`` of an entry of ``prior.lora``; what follows the last colon is a scale if it is a number."""
    path, colon, last = text.rpartition(":")
    try:
        scale = float(last)
    except ValueError:
        return text, 1.0
    return (path, scale) if colon else (text, 1.0)
