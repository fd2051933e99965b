"""Change one thing of an avatar and keep the rest: python docs/examples/edit_avatar.py [setting=value ...]

Begins with the run that make_avatar.py makes. Writes outputs/examples/anna-in-red/.
"""

import sys

import avatar_gs

avatar = avatar_gs.make(
    "a woman with blonde hair in a red shirt and black trousers",
    init="examples/anna",
    guidance="gentle_dds",
    name="examples/anna-in-red",
    overrides={"optimize.steps": 400} if len(sys.argv) == 1 else sys.argv[1:],
)
print("wrote", avatar.save("outputs/examples/anna-in-red.html"))
