"""Whether two hosts are alike enough for this container. Pure: from facts to problems."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Set
from typing import Protocol

import msgspec

from migrate.container_spec import ContainerSpec
from migrate.errors import CriuUnfit, HostUnfit, NoSpace
from transport.errors import Failure


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


MAX_CLOCK_LAG = 1.0
"""Seconds. A destination whose clock is behind stalls timers for that long (shared/FACTS.md)."""

# x86 instruction sets by their names in /proc/cpuinfo. A program looks once, at its start, which of
# them it has (glibc picks its memcpy so), and dies of SIGILL when one is gone. Source: what
# `--cpu-cap=ins` compares, x86_ins_capability_mask in criu/arch/x86/cpu.c; CRIU itself compares
# only when the option is given, and runc does not give it, so this is the one check there is.
# Left out of CRIU's list: what only the kernel uses (sep, syscall, monitor, fsgsbase, tme, fpu...)
# and what runs as no operation elsewhere (mpx, 3dnowprefetch, _X86_HINTS). Added: what is newer
# than the list, and fma.
_X86_INSTRUCTIONS = _words(
    """
    tsc cx8 cmov clflush mmx fxsr sse sse2 mmxext rdtscp 3dnowext 3dnow nopl
    pni pclmulqdq ssse3 cx16 sse4_1 sse4_2 movbe popcnt aes xsave avx f16c rdrand
    lahf_lm abm sse4a misalignsse xop fma4 tbm fma
    bmi1 avx2 bmi2 rtm rdseed adx clflushopt clwb sha_ni
    avx512f avx512dq avx512pf avx512er avx512cd avx512bw avx512vl avx512ifma avx512vbmi
    avx512_vbmi2 avx512_vnni avx512_bitalg avx512_vpopcntdq avx512_4vnniw avx512_4fmaps
    avx512_bf16 avx512_fp16 avx512_vp2intersect
    xsaveopt xsavec xgetbv1 gfni vaes vpclmulqdq rdpid clzero pku ospke
    avx_vnni avx_ifma avx_vnni_int8 avx_ne_convert cmpccxadd sha512 sm3 sm4
    amx_tile amx_int8 amx_bf16 amx_fp16 movdiri movdir64b serialize waitpkg cldemote user_shstk
    """
)
_X86_HINTS = _words("erms fsrm rep_good hle")
# Flags that stand for a part of the XSAVE area. CRIU's `fpu` check wants the area's size to be the
# same on both sides, since programs that had asked for it once misbehaved with a larger one (the
# comment in cpu_validate_features, criu/arch/x86/cpu.c). Restoring works, so it is a warning.
_X86_STATE = _words("avx mpx avx512f pku amx_tile")
# All arm64 flags are instruction sets (kernel, arch/arm64/elf_hwcaps), but for these.
_ARM_HINTS = _words("evtstrm cpuid")
_SHOWN = 6


class HostFacts(Protocol):
    """What must be known of a host: a part of `migrate.host_facts.HostFacts`.

    `cpu_flags`: flags or Features of /proc/cpuinfo. `kernel`: `uname -r`. `criu_version`: such as
    (4, 2, 1). `free_memory`, `free_disk`: bytes that can be had without swapping, and below
    Docker's root; `docker_init`: a digest of that program. None (or "") is what could not be found
    out, and is not judged here.
    """

    @property
    def arch(self) -> str: ...
    @property
    def cpu_flags(self) -> Collection[str]: ...
    @property
    def kernel(self) -> str: ...
    @property
    def criu_version(self) -> tuple[int, ...] | None: ...
    @property
    def free_memory(self) -> int | None: ...
    @property
    def free_disk(self) -> int | None: ...
    @property
    def docker_init(self) -> str: ...


class Usage(msgspec.Struct, frozen=True):
    """What the container needs, in bytes. `memory`: resident; `swapped`: in swap; `images`: the
    checkpoint's, which lie in memory (tmpfs) at the destination; `files`: its own layer and
    volumes; `image`: the Docker image, 0 if it is there already.
    """

    memory: int
    swapped: int = 0
    images: int = 0
    files: int = 0
    image: int = 0


class Problem(msgspec.Struct, frozen=True):
    """Something wrong. `failure` is the class of `migrate.errors` to raise unless `warning`."""

    failure: type[Failure]
    message: str
    remedy: str = ""
    warning: bool = False

    def as_failure(self) -> Failure:
        """The failure to raise, with message and remedy."""
        return self.failure(self.message, self.remedy or None)


def check(
    source: HostFacts,
    destination: HostFacts,
    spec: ContainerSpec,
    usage: Usage,
    *,
    clock_skew: float = 0.0,
) -> list[Problem]:
    """All problems of moving `spec` from `source` to `destination`, in no special order.

    `clock_skew`: seconds, the destination's wall clock minus the source's at the same moment.
    Fatal: another architecture, missing CPU instructions, another program as Docker's init
    (`HostUnfit`), too little memory or disk (`NoSpace`), an older minor version of CRIU
    (`CriuUnfit`). All else is a warning.
    """
    if source.arch != destination.arch:
        return [
            Problem(
                HostUnfit,
                f"the destination is {destination.arch} and this host is {source.arch}",
                "move to a host of the same architecture",
            )
        ]
    return [
        *_cpu(source, destination),
        *_versions(source, destination),
        *_space(destination, spec, usage),
        *_clock(clock_skew),
        *_init(source, destination, spec),
    ]


def _init(source: HostFacts, destination: HostFacts, spec: ContainerSpec) -> Iterator[Problem]:
    """It comes from the host, not from the image, and CRIU restores no mapping of another file."""
    here, there = source.docker_init, destination.docker_init
    if spec.host_config.get("Init") and here and there and here != there:
        yield Problem(
            HostUnfit,
            "the container runs under Docker's own init (--init), and docker-init is another "
            "program at the destination",
            "install the same version of it (tini) on both hosts",
        )


def _cpu(source: HostFacts, destination: HostFacts) -> Iterator[Problem]:
    here, there = frozenset(source.cpu_flags), frozenset(destination.cpu_flags)
    missing = here - there
    arm = source.arch in ("aarch64", "arm64")
    fatal = missing - _ARM_HINTS if arm else missing & _X86_INSTRUCTIONS
    if fatal:
        yield Problem(
            HostUnfit,
            f"the destination's CPU lacks {_some(fatal)}, which programs here may be using",
            "move to a host with a CPU of the same or a newer kind, or give both VMs one CPU model",
        )
    if arm:
        return
    slower = missing & _X86_HINTS
    if slower:
        yield Problem(
            HostUnfit,
            f"the destination's CPU lacks {_some(slower)}: some programs may be slower there",
            warning=True,
        )
    larger = (there - here) & _X86_STATE
    if larger:
        yield Problem(
            HostUnfit,
            f"the destination's CPU has {_some(larger)} on top, and a larger FPU state by it: "
            "a program that remembers the size of that state may misbehave",
            "give both VMs one CPU model if the container crashes after the move",
            warning=True,
        )


def _versions(source: HostFacts, destination: HostFacts) -> Iterator[Problem]:
    # A newer CRIU reads the images of an older one: old fields stay ("backward compatibility",
    # images/core-x86.proto), new ones are optional. An older one meets fields it does not know.
    if source.criu_version and destination.criu_version:
        here, there = _filled(source.criu_version), _filled(destination.criu_version)
        if there < here:
            minor = there[:2] < here[:2]
            yield Problem(
                CriuUnfit,
                f"CRIU is {_dotted(destination.criu_version)} at the destination and "
                f"{_dotted(source.criu_version)} here"
                + ("; it may not read the images of a newer one" if minor else ""),
                "install the same version on both hosts" if minor else "",
                warning=not minor,
            )
    if _kernel_numbers(destination.kernel) < _kernel_numbers(source.kernel):
        yield Problem(
            HostUnfit,
            f"the destination's kernel {destination.kernel} is older than "
            f"{source.kernel} here: system calls that programs have found may be missing",
            warning=True,
        )


def _space(destination: HostFacts, spec: ContainerSpec, usage: Usage) -> Iterator[Problem]:
    # Pages that were swapped out come back as ordinary ones; while they are restored, page and
    # image exist side by side.
    pages = usage.memory + usage.swapped
    memory = pages + usage.images
    if destination.free_memory is not None and memory > destination.free_memory:
        yield Problem(
            NoSpace,
            f"the container needs {_mib(memory)} of memory at the destination (with the images "
            f"of its checkpoint), and {_mib(destination.free_memory)} are free",
            "free memory there, or move to a larger host",
        )
    disk = usage.files + usage.image
    if destination.free_disk is not None and disk > destination.free_disk:
        yield Problem(
            NoSpace,
            f"the container and its image need {_mib(disk)} of disk at the destination, "
            f"and {_mib(destination.free_disk)} are free",
            "free disk space there: docker image prune",
        )
    limit = int(spec.host_config.get("Memory") or 0)
    if limit and pages > limit:
        yield Problem(
            NoSpace,
            f"the container has {_mib(pages)} in memory and swap with a limit of {_mib(limit)}: "
            "without swap at the destination it would be killed there",
            "raise the limit (docker update --memory), or see that the destination has swap",
            warning=True,
        )


def _clock(clock_skew: float) -> Iterator[Problem]:
    lag = -clock_skew
    if lag > MAX_CLOCK_LAG:
        yield Problem(
            HostUnfit,
            f"the destination's clock is {lag:.1f} s behind: "
            "programs that use the wall clock may stand still for as long",
            "set the clocks with NTP",
            warning=True,
        )


def _some(flags: Set[str]) -> str:
    names = sorted(flags)
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


def _filled(version: tuple[int, ...]) -> tuple[int, ...]:
    """(4, 2) as (4, 2, 0), so that it is not older than itself."""
    return version + (0,) * (3 - len(version))


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _kernel_numbers(release: str) -> tuple[int, ...]:
    """`6.12.48-cloud` as (6, 12); () for a release that does not begin with numbers."""
    found = re.match(r"(\d+)\.(\d+)", release)
    return tuple(map(int, found.groups())) if found else ()


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"
