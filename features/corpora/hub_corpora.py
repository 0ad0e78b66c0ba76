"""Known faults of corpora on the Hugging Face Hub: ViSEC, LSVSC and CAMEO."""

from __future__ import annotations

from dataclasses import dataclass

from features.corpora.items import Corpus


@dataclass(frozen=True)
class HubCorpus:
    """Published numbers and known faults of a corpus."""

    num_utterances: int | None = None
    num_speakers: int | None = None
    notes: tuple[tuple[str, str], ...] = ()
    """Name and text of each known fault that the files do not show."""

    def report(self, corpus: Corpus) -> None:
        """Add the known faults, and the differences from the published numbers."""
        if self.num_utterances is not None:
            corpus.expect(self.num_utterances, len(corpus.items), "utterances")
        if self.num_speakers is not None:
            speakers = {item.speaker_id for item in corpus.items} - {None}
            corpus.expect(self.num_speakers, len(speakers), "speakers")
        for name, text in self.notes:
            corpus.warn(name, text)


HUB_CORPORA: dict[str, HubCorpus] = {
    "visec": HubCorpus(
        5280,
        147,
        (
            ("licence", "the licence of the corpus is not stated"),
            (
                "known_duplicates",
                "277 groups of equal audio (555 utterances) are known, 3 of them with different emotions, 8 with "
                "different speakers; the findings below say what these files have",
            ),
        ),
    ),
    "lsvsc": HubCorpus(
        None,
        None,
        (
            ("label_origin", "the paper of the corpus does not say how the emotions were labelled"),
            ("no_speakers", "there is no column of speakers: that no speaker is in two splits cannot be shown"),
        ),
    ),
    "cameo": HubCorpus(
        None,
        None,
        (("many_corpora", "the subsets are corpora of their own, with other labels, speakers and licences"),),
    ),
}
