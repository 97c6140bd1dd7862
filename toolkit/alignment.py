"""Inner products of domain gradients with the target's, from slices that the ranks hold.

1. Forward through the bare model, backward through `torch.autograd.grad`: no `.grad` is written and
   no hook of the training engine runs, so training cannot notice.
2. As each parameter's gradient appears it goes into a bucket; a full bucket is reduced over the
   ranks and scattered, and each rank keeps 1/world of every parameter: its slice. The partition is
   the same for every ZeRO stage.
3. The target's slice is kept; domains' slices are not: their dot products with the target's are
   taken in float64 as the buckets arrive.
4. One all-reduce of one small vector makes the rank's partial sums whole.

Dot products taken before the reduction would be wrong: they miss the terms between ranks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from toolkit.engine import Engine, full_numel

BUCKET_NUMEL = 1 << 24
"""Elements of one reduction; a larger parameter has a bucket of its own."""

ConsumeSlice = Callable[[int, Tensor], None]

# Renamed in torch 2.13; the old name still works there, with a warning.
_reduce_scatter = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)


@dataclass(frozen=True, kw_only=True)
class ProbeRows:
    """This rank's share of one probe: a domain's rows or the target's, in groups.

    The groups and their sizes are the same on every rank, the rows are not; together the ranks'
    shares make up the whole group.
    """

    groups_BT: tuple[Tensor, ...]
    """Per group this rank's rows (rows, tokens), possibly none."""
    group_size: int
    """Rows of one group over all ranks."""


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """What one update measured; one entry per domain, in the mixture's order."""

    inner_products: tuple[float, ...]
    """<g_i, g_target>, g being the gradient of the mean loss over the probe's rows."""
    standard_errors: tuple[float, ...]
    """Of the inner products, from the differences between a domain's groups. The sampling error of
    the target's gradient, which all domains share, is not in them."""
    norms: tuple[float, ...]
    """Root mean square over the groups of |g_i|; includes the noise of a group-sized batch."""
    target_norm: float
    """|g_target|."""
    losses: tuple[float, ...]
    """Mean loss of each domain's probe rows, in nats per token."""
    target_loss: float

    @property
    def is_finite(self) -> bool:
        """Whether every number can be trusted; one overflow anywhere makes it False."""
        numbers = (*self.inner_products, *self.norms, self.target_norm, *self.losses)
        return all(math.isfinite(x) for x in (*numbers, self.target_loss))


