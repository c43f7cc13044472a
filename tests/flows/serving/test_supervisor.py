"""The logs of what the supervisor starts."""

from flows.serving import supervisor
from flows.serving.supervisor import rotate


def test_a_log_is_kept_in_two_files_while_its_writer_goes_on(tmp_path, monkeypatch):
    """A log that has grown too large becomes the older one; what is written next begins a new one."""
    monkeypatch.setattr(supervisor, "LOG_BYTES", 10)
    log = tmp_path / "server.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"0123456789")
        rotate(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["server.log"]
        writer.write(b"abc\n")
        rotate(tmp_path)
        writer.write(b"next\n")
    assert (tmp_path / "server.log.1").read_bytes() == b"0123456789abc\n"
    assert log.read_bytes() == b"next\n"
