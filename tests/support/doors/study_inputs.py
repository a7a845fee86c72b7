"""Malformed overrides, files of studies, registrations and models: command lines, and what a refusal must name."""

import json
from collections.abc import Iterator
from typing import Any

from tests.support.doors.malformed_case import CANARY, Input, written

PLAN = ["plan", "--no-calibrate"]
# Overrides that are none, or name nothing, with what the line must hold.
OVERRIDES: dict[str, tuple[str, ...]] = {
    "=x": ("=x",), "x": ("x",), "study.sizes=[d16": ("study.sizes",), "study.sizes=d16 d24": ("study.sizes",),
    "~study": ("study", "budget"), "experiment=nosuch": ("nosuch",), "experiment=": ("experiment",),
    "model=nosuch": ("nosuch",), "model=../../x": ("x",), "data=nosuch": ("nosuch",), "optim=nosuch": ("nosuch",),
    "study.nosuch=1": ("nosuch",), "nosuch=1": ("nosuch",), "study=5": ("study",), "study=[1]": ("study",),
    "model=5": ("model",), "data.hub=5": ("hub",), "study.window=x": ("window",), "optim.learning_rate.x=1": ("rate",),
    "study.cells=[{size: d6}]": ("cells",), "study.cells=[5]": ("cells",), "study.cells={a: 1}": ("cells",),
    "study.cells=[{size: nosuch, flops: 1e9}]": ("nosuch",), "study.cells=[{size: d6, flops: nan}]": ("flops",),
    "study.replicates=[{sizes: [nosuch], seeds: [1]}]": ("nosuch",), "study.replicates=5": ("replicates",),
    "study.arms={a: 5}": ("arms",), "study.arms={a: {nosuch: 1}}": ("nosuch",), "study.arms=5": ("arms",),
    "study.arms={a: {seed: 1}}": ("seed",), "study.arms={a: {study.name: x}}": ("study",),
    "study.arms={a: {optim.learning_rate: nan}}": ("learning_rate",), "study.arms=[1]": ("arms",),
    "study.arms={../x: {optim.learning_rate: 0}}": ("learning_rate",), "study.arms={a: null, b: 5}": ("arms",),
    "study.vary=5": ("vary",), "study.vary={nosuch: [1]}": ("nosuch",),
    "study.vary={optim.learning_rate: 5}": ("vary",),
    "study.vary={optim.learning_rate: []}": ("learning_rate",), "study.vary={optim.learning_rate: [x]}": ("rate",),
    "study.vary={optim.learning_rate: [nan]}": ("learning_rate",), "study.vary={optim: [1]}": ("optim",),
    "study.vary={optim.learning_rate: {a: 1}}": ("learning_rate",), "study.vary={study.seeds: [[x]]}": ("seeds",),
    "study.vary={where.device: [cpu, cuda]}": ("where",), "study.vary={runs: [a, b]}": ("runs",),
    "study.seeds=[1000000000000000000000]": ("seeds",), "study.seeds=[]": ("seeds",),
    "study.budgets=[]": ("budget",),
    "study.budgets=[1e30]": ("budget", "epochs", "flops"), "study.budgets=[1]": ("budget", "window", "steps"),
    "study.hold_out=[5]": ("hold_out",), "study.rounds.count=5": ("rounds",), "study.window.min_steps=10000000000": (
        "min_steps", "window"), "model.n_layer=1000000000": ("n_layer",), "model.d_model=1000000000": ("d_model",),
    "data.context_length=1000000000": ("context_length",), "optim.batch_size=1000000000": ("batch_size",),
    "where.device=tpu": ("device",), "where.threads=1000000": ("threads",), "where.workers=-1": ("workers",),
    "where.trackers=[nosuch]": ("nosuch",), "where.precision=nosuch": ("precision",), "where.pack=0": ("pack",),
    "where.distributed=nosuch": ("distributed",), "where.only=[nosuch]": ("nosuch",), "where.only=[../x]": ("only",),
    "where.cells=nosuch": ("where.cells",), "where.trunk=../x": ("trunk",), "where.corpora=~/x": ("corpora",),
    "runs=~/x": ("runs",), "runs=''": ("runs",), "runs=table.csv": ("table.csv",), "runs=folder/../table.csv": ("csv",),
    "hydra/launcher=nosuch": ("nosuch",), "hydra.launcher.nosuch=1": ("nosuch",), "hydra.mode=nosuch": ("mode",),
    "study.name=${oc.env:NOSUCH}": ("NOSUCH",),
    "study.name=${study.name}": ("study.name",), "study.name=${nosuch}": ("nosuch",), "study.name=${": ("study.name",),
    "study.name=???": ("study.name",), "data.files=text": ("files",), "data.source=nosuch": ("source",),
    "init_from=nosuch": ("nosuch",), "init_from=table.csv": ("table.csv",), "init_from=folder": ("folder",),
    "init_from=pipe": ("pipe",), "init_from=../x": ("../x",), "task=nosuch": ("task",), "+nosuch=1": ("nosuch",),
    "++nosuch.x=1": ("nosuch",), "+study.nosuch=1": ("nosuch",), "@x=1": ("x",), "optim@x=adamw": ("x",),
    "experiment@study=smoke": ("experiment",), "\u00e9=1": ("\u00e9",), "study.name=\u00e9": ("study.name",),
    "study.name=a b": ("study.name",), "arm=\u202ex": ("arm",), "optim.learning_rate=1e400": ("learning_rate",),
    "optim.learning_rate=0": ("learning_rate",),
}  # fmt: skip
# Words before or between the overrides that Hydra's own command line has, or that nobody has.
WORDS = (
    "--config-dir", "--config-dir=nosuch", "--config-dir=table.csv", "--config-dir=pipe", "--config-path=x", "-m",
    "--multirun", "--cfg", "--info", "--nosuch", "-x", "--resolve", "--package=x", "--config-name=nosuch", "-cn",
)  # fmt: skip


