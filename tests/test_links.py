"""`dpsx links`: from the address of a remote, in every form that git takes, to links that can be pasted."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from dpsx_helpers import links
from dpsx_helpers.errors import LearnerError
from dpsx_helpers.lab import FIRST

ROOT = Path(__file__).parents[1]
LANDING = f"lab/tree/notebooks/{FIRST}"
SECRET = "ghp-canary-8c1f"

# --- the remote -------------------------------------------------------------------------------------------------------

ADDRESSES = {
    "https://github.com/owner/dpsx": "https://github.com/owner/dpsx",
    "https://github.com/owner/dpsx.git": "https://github.com/owner/dpsx.git",
    "https://github.com/owner/dpsx/": "https://github.com/owner/dpsx",
    "http://github.com/owner/dpsx": "https://github.com/owner/dpsx",
    "https://GitHub.com:443/owner/dpsx": "https://github.com/owner/dpsx",
    "https://www.github.com/owner/dpsx": "https://github.com/owner/dpsx",
    "git://github.com/owner/dpsx.git": "https://github.com/owner/dpsx.git",
    "git@github.com:owner/dpsx.git": "https://github.com/owner/dpsx.git",
    "github.com:owner/dpsx.git": "https://github.com/owner/dpsx.git",
    "git@github.com:/owner/dpsx": "https://github.com/owner/dpsx",
    "ssh://git@github.com/owner/dpsx.git": "https://github.com/owner/dpsx.git",
    "git+ssh://git@github.com/owner/dpsx.git": "https://github.com/owner/dpsx.git",
    "ssh://git@ssh.github.com:443/owner/dpsx.git": "https://github.com/owner/dpsx.git",
    "ssh://git@altssh.gitlab.com:443/group/dpsx.git": "https://gitlab.com/group/dpsx.git",
    f"https://user:{SECRET}@github.com/owner/dpsx.git": "https://github.com/owner/dpsx.git",
    f"https://{SECRET}@github.com/owner/dpsx.git": "https://github.com/owner/dpsx.git",
    f"https://user:{SECRET}%40x@git.example.org/owner/dpsx": "https://git.example.org/owner/dpsx",
    f"https://git.example.org/dpsx?private_token={SECRET}#{SECRET}": "https://git.example.org/dpsx",
    f"oauth2:{SECRET}@gitlab.com:group/dpsx.git": "https://gitlab.com/group/dpsx.git",
    f"ssh://user:{SECRET}@git.example.org:2222/team/dpsx.git": "https://git.example.org/team/dpsx.git",
    "git@gitlab.com:group/sub/dpsx.git": "https://gitlab.com/group/sub/dpsx.git",
    "git@git.example.org:dpsx.git": "https://git.example.org/dpsx.git",
    "https://git.example.org:8443/git/dpsx": "https://git.example.org:8443/git/dpsx",
    "http://git.example.org/dpsx": "http://git.example.org/dpsx",
    "https://git.example.org/my%20team/d(p)sx": "https://git.example.org/my%20team/d%28p%29sx",
    "https://[2001:db8::1]:8443/dpsx": "https://[2001:db8::1]:8443/dpsx",
    "git@[2001:db8::1]:dpsx": "https://[2001:db8::1]/dpsx",
    "git@gist.github.com:0123456789abcdef.git": "https://gist.github.com/0123456789abcdef.git",
}


@pytest.mark.parametrize("remote", ADDRESSES)
def test_a_remote_becomes_an_address_that_others_can_clone_from_without_credentials(remote: str) -> None:
    found = links.repository(remote)
    assert found.address == ADDRESSES[remote]
    assert found.folder in ("dpsx", "d(p)sx", "0123456789abcdef")
    for made in (found.address, links.binder(found, "main"), links.git_pull(found, "main"), repr(found)):
        assert SECRET not in made


LOCAL = "is a folder on this computer: push it to a place that others can reach, and name that with `git remote set-url"
ALONE = "a name that only this computer knows: push it to a place that others can reach, and name that with"
NOTHING = "is none that others can clone from: name one that begins with https:// by `git remote set-url origin"
NAMELESS = "names no repository: look at it with `git remote -v`"
REFUSED = {
    "/srv/git/dpsx.git": LOCAL,
    "../dpsx": LOCAL,
    "./dpsx:main": LOCAL,
    "~/dpsx": LOCAL,
    "dpsx": LOCAL,
    "folder/with:colon": LOCAL,
    "file:///srv/git/dpsx.git": LOCAL,
    "FILE:///srv/git/dpsx.git": LOCAL,
    "C:\\work\\dpsx": LOCAL,
    "C:/work/dpsx": LOCAL,
    "\\\\server\\share\\dpsx": LOCAL,
    "https://localhost/owner/dpsx": ALONE,
    "https://dev.localhost/owner/dpsx": ALONE,
    "http://127.0.0.1:3000/owner/dpsx": ALONE,
    "http://[::1]/owner/dpsx": ALONE,
    "git@work:owner/dpsx.git": ALONE,
    "ext::sh -c something": LOCAL,
    "ftp://example.org/dpsx": NOTHING,
    "https:///owner/dpsx": NOTHING,
    "https://git.example.org:port/dpsx": NOTHING,
    "https://git.exam ple.org/dpsx": NOTHING,
    "https://git.example.org": NAMELESS,
    "https://git.example.org/.git": NAMELESS,
    "https://git.example.org/a/../dpsx": NAMELESS,
    "https://git.example.org/a%0Ab": NAMELESS,
    "https://github.com/dpsx": "is owner/repository and no more or less: mend it",
    "https://github.com/owner/dpsx/tree/main": "is owner/repository and no more or less: mend it",
}


@pytest.mark.parametrize("remote", REFUSED)
def test_what_others_cannot_reach_is_refused_in_one_line(remote: str) -> None:
    with pytest.raises(LearnerError) as refused:
        links.repository(remote)
    assert REFUSED[remote] in (told := str(refused.value))
    assert "\n" not in told
    assert told.endswith(".")


def test_a_refusal_does_not_show_what_is_in_the_address() -> None:
    for remote in (f"https://x:{SECRET}@localhost/a/b", f"ftp://x:{SECRET}@example.org/a", f"/srv/{SECRET}"):
        with pytest.raises(LearnerError) as refused:
            links.repository(remote)
        assert SECRET not in str(refused.value)
        assert SECRET not in repr(refused.value.__context__)


# --- the links --------------------------------------------------------------------------------------------------------

PROVIDERS = {
    "git@github.com:owner/dpsx.git": "/v2/gh/owner/dpsx/main",
    "https://gitlab.com/group/sub/dpsx.git": "/v2/gl/group%2Fsub%2Fdpsx/main",
    "https://gist.github.com/owner/0123456789abcdef.git": "/v2/gist/owner/0123456789abcdef/main",
    "https://git.example.org/team/dpsx.git": "/v2/git/https%3A%2F%2Fgit.example.org%2Fteam%2Fdpsx.git/main",
    "git@gist.github.com:0123456789abcdef.git": "/v2/git/https%3A%2F%2Fgist.github.com%2F0123456789abcdef.git/main",
}


@pytest.mark.parametrize("remote", PROVIDERS)
def test_binder_is_asked_by_the_provider_that_knows_the_host(remote: str) -> None:
    address = urlsplit(links.binder(links.repository(remote), "main"))
    assert (address.scheme, address.netloc, address.path) == ("https", "mybinder.org", PROVIDERS[remote])
    assert parse_qs(address.query) == {"urlpath": [LANDING]}


def test_every_link_opens_a_notebook_that_exists() -> None:
    assert (ROOT / LANDING.removeprefix("lab/tree/")).is_file()
    found = links.repository("git@github.com:owner/dpsx.git")
    pulled = urlsplit(f"https://hub.example.org/{links.git_pull(found, 'main')}")
    assert parse_qs(pulled.query) == {
        "repo": ["https://github.com/owner/dpsx.git"],
        "branch": ["main"],
        "urlpath": [f"lab/tree/dpsx/notebooks/{FIRST}"],
    }
    assert "branch" not in links.git_pull(found, None)


def test_odd_names_are_quoted_so_that_markdown_and_queries_stay_whole() -> None:
    found = links.repository("https://git.example.org/a&b/d(p)s%23x")
    made = links.binder(found, "feature/#1)") + links.git_pull(found, "a&repo=b")
    assert not set(made) & set("()# <>[]")
    assert parse_qs(links.git_pull(found, "a&repo=b").partition("?")[2])["branch"] == ["a&repo=b"]
    assert "/feature/%231%29?" in links.binder(found, "feature/#1)")


HUBS = {
    "https://hub.example.org": "https://hub.example.org",
    "https://hub.example.org/": "https://hub.example.org",
    "https://hub.example.org/hub/home": "https://hub.example.org",
    "https://hub.example.org/jupyter/hub/spawn?next=%2F": "https://hub.example.org/jupyter",
    "http://192.0.2.7:8000/hub": "http://192.0.2.7:8000",
    "http://localhost:8000": "http://localhost:8000",
    f"https://user:{SECRET}@hub.example.org/hub/": "https://hub.example.org",
    " https://hub.example.org/hubble ": "https://hub.example.org/hubble",
}


@pytest.mark.parametrize("text", HUBS)
def test_the_address_of_a_hub_is_taken_as_it_stands_in_a_browser(text: str) -> None:
    assert links.hub_address(text) == HUBS[text]


@pytest.mark.parametrize(
    "text", ["", "hub.example.org", "ftp://hub.example.org", "https://", "https://a b", "javascript:x"]
)
def test_anything_else_is_no_address_of_a_hub(text: str) -> None:
    with pytest.raises(LearnerError, match=r"no address of a JupyterHub: give one such as https://"):
        links.hub_address(text)


# --- clones -----------------------------------------------------------------------------------------------------------


def git(folder: Path, *arguments: str) -> str:
    """git as on a machine of which nobody has configured anything."""
    done = subprocess.run(
        ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "init.defaultBranch=main", *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone whose branch main is pushed. Its remote has the address of one at GitHub."""
    git(tmp_path, "init", "-q", "--bare", "server.git")
    folder = tmp_path / "clone"
    (folder / "notebooks").mkdir(parents=True)
    (folder / "notebooks" / FIRST).write_text("{}")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    git(folder, "remote", "add", "origin", str(tmp_path / "server.git"))
    git(folder, "push", "-q", "-u", "origin", "main")
    git(folder, "remote", "set-url", "origin", f"https://user:{SECRET}@github.com/owner/dpsx.git")
    return folder


