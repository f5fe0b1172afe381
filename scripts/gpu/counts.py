"""Operations and bytes of a training step by kind of kernel, counted from a configuration. Pure arithmetic, bf16.

Two counts of bytes stand side by side. "Least" is what a kind must move if each of its kernels reads its inputs once
and writes its results once. "As written" follows the eager code pass by pass: casts, copies and sums of its own
included. Under autocast what enters and leaves matrix products is bf16 (E bytes), and so is the stream between the
blocks from the first one on whose skip connection passes a linear layer; before that it is float32 (F bytes), because
the class token is.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from mvit_video.models import BlockGeometry, MViTConfig, get_config
from mvit_video.models.kernels.pooling import read_count
from mvit_video.models.kernels.triton_terms import split_width

E, F = 2, 4
PRODUCTS, ATTENTION, TERMS, POOLING = "matrix products", "attention", "position terms", "pooling and its norm"
NORM, GELU, SUMS, MAXIMUM = "LayerNorm", "GELU", "residuals, merges, bias sums", "max pooling"
STEM, OPTIMIZER = "stem", "AdamW and casts of weights"
KINDS = (PRODUCTS, ATTENTION, TERMS, POOLING, NORM, GELU, SUMS, MAXIMUM, STEM, OPTIMIZER)


@dataclass(frozen=True)
class Work:
    """Of one kind in one step: operations on matrix units, on others, bytes at least, bytes as the eager code moves."""

    matrix: float = 0.0
    vector: float = 0.0
    least: float = 0.0
    written: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.matrix + other.matrix,
            self.vector + other.vector,
            self.least + other.least,
            self.written + other.written,
        )

    def times(self, count: float) -> "Work":
        return Work(count * self.matrix, count * self.vector, count * self.least, count * self.written)


@dataclass(frozen=True)
class Sizes:
    """One block, per clip: rows of each tensor, and widths."""

    tokens: int
    """That enter."""
    queries: int
    """That leave the attention, and for which queries are computed."""
    asked: int
    """Tokens that the queries' linear layer works on."""
    keys: int
    read: int
    """Tokens that keys and values are computed for."""
    terms: int
    """Position terms of a query: the coordinates of all axes."""
    wide: int
    """Columns of extended queries and keys of one head."""
    heads: int
    head: int

    @classmethod
    def of(cls, config: MViTConfig, block: BlockGeometry) -> "Sizes":
        token = int(config.cls_token)
        t, h, w = block.grid_in
        last = block.index == config.depth - 1 and config.head_pooling == "cls"
        read = 1
        if block.kernel_kv is not None and any(s > k for s, k in zip(block.stride_kv, block.kernel_kv)):
            for size, kernel, stride in zip(block.grid_in, block.kernel_kv, block.stride_kv):
                read *= read_count(size, kernel, stride)
        else:
            read = t * h * w
        axes = [axis for axis in range(3) if block.table_rows[axis]]
        terms = 0 if last else sum(block.grid_kv[axis] for axis in axes)
        tokens = token + t * h * w
        queries = token + _product(block.grid_q)
        return cls(
            tokens=tokens,
            queries=1 if last else queries,
            asked=1 if last else tokens,
            keys=token + _product(block.grid_kv),
            read=token + read,
            terms=terms,
            wide=block.head_dim + terms + (-(block.head_dim + terms) % 8 if terms else 0),
            heads=block.num_heads,
            head=block.head_dim,
        )


def _product(grid: tuple[int, int, int]) -> int:
    return grid[0] * grid[1] * grid[2]


@dataclass(frozen=True)
class Stream:
    """Bytes of a value of the stream between the blocks, under autocast."""

    entering: int
    between: int
    """The attention and the MLP of the block."""
    leaving: int

    @classmethod
    def of(cls, config: MViTConfig, block: BlockGeometry) -> "Stream":
        wide = F if config.cls_token or config.abs_pos != "none" else E
        for earlier in config.blocks[: block.index]:
            wide = E if earlier.dim_out != earlier.dim_in else wide
        narrowed = block.dim_out != block.dim_in
        between = E if narrowed and block.dim_attn != block.dim_in else wide
        return cls(entering=wide, between=between, leaving=E if narrowed else between)


