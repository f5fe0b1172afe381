import copy

import pytest
import torch
import torch.nn.functional as F

from mvit_video.models import MViT, MViTConfig, create_model, load_weights
from tests.models import reference
from tests.models.helpers import image_fields, randomised, small_config, v1_fields

L_LIKE = {"crop_size": 52, "kv_stride": (1, 4, 4)}  # patch grid 13 -> 7 -> 4, tables sized for 13 -> 6 -> 3
POOLED = {"cls_token": False, "head_pooling": "norm_mean"}


def plan(config: MViTConfig) -> reference.Plan:
    return reference.Plan(
        stage_starts=config.stage_starts,
        heads=config.num_heads,
        kv_stride=config.kv_stride,
        patch_stride=config.patch_stride,
        residual_pooling=config.residual_pooling,
        head_pooling=config.head_pooling,
    )


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({}, (4, 32, 32)),
        ({}, (6, 24, 44)),
        ({"num_heads": 2, "embed_dim": 16}, (4, 32, 32)),
        (L_LIKE, (4, 52, 52)),
        (L_LIKE, (5, 60, 36)),
        ({"expand_in": "mlp"}, (4, 32, 32)),
        ({"expand_in": "mlp", "head_pooling": "mean_norm"}, (4, 40, 32)),
        ({"rel_pos": "spatial", "pool_kernel": (1, 3, 3)}, (4, 32, 32)),
        (POOLED, (4, 32, 32)),
        (v1_fields(), (4, 32, 32)),
        (v1_fields(pool_kernel=None, kv_stride=(1, 4, 4)), (4, 32, 32)),
        (image_fields(), (32, 32)),
        (image_fields(**POOLED), (32, 48)),
        (image_fields(**POOLED, expand_in="mlp"), (32, 32)),
        (image_fields(**v1_fields(abs_pos="joint")), (32, 32)),
    ],
)
def test_equals_the_equations_of_the_papers(changes, size):
    model = randomised(small_config(**changes))
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    state = {name: value.clone().requires_grad_() for name, value in model.state_dict().items()}
    wanted = reference.forward(state, plan(model.config), x)
    got = model(x)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-10)
    direction = torch.randn_like(got)
    got.backward(direction)
    wanted.backward(direction)
    for name, parameter in model.named_parameters():
        literal = state[name].grad if state[name].grad is not None else torch.zeros_like(parameter)
        mine = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        torch.testing.assert_close(mine, literal, rtol=1e-8, atol=1e-9, msg=name)


