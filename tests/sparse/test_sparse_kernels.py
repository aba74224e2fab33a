"""The sparse kernels against the slow and obvious product."""

import copy
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sparse_format import random_matrix, stored
from torch import Tensor, nn

from fineprune import BFloat16, Float32, Int8, InvalidInputError
from fineprune.sparse.format import Activations, SparseMatrix, Values
from fineprune.sparse.kernels import launch
from fineprune.sparse.kernels.activations import exp
from fineprune.sparse.kernels.simd import LANES, WIDEST
from fineprune.sparse.linear import SparseLinear
from fineprune.sparse.records import cut
from fineprune.sparse.reference import Activation, linear

EXACT, ROUNDED = 1e-5, 2e-2
"""Largest errors in units of the largest result: of float32 sums in another order, and of inputs in bfloat16."""

VALUES: list[Values] = [Float32(), BFloat16(), Int8()]
ACTIVATIONS: list[Activations] = [Float32(), BFloat16()]


def error(layer: SparseLinear, inputs: Tensor) -> float:
    """Returns how far a layer is from the reference, in units of the largest result."""
    tokens = inputs.reshape(-1, inputs.shape[-1]).to(torch.float64)
    wanted = linear(layer.weight, tokens.t().float(), layer.bias, layer.activation).t()
    got = layer(inputs).reshape(wanted.shape)
    assert bool(got.isfinite().all())
    return float((got - wanted).abs().max() / wanted.abs().max().clamp_min(1e-3)) if wanted.numel() else 0.0


@pytest.fixture(params=[1, 2], ids=["one-thread", "two-threads"])
def number_of_threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@settings(max_examples=120, deadline=None)
@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.integers(1, 2 * LANES * WIDEST + 5),
    st.sampled_from([0.0, 0.05, 0.4, 1.0]),
    st.sampled_from([1, 4]),
    st.sampled_from(VALUES),
    st.sampled_from(ACTIVATIONS),
    st.sampled_from(list(Activation)),
    st.booleans(),
    st.integers(0, 1000),
)
def test_a_layer_gives_what_the_reference_gives(
    rows: int,
    cols: int,
    tokens: int,
    density: float,
    together: int,
    values: Values,
    activations: Activations,
    activation: Activation,
    biased: bool,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    matrix = stored(random_matrix(rows, cols, density, seed), values, together)
    layer = SparseLinear(matrix, torch.randn(rows) if biased else None, activations, activation)
    assert error(layer, torch.randn(tokens, cols)) < (EXACT if isinstance(activations, Float32) else ROUNDED)


ADVERSARIAL = {
    "all zeros": torch.zeros(33, 20),
    "one element": torch.zeros(33, 20).index_put((torch.tensor([32]), torch.tensor([19])), torch.tensor(2.0)),
    "full": torch.ones(33, 20),
    "one full row": torch.cat([torch.zeros(16, 20), torch.ones(1, 20), torch.zeros(16, 20)]),
    "one full column": torch.cat([torch.zeros(33, 19), torch.ones(33, 1)], dim=1),
    "one row": torch.ones(1, 20),
    "one column": torch.ones(33, 1),
    "huge and tiny": torch.diag(torch.tensor([1e30, 1e-30, 1.0, -1e30])),
}


@pytest.mark.parametrize("together", [1, 4])
@pytest.mark.parametrize("dense", ADVERSARIAL.values(), ids=ADVERSARIAL.keys())
def test_adversarial_matrices(dense: Tensor, together: int, number_of_threads: None) -> None:
    layer = SparseLinear(stored(dense, together=together), torch.ones(len(dense)))
    assert error(layer, torch.randn(19, dense.shape[1])) < EXACT


def test_inputs_may_be_of_any_shape_and_order() -> None:
    layer = SparseLinear(SparseMatrix.from_dense(random_matrix(24, 12, 0.3)), torch.randn(24))
    inputs = torch.randn(12, 5, 7).permute(2, 1, 0)
    assert not inputs.is_contiguous()
    assert layer(inputs).shape == (7, 5, 24)
    assert error(layer, inputs) < EXACT
    assert torch.equal(layer(inputs[3, 2]), layer(inputs)[3, 2]), "a token's result does not depend on its neighbours"
    assert layer(torch.empty(0, 12)).shape == (0, 24)
    assert error(layer, torch.randn(30, 24)[::2, ::2]) < EXACT


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_results_have_the_type_of_the_inputs(kind: torch.dtype) -> None:
    layer = SparseLinear(SparseMatrix.from_dense(random_matrix(24, 12, 0.3)))
    inputs = torch.randn(3, 12).to(kind)
    assert torch.equal(layer(inputs), layer(inputs.float()).to(kind))


@pytest.mark.parametrize("tokens", [LANES, LANES * WIDEST, 1, LANES + 3, 300])
@pytest.mark.parametrize("activations", ACTIVATIONS)
@pytest.mark.parametrize("together", [1, 4])
def test_the_product_with_features_first(tokens: int, activations: Activations, together: int, number_of_threads: None) -> None:
    matrix = stored(random_matrix(37, 21, 0.3), together=together)
    layer = SparseLinear(matrix, torch.randn(37), activations, Activation.GELU)
    inputs = torch.randn(21, tokens)
    wanted = linear(matrix, inputs, layer.bias, Activation.GELU)
    limit = EXACT if isinstance(activations, Float32) else ROUNDED
    assert float((layer.product(inputs) - wanted).abs().max()) < limit * float(wanted.abs().max())
    assert torch.allclose(layer.product(inputs), layer(inputs.t()).t(), atol=1e-6)


def test_any_number_of_threads_gives_the_same_bits() -> None:
    layer = SparseLinear(SparseMatrix.from_dense(random_matrix(200, 100, 0.1)), torch.randn(200), activation=Activation.SILU)
    inputs = torch.randn(150, 100)
    before, results = torch.get_num_threads(), []
    for number in (1, 2, 3, 5):
        torch.set_num_threads(number)
        results.append(layer(inputs))
    torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)


