"""Recordings: exact frames from good ones, and a reason for every other one."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ganglion.core.errors import DataError
from ganglion.core.schema import TensorType, f32, i16
from ganglion.device.recording import EVENTS_MAX, WAVE_BYTES_MAX, Event, load_recording

FRAME = i16[2, 8]
WAVE = np.arange(3 * 2 * 20, dtype=np.int16).reshape(3, 2, 20)
HEAD = "row,event,is_fault,inception_sample"
LINES = ["0,load,false,0", "1,fault a,true,7", "2,fault b,TRUE,15"]
in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def write(folder: Path, wave: Any = WAVE, lines: list[str] | str = LINES, head: str = HEAD) -> Path:
    np.savez_compressed(folder / "events.npz", wave=wave)
    text = lines if isinstance(lines, str) else "\n".join([head, *lines]) + "\n"
    (folder / "labels.csv").write_text(text, encoding="utf-8")
    return folder


def refusal(folder: Path, frame: TensorType = FRAME) -> DataError:
    with pytest.raises(DataError) as caught:
        load_recording(folder, frame)
    assert caught.value.why
    assert caught.value.next_step
    assert str(folder) in caught.value.what
    return caught.value


# --- good ones ---


@in_one_folder
@given(data=st.data())
def test_events_are_cut_into_exact_frames(tmp_path: Path, data: st.DataObject) -> None:
    events, channels, samples, count = (data.draw(st.integers(1, n)) for n in (4, 3, 5, 4))
    rest = data.draw(st.integers(0, samples - 1))
    dtype = data.draw(st.sampled_from(["i2", "f4", "i4"]))
    wave = data.draw(hnp.arrays(dtype, (events, channels, count * samples + rest)))
    rows = [
        (i, data.draw(st.sampled_from(["fault", 'a "b", c'])), data.draw(st.booleans()), begin)
        for i in range(events)
        for begin in [data.draw(st.integers(0, count * samples - 1))]
    ]
    text = io.StringIO()
    csv.writer(text).writerows([HEAD.split(","), *rows])
    write(tmp_path, wave, text.getvalue())

    frame = TensorType({"i2": "i16", "f4": "f32", "i4": "i32"}[dtype], (channels, samples))
    loaded = load_recording(tmp_path, frame)

    assert [(e.row, e.kind, e.is_fault, e.inception_sample) for e in loaded] == rows
    for event, source in zip(loaded, wave, strict=True):
        assert event.frames.shape == (count, channels, samples)
        assert event.frames.dtype == frame.numpy
        for number, frame_read in enumerate(event.frames):
            wanted = source[:, number * samples : (number + 1) * samples]
            assert frame_read.tobytes() == np.ascontiguousarray(wanted).tobytes()
        first = event.inception_frame() * samples
        assert first <= event.inception_sample < first + samples


@pytest.mark.parametrize("array", [np.asfortranarray(WAVE), WAVE[:, :, :16]], ids=["by columns", "no rest"])
def test_the_order_in_memory_does_not_matter(tmp_path: Path, array: Any) -> None:
    loaded = load_recording(write(tmp_path, array), FRAME)
    assert np.array_equal(loaded[1].frames[1], WAVE[1, :, 8:16])


@pytest.mark.parametrize(
    "lines",
    [
        "\ufeff" + "\n".join([HEAD, *LINES]),
        "\r\n".join([HEAD, *LINES, ""]),
        "\n\n".join([HEAD, *LINES]),
        "more," + HEAD + "\n" + "\n".join(f"x,{line}" for line in LINES),
        f"{HEAD}\n0,load,No,0.0\n1,fault a,1,7.0\n 2 ,fault b, yes ,1.5e1",
    ],
    ids=["byte order mark", "CRLF", "empty lines", "more columns", "as a spreadsheet writes"],
)
def test_labels_may_look_as_spreadsheets_write_them(tmp_path: Path, lines: str) -> None:
    loaded = load_recording(write(tmp_path, lines=lines), FRAME)
    assert [(e.row, e.kind, e.is_fault, e.inception_sample) for e in loaded] == [
        (0, "load", False, 0),
        (1, "fault a", True, 7),
        (2, "fault b", True, 15),
    ]


def test_an_array_beside_the_wave_is_not_looked_at(tmp_path: Path) -> None:
    write(tmp_path)
    np.savez(tmp_path / "events.npz", wave=WAVE, notes=np.array(["text"]))
    assert len(load_recording(tmp_path, FRAME)) == 3


# --- what is missing or has another form ---


@pytest.mark.parametrize("name", ["events.npz", "labels.csv"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    (write(tmp_path) / name).unlink()
    error = refusal(tmp_path)
    assert error.code == "recording.missing"
    assert name in error.what


@pytest.mark.parametrize("name, code", [("events.npz", "recording.form"), ("labels.csv", "recording.labels")])
def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path, name: str, code: str) -> None:
    (write(tmp_path) / name).unlink()
    (tmp_path / name).mkdir()
    assert refusal(tmp_path).code == code


FORMS = {
    "two axes": WAVE[0],
    "other channels": WAVE[:, :1],
    "less than a frame": WAVE[:, :, :7],
    "no events": WAVE[:0],
    "too many events": np.zeros((EVENTS_MAX + 1, 2, 8), np.int16),
    "no numbers": np.array(0),
    "other dtype": WAVE.astype(np.int32),
    "other byte order": WAVE.astype(">i2"),
    "text": WAVE.astype(str),
    "pickles": WAVE.astype(object),
    "records": WAVE.view([("a", "<i2")]),
}


@pytest.mark.parametrize("wave", FORMS.values(), ids=FORMS)
def test_another_form_of_waves_is_refused(tmp_path: Path, wave: Any) -> None:
    assert refusal(write(tmp_path, wave)).code == "recording.form"


@pytest.mark.parametrize("frame", [i16, i16[8], f32[2, 2, 8]], ids=str)
def test_a_source_without_channels_and_samples_cannot_play(tmp_path: Path, frame: TensorType) -> None:
    error = refusal(write(tmp_path), frame)
    assert error.code == "recording.form"
    assert str(frame) in error.what


# --- hostile archives ---


def array_file(header: str, content: bytes = b"") -> bytes:
    packed = header.encode("latin1") + b"\n"
    return b"\x93NUMPY\x01\x00" + len(packed).to_bytes(2, "little") + packed + content


def claims(shape: object, descr: object = "<i2") -> str:
    return f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}"


def archive(content: bytes, how: int = zipfile.ZIP_DEFLATED, name: str = "wave.npy") -> bytearray:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", how) as packed:
        packed.writestr(name, content)
    return bytearray(file.getvalue())


def encrypted(packed: bytearray) -> bytearray:
    packed[packed.index(b"PK\x03\x04") + 6] |= 1
    packed[packed.index(b"PK\x01\x02") + 8] |= 1
    return packed


def patched(packed: bytearray, mark: bytes, offset: int, new: bytes) -> bytearray:
    at = packed.index(mark) + offset
    packed[at : at + len(new)] = new
    return packed


GOOD = array_file(claims((1, 2, 8)), bytes(32))
BODY = len(b"wave.npy") + 8
HOSTILE: dict[str, Callable[[], bytes | bytearray]] = {
    "nothing": lambda: b"",
    "no archive": lambda: b"PK\x03\x04 but not really",
    "cut short": lambda: archive(GOOD)[:-30],
    "an empty archive": lambda: b"PK\x05\x06" + bytes(18),
    "another array": lambda: archive(GOOD, name="waves.npy"),
    "a name without its ending": lambda: archive(GOOD, name="wave"),
    "encrypted": lambda: encrypted(archive(GOOD)),
    "an unknown method": lambda: patched(archive(GOOD), b"PK\x01\x02", 10, b"\x63"),
    "a wrong checksum": lambda: patched(archive(GOOD), b"PK\x01\x02", 16, b"\0\0\0\0"),
    "damaged deflate": lambda: patched(archive(GOOD), b"wave.npy", BODY, b"\xff" * 20),
    "damaged bzip2": lambda: patched(archive(GOOD, zipfile.ZIP_BZIP2), b"wave.npy", BODY, b"\xff" * 20),
    "damaged lzma": lambda: patched(archive(GOOD, zipfile.ZIP_LZMA), b"wave.npy", BODY + 6, b"\xff" * 20),
    "no array": lambda: archive(b"not an array"),
    "an empty array file": lambda: archive(b""),
    "a version of the future": lambda: archive(b"\x93NUMPY\x09\x00" + GOOD[8:]),
    "less data than claimed": lambda: archive(GOOD[:-1]),
    "terabytes claimed by a header": lambda: archive(array_file(claims((1 << 40, 2, 8)))),
    "more than there are bytes in 64 bits": lambda: archive(array_file(claims((1 << 62, 2, 8)))),
    "a negative shape": lambda: archive(array_file(claims((-1, 2, 8)), bytes(32))),
    "a shape that is none": lambda: archive(array_file(claims("'wide'"))),
    "code for a header": lambda: archive(array_file("__import__('os').abort()")),
    "an open string": lambda: archive(array_file("{'descr")),
    "deep brackets": lambda: archive(array_file("(" * 5000)),
    "a pickle": lambda: archive(array_file(claims((1, 2, 8), "|O"), b"cos\nabort\n(tR.")),
}


@pytest.mark.filterwarnings("ignore:Reading `.npy`:UserWarning")
@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_archive_is_refused(tmp_path: Path, make: Callable[[], bytes | bytearray]) -> None:
    write(tmp_path)
    (tmp_path / "events.npz").write_bytes(make())
    assert refusal(tmp_path).code == "recording.form"


@pytest.mark.filterwarnings("ignore:Reading `.npy`:UserWarning")
@in_one_folder
@given(data=st.data())
def test_damaged_archives_are_refused_or_still_whole(tmp_path: Path, data: st.DataObject) -> None:
    write(tmp_path, WAVE[:1], LINES[:1])
    how = data.draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA]))
    packed = archive(array_file(claims((1, 2, 20)), WAVE[:1].tobytes()), how)
    for _ in range(data.draw(st.integers(1, 4))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "events.npz").write_bytes(packed)
    try:
        loaded = load_recording(tmp_path, FRAME)
    except DataError as error:
        assert error.code == "recording.form"  # noqa: PT017  # both outcomes are right
    else:
        assert np.array_equal(loaded[0].frames[0], WAVE[0, :, :8])


@pytest.mark.parametrize("claimed", [WAVE_BYTES_MAX + 1, 0xFFFF_FFF0])
def test_a_bomb_is_refused_by_what_it_claims_and_never_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, claimed: int
) -> None:
    write(tmp_path)
    packed = patched(archive(GOOD), b"PK\x01\x02", 24, claimed.to_bytes(4, "little"))
    (tmp_path / "events.npz").write_bytes(packed)

    def unpacked(*_args: Any, **_kwargs: Any) -> None:
        pytest.fail("it was opened")

    monkeypatch.setattr(zipfile.ZipFile, "open", unpacked)
    error = refusal(tmp_path)
    assert error.code == "recording.form"
    assert str(claimed) in error.what


def test_what_a_member_holds_beyond_its_claim_is_not_unpacked(tmp_path: Path) -> None:
    write(tmp_path)
    bomb = array_file(claims((1 << 19, 2, 8)), bytes(1 << 24))
    packed = patched(archive(bomb), b"PK\x01\x02", 24, (4096).to_bytes(4, "little"))
    (tmp_path / "events.npz").write_bytes(packed)
    assert refusal(tmp_path).code == "recording.form"


# --- labels ---

LABELS = {
    "nothing": "",
    "no column": "row,event,is_fault\n0,load,false",
    "other names": "\n".join(["row,kind,is_fault,inception_sample", *LINES]),
    "a row too few": "\n".join([HEAD, *LINES[:2]]),
    "a row too many": "\n".join([HEAD, *LINES, "3,load,0,0"]),
    "another order": "\n".join([HEAD, LINES[1], LINES[0], LINES[2]]),
    "a row twice": "\n".join([HEAD, LINES[0], LINES[0], LINES[1]]),
    "no truth": "\n".join([HEAD, *LINES[:2], "2,fault b,maybe,15"]),
    "an empty truth": "\n".join([HEAD, *LINES[:2], "2,fault b,,15"]),
    "no number": "\n".join([HEAD, *LINES[:2], "2,fault b,true,soon"]),
    "no finite number": "\n".join([HEAD, *LINES[:2], "2,fault b,true,1e999"]),
    "not a number": "\n".join([HEAD, *LINES[:2], "2,fault b,true,nan"]),
    "a short line": "\n".join([HEAD, *LINES[:2], "2"]),
    "an endless number": "\n".join([HEAD, *LINES[:2], "9" * 10_000 + ",b,true,1"]),
    "before the event": "\n".join([HEAD, *LINES[:2], "2,fault b,true,-1"]),
    "after the whole frames": "\n".join([HEAD, *LINES[:2], "2,fault b,true,16"]),
    "a field without end": "\n".join([HEAD, "0," + "x" * 200_000 + ",true,1", *LINES[1:]]),
}


@pytest.mark.parametrize("text", LABELS.values(), ids=LABELS)
def test_wrong_labels_are_refused(tmp_path: Path, text: str) -> None:
    error = refusal(write(tmp_path, lines=text))
    assert error.code == "recording.labels"
    assert "labels.csv" in error.what


def test_the_line_that_is_wrong_is_named(tmp_path: Path) -> None:
    assert "line 4" in refusal(write(tmp_path, lines=LABELS["no number"])).what
    assert "row 2" in refusal(write(tmp_path, lines=LABELS["after the whole frames"])).what


def test_labels_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (write(tmp_path) / "labels.csv").write_bytes(HEAD.encode() + b"\n0,\xff\xfe,true,1\n")
    assert refusal(tmp_path).code == "recording.labels"


@in_one_folder
@given(
    text=st.text(max_size=200) | st.text(alphabet='0123,."\n\r true', max_size=80).map((HEAD + "\n").__add__)
)
def test_any_text_is_labels_or_refused(tmp_path: Path, text: str) -> None:
    write(tmp_path, WAVE[:1], text.encode("utf-8", "replace").decode())
    try:
        (event,) = load_recording(tmp_path, FRAME)
    except DataError as error:
        assert error.code == "recording.labels"  # noqa: PT017  # both outcomes are right
    else:
        assert isinstance(event, Event)
        assert 0 <= event.inception_sample < 16
