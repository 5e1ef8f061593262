"""Networks of other people: found by name, made with the asked classes, refused in one line."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from edgekd import models
from edgekd.errors import BackendUnavailable, DataError, RecipeError, TrainError
from edgekd.models import external
from tests.models import nets


def test_a_function_makes_a_network() -> None:
    models.check("tests.models.nets:pooled", "student")
    model = models.create("tests.models.nets:pooled", 7, 3)
    assert models.cost(model, (3, 8, 8))[1] == 64 * 6 * 27 + 24 * 7
    assert model(torch.zeros(2, 3, 8, 8)).shape == (2, 7)


def test_its_identity_is_its_source_and_a_built_in_ones_is_its_name() -> None:
    source = hashlib.sha256(Path(nets.__file__).read_bytes()).hexdigest()
    spec = "tests.models.nets:linear"
    assert models.identity(spec) == {"model": spec, "source": source}
    assert models.identity("resnet8") == {"model": "resnet8"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tests.models.nets:pool", "student.model: .*'pooled'"),
        ("tests.models.net:linear", "no module is called 'tests.models.net'"),
        ("tests.models.nets:not_callable", "is no function but a int"),
        ("onnx:teacher.onnx", "student.model: 'onnx:teacher.onnx' cannot be trained"),
        ("bundle:teacher.edgekd", "cannot be trained"),
    ],
)
def test_a_name_that_makes_no_network_is_refused_early(name: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        models.check(name, "student")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no_network", "returned a str, and not a torch.nn.Module"),
        ("failing", r"ValueError: no 10 classes with 1 channels \(.*nets.py:\d+\)"),
        ("two_outputs", "gives a tuple, and not one tensor of logits"),
        ("maps", r"gives \(2, 10, 9, 9\) for two images, and not \(2, 10\)"),
        ("linear", r"fails on images of shape \(1, 9, 9\): RuntimeError: .*mat1"),
    ],
)
def test_a_network_that_does_not_fit_is_told_in_one_line(name: str, words: str) -> None:
    with pytest.raises(TrainError, match=words) as caught:
        models.fitting(f"tests.models.nets:{name}", 10, (1, 9, 9))
    assert "\n" not in str(caught.value)


def test_fitting_leaves_statistics_and_mode_as_they_are() -> None:
    torch.manual_seed(0)
    expected = models.create("tests.models.nets:pooled", 10, 1)
    torch.manual_seed(0)
    model = models.fitting("tests.models.nets:pooled", 10, (1, 9, 9))
    assert model.training
    for name, value in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


def test_lazy_layers_can_be_trained() -> None:
    lazy = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    assert models.try_on(lazy, "lazy", (1, 4, 4)) == (2, 3)
    lazy(torch.ones(2, 1, 4, 4)).sum().backward()
    assert lazy[1].weight.grad is not None


@pytest.mark.parametrize("library", external.LIBRARIES)
def test_a_library_that_is_not_installed_names_its_extra(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(external, "installed", lambda names: dict.fromkeys(names, "absent"))
    with pytest.raises(BackendUnavailable, match=r"not installed.*pip install 'edgekd\[zoo\]'"):
        models.check(f"{library}:resnet18", "teacher")


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Installs a library of that name and text, for as long as the test takes."""

    def install(name: str, text: str) -> None:
        for each in [n for n in sys.modules if n.split(".")[0] == name]:
            monkeypatch.delitem(sys.modules, each)
        (tmp_path / f"{name}.py").write_text(text)
        info = tmp_path / f"{name}-9.8.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.8\n")
        monkeypatch.syspath_prepend(str(tmp_path))

    yield install
    for name in external.LIBRARIES:
        sys.modules.pop(name, None)


def test_a_library_that_is_broken_says_why(fake) -> None:  # type: ignore[no-untyped-def]
    fake("torchvision", "raise RuntimeError('operator torchvision::nms does not exist')")
    with pytest.raises(BackendUnavailable, match="beside torch .*torchvision::nms does not") as bad:
        models.check("torchvision:resnet18", "teacher")
    assert "pip install" not in str(bad.value)  # it is installed