def linears(config: MViTConfig, block: BlockGeometry) -> Iterator[tuple[int, int, int]]:
    """(rows, inputs, outputs) of every linear layer of a block, per clip."""
    size = Sizes.of(config, block)
    inside = block.dim_attn
    yield size.asked, block.dim_in, inside
    yield size.read, block.dim_in, 2 * inside
    if block.dim_out != block.dim_in:
        expands = block.dim_attn != block.dim_in
        yield (size.asked if expands else size.queries), block.dim_in, block.dim_out
    yield size.queries, inside, inside
    yield size.queries, inside, int(inside * config.mlp_ratio)
    yield size.queries, int(inside * config.mlp_ratio), block.dim_out


def products(config: MViTConfig, block: BlockGeometry) -> Work:
    """Forward, gradient of the input, gradient of the weight: three products that read two and write one tensor."""
    total = Work()
    for rows, inputs, outputs in linears(config, block):
        moved = 3 * E * (rows * (inputs + outputs) + inputs * outputs)
        total += Work(matrix=6.0 * rows * inputs * outputs, least=moved, written=moved)
    return total


def attention(config: MViTConfig, block: BlockGeometry) -> Work:
    """Two products forward and five backward over all logits; q, k, v, the result and their gradients."""
    size = Sizes.of(config, block)
    logits = size.queries * size.keys * size.heads
    matrix = 2.0 * logits * (4 * size.wide + 3 * size.head)
    forward = size.queries * (size.wide + size.head) + size.keys * (size.wide + size.head)
    backward = forward + size.queries * size.head + size.queries * size.wide + size.keys * (size.wide + size.head)
    moved = E * size.heads * (forward + backward) + 3 * F * size.heads * size.queries
    return Work(matrix=matrix, vector=6.0 * logits, least=moved, written=moved)


def position_terms(config: MViTConfig, block: BlockGeometry) -> Work:
    """Terms of every query, the extended operands, and the gradients of queries and tables."""
    size = Sizes.of(config, block)
    if not size.terms:
        return Work()
    c, k, wide = size.head, size.terms, size.wide
    least = (c + wide) + (wide + 2 * c + k)  # forward; backward: its gradient in, q again, the gradient out
    # Copy of q, three products that read q and write terms, terms copied into place; backward: a copy of the first
    # columns, for each axis its terms copied, multiplied and added, q copied once and read three times for the tables.
    written = (2 * c + 3 * c + k + 2 * k) + (2 * c + 2 * k + k + 3 * c + 9 * c + 2 * c + 3 * c + k)
    of_keys = E * size.heads * size.keys * (c + wide)
    per_query = E * size.heads * size.queries
    return Work(
        matrix=6.0 * size.queries * size.heads * c * k,
        least=per_query * least + of_keys,
        written=per_query * written + of_keys,
    )


