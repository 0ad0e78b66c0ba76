"""One pass over the audio of a corpus, in threads; the file of facts keeps what it measured.

A changed file is measured again. Neither the pass nor Ctrl-C waits for a file that does not answer.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import groupby
from pathlib import Path
from threading import Event

from features.audio.decoding import unreadable_now
from features.audio.facts_file import FACTS_FILE, read_known, write_section
from features.audio.file_state import UNKNOWN, FileState, file_state
from features.audio.segment import SYSTEM_ERROR
from features.audio.segment_reader import SegmentReader
from features.audit.audio_facts import AudioFacts, measure_audio, unusable
from features.extraction.prefetch import NoResultError, Prefetch
from features.manifests.manifest import Utterance
from features.progress import SILENT, Reporter

SECTION = "facts"
KEY = ["wav_path", "start", "end", "channel", "size", "mtime_ns"]
FIELDS = [*KEY, "state", *AudioFacts._fields]
EARLIER_FIELDS = [*KEY, "fingerprint", *AudioFacts._fields]
"""Columns of the file: the segment, the state of its file, the facts."""
NUM_KEY, NUM_STATE = 4, 3
TASK_UTTERANCES = 8
"""Minimum number of utterances that a thread measures at once: whole files, one after the other."""
LIMIT_S = 1800.0
"""Seconds after which a thread is left behind. If it has measured a segment or has more files, the rest is tried again;
otherwise its file does not answer."""
SAVE_INTERVAL_S = 30.0
"""Seconds between saves, so that an interrupted pass continues where it stopped."""
Segment = tuple[str, float, float | None, int | str]
"""Path as in the manifest, start, end and channel."""
Known = dict[Segment, tuple[FileState, AudioFacts]]


def segment_of(utterance: Utterance) -> Segment:
    """Return the part of the corpus that an utterance takes from its file."""
    return utterance.wav_path, utterance.start, utterance.end, utterance.channel


def known_facts(utterances: Sequence[Utterance], features_dir: Path) -> list[AudioFacts | None]:
    """Return the facts of an earlier pass, without opening any audio; None if there are none.

    Only the size and mtime of each file are compared: this is quick, and good enough for a warning.
    """
    known = _read(features_dir / FACTS_FILE)
    if not known:
        return [None] * len(utterances)
    states: dict[str, tuple[int, int] | None] = {}
    found: list[AudioFacts | None] = []
    for utterance in utterances:
        entry, path = known.get(segment_of(utterance)), utterance.wav_path
        if entry is not None and path not in states:
            states[path] = _size_and_mtime(utterance.audio_path)
        is_same = entry is not None and states[path] == entry[0][:2]
        found.append(entry[1] if entry is not None and is_same else None)
    return found


def measure_corpus(
    utterances: Sequence[Utterance], features_dir: Path, threads: int | None = None, reporter: Reporter = SILENT
) -> list[AudioFacts]:
    """Return the facts of each utterance, (N); what an earlier pass measured is not decoded again.

    `threads` is the number of threads, by default one per core. The facts are saved in
    `features_dir` during the pass and at its end; a folder that cannot be written is reported.
    """
    path = features_dir / FACTS_FILE
    known, saver = _read(path), _Saver(path, reporter)
    facts, tasks = dict(known), _tasks(utterances)
    measuring = _Pass(known, threads or os.cpu_count() or 1)
    try:
        with closing(reporter.progress(sum(map(len, tasks)), 0, "audio")) as bar:
            for found in measuring.run(tasks):
                facts.update(found)
                bar.update(len(found))
                saver.save_sometimes(facts)
    finally:
        measuring.close()
        if facts != known:
            saver.save(facts)
    return [facts[segment_of(utterance)][1] for utterance in utterances]


class _Pass:
    """Measures utterances in threads; a file that does not answer is left behind, with its thread."""

    def __init__(self, known: Known, threads: int) -> None:
        self._known, self._stop = known, Event()
        self._begun: dict[int, tuple[Path, Known]] = {}
        """By `id` of the task that a thread works on, the file that it reads and what it found before."""
        self._prefetch = Prefetch[list[Utterance], Known](
            self._measure, threads, lambda found: 0, unknown_limit_s=LIMIT_S
        )

    def run(self, tasks: Sequence[list[Utterance]]) -> Iterator[Known]:
        """Yield what was found about the utterances of each task; each file is in one task."""
        waiting = deque(tasks)
        self._prefetch.add((task, None) for task in tasks)
        while waiting:
            task = waiting.popleft()
            try:
                found = self._prefetch.take()
            except NoResultError as error:
                path, found = self._begun.pop(id(task))
                found = found.copy()  # the thread may still add to it
                left = [utterance for utterance in task if segment_of(utterance) not in found]
                of_file = [utterance for utterance in left if utterance.audio_path == path]
                if found or len(of_file) < len(left):
                    # several files, or a long one, may only be slow: the next task tells
                    again = list(filter(None, (of_file, [u for u in left if u.audio_path != path])))
                    waiting += again
                    self._prefetch.forgive()
                    self._prefetch.add((one, None) for one in again)
                else:
                    message = unreadable_now(path, str(error))
                    found = {segment_of(u): (UNKNOWN, unusable(SYSTEM_ERROR, u, message)) for u in of_file}
            yield found

    def close(self) -> None:
        """Stop the threads before their next segment."""
        self._stop.set()
        self._prefetch.close()

    def _measure(self, task: list[Utterance]) -> Known:
        """Measure utterances, file by file, except those whose file has not changed (in a thread)."""
        found: Known = {}
        reader = SegmentReader()
        for path, of_file in groupby(task, key=lambda utterance: utterance.audio_path):
            if found and id(task) not in self._begun:
                return found  # it took too long, and another thread measures the rest
            self._begun[id(task)] = path, found
            # before decoding: the file can change meanwhile
            state = file_state(path)
            for utterance in of_file:
                if self._stop.is_set():
                    return found
                segment = segment_of(utterance)
                entry = self._known.get(segment)
                is_same = state.fingerprint is not None and entry is not None and entry[0] == state
                found[segment] = entry if entry is not None and is_same else (state, measure_audio(utterance, reader))
        return found


def _tasks(utterances: Sequence[Utterance]) -> list[list[Utterance]]:
    """Return one utterance per segment, in lists for the threads.

    All segments of a file are in one list, in the order of their starts: so a compressed file is
    decoded once, without an uncompressed copy.
    """
    by_file: dict[Path, dict[Segment, Utterance]] = {}
    for utterance in utterances:
        by_file.setdefault(utterance.audio_path, {}).setdefault(segment_of(utterance), utterance)
    tasks: list[list[Utterance]] = [[]]
    for segments in by_file.values():
        if len(tasks[-1]) >= TASK_UTTERANCES:
            tasks.append([])
        tasks[-1] += sorted(segments.values(), key=lambda utterance: utterance.start)
    return tasks


def _size_and_mtime(path: Path) -> tuple[int, int] | None:
    """Return size and mtime of a file; None if it does not exist."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


