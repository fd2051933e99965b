"""Make an avatar from a sentence: python docs/examples/make_avatar.py [setting=value ...]

Writes outputs/examples/anna/. Ctrl-C leaves a run that the same command resumes.
"""

import sys

import avatar_gs


def report(state, step) -> None:
    """Called after every step."""
    if state.step % 50 == 0:
        print(f"step {state.step}: {len(state.model)} splats")


avatar = avatar_gs.make(
    "a woman with blonde hair in a green shirt and black trousers",
    name="examples/anna",
    on_step=report,
    overrides=sys.argv[1:],
)
print("wrote", avatar.save("outputs/examples/anna.html"))
