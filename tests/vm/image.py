"""The virtual machines' disk and kernel: Debian 13 as it comes, with systemd and its own CRIU.

Built once and kept in the lab's cache; another recipe means another build. The kernel is unpacked
here, and so are its modules: QEMU without KVM needs 20 s for what takes this machine one.
"""

from __future__ import annotations

import hashlib
import inspect
import lzma
import os
import shutil
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import zstandard

from tests.lab.tree import CACHE, PACKAGES, bootstrap, locked, mirror

SUITE = "trixie"
# What a machine has and a namespace has not; apparmor as every installed Debian has it.
SYSTEM = (
    "systemd systemd-sysv udev dbus kmod apparmor e2fsprogs iputils-ping linux-image-cloud-amd64"
).split()
DISK = 8 << 30

# Nobody waits for these in a machine that lives for minutes. tmp.mount: it would be half of the
# memory. systemd-udev-trigger: it looks at every device of a machine whose few are known.
MASKED = """
apparmor.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer
e2scrub_reap.service fstrim.timer getty@tty1.service getty-static.service ldconfig.service
serial-getty@ttyS0.service ssh.socket sshd-keygen.service systemd-binfmt.service
modprobe@drm.service sys-fs-fuse-connections.mount sys-kernel-config.mount
systemd-firstboot.service systemd-hwdb-update.service systemd-journal-catalog-update.service
systemd-pcrmachine.service systemd-pcrphase.service systemd-pcrphase-sysinit.service
systemd-pstore.service systemd-tmpfiles-clean.timer systemd-tpm2-setup.service
systemd-tpm2-setup-early.service systemd-udev-trigger.service systemd-update-done.service tmp.mount
""".split()

# The second disk is a tar: what differs from machine to machine (machine.py), and the tool.
SEED_UNIT = """\
[Unit]
Description=Unpack what makes this machine this machine
DefaultDependencies=no
Requires=systemd-remount-fs.service systemd-modules-load.service
After=systemd-remount-fs.service systemd-modules-load.service
Before=sysinit.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=tar -C / -xf /dev/vda
ExecStart=sh /etc/vm/network
[Install]
WantedBy=sysinit.target
"""
FILES = {
    "etc/systemd/system/vm-seed.service": SEED_UNIT,
    "etc/fstab": "",
    "etc/modules-load.d/vm.conf": "virtio_net\nvirtio_blk\n",
    "etc/ssh/sshd_config.d/vm.conf": "UseDNS no\nMaxSessions 100\nHostKey "
    "/etc/ssh/ssh_host_ed25519_key\n",
    "etc/systemd/journald.conf.d/vm.conf": "[Journal]\nStorage=volatile\n",
    # A container of a machine that is 20 times slower than others takes its time to start and end.
    "etc/systemd/system.conf.d/vm.conf": "[Manager]\nDefaultTimeoutStartSec=600s\n",
}


@dataclass(frozen=True)
class VmImage:
    """`tree` is what the disk was made of: the tool and the containers' image are made from it."""

    tree: Path
    kernel: Path
    disk: Path


def recipe_digest() -> str:
    recipe = (PACKAGES, SYSTEM, DISK, MASKED, FILES, inspect.getsource(sys.modules[__name__]))
    return hashlib.sha256(repr(recipe).encode()).hexdigest()[:16]


def image() -> VmImage:
    """The finished image; built when absent (about 70 s, 1.3 GB)."""
    home = CACHE / f"vm-{recipe_digest()}"
    # The tree's name is that of what is made from it (tests/lab/tool.py, images.py).
    found = VmImage(home / home.name, home / "vmlinux", home / "disk.img")
    with locked(CACHE / ".vm.lock"):
        if not home.exists():
            # The newest of the old ones stays: machines of another checkout may run on it.
            for old in sorted(CACHE.glob("vm-*"), key=lambda path: path.stat().st_ctime)[:-1]:
                shutil.rmtree(old, ignore_errors=True)
            building = CACHE / f".building-{home.name}"
            shutil.rmtree(building, ignore_errors=True)
            building.mkdir(parents=True)
            _build(VmImage(*(building / path.name for path in vars(found).values())))
            building.rename(home)
    return found


def _build(into: VmImage) -> None:
    bootstrap(
        into.tree, SUITE, [*PACKAGES, *SYSTEM], [f"deb {mirror()} {SUITE} main"], hooks=[]
    )  # fmt: skip
    (kernel,) = (into.tree / "boot").glob("vmlinuz-*")
    into.kernel.write_bytes(unpacked_kernel(kernel.read_bytes()))
    kernel.unlink()
    for packed in (into.tree / "boot").glob("initrd.img-*"):
        packed.unlink()
    _unpack_modules(into.tree)
    _dress(into.tree)
    with into.disk.open("wb") as disk:
        disk.truncate(DISK)
    subprocess.run(
        ["mkfs.ext4", "-q", "-F", "-L", "root", "-d", str(into.tree), str(into.disk)],
        check=True, capture_output=True, timeout=300,
    )  # fmt: skip


def unpacked_kernel(bzimage: bytes) -> bytes:
    """The ELF kernel within a bzImage, which says itself where (Documentation/arch/x86/boot.rst).

    Raises ValueError when it is no such file, or packed with something else than zstd.
    """
    if bzimage[0x202:0x206] != b"HdrS":
        raise ValueError("this is no bzImage")
    sectors = bzimage[0x1F1] or 4
    offset, length = struct.unpack_from("<II", bzimage, 0x248)
    start = (sectors + 1) * 512 + offset
    payload = bzimage[start : start + length]
    if payload[:4] != b"\x28\xb5\x2f\xfd":
        raise ValueError("the kernel is not packed with zstd")
    # After the frame comes its unpacked size, which decompressobj leaves alone.
    return zstandard.ZstdDecompressor().decompressobj().decompress(payload)


def _unpack_modules(tree: Path) -> None:
    def unpack(packed: Path) -> None:
        packed.with_suffix("").write_bytes(lzma.decompress(packed.read_bytes()))
        packed.unlink()

    modules = tree / "usr/lib/modules"
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(unpack, modules.rglob("*.ko.xz")))
    (version,) = modules.iterdir()
    subprocess.run(["chroot", str(tree), "depmod", version.name], check=True, timeout=120)


def _dress(tree: Path) -> None:
    for name, text in FILES.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for unit in MASKED:
        link = tree / "etc/systemd/system" / unit
        link.unlink(missing_ok=True)
        link.symlink_to("/dev/null")
    wants = tree / "etc/systemd/system/sysinit.target.wants"
    wants.mkdir(parents=True, exist_ok=True)
    (wants / "vm-seed.service").symlink_to("/etc/systemd/system/vm-seed.service")
    for key in (tree / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    (tree / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
    # Else systemd takes the first boot for one, and asks.
    (tree / "etc/machine-id").write_text("")
