"""One process, two replicas and two shards train alike; what two had begun, one goes on with."""

import json
import subprocess
from dataclasses import replace

import pytest

from isoflop.experiments.config import WhereSpec
from isoflop.experiments.data.corpus import prepare
from isoflop.experiments.store.store import open_store
from isoflop.experiments.sweep.pool import check_distributed
from isoflop.scaling.table.runs import read_runs
from tests.support.root import ROOT
from tests.support.training.cells import DATA
from tests.support.training.two_processes import KILL_AT, KILLED, MODEL, cell_of, losses, refusal, trunk

TOLERANCE = 1e-5  # nats/token, at each of 25 steps


@pytest.fixture(scope="module")
def together(commands):
    """Does a job in so many processes, forked from one that has torch: their exit codes, and the first one's errors."""
    command = [commands.bin / "python", "-m", "tests.support.training.two_processes"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as starter:

        def done(processes: int, *arguments: object) -> tuple[list[int], str]:
            starter.stdin.write(json.dumps([processes, [str(word) for word in arguments]]) + "\n")
            starter.stdin.flush()
            return tuple(json.loads(starter.stdout.readline()))

        yield done
        starter.stdin.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("distributed")


@pytest.fixture(scope="module")
def corpus(folder):
    return prepare(DATA, folder / "corpora")


@pytest.fixture(scope="module")
def two(folder, corpus, together):
    """What two processes told of 25 steps in every mode."""
    codes, message = together(2, folder, "losses")
    assert codes == [0, 0], message
    return json.loads((folder / "losses.json").read_text())


@pytest.fixture(scope="module")
def whole(corpus):
    """What one process tells of the trunk that two are killed in."""
    return trunk(corpus, None, WhereSpec(), kill_at=None)


@pytest.fixture(scope="module")
def alone(corpus):
    """Losses of one process, by optimiser."""
    return {name: losses(cell_of(corpus, name=name), corpus, WhereSpec()) for name in ("adamw", "muon")}


def furthest(a, b):
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


@pytest.mark.long
@pytest.mark.process
@pytest.mark.parametrize("mode", ["ddp", "fsdp2", "muon", "ddp in pieces", "fsdp2 in pieces"])
def test_two_processes_have_the_losses_of_one(two, alone, mode):
    assert furthest(two[mode], alone["muon" if mode == "muon" else "adamw"]) < TOLERANCE
    assert two[mode][0] - two[mode][-1] > 0.05  # it learned something


@pytest.mark.process
@pytest.mark.parametrize("mode", ["ddp in bfloat16", "fsdp2 in bfloat16"])
def test_two_processes_lower_their_products_alike(corpus, two, alone, mode):
    message = losses(replace(cell_of(corpus), precision="bfloat16"), corpus, WhereSpec())
    assert furthest(two[mode], message) < 1e-3
    assert furthest(two[mode], alone["adamw"]) > TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("where", [{"micro_batch": 3}, {"micro_batch": 1}, {"activation_checkpointing": True}], ids=str)
def test_pieces_and_recomputation_change_a_loss_by_rounding_alone(corpus, alone, where):
    message = losses(cell_of(corpus), corpus, WhereSpec(**where))
    assert furthest(message, alone["adamw"]) < TOLERANCE
    assert message != alone["adamw"]  # another way was taken


@pytest.mark.process
def test_what_cannot_be_shared_is_refused_with_a_remedy(two, corpus):
    muon, experts, odd = two["refused"]
    assert "muon needs whole matrices, fsdp2 has shards; use where.distributed=ddp" in muon
    assert "balance loss" in experts
    assert "batch_size=3 cannot be shared by 2 processes" in odd
    recurrent = replace(cell_of(corpus), model=replace(MODEL, family="lstm"))
    assert "no blocks" in refusal(recurrent, corpus, WhereSpec(activation_checkpointing=True))
    assert "1 or more" in refusal(cell_of(corpus), corpus, WhereSpec(micro_batch=-1))


@pytest.mark.process
@pytest.mark.parametrize(("mode", "newest"), [("ddp", "cooldown-*"), ("fsdp2", "sharded/cooldown-*/*.safetensors")])
def test_one_process_goes_on_from_what_two_that_were_killed_had_saved(folder, corpus, whole, together, mode, newest):
    codes, message = together(2, folder, "killed", mode)
    assert KILLED in codes, message
    saved = max((folder / mode).glob(newest), key=lambda path: path.stat().st_mtime_ns)
    saved.write_bytes(saved.read_bytes()[:-8])  # and the last of it is damaged: the one before must do
    codes, message = together(1, folder, "resumed", mode)
    assert codes == [0], message
    assert "is damaged" in message
    resumed = json.loads((folder / "resumed.json").read_text())
    assert 64 < resumed["steps"][0] <= KILL_AT + 64
    assert len(resumed["steps"]) < len(whole["steps"])
    for ours, theirs in zip(resumed["losses"], whole["losses"], strict=True):
        assert furthest(ours, theirs) < 1e-4


@pytest.mark.process
@pytest.mark.slow
def test_the_command_under_torchrun_trains_a_study_once(tmp_path, commands):
    arguments = [
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python",
        commands.bin / "isoflop", "run", "study.name=two", "study.sizes=[d6,d8]", "study.window.min_steps=1",
        "data=synthetic", "data.context_length=16", "data.eval_tokens=2048", "data.synthetic.vocab_size=16",
        "optim.batch_size=4", "data.synthetic.tokens=60000", "data.synthetic.chains=100", "schedule.warmup_steps=5",
        "data.max_epochs=1e4", "study.budgets=[4e7]", "where.distributed=ddp",
    ]  # fmt: skip
    two = subprocess.run([commands.bin / "python", *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert two.returncode == 0, two.stdout + two.stderr
    assert two.stdout.count("2 cells: 2 done") == 1
    assert (open_store(tmp_path / "runs").states()["attempts"] == 1).all()
    assert read_runs(tmp_path / "runs")["device"].str.endswith(", 2 processes, ddp").all()


def test_a_launch_that_does_not_fit_its_processes_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="none, ddp, fsdp2; not 'fsdp'"):
        check_distributed(WhereSpec(distributed="fsdp"), here=False)
    with pytest.raises(ValueError, match="torchrun --nproc-per-node 2 -m isoflop run"):
        check_distributed(WhereSpec(distributed="ddp"), here=True)
    check_distributed(WhereSpec(distributed="ddp"), here=False)  # the task on the other machine is under torchrun
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="torchrun started 2 processes"):
        check_distributed(WhereSpec(), here=True)
