"""Links that open this very clone on Binder, behind nbgitpuller and on a JupyterHub: `dpsx links`.

Text in, text out, but for `of_clone`, which asks git about the clone. Nothing is asked over the network, and nothing
that could be a credential is in a link.
"""

import ipaddress
import json
import os
import re
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlencode, urlsplit

from dpsx_helpers.errors import LearnerError
from dpsx_helpers.lab import FIRST

BINDER = "https://mybinder.org"
#: Where `jupyter lab` listens when nobody says otherwise, and a hub that everybody has to replace by their own.
SERVER, HUB = "http://localhost:8888", "https://hub.example.org"
_LANDING = f"notebooks/{FIRST}"
# Names under which the same service takes SSH where a firewall lets only port 443 through, and another of its names.
_SAME = {"ssh.github.com": "github.com", "www.github.com": "github.com", "altssh.gitlab.com": "gitlab.com"}
_PUBLIC = ("github.com", "gist.github.com", "gitlab.com")
_SCHEMES = ("https", "http", "ssh", "git", "git+ssh", "ssh+git")
_SCP = re.compile(r"(?:[^@/]*@)?(\[[0-9A-Fa-f:.]+\]|[^@/:]+):(?!:)(.+)")
_ELSEWHERE = "push it to a place that others can reach, and name that with `git remote set-url {remote} ADDRESS`"


class LinkError(LearnerError):
    """No link can be made. One sentence."""


@dataclass(frozen=True)
class Repository:
    """Where others find it: `address` is what `git clone` takes over HTTP(S), without any credential."""

    address: str
    host: str
    parts: tuple[str, ...]

    @property
    def folder(self) -> str:
        """The folder that `git clone` makes of it."""
        return self.parts[-1]


@dataclass(frozen=True)
class Links:
    """What to paste. `revision` is what Binder builds: a branch, or a commit where none is checked out."""

    repository: str
    revision: str
    commit: str
    binder: str
    badge: str
    nbgitpuller: str
    jupyterhub: str
    warnings: tuple[str, ...]

    def as_text(self) -> str:
        at = f"branch {self.revision} (commit {self.commit[:7]})" if self.revision != self.commit else self.commit
        instead = f"; put the address of your hub in place of {HUB}, or give it with --hub"
        return "\n".join(
            [
                f"{self.repository}, {at}",
                "",
                "Binder, as a badge in Markdown:",
                self.badge,
                "",
                f"nbgitpuller, on a Jupyter server that has it (here at {SERVER}):",
                self.nbgitpuller,
                "",
                f"JupyterHub with nbgitpuller{instead if self.jupyterhub.startswith(HUB) else ''}:",
                self.jupyterhub,
            ]
        )

    def as_json(self) -> str:
        return json.dumps({"version": 1, **asdict(self)}, indent=2)


def make(folder: Path, hub: str | None = None) -> Links:
    """The links for the clone at `folder`, and for the JupyterHub at this address."""
    base = HUB if hub is None else hub_address(hub)
    clone = of_clone(folder)
    found = repository(clone.address, clone.remote)
    opened = binder(found, clone.branch or clone.commit)
    pulled = git_pull(found, clone.pulled)
    return Links(
        repository=found.address,
        revision=clone.branch or clone.commit,
        commit=clone.commit,
        binder=opened,
        badge=f"[![Binder]({BINDER}/badge_logo.svg)]({opened})",
        nbgitpuller=f"{SERVER}/{pulled}",
        jupyterhub=f"{base}/hub/user-redirect/{pulled}",
        warnings=clone.warnings,
    )


def binder(found: Repository, revision: str) -> str:
    """The address that builds `revision` and opens JupyterLab on the first notebook.

    Providers: https://binderhub.readthedocs.io/en/latest/reference/repoproviders.html; `urlpath`:
    https://repo2docker.readthedocs.io/en/latest/howto/user_interface.html.
    """
    owner = "/".join(found.parts)
    if found.host == "github.com" and len(found.parts) == 2:
        kind, name = "gh", quote(owner)
    elif found.host == "gist.github.com" and len(found.parts) == 2:
        kind, name = "gist", quote(owner)
    elif found.host == "gitlab.com":
        kind, name = "gl", quote(owner, safe="")
    else:
        kind, name = "git", quote(found.address, safe="")
    return f"{BINDER}/v2/{kind}/{name}/{quote(revision)}?{urlencode({'urlpath': f'lab/tree/{_LANDING}'})}"


