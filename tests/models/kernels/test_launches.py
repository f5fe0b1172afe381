"""On a GPU a step of a small batch takes as long as it takes to start its kernels: what is done at once, is counted."""

from tests.null_gpu import NullGPU

COUNTED = r"""
import json
import torch
from gpu import null_gpu
from mvit_video.models import create_model
from mvit_video.models.kernels.casting import cast_layers
from mvit_video.models.kernels.position_rows import join_indices, pairs_of_rows, position_rows
from mvit_video.models.mvit.attention import relative_index

def launches(work):
    before = null_gpu.counts()
    work()
    return (null_gpu.counts() - before).launches

layers = [torch.nn.Linear(96, 192).cuda() for _ in range(3)]
cast = cast_layers([*layers, None], torch.bfloat16)
found = {
    "kinds": [type(layer).__name__ for layer in cast],
    "dtypes": sorted({str(tensor.dtype) for layer in cast[:3] for tensor in layer}),
    "cast": launches(lambda: cast_layers(layers, torch.bfloat16)),
    "unchanged": cast_layers(layers, torch.float32) == layers,
}
read = torch.stack([(layer.weight.sum() + layer.bias.sum()).float() for layer in cast[:3]]).sum()
leaves = [parameter for layer in layers for parameter in layer.parameters()]
found["gradients"] = [str(gradient.dtype) for gradient in torch.autograd.grad(read, leaves)]
given = [torch.ones_like(tensor) for layer in cast[:3] for tensor in layer]
again = [tensor for layer in cast_layers(layers, torch.bfloat16) for tensor in layer]
found["cast back"] = launches(lambda: torch.autograd.grad(again, leaves, given))

sizes, rows = [(8, 8), (14, 7), (14, 7)], [15, 27, 27]
index = join_indices([relative_index(*size) for size in sizes], rows)
pairs = pairs_of_rows(index, sum(rows)).cuda()
index = index.cuda()
tables = [torch.randn(count, 96, device="cuda", requires_grad=True) for count in rows]

def gathered():
    return position_rows(tables, index, pairs, scale=0.1, dtype=torch.bfloat16)

found["rows"] = launches(gathered)
result = gathered()
grad = torch.ones_like(result)
found["rows back"] = launches(lambda: torch.autograd.grad(result, tables, grad))
plain = torch.cat(tables)[index]
grad = torch.ones_like(plain)
found["rows back, by the library"] = launches(lambda: torch.autograd.grad(plain, tables, grad))

# One graph, on a GPU, where other paths are taken than on the CPU. Nothing is run: its kernels would be compiled.
class Seen(Exception):
    pass

def seen(graph, inputs):
    raise Seen(len(graph.graph.nodes))

small = {"depth": 2, "stage_starts": (1,), "num_frames": 2, "crop_size": 16}
found["graphs"] = []
for form in ("auto", "triton_terms", "triton"):
    model = create_model("mvitv2_motion", attention_form=form, norm_form="triton", **small).cuda().train()
    compiled = torch.compile(model, fullgraph=True, backend=seen)
    try:
        with torch.autocast("cuda", torch.bfloat16):
            compiled(torch.zeros(1, 3, 2, 16, 16, device="cuda"))
    except Exception as error:
        found["graphs"].append("Seen" in repr(error))
print(json.dumps(found))
"""


def test_casts_and_rows_start_few_kernels_and_compiled_models_are_one_graph(null_gpu: NullGPU) -> None:
    found = null_gpu.run(COUNTED)
    assert found["graphs"] == [True] * 3
    assert found["kinds"] == ["LinearWeights"] * 3 + ["NoneType"]
    assert found["dtypes"] == ["torch.bfloat16"] and found["gradients"] == ["torch.float32"] * 6
    assert found["unchanged"]
    assert found["cast"] == found["cast back"] == 1  # one by one: 6
    assert found["rows"] <= 4 and found["rows back"] <= 5
    assert found["rows back"] < found["rows back, by the library"]  # one table alone sorts with 13
