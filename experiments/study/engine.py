"""How the steps of a cell are taken: which step, in one graph or compiled, in what precision. Decided here. No torch.

On a GPU the fused step, where there is one, captured as a CUDA graph: few kernels, launched at once, each over memory
once. Elsewhere a small model's step is many kernels that each take less than their launch: the step written by hand has
the fewest; a large one is bound by its products and its memory: autograd, compiled. On CPU the step written by hand is
the fastest at every size.
"""

from dataclasses import dataclass

from isoflop.experiments.config import WhereSpec
from isoflop.experiments.study.cell import Cell
from isoflop.models.config import family_of, n_total
from isoflop.models.step.options import StepOptions

LARGE = 10_000_000  # parameters
PRECISIONS = ("float32", "bfloat16")
DISTRIBUTED = ("none", "ddp", "fsdp2")


class EngineError(ValueError):
    """A cell that cannot be run as `where` says."""


@dataclass(frozen=True)
class Engine(StepOptions):
    """How the steps of one cell are taken under some `where`: the options of the step, and how it is launched."""

    graph: bool = False  # as one CUDA graph
    micro_batch: int | None = None  # sequences at once; None: the whole batch
    noise_scale: bool = False  # whether the gradient's is logged
    note: str = ""  # why a device does not do what it would by itself


def decide(cell: Cell, where: WhereSpec) -> Engine:
    """The engine of a cell. Raises EngineError naming the cell, the setting and the remedy for what cannot work."""
    if cell.precision not in PRECISIONS:
        raise EngineError(f"where.precision must be one of {', '.join(PRECISIONS)}; not {cell.precision!r}")
    if cell.model.quantised and cell.precision != "float32":
        raise EngineError(
            f"{cell.label}: where.precision={cell.precision} would round again what model.weight_bits and "
            "model.activation_bits round; use where.precision=float32"
        )
    if where.noise_scale and (where.distributed != "none" or cell.optim.batch_size < 2):
        raise EngineError(
            f"{cell.label}: where.noise_scale needs where.distributed=none and optim.batch_size of 2 or more; not "
            f"{where.distributed} and {cell.optim.batch_size}"
        )
    requested = {"graph": where.graph, "compile": where.compile}
    obstacle = {"graph": _no_graph(cell, where), "compile": _no_compile(cell, where)}
    for key, value in requested.items():
        if value and obstacle[key]:
            raise EngineError(f"{cell.label}: where.{key}=true is not possible: {obstacle[key]}; use where.{key}=null")
    on_cuda, large = where.device.startswith("cuda"), n_total(cell.model) >= LARGE
    fused = on_cuda and family_of(cell.model).fused(cell.model) and where.compile is not True
    fused = fused and where.distributed == "none" and not where.activation_checkpointing
    best = ("compile" if large and not fused else "graph") if on_cuda and True not in requested.values() else ""
    by_itself = {key: key == best and value is None for key, value in requested.items()}
    done = {key: bool(requested[key]) or (by_itself[key] and not obstacle[key]) for key in requested}
    bfloat16, recompute = cell.precision == "bfloat16", where.activation_checkpointing
    apart = bfloat16 or recompute or done["compile"] or where.distributed == "fsdp2" or cell.model.quantised
    slow = f"without where.{best}: {obstacle[best]}" if best and by_itself[best] and obstacle[best] else ""
    if cell.model.quantised and not slow:
        slow = "by autograd: the step by hand does not round to model.weight_bits and model.activation_bits"
    return Engine(
        hand_written=not (apart or (on_cuda and large)),
        fused=fused,
        graph=done["graph"],
        compiled=done["compile"],
        bfloat16=bfloat16,
        micro_batch=where.micro_batch,
        recompute=recompute,
        noise_scale=where.noise_scale,
        note=slow,
    )


def engine_name(cell: Cell, where: WhereSpec, *, kernels: bool) -> str:
    """What will take the steps of a cell that no other shares its steps with, as the run table names it.

    `kernels` says whether those in C can be had.
    """
    on_cuda, engine, family = where.device.startswith("cuda"), decide(cell, where), family_of(cell.model)
    in_c = kernels and not on_cuda and where.threads == 1
    by_hand = engine.hand_written and family.hand_written(cell.model, where.device)
    by_hand = by_hand and (in_c or not family.by_kernels_alone) and not (engine.bfloat16 or engine.recompute)
    if engine.fused and not engine.compiled:
        name = "fused"
    elif not by_hand or engine.compiled:
        name = "compiled" if engine.compiled else "autograd"
    else:
        name = "c" if in_c else "torch"
    return ("cuda-" if on_cuda else "") + name


def _no_graph(cell: Cell, where: WhereSpec) -> str:
    """Why the step of this cell is not captured as one CUDA graph; "" if it can be."""
    if not where.device.startswith("cuda"):
        return f"where.device={where.device} has no CUDA graphs"
    if reason := family_of(cell.model).no_graph(cell.model):
        return reason
    if where.distributed != "none":
        return f"processes exchange gradients within a step (where.distributed={where.distributed})"
    if where.activation_checkpointing:
        return "where.activation_checkpointing is for models too large to gain from it"
    return ""


def _no_compile(cell: Cell, where: WhereSpec) -> str:
    """Why torch.compile has nothing to offer to this cell; "" if it has."""
    if reason := family_of(cell.model).no_compile(cell.model):
        return reason
    if where.distributed == "fsdp2":
        return "where.distributed=fsdp2 gathers parameters within a step"
    return ""
