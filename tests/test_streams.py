"""Several layers and two audio streams: each utterance by its own time, from one encoder, chosen and reported."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import make_data, make_vggish, make_wave_transformer, read_jsonl
from tiny_store import make_store, stored, write

from cli.main import run
from features.command_lines import DataPlace
from features.errors import InputError, UsageError
from features.ragged import Ragged
from features.store.index import list_stores
from features.store.reader import FeatureStore
from mervn.config import HeadOptions, TrainHeadOptions
from mervn.data.streams import SECOND, Stream, StreamShape, open_streams
from mervn.model.audio_merge import AudioMerge
from mervn.model.head import LayerMix, PaddedHead, build_head

WAV2VEC2 = StreamShape(3, stride=320, centre=200.0)
VGGISH = StreamShape(2, stride=15_360, centre=7_800.0)
SIZES = {"text": (3, 2, 0, 1), "audio": (140, 1, 60, 0), SECOND: (3, 1, 1, 0)}


def ragged(name: str, width: int) -> Ragged:
    return Ragged.from_lengths(torch.randn(sum(SIZES[name]), width), SIZES[name])


def one(stream: Ragged, i: int) -> Ragged:
    return Ragged.from_sequences([stream.split()[i]])


@pytest.mark.parametrize("changed", [{}, {"values": np.zeros((3, 3), np.float16)}, {"input_sha256": "other"}])
def test_layers_of_one_utterance_have_one_input(tmp_path: Path, changed: dict[str, Any]) -> None:
    infos = [make_store(tmp_path, layer=layer) for layer in (1, 2)]
    write(infos[0], [stored("a", 2), stored("b", 4)])
    write(infos[1], [stored("c", 1), replace(stored("b", 4), **changed)])
    write(infos[1], [stored("a", 2)], kind="zarr")
    stream = Stream("audio", [FeatureStore(info.path) for info in infos], DataPlace(tmp_path, tmp_path))
    if changed:
        with pytest.raises(InputError, match="'b' must have one input in all layers.* differ: extract it again:\n  "):
            stream.inputs(["a", "b"])
        return
    for inputs in stream.inputs(["b", "a"]):
        assert inputs.lengths.tolist() == [4, 2] and inputs.input_sha256.tolist() == [b"sha-b", b"sha-a"]


def test_repeat_takes_the_row_that_covers_the_time() -> None:
    first, second = ragged("audio", 3), ragged(SECOND, 2)
    merged = AudioMerge(WAV2VEC2, VGGISH, "concat", "repeat")(first, second)
    for i, (found, a, v) in enumerate(zip(merged.split(), first.split(), second.split(), strict=True)):
        for frame in range(SIZES["audio"][i]):
            patch = min(int((320 * frame + 200) / 16_000 / 0.96), len(v) - 1)
            assert torch.equal(found[frame], torch.cat([a[frame], v[patch]]))


def test_linear_interpolates_between_the_centres_of_patches() -> None:
    first, second = ragged("audio", 3), ragged(SECOND, 2)
    merged = AudioMerge(WAV2VEC2, VGGISH, "concat", "linear")(first, second)
    for i, v in enumerate(second.split()):
        times = (320 * np.arange(SIZES["audio"][i]) + 200) / 16_000
        for column in range(2):
            if len(v):
                expected = np.interp(times, 0.4875 + 0.96 * np.arange(len(v)), v[:, column].numpy())
                np.testing.assert_allclose(merged.split()[i][:, 3 + column], expected, atol=1e-6)


@pytest.mark.parametrize("merge", ["concat", "sum"])
@pytest.mark.parametrize("time", ["repeat", "linear"])
def test_a_dual_head_gives_an_utterance_alone_what_it_gives_it_in_a_batch(merge: str, time: str) -> None:
    torch.manual_seed(0)
    options = HeadOptions(dim=8, heads=2, mlp=(6,), dropout=0.0, dual_merge=merge, dual_time=time)
    shapes = {"text": StreamShape(4), "audio": WAV2VEC2, SECOND: VGGISH}
    head = build_head(options, shapes, 3).eval()
    streams = {name: ragged(name, shape.width) for name, shape in shapes.items()}
    logits = head(dict(streams))
    for i in range(4):
        alone = head({name: one(stream, i) for name, stream in streams.items()})
        torch.testing.assert_close(logits[i], alone[0], atol=2e-5, rtol=0)
    padded = {
        f"{name}{suffix}": value
        for name, stream in streams.items()
        for suffix, value in (("", stream.pad(float("nan"))), ("_lengths", stream.lengths))
    }
    torch.testing.assert_close(PaddedHead(head)(**padded), logits, atol=2e-5, rtol=0)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in head.dual.parameters())  # type: ignore[union-attr]


def test_a_layer_mix_is_a_learned_weighted_mean() -> None:
    mix = LayerMix(3)
    with torch.no_grad():
        mix.scores.copy_(torch.tensor([0.0, 1.0, -1.0]))
    values = torch.randn(5, 3, 4)
    expected = sum(w * values[:, i] for i, w in enumerate(mix.weights()))
    found = mix(Ragged.from_lengths(values, (2, 3)))
    torch.testing.assert_close(found.values, expected)
    assert mix.weights().sum().item() == pytest.approx(1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dual")
    data = make_data(folder / "data")
    models = {"w": make_wave_transformer(folder / "w"), "v": make_vggish(folder / "v")}
    for arguments in (
        ["--audio-encoder", f"wav2vec2={models['w']}@1,3+vggish={models['v']}"],
        ["--text-encoder", "hashed_ngrams"],
    ):
        assert run(["extract", "--data", str(data), "--limit", "12", *arguments]) == 0
    return data


TRAIN = ["train-head", "--epochs", "2", "--dim", "16", "--mlp", "8", "--allow-missing"]


def train(data: Path, output: Path, *arguments: str) -> dict[str, Any]:
    assert run([*TRAIN, "--data", str(data), "--output", str(output), *arguments]) == 0
    metrics: dict[str, Any] = json.loads((output / "metrics.json").read_text())
    return metrics


def test_one_pass_made_one_store_a_layer(data: Path) -> None:
    names = sorted(path.name[:-9] for path in (data / "stores" / "audio").iterdir())
    assert names == ["vggish-v-Llast", "wav2vec2-w-L1", "wav2vec2-w-L3"]


def test_a_head_mixes_layers_and_reports_what_it_learned(data: Path, tmp_path: Path) -> None:
    metrics = train(data, tmp_path / "mix", "--fusion", "audio", "--audio-encoder", "wav2vec2@1,3")
    weights = metrics["layer_weights"]["audio"]
    assert list(weights) == ["1", "3"] and sum(weights.values()) == pytest.approx(1)
    assert weights["1"] != 0.5  # it was trained
    assert run(["evaluate", str(tmp_path / "mix"), "--split", "valid", "--allow-missing"]) == 0
    assert read_jsonl(tmp_path / "mix" / "predictions-valid.jsonl")


@pytest.mark.parametrize("merge", ["concat", "sum"])
def test_two_audio_streams_train_and_evaluate(data: Path, tmp_path: Path, merge: str) -> None:
    metrics = train(data, tmp_path / "d", "--audio-encoder", "wav2vec2@1,3+vggish", "--dual-merge", merge)
    again = train(data, tmp_path / "e", "--audio-encoder", "wav2vec2@1,3+vggish", "--dual-merge", merge)
    assert metrics == again
    assert set(metrics["features"]) == {"audio", "audio_2", "text"}
    assert run(["evaluate", str(tmp_path / "d"), "--split", "valid", "--allow-missing"]) == 0
    evaluated = json.loads((tmp_path / "d" / "metrics-valid.json").read_text())["valid"]
    assert evaluated == metrics["valid"]


def test_what_cannot_be_chosen_is_explained(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def options(**given: Any) -> TrainHeadOptions:
        return TrainHeadOptions(fusion="audio", **given)

    with pytest.raises(InputError, match="mervn extract .*--audio-encoder wav2vec2@2"):
        open_streams(options(audio_encoder="wav2vec2@1,2"), data, ("audio",))
    with pytest.raises(InputError, match=r"mervn extract .*--audio-encoder wav2vec2@0,2$"):
        open_streams(options(audio_encoder="wav2vec2@0,1,2"), data, ("audio",))
    with pytest.raises(UsageError, match="several audio stores match"):
        open_streams(options(audio_encoder="wav2vec2"), data, ("audio",))
    store = next((data / "stores" / "audio").iterdir())
    with pytest.raises(UsageError, match="--audio-store is one store, but --audio-encoder wav2vec2@1,3 means several"):
        open_streams(options(audio_encoder="wav2vec2@1,3", audio_store=store), data, ("audio",))


def test_layers_are_probed_on_valid_and_kept(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = make_wave_transformer(data.parent / "probe")
    arguments = ["layers", "--data", str(data), "--audio-encoder", f"wav2vec2={model}", "--json"]
    assert run(arguments) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [entry["layer"] for entry in first["layers"]] == [0, 1, 2, 3]
    best = max(first["layers"], key=lambda entry: entry["macro_f1"])
    assert first["best"] == best["layer"] and first["n"] == {"train": 24, "valid": 10}
    assert run(arguments) == 0
    output = capsys.readouterr()
    assert json.loads(output.out.splitlines()[-1]) == first
    assert "0 to encode" in output.err
    assert not (data / "test_access.jsonl").exists()


def test_layer_means_are_the_means_of_the_layers_and_feed_no_head(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    model = make_wave_transformer(tmp_path / "w")
    for command in (["layers"], ["extract"]):
        layers = "" if command == ["layers"] else "@0,2"
        common = ["--data", str(data), "--store-dtype", "fp32"]
        assert run([*command, *common, "--audio-encoder", f"wav2vec2={model}{layers}"]) == 0
    stores = {str(info.identity.layer): FeatureStore(info.path) for info in list_stores(data / "stores", means=True)}
    assert sorted(stores) == ["0", "2", "means"]
    for name in ("train-000", "valid-003"):
        means = stores["means"][name]
        assert means.shape == (4, 32)
        for layer in (0, 2):
            np.testing.assert_allclose(means[layer], stores[str(layer)][name].mean(0), atol=2e-5)
    assert [info.identity.layer for info in list_stores(data / "stores", "audio")] == [0, 2]


def test_a_padded_stream_and_its_lengths_are_given_together() -> None:
    """Regression test: a stream without lengths was taken for a missing one."""
    head = build_head(HeadOptions(fusion="text", dim=8, heads=2, mlp=(4,)), {"text": StreamShape(6)}, 3).eval()
    text, lengths = torch.randn(2, 3, 6), torch.tensor([3, 1])
    assert PaddedHead(head)(text=text, text_lengths=lengths).shape == (2, 3)
    with pytest.raises(ValueError, match="text and text_lengths must be given together, found no lengths"):
        PaddedHead(head)(text=text)
    with pytest.raises(ValueError, match="audio_2 and audio_2_lengths must be given together, found lengths alone"):
        PaddedHead(head)(text=text, text_lengths=lengths, audio_2_lengths=lengths)


def test_the_entry_of_a_stream_names_causal_attention_only_if_it_has_it() -> None:
    assert StreamShape(6).as_json() == {"width": 6, "layers": ("last",), "stride": 0, "centre": 0.0}
    causal = StreamShape(6, causal=True)
    assert StreamShape(**causal.as_json()) == causal
    with pytest.raises(ValueError, match="causal must be true or false"):
        StreamShape(6, causal=1).check("text")  # type: ignore[arg-type]
