"""The CPU kernels answer as PyTorch does: one operator at a time against float64, then whole networks."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from timm.models._efficientnet_blocks import SqueezeExcite
from torch import Tensor, nn

from fer_deploy.models import build_network
from fer_deploy.models.plain import PlainLayer
from fer_deploy.training import kernels as package
from fer_deploy.training.kernels import accelerate_network, kernels_work, library, operators
from fer_deploy.training.kernels.operators import ACTIVATIONS, Moments

needs_kernels = pytest.mark.skipif(not kernels_work(), reason="no C++ compiler here, so no kernels")

FUNCTIONS = {nn.Identity: lambda x: x, nn.ReLU: F.relu, nn.ReLU6: F.relu6, nn.SiLU: F.silu, nn.Hardswish: F.hardswish}

DEPTHWISE_SHAPES = [  # batch, channels, map, kernel, stride; the first five are EfficientNet-B0's own
    (24, 1152, 2, 5, 1),
    (24, 672, 3, 5, 1),
    (24, 672, 3, 5, 2),
    (24, 480, 3, 3, 1),
    (24, 240, 6, 3, 2),
    (17, 144, 12, 5, 2),
    (3, 96, 24, 3, 2),
    (2, 32, 24, 3, 1),
    (5, 37, 7, 3, 2),  # channels that fill no vector
    (2, 3, 1, 3, 1),  # one pixel
]


@pytest.fixture(autouse=True)
def _one_thread_again() -> Iterator[None]:
    yield
    torch.set_num_threads(1)


def maps_of(*shape: int, seed: int = 0, mean: float = 0.0) -> Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) + mean
    return values.to(memory_format=torch.channels_last)


def error(given: Tensor, expected: Tensor) -> float:
    """Norm of the difference, relative to the norm of what is expected."""
    given, expected = given.detach().double(), expected.detach().double()
    return float((given - expected).norm() / expected.norm().clamp_min(1e-30))


def gradients(output: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """The gradients of a weighted sum of the output."""
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(9))
    return list(torch.autograd.grad((output * weights.to(output)).sum(), inputs))


def leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().clone(memory_format=torch.preserve_format).requires_grad_()


def norm_of(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(1))
        norm.bias.uniform_(-1, 1, generator=torch.Generator().manual_seed(2))
    return norm


def true_moments(maps: Tensor) -> Moments:
    return Moments(maps.double().mean((0, 2, 3)), maps.double().var((0, 2, 3), unbiased=False))


# -- one operator at a time


@needs_kernels
@pytest.mark.parametrize(("batch", "channels", "size", "kernel", "stride"), DEPTHWISE_SHAPES)
def test_depthwise_equals_float64(batch: int, channels: int, size: int, kernel: int, stride: int) -> None:
    maps, weight = leaf(maps_of(batch, channels, size, size)), leaf(maps_of(channels, 1, kernel, kernel, seed=1))
    output, moments = operators.depthwise(maps, weight, stride=stride, padding=kernel // 2)
    exact = [leaf(maps.double()), leaf(weight.double())]
    expected = F.conv2d(*exact, None, stride, kernel // 2, 1, channels)
    assert output.is_contiguous(memory_format=torch.channels_last)
    assert error(output, expected) < 1e-6
    for ours, theirs in zip(moments, true_moments(expected), strict=True):
        assert torch.allclose(ours.double(), theirs, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(gradients(output, [maps, weight]), gradients(expected, exact), strict=True):
        assert error(ours, theirs) < 1e-6


@needs_kernels
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(("channels", "size", "kernel", "stride"), [(96, 4, 3, 2), (72, 2, 5, 1), (21, 6, 5, 1)])
def test_norm_activation_depthwise_equals_float64(
    channels: int, size: int, kernel: int, stride: int, activation: type[nn.Module]
) -> None:
    maps, weight = leaf(maps_of(18, channels, size, size, mean=0.3)), leaf(maps_of(channels, 1, kernel, kernel, seed=1))
    norm = norm_of(channels)
    output, _ = operators.normalise_depthwise(
        maps,
        norm,
        operators.moments_of(maps.detach()),
        weight,
        stride=stride,
        padding=kernel // 2,
        activation=ACTIVATIONS[activation],
    )
    exact = [leaf(tensor.double()) for tensor in (maps, weight, norm.weight, norm.bias)]
    normed = F.batch_norm(exact[0], None, None, exact[2], exact[3], training=True)
    expected = F.conv2d(FUNCTIONS[activation](normed), exact[1], None, stride, kernel // 2, 1, channels)
    assert error(output, expected) < 1e-6
    ours = gradients(output, [maps, weight, norm.weight, norm.bias])
    for given, true in zip(ours, gradients(expected, exact), strict=True):
        assert error(given, true) < 1e-5


@needs_kernels
@pytest.mark.parametrize("skips", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda kind: kind.__name__)
def test_norm_skip_activation_equals_float64(activation: type[nn.Module], skips: bool) -> None:
    maps, skip, norm = leaf(maps_of(7, 43, 5, 3)), leaf(maps_of(7, 43, 5, 3, seed=3)), norm_of(43)
    output = operators.normalise(
        maps,
        norm,
        operators.moments_of(maps.detach()),
        skip=skip if skips else None,
        activation=ACTIVATIONS[activation],
    )
    exact = [leaf(tensor.double()) for tensor in (maps, norm.weight, norm.bias, skip)]
    total = F.batch_norm(exact[0], None, None, exact[1], exact[2], training=True) + (exact[3] if skips else 0)
    expected = FUNCTIONS[activation](total)
    assert error(output, expected) < 1e-6
    count = 4 if skips else 3
    ours = gradients(output, [maps, norm.weight, norm.bias, skip][:count])
    for given, true in zip(ours, gradients(expected, exact[:count]), strict=True):
        assert error(given, true) < 1e-5


@needs_kernels
@pytest.mark.parametrize("gate", [nn.Sigmoid, nn.Hardsigmoid])
def test_norm_squeeze_excite_equals_float64(gate: type[nn.Module]) -> None:
    maps, norm, excite = leaf(maps_of(6, 40, 3, 3)), norm_of(40), SqueezeExcite(40, rd_channels=8, act_layer=nn.SiLU)
    excite.gate = gate()
    output = operators.normalise_gate(
        maps,
        norm,
        operators.moments_of(maps.detach()),
        activation=ACTIVATIONS[nn.SiLU],
        excite=lambda pooled: excite.gate(excite.conv_expand(excite.act1(excite.conv_reduce(pooled)))),
        parameters=tuple(excite.parameters()),
    )
    exact = [leaf(tensor.double()) for tensor in (maps, norm.weight, norm.bias)]
    true_excite = copy.deepcopy(excite).double()
    expected = true_excite(F.silu(F.batch_norm(*exact[:1], None, None, *exact[1:], training=True)))
    assert error(output, expected) < 1e-6
    ours = gradients(output, [maps, norm.weight, norm.bias, *excite.parameters()])
    for given, true in zip(ours, gradients(expected, [*exact, *true_excite.parameters()]), strict=True):
        assert error(given, true) < 1e-5


@needs_kernels
def test_moments_keep_their_precision_far_from_zero() -> None:
    """A sum of squares in float32 would lose the variance altogether."""
    maps = maps_of(300, 20, 4, 4, mean=4000.0)
    for ours, theirs in zip(operators.moments_of(maps), true_moments(maps), strict=True):
        assert torch.allclose(ours.double(), theirs, rtol=1e-5)


@needs_kernels
def test_sigmoid_at_its_ends() -> None:
    ends = torch.tensor([-torch.inf, -1e4, -104.0, -88.0, -20.0, 20.0, 88.0, 104.0, 1e4, torch.inf, torch.nan])
    maps = ends.repeat(4, 1)[:, :, None, None].contiguous(memory_format=torch.channels_last)
    ours = operators.apply_affine(maps, torch.ones(11), torch.zeros(11), activation=ACTIVATIONS[nn.SiLU])
    expected = F.silu(maps)
    expected[:, 0] = ours[:, 0]  # -inf * 0: nobody's number
    assert torch.allclose(ours, expected, rtol=1e-5, atol=1e-33, equal_nan=True)  # -1e4 times the least exp


@needs_kernels
def test_bfloat16_maps_are_as_close_as_their_rounding() -> None:
    maps, weight = leaf(maps_of(8, 48, 6, 6).bfloat16()), leaf(maps_of(48, 1, 3, 3, seed=1))
    norm = norm_of(48)
    moments = operators.moments_of(maps.detach())
    output, _ = operators.normalise_depthwise(
        maps, norm, moments, weight, stride=1, padding=1, activation=ACTIVATIONS[nn.SiLU]
    )
    exact = [leaf(tensor.double()) for tensor in (maps, weight, norm.weight, norm.bias)]
    normed = F.batch_norm(exact[0], None, None, exact[2], exact[3], training=True)
    expected = F.conv2d(F.silu(normed), exact[1], None, 1, 1, 1, 48)
    assert output.dtype == torch.bfloat16
    assert error(output, expected) < 4e-3  # 2^-8
    ours = gradients(output, [maps, weight, norm.weight, norm.bias])
    for given, true in zip(ours, gradients(expected, exact), strict=True):
        assert error(given, true) < 1e-2


# -- modules


@needs_kernels
@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_equal_pytorchs(momentum: float | None) -> None:
    theirs = nn.Sequential(nn.BatchNorm2d(12, momentum=momentum), BatchNormAct2d(12, momentum=momentum))
    ours = accelerate_network(copy.deepcopy(theirs), "cpu")
    for step in range(3):
        maps = maps_of(5, 12, 3, 3, seed=step, mean=2.0)
        assert torch.allclose(ours(maps), theirs(maps), atol=1e-5)
    for name, tensor in theirs.state_dict().items():
        assert torch.allclose(ours.state_dict()[name], tensor, rtol=1e-5, atol=1e-6), name


@needs_kernels
@pytest.mark.parametrize("branches", [False, True])
@pytest.mark.parametrize(("wide", "stride"), [(16, 1), (16, 2), (24, 1)])
def test_plain_layer_equals_its_parent(wide: int, stride: int, branches: bool) -> None:
    torch.manual_seed(0)
    theirs = PlainLayer(16, wide, stride=stride, branches=branches).double().to(memory_format=torch.channels_last)
    ours = accelerate_network(copy.deepcopy(theirs).float(), "cpu")
    assert type(ours) is not PlainLayer
    maps = leaf(maps_of(6, 16, 8, 8))
    exact = leaf(maps.double())
    output, expected = ours(maps), theirs(exact)
    assert error(output, expected) < 1e-6
    given = gradients(output, [maps, *ours.parameters()])
    for ours_gradient, true in zip(given, gradients(expected, [exact, *theirs.parameters()]), strict=True):
        assert error(ours_gradient, true) < 1e-5


def smooth_network(name: str) -> nn.Module:
    """The network with SiLU and sigmoid for its activations, without dropout, in float64.

    Kinked activations make whole networks incomparable: rounding moves a few of a million values across a kink, and
    each moves the gradient, between PyTorch's own float32 and float64 as much as between ours and either.
    """
    torch.manual_seed(0)
    network = timm.create_model(name, in_chans=1, num_classes=7, act_layer=nn.SiLU, drop_rate=0.0)
    for module in network.modules():
        if isinstance(module, SqueezeExcite):
            module.act1, module.gate = nn.SiLU(), nn.Sigmoid()
    return network.double().to(memory_format=torch.channels_last)


@needs_kernels
@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_lite0", "mobilenetv3_large_100"])
def test_whole_network_equals_float64(name: str) -> None:
    exact = smooth_network(name)
    theirs = copy.deepcopy(exact).float()
    ours = accelerate_network(copy.deepcopy(theirs), "cpu")
    twins = sum(type(module) in package.TWINS for module in ours.modules())
    assert twins > 50
    faces, labels = maps_of(8, 1, 48, 48), torch.arange(8) % 7
    found = {}
    for kind, network in (("exact", exact), ("theirs", theirs), ("ours", ours)):
        logits = network(faces.to(next(network.parameters()).dtype))
        F.cross_entropy(logits, labels).backward()
        found[kind] = logits.detach(), torch.cat([parameter.grad.flatten() for parameter in network.parameters()])
    logits_error, gradient_error = (error(found["ours"][i], found["exact"][i]) for i in (0, 1))
    assert logits_error < 1e-5
    assert gradient_error < 2e-5
    assert gradient_error < 1.5 * error(found["theirs"][1], found["exact"][1])  # measured: 0.4 to 0.7 of PyTorch's own
    for name_, buffer in exact.named_buffers():
        assert torch.allclose(ours.get_buffer(name_).double(), buffer.double(), rtol=1e-4, atol=1e-5), name_


NAMES = ["efficientnet-b0", "efficientnet-lite0", "mobilenetv3-large", "plain"]


@needs_kernels
@pytest.mark.parametrize("name", NAMES)
def test_names_values_and_kinds_stay(name: str) -> None:
    before = build_network(name)
    after = accelerate_network(copy.deepcopy(before), "cpu")
    states = before.state_dict(), after.state_dict()
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(a, b) for a, b in zip(*(state.values() for state in states), strict=True))
    for old, new in zip(before.modules(), after.modules(), strict=True):
        assert isinstance(new, type(old))
    assert type(copy.deepcopy(after)) is type(after)
    assert list(copy.deepcopy(after).state_dict()) == list(states[0])


@needs_kernels
@pytest.mark.parametrize("name", NAMES)
def test_evaluation_equals_pytorchs(name: str) -> None:
    torch.manual_seed(0)
    before = build_network(name).eval()
    after = accelerate_network(copy.deepcopy(before), "cpu")
    faces = maps_of(3, 1, 48, 48)
    with torch.no_grad():
        assert torch.allclose(after(faces), before(faces), atol=1e-5)
        assert torch.allclose(after(faces.contiguous()), before(faces), atol=1e-5)
    assert torch.allclose(after(faces), before(faces), atol=1e-5)  # gradients wanted: PyTorch's own way


@needs_kernels
def test_batches_of_one_train_as_pytorchs() -> None:
    before = smooth_network("efficientnet_b0").float()
    after = accelerate_network(copy.deepcopy(before), "cpu")
    face = maps_of(1, 1, 96, 96)
    assert torch.allclose(after(face), before(face), atol=1e-4)


def same_bits(network: nn.Module, threads: int) -> list[Tensor]:
    torch.set_num_threads(threads)
    faces, labels = maps_of(19, 1, 48, 48), torch.arange(19) % 7
    network = accelerate_network(copy.deepcopy(network), "cpu")
    torch.manual_seed(5)
    F.cross_entropy(network(faces), labels).backward()
    return [parameter.grad for parameter in network.parameters()] + list(network.buffers())


@needs_kernels
@pytest.mark.parametrize("name", ["efficientnet-b0", "plain"])
def test_the_same_bits_twice(name: str) -> None:
    torch.manual_seed(0)
    network = build_network(name)
    first, again = same_bits(network, 2), same_bits(network, 2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@needs_kernels
def test_kernels_give_the_same_bits_on_any_number_of_threads() -> None:
    maps, weight, norm = leaf(maps_of(21, 48, 6, 6)), leaf(maps_of(48, 1, 5, 5, seed=1)), norm_of(48)
    answers = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        moments = operators.moments_of(maps.detach())
        output, after = operators.normalise_depthwise(maps, norm, moments, weight, stride=1, padding=2, activation=3)
        answers.append([output, *moments, *after, *gradients(output, [maps, weight, norm.weight, norm.bias])])
    for other in answers[1:]:
        assert all(torch.equal(a, b) for a, b in zip(answers[0], other, strict=True))


@needs_kernels
@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_lite0"])
def test_autocast_is_no_coarser_than_pytorchs(name: str) -> None:
    start = smooth_network(name).float()
    faces, labels = maps_of(8, 1, 48, 48), torch.arange(8) % 7
    found = {}
    for kind, autocast in (("float32", False), ("theirs", True), ("ours", True)):
        network = copy.deepcopy(start)
        if kind == "ours":
            accelerate_network(network, "cpu")
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits = network(faces).float()
        F.cross_entropy(logits, labels).backward()
        found[kind] = torch.cat([parameter.grad.flatten() for parameter in network.parameters()])
    assert 0 < error(found["ours"], found["float32"]) < 1.2 * error(found["theirs"], found["float32"])


# -- where the kernels cannot be had


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """As in a new process, with an empty cache of its own, and builds that are quick instead of good."""
    monkeypatch.setattr(library, "_FLAGS", tuple(flag.replace("-O3", "-O0") for flag in library._FLAGS))
    monkeypatch.setenv("FERDEPLOY_CACHE", str(tmp_path / "ferdeploy"))
    library.kernels.cache_clear()
    kernels_work.cache_clear()
    yield tmp_path
    library.kernels.cache_clear()
    kernels_work.cache_clear()


def untouched(network: nn.Module) -> bool:
    before = copy.deepcopy(network)
    after = accelerate_network(network, "cpu")
    return all(type(old) is type(new) for old, new in zip(before.modules(), after.modules(), strict=True))


@pytest.mark.usefixtures("fresh")
def test_without_a_compiler_nothing_changes_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with caplog.at_level(logging.WARNING):
        network = build_network("plain")
        assert untouched(network)
    assert "no C++ compiler found" in caplog.text
    assert network(maps_of(2, 1, 48, 48)).shape == (2, 7)


@pytest.mark.usefixtures("fresh")
def test_with_a_broken_compiler_nothing_changes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "no such target" >&2\nexit 4\n')
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    with caplog.at_level(logging.WARNING):
        assert untouched(build_network("plain"))
    assert "no such target" in caplog.text


@needs_kernels
def test_a_library_that_answers_wrongly_is_not_used(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = fresh / "kernels.cpp"
    original = Path(library.__file__).with_name("kernels.cpp").read_text(encoding="utf-8")
    source.write_text(original.replace("vec s = sigmoid(z), y = z * s;", "vec s = sigmoid(z), y = z + s;"))
    monkeypatch.setattr(library, "files", lambda _: fresh)
    with caplog.at_level(logging.WARNING):
        assert untouched(build_network("plain"))
    assert "wrong results on this machine" in caplog.text


@pytest.mark.usefixtures("fresh")
def test_the_environment_switches_them_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FERDEPLOY_KERNELS", "0")
    assert untouched(build_network("plain"))


@needs_kernels
def test_a_build_is_kept(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = library.build(fresh)
    stamp = built.stat().st_mtime_ns
    assert library.build(fresh) == built
    assert built.stat().st_mtime_ns == stamp
    monkeypatch.setattr(library, "_FLAGS", (*library._FLAGS, "-DANOTHER"))
    assert library.build(fresh) != built


@needs_kernels
@pytest.mark.parametrize("cache", ["a file", "read-only", "none", "damaged"])
def test_a_cache_that_cannot_be_used_costs_only_the_time_to_compile(
    cache: str, fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fresh / "ferdeploy"
    if cache == "a file":
        folder.write_text("in the way")
    elif cache == "read-only":
        monkeypatch.setenv("FERDEPLOY_CACHE", "/proc/no-cache")  # root may write into read-only folders, not here
    elif cache == "none":
        monkeypatch.setattr(library, "cache_folder", lambda: None)
    else:
        library.build(folder).write_bytes(b"not a library")
    assert library.kernels() is not None
    assert kernels_work()


def test_the_cache_is_where_all_of_ferdeploys_caches_are(fresh: Path) -> None:
    if library.kernels() is None:
        pytest.skip("no C++ compiler here, so no kernels")
    assert [path.suffix for path in (fresh / "ferdeploy").iterdir()] == [".so"]


def test_other_devices_are_left_alone() -> None:
    network = build_network("plain")
    before = [type(module) for module in network.modules()]
    assert [type(module) for module in accelerate_network(network, "cuda").modules()] == before


@pytest.mark.parametrize("accelerated", [False, True])
def test_stochastic_depth_leaves_whole_blocks_out_of_single_faces(accelerated: bool) -> None:
    """At rate p a block's answer for a face is its skip with probability p, and else skip + branch / (1 - p)."""
    network = build_network("efficientnet-b0", drop_path=0.5, dropout=0.0)
    if accelerated:
        accelerate_network(network, "cpu")
    blocks = [
        (place, block)
        for place, block in enumerate(block for stage in network.blocks for block in stage)  # type: ignore[union-attr]
        if type(block.drop_path) is not nn.Identity
    ]
    rates = [block.drop_path.drop_prob for _, block in blocks]
    assert rates == pytest.approx([0.5 * place / 16 for place, _ in blocks])  # linear in depth, as the paper has it
    rate, block = [(rate, block) for rate, (_, block) in zip(rates, blocks, strict=True) if block.has_skip][-1]
    faces = 2000
    maps = torch.randn(8, block.bn3.num_features, 2, 2).repeat(faces // 8, 1, 1, 1)
    maps = maps.to(memory_format=torch.channels_last)
    block.train()
    torch.manual_seed(0)
    with torch.no_grad():
        branch = block(maps) - maps
        block.drop_path.drop_prob = 0.0
        whole = block(maps) - maps
    left_out = branch.abs().amax((1, 2, 3)) < 1e-6
    assert abs(float(left_out.double().mean()) - rate) < 4 * (rate * (1 - rate) / faces) ** 0.5
    torch.testing.assert_close(branch[~left_out], whole[~left_out] / (1 - rate), atol=1e-4, rtol=1e-3)
    network.eval()
    with torch.no_grad():
        assert torch.equal(network(maps_of(2, 1, 48, 48)), network(maps_of(2, 1, 48, 48)))
