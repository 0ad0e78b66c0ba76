"""Selectors and settings of encoders: parsing, printing, and messages about invalid ones."""

import pytest
from every_encoder import load

from features.encoders.selector import EncoderSettings, parse_selector, parse_selectors
from features.errors import InputError, UsageError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "vggisch",
            "must name one of data2vec, fourier2vec, hubert, vggish, wav2vec2, wavlm, whisper, found 'vggisch'",
        ),
        ("hashed_ngrams", "is an encoder for text: --text-encoder"),
        ("whisper@middle", "must be numbers, 'last' or 'all', found 'middle'"),
        ("whisper@", "found ''"),
        ("whisper@1,1", "must be different"),
        ("whisper@all,2", "'all' alone"),
        ("=x", "NAME"),
        ("whisper+fourier2vec", "NAME"),
    ],
)
def test_bad_selectors_say_what_is_allowed(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("+", r"\+")):
        parse_selector(text, "audio")


def test_selectors_are_read_and_written() -> None:
    for text in (
        "whisper",
        "whisper=vinai/PhoWhisper-small@9",
        "whisper=/a/b=c@last",
        "whisper=../x",
        "whisper@0,3,last",
    ):
        assert str(parse_selector(text, "audio")) == text
    selector = parse_selector("whisper=/models/w@9", "audio")
    assert (selector.name, selector.model, selector.layers) == ("whisper", "/models/w", (9,))


def test_a_layer_beyond_the_last_is_refused(checkpoints: dict[str, str]) -> None:
    with pytest.raises(InputError, match=r"must be 0\.\.3 or 'last', found 4"):
        load("whisper", checkpoints, "@4")


def test_streams_are_joined_by_plus() -> None:
    def names(text: str) -> list[str]:
        return [str(selector) for selector in parse_selectors(text, "audio")]

    assert names("dual") == names("wav2vec2+vggish") == ["wav2vec2", "vggish"]
    assert names("wav2vec2=/a+b/c@3,5+vggish=/w") == ["wav2vec2=/a+b/c@3,5", "vggish=/w"]
    for text, message in [("whisper+whisper", "must differ"), ("whisper+vggish+hubert", "at most two")]:
        with pytest.raises(UsageError, match=message):
            parse_selectors(text, "audio")
    with pytest.raises(UsageError, match="takes one encoder"):
        parse_selectors("phobert+videberta", "text")


def test_unknown_names_are_imported_features_only_where_they_are_allowed() -> None:
    def read(text: str) -> list[str]:
        return [str(selector) for selector in parse_selectors(text, "audio", imported=True)]

    assert read("egemaps") == ["egemaps"] and parse_selectors("egemaps", "audio", imported=True)[0].is_imported
    assert read("vggish+my.own-1@4") == ["vggish", "my.own-1@4"]
    assert read("egemaps@2,3+whisper=/a+b") == ["egemaps@2,3", "whisper=/a+b"]
    assert read("egemaps+other") == ["egemaps", "other"]
    assert read("whisper=/a+b@3+egemaps") == ["whisper=/a+b@3", "egemaps"]
    assert read("whisper=/a+b") == ["whisper=/a+b"]  # a path, not a second stream
    assert read("dual") == ["wav2vec2", "vggish"] and not parse_selector("whisper", "audio", imported=True).is_imported
    for text in ("egemaps", "vggish+egemaps"):
        with pytest.raises(UsageError):
            parse_selectors(text, "audio")
    with pytest.raises(UsageError, match="must name one of"):
        read("egemaps=/models/x")
    with pytest.raises(UsageError, match="takes one encoder"):
        parse_selectors("words+others", "text", imported=True)


@pytest.mark.parametrize("text", ["own/a.py:Own+egemaps@2", "egemaps@2+own/a.py:Own"])
def test_a_custom_encoder_and_imported_features_are_two_streams(text: str) -> None:
    found = parse_selectors(text, "audio", imported=True)
    assert "+".join(map(str, found)) == text
    assert sorted((one.is_custom, one.is_imported) for one in found) == [(False, True), (True, False)]
    with pytest.raises(UsageError):
        parse_selectors(text, "audio")
    with pytest.raises(UsageError, match="found 'a.py'; a class of your own is given as FILE.py:Class"):
        parse_selectors("a.py", "audio")


def test_a_checkpoint_of_another_type_is_refused(checkpoints: dict[str, str]) -> None:
    for name, other in [("hubert", "wav2vec2"), ("wav2vec2", "whisper"), ("phobert", "videberta")]:
        with pytest.raises(InputError, match="must say model_type"):
            load(name, {name: checkpoints[other]})


def test_settings_reach_the_encoders_that_know_them() -> None:
    whisper, phobert = parse_selector("whisper", "audio"), parse_selector("phobert", "text")
    settings = EncoderSettings(segmenter="none", whisper_mode="trimmed")
    settings.check([whisper, phobert])
    assert settings.only(whisper.spec.settings) == EncoderSettings(whisper_mode="trimmed")
    with pytest.raises(UsageError, match="--segmenter has no effect on whisper"):
        settings.check([whisper])
