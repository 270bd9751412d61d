"""Packed files: what was packed comes back; all damage, and every false claim in a file, is a CheckpointError."""

import errno
import hashlib
import json
import os
import pickle
import random
import shutil
import struct

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from levit_np.errors import CheckpointError
from levit_np.training.data import open_source, packed
from levit_np.training.data.folder import Folder
from levit_np.training.data.pack import pack
from levit_np.training.data.packed import Packed
from tests.forked import forked
from tests.mutations import mutated

from ..image_folders import make_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return Folder(make_folder(tmp_path_factory.mktemp("images") / "d", classes=3, images=4))


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "train.h5"
    assert pack(folder, path) == []
    return path


def test_what_was_packed_comes_back(folder, whole):
    source = open_source(whole)
    assert isinstance(source, Packed) and len(source) == len(folder) and source.classes == folder.classes
    for index in range(len(folder)):
        assert source.read(index) == folder.read(index)
        assert (source.name(index), source.target(index)) == (folder.name(index), folder.target(index))
        assert source.size(index) == folder.size(index) == len(folder.read(index))
    assert source.fingerprint == folder.fingerprint


def test_a_worker_in_another_folder_opens_the_same_file(whole, tmp_path, monkeypatch):
    monkeypatch.chdir(whole.parent)
    source = pickle.dumps(open_source(whole.name))
    monkeypatch.chdir(tmp_path)
    assert len(pickle.loads(source)) == 12


def test_a_read_while_another_is_under_way(folder, whole):
    """By another thread: training and evaluation may share a source, and a file has one position."""
    source, second = open_source(whole), []

    class File:
        """Lets another read happen after each use of the file."""

        def __getattr__(self, name):
            def asked(*arguments):
                found = getattr(file, name)(*arguments)
                if not second:
                    second.append(True)
                    assert source.read(7) == folder.read(7)
                return found
            return asked

    file, source._file = source._file, File()
    assert source.read(2) == folder.read(2) and second


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_read_after_a_fork_leaves_the_parents_file_where_it_is(folder, whole):
    """The file's position is shared with the child: between two steps of a read, one process would move it for the
    other."""
    source = open_source(whole)
    before = source._file.tell()
    assert forked(lambda: source.read(7) == folder.read(7)) == 0
    assert source._file.tell() == before


def test_any_hdf5_tool_reads_it(folder, whole):
    with h5py.File(whole) as file:
        start, size = file["offsets"][5], file["sizes"][5]
        assert file["images"][start : start + size].tobytes() == folder.read(5)
        assert file["names"][()].tobytes().split(b"\0")[5].decode() == folder.name(5)
        assert file["targets"][5] == folder.target(5)
        assert file["classes"][()].tobytes() == b"class0\0class1\0class2\0"


def test_the_same_images_give_the_same_bytes(folder, whole, tmp_path):
    pack(folder, tmp_path / "again.h5")
    assert (tmp_path / "again.h5").read_bytes() == whole.read_bytes()


def test_it_holds_no_time(whole):
    """Otherwise the same images would give the same bytes only within a second."""
    with h5py.File(whole) as file:
        assert [dataset.id.get_create_plist().get_obj_track_times() for dataset in file.values()] == 8 * [False]


def test_a_copy_in_another_process(folder, whole, tmp_path):
    path = shutil.copy(whole, tmp_path / "train.h5")
    source = Packed(path)
    sent = pickle.dumps(source)
    assert pickle.loads(sent).read(3) == folder.read(3)
    pack(Folder(make_folder(tmp_path / "other", classes=2, images=1)), path)
    with pytest.raises(CheckpointError, match="expected the file that was opened before, found another"):
        pickle.loads(sent)
    assert source.read(3) == folder.read(3)   # the file that it has open is the old one


def test_names_as_odd_as_files_may_have(tmp_path):
    make_folder(tmp_path / "d", classes=2, images=1)
    odd = os.fsdecode(b"class0/\xff \n.jpg")
    os.rename(tmp_path / "d/class0/000.jpg", tmp_path / "d" / odd)
    pack(Folder(tmp_path / "d"), tmp_path / "d.h5")
    assert Packed(tmp_path / "d.h5").name(0) == ascii(odd)
    assert Packed(tmp_path / "d.h5").fingerprint == Folder(tmp_path / "d").fingerprint


