"""The stages of the laboratory."""

from avatar_gs.stages import RunUse, Stage

STAGES = {
    "playground": Stage(
        "avatar_gs.lab.stages.playground",
        "one image instead of an avatar: what each guidance does, step by step",
        RunUse.preview,
    ),
    "evaluate": Stage(
        "avatar_gs.lab.stages.evaluate",
        "measure: suite=colours | identity | prior | scores | methods | claims | shading | editing | likeness",
        experiment="quick",  # an evaluation makes many avatars
    ),
    "benchmark": Stage(
        "avatar_gs.lab.stages.benchmark",
        "time the renderers; benchmark.step=true: whole steps, compared with what the prior alone costs",
    ),
    "train_prior": Stage(
        "avatar_gs.lab.stages.train_prior", "train a packaged prior from scratch: world=mini | people"
    ),
    "train_scorer": Stage(
        "avatar_gs.lab.stages.train_scorer",
        "train the mini world's scorer, face detector and judge of views from scratch",
    ),
}
