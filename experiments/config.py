"""What a user may set: the schema of the Hydra tree. Mutable because Hydra needs it; read-only by convention.

`ExperimentConfig` divides into the "what" (model, data, optim, schedule, budget, seed: hashed into `run_id`) and the
"where" (`where`, `runs`: not hashed, but for `where.precision`). A knob lives on the component that owns it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Any, get_args, get_type_hints


@dataclass
class ModelSpec:
    """The shape of a model, as a file of conf/model states it."""

    family: str = "transformer"  # transformer | lstm
    n_layer: int = 2
    d_model: int = 16
    n_head: int = 2
    d_ff: int | None = None  # None: 8/3 of the width, rounded up to a multiple of 8
    tied: bool = False
    norm: str = "rmsnorm"  # rmsnorm | layernorm
    activation: str = "swiglu"  # swiglu | gelu
    positions: str = "rotary"  # rotary | learned
    experts: int = 0  # MLPs to choose from, per layer; 0: one for every token
    experts_per_token: int = 2
    weight_bits: int = 32  # of the weights in the blocks' products, 2 to 16: rounded to integers; 32: float32
    activation_bits: int = 32  # of what they multiply


@dataclass
class SyntheticSpec:
    """A Markov language: vocabulary, order, entropy and length."""

    vocab_size: int = 64
    tokens: int = 12_000_000
    chains: int = 2_000
    bigram_weight: float = 1.2
    skip_weight: float = 1.0
    trigram_weight: float = 0.25
    seed: int = 7
    order: int = 2  # tokens that the next one depends on
    rank: int | None = None  # inner width of its tables of pairs; None: full. At 8, d16 can hold a vocabulary of 256
    twins: list[int] = field(default_factory=lambda: [0])  # a text is of one, in turn: 0 the language, others renamed


@dataclass
class HubSpec:
    """A data set for `datasets`: its name on the Hub or a local folder, configuration, split and column."""

    name: str = ""  # on the Hugging Face Hub, or a local folder
    subset: str | None = None  # what `datasets` calls the name of a configuration
    split: str = "train"
    revision: str | None = None  # a commit: the text that it names does not change
    max_bytes: int | None = None  # of text to read; None: all


@dataclass
class DataSpec:
    """Which text is trained on and how it becomes tokens: source, cleaning, tokenizer, split, context length."""

    name: str = "python-source"
    source: str = "python-source"  # python-source | installed-source | files | huggingface | tokens | synthetic
    files: list[str] = field(
        default_factory=list
    )  # globs: .txt .md ... .jsonl .json .csv [.gz|.zst] .parquet; tokens: .bin .npy
    hub: HubSpec = field(default_factory=HubSpec)  # huggingface
    text_column: str = "text"  # of .jsonl, .parquet and data sets
    encoding: str = "utf-8"  # of text files, as Python names it: cp1252, utf-16, shift_jis, ...
    skip_bad: bool = (
        False  # count and leave out binary files, broken lines and bytes of another encoding instead of refusing
    )
    clean: list[str] = field(default_factory=list)  # stages in this order, named in experiments/data/cleaning.py
    separator: str = ""  # behind each document: nothing, a text such as \n\n or <|endoftext|>, or auto
    tokenizer: str = "bytes"  # bytes | bpe | a tokenizer.json | none (a source that is born as tokens)
    vocab_size: int = 4096  # bpe: tokens to learn; tokens: that the files may hold
    context_length: int = 64  # tokens per window, the same for every size: it decides which targets have context
    held_out_fraction: float = 1 / 12  # of the text, in documents chosen by the hash of their content
    eval_tokens: int = 131_072  # held-out tokens that every final loss is measured on
    unique_tokens: int | None = None  # train on so many, spread evenly over the corpus; None: on all of it
    max_epochs: float = 4.0  # a cell that would repeat the corpus more often is refused
    synthetic: SyntheticSpec = field(default_factory=SyntheticSpec)
    part: str = ""  # python-source: all of it, or its code, docstrings or comments
    mixture: dict[str, float] = field(default_factory=dict)  # domain: its share of the training windows; they sum to 1
    domains: dict[str, Any] = field(default_factory=dict)  # domain: the keys of data that it sets, or its files


def saved_data(saved: Mapping[str, Any]) -> DataSpec:
    """The DataSpec that a run recorded as a dict; keys that are younger than the run are at their default."""
    parts = {"hub": HubSpec, "synthetic": SyntheticSpec}
    return DataSpec(**{key: parts[key](**value) if key in parts else value for key, value in saved.items()})


@dataclass
class OptimSpec:
    """The optimizer's settings, or the rule that gives them for a size and a budget."""

    name: str = "adamw"  # adamw | muon
    rule: str = (
        ""  # batch, learning rate, beta2 and warm-up by experiments/study/rules.py: olmo | step-law | deepseek | ...
    )
    parametrization: str = "mup"  # mup | completep | standard
    learning_rate: float = 0.02  # at base_width; hidden and head scale with base_width / d_model
    base_width: int = 16
    base_depth: int = 2  # completep: the depth that residual branches are written for
    beta1: float = 0.9
    beta2: float = 0.95
    beta2_half_life: float | None = None  # in tokens, instead of beta2: the same memory at every batch size
    eps: float = 1e-8
    momentum: float = 0.95  # muon
    weight_decay: float = 0.0
    clip_norm: float | None = 1.0  # of the gradients; None: no clipping
    batch_size: int = 8  # sequences of context_length tokens per step


