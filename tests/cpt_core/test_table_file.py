"""A parquet file whose disk is full fails once."""

import errno
import gc
import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cpt_core.table_file import TableFile

TABLE = pa.table({"a": [1, 2, 3]})


class FullDisk(io.RawIOBase):
    """Takes the first four bytes of a file, and no more."""

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, content) -> int:
        """The magic bytes fit."""
        if bytes(content) != b"PAR1":
            raise OSError(errno.ENOSPC, "No space left on device")
        return 4


@pytest.mark.parametrize("leave", ["with", "collected"])
def test_the_error_of_a_full_disk_is_the_only_one(leave, capsys, monkeypatch):
    """Neither closing nor garbage collection prints or raises another one."""
    unraisable = []
    monkeypatch.setattr("sys.unraisablehook", unraisable.append)

    def write() -> None:
        if leave == "with":
            with TableFile(FullDisk(), TABLE.schema) as writer:
                writer.write_table(TABLE)
        else:
            TableFile(FullDisk(), TABLE.schema).write_table(TABLE)

    with pytest.raises(OSError, match="No space left") as failure:
        write()
    del failure
    gc.collect()
    assert unraisable == []
    assert capsys.readouterr().err == ""


def test_a_file_that_cannot_be_finished_says_so(capsys):
    """The last bytes matter as much as the first."""
    writer = TableFile(FullDisk(), TABLE.schema)
    with pytest.raises(OSError, match="No space left"):
        writer.close()
    assert not writer.is_open


def test_every_page_has_a_checksum(tmp_path):
    """A flipped byte in a page is an error of the reader, and not another number."""
    path = tmp_path / "t.parquet"
    with TableFile(path, TABLE.schema, compression="none", use_dictionary=False) as writer:
        writer.write_table(TABLE)
    assert pq.read_table(path, page_checksum_verification=True).equals(TABLE)
    content = bytearray(path.read_bytes())
    content[content.index((2).to_bytes(8, "little"))] ^= 4
    path.write_bytes(content)
    with pytest.raises(OSError, match="CRC"):
        pq.read_table(path, page_checksum_verification=True)
