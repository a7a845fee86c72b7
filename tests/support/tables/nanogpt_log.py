"""The log of a nanoGPT run, line for line as the program prints it."""

from collections.abc import Callable
from pathlib import Path

from isoflop.scaling.imports.logs.nanogpt import nanogpt_shape


def nanogpt_log(
    path: Path,
    *,
    d: int = 384,
    layers: int = 6,
    block: int = 256,
    vocab: int = 65,
    max_iters: int = 5000,
    stop: int | None = None,
    loss: Callable[[int], float] = lambda step: 2.0,
    shape: bool = True,
) -> Path:
    """Write the log of a run that ended at step `stop`, without its `shape` if so wanted; returns its path."""
    shown = nanogpt_shape(layers, 6, d, block, vocab, bias=False)
    lines = ["Overriding config with config/train_shakespeare_char.py:", "# a miniature model, out-dir and all", ""]
    lines += ["out_dir = 'out-shakespeare-char'", "eval_interval = 250 # keep frequent because we'll overfit"]
    lines += ["log_interval = 10 # don't print too too often", "wandb_log = False # override via command line", ""]
    lines += ["dataset = 'shakespeare_char'", "gradient_accumulation_steps = 1 * 1", "batch_size = 64"]
    lines += [f"block_size = {block} # context of up to {block} previous characters"] if shape else []
    lines += [f"n_layer = {layers}", "n_head = 6", f"n_embd = {d}", "dropout = 0.2"] if shape else []
    lines += ["learning_rate = 1e-3 # with baby networks can afford to go a bit higher", f"max_iters = {max_iters}"]
    lines += [f"lr_decay_iters = {max_iters} # make equal to max_iters usually", "min_lr = 1e-4", "warmup_iters = 100"]
    lines += ["", f"tokens per iteration will be: {64 * block:,}"]
    lines += [f"found vocab_size = {vocab} (inside data/shakespeare_char/meta.pkl)"]
    lines += ["Initializing a new model from scratch"]
    lines += [f"number of parameters: {(shown.total - shown.params['position']) / 1e6:.2f}M"]
    lines += ["num decayed parameter tensors: 26, with 10,740,096 parameters", "using fused AdamW: True"]
    for step in range(0, (stop or max_iters) + 1, 250):
        lines += [f"step {step}: train loss {loss(step) - 0.1:.4f}, val loss {loss(step):.4f}"]
        lines += ["saving checkpoint to out-shakespeare-char"] if step else []
        lines += [f"iter {step}: loss {loss(step) - 0.1:.4f}, time 24.61ms, mfu 14.23%"]
    path.write_text("\n".join(lines) + "\n")
    return path
