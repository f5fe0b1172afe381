"""scripts/gpu/null_gpu: what a card refuses is refused, what it allows runs, and it can be had or says why not."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gpu import caches, machine_figures, report, runner
from gpu.null_gpu import NullGPUError, builder
from gpu.steps import Step, chosen_steps

from tests.null_gpu import NullGPU

CAPTURES = r"""
import json, threading
import torch
from gpu import null_gpu
from mvit_video.models import create_model

found = {}

def message(work):
    try:
        work()
    except Exception as error:
        while error.__context__ is not None:
            error = error.__context__
        return str(error).splitlines()[0]
    return "allowed"

def captured(work, stream=None):
    with torch.cuda.graph(torch.cuda.CUDAGraph(), stream=stream):
        x @ x
        work()

x = torch.ones(8, 8, device="cuda")
other = torch.cuda.Stream()

# What is computed on the host is real; what kernels would compute is not.
found["copied"] = torch.arange(5).cuda().cpu().tolist()
found["pinned"] = torch.arange(5).pin_memory().is_pinned()

uploaded = torch.full((64,), 7.0).cuda()
found["whole"], found["a part"] = uploaded.cpu().sum().item(), uploaded[3].item()
found["cloned"] = torch.tensor(5).cuda().clone().item()
found["found"] = torch.nonzero(uploaded).shape

# A training step, counted.
model = create_model("mvitv2_motion", depth=2, stage_starts=(1,), num_frames=2, crop_size=16, pooling_form="library")
model = model.cuda().train()
clips = torch.zeros(1, 3, 2, 16, 16, device="cuda")
optimizer = torch.optim.AdamW(model.parameters(), fused=True, capturable=True)

def step():
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast("cuda", torch.bfloat16):
        loss = model(clips).float().sum()
    loss.backward()
    optimizer.step()

for _ in range(2):
    before = null_gpu.counts()
    step()
    found.setdefault("steps", []).append((null_gpu.counts() - before).launches)
found["gradients"] = all(parameter.grad is not None for parameter in model.parameters())

side = torch.cuda.Stream()
side.wait_stream(torch.cuda.current_stream())
with torch.cuda.stream(side):
    step()
torch.cuda.current_stream().wait_stream(side)
graph = torch.cuda.CUDAGraph()
optimizer.zero_grad(set_to_none=True)
with torch.cuda.graph(graph):
    step()
before = null_gpu.counts()
graph.replay()
found["replay"] = (null_gpu.counts() - before).launches

# What a capture refuses.
def in_other_stream(join):
    other.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(other):
        x @ x
    if join:
        torch.cuda.current_stream().wait_stream(other)

def in_a_thread(work):
    def run():
        seen.append(message(work))
    seen = []
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return seen[0]

event = torch.cuda.Event()
event.record()
for name, work in {
    "item": lambda: x.sum().item(),
    "synchronize": torch.cuda.synchronize,
    "stream synchronize": lambda: torch.cuda.current_stream().synchronize(),
    "query": lambda: other.query(),
    "thread": lambda: in_a_thread(event.query),
    "pageable copy": lambda: x.copy_(torch.ones(8, 8)),
    "event of before": lambda: torch.cuda.current_stream().wait_event(event),
    "unjoined": lambda: in_other_stream(False),
    "joined": lambda: in_other_stream(True),
    "memory": lambda: torch.empty(2**26, device="cuda"),
}.items():
    found[name] = message(lambda: captured(work))
found["after"] = message(torch.cuda.synchronize)
found["beyond"] = message(lambda: torch.empty(3 * 10**9, dtype=torch.uint8, device="cuda"))
del x
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def captures(null_gpu: NullGPU) -> dict[str, Any]:
    return null_gpu.run(CAPTURES, NULL_GPU_MEMORY_GB="2")


def test_a_training_step_runs_and_is_counted(captures: dict[str, Any]) -> None:
    first, second = captures["steps"]
    assert captures["gradients"] and captures["copied"] == [0, 1, 2, 3, 4] and captures["pinned"]
    assert 100 < second <= first
    assert captures["replay"] == 1


def test_what_no_copy_has_brought_to_the_card_is_read_as_zero(captures: dict[str, Any]) -> None:
    assert captures["whole"] == 64 * 7.0 and captures["cloned"] == 5
    assert captures["a part"] == 0 and captures["found"] == [0, 1]


@pytest.mark.parametrize(
    "call", ["item", "synchronize", "stream synchronize", "query", "thread", "pageable copy", "event of before"]
)
def test_a_capture_refuses_what_waits(call: str, captures: dict[str, Any]) -> None:
    assert "captur" in captures[call]