class GradientSlicer:
    """Turns one backward pass into this rank's slices of the reduced gradient.

    Each parameter of n elements is cut into `world` chunks of ceil(n / world), the last padded with
    zeros. A slice is this rank's chunks of all parameters, end to end: `slice_numel` elements.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], *, bucket_numel: int) -> None:
        self._world_size = dist.get_world_size()
        # Gradients appear roughly in reverse order of registration.
        self._parameters = tuple(reversed(parameters))
        chunks = [-(-full_numel(p) // self._world_size) for p in self._parameters]
        self._buckets = _cut_into_buckets(chunks, limit=bucket_numel // self._world_size)
        self._places = [place for bucket in self._buckets for place in _places(bucket, chunks)]
        """Per parameter its bucket and its columns there."""
        self.slice_numel = sum(chunks)

    def backward(self, loss: Tensor, consume: ConsumeSlice) -> None:
        """Differentiates `loss` and hands `consume` the slice: (offset, fp32 part) by bucket.

        The gradients are summed over the ranks. Collective: every rank calls it equally often.
        Buckets are reduced in one fixed order, whatever order the gradients appear in.
        """
        pending: dict[int, Tensor] = {}
        missing = [len(bucket.positions) for bucket in self._buckets]
        next_bucket = 0

        def reduce_ready(*, everything: bool) -> None:
            nonlocal next_bucket
            while next_bucket < len(self._buckets) and (everything or not missing[next_bucket]):
                bucket = self._buckets[next_bucket]
                buffer = pending.pop(next_bucket, None)
                if buffer is None:
                    buffer = self._new_buffer(bucket, loss.device)
                consume(bucket.slice_offset, self._reduce(buffer))
                next_bucket += 1

        def receive(position: int, gradient: Tensor) -> Tensor:
            bucket, columns = self._places[position]
            if bucket.index not in pending:
                pending[bucket.index] = self._new_buffer(bucket, gradient.device)
            _lay(gradient, pending[bucket.index][:, columns])
            missing[bucket.index] -= 1
            reduce_ready(everything=False)
            # autograd.grad keeps what the hook returns: one element instead of the gradient.
            return gradient.new_zeros(()).expand_as(gradient)

        handles = [
            parameter.register_hook(partial(receive, i))  # type: ignore[no-untyped-call]
            for i, parameter in enumerate(self._parameters)
        ]
        try:
            torch.autograd.grad(loss, self._parameters, allow_unused=True)
        finally:
            for handle in handles:
                handle.remove()
        # Parameters without a gradient count as zeros.
        reduce_ready(everything=True)

    def _new_buffer(self, bucket: _Bucket, device: torch.device) -> Tensor:
        shape = (self._world_size, bucket.num_columns)
        return torch.zeros(shape, dtype=torch.float32, device=device)

    def _reduce(self, buffer: Tensor) -> Tensor:
        if self._world_size == 1:
            return buffer[0]
        part = torch.empty_like(buffer[0])
        _reduce_scatter(part, buffer.flatten())
        return part


@dataclass(frozen=True, kw_only=True)
class _Bucket:
    index: int
    positions: range
    slice_offset: int
    num_columns: int


def _cut_into_buckets(chunks: Sequence[int], *, limit: int) -> list[_Bucket]:
    buckets: list[_Bucket] = []
    start, offset = 0, 0
    while start < len(chunks):
        stop, columns = start + 1, chunks[start]
        while stop < len(chunks) and columns + chunks[stop] <= limit:
            columns += chunks[stop]
            stop += 1
        buckets.append(
            _Bucket(
                index=len(buckets),
                positions=range(start, stop),
                slice_offset=offset,
                num_columns=columns,
            )
        )
        start, offset = stop, offset + columns
    return buckets


def _places(bucket: _Bucket, chunks: Sequence[int]) -> Iterator[tuple[_Bucket, slice]]:
    start = 0
    for position in bucket.positions:
        yield bucket, slice(start, start + chunks[position])
        start += chunks[position]


def _lay(gradient: Tensor, columns: Tensor) -> None:
    """Writes the flat gradient row by row into its (world, chunk) columns of a bucket."""
    flat, chunk = gradient.detach().flatten(), columns.shape[1]
    num_whole = flat.numel() // chunk
    columns[:num_whole].copy_(flat[: num_whole * chunk].view(num_whole, chunk))
    rest = flat[num_whole * chunk :]
    if rest.numel():
        columns[num_whole, : rest.numel()].copy_(rest)


def measure_alignment(
    engine: Engine,
    *,
    target: ProbeRows,
    domains: Sequence[ProbeRows],
    bucket_numel: int = BUCKET_NUMEL,
) -> Alignment:
    """The alignment of every domain with the target at the current parameters.

    Training does not notice: parameters, optimizer, gradients, counters and generators are
    untouched. Collective: every rank passes its own share of the same probes.
    """
    slicer = GradientSlicer(engine.parameters, bucket_numel=bucket_numel)
    target_slice = torch.zeros(slicer.slice_numel, dtype=torch.float32, device=engine.device)
    num_groups = len(target.groups_BT)

    def keep(offset: int, part: Tensor) -> None:
        target_slice[offset : offset + part.numel()].add_(part, alpha=1 / num_groups)

    partial_sums: list[Tensor] = []
    with engine.outside_training() as model:
        target_losses = [_differentiate(model, slicer, target, j, keep) for j in range(num_groups)]
        partial_sums += [_square(target_slice, bucket_numel), torch.stack(target_losses)]
        for domain in domains:
            for j in range(len(domain.groups_BT)):
                sums = torch.zeros(3, dtype=torch.float64, device=engine.device)

                def dot(offset: int, part: Tensor, sums: Tensor = sums) -> None:
                    part = part.double()
                    sums[0] += part @ target_slice[offset : offset + part.numel()].double()
                    sums[1] += part @ part

                sums[2] = _differentiate(model, slicer, domain, j, dot)
                partial_sums.append(sums)
    return _finish(partial_sums, num_groups=num_groups)


def _differentiate(
    model: nn.Module, slicer: GradientSlicer, rows: ProbeRows, group: int, consume: ConsumeSlice
) -> Tensor:
    """One group's backward pass; returns this rank's part of the group's mean loss.

    A rank without a row of the group takes part with weight 0, since passes are collective.
    """
    tokens_BT = rows.groups_BT[group]
    share = len(tokens_BT) / rows.group_size
    if not len(tokens_BT):
        tokens_BT = tokens_BT.new_zeros((1, tokens_BT.shape[1]))
    with torch.enable_grad():
        loss: Tensor = model(tokens_BT) * share
    slicer.backward(loss, consume)
    return loss.detach().double()


def _square(slice_: Tensor, numel: int) -> Tensor:
    """The squared norm, in float64 without a float64 copy of the whole."""
    squares = [part.double().square().sum() for part in torch.split(slice_, numel)]
    return torch.stack(squares).sum()


def _finish(partial_sums: Sequence[Tensor], *, num_groups: int) -> Alignment:
    vector = torch.cat([sums.reshape(-1) for sums in partial_sums])
    dist.all_reduce(vector)
    target_square, *values = vector.tolist()
    target_losses, triples = values[:num_groups], values[num_groups:]
    groups = [triples[i : i + 3] for i in range(0, len(triples), 3)]
    domains = [groups[i : i + num_groups] for i in range(0, len(groups), num_groups)]
    return Alignment(
        inner_products=tuple(_mean([g[0] for g in groups]) for groups in domains),
        standard_errors=tuple(_standard_error([g[0] for g in groups]) for groups in domains),
        norms=tuple(math.sqrt(_mean([g[1] for g in groups])) for groups in domains),
        target_norm=math.sqrt(target_square),
        losses=tuple(_mean([g[2] for g in groups]) for groups in domains),
        target_loss=_mean(target_losses),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)  # fsum would raise where infinities meet


def _standard_error(values: Sequence[float]) -> float:
    """Of the mean of independent, equally sized groups; at least two."""
    mean = _mean(values)
    variance = sum((v - mean) * (v - mean) for v in values) / (len(values) - 1)
    return math.sqrt(variance / len(values))
