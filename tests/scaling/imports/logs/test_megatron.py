"""Logs of Megatron-LM as tables."""

from pathlib import Path

import pytest

from isoflop.scaling.imports.assemble import ImportOptions
from isoflop.scaling.imports.read import import_source
from isoflop.scaling.imports.source import SourceError
from tests.support.root import ROOT


def read(path: Path):
    return import_source(path, "auto", ImportOptions(), {})


def test_parameters_are_summed_over_ranks_and_tokens_are_samples_times_the_sequence():
    found = read(ROOT / "tests/support/files/megatron.log")
    last = found.table.iloc[-1]
    assert (last["run_id"], last["n_params"], last["tokens"], last["loss"]) == ("megatron", 2.5e6, 12_800 * 512, 4.4)
    assert (last["step"], last["batch_tokens"], last["train_loss"], last["seed"]) == (200, 64 * 512, 4.31, 1234)
    assert last["peak_learning_rate"] == 6e-4


def test_a_run_that_stopped_and_two_models_in_one_log(tmp_path):
    text = (ROOT / "tests/support/files/megatron.log").read_text()
    other = text.replace("1200000", "4200000").replace("4.400000E+00", "3.900000E+00")
    (tmp_path / "both.log").write_text(text + other)
    table = read(tmp_path / "both.log").table
    last = table.drop_duplicates("run_id", keep="last")
    assert last[["run_id", "n_params", "loss"]].to_numpy().tolist() == [["both#1", 2.5e6, 4.4], ["both#2", 5.5e6, 3.9]]
    (tmp_path / "short.log").write_text(text.split("[default7]: [2026-05-01 12:00:12]")[0])
    assert "at step 100 of 200" in str(read(tmp_path).left_out[-1])


HEAD = """------------------------ arguments ------------------------
  global_batch_size ............................... {batch}
  seq_length ...................................... 512
  train_iters ..................................... 240
-------------------- end of arguments ---------------------
 > number of parameters on (tensor, pipeline) model parallel rank (0, 0): 1200000
"""


def growing_log(path: Path, *, first: int, last: int, grown: int, every: int, head: str = HEAD) -> dict[int, int]:
    """Write the log of 240 steps whose batch is `first` up to step `grown`, then `last`, a line `every` so many steps.

    Returns the samples consumed at each evaluation.
    """
    lines, consumed, message = [head.format(batch=last)], 0, {}
    for step in range(1, 241):
        batch = first if step <= grown else last
        consumed += batch
        if step % every == 0:
            lines.append(
                f" iteration {step:>8}/     240 | consumed samples: {consumed:>12} | learning rate: 3.0E-04 | "
                f"global batch size: {batch:>5} | lm loss: 4.0E+00 |\n"
            )
        if step % 50 == 0 or step == 240:
            message[step] = consumed
            lines.append(f" validation loss at iteration {step} | lm loss value: {4 - step / 1000:.6E} |\n")
    path.write_text("".join(lines))
    return message


@pytest.mark.parametrize("every", [1, 7, 50, 100])
@pytest.mark.parametrize(("first", "grown"), [(64, 240), (8, 100), (16, 170)])
def test_tokens_are_the_samples_consumed_whether_the_batch_grows_or_not(tmp_path, first, grown, every):
    message = growing_log(tmp_path / "ramp.log", first=first, last=64, grown=grown, every=every)
    found = read(tmp_path / "ramp.log")
    got = dict(zip(found.table["step"], found.table["tokens"], strict=True))
    between = every * (64 - first) * 512  # at most, where the batch grows between two lines
    assert all(abs(got[step] - samples * 512) <= between for step, samples in message.items())
    assert got[240] == message[240] * 512
    assert ("the batch grows" in " ".join(found.notes)) == (grown < 240)


def test_a_batch_that_the_samples_of_a_log_contradict_is_refused_and_its_remedy_works(tmp_path):
    message = growing_log(tmp_path / "ramp.log", first=8, last=64, grown=100, every=20, head="")
    options = {"n_params": {"": 1e6}, "batch_tokens": {"": 64 * 512}}
    with pytest.raises(SourceError, match=r"--batch-tokens 32768: the steps of ramp are of several batches") as refused:
        import_source(tmp_path / "ramp.log", "auto", ImportOptions(**options), {})
    assert "--tokens ramp=VALUE" in str(refused.value)
    given = ImportOptions(n_params={"": 1e6}, tokens={"ramp": message[240] * 512})
    table = import_source(tmp_path / "ramp.log", "auto", given, {}).table
    assert table["tokens"].tolist() == [samples * 512 for samples in message.values()]


ALL, ONE, NODE = {(0, 0): 34, (1, 0): 34, (2, 0): 34, (3, 0): 33}, {(0, 0): 34}, {(0, 0): 40, (1, 0): 40}
TIED = {(0, 0): 92.5, (0, 1): 92.5}