def test_no_byte_can_change(folder, whole, tmp_path):
    """Damage to the seal, the index or the list is found at once, damage to an image when it is read; other bytes
    belong to HDF5 and are not used."""
    content = whole.read_bytes()
    with h5py.File(whole) as file:
        used = np.zeros(len(content), bool)
        used[:packed.SEAL_BYTES] = True
        for dataset in file.values():
            used[dataset.id.get_offset() :][: dataset.id.get_storage_size()] = True
    path = tmp_path / "damaged.h5"
    rng = np.random.default_rng(0)
    places = np.concatenate([np.arange(64), rng.choice(np.flatnonzero(used), 300), [len(content) - 1]])
    for place in places:
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << rng.integers(8)]) + content[place + 1 :])
        if used[place]:
            with pytest.raises(CheckpointError, match=path.name):
                source = Packed(path)
                for index in range(len(source)):
                    source.read(index)


@pytest.mark.parametrize("cut", [0, 3, 8, 71, 100, 511, 512, 2000, -1])
def test_cut_short_or_longer(whole, tmp_path, cut):
    path = tmp_path / "cut.h5"
    path.write_bytes(whole.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match="cut.h5: "):
        Packed(path)
    path.write_bytes(whole.read_bytes() + b"x")
    with pytest.raises(CheckpointError, match="damaged: expected a file of"):
        Packed(path)


@pytest.mark.parametrize("most", [7, None])
def test_a_read_that_brings_a_part_goes_on_and_without_pread_it_seeks(folder, whole, monkeypatch, most):
    """A read may return a part, as on a network disk; without pread, as on Windows, it seeks."""
    pread = getattr(os, "pread", None)
    if most and pread:
        monkeypatch.setattr(os, "pread", lambda file, count, offset: pread(file, min(count, most), offset))
    else:
        monkeypatch.delattr(os, "pread", raising=False)
    source = Packed(whole)
    assert [source.read(index) for index in (5, 2)] == [folder.read(index) for index in (5, 2)]


@pytest.mark.skipif(not hasattr(os, "pread"), reason="needs pread")
def test_a_read_error_names_the_file_and_the_image(folder, whole, monkeypatch):
    def broken(*arguments):
        raise OSError(errno.EIO, "Input/output error")

    source = Packed(whole)
    monkeypatch.setattr(os, "pread", broken)
    with pytest.raises(CheckpointError, match=f"train.h5: {folder.name(5)}: cannot be read: Input/output error$"):
        source.read(5)
    with pytest.raises(CheckpointError, match="train.h5: cannot be read: Input/output error$"):
        Packed(whole)


def test_another_file(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["images"] = np.zeros(3)
    with pytest.raises(CheckpointError, match="expected a file written by `levit-np pack`"):
        open_source(tmp_path / "other.h5")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="expected a regular file"):
        Packed(tmp_path / "pipe")


def forged(path, whole, change):
    """A copy whose list of contents, index and seal were changed by `change(contents, arrays)`, and sealed again."""
    content = bytearray(whole.read_bytes())
    _, version, _, _, offset, nbytes, _ = packed._SEAL.unpack_from(content)
    contents = json.loads(content[offset : offset + nbytes])
    arrays = {}
    for name, dtype, shape, start in contents:
        if name != "images":
            count = int(np.prod(shape))
            arrays[name] = np.frombuffer(bytes(content), dtype, count, start).reshape(shape).copy()
    change(contents, arrays)
    for entry in contents if isinstance(contents, list) else ():
        if isinstance(entry, list) and entry and isinstance(entry[0], str) and entry[0] in arrays:
            data = arrays[entry[0]].tobytes()
            content[entry[3] : entry[3] + len(data)] = data
    text = json.dumps(contents).encode()
    place = len(content)
    content += text
    content[: packed.SEAL_BYTES] = packed.seal(len(content), place, text, [a.data for a in arrays.values()])
    path.write_bytes(content)
    return path


def listed(place, part, value):
    def change(contents, arrays):
        contents[place][part] = value
    return change


def number(name, place, value):
    def change(contents, arrays):
        arrays[name].flat[place] = value
    return change


def text(name, old, new):
    def change(contents, arrays):
        arrays[name] = np.frombuffer(arrays[name].tobytes().replace(old, new), np.uint8)
    return change


def one_class(contents, arrays):
    arrays["targets"][:] = 0
    text("classes", b"class0\0class1\0", b"class0-class1-")(contents, arrays)


def test_a_forgery_that_changes_nothing_is_read(folder, whole, tmp_path):
    assert Packed(forged(tmp_path / "f.h5", whole, lambda contents, arrays: None)).read(7) == folder.read(7)


