"""The one door to compilers: finds them, names their flags, and keeps what they built by what went into it."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from ganglion.core.errors import KernelError
from ganglion.kernels.c.emission import runtime_header
from ganglion.kernels.c.targets import Target

COMPILER_VARIABLE = "GANGLION_CC"
COMPILE_S_MAX = 300
SPEED = ("-O2", "-ftree-vectorize")
"""gcc's -O3 unrolls short loops so far that some kernels take five times as long."""
EXACT = ("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fno-strict-aliasing")
"""Flags that keep the bits: no fused multiply-add, no library errors, no assumption about types in memory."""
QUIET = ("-std=gnu11", "-Wall", "-Wextra", "-Wno-unused-function", "-Wno-unused-variable")
CLANG_QUIET = ("-Wno-pass-failed",)
"""clang says where a loop over rows could not fill vectors."""
OURS = ("-ffreestanding", "-fno-ident", "-g0", "-fno-sanitize=undefined")
"""No debug records, no names of compilers, no checks that would ask for a library (zig adds them below -O1)."""


@dataclass(frozen=True, slots=True)
class Compiler:
    """``command`` runs it; ``version`` is its first line about itself; ``kind`` is gcc, clang or zig."""

    command: tuple[str, ...]
    kind: str
    version: str

    @property
    def label(self) -> str:
        """Its kind and version in a few words."""
        number = re.search(r"\d+(\.\d+)+", self.version)
        name = "zig's clang" if self.kind == "zig" else self.kind
        return f"{name} {number[0]}" if number else name


def compilers() -> list[Compiler]:
    """The compilers for this machine, the preferred one first; empty when there is none.

    That named by GANGLION_CC alone, else zig, the same on every machine, then the system's.
    """
    named = os.environ.get(COMPILER_VARIABLE)
    if named:
        return [_compiler((named,))]
    found = []
    if find_spec("ziglang") is not None:
        found.append(_compiler((sys.executable, "-m", "ziglang", "cc")))
    return found + [_compiler((path,)) for name in ("gcc", "clang") if (path := shutil.which(name))]


@cache
def _compiler(command: tuple[str, ...]) -> Compiler:
    done = _run((*command, "--version"))
    first = done.splitlines()[0] if done else "unknown"
    kind = "zig" if "ziglang" in command else "clang" if "clang" in done else "gcc"
    return Compiler(command, kind, first)


def native_flags(compiler: Compiler) -> tuple[str, ...]:
    """The widest vectors of this machine that are safe to use on it."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return ()
    return ("-mcpu=native",) if compiler.kind == "zig" else ("-march=native",)


def build_library(
    source: str,
    compiler: Compiler,
    directory: Path,
    flags: Sequence[str] = SPEED,
    target: Target | None = None,
    exports: Sequence[str] = (),
) -> Path:
    """Compiles C into a shared library, or finds it in the cache. Raises `KernelError` ``kernel.compile``.

    For this machine, or, by zig, for one of `targets.LIBRARIES`; WebAssembly wants the names of ``exports``. The file
    is named after the SHA-256 of source (which carries the program's digest and the runtime's version), runtime,
    compiler, processor and flags, so a library is never stale.
    """
    chosen = native_flags(compiler) if target is None else target.flags
    assert target is None or compiler.kind == "zig", "other compilers know their own machine"
    everything = (*flags, *chosen, *EXACT, *OURS, *quiet(compiler))
    link: tuple[str, ...] = ("-shared", "-fPIC", "-nostdlib")
    processor, suffix, entry = _processor(), ".so", ""
    if target is not None:
        processor, suffix = "", target.suffix
        everything = (*everything, "-fno-unwind-tables", "-fno-asynchronous-unwind-tables")
        link = (*LINK.get(suffix, link), "-s") if suffix != ".dylib" else link
        link += tuple(f"-Wl,--export={name}" for name in exports) if suffix == ".wasm" else ()
        entry = WINDOWS_ENTRY if suffix == ".dll" else ""
    library = directory / f"{_digest(source, entry, compiler, (*everything, *link, processor))}{suffix}"
    if not library.exists():
        _build(compiler, (*everything, *link, "kernel.c"), {"kernel.c": source + entry}, library)
    return library


LINK = {
    ".dll": ("-shared", "-nostdlib"),
    ".wasm": ("-nostdlib", "-Wl,--no-entry", "-Wl,--export=__heap_base"),
}
WINDOWS_ENTRY = """
/* What a library without the C runtime has to bring for Windows. */
int _fltused = 1;
int DllMainCRTStartup(void *library, unsigned reason, void *reserved) {
  (void)library; (void)reason; (void)reserved;
  return 1;
}
#ifdef __x86_64__
/* Called with the size of a frame of more than a page in rax: Windows adds a stack's pages one after the other. */
__attribute__((naked)) void ___chkstk_ms(void) {
  __asm__("pushq %rcx; pushq %rax; leaq 24(%rsp), %rcx; 1: cmpq $4096, %rax; jbe 2f; subq $4096, %rcx;"
          "subq $4096, %rax; orq $0, (%rcx); jmp 1b; 2: subq %rax, %rcx; orq $0, (%rcx); popq %rax; popq %rcx; ret");
}
#endif
"""


def quiet(compiler: Compiler) -> tuple[str, ...]:
    """Warnings that say something about our C, and not about how fast it is."""
    return QUIET if compiler.kind == "gcc" else (*QUIET, *CLANG_QUIET)


@cache
def _processor() -> str:
    """This machine's processor, for which native code was made: a cache that moves elsewhere is not used there."""
    try:
        text = Path("/proc/cpuinfo").read_text("ascii", errors="replace")
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    facts = ("model name", "flags", "CPU part", "Features", "isa")
    lines = dict.fromkeys(line for line in text.splitlines() if line.startswith(facts))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def cross_compilers(target: Target) -> list[Compiler]:
    """The compilers that link images for a target, the preferred one first: zig, then arm-none-eabi-gcc."""
    found = [_compiler((sys.executable, "-m", "ziglang", "cc"))] if find_spec("ziglang") is not None else []
    arm = shutil.which("arm-none-eabi-gcc") if target.gcc else None
    return found if arm is None else [*found, _compiler((arm,))]