def commit(folder: Path) -> None:
    git(folder, "commit", "-q", "--allow-empty", "-m", "more")


def test_a_branch_that_is_pushed_is_linked_without_a_warning(clone: Path) -> None:
    made = links.make(clone)
    assert (made.repository, made.revision, made.warnings) == ("https://github.com/owner/dpsx.git", "main", ())
    assert made.commit == git(clone, "rev-parse", "HEAD")
    assert made.badge == f"[![Binder](https://mybinder.org/badge_logo.svg)]({made.binder})"
    assert urlsplit(made.binder).path == "/v2/gh/owner/dpsx/main"
    assert made.nbgitpuller.startswith("http://localhost:8888/git-pull?repo=")
    assert made.jupyterhub.startswith("https://hub.example.org/hub/user-redirect/git-pull?repo=")
    assert links.make(clone, "https://school.example.org/hub/home").jupyterhub == made.jupyterhub.replace(
        "hub.example.org", "school.example.org"
    )
    assert SECRET not in made.as_text() + made.as_json()


def test_a_commit_that_is_not_pushed_is_warned_of(clone: Path) -> None:
    commit(clone)
    (warning,) = links.make(clone).warnings
    assert warning.startswith(f"Commit {git(clone, 'rev-parse', '--short=7', 'HEAD')} is not in origin/main, as far as")
    assert "`git push`" in warning