@pytest.mark.parametrize("change, words", [
    (listed(0, 0, "pictures"), "contents: expected each of images"),
    (listed(0, 0, "names"), "contents: expected each of images"),
    (listed(0, 1, "<f8"), "contents: expected each of images"),
    (listed(1, 1, "|u1"), "contents: expected each of images"),
    (listed(1, 2, [1 << 62]), "expected sizes and offsets within the file"),
    (listed(1, 2, [-1]), "expected sizes and offsets within the file"),
    (listed(1, 2, [True]), "expected sizes and offsets within the file"),
    (listed(1, 2, [1.5]), "expected sizes and offsets within the file"),
    (listed(1, 2, []), "expected shape"),
    (listed(1, 2, [0]), "offsets: expected 1 byte or more"),
    (listed(1, 2, [3, 4]), "expected shape"),
    (listed(2, 2, [11]), "sizes: expected shape"),
    (listed(4, 2, [12, 15]), "digests: expected shape"),
    (listed(6, 2, [3, 7]), r"classes: expected shape \(bytes,\), found \(3, 7\)"),
    (listed(5, 2, [0]), "names: expected 1 byte or more"),
    (listed(0, 2, [0]), "images: expected 1 byte or more"),
    (listed(0, 3, 1 << 62), "expected sizes and offsets within the file"),
    (listed(0, 3, 5_500), "images: expected 1 byte or more"),
    (lambda contents, arrays: contents.pop(), "contents: expected images"),
    (lambda contents, arrays: contents.append(contents[0]), "contents: expected each of images"),
    (lambda contents, arrays: contents.append(7), "contents: expected each of images"),
    (number("offsets", 2, -1), "image 2: expected 1 to"),
    (number("offsets", 2, 2**63 - 1), "image 2: expected 1 to"),
    (number("sizes", 3, 0), "image 3: expected 1 to"),
    (number("sizes", 3, -1), "image 3: expected 1 to"),
    (number("sizes", 3, 50_000_001), "image 3: expected 1 to"),
    (number("sizes", 11, 20_000), "image 11: expected 1 to"),
    (number("targets", 0, 3), "image 0: expected 1 to"),
    (number("targets", 0, -1), "image 0: expected 1 to"),
    (number("names", 5, 0), "names: expected 12, found 13"),
    (number("names", -1, 65), "names: expected a NUL after each name"),
    (text("classes", b"class1", b"class0"), "classes: expected two or more, each once"),
    (one_class, "classes: expected two or more, each once, found 1"),
    (text("classes", b"class1", b"clas\n1"), "classes: expected printable names"),
    (text("classes", b"class1", b"clas\xff1"), "classes: expected printable names"),
    (text("classes", b"class1", b"\0clas1"), "classes: expected printable names, found ''"),
])
def test_false_claims_are_refused(whole, tmp_path, change, words):
    with pytest.raises(CheckpointError, match=words):
        Packed(forged(tmp_path / "f.h5", whole, change))


def test_an_image_may_have_as_many_bytes_as_are_decoded_and_no_more(folder, whole, monkeypatch):
    most = max(map(folder.size, range(len(folder))))
    monkeypatch.setattr(packed, "MAX_BYTES", most)
    assert len(Packed(whole)) == len(folder)
    monkeypatch.setattr(packed, "MAX_BYTES", most - 1)
    with pytest.raises(CheckpointError, match=f"expected 1 to {most - 1} bytes within .*, found {most} from"):
        Packed(whole)


@pytest.mark.parametrize("field, value, words", [
    (1, 2, "expected version 1 of packed images, found 2"), (3, 1 << 63, "expected a file of"),
    (4, 1 << 40, "expected the list of contents within"), (5, 1 << 40, "expected the list of contents within"),
    (5, 0, "contents: "), (4, 1 << 63, "expected the list of contents within")])
def test_a_forged_seal(whole, tmp_path, field, value, words):
    content = bytearray(whole.read_bytes())
    fields = list(packed._SEAL.unpack_from(content))
    fields[field] = value
    content[: packed._SEAL.size] = packed._SEAL.pack(*fields)
    (tmp_path / "f.h5").write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        Packed(tmp_path / "f.h5")


def test_a_list_of_contents_is_read_up_to_a_size(whole, monkeypatch):
    """In a file of hundreds of gigabytes it could be most of the file."""
    *_, nbytes, _ = packed._SEAL.unpack_from(whole.read_bytes())
    monkeypatch.setattr(packed, "LONGEST_CONTENTS", nbytes)
    assert len(Packed(whole)) == 12
    monkeypatch.setattr(packed, "LONGEST_CONTENTS", nbytes - 1)
    with pytest.raises(CheckpointError, match="expected the list of contents within"):
        Packed(whole)