def test_all_streams_of_a_capture_must_come_together_again(captures: dict[str, Any]) -> None:
    assert "unjoined work" in captures["unjoined"]
    assert captures["joined"] == captures["memory"] == captures["after"] == "allowed"


def test_memory_ends_where_that_of_the_card_would(captures: dict[str, Any]) -> None:
    assert "CUDA out of memory" in captures["beyond"] and "1.86 GiB" in captures["beyond"]


LAUNCHES = """
import ctypes, json
from gpu import null_gpu

cuda, kernel = ctypes.CDLL(None), ctypes.c_void_p()
cuda.cuModuleGetFunction(ctypes.byref(kernel), None, b"kernel")

def launch(grid, block, shared=0):
    return cuda.cuLaunchKernel(kernel, *grid, *block, shared, None, None, None)

codes = {
    "fits": launch((1, 1, 1), (1024, 1, 1)),
    "empty grid": launch((0, 1, 1), (32, 1, 1)),
    "wide grid": launch((2**31 - 1, 1, 1), (32, 1, 1)),
    "high grid": launch((1, 65536, 1), (32, 1, 1)),
    "empty block": launch((1, 1, 1), (0, 1, 1)),
    "large block": launch((1, 1, 1), (1025, 1, 1)),
    "much shared": launch((1, 1, 1), (32, 1, 1), 49153),
    "asking too much": cuda.cuFuncSetAttribute(kernel, 8, 232449),
    "asking": cuda.cuFuncSetAttribute(kernel, 8, 232448),
    "shared after asking": launch((1, 1, 1), (32, 1, 1), 232448),
    "unknown attribute": cuda.cuFuncSetAttribute(kernel, 99, 1),
    "text": cuda.cuModuleLoadData(ctypes.byref(kernel), b".version 8.0"),
    "not replaced": cuda.cuMemCreate(),
}
print(json.dumps([codes, null_gpu.counts().kernels]))
"""


def test_launches_are_checked_as_on_a_card(null_gpu: NullGPU) -> None:
    codes, kernels = null_gpu.run(LAUNCHES)
    allowed = {"fits", "wide grid", "asking", "shared after asking"}
    assert {name for name, code in codes.items() if code == 0} == allowed
    assert codes["empty grid"] == 1 and codes["text"] == 200 and codes["not replaced"] == 801
    assert kernels == 3


def test_processes_find_the_library_before_all_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "libcuda.so.1"
    monkeypatch.setattr(builder, "build", lambda folder: library)
    monkeypatch.setenv("LD_PRELOAD", "other.so")
    monkeypatch.setenv("TRITON_CACHE_DIR", "chosen")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    found = builder.environment({"TRITON_INTERPRET": "1", "NULL_GPU_MEMORY_GB": "2"})
    assert found["LD_PRELOAD"] == f"{library} other.so" and found["TRITON_LIBCUDA_PATH"] == str(library.parent)
    assert found["TRITON_CACHE_DIR"] == "chosen" and found["TORCHINDUCTOR_CACHE_DIR"].startswith(str(library.parent))
    assert found["NULL_GPU_MEMORY_GB"] == "2" and "TRITON_INTERPRET" not in found


# ---- where it cannot be had


def test_a_cpu_build_is_no_null_gpu(tmp_path: Path) -> None:
    with pytest.raises(NullGPUError, match=r"needs a CUDA build of PyTorch, and .* is none"):
        builder.imported_functions([], "true", tmp_path)


def test_another_cuda_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nm = tmp_path / "nm"
    calls = "".join(f" U {name}@libcudart.so.12\n" for name in builder.WANTED)
    nm.write_text(f"#!/bin/sh\ncat <<END\n{calls}END\n")
    nm.chmod(0o755)
    with pytest.raises(NullGPUError, match=r"knows CUDA 13, and .* was built for libcudart\.so\.12"):
        builder.imported_functions([], str(nm), tmp_path)


