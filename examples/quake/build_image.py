"""Make the image of a Quake 3 server from Debian's packages, without docker.

    python3 -m examples.quake.build_image OUT.tar [--cache DIR]
    docker import OUT.tar quake && docker run ... quake /usr/lib/ioquake3/ioq3ded ... (`command`)

Inside are the engine ioq3ded (ioquake3-server), the game code of OpenArena (openarena-server), one
map and the bots' brains (openarena-081-maps, -misc), and the libraries that the engine names: all
of it free software from Debian main (GPL-2+, LGPL-2.1+, zlib). The packages are the ones of this
machine's own apt sources, so it needs `apt-get`, `dpkg-deb` and an `apt-get update` at some time
before, but no root and none of the packages installed.

How the server is called follows Debian's own starter, /usr/games/openarena-server: com_protocol and
com_legacyprotocol are both 71, which means "the network protocol of Quake III 1.32".
"""

from __future__ import annotations

import argparse
import hashlib
import io
import re
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from pathlib import Path

from migrate.run import run

# libc6 and zlib1g are what ioquake3-server depends on, and so are the whole set of its libraries.
PACKAGES = (
    "ioquake3-server",
    "openarena-server",
    "openarena-081-maps",
    "openarena-081-misc",
    "libc6",
    "zlib1g",
)
MAP = "oa_dm1"
BOTS = ("grunt", "sergei", "liz")
PORT = 27960

ENGINE = "/usr/lib/ioquake3/ioq3ded"
BASE = "/usr/lib/openarena-server"
HOME = "/var/games"

# What a server opens of the 70 MB of game data: pattern of the name in each package's pk3.
WANTED = {
    "pak1-maps.pk3": re.compile(rf"maps/{MAP}\.bsp"),
    "pak6-misc.pk3": re.compile(rf"maps/{MAP}\.aas|botfiles/.+\.[ch]|scripts/bots\.txt"),
}
# 1 January 1980, the oldest date a zip can hold: the same packages give the same bytes.
ZIP_DATE = (1980, 1, 1, 0, 0, 0)

DEFAULT_CACHE = Path.home() / ".cache" / "migrate-quake"


def command(
    rcon_password: str = "migrate", bots: tuple[str, ...] = BOTS, clients: int = 8
) -> list[str]:
    """The argv of the server: UDP port 27960, free for all on one map, no limit of time or frags.

    `rcon_password` opens the remote console to whoever knows it (an empty one closes it). No
    `bot_minplayers`: it would kick bots when people join, and the game would not be the same.
    """
    settings = {
        "com_basegame": "baseoa",
        "fs_basepath": BASE,
        "fs_homepath": HOME,
        "com_legacyprotocol": "71",
        "com_protocol": "71",
        # No master server: the game is nobody's business, and there may be no DNS to find it.
        "sv_master1": "",
        "dedicated": "1",
        # No console on the terminal: a container's stdin is usually closed or nobody's.
        "ttycon": "0",
        # 0: game code as a native library, not as bytecode; Debian ships no other.
        "vm_game": "0",
        "net_port": str(PORT),
        "sv_maxclients": str(clients),
        "bot_enable": "1",
        # The image has its own small pk3: a player cannot be asked to have the same one.
        "sv_pure": "0",
        "timelimit": "0",
        "fraglimit": "0",
        "rconpassword": rcon_password,
    }
    argv = [ENGINE]
    for name, value in settings.items():
        argv += ["+set", name, value]
    argv += ["+map", MAP]
    for bot in bots:
        argv += ["+addbot", bot, "4"]
    return argv


COMMAND: list[str] = command()


def build(out: Path, cache: Path = DEFAULT_CACHE) -> Path:
    """Write the tar of the root filesystem (about 6 MB) to `out` and give `out` back.

    The packages (about 70 MB) and the finished tar are kept in `cache`; a second call is a copy.
    A newer version of a package is not noticed: empty the cache for that. Raises `CommandFailed`
    when apt or dpkg fails, `FileNotFoundError` when a package no longer holds what is needed.
    """
    # The recipe is this file: whoever changes it gets a new image without thinking of the cache.
    recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    ready = cache / f"quake-{recipe}.tar"
    if not ready.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            unpacked = _unpack(_download(cache / "debs"), Path(scratch))
            partial = Path(scratch) / ready.name
            _write_tar(partial, _contents(unpacked))
            partial.rename(ready)
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(ready, out)
    return out


def _download(into: Path) -> list[Path]:
    into.mkdir(parents=True, exist_ok=True)
    missing = [name for name in PACKAGES if not list(into.glob(f"{name}_*.deb"))]
    if missing:
        # In a folder of its own until complete: a broken-off download is not taken for a package.
        with tempfile.TemporaryDirectory(dir=into) as scratch:
            subprocess.run(
                # As root, apt would fetch as user _apt, who may not write here.
                ["apt-get", "--quiet=2", "-o", "APT::Sandbox::User=root", "download", *missing],
                cwd=scratch,
                check=True,
                timeout=600,
            )
            for deb in Path(scratch).glob("*.deb"):
                deb.rename(into / deb.name)
    return [max(into.glob(f"{name}_*.deb")) for name in PACKAGES]


