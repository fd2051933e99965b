"""What a run's folder holds, by name. Imports nothing heavy: the command looks here before torch is loaded."""

from pathlib import Path

CONFIG_FILE, METRICS_FILE, CHECKPOINTS = "config.yaml", "metrics.json", "checkpoints"
IDENTITY_FILE, AVATAR_CHECKPOINT, IDENTITY_CHECKPOINT = "identity.safetensors", "last.safetensors", "embed.safetensors"
FILES = (CONFIG_FILE, "log.txt", METRICS_FILE, IDENTITY_FILE, "avatar.ply", "avatar.html", "turntable.mp4")
FOLDERS = (CHECKPOINTS, "previews", "tensorboard")
"""With ``FILES``, all that starting anew removes: whatever else lies in the folder is the user's."""


def has_begun(folder: Path) -> bool:
    """Whether there is work to lose or to go on with. A run that failed before its first checkpoint (a wrong path, say)
    has not begun: its settings bind nobody."""
    return (folder / CONFIG_FILE).exists() and ((folder / METRICS_FILE).exists() or (folder / CHECKPOINTS).exists())


def holds_an_avatar(folder: Path) -> bool:
    """Whether the run has come to its first avatar."""
    return (folder / CHECKPOINTS / AVATAR_CHECKPOINT).is_file()


def has_only_an_identity(folder: Path) -> bool:
    """Whether all the work so far is ``stage=embed``'s: prompt, cameras and the like bind nobody yet."""
    checkpoints = folder / CHECKPOINTS
    begun = (folder / IDENTITY_FILE).exists() or (checkpoints / IDENTITY_CHECKPOINT).exists()
    return begun and not (checkpoints / AVATAR_CHECKPOINT).exists()