@pytest.mark.parametrize(
    ("missing", "call", "message"),
    [
        ("gcc", lambda: builder.find_tool("gcc"), "needs gcc, which is not on PATH"),
        ("nm", lambda: builder.find_tool("nm"), "needs nm, which is not on PATH"),
        ("triton", lambda: builder.header_folders(Path("nowhere")), "needs Triton, which brings headers of CUDA"),
        ("torch", lambda: builder.package("torch"), "needs torch, which is not installed"),
    ],
)
def test_what_is_missing_is_named(
    missing: str, call: Callable[[], object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder.shutil, "which", lambda name: None)
    monkeypatch.setattr(builder.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NullGPUError, match=message):
        call()


def test_headers_of_another_cuda_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "backends" / "nvidia" / "include"
    folder.mkdir(parents=True)
    (folder / "cuda_runtime_api.h").write_text("#define CUDART_VERSION  12080\n")
    monkeypatch.setattr(builder, "package", lambda *_, **__: tmp_path)
    with pytest.raises(NullGPUError, match="needs headers of CUDA 13"):
        builder.header_folders(tmp_path)


def test_the_compilers_words_are_shown(tmp_path: Path) -> None:
    with pytest.raises(NullGPUError, match=r"does not compile the null GPU: .*unknown type name"):
        builder.compile_to(tmp_path / "made", {"a.c": "no such thing;"}, [], builder.find_tool("gcc"))
    assert list(tmp_path.iterdir()) == []


def test_functions_that_nobody_wrote_fail_unless_they_may_do_nothing() -> None:
    called = {"cudaIpcOpenMemHandle", "cudaProfilerStart", "cublasSgemm_v2", "cudaMalloc"}
    text = builder.generated(called, {"cudaMalloc"})
    assert "int cudaIpcOpenMemHandle(void) { return not_replaced(__func__); }" in text
    assert "int cudaProfilerStart(void) { return 0; }" in text and "cudaMalloc" not in text
    assert "int cublasSgemm_v2(void *handle) { return started_product(handle); }" in text


# ---- the kit on it

FAKE = Step(name="fake", title="A step of the tests", module="tests.scripts.gpu_steps", seconds=30)


def test_the_kit_says_that_nothing_was_measured(
    null_gpu: NullGPU, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The card's own step, and one whose third case fails; compiled ahead, for a card of some name."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(null_gpu.cache))
    monkeypatch.setenv("GPU_STEP_KIND", "raises")
    monkeypatch.setenv("NULL_GPU_NAME", "Some card")
    for variable in caches.VARIABLES:
        monkeypatch.setenv(variable, "elsewhere")  # and as it was after the test
    kernels = tmp_path / "caches" / "inductor" / "ab"
    kernels.mkdir(parents=True)
    for name in ("kernel.py", "kernel.best_config"):
        (kernels / name).touch()
    monkeypatch.setattr(runner, "chosen_steps", lambda names: (*chosen_steps(["card"]), FAKE))
    assert runner.main(["--null-gpu", "--out", str(tmp_path), "--caches", str(tmp_path / "caches")]) == 1
    assert os.environ["TRITON_CACHE_DIR"] == str(tmp_path / "caches" / "triton")
    assert [file.name for file in kernels.iterdir()] == ["kernel.py"]
    shown = capsys.readouterr().out
    assert "timed on nothing: 1\n" in shown
    assert "nothing below is a measurement of a card, and no result was compared" in shown
    assert "`python scripts/bench_gpu.py --null-gpu --minutes 240`" in shown
    assert "5 cases ran, 1 did not:\n\n- fake, numbers: case 2, remark error: ValueError: three is too many" in shown
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["null_gpu"] and not results["rehearsal"]
    card, fake = results["steps"]
    facts = [record["fact"] for record in card["records"] if "fact" in record]
    assert facts[0]["card"] == "Some card" and not any("matrix_tflops" in fact for fact in facts)
    assert [record["row"] for record in fake["records"] if "row" in record][:2] == [
        {"case": 0, "ran": True},
        {"case": 1, "ran": True},
    ]
    with pytest.raises(ValueError, match="comes from the null GPU, which measures nothing"):
        machine_figures.read_figures(tmp_path / "results.json")


def test_a_kit_without_a_null_gpu_says_why(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(folder: Path | None = None) -> Path:
        raise NullGPUError("the null GPU needs gcc")

    monkeypatch.setattr(runner.null_gpu, "build", refuse)
    assert runner.main(["--null-gpu"]) == 2
    assert "the null GPU needs gcc" in capsys.readouterr().err


def test_every_case_that_ran_is_the_result() -> None:
    step = {"name": "s", "title": "S", "status": "done", "seconds": 1.0, "error": ""}
    step["records"] = [{"table": "t", "row": {"case": 1, "ran": True}}]
    text = report.section([step], where="null GPU", minutes=1, day="2026-01-02", host="some processor, 2 cores")
    assert text.startswith("## Without a card, on the null GPU") and "Every case that was begun ran: 1." in text
    assert "which are those of some processor, 2 cores" in text
