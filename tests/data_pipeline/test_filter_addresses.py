"""Lists of addresses: what they list, against a plain look at every entry; their files."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.stages.filter.addresses import AddressLists, _entry_hash, _split, candidate_entries
from pangu.foundation.errors import UserError

HOST = st.lists(st.sampled_from(["a", "b", "www", "com", "cn", "1"]), min_size=1, max_size=4).map(".".join)
PATH = st.lists(st.sampled_from(["x", "y", "z.html", ""]), max_size=3).map(
    lambda parts: "".join(f"/{p}" for p in parts)
)


def find_reference(entries: Sequence[str], address: str) -> bool:
    """Return whether one of `entries` (domains, =hosts, domain/path) lists an address, plainly."""
    host, path = _split(address)
    for entry in entries:
        if entry.startswith("="):
            if host == entry[1:]:
                return True
            continue
        entry_host, entry_path = _split(entry)
        if host != entry_host and not host.endswith("." + entry_host):
            continue
        boundary = path[len(entry_path) :][:1]
        if path.startswith(entry_path) and (boundary in ("", "/", "?", "#") or entry_path.endswith(("/", "?", "#"))):
            return True
    return False


def lists_of(tmp_path: Path, *entries: str) -> AddressLists:
    file = tmp_path / "list.txt"
    file.write_text("\n".join(entries), encoding="utf-8")
    return AddressLists.read([file])


@given(
    st.lists(st.one_of(HOST, HOST.map("={}".format), st.tuples(HOST, PATH).map("".join)), max_size=6),
    st.sampled_from(["http://", "https://", "//", ""]),
    HOST,
    PATH,
    st.sampled_from(["", "?q=1", "#top", "/"]),
)
def test_equals_a_plain_look(entries: list[str], scheme: str, host: str, path: str, end: str) -> None:
    if scheme == "//":
        scheme = "ftp://"
    address = scheme + host + path + end
    hashes = {_entry_hash(entry.rstrip("/") if entry.count("/") == 1 else entry) for entry in entries}
    listed = any(_entry_hash(candidate) in hashes for candidate in candidate_entries(address))
    labels = host.split(".")
    if not all(label.isdecimal() for label in labels):
        assert listed == find_reference(entries, address)


@pytest.mark.parametrize(
    ("address", "entry"),
    [
        ("http://example.com/", "example.com"),
        ("https://WWW.Example.COM:8080/path", "example.com"),
        ("example.com", "example.com"),
        ("http://user:secret@example.com./", "example.com"),
        ("http://notexample.com/", None),
        ("http://example.com.evil.net/", None),
        ("http://host.exact.org/x", "=host.exact.org"),
        ("http://sub.host.exact.org/x", None),
        ("http://www.photos.net/a/b/c.html", "photos.net/a/b"),
        ("http://photos.net/a/bc", None),
        ("http://photos.net/a/b?page=2", "photos.net/a/b"),
        ("http://any.where/play/Casino/", "/casino|slot-?game/"),
        ("http://any.where/%63asino", "/casino|slot-?game/"),
        ("http://1.2.3.4/", "1.2.3.4"),
        ("http://5.1.2.3.4/", None),
        ("http://赌场.cn/", "赌场.cn"),
        ("", None),
        (None, None),
        ("http://", None),
        ("::::", None),
        ("http://[::1]/x", None),
    ],
)
def test_what_is_listed(tmp_path: Path, address: str | None, entry: str | None) -> None:
    entries = ["Example.com", "=host.exact.org", "photos.net/a/b", "/casino|slot-?game/", "1.2.3.4", "赌场.cn", "# 注"]
    lists = lists_of(tmp_path, *entries)
    assert lists.find(pa.array([address], pa.string())) == [entry]
    lists.save(tmp_path)
    again = AddressLists.load([tmp_path / "hashes.npy", tmp_path / "expressions.txt"])
    assert again.find(pa.array(["http://a.b/", address], pa.string())) == [None, entry]


def test_a_folder_as_ut1_keeps_it(tmp_path: Path) -> None:
    folder = tmp_path / "adult"
    folder.mkdir()
    (folder / "domains").write_text("bad.com\n1.2.3.4\n")
    (folder / "urls").write_text("mixed.com/bad\n")
    (folder / "expressions").write_text("(casino|poker)\\d+\n")
    lists = AddressLists.read([folder])
    addresses = ["http://a.bad.com", "http://mixed.com/bad/1", "http://mixed.com/good", "http://c.cn/poker88"]
    assert lists.find(pa.array(addresses)) == ["bad.com", "mixed.com/bad", None, "/(casino|poker)\\d+/"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"good.com\n/(/\n", "list.txt line 2: /(/: no regular expression"),
        (b"http://\n", "line 1: 'http://': a domain, =host, domain/path or /expression/ is right"),
        (b"=a.com/path\n", "line 1: '=a.com/path': a domain"),
        ("好.com".encode("gbk"), "not UTF-8 at byte 0"),
    ],
)
def test_mistakes_in_a_list(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(UserError) as caught:
        AddressLists.read([tmp_path / "list.txt"])
    assert message in str(caught.value)
    with pytest.raises(UserError, match="no list of addresses"):
        AddressLists.read([tmp_path])


def test_an_empty_list_lists_nothing(tmp_path: Path) -> None:
    assert lists_of(tmp_path, "").find(pa.array(["http://a.com"])) == [None]
