"""What every op promises about its arguments, from one table of ops and the signatures of the public functions."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
import re
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd import forward_ad

import d2kernels as d2k
from d2kernels.ops import _library

REFUSED = (TypeError, ValueError)
LENGTHS = (4, 0, 5)


def rows(*width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return d2k.Ragged.pack([torch.rand(s, *width, generator=generator) for s in LENGTHS], gap=1)


def numbers(*shape, seed=1):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def arguments():
    """Valid arguments of each public op, every optional tensor among them."""
    spans = torch.tensor([[0, 4], [1, 5], [8, 9]])
    return {
        "temporal_conv": {
            "x": rows(4), "weight": numbers(4, 2, 3), "bias": numbers(4), "dilation": 2, "groups": 2,
            "negative_slope": 0.25, "residual": True, "dropout": 0.5, "seed": torch.tensor([3]),
        },
        "topk_pool": {"scores": rows(2), "k": None, "divisor": 2, "rounding": "ceil", "return_indices": False},
        "attention_pool": {
            "x": rows(4), "attention": rows(2, seed=2), "threshold": 0.5, "inclusive": True, "normalize": True,
        },
        "foreground_score": {"x": rows(4), "reference": numbers(4), "eps": 2**-10},
        "lowest_attention": {"attention": rows()},
        "condition_number": {"a": numbers(2, 3, 2), "b": numbers(2, 2, 2), "atol": 0.0, "rtol": 0.0, "log": True},
        "pdmi_snippet": {
            "attention": rows(), "foreground": rows(seed=2), "background_attention": rows(seed=3), "floor": 0.0,
            "foreground_threshold": 0.5, "background_threshold": 0.5, "normalization": "side", "rtol": 0.5,
        },
        "pdmi_video": {
            "p": numbers(4, 3), "labels": numbers(4, 3) > 0.5, "keep": torch.ones(4, dtype=torch.bool),
            "relative_floor": 0.25, "normalize_rows": True, "label_normalization": "class", "atol": 0.0, "rtol": 0.0,
        },
        "svd": {"a": numbers(3, 2)},
        "svdvals": {"a": numbers(3, 2)},
        "connected_components": {
            "scores": rows(2), "thresholds": [0.25, 0.5], "class_mask": torch.ones(3, 2, dtype=torch.bool),
            "min_length": 1, "distinct": True, "capacity": 100,
        },
        "nms": {
            "segments": spans, "scores": numbers(3), "iou_threshold": 0.5, "groups": torch.tensor([0, 0, 1]),
            "inclusive": True, "plus_one": False, "capacity": 3,
        },
        "soft_nms": {
            "segments": spans, "scores": numbers(3), "sigma": 1.0, "groups": torch.tensor([0, 0, 1]),
            "score_threshold": 0.0, "plus_one": False, "capacity": 3,
        },
        "localize": {
            "activations": rows(2), "thresholds": [0.25, 0.5], "class_mask": torch.ones(3, 2, dtype=torch.bool),
            "margin": 0.5, "outer": "sides", "min_score": -1.0, "min_length": 1, "iou_threshold": 0.5,
            "inclusive": True, "sigma": 1.0, "keep_ratio": 0.0, "keep_scope": "class", "upsample": 2, "smoothing": 3,
            "relative": "max",
            "class_score": numbers(3, 2), "capacity": 100,
        },
        "erosion": {"x": rows(2), "size": 3, "border": 0.5},
        "dilation": {"x": rows(2), "size": 3, "border": 0.5},
        "tv_l1": {
            "previous": numbers(2, 6, 7), "next": numbers(2, 6, 7, seed=2), "tau": 0.25, "lambda_": 0.125,
            "theta": 0.25, "nscales": 2, "warps": 2, "epsilon": 0.0, "inner_iterations": 3,
            "outer_iterations": 2, "scale_step": 0.5, "gamma": 0.5, "median_filtering": 3,
        },
    }  # fmt: skip


MODULES = {
    "TemporalConv1d": {
        "in_channels": 4, "out_channels": 4, "kernel_size": 3, "dilation": 1, "groups": 2, "bias": True,
        "negative_slope": 0.25, "residual": True, "dropout": 0.5,
    },
    "TopkPool": {"divisor": 2, "rounding": "ceil"},
    "AttentionPool": {"threshold": 0.5, "inclusive": True, "normalize": True},
    "ForegroundScore": {"dim": 4, "eps": 0.5},
}  # fmt: skip
WITHOUT_DERIVATIVE = "lowest_attention connected_components nms soft_nms localize tv_l1".split()
COMPOSED = ["erosion", "dilation"]  # of torch's ops, with derivatives of any order
DIFFERENTIABLE = [name for name in arguments() if name not in (*WITHOUT_DERIVATIVE, *COMPOSED)]


def call(name, given):
    return getattr(d2k, name)(**given) if hasattr(d2k, name) else getattr(d2k.nn, name)(**given)


def annotated(kind):
    """(name, argument) of every public op and module whose argument may be of this kind, by its annotation."""
    found = []
    for name, valid in {**arguments(), **MODULES}.items():
        function = getattr(d2k, name, None) or getattr(d2k.nn, name).__init__
        for argument, parameter in inspect.signature(function).parameters.items():
            if argument != "self" and re.search(rf"(?<![\w.\[]){kind}(?![\w\[])", str(parameter.annotation)):
                assert argument in valid, f"the table lacks {name}({argument}=)"
                found.append((name, argument))
    return found


def optional(name, argument):
    function = getattr(d2k, name, None) or getattr(d2k.nn, name).__init__
    return "None" in str(inspect.signature(function).parameters[argument].annotation)


def replaced(name, **change):
    return {**(arguments().get(name) or MODULES[name]), **change}


def refused(name, argument, value):
    """One sentence of our own that names the op and the argument."""
    with pytest.raises(REFUSED) as caught:
        call(name, replaced(name, **{argument: value}))
    message = str(caught.value)
    assert message.startswith(f"{name}: {argument}") and "\n" not in message, message


def plain(result):
    parts = result if isinstance(result, tuple) else (result,)
    parts = [y for x in parts for y in (x if isinstance(x, tuple) else (x,))]
    parts = [x.values if isinstance(x, d2k.Ragged) else x for x in parts]
    return parts if isinstance(parts[0], Tensor) else None  # a module has no result yet


def agree(name, argument, value, other):
    torch.manual_seed(0)
    one, two = (plain(call(name, replaced(name, **{argument: v}))) for v in (value, other))
    assert one is None or all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_the_table_is_complete():
    functions = {n for n in d2k.__all__ if inspect.isfunction(getattr(d2k, n))}
    assert functions == arguments().keys()
    modules = {n for n, c in vars(d2k.nn).items() if inspect.isclass(c) and c.__module__ == d2k.nn.__name__}
    assert modules == MODULES.keys()
    for name in arguments():
        call(name, arguments()[name])


NO_COUNT = [2.5, math.nan, math.inf, "3", b"3", True, np.True_, 1j, 2**64, -(2**64), 10**400, -1, [3], np.ones(2)]


@pytest.mark.parametrize(("name", "argument"), annotated("int"))
def test_counts_are_whole_numbers(name, argument):
    for value in [*NO_COUNT, torch.tensor(2.5), *([] if optional(name, argument) else [None])]:
        refused(name, argument, value)
    good = replaced(name)[argument] or 2
    for kind in (float, np.int64, np.uint8, np.float32, np.float64, np.array):
        agree(name, argument, good, kind(good))


@given(st.floats().filter(lambda x: not x.is_integer()), st.sampled_from(annotated("int")))
def test_a_float_that_is_not_whole_is_no_count(value, where):
    refused(*where, value)


NO_NUMBER = [math.nan, "0.5", True, np.False_, 1j, 10**400, torch.tensor(0.5), np.ones(2), object]


@pytest.mark.parametrize(("name", "argument"), annotated("float"))
def test_numbers_are_numbers(name, argument):
    for value in [*NO_NUMBER, *([] if optional(name, argument) else [None])]:
        if not (argument == "threshold" and isinstance(value, np.ndarray)):
            refused(name, argument, value)
    good = replaced(name)[argument]
    for kind in (np.float64, np.float32, np.float16, np.array):
        agree(name, argument, good, kind(good))
    if good == int(good):
        agree(name, argument, good, int(good))


@pytest.mark.parametrize(("name", "argument"), annotated("bool"))
def test_flags_are_true_or_false(name, argument):
    for value in ("no", "False", 2, None, 0.0, torch.tensor(True), []):
        refused(name, argument, value)
    agree(name, argument, True, np.True_)
    agree(name, argument, False, np.False_)


@pytest.mark.parametrize(("name", "argument"), annotated("str"))
def test_choices_are_listed(name, argument):
    for value in ("", "x", 3, ["ceil"], np.ones(2), *([] if optional(name, argument) else [None])):
        refused(name, argument, value)


@pytest.fixture
def defaults():
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)


@pytest.mark.parametrize("backend", ["reference", None])
@pytest.mark.parametrize("name", arguments())
def test_defaults_of_torch_change_nothing(name, backend, defaults):
    """Neither the dtype nor the device that tensors get where nobody names one; meta would be uninitialised memory."""
    given = floats(arguments()[name], lambda x: x.clone())
    differentiable = name in DIFFERENTIABLE

    def run():
        _library_caches()
        torch.manual_seed(0)
        with d2k.backends.use(backend):
            fresh = floats(dict(given), lambda x: x.detach().clone().requires_grad_(differentiable))
            out = plain(call(name, fresh))
            if not differentiable:
                return out
            total = sum(x.float().square().sum() for x in out if x.requires_grad)
            leaves = [x.values if isinstance(x, d2k.Ragged) else x for x in fresh.values()]
            leaves = [x for x in leaves if isinstance(x, Tensor) and x.requires_grad]
            return [*out, *(g for g in torch.autograd.grad(total, leaves, allow_unused=True) if g is not None)]

    want = run()
    torch.set_default_dtype(torch.float64)
    wide = run()
    torch.set_default_dtype(torch.float32)
    torch.set_default_device("meta")
    there = run()
    for other in (wide, there):
        assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(other, want, strict=True))


def _library_caches():
    """Small tensors that are made once would hide where they are made."""
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("d2kernels.ops"):
            for value in list(vars(module).values()):
                if hasattr(value, "cache_clear"):
                    value.cache_clear()


def test_what_is_kept_between_calls_is_bounded():
    """A threshold that is another one each time, as one that is learnt or annealed."""
    from d2kernels.ops.attention_pool import native, reference

    x, attention = torch.rand(3, 2), torch.rand(3)
    for backend in ("reference", None):
        with d2k.backends.use(backend):
            for i in range(300):
                d2k.attention_pool(x, attention, threshold=i / 300, offsets=[0, 3])
    assert reference._rounded.cache_info().currsize <= 64 and native._thresholds.cache_info().currsize <= 64


def moved(x):
    """On another device: meta holds nothing, so that whatever comes back would be uninitialised memory."""
    return x.to("meta")


TENSORS = [(n, a) for n, given in arguments().items() for a, x in given.items() if isinstance(x, (Tensor, d2k.Ragged))]


@pytest.mark.parametrize("backend", ["reference", None])
@pytest.mark.parametrize(("name", "argument"), TENSORS)
def test_tensors_are_on_one_device(name, argument, backend):
    given = arguments()[name]
    if sum(isinstance(x, (Tensor, d2k.Ragged)) for x in given.values()) == 1:
        return
    with d2k.backends.use(backend), pytest.raises(ValueError, match=f"{name}: .* on meta.* move"):
        call(name, {**given, argument: moved(given[argument])})


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_a_model_on_meta_learns_its_shapes(name):
    given = {k: moved(x) if isinstance(x, (Tensor, d2k.Ragged)) else x for k, x in arguments()[name].items()}
    out, real = plain(call(name, given)), plain(call(name, arguments()[name]))
    assert all(x.is_meta and x.shape == y.shape and x.dtype == y.dtype for x, y in zip(out, real, strict=True))


@pytest.mark.parametrize("argument", ["k", "thresholds", "offsets", "lengths", "mask"])
def test_tensors_that_are_read_before_dispatch_are_on_one_device(argument):
    x, other = torch.rand(3, 2), {"offsets": torch.tensor([0, 3])}
    with pytest.raises(ValueError, match=f"{argument} is on meta"):
        if argument == "k":
            d2k.topk_pool(x, k=torch.tensor([2], device="meta"), **other)
        elif argument == "thresholds":
            d2k.connected_components(x, torch.rand(2, device="meta"), **other)
        elif argument == "mask":
            d2k.topk_pool(x[None], mask=torch.ones(1, 3, dtype=torch.bool, device="meta"))
        else:
            d2k.topk_pool(x, **{**other, argument: torch.tensor([0, 3][-len(argument) + 6 :], device="meta")})


@pytest.mark.parametrize("name", arguments())
def test_a_backward_is_on_one_device_too(name):
    """The registered ops themselves, which autograd and other callers reach without the public function."""
    for op in (o for o in dir(torch.ops.d2k) if o == f"{name}_backward"):
        schema = getattr(torch.ops.d2k, op).default._schema
        tensors = [i for i, a in enumerate(schema.arguments) if "Tensor" in str(a.type)]
        filler = {"float": 0.5, "int": 1, "bool": True, "List[float]": [0.5], "Optional[float]": None}
        given = [torch.rand(3, 3) if i in tensors else filler[str(a.type)] for i, a in enumerate(schema.arguments)]
        for i in tensors[1:]:
            bad = [x.to("meta") if j == i else x for j, x in enumerate(given)]
            with pytest.raises(ValueError, match=f"{schema.arguments[i].name} is on meta"):
                getattr(torch.ops.d2k, op).default(*bad)


def floats(given, change):
    """The arguments with change(tensor) on those of floats, in Ragged ones too."""
    for key, x in given.items():
        if isinstance(x, d2k.Ragged):
            given[key] = x.with_values(change(x.values))
        elif isinstance(x, Tensor) and (x.is_floating_point() or key == "segments"):
            given[key] = change(x.float())
    return given


@pytest.mark.parametrize("backend", ["reference", None])
@pytest.mark.parametrize("name", [n for n in arguments() if n not in COMPOSED])
def test_zeros_without_memory_are_zeros(name, backend):
    def made(zeros):
        torch.manual_seed(0)
        return plain(call(name, floats(arguments()[name], zeros)))

    with d2k.backends.use(backend):
        want = made(lambda x: torch.zeros(x.shape))
        got = made(lambda x: torch._efficientzerotensor(x.shape))
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", arguments())
def test_a_trace_by_torch_jit_does_what_it_traced(name):
    given = {k: v for k, v in arguments()[name].items() if k not in ("atol", "rtol")}
    tensors = {k: v for k, v in given.items() if isinstance(v, (Tensor, d2k.Ragged))}
    values = [x.values if isinstance(x, d2k.Ragged) else x for x in tensors.values()]

    def run(*x):
        for (k, v), y in zip(tensors.items(), x, strict=True):
            given[k] = v.with_values(y) if isinstance(v, d2k.Ragged) else y
        return tuple(plain(call(name, given)))

    traced = torch.jit.trace(run, tuple(values), check_trace=False)
    assert all(torch.equal(a, b) for a, b in zip(traced(*values), run(*values), strict=True))


@pytest.mark.parametrize("checks", ["0", "1"])
@pytest.mark.parametrize("name", arguments())
def test_tensors_without_values_give_results_without_values(name, checks, monkeypatch):
    monkeypatch.setenv("D2K_CHECK", checks)
    want = plain(call(name, arguments()[name]))
    with FakeTensorMode():
        fake = plain(call(name, arguments()[name]))
    given = arguments()[name]
    meta = {k: x.to("meta") if isinstance(x, (Tensor, d2k.Ragged)) else x for k, x in given.items()}
    for got in (fake, plain(call(name, meta))):
        assert [(x.shape, x.dtype) for x in got] == [(x.shape, x.dtype) for x in want]
        assert all(isinstance(x, FakeTensor) or x.is_meta for x in got)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_that_are_zeros_without_memory_are_zeros(name):
    made = []
    for zeros in (torch.zeros, torch._efficientzerotensor):
        torch.manual_seed(0)
        given = floats(arguments()[name], lambda x: x.requires_grad_())
        out = next(x for x in plain(call(name, given)) if x.requires_grad)
        leaves = [x.values if isinstance(x, d2k.Ragged) else x for x in given.values()]
        leaves = [x for x in leaves if isinstance(x, Tensor) and x.requires_grad]
        made.append(torch.autograd.grad(out, leaves, zeros(out.shape), allow_unused=True))
    assert all((a is None) == (b is None) and (a is None or torch.equal(a, b)) for a, b in zip(*made, strict=True))


def own(given):
    """The arguments as a Function gets them, tensors of floats in float64."""
    return [x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in given]


@pytest.mark.parametrize("backend", ["reference", None])
@pytest.mark.parametrize("name", WITHOUT_DERIVATIVE)
def test_what_has_no_derivative_asks_for_none(name, backend):
    with d2k.backends.use(backend):
        given = floats(arguments()[name], lambda x: x.clone().requires_grad_())
        assert not any(x.requires_grad for x in plain(call(name, given)))
        with forward_ad.dual_level():
            given = floats(arguments()[name], lambda x: forward_ad.make_dual(x, torch.ones_like(x)))
            out = plain(call(name, given))
            assert all(forward_ad.unpack_dual(x).tangent is None for x in out)


@pytest.mark.parametrize("backend", ["reference", None])
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_forward_mode_raises(name, backend):
    given = arguments()[name]
    with d2k.backends.use(backend), forward_ad.dual_level():
        dual = floats(dict(given), lambda x: forward_ad.make_dual(x, torch.ones_like(x)))
        with pytest.raises(NotImplementedError, match="has no forward-mode derivative; use backward, or"):
            call(name, dual)
        dual = floats(dict(given), lambda x: forward_ad.make_dual(x.requires_grad_(), torch.ones_like(x)))
        with pytest.raises(NotImplementedError, match="has no forward-mode derivative"):
            call(name, dual)
    first = next(k for k, x in given.items() if isinstance(x, (Tensor, d2k.Ragged)))
    x = given[first].values if isinstance(given[first], d2k.Ragged) else given[first]

    def of(x):
        at = given[first].with_values(x) if isinstance(given[first], d2k.Ragged) else x
        return plain(call(name, {**given, first: at}))[0]

    with pytest.raises(RuntimeError, match="jvp"):
        torch.func.jvp(of, (x,), (torch.ones_like(x),))


def oracle_of(name, monkeypatch):
    """The function that the message of a second derivative names, and what the op gave its own Function."""
    seen = []
    plainly = _library.apply
    spy = lambda function, *args, **options: (seen.append(args), plainly(function, *args, **options))[1]  # noqa: E731
    monkeypatch.setattr(importlib.import_module(getattr(d2k, name).__module__), "apply", spy)
    given = floats(arguments()[name], lambda x: x.double().requires_grad_())
    out = next(x for x in plain(call(name, given)) if x.requires_grad)
    leaves = [x.values if isinstance(x, d2k.Ragged) else x for x in given.values()]
    leaf = next(x for x in leaves if isinstance(x, Tensor) and x.requires_grad)
    (grad,) = torch.autograd.grad(out.square().sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="has no second derivative; drop create_graph=True, or use ") as caught:
        grad.sum().backward()
    path = re.search(r"or use (\S+),", str(caught.value)).group(1)
    module, _, function = path.rpartition(".")
    return getattr(importlib.import_module(module), function), list(seen[-1])


@pytest.mark.parametrize("backend", ["reference", None])
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_a_second_derivative_raises_and_its_advice_is_true(name, backend, monkeypatch):
    """What the message names has second derivatives and those of forward mode, on the same arguments."""
    with d2k.backends.use(backend):
        oracle, given = oracle_of(name, monkeypatch)
    given = given[: len(inspect.signature(oracle).parameters)]  # what it has no use for comes last
    places = [i for i, x in enumerate(given) if isinstance(x, Tensor) and x.requires_grad]
    leaves = [given[i].detach().requires_grad_() for i in places]

    def of(*leaves):
        out = oracle(*[leaves[places.index(i)] if i in places else x for i, x in enumerate(given)])
        return out[1] if name in ("svd", "svdvals") else out

    assert torch.autograd.gradgradcheck(of, leaves, atol=1e-4)
    assert torch.autograd.gradcheck(of, leaves, check_forward_ad=True, check_backward_ad=False)


def test_what_is_kept_without_bound_is_named_by_what_a_machine_has_few_of():
    """No layer, threshold, shape or text of a caller's."""
    few = {"op", "backend", "kind", "index", "dtype", "path"}
    kept = {}
    for found in pkgutil.walk_packages(d2k.__path__, "d2kernels."):
        if found.name.endswith(("._C", ".__main__")):
            continue
        try:
            module = importlib.import_module(found.name)
        except ImportError:  # Triton is optional
            continue
        for name, value in vars(module).items():
            if hasattr(value, "cache_parameters") and value.cache_parameters()["maxsize"] is None:
                kept[f"{value.__module__}.{name}"] = set(inspect.signature(value).parameters) - few
    assert "d2kernels._kernels.module" in kept and not {name: of for name, of in kept.items() if of}