LINKER_SCRIPT = """\
ENTRY({entry})
SECTIONS {{
  . = {flash:#x};
  .text : {{ KEEP(*(.vectors)) *(.text*) *(.rodata*) *(.srodata*) }}
  . = {ram:#x};
  .data : {{ *(.data*) *(.sdata*) }}
  .bss : {{ *(.bss*) *(.sbss*) *(COMMON) }}
  /DISCARD/ : {{ *(.ARM.exidx*) *(.ARM.extab*) *(.eh_frame*) *(.comment) *(.riscv.attributes) }}
}}
"""


def build_image(
    source: str, target: Target, compiler: Compiler, directory: Path, *, entry: str, flash: int, ram: int
) -> Path:
    """Links C into an ELF image for a microcontroller, or finds it. Raises `KernelError` ``kernel.compile``.

    Code and constants lie at ``flash``, variables at ``ram``. ``compiler`` is one of `cross_compilers`.
    """
    zig = compiler.kind == "zig"
    assert zig or target.gcc, f"{compiler.kind} does not build for {target.name}"
    script = LINKER_SCRIPT.format(entry=entry, flash=flash, ram=ram)
    bare = ("-nostartfiles", "-static", "-fno-unwind-tables", "-fno-asynchronous-unwind-tables")
    sections = ("-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections", f"-Wl,-e,{entry}")
    # Without a library nobody has the memcpy that gcc makes of a loop.
    chosen = target.flags if zig else (*target.gcc, "-nostdlib", "-fno-tree-loop-distribute-patterns")
    everything = ("-O2", *chosen, *EXACT, *OURS, *quiet(compiler), *bare, *sections)
    libraries = () if zig else ("-lgcc",)
    image = directory / f"{_digest(source, script, compiler, everything)}.elf"
    if not image.exists():
        files = {"kernel.c": source, "link.ld": script}
        _build(compiler, (*everything, "-T", "link.ld", "kernel.c", *libraries), files, image)
    return image


def _digest(source: str, script: str, compiler: Compiler, flags: Sequence[str]) -> str:
    key = "\0".join((source, script, runtime_header(), compiler.version, platform.machine(), *flags))
    return hashlib.sha256(key.encode()).hexdigest()


def _build(compiler: Compiler, arguments: Sequence[str], files: dict[str, str], target: Path) -> None:
    """Compiles in a folder of its own and moves the result into place in one step: nobody sees half of it."""
    directory = target.parent
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory) as name:
            room = Path(name)
            for file, text in (files | {"kernel_runtime.h": runtime_header()}).items():
                (room / file).write_text(text, encoding="utf-8")
            caches = {
                "ZIG_GLOBAL_CACHE_DIR": str(directory / "zig"),
                "ZIG_LOCAL_CACHE_DIR": str(room / "zig"),
            }
            _run((*compiler.command, *arguments, "-o", "built"), room, caches)
            (room / "built").replace(target)
    except OSError as error:
        raise unkept(directory, error) from error


def unkept(directory: Path, error: OSError) -> KernelError:
    """The error ``kernel.directory``."""
    return KernelError(
        "kernel.directory",
        f"what is compiled cannot be kept in {directory}",
        why=error.strerror or str(error),
        next_step="free space, or name another directory",
    )


def _run(
    command: Sequence[str], directory: Path | None = None, variables: dict[str, str] | None = None
) -> str:
    try:
        done = subprocess.run(  # noqa: S603 # the command is a compiler that the operator chose
            command,
            cwd=directory,
            env=os.environ | (variables or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=COMPILE_S_MAX,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _failed(command, str(error)) from error
    text = (done.stdout + done.stderr).decode(errors="replace").strip()
    if done.returncode:
        raise _failed(command, text[-2000:] or f"exit status {done.returncode}")
    return text


def _failed(command: Sequence[str], why: str) -> KernelError:
    return KernelError(
        "kernel.compile",
        f"{command[0]} did not do what it was asked",
        why=why,
        next_step=f"name another C compiler with {COMPILER_VARIABLE}=/path/to/cc",
    )