@dataclass
class ScheduleSpec:
    """The learning rate over a run, as a share of its peak."""

    name: str = "wsd"  # wsd | cosine | linear | constant
    warmup_steps: int = 100  # fewer leave seeds apart: tests/proofs/noise.py
    cooldown_fraction: float = 0.2  # wsd: of the cell's own steps
    cooldown_shape: str = "1-sqrt"  # wsd: 1-sqrt | linear
    final_fraction: float = 0.0  # of the peak, at the horizon


@dataclass
class BudgetSpec:
    """How long a run trains: exactly one of the three."""

    tokens: float | None = None
    flops: float | None = None
    tokens_per_param: float | None = None


@dataclass
class WindowSpec:
    """Which sizes meet which budget: bounds on D/N, or a factor around a predicted optimum N* = coef C^exponent."""

    tokens_per_param: list[float] | None = None  # [low, high]; N counts weight matrices with the head
    optimum_coef: float | None = None
    optimum_exponent: float | None = None
    factor: float | None = None  # keep N within this factor of the optimum
    min_steps: int = 250


@dataclass
class ReplicateSpec:
    """Further seeds for some cells of the grid: the seed noise."""

    sizes: list[str] = field(default_factory=list)
    budgets: list[float] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)


@dataclass
class CellSpec:
    """One size at one budget, by name: what a grid cannot say."""

    size: str = ""
    flops: float = 0.0
    seeds: list[int] = field(default_factory=lambda: [0])


@dataclass
class MixturesSpec:
    """Mixtures of data.domains, each with every size and budget: listed, on a grid, drawn; any of them together."""

    shares: list[Any] = field(default_factory=list)  # each domain: share, ...; a domain that is left out has none
    grid: int = 0  # all shares in multiples of 1 / grid
    draws: int = 0  # of a Dirichlet distribution
    concentration: float = 1.0  # of that: 1 is even over all mixtures, more is nearer to equal shares
    seed: int = 0  # of the draws


@dataclass
class RoundsSpec:
    """Rounds after the study's own cells: fit, ask as isoflop suggest does, train, and again."""

    count: int = 0
    budget: float | None = None  # FLOPs of each round
    target: float | None = None  # FLOPs of the run to decide on
    goal: str = "n_opt"  # n_opt | loss | multiplier


@dataclass
class StudySpec:
    """A grid of sizes and budgets, or a list of cells. Neither: a single cell, the top-level model and budget."""

    name: str = ""
    sizes: list[str] = field(default_factory=list)  # names in conf/model
    budgets: list[float] = field(default_factory=list)  # FLOPs
    window: WindowSpec = field(default_factory=WindowSpec)
    cells: list[CellSpec] = field(default_factory=list)  # instead of sizes and budgets: what isoflop suggest writes
    seeds: list[int] = field(default_factory=lambda: [0])
    replicates: list[ReplicateSpec] = field(default_factory=list)
    arms: dict[str, Any] = field(default_factory=dict)  # name: the parts of the experiment that it sets
    vary: dict[str, Any] = field(default_factory=dict)  # key: values, each with every other: optim.learning_rate: [..]
    hold_out: list[float] = field(default_factory=list)  # budgets left out of every fit; the report predicts them
    mixtures: MixturesSpec = field(default_factory=MixturesSpec)
    rounds: RoundsSpec = field(default_factory=RoundsSpec)
    stop: str = ""  # decided: runs end early where the rest tells little of the exponent a; half of the FLOPs at most