def test_a_branch_that_was_never_pushed_is_warned_of(clone: Path) -> None:
    git(clone, "switch", "-q", "-c", "feature/new")
    made = links.make(clone)
    assert (made.revision, urlsplit(made.binder).path) == ("feature/new", "/v2/gh/owner/dpsx/feature/new")
    assert "is not in origin/feature/new" in made.warnings[0]


def test_a_branch_is_named_as_its_remote_names_it(clone: Path) -> None:
    git(clone, "branch", "-q", "-m", "mine")
    made = links.make(clone)
    assert (made.revision, made.warnings) == ("main", ())


def test_the_remote_that_the_branch_follows_wins_over_origin(clone: Path) -> None:
    git(clone, "remote", "add", "school", "git@gitlab.com:group/dpsx.git")
    git(clone, "config", "branch.main.remote", "school")
    assert urlsplit(links.make(clone).binder).path == "/v2/gl/group%2Fdpsx/main"
    git(clone, "config", "branch.main.remote", ".")  # it follows a branch of this very clone
    assert urlsplit(links.make(clone).binder).path == "/v2/gh/owner/dpsx/main"


def test_without_a_branch_binder_gets_the_commit_and_the_puller_a_branch_that_has_it(clone: Path) -> None:
    git(clone, "checkout", "-q", "--detach")
    made = links.make(clone)
    assert made.revision == made.commit
    assert urlsplit(made.binder).path == f"/v2/gh/owner/dpsx/{made.commit}"
    assert parse_qs(urlsplit(made.jupyterhub).query)["branch"] == ["main"]
    (warning,) = made.warnings
    assert warning == "No branch is checked out: Binder builds this commit, and nbgitpuller pulls the branch main."
    commit(clone)
    first, second = links.make(clone).warnings
    assert "is not in origin, as far as this clone knows" in first
    assert "nbgitpuller pulls the branch that the server takes by itself" in second