def test_what_a_file_holds_may_reach_its_end_and_no_further(whole):
    """By one byte too many, mapping it into memory would fail, or reading it would end early."""
    content = whole.read_bytes()
    _, _, _, length, offset, nbytes, _ = packed._SEAL.unpack_from(content)
    contents = json.loads(content[offset : offset + nbytes])
    for more in (0, 1):
        contents[0][2] = [length - contents[0][3] + more]
        if more:
            with pytest.raises(CheckpointError, match="images: expected 1 byte or more in the file"):
                packed._claims(json.dumps(contents).encode(), length, "f.h5")
        else:
            assert packed._claims(json.dumps(contents).encode(), length, "f.h5")["images"].nbytes == contents[0][2][0]


def test_more_images_than_are_read(whole, monkeypatch):
    monkeypatch.setattr(packed, "MOST_IMAGES", 12)
    assert len(Packed(whole)) == 12
    monkeypatch.setattr(packed, "MOST_IMAGES", 11)
    with pytest.raises(CheckpointError, match="expected 1 to 11 images, found 12"):
        Packed(whole)


@pytest.mark.parametrize("most, words", [(20, "classes: expected 20 bytes at most, found 21"),
                                         (21, "names: expected 21 bytes at most, found ")])
def test_more_bytes_of_names_than_are_read(whole, monkeypatch, most, words):
    monkeypatch.setattr(packed, "MOST_NAME_BYTES", most)
    with pytest.raises(CheckpointError, match=words):
        Packed(whole)


def test_deep_and_doubtful_lists(whole, tmp_path):
    content = whole.read_bytes()
    for contents in (b"[" * 60_000, b"null", b"{}", b'"x"', b"[NaN]", b"\xff", b""):
        place = len(content)
        sealed = packed.seal(place + len(contents), place, contents, []) + content[packed.SEAL_BYTES :] + contents
        (tmp_path / "f.h5").write_bytes(sealed)
        with pytest.raises(CheckpointError, match="f.h5: contents: "):
            Packed(tmp_path / "f.h5")


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_resealed_mutations_raise_nothing_else(whole, tmp_path, data):
    """Numbers and text changed anywhere in the index, under a correct seal."""
    def change(contents, arrays):
        name = data.draw(st.sampled_from(sorted(arrays)))
        place = data.draw(st.integers(0, arrays[name].size - 1))
        limits = np.iinfo(arrays[name].dtype)
        arrays[name].flat[place] = data.draw(st.integers(int(limits.min), int(limits.max)))

    path = forged(tmp_path / "m.h5", whole, change)
    try:
        source = Packed(path)
        for index in range(len(source)):
            source.name(index), source.target(index), source.read(index)
    except CheckpointError as error:
        assert str(error).startswith(str(path))


@pytest.mark.parametrize("count", [300, pytest.param(100_000, marks=pytest.mark.slow)])
def test_mutations_are_refused_or_change_nothing(folder, whole, tmp_path, count):
    content, rng = whole.read_bytes(), random.Random(0)
    path, refused = tmp_path / "m.h5", 0
    expected = [(folder.name(i), folder.target(i), folder.read(i)) for i in range(len(folder))]
    for _ in range(count):
        path.write_bytes(mutated(content, rng))
        try:
            source = Packed(path)
            found = [(source.name(i), source.target(i), source.read(i)) for i in range(len(source))]
            assert found == expected   # the damaged byte belongs to HDF5 and is not used here
        except CheckpointError as error:
            assert str(error).startswith(str(path))
            refused += 1
    assert refused > 0.6 * count


def test_the_format_is_the_one_written_down(folder, whole):
    """A file of today must be readable by later versions."""
    content = whole.read_bytes()
    magic, version, block, length, offset, nbytes, digest = struct.unpack_from("<8sIIQQQ32s", content)
    assert (magic, version, block, length) == (b"levitpak", 1, 512, len(content))
    assert content[512:521] == b"\x89HDF\r\n\x1a\n\2"  # where HDF5 begins, in a form that its version 1.8 reads
    contents = json.loads(content[offset : offset + nbytes])
    hashed = content[:40].ljust(512, b"\0") + content[offset : offset + nbytes]
    with h5py.File(whole) as file:
        assert contents == [[name, file[name].dtype.str, list(file[name].shape), file[name].id.get_offset()]
                            for name in ("images", "offsets", "sizes", "targets", "digests", "names", "classes")]
        for name, *_ in contents[1:]:
            hashed += file[name][()].tobytes()
        assert file["digests"][5].tobytes() == hashlib.blake2b(folder.read(5), digest_size=16).digest()
    assert hashlib.sha256(hashed).digest() == digest