def attention_in_kernels(config: MViTConfig, block: BlockGeometry) -> Work:
    """Attention and position terms of `attention_form="triton"`: nine products, in tiles of powers of two.

    Forward: logits and result. Queries' gradient: logits again, that of the weights, and three sums (queries, terms).
    Keys' gradient: logits and weights once more, and two sums. Each logit needs its terms' columns besides. Queries and
    what belongs to them are read by every kernel; keys are few, and what several programs read of them lies in a cache.
    """
    size = Sizes.of(config, block)
    if not size.terms:
        return attention(config, block)
    c, k = size.head, -(-size.terms // 8) * 8
    wide, narrow, whole = sum(split_width(c)), sum(split_width(k)), max(16, 1 << (k - 1).bit_length())
    logits = size.queries * size.keys * size.heads
    of_terms = 6.0 * size.queries * size.heads * wide * whole
    forward, backward = (c + k) + (2 * c + k), (4 * c + 2 * k) + (2 * c + k) + (2 * c + k) + (3 * c + k)
    moved = E * size.heads * (size.queries * (forward + backward) + 8 * c * size.keys)
    moved += 5 * F * size.heads * size.queries  # sums of exponentials, and products of results with their gradients
    return Work(
        matrix=2.0 * logits * (9 * wide + 4 * narrow) + of_terms, vector=12.0 * logits, least=moved, written=moved
    )


def pooling(config: MViTConfig, block: BlockGeometry) -> Work:
    """Convolution and norm of queries, keys and values, and backward: convolved again, two gradients.

    As written (the Triton form) the gradient before the norm is written once and read twice, the tokens read twice.
    """
    size = Sizes.of(config, block)
    parts = []
    if block.kernel_q is not None and size.queries > 1:
        parts.append((size.tokens, size.queries, _product(block.kernel_q)))
    if block.kernel_kv is not None:
        parts += [(size.read, size.keys, _product(block.kernel_kv))] * 2
    total = Work()
    for before, after, taps in parts:
        forward, least = before + after, 2 * before + after
        written = forward + (before + 2 * after) + (after + before) + (before + after)
        total += Work(
            vector=4 * 2.0 * taps * after * block.dim_attn,
            least=E * block.dim_attn * (forward + least),
            written=E * block.dim_attn * written,
        )
    return total


def norms(config: MViTConfig, block: BlockGeometry) -> Work:
    """Both norms of a block. As written: in float32, out in float32 and cast; done again backward, gradients cast.

    Backward x is read twice. A bf16 stream is cast before the norm, and its gradient after it.
    """
    size, stream = Sizes.of(config, block), Stream.of(config, block)
    total = Work()
    for values, x in ((size.tokens * block.dim_in, stream.entering), (size.queries * block.dim_attn, stream.between)):
        least = (x + E) + (x + E) + (x + E + x)
        written = 2 * (F + F + F + E) + (E + F) + 3 * F + 2 * F + (2 * (E + F) if x == E else 0)
        total += Work(vector=20.0 * values, least=values * least, written=values * written)
    return total


def gelu(config: MViTConfig, block: BlockGeometry) -> Work:
    """Forward, computed again backward, and its gradient."""
    values = Sizes.of(config, block).queries * int(block.dim_attn * config.mlp_ratio)
    return Work(vector=60.0 * values, least=7 * E * values, written=7 * E * values)


def sums(config: MViTConfig, block: BlockGeometry) -> Work:
    """Two residuals, residual pooling with the merge of heads, and the bias gradients of all linear layers."""
    size, stream = Sizes.of(config, block), Stream.of(config, block)

    def residual(x: int) -> int:
        """Forward; backward the gradient for the branch, cast where the stream is float32, and the sum of two."""
        return (x + E + x) + (x + E if x == F else 0) + 3 * x

    values = size.queries * (block.dim_attn * residual(stream.between) + block.dim_out * residual(stream.leaving))
    merged = 8 * E * size.queries * block.dim_attn if config.residual_pooling and size.queries > 1 else 0
    biases = sum(E * rows * outputs for rows, _, outputs in linears(config, block))
    moved = values + merged + biases
    return Work(least=moved, written=moved)


def maximum(config: MViTConfig, block: BlockGeometry) -> Work:
    """Of the skip connection, where queries are strided: maps, indices of 8 bytes, and backward."""
    size = Sizes.of(config, block)
    if max(block.stride_q) == 1 or size.queries == 1:
        return Work()
    width = block.dim_out if block.dim_attn != block.dim_in else block.dim_in
    x = Stream.of(config, block).between
    moved = width * (2 * x * size.tokens + 2 * (x + 8) * size.queries)
    return Work(least=moved, written=moved)


_OF_BLOCK = {
    PRODUCTS: products,
    ATTENTION: attention,
    TERMS: position_terms,
    POOLING: pooling,
    NORM: norms,
    GELU: gelu,
    SUMS: sums,
    MAXIMUM: maximum,
}


def step_work(config: MViTConfig, batch: int) -> dict[str, Work]:
    """The whole training step of a batch by kind."""
    work = {kind: Work() for kind in KINDS}
    for block in config.blocks:
        for kind, count in _OF_BLOCK.items():
            work[kind] += count(config, block).times(batch)
    tokens = _product(config.patch_grid)
    taps = config.in_channels * _product(config.patch_kernel)
    pixels = config.in_channels * config.num_frames * config.crop_size**2
    moved = batch * (2 * (F + E) * pixels + 3 * E * tokens * config.embed_dim)
    work[STEM] = Work(matrix=4.0 * batch * tokens * taps * config.embed_dim, least=moved, written=moved)
    head = config.out_dim * config.num_classes
    work[PRODUCTS] += Work(matrix=6.0 * batch * head)
    count = parameters(config)
    work[OPTIMIZER] = Work(least=(7 * F) * count, written=(7 * F + 2 * (F + E)) * count)
    return work


def parameters(config: MViTConfig) -> int:
    """Weights of linear layers, stem and head; norms, biases and tables are left out (under 2 %)."""
    inside = sum(inputs * outputs for block in config.blocks for _, inputs, outputs in linears(config, block))
    stem = config.in_channels * _product(config.patch_kernel) * config.embed_dim
    return inside + stem + config.out_dim * config.num_classes


def train_flops(config: MViTConfig) -> float:
    """Operations of a training step per clip: three times the forward pass of the published form.

    Its products alone: linear layers of all tokens, attention without extra columns, position terms, stem.
    """
    plain = 0.0
    for block in config.blocks:
        size = Sizes.of(replace(config, head_pooling="norm_mean"), block)
        tokens, queries, heads = size.tokens, size.queries, size.heads
        shapes = [(tokens, block.dim_in, 3 * block.dim_attn), (queries, block.dim_attn, block.dim_attn)]
        if block.dim_out != block.dim_in:
            shapes.append((tokens if block.dim_attn != block.dim_in else queries, block.dim_in, block.dim_out))
        hidden = int(block.dim_attn * config.mlp_ratio)
        shapes += [(queries, block.dim_attn, hidden), (queries, hidden, block.dim_out)]
        plain += sum(2.0 * rows * a * b for rows, a, b in shapes)
        plain += 4.0 * queries * size.keys * heads * size.head + 2.0 * queries * heads * size.head * size.terms
    tokens = _product(config.patch_grid)
    plain += 2.0 * tokens * config.in_channels * _product(config.patch_kernel) * config.embed_dim
    return 3.0 * (plain + 2.0 * config.out_dim * config.num_classes)


@dataclass(frozen=True)
class Card:
    """Rates per second: what large matrix products and copies reach, and float32 arithmetic by data sheet."""

    matrix: float
    copy: float
    vector: float


H100 = Card(matrix=800e12, copy=3.0e12, vector=60e12)
"""Assumed: what products of 8192^3 and large copies commonly reach on an H100 SXM; its data sheet says 989e12, 3.35e12
and 67e12."""
REACHED = {PRODUCTS: 0.7, ATTENTION: 0.45, TERMS: 0.3}
"""Assumed shares of the matrix rate that kernels of a kind reach."""
REACHED_COPY, REACHED_VECTOR = 0.75, 0.35
"""Assumed shares of the other rates, for kernels that stream, and for arithmetic with masks and addresses beside it."""
HOST_S = 0.030
"""Assumed for the host to start a step of S: 16 blocks of about 300 kernels at 6 microseconds."""


def floor_s(work: Work, card: Card) -> float:
    """Seconds of a kind at the card's full rates and the least bytes."""
    return max(work.matrix / card.matrix, work.vector / card.vector, work.least / card.copy)


def expected_s(kind: str, work: Work, card: Card, *, fused: bool = False) -> float:
    """Seconds that a kind is expected to take, as written or with the least bytes (`fused`)."""
    moved = work.least if fused else work.written
    return max(
        work.matrix / (card.matrix * REACHED.get(kind, 0.7)),
        work.vector / (card.vector * REACHED_VECTOR),
        moved / (card.copy * REACHED_COPY),
    )


def pieces(config: MViTConfig, batch: int, card: Card) -> list[tuple[str, float]]:
    """What each fused kernel would save of an eager step, in seconds, if it ran as well as the kernels it replaces."""
    work = step_work(config, batch)
    copy = card.copy * REACHED_COPY
    gain = {kind: expected_s(kind, work[kind], card) - expected_s(kind, work[kind], card, fused=True) for kind in KINDS}
    stream_bytes = query_values = key_values = 0.0
    for block in config.blocks:
        size, stream = Sizes.of(config, block), Stream.of(config, block)
        stream_bytes += batch * size.tokens * block.dim_in * stream.entering
        stream_bytes += batch * size.queries * block.dim_attn * stream.between
        if size.terms:
            query_values += batch * size.heads * size.queries * size.head
            key_values += batch * size.heads * size.keys * size.head
    blocks = attention_by_block(config, batch, card)
    return [
        ("LayerNorm in one pass: bf16 out, one pass backward", gain[NORM]),
        ("the residual in the same pass, besides", 3 * stream_bytes / copy),
        # The tables' gradients are a kernel for each axis, so that queries are read twice more than at least.
        ("queries, terms and zeros written by one kernel, and its backward", gain[TERMS] - 2 * E * query_values / copy),
        ("instead: attention that adds the terms in its kernels", sum(b.saved_s * b.count for b in blocks)),
        ("the same in the blocks alone where it is faster", sum(max(b.saved_s, 0.0) * b.count for b in blocks)),
        ("pooling that writes into the operands of attention", 2 * E * (2 * query_values + key_values) / copy),
    ]


@dataclass(frozen=True)
class AttentionTimes:
    """Expected seconds of one block's attention and terms, forward and backward, in two forms."""

    index: int
    count: int
    """Blocks of this kind; `index` is the first."""
    queries: int
    keys: int
    flash_s: float
    kernels_s: float

    @property
    def saved_s(self) -> float:
        return self.flash_s - self.kernels_s


def attention_by_block(config: MViTConfig, batch: int, card: Card) -> list[AttentionTimes]:
    """Of every kind of block with position terms: wider operands in the library's kernel, and the Triton kernels."""
    kinds: dict[tuple[float, ...], AttentionTimes] = {}
    for block in config.blocks:
        size = Sizes.of(config, block)
        if not size.terms:
            continue
        plain, terms = (count(config, block).times(batch) for count in (attention, position_terms))
        key = (size.heads, size.queries, size.keys, size.terms)
        known = kinds.get(key)
        kinds[key] = (
            replace(known, count=known.count + 1)
            if known
            else AttentionTimes(
                index=block.index,
                count=1,
                queries=size.queries,
                keys=size.keys,
                flash_s=expected_s(ATTENTION, plain, card) + expected_s(TERMS, terms, card),
                kernels_s=expected_s(ATTENTION, attention_in_kernels(config, block).times(batch), card),
            )
        )
    return list(kinds.values())


def predictions(preset: str = "mvitv2_s_16x4", batch: int = 16, card: Card = H100) -> str:
    """The table of docs/benchmarks.md: what counting says before anything was timed."""
    config = get_config(preset)
    work = step_work(config, batch)
    floors = {kind: floor_s(work[kind], card) for kind in KINDS}
    eager = {kind: expected_s(kind, work[kind], card) for kind in KINDS}
    fused = {kind: expected_s(kind, work[kind], card, fused=True) for kind in KINDS}
    lines = [
        "| kind of kernel | matrix, TFLOP | other, TFLOP | least, GB | written, GB | limit, ms | eager, ms | share |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for kind in sorted(KINDS, key=lambda kind: -eager[kind]):
        w = work[kind]
        cells = [kind, f"{w.matrix / 1e12:.2f}", f"{w.vector / 1e12:.2f}", f"{w.least / 1e9:.1f}"]
        cells += [f"{w.written / 1e9:.1f}", f"{1e3 * floors[kind]:.1f}", f"{1e3 * eager[kind]:.1f}"]
        lines.append("| " + " | ".join([*cells, f"{100 * eager[kind] / sum(eager.values()):.0f} %"]) + " |")
    total = [sum(values.values()) for values in (floors, eager, fused)]
    whole = sum(work.values(), Work())
    lines.append(
        f"| all | {whole.matrix / 1e12:.2f} | {whole.vector / 1e12:.2f} | {whole.least / 1e9:.1f} | "
        f"{whole.written / 1e9:.1f} | {1e3 * total[0]:.1f} | {1e3 * total[1]:.1f} | 100 % |"
    )
    share = [batch * train_flops(config) / seconds / card.matrix for seconds in total]
    lines += [
        "",
        f"Share of the matrix rate ({card.matrix / 1e12:.0f} TFLOP/s; a step needs "
        f"{train_flops(config) / 1e12:.3f} TFLOP a clip): "
        f"{100 * share[0]:.0f} % at the limit, {100 * share[1]:.0f} % expected of the eager form, "
        f"{100 * share[2]:.0f} % with the least bytes ({1e3 * total[2]:.1f} ms).",
        "",
        "| fused piece | saves, ms | of the eager step |",
        "| --- | --- | --- |",
    ]
    for name, saved in pieces(config, batch, card):
        lines.append(f"| {name} | {1e3 * saved:.1f} | {100 * saved / total[1]:.1f} % |")
    lines += ["", "| attention and terms of block | queries, keys | flash, ms | triton, ms | as fast |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for b in attention_by_block(config, batch, card):
        name = f"{b.index}" if b.count == 1 else f"{b.index} and like ({b.count})"
        times = f"{1e3 * b.flash_s:.2f} | {1e3 * b.kernels_s:.2f} | {b.flash_s / b.kernels_s:.2f}x"
        lines.append(f"| {name} | {b.queries}, {b.keys} | {times} |")
    return "\n".join(lines)