def _bomb(width: int, depth: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, depth)]
    return "\n".join(lines)


HEAD = "# @package _global_\n"
STUDY = f"{HEAD}study:\n  name: x\n  sizes: [d6]\n  budgets: [2e8]\n"
# Files conf/experiment/x.yaml, with what the line must hold besides the file's name.
YAMLS: dict[str, str] = {
    "nothing": "",
    "a list": "[1, 2]",
    "a number": "5",
    "a text": "x",
    "null": "null",
    "tabs": "\tstudy: 5",
    "no package": "study:\n  name: x\n",
    "unknown key": f"{HEAD}nosuch: 1\n",
    "unknown in study": f"{HEAD}study:\n  y: 1\n",
    "open bracket": f"{HEAD}study: [",
    "open quote": f"{HEAD}study: 'x",
    "wrong indent": f"{HEAD}study:\n a: 1\n  b: 2\n",
    "anchors": HEAD + _bomb(9, 9),
    "anchors at a key": f"{HEAD}{_bomb(9, 9)}\nstudy:\n  arms: *a8\n",
    "an anchor in itself": f"{HEAD}study: &a\n  arms: *a\n",
    "unknown anchor": f"{HEAD}study: *nosuch\n",
    "defaults name the file": f"{HEAD}defaults: [x]\n",
    "defaults by group": f"{HEAD}defaults: [/experiment: x]\n",
    "defaults of nothing": f"{HEAD}defaults: [nosuch]\n",
    "defaults are a number": f"{HEAD}defaults: 5\n",
    "defaults of defaults": f"{HEAD}defaults: [{{a: {{b: c}}}}]\n",
    "defaults are text": f"{HEAD}defaults: x\n",
    "defaults outside": f"{HEAD}defaults: [../../x]\n",
    "a tag": f"{HEAD}study: !!python/object/apply:os.system ['touch {CANARY}']\n",
    "a tag of a name": f"{HEAD}study: !!python/name:os.system\n",
    "an unknown tag": f"{HEAD}study: !x 5\n",
    "twice": f"{HEAD}study:\n  name: x\n  name: y\n",
    "two documents": f"{STUDY}---\n{STUDY}",
    "nested": HEAD + "a: " + "[" * 5000,
    "nested maps": HEAD + "".join(f"{' ' * i}a:\n" for i in range(3000)),
    "a long line": f"{HEAD}study: {'x' * 10**6}\n",
    "large": HEAD + "study:\n" + "".join(f"  k{i}: 1\n" for i in range(10**5)),
    "zeros": "\0" * 100,
    "keys are lists": f"{HEAD}study:\n  ? [1, 2]\n  : 5\n",
    "keys are numbers": f"{HEAD}5: 5\nstudy:\n  6: 7\n",
    "keys are null": f"{HEAD}~: 5\n",
    "a target": f"{HEAD}hydra:\n  callbacks:\n    x: {{_target_: os.system}}\n",
    "a run folder": f"{HEAD}hydra:\n  run:\n    dir: /tmp/{CANARY}\n",
    "merge": f"{HEAD}study:\n  <<: 5\n",
    "itself": f"{STUDY}  hold_out: ${{study.hold_out}}\n",
    "missing": f"{STUDY}  seeds: ???\n",
    "of nothing": f"{STUDY}  seeds: ${{nosuch}}\n",
    "environment": f"{STUDY}  seeds: [${{oc.env:NOSUCH}}]\n",
    "sizes are text": STUDY.replace("[d6]", "d6"),
    "sizes are maps": STUDY.replace("[d6]", "[{a: 1}]"),
    "sizes are numbers": STUDY.replace("[d6]", "[6]"),
    "budgets are text": STUDY.replace("[2e8]", "[x]"),
    "budgets are dates": STUDY.replace("[2e8]", "[2024-01-01]"),
    "budgets are null": STUDY.replace("[2e8]", "[null]"),
    "budgets are infinite": STUDY.replace("[2e8]", "[.inf]"),
    "budgets are nothing": STUDY.replace("[2e8]", "[.nan]"),
    "a name that is a path": STUDY.replace("name: x", "name: ../x"),
    "a name that is a list": STUDY.replace("name: x", "name: [x]"),
    "a name of no letters": STUDY.replace("name: x", "name: '\\x1b[2J'"),
    "an arm of nothing": f"{STUDY}  arms: {{a: {{optim.nosuch: 1}}}}\n",
    "arms are a list": f"{STUDY}  arms: [a, b]\n",
    "vary is a list": f"{STUDY}  vary: [a]\n",
    "cells too": f"{STUDY}  cells: [5]\n",
    "where is text": f"{STUDY}where: x\n",
    "where of nothing": f"{STUDY}where:\n  nosuch: 1\n",
    "model is a list": f"{STUDY}model: [1]\n",
    "optim is null": f"{STUDY}optim: null\n",
    "data is a number": f"{STUDY}data: 5\n",
    "a rate of text": f"{STUDY}optim:\n  learning_rate: x\n",
    "a nested rate": f"{STUDY}optim:\n  learning_rate: {{a: 1}}\n",
    "seeds beyond": f"{STUDY}  seeds: [99999999999999999999999]\n",
    "seeds of text": f"{STUDY}  seeds: [x]\n",
    "true for a number": f"{STUDY}optim:\n  batch_size: true\n",
}
BYTES: dict[str, bytes] = {
    "Latin-1": STUDY.replace("name: x", "name: \u00e9").encode("latin-1"), "UTF-16": STUDY.encode("utf-16"),
    "bytes": bytes(range(256)), "a half character": STUDY.encode() + b"\xed\xa0\x80",
}  # fmt: skip


