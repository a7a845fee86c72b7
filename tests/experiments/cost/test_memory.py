"""Predicted memory: a cell that cannot fit is refused before it starts; one that runs out tries with less, once."""

from dataclasses import replace

import pytest

from isoflop.experiments.config import WhereSpec
from isoflop.experiments.cost import memory
from isoflop.experiments.cost.memory import TooLargeError, available_bytes, check_memory, model_bytes, worker_bytes
from isoflop.models.config import n_total
from tests.support.sweep.studies import cell_of_width

CPU = WhereSpec()
GB = 1e9


def test_weights_gradients_moments_and_their_copies_are_counted():
    big, small = cell_of_width(1024, batch=1), cell_of_width(512, batch=1)
    per_parameter = (model_bytes(big) - model_bytes(small)) / (n_total(big.model) - n_total(small.model))
    assert per_parameter == pytest.approx(40, rel=0.2)  # and activations


def test_micro_batches_and_recomputing_need_less():
    cell = cell_of_width(64, batch=512)
    whole = model_bytes(cell)
    assert model_bytes(cell, replace(CPU, micro_batch=256)) == pytest.approx(whole / 2, rel=0.1)
    assert model_bytes(cell, replace(CPU, activation_checkpointing=True)) < whole
    assert model_bytes(cell, replace(CPU, micro_batch=1024)) == whole


def test_what_is_counted_is_what_the_engine_keeps():
    """By hand the weights of attention are kept, by the fused step and autograd none; a graph gives nothing back."""
    cell, cuda = cell_of_width(64, batch=1024), replace(CPU, device="cuda")
    assert model_bytes(cell, cuda) > model_bytes(cell, replace(cuda, graph=False))
    assert model_bytes(cell, replace(cuda, graph=False)) < model_bytes(cell, CPU)
    long = replace(cell, model=replace(cell.model, context_length=2048))
    assert model_bytes(replace(long, precision="bfloat16"), CPU) < model_bytes(long, CPU) / 2


def test_a_cell_that_fits_nowhere_is_named_with_its_estimate():
    cells = [cell_of_width(16), cell_of_width(4096)]
    check_memory(cells[:1], CPU, 2, 2 * GB)
    need = worker_bytes(cells[1]) / GB
    with pytest.raises(TooLargeError, match=rf"^d4096 at .* needs about {need:.3g} GB and this machine has 2 GB free"):
        check_memory(cells, CPU, 2, 2 * GB)


def test_workers_that_do_not_fit_together_are_told_how_many_do():
    cells = [cell_of_width(512, seed=seed) for seed in range(4)]
    one = worker_bytes(cells[0])
    check_memory(cells, CPU, 3, 3.1 * one)
    with pytest.raises(TooLargeError, match=r"4 workers at once need about .* where.workers=3 fits"):
        check_memory(cells, CPU, 4, 3.1 * one)
    check_memory([cells[0]] * 4, CPU, 4, 1.1 * one)  # of one trunk: one worker


def test_what_is_free_is_less_than_a_terabyte_and_more_than_nothing():
    assert 1e7 < available_bytes("cpu") < 1e14


def test_a_limit_of_the_control_group_counts(tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("2000000\n")
    monkeypatch.setattr(memory, "Path", lambda path: tmp_path if path == "/sys/fs/cgroup" else type(tmp_path)(path))
    assert available_bytes("cpu") == 3e6
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes("cpu") > 3e6


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried"),
            True,
        ),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"), True),
        (RuntimeError("shape mismatch"), False),
    ],
)
def test_what_counts_as_out_of_memory(error, is_one):
    assert memory.is_out_of_memory(error) == is_one


def test_an_error_that_came_of_it_counts_too():
    """As a capture's, whose own error hides the first."""

    def capture():
        try:
            raise RuntimeError("CUDA out of memory")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    with pytest.raises(RuntimeError, match="during capture") as caught:
        capture()
    assert memory.is_out_of_memory(caught.value)


def test_half_of_the_sequences_down_to_one():
    cell = cell_of_width(16)
    assert memory.with_less(CPU, cell).micro_batch == 4
    assert memory.with_less(replace(CPU, micro_batch=4), cell).micro_batch == 2
    assert memory.with_less(replace(CPU, micro_batch=1), cell) is None