def test_l_geometry_interpolates_37_row_tables_to_39():
    """Blocks 3, 8 and 9 of L in space, at heads of width 8."""
    config = small_config(
        depth=3, stage_starts=(1,), num_frames=2, crop_size=156, patch_kernel=(1, 7, 7), kv_stride=(1, 4, 4)
    )
    seen = [(b.grid_q[1], b.grid_kv[1], b.table_rows[1]) for b in config.blocks]
    assert seen == [(39, 10, 77), (20, 20, 37), (20, 10, 37)]
    model = randomised(config)
    x = torch.randn(1, 3, 2, 156, 156, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(model(x), reference.forward(model.state_dict(), plan(config), x), rtol=0, atol=1e-10)


def test_autocast_stays_close_to_float32():
    torch.manual_seed(0)
    model = create_model("mvitv2_motion").eval()
    x = torch.randn(1, 3, 8, 48, 48)
    full = model(x)
    for form in ("flash", "explicit", "auto"):
        for block in model.blocks:
            block.attn.form = form
        with torch.autocast("cpu", torch.bfloat16):
            low = model(x)
        assert (low.float() - full).abs().max() < 0.04 * full.abs().max()  # 0.031 with torch 2.11


def test_gives_logits_in_evaluation_and_features_without_classes():
    model = randomised(small_config())
    x = torch.randn(2, 3, 4, 32, 32, dtype=torch.float64)
    logits = model(x)
    assert logits.shape == (2, 5) and not torch.allclose(logits.sum(1), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(model.train()(x), logits)
    bare = randomised(small_config(num_classes=0))
    weights = {name: value for name, value in model.state_dict().items() if not name.startswith("head.")}
    bare.load_state_dict(weights, strict=True)
    features = bare(x)
    assert features.shape == (2, 32)
    torch.testing.assert_close(model.head.projection(features), logits)


def test_features_of_every_stage():
    model = randomised(small_config())
    maps = model.forward_features(torch.randn(2, 3, 4, 40, 32, dtype=torch.float64))
    assert [tuple(m.shape) for m in maps] == [(2, 8, 2, 10, 8), (2, 16, 2, 5, 4), (2, 32, 2, 3, 2)]
    image = randomised(small_config(**image_fields()))
    maps = image.forward_features(torch.randn(2, 3, 32, 32, dtype=torch.float64))
    assert [tuple(m.shape) for m in maps] == [(2, 8, 1, 8, 8), (2, 16, 1, 4, 4), (2, 32, 1, 2, 2)]


def test_features_lead_to_the_logits():
    model = randomised(small_config(cls_token=False, head_pooling="mean_norm"))
    x = torch.randn(1, 3, 4, 32, 32, dtype=torch.float64)
    pooled = model.forward_features(x)[-1].mean((2, 3, 4))
    torch.testing.assert_close(model.head(model.norm(pooled)), model(x))


def test_images_may_carry_a_time_axis_of_one():
    model = randomised(small_config(**image_fields()))
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert torch.equal(model(x), model(x.unsqueeze(2)))


def test_wrong_input_shapes_are_refused():
    video, image = randomised(small_config()), randomised(small_config(**image_fields()))
    with pytest.raises(ValueError, match=r"\(1, 3, 32, 32\): a video model takes \(B, 3, T, H, W\)"):
        video(torch.randn(1, 3, 32, 32))
    with pytest.raises(ValueError, match=r"\(1, 4, 3, 32, 32\): a video model"):
        video(torch.randn(1, 4, 3, 32, 32))
    with pytest.raises(ValueError, match=r"an image model takes \(B, 3, H, W\)"):
        image(torch.randn(1, 3, 4, 32, 32))


@pytest.mark.parametrize("changes", [{}, v1_fields(), v1_fields(abs_pos="joint")])
def test_another_input_size_uses_interpolated_positions(changes):
    """Interpolated at run time or beforehand, positions give the same logits."""
    model = randomised(small_config(**changes))
    larger = MViT(small_config(**changes, num_frames=8, crop_size=64)).double().eval()
    state = copy.deepcopy(model.state_dict())
    for name, value in state.items():
        wanted = larger.state_dict()[name]
        if value.shape == wanted.shape:
            continue
        if "rel_pos" in name:
            state[name] = F.interpolate(value.T[None], size=len(wanted), mode="linear")[0].T
        elif name == "pos_embed_temporal":
            state[name] = F.interpolate(value.transpose(1, 2), size=4, mode="linear").transpose(1, 2)
        else:
            cls = value.shape[1] % 2  # a joint table starts with the class token
            frames = value[0, cls:].unflatten(0, (-1, 8, 8)).permute(0, 3, 1, 2)
            frames = F.interpolate(frames, size=(16, 16), mode="bicubic")
            if name == "pos_embed":
                frames = F.interpolate(frames.permute(2, 3, 1, 0).flatten(0, 1), size=4, mode="linear")
                frames = frames.unflatten(0, (16, 16)).permute(3, 2, 0, 1)
            rest = frames.permute(0, 2, 3, 1).flatten(0, 2)[None]
            state[name] = torch.cat([value[:, :cls], rest], dim=1)
    larger.load_state_dict(state)
    x = torch.randn(1, 3, 8, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(model(x), larger(x), rtol=0, atol=1e-10)


def test_drop_path_and_dropout_act_in_training_only_and_follow_the_seed():
    model = randomised(small_config(drop_path=0.5, dropout=0.5))
    x = torch.randn(4, 3, 4, 32, 32, dtype=torch.float64)
    assert torch.equal(model(x), model(x))
    model.train()
    torch.manual_seed(5)
    first, second = model(x), model(x)
    torch.manual_seed(5)
    assert torch.equal(model(x), first) and not torch.equal(first, second)


def test_the_two_branches_of_a_block_are_dropped_independently(monkeypatch):
    model = randomised(small_config(drop_path=0.5)).train()
    kept: list[torch.Tensor] = []
    block = model.blocks[3]
    block.drop_path.register_forward_hook(lambda _m, _i, out: kept.append(out.flatten(1).abs().sum(1) > 0))
    torch.manual_seed(0)
    model(torch.randn(64, 3, 4, 32, 32, dtype=torch.float64))
    attended, widened = kept
    for pair in ((True, True), (True, False), (False, True), (False, False)):
        assert ((attended == pair[0]) & (widened == pair[1])).any()


def test_activation_checkpointing_changes_memory_not_gradients():
    grads = []
    for flag in (False, True):
        model = randomised(small_config(activation_checkpointing=flag, drop_path=0.3)).train()
        torch.manual_seed(2)
        x = torch.randn(2, 3, 4, 32, 32, dtype=torch.float64)
        saved = 0

        def count(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal saved
            saved += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = model(x).square().sum()
        loss.backward()
        grads.append((saved, [p.grad for p in model.parameters()]))
    (plain_bytes, plain), (frugal_bytes, frugal) = grads
    assert frugal_bytes < plain_bytes / 4
    for one, other in zip(plain, frugal):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    "changes",
    [{}, v1_fields(), v1_fields(abs_pos="joint"), image_fields(**v1_fields()), {"expand_in": "mlp"}, POOLED],
    ids=["v2", "v1", "joint", "image", "mlp", "pooled"],
)
def test_the_gradients_of_one_clip_are_added_and_clipped_apart(changes):
    """Autograd takes views of one memory over as gradients of several parameters."""
    model = randomised(small_config(**changes))
    x = torch.randn(1, 3, 4, 32, 32, dtype=torch.float64)
    if model.config.is_image:
        x = x[:, :, 0]
    gradients = []
    for passes in (1, 2):
        model.zero_grad()
        for _ in range(passes):
            model(x).square().sum().backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        gradients.append([parameter.grad * norm for parameter in model.parameters() if parameter.grad is not None])
    for once, twice in zip(*gradients):
        torch.testing.assert_close(twice, 2 * once, rtol=1e-6, atol=1e-12)


def test_layer_ids():
    model = MViT(small_config(**v1_fields()))
    ids = model.layer_ids()
    assert ids.keys() == dict(model.named_parameters()).keys()
    names = [
        "cls_token",
        "pos_embed_spatial",
        "patch_embed.proj.bias",
        "blocks.0.norm1.weight",
        "blocks.3.mlp.fc2.bias",
    ]
    assert [ids[n] for n in (*names, "norm.weight", "head.projection.bias")] == [0, 0, 0, 1, 4, 5, 5]


def test_initial_values():
    torch.manual_seed(0)
    model = create_model("mvitv2_motion", init="pyslowfast", head_init_scale=0.5)
    assert model.blocks[0].attn.qkv.bias.unique().tolist() == pytest.approx([0.02])
    assert model.head.projection.bias.unique().tolist() == pytest.approx([0.01])
    assert model.head.projection.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert model.blocks[0].attn.rel_pos_h.std().item() == pytest.approx(0.02, rel=0.1)
    assert model.blocks[0].attn.pool_q.weight.std().item() == pytest.approx(0.02, rel=0.1)
    model = create_model("mvitv2_motion")
    assert model.blocks[3].mlp.fc2.weight.std().item() == pytest.approx(768**-0.5, rel=0.05)
    assert model.head.projection.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert model.blocks[0].attn.pool_q.weight.std().item() == pytest.approx((1 / 27 / 3) ** 0.5, rel=0.1)
    assert model.blocks[0].norm1.bias.abs().max() == 0


def test_a_model_made_on_the_meta_device_can_be_brought_to_life():
    with torch.device("meta"):
        model = MViT(small_config())
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for buffer in model.buffers():
            buffer.zero_()
    model.init_weights()
    plain = MViT(small_config()).eval()
    plain.load_state_dict(model.state_dict())
    x = torch.randn(1, 3, 4, 32, 32)
    assert torch.equal(model.eval()(x), plain(x))


@pytest.mark.parametrize("changes", [{}, POOLED, {"expand_in": "mlp"}, v1_fields()])
def test_second_derivatives_are_those_of_the_equations(changes):
    model = randomised(small_config(**changes))
    state = {name: value.clone().requires_grad_() for name, value in model.state_dict().items()}
    x = torch.randn(1, 3, 4, 32, 32, dtype=torch.float64, requires_grad=True)
    for function in (model, lambda clips: reference.forward(state, plan(model.config), clips)):
        (gradient,) = torch.autograd.grad(function(x).square().sum(), x, create_graph=True)
        gradient.square().sum().backward()
    for name, parameter in model.named_parameters():
        wanted = torch.zeros_like(parameter) if state[name].grad is None else state[name].grad
        got = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-8, msg=name)


def test_functional_transforms():
    model, x = randomised(small_config()), torch.randn(2, 3, 4, 32, 32, dtype=torch.float64)
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def loss(weights: dict[str, torch.Tensor], clip: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(model, weights, (clip[None],)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, x)
    for number, clip in enumerate(x):
        model.zero_grad()
        model(clip[None]).square().sum().backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(each[name][number], parameter.grad, msg=name)
    direction = torch.randn_like(x)
    _, change = torch.func.jvp(model, (x,), (direction,))
    step = 1e-6 * direction
    torch.testing.assert_close(change, (model(x + step) - model(x - step)) / 2e-6, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", ["auto", "explicit"])
def test_gradients_of_each_sample_under_bf16_autocast(form):
    model, x = randomised(small_config(attention_form=form)).float(), torch.randn(2, 3, 4, 32, 32)
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def loss(weights: dict[str, torch.Tensor], clip: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(model, weights, (clip[None],)).float().square().sum()

    exact = torch.func.grad(loss)(weights, x[0])
    with torch.autocast("cpu", torch.bfloat16):
        each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, x)
    error = sum(float((each[name][0] - exact[name]).square().sum()) for name in exact)
    assert error < 0.1**2 * sum(float(gradient.square().sum()) for gradient in exact.values())


def test_drop_path_draws_for_each_sample_of_vmap():
    model, x = MViT(small_config(drop_path=0.5)).train(), torch.randn(1, 3, 4, 32, 32).expand(6, -1, -1, -1, -1)
    torch.manual_seed(0)
    loss = lambda weights, clip: torch.func.functional_call(model, weights, (clip[None],)).square().sum()  # noqa: E731
    each = torch.func.vmap(torch.func.grad(loss), (None, 0), randomness="different")(dict(model.named_parameters()), x)
    assert len(set(each["head.projection.bias"][:, 0].tolist())) > 1


def test_forward_mode_without_torch_func():
    model, x = randomised(small_config()), torch.randn(1, 3, 4, 32, 32, dtype=torch.float64)
    direction = torch.randn_like(x)
    with torch.autograd.forward_ad.dual_level():
        change = torch.autograd.forward_ad.unpack_dual(model(torch.autograd.forward_ad.make_dual(x, direction))).tangent
    torch.testing.assert_close(change, torch.func.jvp(model, (x,), (direction,))[1])


@pytest.mark.parametrize("kind", ["forward", "full_backward"])
def test_hooks_run_on_every_module_and_change_nothing(kind):
    plain, x = randomised(small_config()), torch.randn(1, 3, 2, 16, 16, dtype=torch.float64)
    wanted = plain(x)
    wanted.sum().backward()
    for name in [name for name, _ in plain.blocks[1].named_modules() if name]:
        model, called = copy.deepcopy(plain), []
        model.zero_grad()
        hook = lambda *_, called=called: called.append(1)  # noqa: E731
        getattr(model.blocks[1].get_submodule(name), f"register_{kind}_hook")(hook)
        got = model(x)
        got.sum().backward()
        assert called, name
        torch.testing.assert_close(got, wanted)
        gradients = [[parameter.grad for parameter in either.parameters()] for either in (model, plain)]
        torch.testing.assert_close(*gradients)


def test_layers_without_some_parameters_and_modules_in_place_of_others_are_called():
    model, x = randomised(small_config()), torch.randn(1, 3, 4, 32, 32, dtype=torch.float64)

    class Doubled(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, *inputs):
            out = self.inner(*inputs)
            return (2 * out[0], out[1]) if isinstance(out, tuple) else 2 * out

    wrapped, scaled = copy.deepcopy(model), copy.deepcopy(model)
    wrapped.blocks[1].attn, wrapped.blocks[2].mlp = Doubled(wrapped.blocks[1].attn), Doubled(wrapped.blocks[2].mlp)
    with torch.no_grad():
        for layer in (scaled.blocks[1].attn.proj, scaled.blocks[2].mlp.fc2):
            layer.weight.mul_(2)
            layer.bias.mul_(2)
    torch.testing.assert_close(wrapped(x), scaled(x))
    bare = copy.deepcopy(model)
    for block in bare.blocks:
        block.norm1.bias = block.norm2.bias = block.mlp.fc1.bias = None
    with torch.no_grad():
        for block in model.blocks:
            for bias in (block.norm1.bias, block.norm2.bias, block.mlp.fc1.bias):
                bias.zero_()
    torch.testing.assert_close(bare(x), model(x))


def test_made_on_the_meta_device_and_filled_in_either_way():
    config = small_config()
    model, x = MViT(config), torch.randn(1, 3, 4, 32, 32)
    with torch.device("meta"):
        shapes, assigned, filled = MViT(config), MViT(config), MViT(config)
    assert shapes(x.to("meta")).shape == (1, 5)
    assigned.load_state_dict(model.state_dict(), assign=True)
    filled.to_empty(device="cpu").load_state_dict(model.state_dict())
    assert torch.equal(assigned(x), model(x)) and torch.equal(filled(x), model(x))
    with pytest.raises(ValueError, match=r"meta device.*to_empty"):
        load_weights(shapes, model.state_dict())


def test_made_without_weights_and_filled_in_piece_by_piece(monkeypatch):
    """Modules one by one, as FSDP does; and parameters that go to the meta device one by one, as accelerate's."""
    model, x = MViT(small_config()), torch.randn(1, 3, 4, 32, 32)
    with torch.device("meta"):
        alone = MViT(small_config())
    with monkeypatch.context() as patched:
        register = torch.nn.Module.register_parameter

        def on_meta(module, name, parameter):
            register(module, name, None if parameter is None else torch.nn.Parameter(parameter.to("meta")))

        patched.setattr(torch.nn.Module, "register_parameter", on_meta)
        bare = MViT(small_config())
    assert not any(buffer.is_meta for buffer in bare.buffers())
    for module in alone.modules():
        module.to_empty(device="cpu", recurse=False)
    alone.load_state_dict(model.state_dict())
    bare.load_state_dict(model.state_dict(), assign=True)
    assert torch.equal(alone(x), model(x)) and torch.equal(bare(x), model(x))