class _Saver:
    """Saves facts; a folder that cannot be written costs time later, and no result."""

    def __init__(self, path: Path, reporter: Reporter) -> None:
        self.path, self.reporter = path, reporter
        self._next = time.monotonic() + SAVE_INTERVAL_S

    def save_sometimes(self, facts: Known) -> None:
        """Save if the last time is long ago."""
        if time.monotonic() > self._next:
            self.save(facts)
            self._next = time.monotonic() + SAVE_INTERVAL_S

    def save(self, facts: Known) -> None:
        """Write all facts that belong to the files."""
        entries = ([*segment, *state, *one] for segment, (state, one) in facts.items() if one.is_lasting)
        try:
            write_section(self.path, SECTION, FIELDS, entries)
        except OSError as error:
            self.reporter.say(f"the facts of the audio are not kept, the next check decodes again: {error}")


def _read(path: Path) -> Known:
    """Return the facts of a file; empty if it does not exist, is damaged or of another version."""
    known: Known = {}
    first = NUM_KEY + NUM_STATE
    try:
        for entry in read_known(path, SECTION, FIELDS, EARLIER_FIELDS):
            wav_path, start, end, channel, size, mtime_ns, digest = entry[:first]
            state = FileState(size, mtime_ns, digest)
            known[wav_path, start, end, channel] = state, AudioFacts._make(entry[first:])
    except (ValueError, TypeError, RecursionError):
        return {}
    return known
