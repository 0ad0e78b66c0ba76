"""AudioReader: decodes the audio of utterances in order, ahead of a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from features.audio.decode_processes import PROCESSES
from features.audio.decoding import Decoded, decode, unreadable_now
from features.audio.segment import SYSTEM_ERROR, AudioError
from features.extraction.encoder_input import decode_utterance
from features.extraction.prefetch import NoResultError, Prefetch
from features.manifests.manifest import Utterance


class AudioReader:
    """Decodes utterances in `workers` threads with a process each; with 0, at the moment they are needed."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        read = partial(decode_utterance, decode=PROCESSES.decode if workers else decode)
        self._prefetch = Prefetch[Utterance, Decoded](read, workers, _num_bytes, abandon=PROCESSES.abandon)

    def prepare(self, utterances: Sequence[Utterance], seconds: Sequence[float]) -> None:
        """Begin to decode utterances of these durations, after those that were prepared before.

        Audio that is not decoded within its duration, but at least 300 s, is a fault of its file.
        """
        self._prefetch.add(zip(utterances, seconds, strict=True))

    def read(self, utterances: Sequence[Utterance]) -> Iterator[Decoded | AudioError]:
        """Yield the audio of each utterance, or why it cannot be used; they must be the next that were prepared."""
        self._prefetch.wait_for_next(len(utterances))
        for utterance in utterances:
            try:
                decoded = self._prefetch.take()
                if self._workers and decoded.fault is not None and decoded.fault[0] == "out_of_memory":
                    decoded = decode_utterance(utterance)  # several share the memory: alone, it may fit
                decoded.check()
                found: Decoded | AudioError = decoded
            except AudioError as error:
                found = error
            except NoResultError as error:
                found = AudioError(SYSTEM_ERROR, unreadable_now(utterance.audio_path, str(error)))
            yield found

    def close(self) -> None:
        """Stop decoding."""
        self._prefetch.close()


def _num_bytes(decoded: Decoded) -> int:
    return decoded.samples.nbytes