def split_log(path: Path, *, ranks: dict, tensor: int, pipeline: int, billions: str, more: str = "") -> Path:
    """Write the log of a model of 135 million parameters split over ranks, of which it has `ranks` (in millions)."""
    sizes = "".join(
        f" > number of parameters on (tensor, pipeline) model parallel rank {rank}: {n * 1e6:.0f}\n"
        for rank, n in ranks.items()
    )
    split = (
        f"  tensor_model_parallel_size ...................... {tensor}\n"
        f"  pipeline_model_parallel_size .................... {pipeline}\n" + more
    )
    total = f"Total number of parameters in billions: {billions}\n" if billions else ""
    head = HEAD.split(" > ")[0].replace("-" * 20 + " end", split + "-" * 20 + " end") + sizes + total
    growing_log(path, first=64, last=64, grown=240, every=50, head=head.replace("{batch}", "64"))
    return path


@pytest.mark.parametrize(
    ("ranks", "tensor", "pipeline", "billions", "n_params", "message"),
    [
        (ALL, 4, 1, "", 135e6, ""),
        (ALL, 4, 1, "0.13", 135e6, ""),  # 0.135 is written so too
        (ALL, 4, 1, "0.135", 135e6, ""),
        (ONE, 4, 1, "0.13", 0.13e9, "1 of the 4 model-parallel ranks, with 34,000,000 parameters; the total is taken"),
        (NODE, 2, 2, "0.13", 0.13e9, "2 of the 4 model-parallel ranks"),
        (TIED, 1, 2, "0.13", 0.13e9, "185,000,000 parameters together, but its total is 0.13 billion"),
    ],
)
def test_parameters_are_those_of_all_ranks_or_the_total(tmp_path, ranks, tensor, pipeline, billions, n_params, message):
    path = split_log(tmp_path / "m.log", ranks=ranks, tensor=tensor, pipeline=pipeline, billions=billions)
    found = read(path)
    assert found.table["n_params"].unique().tolist() == [n_params]
    noted = [note for note in found.notes if note.startswith("n_params of m.log")]
    assert message in " ".join(noted)
    assert bool(noted) == bool(message)


@pytest.mark.parametrize(("ranks", "why"), [(ONE, "has 1 of the 2"), (TIED, "a tied embedding at both ends")])
def test_parameters_of_a_part_of_a_model_are_none_and_the_remedy_works(tmp_path, ranks, why):
    path = split_log(tmp_path / "m.log", ranks=ranks, tensor=1, pipeline=2, billions="")
    with pytest.raises(SourceError, match=f"no run reports its n_params .m.; give --n-params VALUE.*{why}"):
        read(path)
    given = import_source(path, "auto", ImportOptions(n_params={"": 135e6}), {})
    assert given.table["n_params"].unique().tolist() == [135e6]
    untied = "  untie_embeddings_and_output_weights ............. True\n"
    whole = split_log(tmp_path / "w.log", ranks=TIED, tensor=1, pipeline=2, billions="", more=untied)
    assert read(whole).table["n_params"].unique().tolist() == [185e6]


def test_a_log_that_does_not_say_how_its_model_is_split_says_what_is_taken(tmp_path):
    growing_log(tmp_path / "m.log", first=64, last=64, grown=240, every=50)
    assert "n_params of m.log: the ranks in the log are taken as all of the model" in read(tmp_path / "m.log").notes


NEOX = """-------------------- arguments --------------------
  train_batch_size ................ 64..........................updated
  seq_length ...................... 512.........................updated
  train_iters ..................... 200.........................updated
 > number of parameters on model parallel rank 0: 35000000
 > total params: 135,000,000
 samples/sec: 207.4 | iteration      100/     200 | elapsed time per iteration (ms): 12.5 | learning rate: 6.000E-04 | \
lm_loss: 5.100000E+00 | loss scale: 1.0 |
 validation results at iteration 100 | lm_loss value: 5.200000E+00 | lm_loss_ppl value: 1.8E+02 |
 samples/sec: 207.4 | iteration      200/     200 | elapsed time per iteration (ms): 12.5 | learning rate: 6.000E-05 | \
lm_loss: 4.310000E+00 | loss scale: 1.0 |
 validation results at iteration 200 | lm_loss value: 4.400000E+00 | lm_loss_ppl value: 8.1E+01 |
"""


@pytest.mark.parametrize("kind", ["auto", "megatron"])
def test_logs_of_gpt_neox_are_read_too(tmp_path, kind):
    (tmp_path / "neox.log").write_text(NEOX)
    last = import_source(tmp_path / "neox.log", kind, ImportOptions(), {}).table.iloc[-1]
    assert (last["n_params"], last["tokens"], last["loss"], last["train_loss"]) == (135e6, 200 * 64 * 512, 4.4, 4.31)
    assert (last["learning_rate"], last["peak_learning_rate"]) == (6e-5, 6e-4)
    (tmp_path / "other.log").write_text("step 1\n")
    with pytest.raises(SourceError, match="megatron's; name another kind with --from, or save its steps and losses as"):
        import_source(tmp_path / "other.log", "megatron", ImportOptions(), {})
