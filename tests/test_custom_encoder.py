"""Custom encoders: their defaults, identity and weights, in every command, and code that runs only if it is trusted."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import make_data, wave
from torch import Tensor, nn

from cli.main import run
from features.command_lines import recorded_flags
from features.custom_code import CustomModule, read_module
from features.encoders.base import load_encoder
from features.encoders.custom_encoder import CustomEncoder, absolute_name
from features.encoders.encoder_checks import ENCODER_CHECKS
from features.encoders.selector import Selector, parse_selector, parse_selectors
from features.errors import InputError, UsageError
from features.extraction.ray_worker import Expected, RayWorker, common_versions
from features.extraction.settings import ExtractSettings, store_identity
from features.ragged import Ragged
from features.store.index import list_stores
from features.store.models import describe_models, recorded_selector
from features.store.reader import FeatureStore

SOURCE = """
from pathlib import Path
import torch
from torch import nn
from features.ragged import Ragged

with (Path(__file__).parent / "executed").open("a") as file:
    file.write("x")


class Loudness(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1, 4)

    def get_feat_lengths(self, length):
        return max(length, 320) // 320

    def forward(self, inputs):
        split = [nn.functional.pad(x, (0, max(0, 320 - len(x)))) for x in inputs.split()]
        frames = Ragged.from_sequences([x[: len(x) // 320 * 320].view(-1, 320) for x in split])
        return frames.map(lambda x: self.linear(x.square().mean(1, keepdim=True)))


class Layered(Loudness):
    num_layers = 2
    stride, centre, dim = 320, 7, 4

    def forward_layers(self, inputs):
        first = super().forward(inputs)
        return [first, first.map(torch.tanh), first.map(torch.sin)]


class Letters(nn.Module):
    modality = "text"

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(100, 4)

    def get_feat_lengths(self, length):
        return length

    def token_texts(self, transcript):
        return list(transcript)

    def forward(self, inputs):
        return inputs.map(lambda codes: self.table(codes % 100))


class Named(Loudness):
    def __init__(self, model):
        super().__init__()
        self.linear.weight.data.fill_(float(Path(model).read_text()))


class Constant(Loudness):
    def __init__(self):
        super().__init__()
        nn.init.ones_(self.linear.weight), nn.init.zeros_(self.linear.bias)


class Tied(Loudness):
    def __init__(self):
        super().__init__()
        self.again = self.linear


class Faulty(Loudness):
    def forward(self, inputs):
        return inputs.map(lambda x: x.no_such_method())
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(f"{SOURCE}\n# {tmp_path}\n")  # a content of its own: modules are loaded once by content
    return path


def forget(path: Path) -> None:
    """Make the next load execute a file again."""
    sys.modules.pop(read_module(f"{path}:Loudness").module, None)
    (path.parent / "executed").unlink(missing_ok=True)


def load(file: Path, text: str, modality: str = "audio") -> CustomEncoder:
    encoder = load_encoder(parse_selector(f"{file}:{text}", modality))
    assert isinstance(encoder, CustomEncoder)
    return encoder


def test_two_methods_are_enough_and_the_rest_has_defaults(file: Path) -> None:
    encoder = load(file, "Loudness")
    assert (encoder.name, encoder.modality, encoder.dim, encoder.num_layers) == ("mine.py:Loudness", "audio", 4, 1)
    assert encoder.layers == ("last",) and encoder.is_random and encoder.weights_note == "random, seed 0"
    module = CustomModule(file, "Loudness", file.read_bytes())
    assert encoder.config == {"code_sha256": module.sha256, "stride": 320, "centre": 160.0}
    samples = wave(0.1, 0)
    assert encoder.prepare(samples).tolist() == samples.tolist()
    for lengths in (torch.tensor([1, 320, 641]), np.array([1, 320, 641])):
        assert encoder.get_feat_lengths(lengths).tolist() == [1, 1, 2]
    assert encoder.get_feat_lengths(0) == 0
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert all(check(lambda: encoder) is None for check in ENCODER_CHECKS.values())


def test_features_are_those_of_the_class_itself(file: Path) -> None:
    encoder = load(file, "Loudness")
    torch.manual_seed(0)
    linear = nn.Linear(1, 4)  # the same seed gives the same weights
    samples = torch.from_numpy(wave(0.1, 0))
    expected = linear(samples.view(-1, 320).square().mean(1, keepdim=True))
    torch.testing.assert_close(encoder(Ragged.from_sequences([samples])).values, expected)


def test_a_text_encoder_reads_code_points_by_default(file: Path) -> None:
    encoder = load(file, "Letters", "text")
    assert encoder.prepare("ừ a").tolist() == [ord("ừ"), 32, 97]
    assert encoder.prepare("").shape == (0,)
    assert encoder.token_texts("ừ a") == ["ừ", " ", "a"]
    assert "stride" not in encoder.config
    with pytest.raises(UsageError, match="Letters is an encoder for text: --text-encoder"):
        load(file, "Letters")


def test_layers_are_numbered_and_only_those_of_the_class_exist(file: Path) -> None:
    encoder = load(file, "Layered@0,2,last")
    assert encoder.config["stride"] == 320 and encoder.config["centre"] == 7.0
    first, second, last = encoder.forward_layers(Ragged.from_sequences([encoder.prepare(wave(0.1, 0))]))
    assert torch.equal(second.values, first.values.sin()) and torch.equal(second.values, last.values)
    with pytest.raises(InputError, match=r"must be 0\.\.2 or 'last', found 3"):
        load(file, "Layered@3")
    with pytest.raises(UsageError, match="Loudness has one layer, 'last'; for more, give it num_layers"):
        load(file, "Loudness@0")


def test_weights_that_no_seed_changes_are_not_random(file: Path) -> None:
    encoder = load(file, "Constant")
    assert not encoder.is_random and encoder.weights_note == "built by mine.py"


def test_a_model_is_given_to_the_class_or_loaded_into_it(file: Path, tmp_path: Path) -> None:
    (tmp_path / "two").write_text("2.0")
    named = load(file, f"Named={tmp_path / 'two'}")
    assert named.inner.linear.weight.unique().tolist() == [2.0]
    assert len(named.config["model"]) == 32 and named.model_name == "two" and not named.is_random
    with pytest.raises(UsageError, match=r"Named needs a model: .*mine.py:Named=MODEL"):
        load(file, "Named")
    constant = load(file, "Constant")
    constant.save(tmp_path / "saved")
    again = load(file, f"Loudness={tmp_path / 'saved'}")
    assert again.weights_sha256 == constant.weights_sha256 != load(file, "Loudness").weights_sha256
    assert "model" not in again.config  # its weights are all that was read
    with pytest.raises(InputError, match="must hold the weights of Loudness as safetensors"):
        load(file, f"Loudness={tmp_path / 'none'}")


@pytest.mark.parametrize("name", ["Loudness", "Tied"])
def test_the_copy_of_random_weights_is_the_same_encoder(name: str, file: Path, tmp_path: Path) -> None:
    encoder = load(file, name)
    encoder.save(tmp_path / "copy")
    again = load(file, f"{name}={tmp_path / 'copy'}")
    assert (again.weights_sha256, again.config, again.is_random) == (encoder.weights_sha256, encoder.config, True)


def test_an_error_of_the_class_names_its_line(file: Path) -> None:
    line = SOURCE.splitlines().index("        return inputs.map(lambda x: x.no_such_method())") + 1
    with pytest.raises(InputError, match=rf"mine.py:{line}: AttributeError: .*no_such_method"):
        load(file, "Faulty")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return inputs.values", "forward must return a Ragged, found a Tensor"),
        ("return inputs", r"forward must return features \(sum T, D\) with any D, found \(16000,\)"),
        ("return super().forward(inputs).map(lambda x: x[:, :1, None])", r"found \(50, 1, 1\)"),
        (
            "return Ragged.from_lengths(torch.zeros(3, 4), [3])",
            r"get_feat_lengths must be .*, found \(50,\) and \(3,\)",
        ),
    ],
)
def test_outputs_of_another_form_are_refused(body: str, message: str, file: Path) -> None:
    file.write_text(f"{SOURCE}\n\nclass Mine(Loudness):\n    def forward(self, inputs):\n        {body}\n")
    with pytest.raises(InputError, match=message):
        load(file, "Mine")


def test_what_does_not_fit_into_memory_is_left_to_the_batch_budget(file: Path) -> None:
    encoder = load(file, "Loudness")

    def full(inputs: Ragged) -> Ragged:
        raise torch.OutOfMemoryError("CUDA out of memory")

    encoder.inner.forward = full
    with pytest.raises(torch.OutOfMemoryError):
        encoder(Ragged.from_sequences([torch.ones(400)]))


def test_selectors_name_files(file: Path) -> None:
    first, second = parse_selectors(f"fourier2vec@1+{file}:Layered=a/b@2", "audio")
    assert (first.name, second.name, second.model, second.layers) == ("fourier2vec", f"{file}:Layered", "a/b", (2,))
    assert second.is_custom and not first.is_custom
    with pytest.raises(UsageError, match=r"a class of your own is given as FILE\.py:Class"):
        parse_selector("mine.py", "audio")
    for name in ("none.py:Loudness", f"{file}:Nothing"):
        with pytest.raises(UsageError, match="must name a class in a Python file|must hold a class Nothing"):
            load_encoder(parse_selector(name, "audio"))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a corpus, the file, and the stores and a run of two of its classes."""
    folder = tmp_path_factory.mktemp("custom")
    (folder / "mine.py").write_text(f"{SOURCE}\n# {folder}\n")
    data = make_data(folder / "data", {"train": 8, "valid": 4, "test": 2})
    names = ["--audio-encoder", f"{folder}/mine.py:Loudness", "--text-encoder", f"{folder}/mine.py:Letters"]
    assert run(["extract", "--data", str(data), *names]) == 0
    assert (folder / "executed").exists()
    forget(folder / "mine.py")
    small = ["--epochs", "1", "--dim", "8", "--heads", "2", "--mlp", "4"]
    assert run(["train-head", "--data", str(data), *names, *small, "--output", str(folder / "run")]) == 0
    assert not (folder / "executed").exists()  # training reads only the stores
    return folder


def command(folder: Path, name: str, *arguments: str) -> list[str]:
    return [name, "--data", str(folder / "data"), *arguments]


def test_stores_are_found_by_the_content_of_the_file(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (info,) = list_stores(prepared / "data" / "stores", "audio")
    assert info.path.name.startswith("mine.py-Loudness-random-Llast-") and info.encoder == "mine.py:Loudness"
    moved = Path(shutil.copy(prepared / "mine.py", tmp_path))
    assert run(command(prepared, "extract", "--audio-encoder", f"{moved}:Loudness@last", "--plan")) == 0
    assert "planned, 14 kept" in capsys.readouterr().out
    moved.write_text(moved.read_text() + "# edited\n")
    train = ["--audio-encoder", f"{moved}:Loudness", "--fusion", "audio", "--output", str(tmp_path / "run")]
    assert run(command(prepared, "train-head", *train)) == 1
    found = capsys.readouterr().err
    assert "with another content of mine.py, which was edited since" in found
    assert f"--audio-encoder {moved}:Loudness" in found


def test_a_store_names_the_file_that_built_its_weights_and_a_seed_only_if_there_is_one(prepared: Path) -> None:
    (info,) = list_stores(prepared / "data" / "stores", "audio")
    assert info.provenance["weights"] == "random, seed 0" and describe_models(info) == "initialized from a seed"
    built = replace(info, provenance={**info.provenance, "weights": "built by mine.py"})
    assert describe_models(built) == f"{prepared}/mine.py"


def test_evaluation_runs_no_code_unless_transcripts_change_and_it_is_trusted(
    prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate, executed = ["evaluate", str(prepared / "run")], prepared / "executed"
    forget(prepared / "mine.py")
    assert run(evaluate) == 0
    capsys.readouterr()
    assert run([*evaluate, "--corrupt", "tones"]) == 2
    assert "Review it, then pass --trust-code" in capsys.readouterr().err
    assert not executed.exists()
    kept = (prepared / "mine.py").read_text()
    (prepared / "mine.py").write_text(kept + "# edited\n")
    assert run([*evaluate, "--corrupt", "tones", "--trust-code"]) == 1
    assert "must be the file that the features were extracted with" in capsys.readouterr().err
    assert not executed.exists()
    (prepared / "mine.py").write_text(kept)
    assert run([*evaluate, "--corrupt", "tones", "--trust-code"]) == 0
    assert executed.exists()  # negative control


def test_finetune_refuses_it_with_the_reason(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = ["--audio-encoder", f"{prepared}/mine.py:Loudness", "--fusion", "audio"]
    for arguments in (command(prepared, "finetune", *named), ["finetune", "--init-head", str(prepared / "run")]):
        assert run([*arguments, "--output", str(prepared / "tuned")]) == 2
        assert "a run holds the encoder's weights and no code of it" in capsys.readouterr().err


def test_layers_are_probed(prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command(prepared, "layers", "--audio-encoder", f"{prepared}/mine.py:Layered", "--json")) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [entry["layer"] for entry in document["layers"]] == [0, 1, 2]
    store = FeatureStore(Path(document["store"]))
    assert store["valid-000"].shape == (3, 4)
    assert store.info.provenance["code"]["file"] == f"{prepared}/mine.py"


def test_no_file_can_name_code(prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in (f"{prepared}/mine.py:Loudness", f"fourier2vec+{prepared}/mine.py:Layered=x@2"):
        (tmp_path / "c.json").write_text(json.dumps({"audio_encoder": text}))
        assert run(command(prepared, "extract", "--config", str(tmp_path / "c.json"))) == 2
        assert "names the code" in capsys.readouterr().err


def test_the_selector_of_a_store_is_not_trusted(prepared: Path) -> None:
    (info,) = list_stores(prepared / "data" / "stores", "text")
    forget(prepared / "mine.py")
    selector = recorded_selector(info)
    assert selector.name == f"{prepared}/mine.py:Letters" and not selector.trusted
    with pytest.raises(UsageError, match="is code of a file. Review it, then pass --trust-code"):
        load_encoder(selector)
    assert not (prepared / "executed").exists()


def test_an_actor_loads_the_same_file_or_says_that_it_cannot(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    selector = parse_selector("mine.py:Loudness", "audio")
    settings = ExtractSettings(file.parent / "stores", device="cpu")
    encoder = load_encoder(selector)
    expected = Expected([store_identity(encoder, selector, "last", settings)], common_versions("audio"))
    absolute = Selector("audio", absolute_name(selector))
    monkeypatch.chdir("/")  # actors run in other folders
    assert absolute.name == f"{file}:Loudness"
    assert RayWorker(absolute, settings, expected).report().fault is None
    assert "cannot be read" in str(RayWorker(selector, settings, expected).report().fault)
    file.write_text(f"{SOURCE}# edited\n")
    assert "must be the same encoder on every machine" in str(RayWorker(absolute, settings, expected).report().fault)


def test_prepare_of_the_class_must_return_a_tensor(file: Path) -> None:
    body = "def prepare(self, raw):\n        return raw"
    file.write_text(f"{SOURCE}\n\nclass Mine(Loudness):\n    dim = 4\n\n    {body}\n")
    encoder: Any = load(file, "Mine")
    with pytest.raises(InputError, match=r"prepare must return a tensor \(S, \.\.\.\), found array"):
        encoder.prepare(wave(0.01, 0))
    assert isinstance(load(file, "Loudness").prepare(wave(0.01, 0)), Tensor)


def test_a_command_from_a_run_that_names_code_is_not_suggested() -> None:
    assert recorded_flags("--audio-encoder fourier2vec@2") == ["--audio-encoder", "fourier2vec@2"]
    assert recorded_flags("--audio-encoder a/mine.py:Loudness@last") == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("class Mine(Loudness):\n    def forward_layers(self, inputs):\n        pass", "attribute 'num_layers'"),
        ("class Mine(nn.Identity):\n    dim = 4", "attribute 'get_feat_lengths'"),
        (
            "class Mine(nn.Module):\n    def get_feat_lengths(self, n):\n        return n",
            'missing the required "forward"',
        ),
        ("class Mine(Layered):\n    num_layers, dim = 3, 0", "must return a list of num_layers [+] 1 = 4 Ragged"),
    ],
)
def test_what_a_class_lacks_is_named(body: str, message: str, file: Path) -> None:
    file.write_text(f"{SOURCE}\n\n{body}\n")
    with pytest.raises(InputError, match=rf"mine\.py.*{message}"):
        load(file, "Mine")