@dataclass
class WhereSpec:
    """How to run, not what: nothing here changes a loss on CPU, but for those marked * by rounding, and precision.

    A loss of float32 and one of bfloat16 are of two runs, with two ids; the `dtype` of their rows says which. On CUDA
    sums come in another order than on CPU and not always in the same one: losses there repeat to rounding.
    """

    device: str = "cpu"  # cpu | cuda | cuda:1
    workers: int | None = None  # None: as many as cores; on CUDA workers_per_gpu for each GPU, all of them with cuda
    workers_per_gpu: int = 1  # more share its memory, and its time unless NVIDIA's MPS lets them overlap
    pack: int | None = None  # trunks side by side on one device; None: on a GPU as many as fill it, up to 24; on CPU 1
    threads: int = 1  # * per worker
    micro_batch: int | None = None  # * sequences at once, the gradients added up; None: the whole batch
    activation_checkpointing: bool = False  # * blocks keep their input alone: less memory, a third more time
    precision: str = "float32"  # float32 (no TF32) | bfloat16: of matrix products; weights, moments and loss: float32
    graph: bool | None = None  # * a step as one CUDA graph; None: on CUDA below 1e7 parameters
    compile: bool | None = None  # * torch.compile, half a minute at the start; None: on CUDA from 1e7 parameters on
    noise_scale: bool = False  # log the gradient's, every 16th step taken once more in halves; losses stay the same
    distributed: str = "none"  # * ddp | fsdp2: all processes that torchrun started share each cell
    checkpoint_seconds: float = 30.0
    curve_rows: int = 2  # evaluations on few windows for each doubling of the steps; more cost up to 1% of a run
    price_per_hour: float | None = (
        None  # dollars of one device (a core, a GPU) for an hour: isoflop plan prints the sum
    )
    watts: float | None = None  # of one device at work: isoflop plan prints the energy
    max_dollars: float | None = None  # a launch that would cost more is refused
    trackers: list[str] = field(default_factory=list)  # tensorboard, wandb: beside the store, never instead of it
    corpora: str = "corpora"  # folder of prepared corpora
    trunk: str | None = None  # only the cells of these trunks, by commas: what a launch gives to one job
    cells: str | None = None  # which of the cell files beside a trunk's claim holds them: written by the launch
    only: list[str] | None = None  # only these runs: what isoflop retry names


@dataclass
class ExperimentConfig:
    """The whole configuration: one cell by `model` and `budget`, or a study of many, and where it runs."""

    model: ModelSpec = field(default_factory=ModelSpec)
    data: DataSpec = field(default_factory=DataSpec)
    optim: OptimSpec = field(default_factory=OptimSpec)
    schedule: ScheduleSpec = field(default_factory=ScheduleSpec)
    budget: BudgetSpec = field(default_factory=BudgetSpec)
    seed: int = 0
    init_from: str = "random"  # or a run's id or folder, or a Hugging Face folder of a Llama model: fine-tuning
    arm: str = ""
    study: StudySpec = field(default_factory=StudySpec)
    where: WhereSpec = field(default_factory=WhereSpec)
    runs: str = "runs"
    config_dirs: list[str] = field(default_factory=list)  # Hydra's further search path (--config-dir): filled in


def no_flag(dotted: str, value: object) -> str:
    """What is wrong with a number for a key of the schema that is true or false; "" for nothing.

    0 and 1 are known; OmegaConf would take any other for true.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or value in (0, 1):
        return ""
    node: Any = ExperimentConfig
    for part in dotted.split("."):
        if not is_dataclass(node):
            return ""
        node = get_type_hints(node).get(part)
    return f"{dotted} is true or false, not {value!r}" if bool in (node, *get_args(node)) else ""
