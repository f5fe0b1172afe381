"""Compile the null GPU for the PyTorch that is installed.

The C files beside this one replace what has a meaning without a card. Which other functions of CUDA the installed
libraries call is read from their symbols, and a function is generated for each: products count as launches, what only
prepares or releases something does nothing, and everything else says that it has no replacement and fails (so do
functions of NCCL that nobody has needed yet).
"""

import functools
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

SOURCES = Path(__file__).resolve().parent
LIBRARY = "libcuda.so.1"
"""The name under which programs open the driver: they find the library that is already loaded."""
CUDA = "13"
"""The release whose functions the C files have; some of another one have other arguments."""
IMPORTED = re.compile(r"\bU ((?:__cuda|cuda|cublas|cu[A-Z]|nccl[A-Z])\w+)(?:@(\S+))?")
DEFINED = re.compile(r"^EXPORTED [^=;]*?\b(\w+)\(", re.MULTILINE)
LOOKED_UP = re.compile(r"_\((cu[A-Z]\w+), \d+\)")
"""Functions of the driver that PyTorch looks up by name, as its header lists them."""
KEPT = re.compile(r"cuFile\w+|nccl(GetVersion|GetErrorString)")
"""Functions of the libraries that are installed: those of cuFile, and those of NCCL that touch no card."""
NCCL_INTERNAL_ERROR = 3
QUIET = re.compile(
    r"__cuda(Register\w+|UnregisterFatBinary)"
    r"|cuda(Profiler(Start|Stop)|Host(Register|Unregister)|GraphDebugDotPrint|DeviceSetGraphMemAttribute"
    r"|MemPool(SetAttribute|SetAccess|TrimTo)|UserObject(Create|Release)|GraphRetainUserObject"
    r"|KernelSetAttributeForDevice)"
    r"|cuLogs(Register|Unregister)Callback"
    r"|cublas(Set\w+|Destroy\w*|Lt\w+(Create|Init|Destroy|SetAttribute|Check))"
)
"""Functions that may do nothing: they prepare, release, or tell something to others."""
WANTED = ("cudaMalloc", "cudaLaunchKernel", "cublasCreate_v2")
"""Without these a library is no CUDA build of PyTorch."""

CUDNN_ATTENTION = "NULL_GPU_CUDNN_ATTENTION"
"""With this variable set, PyTorch may choose attention by cuDNN (cudnn_attention.py)."""


class NullGPUError(RuntimeError):
    """The null GPU cannot be had here."""


def environment(changes: Mapping[str, str] | None = None, *, folder: Path | None = None) -> dict[str, str]:
    """This process's environment, changed so that a process started with it runs on the null GPU.

    What Triton and Inductor compile goes to folders of its own, unless the environment names some: what was tuned on
    a card that computes nothing must not be used on a real one.

    Args:
        changes: further variables, such as NULL_GPU_MEMORY_GB, the memory of the card in 10^9 bytes, NULL_GPU_NAME, its
            name, and NULL_GPU_TRACE, with which every error is shown where it arises.
        folder: as `build` takes it.

    Raises:
        NullGPUError: as `build`.
    """
    library = build(folder)
    found = {**os.environ, **(changes or {})}
    found["LD_PRELOAD"] = " ".join(filter(None, [str(library), found.get("LD_PRELOAD", "")]))
    found["TRITON_LIBCUDA_PATH"] = str(library.parent)
    found.pop("TRITON_INTERPRET", None)  # kernels are compiled here, and not interpreted on what is not there
    found.setdefault("TRITON_CACHE_DIR", str(library.parent / "triton"))
    found.setdefault("TORCHINDUCTOR_CACHE_DIR", str(library.parent / "inductor"))
    return found


@functools.cache
def build(folder: Path | None = None) -> Path:
    """The compiled library; compiled now if these sources and this PyTorch have not met before.

    Args:
        folder: for compiled libraries; by default in the user's cache.

    Raises:
        NullGPUError: PyTorch is absent, a CPU build or of another CUDA, or a tool or a header is missing.
    """
    tools = {name: find_tool(name) for name in ("gcc", "nm")}
    torch = package("torch")
    libraries = sorted((torch / "lib").glob("*.so"))
    vision = package("torchvision", required=False)
    if vision is not None:
        libraries += sorted(vision.glob("*.so"))
    imported = imported_functions(libraries, tools["nm"], torch)
    includes = header_folders(torch.parent)
    sources = [*sorted(SOURCES.glob("*.h")), *sorted(SOURCES.glob("*.c"))]
    texts = {path.name: path.read_text(encoding="utf-8") for path in sources}
    texts["rest.c"] = generated(imported, defined(texts.values()))
    key = hashlib.sha256("\0".join([*texts.values(), *map(str, includes)]).encode()).hexdigest()[:16]
    target = (folder or cache()) / key
    if not (target / LIBRARY).exists():
        compile_to(target, texts, includes, tools["gcc"])
    return target / LIBRARY


def cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "mvit_video" / "null_gpu"