def test_several_threads_may_call_at_once() -> None:
    layer = SparseLinear(SparseMatrix.from_dense(random_matrix(64, 64, 0.2)), torch.randn(64))
    inputs = [torch.randn(number + 1, 64) for number in range(8)]
    wanted, got = [layer(one) for one in inputs], [[] for _ in inputs]

    def call(number: int) -> None:
        torch.set_num_threads(2)
        got[number] = [layer(inputs[number]) for _ in range(20)]

    callers = [threading.Thread(target=call, args=(number,)) for number in range(len(inputs))]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    torch.set_num_threads(1)
    assert all(torch.equal(one, result) for results, one in zip(got, wanted, strict=True) for result in results)
    assert all(len(results) == 20 for results in got)


def test_without_openmp_threads_of_its_own_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "openmp", lambda: None)
    torch.set_num_threads(3)
    layer = SparseLinear(SparseMatrix.from_dense(random_matrix(64, 64, 0.2)), torch.randn(64))
    assert error(layer, torch.randn(40, 64)) < EXACT
    assert error(layer, torch.randn(4, 64)) < EXACT
    torch.set_num_threads(1)
    assert {"fineprune-0", "fineprune-1"} <= {thread.name for thread in threading.enumerate()}


def test_pieces_cover_all_groups_and_cost_about_the_same() -> None:
    matrix = SparseMatrix.from_dense(random_matrix(500, 300, 0.1))
    cuts = cut(matrix)
    assert cuts[0] == 0
    assert cuts[-1] == 500
    assert bool((cuts.diff() >= 0).all())
    entries = matrix.starts[cuts].diff()
    assert int(entries.max()) < 1.2 * int(entries.sum()) / (len(cuts) - 1)
    assert cut(SparseMatrix.from_dense(torch.zeros(0, 5)))[-1] == 0


def test_copies_have_addresses_of_their_own() -> None:
    layer = SparseLinear(SparseMatrix.from_dense(random_matrix(20, 10, 0.3)), torch.randn(20))
    inputs = torch.randn(3, 10)
    wanted = layer(inputs)
    other = copy.deepcopy(layer)
    assert other.matrix.record["values"] != layer.matrix.record["values"]
    assert torch.equal(other(inputs), wanted)