def test_a_librarys_network_is_asked_for_by_classes_and_channels(fake) -> None:  # type: ignore[no-untyped-def]
    fake(
        "timm",
        "from torch import nn\n"
        "def is_model(name): return name == 'tiny'\n"
        "def list_models(): return ['tiny']\n"
        "def create_model(name, num_classes, in_chans, pretrained):\n"
        "    assert pretrained is False\n"
        "    return nn.Linear(in_chans, num_classes)\n",
    )
    made = models.create("timm:tiny", 7, 3)
    assert (made.in_features, made.out_features) == (3, 7)
    assert models.identity("timm:tiny") == {"model": "timm:tiny", "timm": "9.8"}
    with pytest.raises(RecipeError, match="timm has no network 'tinny': did you mean 'tiny'"):
        models.check("timm:tinny", "teacher")


@pytest.fixture
def zoo() -> None:
    for name in external.LIBRARIES:
        pytest.importorskip(name, reason=f"{name} is not installed")


@pytest.mark.zoo
@pytest.mark.parametrize(
    "name",
    [
        "timm:test_resnet",
        "timm:test_resnet.r160_in1k",
        "timm:test_vit",
        "torchvision:resnet18",
        "torchvision:mobilenet_v3_small",
        "torchvision:shufflenet_v2_x0_5",
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.usefixtures("zoo")
def test_real_networks_take_the_datas_classes_and_channels(name: str, channels: int) -> None:
    models.check(name, "student")
    side = 160 if "vit" in name else 32
    model = models.fitting(name, 7, (channels, side, side))
    params, macs = models.cost(model, (channels, side, side))
    assert params > 1000
    assert macs > 1000


@pytest.mark.zoo
@pytest.mark.usefixtures("zoo")
def test_networks_with_auxiliary_heads_give_one_tensor_while_they_train() -> None:
    model = models.fitting("torchvision:googlenet", 7, (1, 64, 64)).train()
    assert isinstance(model(torch.zeros(2, 1, 64, 64)), torch.Tensor)


@pytest.mark.zoo
@pytest.mark.usefixtures("zoo")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("torchvision:resnet17", "did you mean .*'resnet18'"),
        ("torchvision:fasterrcnn_resnet50_fpn", "torchvision has no network"),
        ("timm:resnet18x", "did you mean .*'resnet18"),
        ("timm:qqqq", r"timm's list_models\(\) names them"),
    ],
)
def test_an_unknown_network_of_a_library_names_the_near_ones(name: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words) as caught:
        models.check(name, "teacher")
    assert len(str(caught.value)) < 200


@pytest.mark.zoo
@pytest.mark.usefixtures("zoo")
def test_weights_that_cannot_be_downloaded_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from urllib.error import URLError

    import timm.models._builder
    import torchvision.models._api

    def unreachable(*args: object, **more: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", unreachable)
    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_hf", unreachable)
    for name in ("torchvision:resnet18", "timm:test_resnet"):
        with pytest.raises(DataError, match="cannot be had: URLError: .*no route .* weights$"):
            external.pretrained(name)
    with pytest.raises(DataError, match="cannot be had: RuntimeError: Invalid pretrained tag"):
        external.pretrained("timm:test_resnet.none")


@pytest.mark.zoo
@pytest.mark.usefixtures("zoo")
def test_a_librarys_own_weights_come_with_its_preprocessing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torchvision

    state = torchvision.models.resnet18().state_dict()
    monkeypatch.setattr(
        torchvision.models._api, "load_state_dict_from_url", lambda *args, **more: state
    )
    own = external.pretrained("torchvision:resnet18")
    assert own.mean == (0.485, 0.456, 0.406)
    assert own.std == (0.229, 0.224, 0.225)
    assert own.channels == 3
    assert torch.equal(own.network.state_dict()["fc.weight"], state["fc.weight"])