def git_pull(found: Repository, branch: str | None) -> str:
    """What stands behind the address of a server with nbgitpuller.

    https://nbgitpuller.readthedocs.io/en/latest/topic/url-options.html
    """
    options = {"repo": found.address, "urlpath": f"lab/tree/{found.folder}/{_LANDING}"}
    return f"git-pull?{urlencode(options | ({'branch': branch} if branch else {}))}"


def hub_address(text: str) -> str:
    """The address of a hub without what it may end in: `https://hub.example.org/jupyter/hub/home` has its hub at
    `https://hub.example.org/jupyter`.
    """
    scheme, host, path = _split(text.strip())
    if scheme not in ("https", "http") or not host:
        raise LinkError(f"What --hub says is no address of a JupyterHub: give one such as {HUB}.")
    path = re.sub(r"/hub(?:/.*)?$", "", path.rstrip("/"))
    return f"{scheme}://{host}{quote(path)}"


def repository(remote_address: str, remote: str = "origin") -> Repository:
    """The repository behind the address of a git remote, in any form that git takes.

    LinkError for what only this computer understands: paths, `file:`, this machine's own addresses, names from the
    configuration of SSH.
    """
    text, elsewhere = remote_address.strip(), _ELSEWHERE.format(remote=remote)
    if "://" in text:
        scheme, host, path = _split(text)
    elif re.match(r"[./~\\]|[A-Za-z]:[\\/]", text) or not (found := _SCP.fullmatch(text)):
        scheme, host, path = "file", "", ""
    else:
        scheme, host, path = "ssh", found[1].lower(), found[2]
    if scheme == "file":
        raise LinkError(f"The remote {remote} is a folder on this computer: {elsewhere}.")
    if scheme not in _SCHEMES or not host:
        raise LinkError(
            f"The address of the remote {remote} is none that others can clone from: name one that begins with "
            f"https:// by `git remote set-url {remote} ADDRESS`."
        )
    if scheme not in ("https", "http"):
        host = re.sub(r":\d+$", "", host)  # the port of another protocol
    host = _SAME.get(host, host)
    if _is_here(host):
        raise LinkError(f"The remote {remote} is at {host}, a name that only this computer knows: {elsewhere}.")
    parts = tuple(part for part in path.split("/") if part)
    bare = (*parts[:-1], parts[-1].removesuffix(".git")) if parts else ()
    if not all(bare) or not bare or not path.isprintable() or {".", ".."} & set(bare):
        raise LinkError(
            f"The address of the remote {remote} names no repository: look at it with `git remote -v`, and mend it "
            f"with `git remote set-url {remote} ADDRESS`."
        )
    if host == "github.com" and len(bare) != 2:
        raise LinkError(
            f"The remote {remote} is at github.com, where an address is owner/repository and no more or less: mend it "
            f"with `git remote set-url {remote} ADDRESS`."
        )
    kept = "http" if scheme == "http" and host not in _PUBLIC else "https"
    return Repository(f"{kept}://{host}/{quote('/'.join(parts))}", host, bare)


def _split(text: str) -> tuple[str, str, str]:
    """(scheme, host with its port, path) of a URL: user, password, query and fragment are left out. A host that
    nothing can be called is "".
    """
    try:
        place = urlsplit(text)
        host, port = place.hostname or "", place.port
    except ValueError:
        return "", "", ""
    if not re.fullmatch(r"[A-Za-z0-9.:_-]+", host):
        return place.scheme, "", ""
    host = f"[{host}]" if ":" in host else host
    usual = {"https": 443, "http": 80}.get(place.scheme)
    return place.scheme, host if port in (None, usual) else f"{host}:{port}", unquote(place.path)


def _is_here(host: str) -> bool:
    """Whether a host is this computer, or a name without a domain, as the configuration of SSH may hold it."""
    name = re.sub(r":\d+$", "", host).strip("[]")
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return "." not in name or name.endswith(".localhost")


