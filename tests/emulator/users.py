"""Other users of this machine, by their number alone: nobody is added to its list of users."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from processes import unable

START = """
import json, os
from dpsx_helpers import tutorial
from dpsx_helpers.emulator import Emulator
from dpsx_helpers.errors import LearnerError

os.umask(0o002)
try:
    print(json.dumps(str(Emulator.start(tutorial.work_dir() / "emulator").overview.pid)))
except LearnerError as error:
    print(json.dumps(str(error)))
"""


class User:
    """An ordinary user with this number, in the group with that number."""

    def __init__(self, number: int, group: int) -> None:
        if os.name != "posix" or os.geteuid() != 0 or shutil.which("setpriv") is None:
            unable("only root can be several users: what one can do to another's emulator is not tested")
        self.number, self.group = number, group

    def home(self, parent: Path) -> Path:
        """A folder of this user's, which the group may write to, as a umask of 0002 makes it."""
        folder = parent / f"home-{self.number}"
        folder.mkdir()
        folder.chmod(0o775)
        os.chown(folder, self.number, self.group)
        return folder

    def does(self, *command: str) -> subprocess.CompletedProcess[str]:
        """What comes of a command of the system's own that this user runs."""
        return subprocess.run(
            command, user=self.number, group=self.group, extra_groups=[], umask=0o002,
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    def starts(self, work: Path) -> str:
        """The process ID of the emulator that this user's first cell starts, or the sentence that it ends with.

        Python may be installed where only root can read (in root's own home): so this one process may read everything,
        and the emulator that it starts too. It has no other power over files that are not its user's.
        """
        powers = ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search", "--bounding-set"]
        command = ["setpriv", "--reuid", str(self.number), "--regid", str(self.group), "--clear-groups"]
        command += [*powers, "-all,+dac_read_search", sys.executable, "-c", START]
        package = str(Path(__file__).parents[2])
        environment = {**os.environ, "HOME": str(work.parent), "DPSX_WORK_DIR": str(work), "PYTHONPATH": package}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd="/")
        return str(json.loads(done.stdout))
