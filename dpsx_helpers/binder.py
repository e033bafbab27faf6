"""Binder: whether this is a session of it, and what is different there.

What holds on mybinder.org: ten idle minutes, nothing kept, no secrets
(https://mybinder.readthedocs.io/en/latest/about/user-guidelines.html), and the ports that lead out
(`networkPolicy.egress` in https://github.com/jupyterhub/mybinder.org-deploy/blob/main/mybinder/values.yaml).
"""

import os

from dpsx_helpers.display import View, note, table

#: Each session has some of these: https://github.com/jupyterhub/binderhub/blob/main/binderhub/binderspawner_mixin.py.
#: Beside them stands the learner's own network address, which is nobody's business and is never read here.
SIGNS = ("BINDER_LAUNCH_HOST", "BINDER_REPO_URL", "BINDER_REQUEST")
_DIFFERENT = (
    (
        "Time",
        "After about 10 minutes in which no cell runs the session may end, also while you only read; after 6 hours it "
        "ends in any case.",
    ),
    (
        "What you make",
        "Nothing is kept when the session ends. A cell in notebook 05 packs your work folder, without its keys, for "
        "you to download.",
    ),
    (
        "Secrets",
        "None belong here, because this computer is run by others: no pass phrase, key or connection string that "
        "protects something real. The test values will do.",
    ),
    (
        "Network",
        "Only ports 80 and 443 lead out. The emulator needs neither: it runs inside the session. On the way to Azure "
        "your device takes WebSockets, port 443, without your doing.",
    ),
)
_TRANSPORT = (
    "You are on Binder, where port 8883 leads to the emulator inside the session, but not out. With Azure as the "
    "target your device therefore talks over WebSockets, port 443 (websockets=True in its program): that is chosen "
    "by itself, and DPSX_TRANSPORT says so."
)
_STRINGS = (
    "You are on Binder, where no secrets belong, and the connection strings that this notebook needs on Azure are "
    "secrets: stay with the emulator here."
)
_NOTES = {
    1: _TRANSPORT,
    2: "You are on Binder, on a computer that others run: take a pass phrase that you use nowhere else (1234 will do), "
    "and bring no key of a real device.",
    4: _TRANSPORT,
    5: "You are on Binder, which keeps nothing: take your work folder along before you clean up. What you made on "
    "Azure stays there until you delete it.",
    **dict.fromkeys(range(6, 11), _STRINGS),
}


def here() -> bool:
    """Whether this process belongs to a session of Binder."""
    return any(os.environ.get(name, "").strip() for name in SIGNS)


def note_for(step: int) -> View | None:
    """What is different for the reader of this notebook (0 to 10); None where nothing is, and outside Binder."""
    if not here():
        return None
    if step == 0:
        return table("You are on Binder: what is different here", ("What", "On Binder"), _DIFFERENT)
    return note(_NOTES[step]) if step in _NOTES else None