# --- the clone --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Clone:
    """What git knows of a clone. `pulled` is the branch that nbgitpuller, which takes no commits, is to pull."""

    remote: str
    address: str
    branch: str | None
    commit: str
    pulled: str | None
    warnings: tuple[str, ...]


def of_clone(folder: Path) -> Clone:
    """The clone at `folder`, as far as it knows without asking the network. LinkError when it is none."""
    top = _git(folder, "rev-parse", "--show-toplevel")
    commit = top and _git(folder, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    if not top or not commit:
        raise LinkError(
            f"{folder} is no clone that git can read: fetch the tutorial with `git clone`, and start dpsx there."
        )
    if not os.path.samefile(top, folder):
        raise LinkError(
            f"{folder} lies inside another clone ({top}), and Binder looks for the folder binder/ at the top of one: "
            "give the tutorial a repository of its own."
        )
    local = _git(folder, "symbolic-ref", "--quiet", "--short", "HEAD")
    remote = _remote(folder, local)
    address = _git(folder, "remote", "get-url", remote)
    if not address:
        raise LinkError(f"The remote {remote} has no address: give it one with `git remote set-url {remote} ADDRESS`.")
    known = _branches(folder, remote, commit)
    if local is None:
        pulled, where = _default(folder, remote, known), remote
    else:
        pulled = _upstream(folder, local)
        where = f"{remote}/{pulled}"
    warnings = []
    if not known or (local is not None and pulled not in known):
        warnings.append(
            f"Commit {commit[:7]} is not in {where}, as far as this clone knows: `git push` before you hand out the "
            "links."
        )
    if local is None:
        which = f"the branch {pulled}" if pulled else "the branch that the server takes by itself"
        warnings.append(f"No branch is checked out: Binder builds this commit, and nbgitpuller pulls {which}.")
    return Clone(remote, address, pulled if local else None, commit, pulled, tuple(warnings))


def _remote(folder: Path, branch: str | None) -> str:
    """The remote that the branch follows, else origin, else the only one."""
    names = (_git(folder, "remote") or "").splitlines()
    followed = _git(folder, "config", f"branch.{branch}.remote") if branch else None
    for name in (followed, "origin"):
        if name in names:
            return str(name)
    if len(names) == 1:
        return names[0]
    raise LinkError(
        "This clone has no remote to link to: push it to a place that others can reach, with `git remote add origin "
        "ADDRESS` and `git push -u origin HEAD`."
    )


def _upstream(folder: Path, branch: str) -> str:
    """The name of the branch on its remote."""
    return (_git(folder, "config", f"branch.{branch}.merge") or branch).removeprefix("refs/heads/")


def _branches(folder: Path, remote: str, commit: str) -> list[str]:
    """The branches of the remote that hold this commit, as this clone last saw them."""
    place = f"refs/remotes/{remote}/"
    found = _git(folder, "for-each-ref", "--contains", commit, "--format=%(refname)", place) or ""
    return [name for line in found.splitlines() if (name := line.removeprefix(place)) != "HEAD"]


def _default(folder: Path, remote: str, known: list[str]) -> str | None:
    """For a commit without a branch: the remote's own choice, if it has the commit, else any branch that has it."""
    head = (_git(folder, "symbolic-ref", "--quiet", f"refs/remotes/{remote}/HEAD") or "").rpartition("/")[2]
    return head if head in known or not known else known[0]


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints; None when it refuses. The clone is the folder's, whatever a surrounding git has exported."""
    program = shutil.which("git")
    if program is None:
        raise LinkError("git was not found: install it (https://git-scm.com/download/) and start dpsx again.")
    own = {name: value for name, value in os.environ.items() if name not in ("GIT_DIR", "GIT_WORK_TREE")}
    command = [program, "-C", str(folder), *arguments]
    done = subprocess.run(command, env=own | {"LC_ALL": "C"}, capture_output=True, encoding="utf-8", check=False)
    if "dubious ownership" in done.stderr:
        raise LinkError(
            f"{folder} belongs to another user, so git does not read it: run `git config --global --add safe.directory "
            f"{folder}` if you trust it, and start dpsx again."
        )
    return done.stdout.strip() or None if done.returncode == 0 else None