def nothing(folder: Path) -> None:
    """There is no repository at all."""
    (folder / ".git").rename(folder / "not-git")


def no_commit(folder: Path) -> None:
    nothing(folder)
    git(folder, "init", "-q")


def no_remote(folder: Path) -> None:
    git(folder, "remote", "remove", "origin")


def local_remote(folder: Path) -> None:
    git(folder, "remote", "set-url", "origin", str(folder.parent / "server.git"))


def two_remotes(folder: Path) -> None:
    git(folder, "remote", "rename", "origin", "one")
    git(folder, "remote", "add", "two", "https://github.com/owner/two")
    git(folder, "config", "--unset", "branch.main.remote")


def inside_another(folder: Path) -> None:
    nothing(folder)
    git(folder.parent, "init", "-q")
    git(folder.parent, "add", "clone")
    git(folder.parent, "commit", "-q", "-m", "all")


WITHOUT: dict[str, tuple[Callable[[Path], None], str]] = {
    "no clone": (nothing, "is no clone that git can read: fetch the tutorial with `git clone`"),
    "a clone without a commit": (no_commit, "is no clone that git can read"),
    "no remote": (no_remote, "This clone has no remote to link to: push it"),
    "a remote on this computer": (local_remote, LOCAL),
    "two remotes, neither of them origin": (two_remotes, "This clone has no remote to link to"),
    "a folder in another clone": (inside_another, "lies inside another clone"),
}


@pytest.mark.parametrize("lack", WITHOUT)
def test_a_clone_that_cannot_be_linked_says_so_in_one_line(
    lack: str, clone: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dpsx_helpers.__main__ import main

    spoil, told = WITHOUT[lack]
    spoil(clone)
    monkeypatch.chdir(clone)
    assert main(["links"]) == 1
    said = capfd.readouterr()
    assert said.out == ""
    assert told in said.err
    assert said.err.count("\n") == 1


def test_without_git_one_line_says_so(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(clone))
    with pytest.raises(LearnerError, match=r"^git was not found: install it .* start dpsx again\.$"):
        links.make(clone)


# --- the command ------------------------------------------------------------------------------------------------------


def dpsx(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dpsx_helpers", "links", *arguments],
        cwd=folder / "notebooks",
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


def test_the_command_prints_what_can_be_pasted_and_warns_beside_it(clone: Path) -> None:
    commit(clone)
    done = dpsx(clone, "--hub", "https://school.example.org")
    assert done.returncode == 0
    assert done.stderr.startswith("Commit ")
    assert done.stderr.count("\n") == 1
    made = links.make(clone, "https://school.example.org")
    assert {made.badge, made.nbgitpuller, made.jupyterhub} <= set(done.stdout.splitlines())
    assert SECRET not in done.stdout + done.stderr


def test_the_command_has_json_too(clone: Path) -> None:
    document = json.loads(dpsx(clone, "--json").stdout)
    assert document["version"] == 1
    assert document["badge"] == links.make(clone).badge
    assert document["warnings"] == []


def test_a_wrong_hub_is_told_in_one_line(clone: Path) -> None:
    done = dpsx(clone, "--hub", "school")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "What --hub says is no address of a JupyterHub: give one such as https://hub.example.org.\n"
