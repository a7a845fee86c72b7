"""The columns of the run table: their types and units, and what each is to a law that is fitted to the runs."""

from dataclasses import dataclass
from typing import Literal

from isoflop.scaling.table.migrate import ADDED

Role = Literal["identity", "seed", "outcome", "scale", "ruler", "experiment", "setting", "follows"]
"""What a column is to a law: it names a run or says where it comes from (identity) or is its seed; it is what the run
brought out (outcome); it is what a study varies for the law, a size, a length or a compute (scale). A loss under
another ruler is another quantity, under another experiment that of another experiment. A setting is tuned, and may move
with the scale. What follows does so from other columns.
"""


@dataclass(frozen=True)
class Column:
    """One column of a table that this package writes."""

    name: str
    dtype: str
    unit: str
    meaning: str


@dataclass(frozen=True)
class RunColumn(Column):
    """One column of the run table. `volatile` marks what two identical runs may differ in (clocks, machines)."""

    role: Role
    volatile: bool = False


PARAM_GROUPS = ("embedding", "position", "attention", "recurrent", "mlp", "norm", "unembedding")

COLUMNS: tuple[RunColumn, ...] = (
    RunColumn("run_id", "string", "", "hash of everything that determines the run's losses", "identity"),
    RunColumn("trunk_id", "string", "",
              "hash of what cells share before they branch: the statistical cluster", "identity"),
    RunColumn("arm", "string", "", "the value of what a study compares", "experiment"),
    RunColumn("seed", "int64", "", "initialisation and data order", "seed"),
    RunColumn("state", "string", "", "done, diverged or stopped", "outcome"),
    RunColumn("final", "bool", "",
              "the evaluation at the end of the run's own horizon; of a stopped run its forecast", "outcome"),
    RunColumn("family", "string", "", "architecture", "experiment"),
    RunColumn("n_layer", "int64", "layers", "depth", "scale"),
    RunColumn("d_model", "int64", "", "width of the residual stream", "scale"),
    RunColumn("n_head", "int64", "", "attention heads", "scale"),
    RunColumn("d_ff", "int64", "", "width of the MLP", "scale"),
    RunColumn("vocab_size", "int64", "tokens", "vocabulary", "ruler"),
    RunColumn("context_length", "int64", "tokens", "context window", "ruler"),
    RunColumn("tied", "bool", "", "embedding and unembedding share weights", "experiment"),
    RunColumn("norm", "string", "", "rmsnorm or layernorm", "experiment"),
    RunColumn("activation", "string", "", "swiglu or gelu", "experiment"),
    RunColumn("positions", "string", "", "rotary or learned", "experiment"),
    RunColumn("experts", "int64", "", "MLPs to choose from, per layer; 0: one for every token", "experiment"),
    RunColumn("experts_per_token", "int64", "", "experts that a token is sent to; 0 without experts", "experiment"),
    RunColumn("weight_bits", "int64", "bits",
              "of the weights in the blocks' products: rounded below 32, which is float32", "experiment"),
    RunColumn("activation_bits", "int64", "bits",
              "of what those weights multiply: rounded below 32, which is float32", "experiment"),
    *(RunColumn(f"n_params_{g}", "int64", "parameters", f"{g} parameters", "scale") for g in PARAM_GROUPS),
    RunColumn("n_params_total", "int64", "parameters",
              "the sum of the groups: every trainable parameter once", "scale"),
    RunColumn("n_params_active", "int64", "parameters",
              "of the weight matrices with the head, those a token meets", "scale"),
    RunColumn("flops_token_blocks", "int64", "FLOPs/token", "forward, weight matrices of the blocks", "scale"),
    RunColumn("flops_token_attention_scores", "float64", "FLOPs/token",
              "forward, scores and values, causal", "scale"),
    RunColumn("flops_token_attention_scores_full", "float64", "FLOPs/token",
              "forward, scores and values, full square", "scale"),
    RunColumn("flops_token_unembedding", "int64", "FLOPs/token", "forward, logits", "scale"),
    RunColumn("corpus_id", "string", "", "hash of the tokens", "experiment"),
    RunColumn("tokenizer_id", "string", "", "name or hash of the tokenizer", "ruler"),
    RunColumn("eval_id", "string", "", "hash of the held-out windows that the loss is measured on", "ruler"),
    RunColumn("loss_floor", "float64", "nats/token",
              "exact irreducible loss of a synthetic corpus, NaN elsewhere", "follows"),
    RunColumn("bytes_per_token", "float64", "bytes/token", "on the held-out text", "follows"),
    RunColumn("unique_tokens", "int64", "tokens", "distinct training tokens available to the run", "scale"),
    RunColumn("epochs", "float64", "", "tokens seen / unique tokens", "scale"),
    RunColumn("optimizer", "string", "", "optimiser", "experiment"),
    RunColumn("parametrization", "string", "", "initialisation and per-tensor learning-rate rule", "experiment"),
    RunColumn("schedule", "string", "", "learning-rate schedule", "experiment"),
    RunColumn("peak_learning_rate", "float64", "", "base learning rate before the per-tensor rule", "setting"),
    RunColumn("weight_decay", "float64", "",
              "of the weights, a step and rate; NaN in tables that did not keep it", "setting"),
    RunColumn("beta1", "float64", "",
              "AdamW: decay of the mean gradient a step; NaN where not kept, as those below", "setting"),
    RunColumn("beta2", "float64", "", "AdamW: decay of the mean squared gradient a step", "setting"),
    RunColumn("eps", "float64", "", "AdamW: added to the root of that mean", "setting"),
    RunColumn("clip_norm", "float64", "", "largest norm of the gradients; 0: not clipped", "setting"),
    RunColumn("momentum", "float64", "", "Muon: decay of the mean gradient a step", "setting"),
    RunColumn("base_width", "float64", "", "width that the rate is written for", "setting"),
    RunColumn("base_depth", "float64", "layers",
              "completep: depth that residual branches are written for", "setting"),
    RunColumn("cooldown_fraction", "float64", "", "wsd: share of the run's own steps under cooldown", "setting"),
    RunColumn("cooldown_shape", "string", "", "wsd: how the rate comes down; empty where not kept", "setting"),
    RunColumn("final_fraction", "float64", "", "share of the peak rate that the schedule ends at", "setting"),
    RunColumn("warmup_tokens", "int64", "tokens", "tokens under warm-up", "setting"),
    RunColumn("step", "int64", "steps", "optimiser steps taken", "scale"),
    RunColumn("tokens", "int64", "tokens", "training tokens seen", "scale"),
    RunColumn("horizon_tokens", "int64", "tokens", "tokens at which the schedule ends", "scale"),
    RunColumn("budget_flops", "float64", "FLOPs", "the budget requested; NaN when it was given in tokens", "scale"),
    RunColumn("batch_tokens", "int64", "tokens", "tokens per optimiser step", "setting"),
    RunColumn("learning_rate", "float64", "", "base learning rate at this step", "follows"),
    RunColumn("phase", "string", "", "warmup, constant, cooldown or decay", "outcome"),
    RunColumn("loss", "float64", "nats/token", "held-out cross-entropy", "outcome"),
    RunColumn("loss_se", "float64", "nats/token", "standard error of the loss over held-out windows", "outcome"),
    RunColumn("bits_per_byte", "float64", "bits/byte", "loss / (ln 2 x bytes per token)", "outcome"),
    RunColumn("accuracy", "float64", "", "share of next tokens predicted exactly", "outcome"),
    RunColumn("train_loss", "float64", "nats/token", "mean training loss since the previous row", "outcome"),
    RunColumn("mixture", "string", "",
              "JSON, of each domain: weight, loss, epochs, unique_tokens; empty without one", "outcome"),
    RunColumn("noise_scale", "float64", "tokens",
              "of the gradient, of the last steps mostly; NaN where not logged", "outcome", True),
    RunColumn("flops", "float64", "FLOPs",
              "training compute: forward and backward, causal attention, with the head", "scale"),
    RunColumn("flops_6nd", "float64", "FLOPs", "6 x total parameters x tokens", "follows"),
    RunColumn("wall_seconds", "float64", "s",
              "training time had the run been alone (a trunk counts in each)", "outcome", True),
    RunColumn("peak_memory_bytes", "int64", "bytes",
              "peak resident memory of the worker; on CUDA, of the device", "outcome", True),
    RunColumn("code_version", "string", "", "version and commit of isoflop", "identity", True),
    RunColumn("torch_version", "string", "", "torch, and the build of our kernels", "identity", True),
    RunColumn("engine", "string", "",
              "what took the steps: c, torch, autograd, compiled, packed; on CUDA cuda-..", "identity", True),
    RunColumn("device", "string", "", "processor or accelerator", "experiment", True),
    RunColumn("dtype", "string", "", "precision of the matrix products", "experiment"),
    RunColumn("created_at", "string", "ISO 8601", "when the row was written, UTC", "identity", True),
)  # fmt: skip

NAMES = tuple(c.name for c in COLUMNS)
VOLATILE = tuple(c.name for c in COLUMNS if c.volatile)
NEEDED = tuple(name for name in NAMES if name not in (*ADDED, *VOLATILE))  # what every run has


def with_roles(*roles: Role) -> tuple[str, ...]:
    """The names of the columns that have one of these roles, in the order of the table.

    >>> with_roles("seed")
    ('seed',)
    """
    return tuple(c.name for c in COLUMNS if c.role in roles)


# What repeats of a run under other seeds may differ in.
OF_ONE_RUN = (*with_roles("identity", "seed", "outcome", "follows"), *VOLATILE)