def find_tool(name: str) -> str:
    found = shutil.which(os.environ.get("CC", name) if name == "gcc" else name)
    if found is None:
        raise NullGPUError(f"the null GPU needs {name}, which is not on PATH: install gcc and binutils")
    return found


def package(name: str, *, required: bool = True) -> Path | None:
    """The folder of an installed package, which is not imported."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        if required:
            raise NullGPUError(f"the null GPU needs {name}, which is not installed here")
        return None
    return Path(spec.origin).parent


def imported_functions(libraries: Sequence[Path], nm: str, torch: Path) -> set[str]:
    """Functions of the runtime, the driver, cuBLAS and NCCL that the libraries call.

    Raises:
        NullGPUError: they are no CUDA build, or of another CUDA.
    """
    listing = subprocess.run(
        [nm, "-D", "--undefined-only", *map(str, libraries)], capture_output=True, text=True, check=False
    ).stdout
    found = dict(IMPORTED.findall(listing))
    if not all(name in found for name in WANTED):
        raise NullGPUError(f"the null GPU needs a CUDA build of PyTorch, and {torch} is none: it does not call CUDA")
    runtime = found["cudaMalloc"].lstrip("@")
    if runtime != f"libcudart.so.{CUDA}":
        raise NullGPUError(f"the null GPU knows CUDA {CUDA}, and {torch} was built for {runtime or 'an unnamed one'}")
    header = torch / "include" / "c10" / "cuda" / "driver_api.h"
    looked_up = LOOKED_UP.findall(header.read_text(encoding="utf-8")) if header.exists() else []
    return {name for name in (*found, *looked_up) if not KEPT.fullmatch(name)}


def header_folders(site: Path) -> list[Path]:
    """Where CUDA's headers lie: those of PyTorch's own CUDA first, and Triton's for what is missing there.

    Raises:
        NullGPUError: there are none, or of another release.
    """
    triton = package("triton", required=False)
    if triton is None:
        raise NullGPUError("the null GPU needs Triton, which brings headers of CUDA: it is not installed here")
    folders = [site / "nvidia" / f"cu{CUDA}" / "include", triton / "backends" / "nvidia" / "include"]
    found = [folder for folder in folders if (folder / "cuda_runtime_api.h").exists()]
    header = found[0] / "cuda_runtime_api.h" if found else None
    release = re.search(r"#define CUDART_VERSION +(\d+)\d{3}", header.read_text(errors="replace")) if header else None
    if release is None or release[1] != CUDA:
        places = " nor ".join(map(str, folders))
        raise NullGPUError(f"the null GPU needs headers of CUDA {CUDA}, and neither {places} has them")
    return found


def defined(texts: Iterable[str]) -> set[str]:
    """Functions that the C files define."""
    return {name for text in texts for name in DEFINED.findall(text)}


def generated(imported: set[str], written: set[str]) -> str:
    """C for all functions that are called and not written by hand."""
    lines = [
        "/* Generated by builder.py. Arguments are left out: nobody reads them. */",
        "int not_replaced(const char *);",
        "int driver(int);",
        "int started_product(void *);",
        '#define EXPORTED __attribute__((visibility("default")))',
    ]
    for name in sorted(imported - written):
        if QUIET.fullmatch(name):
            lines.append(f"EXPORTED int {name}(void) {{ return 0; }}")
        elif name.startswith("cublas") and not name.startswith("cublasLt"):
            lines.append(f"EXPORTED int {name}(void *handle) {{ return started_product(handle); }}")
        elif name.startswith(("cuda", "__cuda", "cublas")):
            lines.append(f"EXPORTED int {name}(void) {{ return not_replaced(__func__); }}")
        elif name.startswith("nccl"):
            lines.append(f"EXPORTED int {name}(void) {{ return not_replaced(__func__) ? {NCCL_INTERNAL_ERROR} : 0; }}")
        else:
            lines.append(f"EXPORTED int {name}(void) {{ return driver(not_replaced(__func__)); }}")
    return "\n".join(lines) + "\n"


def compile_to(target: Path, texts: Mapping[str, str], includes: Sequence[Path], gcc: str) -> None:
    """Compile into a folder beside the target and rename it; another process may do the same at the same time.

    Raises:
        NullGPUError: the compiler refuses.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".building-") as name:
        beside = Path(name) / "made"
        beside.mkdir()
        for file, text in texts.items():
            (beside / file).write_text(text, encoding="utf-8")
        files = [file for file in texts if file.endswith(".c")]
        command = [gcc, "-std=gnu11", "-O1", "-fPIC", "-shared", "-fvisibility=hidden", "-pthread", "-Wall", "-Wextra"]
        command += [f"-I{folder}" for folder in includes]
        command += [f"-Wl,-soname,{LIBRARY}", "-o", LIBRARY, *files, "-ldl", "-lrt"]
        done = subprocess.run(command, cwd=beside, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NullGPUError(f"{gcc} does not compile the null GPU: {done.stderr.strip()[:2000]}")
        (beside / LIBRARY.removesuffix(".1")).symlink_to(LIBRARY)  # the name by which linkers look for it
        try:
            beside.rename(target)
        except OSError:
            if not (target / LIBRARY).exists():
                raise