def test_the_exponential_is_good_to_the_last_digits() -> None:
    numbers = np.linspace(-87, 88, 100_001).astype(np.float32)
    got = np.array([exp(number) for number in numbers[::50]], dtype=np.float64)
    wanted = np.exp(numbers[::50].astype(np.float64))
    assert float((abs(got - wanted) / wanted).max()) < 3e-7
    assert exp(np.float32(-1000)) < 2e-38
    assert np.isfinite(exp(np.float32(1000)))


@pytest.mark.parametrize("activation", list(Activation))
def test_activations_are_those_of_pytorch(activation: Activation) -> None:
    numbers = torch.cat([torch.linspace(-12, 12, 997), torch.tensor([-1e4, 1e4, 0.0])])
    layer = SparseLinear(SparseMatrix.from_dense(torch.eye(1)), activation=activation)
    assert torch.allclose(layer(numbers[:, None])[:, 0], activation(numbers.double()).float(), rtol=1e-5, atol=2e-6)


def test_wrong_inputs_raise() -> None:
    layer = SparseLinear(SparseMatrix.from_dense(random_matrix(4, 3, 1.0)))
    with pytest.raises(InvalidInputError, match="3 features last"):
        layer(torch.zeros(2, 4))
    with pytest.raises(InvalidInputError, match="floating-point"):
        layer(torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(InvalidInputError, match="on meta"):
        layer(torch.zeros(2, 3, device="meta"))
    with pytest.raises(InvalidInputError, match="gives none"):
        layer(torch.zeros(2, 3, requires_grad=True)).sum().backward()
    with pytest.raises(InvalidInputError, match="3 together"):
        SparseLinear(SparseMatrix.from_dense(random_matrix(6, 3, 1.0)).grouped(3))
    with pytest.raises(InvalidInputError, match="bias of"):
        SparseLinear(SparseMatrix.from_dense(random_matrix(6, 3, 1.0)), torch.zeros(3))
    with pytest.raises(InvalidInputError, match="to_dense"):
        layer.half()
    with pytest.raises(InvalidInputError, match="to_dense"):
        nn.Sequential(layer).to("meta")
    assert layer.to("cpu") is layer


SMALLER = """
import sys
import llvmlite.binding
features = llvmlite.binding.get_host_cpu_features()
for name in list(features):
    if any(name.startswith(without) for without in sys.argv[1].split(",")):
        features[name] = False
llvmlite.binding.get_host_cpu_features = lambda: features
import torch
from fineprune.sparse.format import BFloat16, Float32, SparseMatrix
from fineprune.sparse.linear import SparseLinear
from fineprune.sparse.reference import Activation, linear
from fineprune.sparse.kernels.simd import LANES
torch.manual_seed(0)
for together in (1, 4):
    for activations, limit in ((Float32(), 1e-5), (BFloat16(), 2e-2)):
        for tokens in (1, 50, 131):
            weight = SparseMatrix.from_dense(torch.randn(37, 29) * (torch.rand(37, 29) < 0.3)).grouped(together)
            layer = SparseLinear(weight, torch.randn(37), activations, Activation.GELU)
            inputs = torch.randn(tokens, 29)
            wanted = linear(weight, inputs.t(), layer.bias, Activation.GELU).t()
            assert float((layer(inputs) - wanted).abs().max()) < limit * float(wanted.abs().max())
print(LANES)
"""


def in_a_process(code: str, *arguments: str, cache: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache)}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, env=environment
    )


@pytest.mark.parametrize(("without", "lanes"), [("avx512", 8), ("avx,f16c,fma,v", 4)])
def test_the_kernels_of_smaller_processors(without: str, lanes: int, tmp_path: Path) -> None:
    if lanes >= LANES:
        pytest.skip("this processor is no larger")
    ran = in_a_process(SMALLER, without, cache=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == [str(lanes)]


ONCE = """
import torch
from fineprune.sparse.format import SparseMatrix
from fineprune.sparse.linear import SparseLinear
layer = SparseLinear(SparseMatrix.from_dense(torch.eye(3)))
print(layer(torch.eye(3)).tolist())
"""


def test_the_first_process_says_that_it_compiles_and_the_next_finds_it_done(tmp_path: Path) -> None:
    first, second = (in_a_process(ONCE, cache=tmp_path) for _ in range(2))
    assert first.stderr.count("Compiling the sparse kernels") == 1, first.stderr
    assert second.stderr == ""
    assert first.stdout == second.stdout != ""