def _unpack(debs: list[Path], scratch: Path) -> Path:
    root = scratch / "root"
    for deb in debs:
        run(["dpkg-deb", "-x", str(deb), str(root)], timeout=120)
    return root


def _contents(unpacked: Path) -> dict[str, bytes | Path]:
    """What the image holds: path in the image -> bytes, or the file to take them from."""
    engine = unpacked / ENGINE.lstrip("/")
    game = _only(unpacked / BASE.lstrip("/") / "baseoa", "qagame*.so")
    return {
        ENGINE: engine,
        f"{BASE}/baseoa/{game.name}": game,
        f"{BASE}/baseoa/pak0.pk3": _small_pk3(unpacked / "usr/share/games/openarena/baseoa"),
        # glibc looks the user up for the default player's name; Docker for `--user root`.
        "/etc/passwd": b"root:x:0:0:root:/root:/bin/false\n",
        "/etc/group": b"root:x:0:\n",
        **_libraries(unpacked, [engine, game]),
    }


def _libraries(unpacked: Path, binaries: list[Path]) -> dict[str, bytes | Path]:
    """The loader and the libraries of `binaries`, from the packages and not from this machine.

    `ld.so --list` is what ldd calls (ld.so(8)); run from the package, with the package's library
    path, it names exactly the files that will be loaded in the image.
    """
    loader = _only(unpacked, "**/ld-linux*.so.*")
    places = sorted({str(path.parent) for path in unpacked.glob("**/lib*.so.*")})
    found: dict[str, bytes | Path] = {}
    for binary in binaries:
        listing = run([str(loader), "--library-path", ":".join(places), "--list", str(binary)])
        for name, target in re.findall(r"^\s*(\S+) => (\S+)", listing.stdout, re.MULTILINE):
            if not Path(target).is_relative_to(unpacked):
                raise FileNotFoundError(f"{name} is in none of the packages (found {target})")
            if Path(target) == loader:
                # The kernel finds the loader by the path in the engine's ELF header.
                found[name] = loader
            else:
                # The loader finds the rest: /lib is built into it on every architecture.
                found[f"/lib/{name}"] = Path(target)
    if loader not in found.values():
        raise FileNotFoundError(f"{binaries[0].name} names no loader")
    return found


def _small_pk3(data: Path) -> bytes:
    """One pk3 with only what the server reads, from the packages' large ones."""
    files = {
        # The engine refuses to start without one; the bindings in the real one are for players.
        "default.cfg": b"// a dedicated server needs no key bindings\n",
    }
    for name, pattern in WANTED.items():
        with zipfile.ZipFile(data / name) as pk3:
            files |= {file: pk3.read(file) for file in pk3.namelist() if pattern.fullmatch(file)}
    for needed in (f"maps/{MAP}.bsp", f"maps/{MAP}.aas", "scripts/bots.txt", "botfiles/items.c"):
        if needed not in files:
            raise FileNotFoundError(f"{needed} is in none of the packages")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as small:
        for file in sorted(files):
            info = zipfile.ZipInfo(file, ZIP_DATE)
            info.compress_type = zipfile.ZIP_DEFLATED
            small.writestr(info, files[file])
    return buffer.getvalue()


def _write_tar(out: Path, contents: dict[str, bytes | Path]) -> None:
    """A tar in a fixed order, of owner 0 and date 0: the same contents give the same bytes."""
    folders = {str(parent) for path in contents for parent in Path(path).parents} - {"/"}
    folders |= {HOME, "/tmp", "/proc", "/sys", "/dev"}
    folders |= {str(parent) for folder in folders for parent in Path(folder).parents} - {"/"}
    with tarfile.open(out, "w", format=tarfile.GNU_FORMAT) as tar:
        for folder in sorted(folders):
            entry = tarfile.TarInfo(folder.lstrip("/"))
            entry.type = tarfile.DIRTYPE
            entry.mode = 0o1777 if folder == "/tmp" else 0o755
            tar.addfile(entry)
        for path, source in sorted(contents.items()):
            body = source if isinstance(source, bytes) else source.read_bytes()
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.size = len(body)
            entry.mode = 0o644 if path.startswith("/etc/") or path.endswith(".pk3") else 0o755
            tar.addfile(entry, io.BytesIO(body))


def _only(folder: Path, pattern: str) -> Path:
    """The one regular file that matches; links to it do not count."""
    found = [path for path in sorted(folder.glob(pattern)) if not path.is_symlink()]
    if len(found) != 1:
        raise FileNotFoundError(f"expected one {pattern} in {folder}, found {len(found)}")
    return found[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Make the Quake 3 server's image for docker import."
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    args = parser.parse_args()
    print(build(args.out, args.cache))


if __name__ == "__main__":
    main()