def overrides() -> Iterator[Input]:
    """Overrides and words behind `isoflop plan`."""
    for override, names in OVERRIDES.items():
        single = override.startswith(("model", "budget", "seed", "init_from"))
        before = ["budget.tokens=1e6"] if single else ["experiment=smoke"]
        yield Input(f"plan {override}", [*PLAN, *before, override], list(names))
    for word in WORDS:
        yield Input(f"plan {word}", [*PLAN, "experiment=smoke", word], [word.partition("=")[0], *word.split("=")[1:]])


def studies() -> Iterator[Input]:
    """Files of studies in a folder of one's own."""
    contents = {name: text.encode("utf-8", "surrogatepass") for name, text in YAMLS.items()} | BYTES
    for name, content in contents.items():
        words = [*PLAN, "--config-dir", "conf", "experiment=x"]
        named = ["x.yaml", "experiment", "study", "optim", "where", "data", "model", "hydra", "nosuch", "NOSUCH"]
        yield Input(f"a study: {name}", words, named, written("conf/experiment/x.yaml", content))


WRONG: tuple[Any, ...] = (None, 5, -1, "x", [], {}, [[1]], 10**30, "../x", True)


def registrations() -> Iterator[Input]:
    """Files given to `predict --score`: JSON of another shape, and a sound one with a key of another type."""
    words = ["predict", "arms.csv", "--score", "r.json"]
    texts = (
        "", "5", "[]", "{}", "null", '"x"', "[" * 10**5, "{" * 100, '{"format": 1}', '{"format": 1, "seal": 5}',
        '{"format": 99, "seal": "x"}', '{"format": NaN, "seal": "x"}', '{"a": 1, "a": 2}', "\ufeff{}",
    )  # fmt: skip
    for text in texts:
        yield Input(f"score: {text[:20]}", words, ["r.json"], written("r.json", text.encode()))
    sound = {
        "format": 1, "seal": "x", "registered_at": "2024-01-01T00:00:00+00:00", "loss": 3.0, "sd_log_loss": 0.1,
        "data": {"table": "arms.csv", "sha256": "x", "n_runs": 1, "run_ids": None}, "n_opt": None,
        "target": {"flops": 1e22, "n_params": None, "tokens": None}, "intervals": {"0.9": [2.0, 4.0]},
        "n_opt_interval": None, "conventions": {"params": "matrices", "compute": "exact"},
    }  # fmt: skip
    for key in sound:
        for wrong in WRONG:
            content = json.dumps(sound | {key: wrong}).encode()
            yield Input(f"score: {key}={str(wrong)[:20]}", words, ["r.json"], written("r.json", content))


def models() -> Iterator[Input]:
    """Folders of a Llama model, given to init_from: their config.json and tokenizer.json."""
    words = [*PLAN, "budget.tokens=1e6", "init_from=llama"]
    config: dict[str, Any] = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 256, "hidden_size": 16,
        "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
        "tie_word_embeddings": True,
    }  # fmt: skip
    for text in ("", "5", "[]", "{}", "null", "[" * 10**5, '{"model_type": "gpt2"}', '{"model_type": 5}'):
        yield Input(f"llama: {text[:20]}", words, ["config.json", "llama"], written("llama/config.json", text.encode()))
    for key in config:
        for wrong in (None, -1, 10**9, "x", [1]):
            content = json.dumps(config | {key: wrong}).encode()
            name = f"llama: {key}={str(wrong)[:20]}"
            yield Input(name, words, ["llama"], written("llama/config.json", content))
