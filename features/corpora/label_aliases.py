"""Spellings of emotion labels in published corpora: hap, happiness and vui mean happy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from features.errors import UsageError
from features.manifests.label_names import lookalike_key, normalize_label

ALIASES: dict[str, tuple[str, ...]] = {
    "angry": ("anger", "ang", "tức giận", "giận dữ", "giận", "tuc gian", "gian du", "生气", "愤怒"),
    "happy": ("happiness", "hap", "joy", "joyful", "enjoyment", "vui", "vui vẻ", "hạnh phúc", "vui ve", "快乐", "高兴"),
    "sad": ("sadness", "buồn", "buồn bã", "buon", "伤心", "悲伤"),
    "neutral": ("neu", "neutrality", "bình thường", "trung tính", "trung lập", "binh thuong", "中立", "中性"),
    "fear": ("fearful", "fea", "sợ", "sợ hãi", "lo sợ", "so hai", "恐惧"),
    "disgust": ("disgusted", "dis", "ghê tởm", "ghe tom", "厌恶"),
    "surprise": ("surprised", "surprising", "sur", "ngạc nhiên", "bất ngờ", "ngac nhien", "惊喜", "惊讶"),
    "excited": ("excitement", "exc", "phấn khích"),
    "frustrated": ("frustration", "fru", "bực bội"),
    "contempt": ("contemptuous", "khinh thường"),
    "calm": ("bình tĩnh",),
    "bored": ("boredom", "chán"),
    "other": ("others", "oth", "khác"),
}
"""By label its other spellings; case, white space, `_` and `-` do not count."""
NO_LABEL = ("", "xxx", "nan", "none", "null", "na", "n/a", "unknown", "no agreement")
"""Spellings of a missing label; in IEMOCAP, xxx means that the raters did not agree."""


def _key(label: str) -> str:
    """Return a key that is equal for labels that differ only in case, spaces, `_` and `-`."""
    return lookalike_key(label).replace("_", "").replace("-", "")


def _spellings() -> dict[str, str]:
    found = {}
    for label, aliases in ALIASES.items():
        for alias in (label, *aliases):
            found[_key(alias)] = label
    return found


_LABELS = _spellings()
_MISSING = frozenset(map(_key, NO_LABEL))


def is_missing(label: str | None) -> bool:
    """Tell whether a label means that there is none."""
    return label is None or _key(label) in _MISSING


def known_label(label: str) -> str | None:
    """Return the label that a spelling means; None for an unknown one."""
    return _LABELS.get(_key(label))


def rename_labels(labels: Iterable[str], merge: bool | None) -> Mapping[str, str]:
    """Return by label of the corpus the label in the manifests; unknown ones stay as they are.

    Different words for the same label, such as joyful and happy, are merged if `merge`, and stay as
    they are if it is False. Raises UsageError if there are any and `merge` is None.
    """
    words: dict[str, list[str]] = {}
    unknown: dict[str, str] = {}
    for label in sorted(set(labels)):
        name = known_label(label) or unknown.setdefault(_key(label), normalize_label(label))
        words.setdefault(name, []).append(label)
    renamed: dict[str, str] = {}
    faults = []
    for label, spelled in words.items():
        distinct = len(set(map(_key, spelled))) > 1
        if distinct and merge is None:
            faults.append(f"{', '.join(spelled)} for {label}")
        first: dict[str, str] = {}  # Happy and happy stay one label
        for each in spelled:
            kept = first.setdefault(_key(each), normalize_label(each))
            renamed[each] = kept if distinct and merge is False else label
    if faults:
        raise UsageError(
            f"a corpus must have one word per label, found {'; '.join(faults)}; "
            "give --merge-labels to merge them or --no-merge-labels to keep them"
        )
    return renamed
