"""Channel: messages and samples of any size arrive as they were sent, in shared memory or not."""

import os
import socket
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny import wave

from features.audio import decode_process
from features.audio.decode_process import Channel, decoded, request, serve
from features.audio.decoding import decode


@pytest.mark.parametrize("shared", [True, False])
def test_samples_of_any_size_arrive(shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_process, "SHARED_BYTES", 4096)
    with tempfile.TemporaryFile() as memory:
        os.truncate(memory.fileno(), 4096)
        here, there = (Channel(end, memory.fileno() if shared else None) for end in socket.socketpair())
        for count in (0, 1, 1024, 1025, 300_000, 3):
            samples = np.random.default_rng(count).standard_normal(count).astype(np.float32)
            sender = threading.Thread(target=here.send, args=({"count": count}, samples))
            sender.start()
            message, found = there.receive() or (None, None)
            sender.join()
            assert message == {"count": count}
            np.testing.assert_array_equal(found, samples)
        kept = found
        here.send("next", np.zeros(1024, np.float32))
        there.receive()
        np.testing.assert_array_equal(kept, samples)  # what was received does not change
        here.close()
        assert there.receive() is None
        there.close()


def test_a_server_answers_until_its_user_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_process.signal, "signal", lambda *_: None)  # in a thread here
    soundfile.write(tmp_path / "a.wav", wave(0.2, 0), 16_000)
    here, there = socket.socketpair()
    server = threading.Thread(target=serve, args=(there.detach(), None))
    server.start()
    user = Channel(here, None)
    for path in (tmp_path / "a.wav", tmp_path / "b.wav"):
        segment = (path, 0.0, None, "mix")
        user.send(request(*segment))
        answer, expected = user.receive(), decode(*segment)
        assert answer is not None
        found = decoded(*answer)
        assert (found.sha256, found.fault, found.state) == (expected.sha256, expected.fault, expected.state)
        np.testing.assert_array_equal(found.samples, expected.samples)
    user.close()
    server.join(10)
    assert not server.is_alive()
